//! The writes that bring an image into a store, as a value: printed by `--dry-run`, carried out by [`apply()`].

use crate::parallel;
use crate::store::{ImageSource, Pointer, TaggedDocument};
use crate::tree::{Image, TreeNode};
use error::text;
use error::{Error, Exit};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, PUSH_MAX, ParsedDocument, media_type};
use image_model::platform::Platform;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

mod apply;
mod drops;

pub use drops::{DroppedPlatform, ReplacedTag};

pub use apply::{MovedTag, Progress, ResolvedTags, TagGuard, apply, apply_content, apply_tags};

/// Origin of the bytes of a blob that must be written.
#[derive(Clone)]
pub enum BlobContent {
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// The blob of this digest in another store.
    From(Arc<dyn ImageSource>),
}

/// An image or index that a store shall have, with everything that it references.
#[derive(Clone)]
pub struct WantedImage {
    /// Configs and layers.
    pub blobs: Vec<(Descriptor, BlobContent)>,
    /// Manifests and indexes below the root. A level references earlier levels only.
    pub levels: Vec<Vec<Document>>,
    /// The manifest or index that the tags will refer to.
    pub root: Document,
    /// Tags for documents below the root: `arm32v7` for one member. They are moved before the root's.
    pub member_tags: Vec<(String, Document)>,
    /// Declared platforms of images, by the digest of the manifest, as far as they were read.
    declared: BTreeMap<Digest, Platform>,
}

impl WantedImage {
    /// Returns a root without anything below it.
    pub fn of_root(root: Document) -> Self {
        Self {
            blobs: Vec::new(),
            levels: Vec::new(),
            root,
            member_tags: Vec::new(),
            declared: BTreeMap::new(),
        }
    }

    /// Returns `node` with everything below it, to be copied from `source`.
    ///
    /// # Errors
    /// As [`TreeNode::require_complete`].
    pub fn copy_of(node: &TreeNode, source: &Arc<dyn ImageSource>) -> Result<Self, Error> {
        node.require_complete()?;
        let root = match node {
            TreeNode::Image(image) => &image.document,
            TreeNode::Index(index) => &index.document,
            TreeNode::Unread(unread) => return Err(unread.error.clone()),
        };
        let mut wanted = Self::of_root(root.clone());
        wanted.add(node, source, true);
        Ok(wanted)
    }

    /// Adds `node` with everything below it, as far as it was read. Returns its height: 0 for an image. The root is not
    /// part of a level.
    pub fn add(&mut self, node: &TreeNode, source: &Arc<dyn ImageSource>, is_root: bool) -> usize {
        let height = match node {
            TreeNode::Image(image) => {
                if let Some(config) = &image.config {
                    let digest = image.document.digest().clone();
                    self.declared.insert(digest, config.parsed.platform.clone());
                }
                let local = image.manifest.layers.iter().filter(|layer| !is_foreign(layer));
                for blob in local.chain([&image.manifest.config]) {
                    self.add_blob(blob.clone(), BlobContent::From(source.clone()));
                }
                0
            }
            TreeNode::Index(index) => {
                let heights = index.members.iter().map(|member| self.add(member, source, false));
                heights.max().map_or(0, |highest| highest + 1)
            }
            TreeNode::Unread(_) => return 0,
        };
        if let (false, Some(document)) = (is_root, node.document()) {
            self.add_document(height, document.clone());
        }
        height
    }

    /// Adds an image of `source` with another config and the manifest for it.
    pub fn add_relabeled(
        &mut self,
        image: &Image,
        source: &Arc<dyn ImageSource>,
        config: &[u8],
        manifest: Document,
    ) {
        for layer in image.manifest.layers.iter().filter(|layer| !is_foreign(layer)) {
            self.add_blob(layer.clone(), BlobContent::From(source.clone()));
        }
        let blob = Descriptor::of(&image.manifest.config.media_type, config);
        self.add_blob(blob, BlobContent::Bytes(config.into()));
        self.add_document(0, manifest);
    }

    /// Adds a blob, once.
    pub fn add_blob(&mut self, blob: Descriptor, content: BlobContent) {
        if !self.blobs.iter().any(|(known, _)| known.digest == blob.digest) {
            self.blobs.push((blob, content));
        }
    }

    /// Adds a document to the level `height`, once.
    pub fn add_document(&mut self, height: usize, document: Document) {
        if self.levels.len() <= height {
            self.levels.resize_with(height + 1, Vec::new);
        }
        if !self.levels[height].iter().any(|known| known.digest() == document.digest()) {
            self.levels[height].push(document);
        }
    }
}

/// Returns whether a layer is foreign: it is downloaded from its URLs, and no registry accepts it.
fn is_foreign(layer: &Descriptor) -> bool {
    !layer.urls.is_empty() || media_type::is_foreign_layer(&layer.media_type)
}

/// A tag that will be moved.
#[derive(Clone)]
pub struct TagStep {
    /// The tag.
    pub tag: String,
    /// The document that it will refer to.
    pub document: Document,
    /// The digest that it refers to now; `None` if it does not exist.
    pub was: Option<Digest>,
}

/// The missing writes in the order in which they are made: blobs, documents by level, tags.
#[derive(Clone, Default)]
pub struct Plan {
    /// Display name of the store: `127.0.0.1:5000/app`.
    pub place: String,
    /// Configs and layers to write.
    pub blobs: Vec<(Descriptor, BlobContent)>,
    /// Manifests and indexes to write.
    pub levels: Vec<Vec<Document>>,
    /// Tags to move.
    pub tags: Vec<TagStep>,
    /// Platforms that tags offer now and would lose.
    pub drops: Vec<DroppedPlatform>,
    /// Digests of tags that were resolved in the last round trip before this plan was made.
    pub rechecked_tags: BTreeMap<String, Option<Digest>>,
    /// Host and repository of the store, if blobs can be mounted there.
    pub mounts: Option<(String, String)>,
}

/// State of a target that was queried in parallel with other reads, before the plan is made.
#[derive(Clone, Debug, Default)]
pub struct TargetInfo {
    /// What tags refer to.
    pub tags: BTreeMap<String, Option<TaggedDocument>>,
    /// Digests of tags that were resolved once more, as the last requests before the plan.
    pub rechecked_tags: BTreeMap<String, Option<Digest>>,
    /// Presence of documents.
    pub documents: BTreeMap<Digest, bool>,
}

impl TargetInfo {
    /// Reads these tags, in parallel.
    ///
    /// # Errors
    /// As [`ImageSource::read_tag`].
    pub fn of_tags(target: &dyn ImageSource, tags: &[String]) -> Result<Self, Error> {
        let found = parallel::map(tags, target.concurrency(parallel::LOOKUPS), |tag| target.read_tag(tag))?;
        Ok(Self { tags: tags.iter().cloned().zip(found).collect(), ..Self::default() })
    }

    /// Resolves the tags once more, together with these documents.
    ///
    /// # Errors
    /// As [`ImageSource::resolve`].
    pub fn recheck(&mut self, target: &dyn ImageSource, documents: &[Digest]) -> Result<(), Error> {
        let tags = self.tags.keys().map(|tag| Pointer::Tag(tag.clone()));
        let asked: Vec<Pointer> = tags.chain(documents.iter().map(Pointer::from)).collect();
        let found = parallel::map(&asked, target.concurrency(parallel::LOOKUPS), |at| target.resolve(at))?;
        for (at, found) in asked.into_iter().zip(found) {
            match at {
                Pointer::Tag(tag) => {
                    drop(self.rechecked_tags.insert(tag, found.map(|found| found.digest)));
                }
                Pointer::Digest(digest) => drop(self.documents.insert(digest, found.is_some())),
            }
        }
        Ok(())
    }
}

/// Returns a plan that writes everything: for new bytes of an image that was just read from the target. `tags` come with
/// the digests that they had then.
///
/// # Errors
/// `BadInput` if a document is larger than registries accept.
pub fn plan_new(
    wanted: WantedImage,
    place: String,
    tags: Vec<(String, Option<Digest>)>,
) -> Result<Plan, Error> {
    let root = &wanted.root;
    let mut levels = wanted.levels;
    if tags.is_empty() {
        levels.push(vec![root.clone()]);
    }
    for document in levels.iter().flatten().chain([root]) {
        refuse_large(document, &place)?;
    }
    let step = |(tag, was)| TagStep { tag, document: root.clone(), was };
    let tags = tags.into_iter().filter(|(_, was)| was.as_ref() != Some(root.digest())).map(step).collect();
    Ok(Plan { place, blobs: wanted.blobs, levels, tags, ..Plan::default() })
}

/// Compares an image with what the target has and returns the missing writes. With no `tags`, the root is written under
/// its digest alone.
///
/// # Errors
/// `BadInput` if a document is larger than registries accept, or the root is an index and the target holds single
/// images; and the errors of the target.
pub fn plan(wanted: WantedImage, target: &dyn ImageSource, tags: &[String]) -> Result<Plan, Error> {
    plan_with_info(wanted, target, tags, &TargetInfo::default())
}

/// Does what [`plan()`] does, without asking for what `known` has.
///
/// # Errors
/// As [`plan()`].
pub fn plan_with_info(
    wanted: WantedImage,
    target: &dyn ImageSource,
    tags: &[String],
    known: &TargetInfo,
) -> Result<Plan, Error> {
    refuse_unsupported_index(&wanted.root, target)?;
    let mut plan = Plan { place: target.display_name(), mounts: target.mount_origin(), ..Plan::default() };
    let root_tags = tags.iter().map(|tag| (tag.clone(), wanted.root.clone()));
    let wanted_tags: Vec<(String, Document)> = wanted.member_tags.iter().cloned().chain(root_tags).collect();
    plan.rechecked_tags = known.rechecked_tags.clone();
    let at_once = target.concurrency(parallel::REQUESTS);
    let named = parallel::map(&wanted_tags, at_once, |(tag, _)| match known.tags.get(tag) {
        Some(named) => Ok(named.clone()),
        None => target.read_tag(tag),
    })?;
    let every_tag_is_right = {
        let right = |((_, document), named): (&(String, Document), &Option<TaggedDocument>)| {
            named.as_ref().is_some_and(|named| named.descriptor.digest == *document.digest())
        };
        !tags.is_empty() && wanted_tags.iter().zip(&named).all(right)
    };
    if every_tag_is_right {
        return Ok(plan);
    }
    let mut replaced = Vec::new();
    for ((tag, document), named) in wanted_tags.into_iter().zip(named) {
        let was = named.as_ref().map(|named| named.descriptor.digest.clone());
        if was.as_ref() != Some(document.digest()) {
            plan.tags.push(TagStep { tag, document, was });
            replaced.push(named.and_then(|named| named.document));
        }
    }
    let steps: Vec<(&TagStep, Option<Document>)> = plan.tags.iter().zip(replaced).collect();
    plan.drops = wanted.drops(target, &steps)?;
    let mut levels = wanted.levels;
    if tags.is_empty() {
        levels.push(vec![wanted.root.clone()]);
    }
    for document in levels.iter().flatten().chain([&wanted.root]) {
        refuse_large(document, &plan.place)?;
    }
    // A store that has a document has everything that it references: stores guarantee it, and it saves a request per blob.
    let mut covered = BTreeSet::new();
    for level in levels.iter().rev() {
        let unknown: Vec<&Document> = level.iter().filter(|d| !covered.contains(d.digest())).collect();
        let present =
            parallel::map(&unknown, at_once, |document| match known.documents.get(document.digest()) {
                Some(present) => Ok::<_, Error>(*present),
                None => Ok(target.resolve(&Pointer::from(document.digest()))?.is_some()),
            })?;
        for (document, present) in unknown.into_iter().zip(present) {
            if present {
                cover(document, &levels, &mut covered);
            }
        }
    }
    for level in levels {
        let missing: Vec<Document> = level.into_iter().filter(|d| !covered.contains(d.digest())).collect();
        if !missing.is_empty() {
            plan.levels.push(missing);
        }
    }
    let unknown: Vec<(Descriptor, BlobContent)> =
        wanted.blobs.into_iter().filter(|(blob, _)| !covered.contains(&blob.digest)).collect();
    // Mounting is one request, and no other is needed if the blob is there already.
    let present = parallel::map(&unknown, at_once, |(blob, content)| {
        if plan.can_mount(content) { Ok(false) } else { target.has_blob(blob) }
    })?;
    plan.blobs =
        unknown.into_iter().zip(present).filter(|(_, present)| !present).map(|(blob, _)| blob).collect();
    Ok(plan)
}

/// Marks a document and everything that it references as present.
fn cover(document: &Document, levels: &[Vec<Document>], covered: &mut BTreeSet<Digest>) {
    if !covered.insert(document.digest().clone()) {
        return;
    }
    match document.parse() {
        Ok(ParsedDocument::Manifest(manifest)) => {
            covered.extend(manifest.layers.into_iter().chain([manifest.config]).map(|blob| blob.digest));
        }
        Ok(ParsedDocument::Index(index)) => {
            for entry in index.manifests {
                if let Some(child) = levels.iter().flatten().find(|d| *d.digest() == entry.digest) {
                    cover(child, levels, covered);
                }
            }
        }
        Err(_) => {}
    }
}

fn refuse_large(document: &Document, place: &str) -> Result<(), Error> {
    let size = document.bytes().len() as u64;
    if size <= PUSH_MAX {
        return Ok(());
    }
    let doing = format!("write manifest {} to \"{place}\"", document.digest());
    Err(Error::bad_input(doing, format!("it has {size} bytes; registries accept at most {PUSH_MAX}")))
}

/// A Docker Engine without containerd's image store would load one image of an index and drop the others silently.
fn refuse_unsupported_index(root: &Document, target: &dyn ImageSource) -> Result<(), Error> {
    if !root.is_index() || target.supports_indexes()? {
        return Ok(());
    }
    let Ok(ParsedDocument::Index(index)) = root.parse() else { return Ok(()) };
    let images = index.manifests.iter().filter(|entry| entry.attested_digest().is_none());
    let images: Vec<String> = images
        .map(|entry| match &entry.platform {
            Some(platform) => format!("{platform} is {}", entry.digest),
            None => entry.digest.to_string(),
        })
        .collect();
    let why = format!("it holds single images, and {} is an index: {}", root.digest(), images.join(", "));
    Err(Error::bad_input(format!("write \"{}\"", target.display_name()), why)
        .hint("copy one of its images with --platform PLATFORM, or SOURCE@DIGEST"))
}

/// Returns `PLACE:TAG` as users write it. Images without a tag, and those whose store's name is the image name, are
/// `PLACE`.
pub fn name_of(place: &str, tag: &str) -> String {
    let is_named = tag.is_empty() || place.strip_prefix("docker-daemon:") == Some(tag);
    if is_named { place.into() } else { format!("{place}:{tag}") }
}

impl Plan {
    /// Returns whether the blob is in another repository of the same registry.
    fn can_mount(&self, content: &BlobContent) -> bool {
        match (content, &self.mounts) {
            (BlobContent::From(source), Some((host, here))) => {
                source.mount_origin().is_some_and(|(at, repository)| at == *host && repository != *here)
            }
            _ => false,
        }
    }

    /// Returns whether nothing is missing and every tag is right.
    pub fn is_nothing(&self) -> bool {
        self.blobs.is_empty() && self.levels.is_empty() && self.tags.is_empty()
    }

    /// Fails if a tag would lose a platform that is not among `named`.
    ///
    /// # Errors
    /// `CheckFailed`, with the platforms and the options that name them.
    pub fn refuse_drops(&self, named: &[Platform]) -> Result<(), Error> {
        let is_named =
            |dropped: &&DroppedPlatform| named.iter().any(|named| named.matches(&dropped.platform));
        let unnamed: Vec<&DroppedPlatform> = self.drops.iter().filter(|dropped| !is_named(dropped)).collect();
        let Some(first) = unnamed.first() else { return Ok(()) };
        let lost: Vec<String> = unnamed.iter().map(ToString::to_string).collect();
        let mut options: Vec<String> =
            unnamed.iter().map(|dropped| format!("--drop {}", dropped.platform)).collect();
        options.sort();
        options.dedup();
        let doing = format!("move tag \"{}\" of \"{}\"", first.tag, self.place);
        let error = Error::new(Exit::CheckFailed, doing, format!("it would lose {}", lost.join(", ")));
        Err(error.hint(format!("if that is intended, add {}", options.join(" "))))
    }

    /// Returns the bytes of blobs and documents to send, if nothing can be mounted.
    pub fn bytes(&self) -> u64 {
        let blobs: u64 = self.blobs.iter().map(|(blob, _)| blob.size).sum();
        let documents = self.levels.iter().flatten().chain(self.tags.iter().map(|tag| &tag.document));
        blobs + documents.map(|document| document.bytes().len() as u64).sum::<u64>()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() {
            return writeln!(f, "nothing to do in {}", self.place);
        }
        for (blob, content) in &self.blobs {
            let how = match content {
                BlobContent::Bytes(_) => "write".to_string(),
                BlobContent::From(source) if self.can_mount(content) => {
                    format!("mount or copy from {}", source.display_name())
                }
                BlobContent::From(source) => format!("copy from {}", source.display_name()),
            };
            writeln!(f, "  blob      {}  {:>10}  {how}", blob.digest, text::format_bytes(blob.size))?;
        }
        for document in self.levels.iter().flatten() {
            let kind = if document.is_index() { "index" } else { "manifest" };
            let size = text::format_bytes(document.bytes().len() as u64);
            writeln!(f, "  {kind:<8}  {}  {size:>10}  write", document.digest())?;
        }
        for step in &self.tags {
            let was = step.was.as_ref().map_or("new".to_string(), |was| format!("was {was}"));
            let size = text::format_bytes(step.document.bytes().len() as u64);
            writeln!(
                f,
                "  tag       {}  {size:>10}  {}  {was}",
                step.document.digest(),
                name_of(&self.place, &step.tag)
            )?;
            for dropped in self.drops.iter().filter(|dropped| dropped.tag == step.tag) {
                writeln!(f, "    drops   {dropped}")?;
            }
        }
        writeln!(f, "  at most {} to {}", text::format_bytes(self.bytes()), self.place)
    }
}

#[cfg(test)]
mod tests;
