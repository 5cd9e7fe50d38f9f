//! The members of an index and of the indexes within it: where they stand, and what each is to say.

use image_model::digest::Digest;
use image_model::patch::Ask;
use image_model::platform::Platform;
use image_store::tree::{IndexNode, NestedMember, TreeNode, matching};
use std::collections::BTreeMap;

/// How a member of an index is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    Digest(Digest),
    Platform(Platform),
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Platform(platform) => platform.fmt(f),
        }
    }
}

/// What the members of one index must say. Those that are not in it are left alone.
pub type Asked = BTreeMap<usize, Wish>;

pub enum Wish {
    Says(Platform, Ask),
    /// The member is an index; its members must say this.
    Within(Asked),
}

/// The members that can run, and the indexes, of one index.
pub fn runnable_members(index: &IndexNode) -> Vec<usize> {
    let is_runnable = |(i, member): (usize, &TreeNode)| match member {
        TreeNode::Image(image) if image.is_runnable() && index.index.manifests[i].attests().is_none() => {
            Some(i)
        }
        TreeNode::Image(_) => None,
        TreeNode::Index(_) => Some(i),
    };
    index.members.iter().enumerate().filter_map(is_runnable).collect()
}

/// Members at any depth that can run, and indexes.
pub fn seats(index: &IndexNode) -> Vec<NestedMember<'_>> {
    let is_runnable = |seat: &NestedMember<'_>| match seat.node {
        TreeNode::Image(image) => image.is_runnable(),
        TreeNode::Index(_) => true,
    };
    index.nested_members().into_iter().filter(is_runnable).collect()
}

/// Those that a person may mean by this name.
pub fn named<'a, 'p>(all: &'a [NestedMember<'p>], member: &Member) -> Vec<&'a NestedMember<'p>> {
    matching(all, |entry| match member {
        Member::Digest(digest) => entry.digest == *digest,
        Member::Platform(platform) => entry.platform.as_ref().is_some_and(|said| said.fits(platform)),
    })
}

/// The member at the end of this way must say the platform.
pub fn ask(asked: &mut Asked, way: &[usize], platform: &Platform) {
    match way {
        [] => {}
        [at] => drop(asked.insert(*at, Wish::Says(platform.clone(), Ask::Explicit))),
        [at, below @ ..] => {
            if let Wish::Within(inner) = asked.entry(*at).or_insert_with(|| Wish::Within(Asked::new())) {
                ask(inner, below, platform);
            }
        }
    }
}

/// What somebody asked the member at the end of this way to say.
pub fn asked_of<'a>(asked: &'a Asked, way: &[usize]) -> Option<&'a Platform> {
    let (at, below) = way.split_first()?;
    match asked.get(at)? {
        Wish::Says(platform, Ask::Explicit) if below.is_empty() => Some(platform),
        Wish::Says(..) => None,
        Wish::Within(inner) => asked_of(inner, below),
    }
}
