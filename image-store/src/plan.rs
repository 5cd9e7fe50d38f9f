//! What will change in a store, as a value: shown by `--dry-run`, and carried out by [`apply`] as it was shown.

use crate::digest::Digest;
use crate::error::StoreError;
use crate::manifest::{Descriptor, Document, PUSH_MAX, media_type};
use crate::parallel;
use crate::store::{ImageSource, ImageStore, Pointer};
use crate::text;
use crate::tree::Node;
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

/// Where the bytes of a blob that must be written come from.
#[derive(Clone)]
pub enum BlobContent {
    Bytes(Arc<[u8]>),
    From(Arc<dyn ImageSource>),
}

/// All that a tag must be able to reach: the documents in levels, children first, then the root.
#[derive(Clone)]
pub struct Wanted {
    pub blobs: Vec<(Descriptor, BlobContent)>,
    pub levels: Vec<Vec<Document>>,
    pub root: Document,
    /// Tags for documents below the root: `arm32v7` for one member. They are moved before the root's.
    pub member_tags: Vec<(String, Document)>,
}

impl Wanted {
    /// A root of which nothing else is known yet.
    pub fn of_root(root: Document) -> Self {
        Self { blobs: Vec::new(), levels: Vec::new(), root, member_tags: Vec::new() }
    }

    /// Everything below `node`, to be copied from `source`.
    pub fn copy_of(node: &Node, source: &Arc<dyn ImageSource>) -> Self {
        let mut wanted = Self::of_root(node.document().clone());
        wanted.add(node, source, true);
        wanted
    }

    /// Takes `node` and all below it in; returns its height. The root itself is not part of a level.
    pub fn add(&mut self, node: &Node, source: &Arc<dyn ImageSource>, is_root: bool) -> usize {
        let height = match node {
            Node::Image(image) => {
                let local = image.manifest.layers.iter().filter(|layer| !lies_elsewhere(layer));
                for blob in local.chain([&image.manifest.config]) {
                    self.add_blob(blob.clone(), BlobContent::From(source.clone()));
                }
                0
            }
            Node::Index(index) => {
                let heights = index.members.iter().map(|member| self.add(member, source, false));
                heights.max().map_or(0, |highest| highest + 1)
            }
        };
        if !is_root {
            self.add_document(height, node.document().clone());
        }
        height
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
}

/// Everything that is wanted, for a target that is known not to have it: new bytes for an image that was just read
/// there. `tags` come with what they named then.
pub fn plan_new(
    wanted: Wanted,
    place: String,
    tags: Vec<(String, Option<Digest>)>,
) -> Result<Plan, StoreError> {
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
    Ok(Plan { place, blobs: wanted.blobs, levels, tags })
}

/// Compares what is wanted with what the target has. `tags` empty: the root is written under its digest alone.
pub fn plan(wanted: Wanted, target: &dyn ImageSource, tags: &[String]) -> Result<Plan, StoreError> {
    let mut plan = Plan { place: target.place(), ..Plan::default() };
    let root_tags = tags.iter().map(|tag| (tag.clone(), wanted.root.clone()));
    let wishes: Vec<(String, Document)> = wanted.member_tags.into_iter().chain(root_tags).collect();
    let named =
        parallel::map(&wishes, parallel::REQUESTS, |(tag, _)| target.resolve(&Pointer::Tag(tag.clone())))?;
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
        let present = parallel::map(&unknown, parallel::REQUESTS, |document| {
            Ok::<_, StoreError>(target.resolve(&Pointer::from(document.digest()))?.is_some())
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
    let present = parallel::map(&unknown, parallel::REQUESTS, |(blob, _)| target.has_blob(blob))?;
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
        Ok(crate::manifest::Content::Manifest(manifest)) => {
            covered.extend(manifest.layers.into_iter().chain([manifest.config]).map(|blob| blob.digest));
        }
        Ok(crate::manifest::Content::Index(index)) => {
            for entry in index.manifests {
                if let Some(child) = levels.iter().flatten().find(|d| *d.digest() == entry.digest) {
                    cover(child, levels, covered);
                }
            }
        }
        Err(_) => {}
    }
}

fn refuse_large(document: &Document, place: &str) -> Result<(), StoreError> {
    let size = document.bytes().len() as u64;
    if size <= PUSH_MAX {
        return Ok(());
    }
    let doing = format!("write manifest {} to \"{place}\"", document.digest());
    Err(StoreError::bad_input(doing, format!("it has {size} bytes; registries take at most {PUSH_MAX}")))
}

impl Plan {
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
                BlobContent::From(source) if source.mount_origin().is_some() => {
                    format!("mount or copy from {}", source.place())
                }
                BlobContent::From(source) => format!("copy from {}", source.place()),
            };
            writeln!(f, "  blob      {}  {:>10}  {how}", blob.digest, text::bytes(blob.size))?;
        }
        for document in self.levels.iter().flatten() {
            let kind = if document.is_index() { "index" } else { "manifest" };
            let size = text::bytes(document.bytes().len() as u64);
            writeln!(f, "  {kind:<8}  {}  {size:>10}  write", document.digest())?;
        }
        for step in &self.tags {
            let was = step.was.as_ref().map_or("new".to_string(), |was| format!("was {was}"));
            let size = text::bytes(step.document.bytes().len() as u64);
            writeln!(
                f,
                "  tag       {}  {size:>10}  {}:{}  {was}",
                step.document.digest(),
                self.place,
                step.tag
            )?;
        }
        writeln!(f, "  at most {} to {}", text::bytes(self.bytes()), self.place)
    }
}

/// What to do with a tag that moved between plan and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovedTag {
    Refuse,
    /// `--force`.
    Overwrite,
}

/// Something that was done, for a progress display.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    Blob(&'a Descriptor),
    Document(&'a Document),
    Tag(&'a str, &'a Document),
}

/// Carries the plan out: blobs at once, then each level of documents at once, then each tag, which is looked at
/// again just before and read back just after.
pub fn apply(
    plan: &Plan,
    store: &dyn ImageStore,
    moved: MovedTag,
    tell: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(), StoreError> {
    parallel::map(&plan.blobs, parallel::REQUESTS, |(blob, content)| {
        apply_blob(blob, content, store)?;
        tell(Progress::Blob(blob));
        Ok::<_, StoreError>(())
    })?;
    for level in &plan.levels {
        parallel::map(level, parallel::REQUESTS, |document| {
            store.write_document(document)?;
            tell(Progress::Document(document));
            Ok::<_, StoreError>(())
        })?;
    }
    for step in &plan.tags {
        apply_tag(step, store, moved)?;
        tell(Progress::Tag(&step.tag, &step.document));
    }
    Ok(())
}

fn apply_blob(blob: &Descriptor, content: &BlobContent, store: &dyn ImageStore) -> Result<(), StoreError> {
    match content {
        BlobContent::Bytes(bytes) => store
            .write_blob(blob, &|| Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>)),
        BlobContent::From(source) => {
            if let Some((host, repository)) = source.mount_origin()
                && store.mount_blob(blob, &host, &repository)?
            {
                return Ok(());
            }
            store.write_blob(blob, &|| source.open_blob(blob))
        }
    }
}

fn apply_tag(step: &TagStep, store: &dyn ImageStore, moved: MovedTag) -> Result<(), StoreError> {
    let doing = || format!("move tag \"{}\" of \"{}\"", step.tag, store.place());
    let at = Pointer::Tag(step.tag.clone());
    let now = store.resolve(&at)?.map(|named| named.digest);
    let wanted = step.document.digest();
    if now.as_ref() == Some(wanted) {
        return Ok(());
    }
    if now != step.was && moved == MovedTag::Refuse {
        let shown = |digest: &Option<Digest>| digest.as_ref().map_or("nothing".into(), Digest::to_string);
        let why = format!("it named {} when we looked and names {} now", shown(&step.was), shown(&now));
        return Err(StoreError::conflict(doing(), why).hint("run again to see what changed, or use --force"));
    }
    store.write_tag(&step.tag, &step.document)?;
    // Some servers answer 201 to everything: only reading the tag back shows that it is there.
    let found = store.read_document(&at)?;
    if found.digest() != wanted {
        let why = format!("it was set to {wanted} and names {} now: somebody else moved it", found.digest());
        return Err(StoreError::conflict(doing(), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use crate::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
    use crate::store::memory::MemoryStore;
    use crate::tree::read_tree;

    /// An index over two images that share a layer, in a store of its own.
    fn source() -> (Arc<dyn ImageSource>, Node) {
        let store = MemoryStore::new();
        let layer = store.add_blob(OCI_LAYER, b"layer");
        let mut entries = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let config = format!("{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}");
            let config = store.add_blob(OCI_CONFIG, config.as_bytes());
            let manifest = serde_json::json!({"schemaVersion":2,"config":config,"layers":[layer]});
            let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
            store.write_document(&document).unwrap();
            entries.push(document.descriptor());
        }
        let index = serde_json::json!({"schemaVersion":2,"manifests":entries}).to_string();
        store.write_tag("v1", &Document::new(index.into_bytes(), None).unwrap()).unwrap();
        let node = read_tree(&store, &Pointer::Tag("v1".into())).unwrap();
        (Arc::new(store), node)
    }

    fn tags() -> Vec<String> {
        vec!["v1".into()]
    }

    #[test]
    fn a_copy_is_whole_and_a_second_run_has_nothing_to_do() {
        let (source, node) = source();
        let target = MemoryStore::new();
        let first = plan(Wanted::copy_of(&node, &source), &target, &tags()).unwrap();
        assert_eq!((first.blobs.len(), first.levels.len(), first.tags.len()), (3, 1, 1));
        apply(&first, &target, MovedTag::Refuse, &|_| {}).unwrap();
        assert_eq!(read_tree(&target, &Pointer::Tag("v1".into())).unwrap().digest(), node.digest());
        let second = plan(Wanted::copy_of(&node, &source), &target, &tags()).unwrap();
        assert!(second.is_nothing());
    }

    #[test]
    fn what_a_present_document_names_is_not_asked_for_again() {
        let (source, node) = source();
        let target = MemoryStore::new();
        let by_digest = plan(Wanted::copy_of(&node, &source), &target, &[]).unwrap();
        apply(&by_digest, &target, MovedTag::Refuse, &|_| {}).unwrap();
        assert!(target.tags().unwrap().is_empty());
        let then = plan(Wanted::copy_of(&node, &source), &target, &tags()).unwrap();
        assert_eq!((then.blobs.len(), then.levels.len(), then.tags.len()), (0, 0, 1));
    }

    #[test]
    fn a_tag_that_moved_meanwhile_is_left_alone() {
        let (source, node) = source();
        let target = MemoryStore::new();
        let first = plan(Wanted::copy_of(&node, &source), &target, &tags()).unwrap();
        let config = target.add_blob(OCI_CONFIG, b"{}");
        let other = serde_json::json!({"schemaVersion":2,"config":config,"layers":[]}).to_string();
        let other = Document::new(other.into_bytes(), None).unwrap();
        target.write_tag("v1", &other).unwrap();
        let error = apply(&first, &target, MovedTag::Refuse, &|_| {}).unwrap_err();
        assert_eq!(error.kind, Exit::Conflict);
        assert_eq!(target.read_document(&Pointer::Tag("v1".into())).unwrap(), other);
        apply(&first, &target, MovedTag::Overwrite, &|_| {}).unwrap();
        assert_eq!(target.read_document(&Pointer::Tag("v1".into())).unwrap().digest(), node.digest());
    }

    #[test]
    fn the_plan_shows_every_write_with_old_and_new_digest() {
        let (source, node) = source();
        let shown = plan(Wanted::copy_of(&node, &source), &MemoryStore::new(), &tags()).unwrap().to_string();
        assert_eq!(shown.matches("  blob ").count(), 3);
        assert_eq!(shown.matches("  manifest ").count(), 2);
        assert!(shown.contains(&format!("  tag       {}", node.digest())), "{shown}");
        assert!(shown.contains("memory:v1  new"), "{shown}");
    }
}
