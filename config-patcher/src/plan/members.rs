//! Members of an index and of nested indexes: how they are selected, and the platform requested for each.

use image_model::digest::Digest;
use image_model::patch::MatchRule;
use image_model::platform::Platform;
use image_store::tree::{IndexNode, NestedMember, TreeNode, matching};
use std::collections::BTreeMap;

/// Selects a member of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberSelector {
    Digest(Digest),
    Platform(Platform),
}

impl std::fmt::Display for MemberSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Platform(platform) => platform.fmt(f),
        }
    }
}

/// Requests for the members of one index, by position. Other members are not changed.
pub type MemberRequests = BTreeMap<usize, PlatformRequest>;

/// Requested platform of one member.
pub enum PlatformRequest {
    /// The member is an image; it declares this platform.
    Declare(Platform, MatchRule),
    /// The member is an index; these are the requests for its members.
    Within(MemberRequests),
}

/// Positions of the runnable images, and of the indexes, in one index.
pub fn runnable_members(index: &IndexNode) -> Vec<usize> {
    let is_runnable = |(i, member): (usize, &TreeNode)| match member {
        TreeNode::Image(image)
            if image.is_runnable() && index.index.manifests[i].attested_digest().is_none() =>
        {
            Some(i)
        }
        TreeNode::Image(_) | TreeNode::Unread(_) => None,
        TreeNode::Index(_) => Some(i),
    };
    index.members.iter().enumerate().filter_map(is_runnable).collect()
}

/// Runnable images, members that could not be read, and indexes, at any depth.
pub fn runnable_nested_members(index: &IndexNode) -> Vec<NestedMember<'_>> {
    let is_runnable = |member_of_index: &NestedMember<'_>| match member_of_index.node {
        TreeNode::Image(image) => image.is_runnable(),
        TreeNode::Index(_) | TreeNode::Unread(_) => true,
    };
    index.nested_members().into_iter().filter(is_runnable).collect()
}

/// The members that the selector matches.
pub fn matching_members<'a, 'p>(
    all: &'a [NestedMember<'p>],
    member: &MemberSelector,
) -> Vec<&'a NestedMember<'p>> {
    matching(all, |entry| match member {
        MemberSelector::Digest(digest) => entry.digest == *digest,
        MemberSelector::Platform(platform) => {
            entry.platform.as_ref().is_some_and(|index_platform| index_platform.matches(platform))
        }
    })
}

/// Requests the platform for the member at this path.
pub fn request(requests: &mut MemberRequests, path: &[usize], platform: &Platform) {
    match path {
        [] => {}
        [at] => drop(requests.insert(*at, PlatformRequest::Declare(platform.clone(), MatchRule::Explicit))),
        [at, below @ ..] => {
            if let PlatformRequest::Within(inner) =
                requests.entry(*at).or_insert_with(|| PlatformRequest::Within(MemberRequests::new()))
            {
                request(inner, below, platform);
            }
        }
    }
}

/// The platform that was explicitly requested for the member at this path.
pub fn requested_platform<'a>(requests: &'a MemberRequests, path: &[usize]) -> Option<&'a Platform> {
    let (at, below) = path.split_first()?;
    match requests.get(at)? {
        PlatformRequest::Declare(platform, MatchRule::Explicit) if below.is_empty() => Some(platform),
        PlatformRequest::Declare(..) => None,
        PlatformRequest::Within(inner) => requested_platform(inner, below),
    }
}
