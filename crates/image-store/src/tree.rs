//! Images and indexes with everything below them: documents and configs, without layers.

use crate::parallel;
use crate::store::{ImageSource, Pointer, read_blob};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{
    CONFIG_MAX, Config, Descriptor, Document, Index, Manifest, ParsedDocument, media_type,
};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Depth of indexes within indexes above which a tree is refused. Real ones have one level.
pub const DEPTH_MAX: usize = 8;
/// Largest number of members of one index, and of all indexes of a tree together: a few small indexes that list the same
/// child many times would otherwise make a tree of millions of images.
pub const MEMBERS_MAX: usize = 10_000;

/// An image or index with everything below it.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "trees are small and short-lived")]
pub enum TreeNode {
    /// A single image or an artifact.
    Image(Image),
    /// An index.
    Index(IndexNode),
}

/// One manifest with its config.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's bytes and digest.
    pub document: Document,
    /// The parsed manifest.
    pub manifest: Manifest,
    /// `None` for an artifact, whose config is no image config.
    pub config: Option<ImageConfig>,
}

/// The config of an image.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// As stored.
    pub bytes: Vec<u8>,
    /// The fields that these tools read.
    pub parsed: Config,
}

/// An index and its members, in the order of its entries.
#[derive(Clone, Debug)]
pub struct IndexNode {
    /// The index's bytes and digest.
    pub document: Document,
    /// The parsed index.
    pub index: Index,
    /// One node for each entry of `index.manifests`.
    pub members: Vec<TreeNode>,
}

impl TreeNode {
    /// The manifest or index itself.
    pub fn document(&self) -> &Document {
        match self {
            Self::Image(image) => &image.document,
            Self::Index(index) => &index.document,
        }
    }

    /// The digest of [`Self::document`].
    pub fn digest(&self) -> &Digest {
        self.document().digest()
    }

    /// Returns every image of the tree with its index entry (`None` for the root), depth first.
    pub fn images(&self) -> Vec<(Option<&Descriptor>, &Image)> {
        let mut out = Vec::new();
        self.collect(None, &mut out);
        out
    }

    fn collect<'a>(
        &'a self,
        entry: Option<&'a Descriptor>,
        out: &mut Vec<(Option<&'a Descriptor>, &'a Image)>,
    ) {
        match self {
            Self::Image(image) => out.push((entry, image)),
            Self::Index(node) => {
                for (entry, member) in node.index.manifests.iter().zip(&node.members) {
                    member.collect(Some(entry), out);
                }
            }
        }
    }
}

/// A member of an index, or of an index within it.
#[derive(Clone, Debug)]
pub struct NestedMember<'a> {
    /// Position in the root index, then in the index at that position, and so on.
    pub path: Vec<usize>,
    /// The index that lists it.
    pub index: &'a IndexNode,
    /// Its entry in `index`.
    pub entry: &'a Descriptor,
    /// The member itself.
    pub node: &'a TreeNode,
}

impl NestedMember<'_> {
    /// Returns whether the member is an image or artifact, not an index.
    pub fn is_image(&self) -> bool {
        matches!(self.node, TreeNode::Image(_))
    }

    /// Returns whether the member is listed in an index below the root.
    pub fn is_nested(&self) -> bool {
        self.path.len() > 1
    }
}

impl IndexNode {
    /// Returns all members at any depth except attestations, depth first.
    pub fn nested_members(&self) -> Vec<NestedMember<'_>> {
        let mut out = Vec::new();
        self.add_nested(&[], &mut out);
        out
    }

    fn add_nested<'a>(&'a self, above: &[usize], out: &mut Vec<NestedMember<'a>>) {
        for (i, (entry, node)) in self.index.manifests.iter().zip(&self.members).enumerate() {
            if entry.attested_digest().is_some() {
                continue;
            }
            let path = [above, &[i]].concat();
            out.push(NestedMember { path: path.clone(), index: self, entry, node });
            if let TreeNode::Index(inner) = node {
                inner.add_nested(&path, out);
            }
        }
    }
}

/// Returns the members whose entry `fits`: images if there are any, otherwise indexes.
pub fn matching<'a, 'p>(
    all: &'a [NestedMember<'p>],
    fits: impl Fn(&Descriptor) -> bool,
) -> Vec<&'a NestedMember<'p>> {
    let found = all.iter().filter(|member| fits(member.entry));
    let (images, indexes): (Vec<_>, Vec<_>) = found.partition(|member| member.is_image());
    if images.is_empty() { indexes } else { images }
}

impl Image {
    /// Returns whether a container can be made of it: it is neither an attestation nor an artifact.
    pub fn is_runnable(&self) -> bool {
        self.manifest.artifact_type.is_none()
            && self.config.as_ref().is_some_and(|c| !c.parsed.platform.is_unknown())
    }
}

/// Reads the image or index that `at` refers to, with everything below it.
///
/// # Errors
/// `NotFound` if something is absent, `Integrity` if a member has another size or media type than its entry,
/// `BadInput` if indexes are nested too deeply or have too many members.
pub fn read_tree(source: &dyn ImageSource, at: &Pointer) -> Result<TreeNode, Error> {
    read_tree_below(source, source.read_document(at)?, 0)
}

/// Returns the tree of a document that has been read already. `depth` is the number of indexes above it.
///
/// # Errors
/// As [`read_tree`].
pub fn read_tree_below(
    source: &dyn ImageSource,
    document: Document,
    depth: usize,
) -> Result<TreeNode, Error> {
    read_within(source, document, depth, &AtomicUsize::new(MEMBERS_MAX))
}

/// `left` is the number of members that the whole tree may still have.
fn read_within(
    source: &dyn ImageSource,
    document: Document,
    depth: usize,
    left: &AtomicUsize,
) -> Result<TreeNode, Error> {
    let what = format!("{} of \"{}\"", document.digest(), source.display_name());
    match document.parse().map_err(|e| e.at(&what))? {
        ParsedDocument::Manifest(manifest) => {
            let config = read_config(source, &manifest.config, &what)?;
            Ok(TreeNode::Image(Image { document, manifest, config }))
        }
        ParsedDocument::Index(index) => {
            let doing = || format!("read index {what}");
            if depth >= DEPTH_MAX {
                return Err(Error::bad_input(doing(), format!("indexes are nested deeper than {DEPTH_MAX}")));
            }
            if index.manifests.len() > MEMBERS_MAX {
                let why = format!("it has {} members; the limit is {MEMBERS_MAX}", index.manifests.len());
                return Err(Error::bad_input(doing(), why));
            }
            let members = index.manifests.len();
            if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(members)).is_err() {
                let why = format!("the indexes of this image have more than {MEMBERS_MAX} members in total");
                return Err(Error::bad_input(doing(), why));
            }
            // Only the first level is read in parallel: nested indexes would multiply the connections.
            let at_once = if depth == 0 { source.concurrency(parallel::REQUESTS) } else { 1 };
            let members = parallel::map(&index.manifests, at_once, |entry| {
                read_within(source, read_member(source, entry)?, depth + 1, left)
            })?;
            Ok(TreeNode::Index(IndexNode { document, index, members }))
        }
    }
}

/// Reads the document of an index entry and compares it with the entry's size and media type.
fn read_member(source: &dyn ImageSource, entry: &Descriptor) -> Result<Document, Error> {
    let document = source.read_document(&Pointer::from(&entry.digest))?;
    let doing = || format!("read member {} of \"{}\"", entry.digest, source.display_name());
    let size = document.bytes().len() as u64;
    if size != entry.size {
        let why = format!("it has {size} bytes; its index entry declares {}", entry.size);
        return Err(Error::integrity(doing(), why));
    }
    if !entry.media_type.is_empty() && entry.media_type != document.media_type() {
        let why =
            format!("it is \"{}\"; its index entry declares \"{}\"", document.media_type(), entry.media_type);
        return Err(Error::integrity(doing(), why));
    }
    Ok(document)
}

fn read_config(
    source: &dyn ImageSource,
    blob: &Descriptor,
    what: &str,
) -> Result<Option<ImageConfig>, Error> {
    if !matches!(blob.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Ok(None);
    }
    let bytes = read_blob(source, blob, CONFIG_MAX)?;
    let parsed = Config::parse(&bytes).map_err(|e| e.at(&format!("config {} of {what}", blob.digest)))?;
    Ok(Some(ImageConfig { bytes, parsed }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ImageStore;
    use crate::store::memory::MemoryStore;
    use error::Exit;

    fn index_over(store: &MemoryStore, entries: &[Descriptor]) -> Document {
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
        let index = Document::new(index.into_bytes(), None).unwrap();
        store.write_document(&index).unwrap();
        index
    }

    #[test]
    fn members_are_found_at_any_depth_and_an_index_only_where_no_image_fits() {
        let store = MemoryStore::new();
        let config = store.add_blob(media_type::OCI_CONFIG, br#"{"os":"linux","architecture":"arm64"}"#);
        let image = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        let image = Document::new(image.into_bytes(), None).unwrap();
        store.write_document(&image).unwrap();
        let with_platform = |document: &Document, platform: &str| {
            let mut entry = document.descriptor();
            entry.platform = Some(platform.parse().unwrap());
            entry
        };
        let mut attests = with_platform(&image, "unknown/unknown");
        attests.annotations.insert("vnd.docker.reference.digest".into(), image.digest().to_string());
        attests.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let inner = index_over(&store, &[with_platform(&image, "linux/arm64"), attests]);
        let without_platform = index_over(&store, &[image.descriptor()]);
        let outer = [
            with_platform(&image, "linux/amd64"),
            with_platform(&inner, "linux/arm64"),
            with_platform(&without_platform, "linux/s390x"),
        ];
        let outer = index_over(&store, &outer);
        let TreeNode::Index(node) = read_tree(&store, &Pointer::from(outer.digest())).unwrap() else {
            panic!()
        };
        let all = node.nested_members();
        let paths: Vec<&[usize]> = all.iter().map(|member| member.path.as_slice()).collect();
        assert_eq!(paths, [&[0][..], &[1], &[1, 0], &[2], &[2, 0]]);
        let found = |platform: &str| -> Vec<(Vec<usize>, Digest)> {
            let platform = platform.parse().unwrap();
            let fits = |entry: &Descriptor| {
                entry.platform.as_ref().is_some_and(|declared| declared.matches(&platform))
            };
            matching(&all, fits).iter().map(|s| (s.path.clone(), s.index.document.digest().clone())).collect()
        };
        assert_eq!(found("linux/amd64"), [(vec![0], outer.digest().clone())]);
        assert_eq!(found("linux/arm64"), [(vec![1, 0], inner.digest().clone())]);
        assert_eq!(found("linux/s390x"), [(vec![2], outer.digest().clone())]);
        assert_eq!(found("linux/riscv64"), []);
    }

    #[test]
    fn a_config_of_more_than_4_mib_is_refused() {
        let store = MemoryStore::new();
        let read = |size: usize| {
            let mut config = br#"{"os":"linux","architecture":"arm64"}"#.to_vec();
            config.resize(size, b' ');
            let config = store.add_blob(media_type::OCI_CONFIG, &config);
            let image = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
            let image = Document::new(image.into_bytes(), None).unwrap();
            store.write_document(&image).unwrap();
            read_tree(&store, &Pointer::from(image.digest()))
        };
        assert!(read(4 << 20).is_ok());
        assert_eq!(read((4 << 20) + 1).unwrap_err().kind, Exit::BadInput);
    }

    #[test]
    fn a_few_small_indexes_cannot_expand_to_millions_of_images() {
        let store = MemoryStore::new();
        let config = store.add_blob(media_type::OCI_CONFIG, br#"{"os":"linux","architecture":"arm64"}"#);
        let image = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
        let mut below = Document::new(image.into_bytes(), None).unwrap();
        store.write_document(&below).unwrap();
        for level in 0..7 {
            let entries = vec![below.descriptor(); 12];
            let index = serde_json::json!({"schemaVersion": 2, "manifests": entries, "x-level": level});
            below = Document::new(index.to_string().into_bytes(), None).unwrap();
            store.write_document(&below).unwrap();
        }
        let error = read_tree(&store, &Pointer::from(below.digest())).unwrap_err();
        assert_eq!(error.kind, Exit::BadInput);
        assert!(error.to_string().contains("more than 10000 members"), "{error}");
    }
}
