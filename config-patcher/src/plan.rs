//! The new configs, manifests and indexes of an image that gets another platform. Nothing is read or written here.

use crate::referrers::ReplacedSubject;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use image_model::patch::{
    EntryChange, MatchRule, Patched, patch_config, patch_index, patch_manifest, patch_subject,
};
use image_model::platform::Platform;
use image_store::archive::Relabel;
use image_store::plan::{BlobContent, WantedImage};
use image_store::store::ImageSource;
use image_store::tree::{Image, IndexNode, NestedMember, TreeNode};
use members::{
    MemberRequests, PlatformRequest, matching_members, request, requested_platform, runnable_members,
    runnable_nested_members,
};
use std::collections::BTreeMap;
use std::sync::Arc;

mod members;

pub use members::MemberSelector;

/// The platforms to declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedPlatforms {
    /// This platform, for a single image or the only image of an index.
    Image(Platform),
    /// This platform for one member of an index; the others are not changed.
    Member { member: MemberSelector, platform: Platform },
    /// These platforms for these members of an index; the others are not changed.
    Members(Vec<(Digest, Platform)>),
    /// For each member of an index, its index platform, with canonical names in place of aliases in both.
    FromIndex,
}

/// An image whose declared platform changes. Pairs are (old, new) digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageChange {
    /// The old index platform; `None` outside an index.
    pub index_platform: Option<Platform>,
    pub declared: Platform,
    pub new: Platform,
    pub config: (Digest, Digest),
    pub manifest: (Digest, Digest),
}

/// Result of [`relabel`].
#[derive(Clone, Debug)]
pub enum Relabeled {
    /// All platforms are correct.
    Unchanged,
    Changed(Changes),
}

impl Relabeled {
    pub fn is_unchanged(&self) -> bool {
        matches!(self, Self::Unchanged)
    }
}

/// New bytes of everything that changes, from the configs up to the root.
#[derive(Clone, Debug)]
pub struct Changes {
    pub images: Vec<ImageChange>,
    pub root: Document,
    pub configs: Vec<(Descriptor, Vec<u8>)>,
    /// New manifests and indexes below the root.
    pub documents: Vec<ReplacedDocument>,
    /// Messages for people, for example about attestations whose subject changes.
    pub notes: Vec<String>,
    /// Members that get the platform of another image of the index.
    pub duplicates: Vec<DuplicatePlatform>,
}

/// A change after which an index has two images for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicatePlatform {
    pub member: Descriptor,
    /// The platform of the member for users of the index, before and after.
    pub old: Platform,
    pub new: Platform,
    /// The other image for that platform.
    pub twin: Digest,
    /// No image for `old` is left.
    pub is_lost: bool,
}

/// A manifest or index that replaces another.
#[derive(Clone, Debug)]
pub struct ReplacedDocument {
    /// The number of levels below it; lower documents are written first.
    pub height: usize,
    pub old: Digest,
    pub new: Document,
}

/// Computes the new bytes of `node` with the requested platforms. `name` is the name of the image for errors.
///
/// # Errors
/// Bad input, if the request is ambiguous or the image is an artifact; not found, if a member does not exist.
pub fn relabel(node: &TreeNode, requested: &RequestedPlatforms, name: &str) -> Result<Relabeled, Error> {
    let mut work = Relabeling {
        name,
        changes: Vec::new(),
        configs: Vec::new(),
        documents: Vec::new(),
        notes: Vec::new(),
        duplicates: Vec::new(),
    };
    let root = match (node, requested) {
        (TreeNode::Image(image), RequestedPlatforms::Image(platform)) => {
            work.image(image, platform, MatchRule::Explicit, None)?
        }
        (
            TreeNode::Image(_),
            RequestedPlatforms::FromIndex
            | RequestedPlatforms::Member { .. }
            | RequestedPlatforms::Members(_),
        ) => {
            return Err(work.refuse("it is a single image, not an index", "use --set-platform PLATFORM"));
        }
        (TreeNode::Unread(unread), _) => return Err(unread.error.clone()),
        (TreeNode::Index(index), requested) => {
            let all = runnable_nested_members(index);
            let requests = work.requests(index, &all, requested)?;
            let root = work.index(index, &requests)?;
            if root.is_some() {
                work.note_duplicates(&all, &requests);
            }
            root
        }
    };
    Ok(match root {
        Some(root) => {
            let Relabeling { changes, configs, documents, notes, duplicates, .. } = work;
            Relabeled::Changed(Changes { images: changes, root, configs, documents, notes, duplicates })
        }
        None => Relabeled::Unchanged,
    })
}

/// The number of levels below a node.
fn height(node: &TreeNode) -> usize {
    match node {
        TreeNode::Image(_) | TreeNode::Unread(_) => 0,
        TreeNode::Index(index) => index.members.iter().map(height).max().map_or(0, |highest| highest + 1),
    }
}

/// The state of [`relabel`]: what has changed so far.
struct Relabeling<'a> {
    name: &'a str,
    changes: Vec<ImageChange>,
    configs: Vec<(Descriptor, Vec<u8>)>,
    documents: Vec<ReplacedDocument>,
    notes: Vec<String>,
    duplicates: Vec<DuplicatePlatform>,
}

impl Relabeling<'_> {
    fn refuse(&self, why: &str, hint: &str) -> Error {
        Error::bad_input(format!("fix \"{}\"", self.name), why).hint(hint)
    }

    /// The new manifest of an image, or `None` if its declared platform is correct.
    fn image(
        &mut self,
        image: &Image,
        platform: &Platform,
        ask: MatchRule,
        entry: Option<&Platform>,
    ) -> Result<Option<Document>, Error> {
        let name = entry.map_or(image.document.digest().to_string(), ToString::to_string);
        let Some(config) = image.config.as_ref().filter(|_| image.is_runnable()) else {
            return Err(self.refuse(&format!("{name} is an artifact, not an image"), "specify an image"));
        };
        let failed = |e: image_model::manifest::DocumentError| e.at(&format!("{name} of \"{}\"", self.name));
        let bytes = match patch_config(&config.bytes, platform, ask).map_err(failed)? {
            Patched::Unchanged => return Ok(None),
            Patched::Changed(bytes) => bytes,
        };
        let manifest = patch_manifest(&image.document, &bytes).map_err(failed)?;
        let blob = Descriptor::of(&image.manifest.config.media_type, &bytes);
        self.changes.push(ImageChange {
            index_platform: entry.cloned(),
            declared: config.parsed.platform.clone(),
            new: platform.clone(),
            config: (image.manifest.config.digest.clone(), blob.digest.clone()),
            manifest: (image.document.digest().clone(), manifest.digest().clone()),
        });
        self.configs.push((blob, bytes));
        Ok(Some(manifest))
    }

    /// The platform that is requested for each member.
    fn requests(
        &self,
        index: &IndexNode,
        all: &[NestedMember<'_>],
        requested: &RequestedPlatforms,
    ) -> Result<MemberRequests, Error> {
        let mut requests = MemberRequests::new();
        match requested {
            RequestedPlatforms::Image(platform) => {
                // An index of one image is what BuildKit makes of one image and its attestations.
                let images: Vec<&NestedMember<'_>> = all.iter().filter(|member| member.is_image()).collect();
                let [only] = images.as_slice() else {
                    let why = format!("it is an index of {} platforms", images.len());
                    return Err(self.refuse(&why, "use --from-index, or select one member with --platform"));
                };
                request(&mut requests, &only.path, platform);
            }
            RequestedPlatforms::Member { member, platform } => {
                request(&mut requests, &self.find(all, member)?.path, platform);
            }
            RequestedPlatforms::Members(members) => {
                for (digest, platform) in members {
                    request(
                        &mut requests,
                        &self.find(all, &MemberSelector::Digest(digest.clone()))?.path,
                        platform,
                    );
                }
            }
            RequestedPlatforms::FromIndex => requests = self.by_entries(index)?,
        }
        Ok(requests)
    }

    /// The selected member, at any depth.
    fn find<'a, 'p>(
        &self,
        all: &'a [NestedMember<'p>],
        member: &MemberSelector,
    ) -> Result<&'a NestedMember<'p>, Error> {
        match matching_members(all, member).as_slice() {
            [only] => Ok(only),
            [] => {
                let platforms = all.iter().filter_map(|member| member.entry.platform.as_ref());
                let names: Vec<String> =
                    platforms.filter(|p| !p.is_unknown()).map(ToString::to_string).collect();
                let doing = format!("fix member {member} of \"{}\"", self.name);
                Err(Error::not_found(doing, "the index has no such member")
                    .hint(format!("it has {}", names.join(", "))))
            }
            many => {
                let (why, hint) = match member {
                    MemberSelector::Platform(_) => {
                        ("members are for", "select one by its digest: --platform sha256:...")
                    }
                    MemberSelector::Digest(_) => {
                        ("entries have digest", "select one by its platform, if they differ")
                    }
                };
                Err(self.refuse(&format!("{} {why} {member}", many.len()), hint))
            }
        }
    }

    /// The request that every member declares its index platform.
    fn by_entries(&self, index: &IndexNode) -> Result<MemberRequests, Error> {
        let mut requests = MemberRequests::new();
        for i in runnable_members(index) {
            let entry = &index.index.manifests[i];
            let request = match (&index.members[i], &entry.platform) {
                // A nested index needs no platform; its entries have one.
                (TreeNode::Index(inner), _) => PlatformRequest::Within(self.by_entries(inner)?),
                (_, Some(platform)) if !platform.architecture.is_empty() && !platform.os.is_empty() => {
                    PlatformRequest::Declare(platform.canonical(), MatchRule::IndexEntry)
                }
                _ => {
                    let why = format!("the index entry of {} has no platform", entry.digest);
                    return Err(self
                        .refuse(&why, &format!("use --set-platform PLATFORM --platform {}", entry.digest)));
                }
            };
            requests.insert(i, request);
        }
        Ok(requests)
    }

    /// The new index, in which attestations refer to the new members; `None` if nothing changes.
    fn index(&mut self, node: &IndexNode, requests: &MemberRequests) -> Result<Option<Document>, Error> {
        let mut replaced: BTreeMap<usize, Document> = BTreeMap::new();
        for (i, request) in requests {
            let entry = &node.index.manifests[*i];
            let now = match (&node.members[*i], request) {
                (TreeNode::Image(image), PlatformRequest::Declare(platform, ask)) => {
                    self.image(image, platform, *ask, entry.platform.as_ref())?
                }
                (TreeNode::Index(inner), PlatformRequest::Within(requests)) => self.index(inner, requests)?,
                (TreeNode::Index(_), PlatformRequest::Declare(..)) => {
                    let hint = "select one of its images, or use --from-index";
                    return Err(self.refuse("the member is an index itself", hint));
                }
                (TreeNode::Unread(unread), _) => return Err(unread.error.clone()),
                // An image has no members.
                (TreeNode::Image(_), PlatformRequest::Within(_)) => None,
            };
            if let Some(now) = now {
                replaced.insert(*i, now);
            }
        }
        replaced.extend(self.attestations(node, &replaced)?);
        let moved: BTreeMap<&str, &Document> =
            replaced.iter().map(|(i, now)| (node.index.manifests[*i].digest.as_str(), now)).collect();
        let mut changes = Vec::new();
        for (i, entry) in node.index.manifests.iter().enumerate() {
            let platform = match requests.get(&i) {
                Some(PlatformRequest::Declare(platform, rule)) => Some(platform).filter(|platform| {
                    !entry.platform.as_ref().is_some_and(|said| match rule {
                        MatchRule::Explicit => said.satisfies(platform),
                        MatchRule::IndexEntry => said == *platform,
                    })
                }),
                Some(PlatformRequest::Within(_)) | None => None,
            };
            let attests = entry
                .attested_digest()
                .and_then(|subject| moved.get(subject))
                .map(|now| now.digest().as_str());
            let document = replaced.get(&i);
            if let (Some(old), Some(new)) = (entry.attested_digest(), attests) {
                self.notes.push(format!(
                    "attestation {} now refers to {new}; its signed statement still names {old}",
                    entry.digest
                ));
            }
            if document.is_some() || platform.is_some() || attests.is_some() {
                changes.push(EntryChange { index: i, document, platform, attested_digest: attests });
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let failed = |e: image_model::manifest::DocumentError| e.at(&format!("index of \"{}\"", self.name));
        let patched = patch_index(&node.document, &changes).map_err(failed)?;
        for (i, document) in replaced {
            let old = node.index.manifests[i].digest.clone();
            self.documents.push(ReplacedDocument { height: height(&node.members[i]), old, new: document });
        }
        Ok(Some(patched))
    }
}

impl Relabeling<'_> {
    /// Notes members that get the platform of another member. The caller decides whether to refuse that: with --force,
    /// two exchanged platforms can be fixed one after the other.
    fn note_duplicates(&mut self, all: &[NestedMember<'_>], requests: &MemberRequests) {
        let images = || all.iter().filter(|member| member.is_image());
        let before = |member: &NestedMember<'_>| match (&member.entry.platform, member.node) {
            (Some(said), _) => Some(said.clone()),
            (None, TreeNode::Image(image)) => {
                image.config.as_ref().map(|config| config.parsed.platform.clone())
            }
            (None, TreeNode::Index(_) | TreeNode::Unread(_)) => None,
        };
        let after = |member: &NestedMember<'_>| {
            requested_platform(requests, &member.path).cloned().or_else(|| before(member))
        };
        for member in images() {
            let Some(platform) = requested_platform(requests, &member.path) else { continue };
            let is_twin = |other: &&NestedMember<'_>| {
                other.path != member.path
                    && after(other).is_some_and(|platform_after| platform_after.matches(platform))
            };
            if let Some(twin) = images().find(is_twin) {
                let digest = &twin.entry.digest;
                self.notes.push(format!(
                    "the index has another image for {platform}, {digest}: engines choose either of them"
                ));
                let Some(old) = before(member).filter(|old| !old.matches(platform)) else { continue };
                let is_lost = !images()
                    .any(|other| after(other).is_some_and(|platform_after| platform_after.matches(&old)));
                self.duplicates.push(DuplicatePlatform {
                    member: member.entry.clone(),
                    old,
                    new: platform.clone(),
                    twin: digest.clone(),
                    is_lost,
                });
            }
        }
    }

    /// New manifests of attestations that have a subject (BuildKit's `oci-artifact=true`).
    fn attestations(
        &self,
        node: &IndexNode,
        replaced: &BTreeMap<usize, Document>,
    ) -> Result<BTreeMap<usize, Document>, Error> {
        let mut following = BTreeMap::new();
        for (i, member) in node.members.iter().enumerate().filter(|(i, _)| !replaced.contains_key(i)) {
            let TreeNode::Image(image) = member else { continue };
            let Some(subject) = &image.manifest.subject else { continue };
            let now = replaced.iter().find(|(of, _)| node.index.manifests[**of].digest == subject.digest);
            if let Some((_, now)) = now {
                let failed = |e: image_model::manifest::DocumentError| {
                    e.at(&format!("{} of \"{}\"", image.document.digest(), self.name))
                };
                following.insert(i, patch_subject(&image.document, now).map_err(failed)?);
            }
        }
        Ok(following)
    }
}

impl Changes {
    /// The new configs and documents alone, for the store that has the old image.
    pub fn new_parts(&self) -> WantedImage {
        let mut wanted = WantedImage::of_root(self.root.clone());
        self.add_new(&mut wanted);
        wanted.levels.retain(|level| !level.is_empty());
        wanted
    }

    /// The complete image for another store: the new parts, and unchanged ones from `source`.
    pub fn complete(&self, node: &TreeNode, source: &Arc<dyn ImageSource>) -> WantedImage {
        let mut wanted = WantedImage::of_root(self.root.clone());
        self.add_new(&mut wanted);
        wanted.add(node, source, true);
        let old_configs: Vec<&Digest> = self.images.iter().map(|change| &change.config.0).collect();
        let old: Vec<&Digest> = self.documents.iter().map(|replaced| &replaced.old).collect();
        wanted.blobs.retain(|(blob, _)| !old_configs.contains(&&blob.digest));
        for level in &mut wanted.levels {
            level.retain(|document| !old.contains(&document.digest()));
        }
        wanted.levels.retain(|level| !level.is_empty());
        wanted
    }

    /// The changes for an archive in which the new image replaces `node` under all of its names.
    pub fn for_archive(&self, node: &TreeNode) -> Relabel {
        let below =
            self.documents.iter().map(|replaced| (replaced.old.clone(), replaced.new.digest().clone()));
        let root = (node.digest().clone(), self.root.digest().clone());
        Relabel {
            wanted: self.new_parts(),
            configs: self.images.iter().map(|change| change.config.clone()).collect(),
            documents: below.chain([root]).collect(),
        }
    }

    /// Every document that changes, the root last.
    pub fn replaced(&self, root: &TreeNode) -> Vec<ReplacedSubject> {
        let below = self.documents.iter();
        let below =
            below.map(|replaced| ReplacedSubject { old: replaced.old.clone(), new: replaced.new.clone() });
        below.chain([ReplacedSubject { old: root.digest().clone(), new: self.root.clone() }]).collect()
    }

    fn add_new(&self, wanted: &mut WantedImage) {
        for (blob, bytes) in &self.configs {
            wanted.add_blob(blob.clone(), BlobContent::Bytes(bytes.as_slice().into()));
        }
        for replaced in &self.documents {
            wanted.add_document(replaced.height, replaced.new.clone());
        }
    }
}

#[cfg(test)]
mod tests;
