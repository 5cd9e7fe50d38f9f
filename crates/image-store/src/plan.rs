//! What will change in a store, as a value: shown by `--dry-run`, and carried out by [`apply()`] as it was shown.

use crate::parallel;
use crate::store::{ImageSource, Pointer};
use crate::tree::{Image, TreeNode};
use error::Error;
use error::text;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, PUSH_MAX, ParsedDocument, media_type};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

mod apply;

pub use apply::{MovedTag, Progress, ResolvedTags, TagGuard, apply, apply_content, apply_tags};

/// Where the bytes of a blob that must be written come from.
#[derive(Clone)]
pub enum BlobContent {
    Bytes(Arc<[u8]>),
    From(Arc<dyn ImageSource>),
}

/// All that a tag must be able to reach: the documents in levels, children first, then the root.
#[derive(Clone)]
pub struct WantedImage {
    pub blobs: Vec<(Descriptor, BlobContent)>,
    pub levels: Vec<Vec<Document>>,
    pub root: Document,
    /// Tags for documents below the root: `arm32v7` for one member. They are moved before the root's.
    pub member_tags: Vec<(String, Document)>,
}

impl WantedImage {
    /// A root of which nothing else is known yet.
    pub fn of_root(root: Document) -> Self {
        Self { blobs: Vec::new(), levels: Vec::new(), root, member_tags: Vec::new() }
    }

    /// Everything below `node`, to be copied from `source`.
    pub fn copy_of(node: &TreeNode, source: &Arc<dyn ImageSource>) -> Self {
        let mut wanted = Self::of_root(node.document().clone());
        wanted.add(node, source, true);
        wanted
    }

    /// Takes `node` and all below it in; returns its height. The root itself is not part of a level.
    pub fn add(&mut self, node: &TreeNode, source: &Arc<dyn ImageSource>, is_root: bool) -> usize {
        let height = match node {
            TreeNode::Image(image) => {
                let local = image.manifest.layers.iter().filter(|layer| !lies_elsewhere(layer));
                for blob in local.chain([&image.manifest.config]) {
                    self.add_blob(blob.clone(), BlobContent::From(source.clone()));
                }
                0
            }
            TreeNode::Index(index) => {
                let heights = index.members.iter().map(|member| self.add(member, source, false));
                heights.max().map_or(0, |highest| highest + 1)
            }
        };
        if !is_root {
            self.add_document(height, node.document().clone());
        }
        height
    }

    /// Takes an image in that lies in `source`, with another config and the manifest that follows from it.
    pub fn add_relabelled(
        &mut self,
        image: &Image,
        source: &Arc<dyn ImageSource>,
        config: &[u8],
        manifest: Document,
    ) {
        for layer in image.manifest.layers.iter().filter(|layer| !lies_elsewhere(layer)) {
            self.add_blob(layer.clone(), BlobContent::From(source.clone()));
        }
        let blob = Descriptor::of(&image.manifest.config.media_type, config);
        self.add_blob(blob, BlobContent::Bytes(config.into()));
        self.add_document(0, manifest);
    }

    pub fn add_blob(&mut self, blob: Descriptor, content: BlobContent) {
        if !self.blobs.iter().any(|(known, _)| known.digest == blob.digest) {
            self.blobs.push((blob, content));
        }
    }

    pub fn add_document(&mut self, height: usize, document: Document) {
        if self.levels.len() <= height {
            self.levels.resize_with(height + 1, Vec::new);
        }
        if !self.levels[height].iter().any(|known| known.digest() == document.digest()) {
            self.levels[height].push(document);
        }
    }
}

/// Foreign layers lie where their URLs say; no registry takes them.
fn lies_elsewhere(layer: &Descriptor) -> bool {
    !layer.urls.is_empty() || media_type::is_foreign_layer(&layer.media_type)
}

/// A tag that will be moved, and what it names now.
#[derive(Clone)]
pub struct TagStep {
    pub tag: String,
    pub document: Document,
    pub was: Option<Digest>,
}

/// The writes that are missing, in the order in which they will be made: blobs, documents by level, tags.
#[derive(Clone, Default)]
pub struct Plan {
    /// Where: `127.0.0.1:5000/app`.
    pub place: String,
    pub blobs: Vec<(Descriptor, BlobContent)>,
    pub levels: Vec<Vec<Document>>,
    pub tags: Vec<TagStep>,
    /// What tags named when they were looked at again, in the last round trip before this plan was made.
    pub again: BTreeMap<String, Option<Digest>>,
    /// Where blobs may be mounted: host and repository.
    pub mounts: Option<(String, String)>,
}

/// What is known of a target before a plan is made for it: looked up while other things were read.
#[derive(Clone, Debug, Default)]
pub struct TargetInfo {
    /// What tags name.
    pub named: BTreeMap<String, Option<Descriptor>>,
    /// The same, looked at again as the last thing of all.
    pub again: BTreeMap<String, Option<Digest>>,
    /// Documents that are there, and those that are not.
    pub documents: BTreeMap<Digest, bool>,
}

impl TargetInfo {
    /// Looks these tags and documents up, all at once.
    pub fn look(target: &dyn ImageSource, tags: &[String], documents: &[Digest]) -> Result<Self, Error> {
        let tags = tags.iter().map(|tag| Pointer::Tag(tag.clone()));
        let asked: Vec<Pointer> = tags.chain(documents.iter().map(Pointer::from)).collect();
        let found = parallel::map(&asked, target.concurrency(parallel::LOOKUPS), |at| target.resolve(at))?;
        let mut known = Self::default();
        for (at, found) in asked.into_iter().zip(found) {
            match at {
                Pointer::Tag(tag) => drop(known.named.insert(tag, found)),
                Pointer::Digest(digest) => drop(known.documents.insert(digest, found.is_some())),
            }
        }
        Ok(known)
    }

    /// Looks the tags up once more, and these documents with them.
    pub fn look_again(&mut self, target: &dyn ImageSource, documents: &[Digest]) -> Result<(), Error> {
        let tags: Vec<String> = self.named.keys().cloned().collect();
        let Self { named, documents, .. } = Self::look(target, &tags, documents)?;
        self.again = named.into_iter().map(|(tag, now)| (tag, now.map(|now| now.digest))).collect();
        self.documents.extend(documents);
        Ok(())
    }
}

/// Everything that is wanted, for a target that is known not to have it: new bytes for an image that was just read
/// there. `tags` come with what they named then.
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

/// Compares what is wanted with what the target has. `tags` empty: the root is written under its digest alone.
pub fn plan(wanted: WantedImage, target: &dyn ImageSource, tags: &[String]) -> Result<Plan, Error> {
    plan_with_info(wanted, target, tags, &TargetInfo::default())
}

/// The same, where some of the target was looked at just now.
pub fn plan_with_info(
    wanted: WantedImage,
    target: &dyn ImageSource,
    tags: &[String],
    known: &TargetInfo,
) -> Result<Plan, Error> {
    refuse_index_where_none_is_kept(&wanted.root, target)?;
    let mut plan = Plan { place: target.display_name(), mounts: target.mount_origin(), ..Plan::default() };
    let root_tags = tags.iter().map(|tag| (tag.clone(), wanted.root.clone()));
    let wishes: Vec<(String, Document)> = wanted.member_tags.into_iter().chain(root_tags).collect();
    plan.again = known.again.clone();
    let at_once = target.concurrency(parallel::REQUESTS);
    let named = parallel::map(&wishes, at_once, |(tag, _)| match known.named.get(tag) {
        Some(named) => Ok(named.clone()),
        None => target.resolve(&Pointer::Tag(tag.clone())),
    })?;
    let every_tag_is_right = {
        let right = |((_, document), named): (&(String, Document), &Option<Descriptor>)| {
            named.as_ref().is_some_and(|named| named.digest == *document.digest())
        };
        !tags.is_empty() && wishes.iter().zip(&named).all(right)
    };
    if every_tag_is_right {
        return Ok(plan);
    }
    for ((tag, document), named) in wishes.into_iter().zip(named) {
        let was = named.map(|named| named.digest);
        if was.as_ref() != Some(document.digest()) {
            plan.tags.push(TagStep { tag, document, was });
        }
    }
    let mut levels = wanted.levels;
    if tags.is_empty() {
        levels.push(vec![wanted.root.clone()]);
    }
    for document in levels.iter().flatten().chain([&wanted.root]) {
        refuse_large(document, &plan.place)?;
    }
    // A store that has a document has all that it names: that is its promise, and saves a request per blob.
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
    // To mount a blob is one request, and no other if it is there already.
    let present = parallel::map(&unknown, at_once, |(blob, content)| {
        if plan.can_mount(content) { Ok(false) } else { target.has_blob(blob) }
    })?;
    plan.blobs =
        unknown.into_iter().zip(present).filter(|(_, present)| !present).map(|(blob, _)| blob).collect();
    Ok(plan)
}

/// Marks a document and all it names as being in the target.
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
    Err(Error::bad_input(doing, format!("it has {size} bytes; registries take at most {PUSH_MAX}")))
}

/// An engine without containerd's store loads one image of an index, and says nothing of the others.
fn refuse_index_where_none_is_kept(root: &Document, target: &dyn ImageSource) -> Result<(), Error> {
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
    let why = format!("it keeps single images, and {} is an index: {}", root.digest(), images.join(", "));
    Err(Error::bad_input(format!("write \"{}\"", target.display_name()), why)
        .hint("copy one of its images: manifest-push copy --platform PLATFORM, or SOURCE@DIGEST"))
}

/// A tag of a place as a person names it. An image without a name is named by its place, and so is one whose place
/// is its name.
pub fn name_of(place: &str, tag: &str) -> String {
    let is_named = tag.is_empty() || place.strip_prefix("docker-daemon:") == Some(tag);
    if is_named { place.into() } else { format!("{place}:{tag}") }
}

impl Plan {
    /// Lies it in another repository of the same registry?
    fn can_mount(&self, content: &BlobContent) -> bool {
        match (content, &self.mounts) {
            (BlobContent::From(source), Some((host, here))) => {
                source.mount_origin().is_some_and(|(at, repository)| at == *host && repository != *here)
            }
            _ => false,
        }
    }

    /// Nothing is missing and every tag is right.
    pub fn is_nothing(&self) -> bool {
        self.blobs.is_empty() && self.levels.is_empty() && self.tags.is_empty()
    }

    /// Bytes of blobs and documents that will be sent, if nothing can be mounted.
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
        }
        writeln!(f, "  at most {} to {}", text::format_bytes(self.bytes()), self.place)
    }
}

#[cfg(test)]
mod tests;
