//! Which labels are wrong, and what changes with them up to the root: a pure decision over what was read.

use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use image_model::patch::{
    Ask, EntryChange, Patched, patch_config, patch_index, patch_manifest, patch_subject,
};
use image_model::platform::Platform;
use image_store::archive::Relabel;
use image_store::plan::{BlobContent, WantedImage};
use image_store::store::ImageSource;
use image_store::tree::{Image, IndexNode, NestedMember, TreeNode};
use members::{Asked, Wish, ask, asked_of, named, runnable_members, seats};
use std::collections::BTreeMap;
use std::sync::Arc;

mod members;

pub use members::Member;

/// Where the right label comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The image is for this platform.
    Platform(Platform),
    /// One member of an index is for this platform; the others are left alone.
    Member { member: Member, platform: Platform },
    /// These members of an index are for these platforms; the others are left alone.
    Members(Vec<(Digest, Platform)>),
    /// Each member's index entry is right, its config may be wrong.
    FromIndex,
}

/// One image whose label changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the index entry said; `None` for an image that stands alone.
    pub entry: Option<Platform>,
    pub label: Platform,
    pub wanted: Platform,
    pub config: (Digest, Digest),
    pub manifest: (Digest, Digest),
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Relabelled {
    /// Every label is right.
    Unchanged,
    Changed(Changes),
}

/// New bytes for what changes, from the configs up to the root.
#[derive(Clone, Debug)]
pub struct Changes {
    pub images: Vec<Change>,
    pub root: Document,
    pub configs: Vec<(Descriptor, Vec<u8>)>,
    /// New manifests and indexes below the root.
    pub documents: Vec<Replaced>,
    /// Things that a person should know: attestations that were re-pointed.
    pub notes: Vec<String>,
    /// Members that were given the platform of another image of the index.
    pub duplicates: Vec<Duplicate>,
}

/// A relabel after which an index has two images for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    pub member: Descriptor,
    /// What readers of the index took it for.
    pub was: Platform,
    pub wanted: Platform,
    /// The other image for that platform.
    pub twin: Digest,
    /// No image for `was` is left.
    pub is_lost: bool,
}

/// A document that takes the place of another. Lower ones are written first.
#[derive(Clone, Debug)]
pub struct Replaced {
    pub height: usize,
    pub was: Digest,
    pub document: Document,
}

/// Decides which labels of `node` change. `place` names the image in errors.
pub fn relabel(node: &TreeNode, labels: &Labels, place: &str) -> Result<Relabelled, Error> {
    let mut work = Work {
        place,
        changes: Vec::new(),
        configs: Vec::new(),
        documents: Vec::new(),
        notes: Vec::new(),
        duplicates: Vec::new(),
    };
    let root = match (node, labels) {
        (TreeNode::Image(image), Labels::Platform(platform)) => {
            work.image(image, platform, Ask::Explicit, None)?
        }
        (TreeNode::Image(_), Labels::FromIndex | Labels::Member { .. } | Labels::Members(_)) => {
            return Err(work.refuse("it is a single image, not an index", "use --set-platform PLATFORM"));
        }
        (TreeNode::Index(index), labels) => {
            let all = seats(index);
            let asked = work.asked(index, &all, labels)?;
            let root = work.index(index, &asked)?;
            if root.is_some() {
                work.note_doubles(&all, &asked);
            }
            root
        }
    };
    Ok(match root {
        Some(root) => {
            let Work { changes, configs, documents, notes, duplicates, .. } = work;
            Relabelled::Changed(Changes { images: changes, root, configs, documents, notes, duplicates })
        }
        None => Relabelled::Unchanged,
    })
}

/// How many levels lie below a node.
fn height(node: &TreeNode) -> usize {
    match node {
        TreeNode::Image(_) => 0,
        TreeNode::Index(index) => index.members.iter().map(height).max().map_or(0, |highest| highest + 1),
    }
}

struct Work<'a> {
    place: &'a str,
    changes: Vec<Change>,
    configs: Vec<(Descriptor, Vec<u8>)>,
    documents: Vec<Replaced>,
    notes: Vec<String>,
    duplicates: Vec<Duplicate>,
}

impl Work<'_> {
    fn refuse(&self, why: &str, hint: &str) -> Error {
        Error::bad_input(format!("fix \"{}\"", self.place), why).hint(hint)
    }

    /// The image with the right label, or `None` if it has that already.
    fn image(
        &mut self,
        image: &Image,
        wanted: &Platform,
        ask: Ask,
        entry: Option<&Platform>,
    ) -> Result<Option<Document>, Error> {
        let name = entry.map_or(image.document.digest().to_string(), ToString::to_string);
        let Some(config) = image.config.as_ref().filter(|_| image.is_runnable()) else {
            return Err(self.refuse(&format!("{name} is an artifact, not an image"), "specify an image"));
        };
        let failed = |e: image_model::manifest::DocumentError| e.at(&format!("{name} of \"{}\"", self.place));
        let bytes = match patch_config(&config.bytes, wanted, ask).map_err(failed)? {
            Patched::Unchanged => return Ok(None),
            Patched::Changed(bytes) => bytes,
        };
        let manifest = patch_manifest(&image.document, &bytes).map_err(failed)?;
        let blob = Descriptor::of(&image.manifest.config.media_type, &bytes);
        self.changes.push(Change {
            entry: entry.cloned(),
            label: config.parsed.platform.clone(),
            wanted: wanted.clone(),
            config: (image.manifest.config.digest.clone(), blob.digest.clone()),
            manifest: (image.document.digest().clone(), manifest.digest().clone()),
        });
        self.configs.push((blob, bytes));
        Ok(Some(manifest))
    }

    /// What is asked of which member.
    fn asked(&self, index: &IndexNode, all: &[NestedMember<'_>], labels: &Labels) -> Result<Asked, Error> {
        let mut asked = Asked::new();
        match labels {
            Labels::Platform(platform) => {
                // An index of one image is what BuildKit makes of one image and its attestations.
                let images: Vec<&NestedMember<'_>> = all.iter().filter(|seat| seat.is_image()).collect();
                let [only] = images.as_slice() else {
                    let why = format!("it is an index of {} platforms", images.len());
                    return Err(self.refuse(&why, "use --from-index, or select one member with --platform"));
                };
                ask(&mut asked, &only.path, platform);
            }
            Labels::Member { member, platform } => {
                ask(&mut asked, &self.find(all, member)?.path, platform);
            }
            Labels::Members(members) => {
                for (digest, platform) in members {
                    ask(&mut asked, &self.find(all, &Member::Digest(digest.clone()))?.path, platform);
                }
            }
            Labels::FromIndex => asked = self.by_entries(index)?,
        }
        Ok(asked)
    }

    /// The one member that is meant, at whatever depth.
    fn find<'a, 'p>(
        &self,
        all: &'a [NestedMember<'p>],
        member: &Member,
    ) -> Result<&'a NestedMember<'p>, Error> {
        match named(all, member).as_slice() {
            [only] => Ok(only),
            [] => {
                let said = all.iter().filter_map(|seat| seat.entry.platform.as_ref());
                let names: Vec<String> = said.filter(|p| !p.is_unknown()).map(ToString::to_string).collect();
                let doing = format!("fix member {member} of \"{}\"", self.place);
                Err(Error::not_found(doing, "the index has no such member")
                    .hint(format!("it has {}", names.join(", "))))
            }
            many => {
                let (why, hint) = match member {
                    Member::Platform(_) => {
                        ("members are for", "select one by its digest: --platform sha256:...")
                    }
                    Member::Digest(_) => {
                        ("entries have digest", "select one by its platform, if they differ")
                    }
                };
                Err(self.refuse(&format!("{} {why} {member}", many.len()), hint))
            }
        }
    }

    /// Every member's config says what its entry says.
    fn by_entries(&self, index: &IndexNode) -> Result<Asked, Error> {
        let mut asked = Asked::new();
        for i in runnable_members(index) {
            let entry = &index.index.manifests[i];
            let wish = match (&index.members[i], &entry.platform) {
                // A nested index needs no platform of its own; its entries say theirs.
                (TreeNode::Index(inner), _) => Wish::Within(self.by_entries(inner)?),
                (_, Some(platform)) if !platform.architecture.is_empty() && !platform.os.is_empty() => {
                    Wish::Says(platform.clone(), Ask::Entry)
                }
                _ => {
                    let why = format!("the index entry of {} has no platform", entry.digest);
                    return Err(self.refuse(&why, "use --set-platform PLATFORM --platform DIGEST"));
                }
            };
            asked.insert(i, wish);
        }
        Ok(asked)
    }

    /// The index with these members saying what is asked, attestations re-pointed.
    fn index(&mut self, node: &IndexNode, asked: &Asked) -> Result<Option<Document>, Error> {
        let mut replaced: BTreeMap<usize, Document> = BTreeMap::new();
        for (i, wish) in asked {
            let entry = &node.index.manifests[*i];
            let now = match (&node.members[*i], wish) {
                (TreeNode::Image(image), Wish::Says(platform, ask)) => {
                    self.image(image, platform, *ask, entry.platform.as_ref())?
                }
                (TreeNode::Index(inner), Wish::Within(asked)) => self.index(inner, asked)?,
                (TreeNode::Index(_), Wish::Says(..)) => {
                    let hint = "select one of its images, or use --from-index";
                    return Err(self.refuse("the member is an index itself", hint));
                }
                // Nobody looks for members in an image.
                (TreeNode::Image(_), Wish::Within(_)) => None,
            };
            if let Some(now) = now {
                replaced.insert(*i, now);
            }
        }
        replaced.extend(self.belonging(node, &replaced)?);
        let moved: BTreeMap<&str, &Document> =
            replaced.iter().map(|(i, now)| (node.index.manifests[*i].digest.as_str(), now)).collect();
        let mut changes = Vec::new();
        for (i, entry) in node.index.manifests.iter().enumerate() {
            let platform = asked_of(asked, &[i])
                .filter(|p| !entry.platform.as_ref().is_some_and(|said| said.answers(p)));
            let attests =
                entry.attests().and_then(|subject| moved.get(subject)).map(|now| now.digest().as_str());
            let document = replaced.get(&i);
            if let (Some(old), Some(new)) = (entry.attests(), attests) {
                self.notes.push(format!(
                    "attestation {} now refers to {new}; its signed statement still names {old}",
                    entry.digest
                ));
            }
            if document.is_some() || platform.is_some() || attests.is_some() {
                changes.push(EntryChange { index: i, document, platform, attests });
            }
        }
        if changes.is_empty() {
            return Ok(None);
        }
        let failed = |e: image_model::manifest::DocumentError| e.at(&format!("index of \"{}\"", self.place));
        let patched = patch_index(&node.document, &changes).map_err(failed)?;
        for (i, document) in replaced {
            let was = node.index.manifests[i].digest.clone();
            self.documents.push(Replaced { height: height(&node.members[i]), was, document });
        }
        Ok(Some(patched))
    }
}

impl Work<'_> {
    /// Two images for one platform: readers take the first. Whether that is refused is for the caller to say, since
    /// two labels that were exchanged may be put right one after the other.
    fn note_doubles(&mut self, all: &[NestedMember<'_>], asked: &Asked) {
        let images = || all.iter().filter(|seat| seat.is_image());
        let before = |seat: &NestedMember<'_>| match (&seat.entry.platform, seat.node) {
            (Some(said), _) => Some(said.clone()),
            (None, TreeNode::Image(image)) => {
                image.config.as_ref().map(|config| config.parsed.platform.clone())
            }
            (None, TreeNode::Index(_)) => None,
        };
        let says = |seat: &NestedMember<'_>| asked_of(asked, &seat.path).cloned().or_else(|| before(seat));
        for seat in images() {
            let Some(platform) = asked_of(asked, &seat.path) else { continue };
            let is_twin = |other: &&NestedMember<'_>| {
                other.path != seat.path && says(other).is_some_and(|said| said.fits(platform))
            };
            if let Some(twin) = images().find(is_twin) {
                let digest = &twin.entry.digest;
                self.notes.push(format!(
                    "the index has another image for {platform}, {digest}: engines choose either of them"
                ));
                let Some(was) = before(seat).filter(|was| !was.fits(platform)) else { continue };
                let is_lost = !images().any(|other| says(other).is_some_and(|said| said.fits(&was)));
                self.duplicates.push(Duplicate {
                    member: seat.entry.clone(),
                    was,
                    wanted: platform.clone(),
                    twin: digest.clone(),
                    is_lost,
                });
            }
        }
    }

    /// Attestations that say in their manifest, too, to which member they belong (BuildKit's `oci-artifact=true`).
    fn belonging(
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
                    e.at(&format!("{} of \"{}\"", image.document.digest(), self.place))
                };
                following.insert(i, patch_subject(&image.document, now).map_err(failed)?);
            }
        }
        Ok(following)
    }
}

impl Changes {
    /// What must be written where the old image lies: the new configs and documents alone.
    pub fn in_place(&self) -> WantedImage {
        let mut wanted = WantedImage::of_root(self.root.clone());
        self.add_new(&mut wanted);
        wanted.levels.retain(|level| !level.is_empty());
        wanted
    }

    /// What another store must have: the new parts, and the unchanged rest from `source`.
    pub fn elsewhere(&self, node: &TreeNode, source: &Arc<dyn ImageSource>) -> WantedImage {
        let mut wanted = WantedImage::of_root(self.root.clone());
        self.add_new(&mut wanted);
        wanted.add(node, source, true);
        let old_configs: Vec<&Digest> = self.images.iter().map(|change| &change.config.0).collect();
        let old: Vec<&Digest> = self.documents.iter().map(|replaced| &replaced.was).collect();
        wanted.blobs.retain(|(blob, _)| !old_configs.contains(&&blob.digest));
        for level in &mut wanted.levels {
            level.retain(|document| !old.contains(&document.digest()));
        }
        wanted.levels.retain(|level| !level.is_empty());
        wanted
    }

    /// What an archive must know to let the new image take the place of `node` under all of its names.
    pub fn rewrite(&self, node: &TreeNode) -> Relabel {
        let below =
            self.documents.iter().map(|replaced| (replaced.was.clone(), replaced.document.digest().clone()));
        let root = (node.digest().clone(), self.root.digest().clone());
        Relabel {
            wanted: self.in_place(),
            configs: self.images.iter().map(|change| change.config.clone()).collect(),
            documents: below.chain([root]).collect(),
        }
    }

    fn add_new(&self, wanted: &mut WantedImage) {
        for (blob, bytes) in &self.configs {
            wanted.add_blob(blob.clone(), BlobContent::Bytes(bytes.as_slice().into()));
        }
        for replaced in &self.documents {
            wanted.add_document(replaced.height, replaced.document.clone());
        }
    }
}

#[cfg(test)]
mod tests;
