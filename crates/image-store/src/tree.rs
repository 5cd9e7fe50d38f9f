//! Images and indexes with everything below them: documents and configs, without layers.

use crate::parallel;
use crate::store::{ImageSource, Pointer, read_blob};
use error::{Error, Exit};
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
    /// An image or index that could not be read; only in trees of [`read_sparse_tree`].
    Unread(UnreadNode),
}

/// An image or index that could not be read.
#[derive(Clone, Debug)]
pub struct UnreadNode {
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// The manifest, if only its config could not be read.
    pub document: Option<Document>,
    /// Why it could not be read.
    pub error: Error,
}

/// Fails if one of these nodes could not be read for another reason than its absence.
///
/// # Errors
/// That of the first such node.
pub fn refuse_unreadable(leaves: &[(Option<&Descriptor>, &TreeNode)]) -> Result<(), Error> {
    let failed = leaves.iter().find_map(|(_, node)| match node {
        TreeNode::Unread(unread) if !unread.is_absent() => Some(unread.error.clone()),
        _ => None,
    });
    failed.map_or(Ok(()), Err)
}

impl UnreadNode {
    /// Returns whether the store does not have the document or its config.
    pub fn is_absent(&self) -> bool {
        self.error.kind == Exit::NotFound
    }

    /// What is absent, as a sentence without a period; `None` if it could not be read for another reason.
    pub fn absent_part(&self) -> Option<String> {
        let config = self.document.as_ref().and_then(|document| match document.parse() {
            Ok(ParsedDocument::Manifest(manifest)) => Some(manifest.config.digest),
            _ => None,
        });
        self.is_absent().then(|| match config {
            Some(config) => format!("config {config} is absent"),
            None => format!("manifest {} is absent", self.digest),
        })
    }
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
    /// The manifest or index itself, if it was read.
    pub fn document(&self) -> Option<&Document> {
        match self {
            Self::Image(image) => Some(&image.document),
            Self::Index(index) => Some(&index.document),
            Self::Unread(unread) => unread.document.as_ref(),
        }
    }

    /// The digest of the manifest or index.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Image(image) => image.document.digest(),
            Self::Index(index) => index.document.digest(),
            Self::Unread(unread) => &unread.digest,
        }
    }

    /// Returns every image of the tree with its index entry (`None` for the root), depth first.
    pub fn images(&self) -> Vec<(Option<&Descriptor>, &Image)> {
        let leaves = self.leaves().into_iter();
        let images = leaves.filter_map(|(entry, node)| match node {
            Self::Image(image) => Some((entry, image)),
            Self::Index(_) | Self::Unread(_) => None,
        });
        images.collect()
    }

    /// Returns what could not be read, with its index entry (`None` for the root), depth first.
    pub fn unread(&self) -> Vec<(Option<&Descriptor>, &UnreadNode)> {
        let leaves = self.leaves().into_iter();
        let unread = leaves.filter_map(|(entry, node)| match node {
            Self::Unread(unread) => Some((entry, unread)),
            Self::Index(_) | Self::Image(_) => None,
        });
        unread.collect()
    }

    /// Returns the platforms of absent members of the root, as its entries have them.
    pub fn absent_platforms(&self) -> Vec<String> {
        let Self::Index(node) = self else { return Vec::new() };
        let members = node.index.manifests.iter().zip(&node.members);
        let absent = members.filter(|(entry, member)| {
            entry.attested_digest().is_none() && matches!(member, Self::Unread(unread) if unread.is_absent())
        });
        absent.filter_map(|(entry, _)| entry.platform.as_ref().map(ToString::to_string)).collect()
    }

    /// Fails if a part of the tree could not be read.
    ///
    /// # Errors
    /// That of the first such part.
    pub fn require_complete(&self) -> Result<(), Error> {
        self.unread().first().map_or(Ok(()), |(_, unread)| Err(unread.error.clone()))
    }

    /// Returns every image of the tree, and what could not be read, with its index entry (`None` for the root), depth
    /// first.
    pub fn leaves(&self) -> Vec<(Option<&Descriptor>, &Self)> {
        let mut out = Vec::new();
        self.collect(None, &mut out);
        out
    }

    fn collect<'a>(
        &'a self,
        entry: Option<&'a Descriptor>,
        out: &mut Vec<(Option<&'a Descriptor>, &'a Self)>,
    ) {
        match self {
            Self::Image(_) | Self::Unread(_) => out.push((entry, self)),
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
    /// Returns whether the member is an image or artifact, not an index. A member that could not be read counts as an image.
    pub fn is_image(&self) -> bool {
        !matches!(self.node, TreeNode::Index(_))
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
    Reading::new(source).node(document, depth, true)
}

/// Reads as [`read_tree`], but members that cannot be read do not stop the others: they are [`TreeNode::Unread`]. So is the
/// root if its config is absent.
///
/// # Errors
/// As [`read_tree`], for the root itself and for the limits of a tree.
pub fn read_sparse_tree(source: &dyn ImageSource, at: &Pointer) -> Result<TreeNode, Error> {
    read_sparse_tree_below(source, source.read_document(at)?)
}

/// Returns the tree of a root that has been read already.
///
/// # Errors
/// As [`read_sparse_tree`].
pub fn read_sparse_tree_below(source: &dyn ImageSource, document: Document) -> Result<TreeNode, Error> {
    Reading { is_sparse: true, ..Reading::new(source) }.node(document, 0, true)
}

/// Reads as [`read_sparse_tree`], but only the configs of images whose index entry has no platform: [`Image::config`] of
/// the others is `None`. An index takes two round trips.
///
/// # Errors
/// As [`read_sparse_tree`].
pub fn read_manifests(source: &dyn ImageSource, at: &Pointer) -> Result<TreeNode, Error> {
    let document = source.read_document(at)?;
    Reading { is_sparse: true, needs_all_configs: false, ..Reading::new(source) }.node(document, 0, true)
}

/// The state of reading a tree.
struct Reading<'a> {
    source: &'a dyn ImageSource,
    /// The number of members that the whole tree may still have.
    left: AtomicUsize,
    /// Members that cannot be read are nodes.
    is_sparse: bool,
    /// The configs of images whose entry has a platform are read as well.
    needs_all_configs: bool,
}

impl<'a> Reading<'a> {
    fn new(source: &'a dyn ImageSource) -> Self {
        Self { source, left: AtomicUsize::new(MEMBERS_MAX), is_sparse: false, needs_all_configs: true }
    }

    fn node(&self, document: Document, depth: usize, needs_config: bool) -> Result<TreeNode, Error> {
        let what = format!("{} of \"{}\"", document.digest(), self.source.display_name());
        match document.parse() {
            Ok(ParsedDocument::Index(index)) => self.index(document, index, depth, &what),
            Ok(ParsedDocument::Manifest(manifest)) if !needs_config => {
                Ok(TreeNode::Image(Image { document, manifest, config: None }))
            }
            Ok(ParsedDocument::Manifest(manifest)) => match read_config(self.source, &manifest.config, &what)
            {
                Ok(config) => Ok(TreeNode::Image(Image { document, manifest, config })),
                Err(error) if depth == 0 && error.kind != Exit::NotFound => Err(error),
                Err(error) => self.unread(document.digest().clone(), Some(document), error),
            },
            Err(error) if depth == 0 => Err(error.at(&what)),
            Err(error) => self.unread(document.digest().clone(), None, error.at(&what)),
        }
    }

    fn unread(&self, digest: Digest, document: Option<Document>, error: Error) -> Result<TreeNode, Error> {
        match self.is_sparse {
            true => Ok(TreeNode::Unread(UnreadNode { digest, document, error })),
            false => Err(error),
        }
    }

    fn index(&self, document: Document, index: Index, depth: usize, what: &str) -> Result<TreeNode, Error> {
        let refuse = |why: String| Err(Error::bad_input(format!("read index {what}"), why));
        let members = index.manifests.len();
        if depth >= DEPTH_MAX {
            return refuse(format!("indexes are nested deeper than {DEPTH_MAX}"));
        }
        if members > MEMBERS_MAX {
            return refuse(format!("it has {members} members; the limit is {MEMBERS_MAX}"));
        }
        if self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(members)).is_err() {
            return refuse(format!(
                "the indexes of this image have more than {MEMBERS_MAX} members in total"
            ));
        }
        // Only the first level is read in parallel: nested indexes would multiply the connections.
        let at_once = if depth == 0 { self.source.concurrency(parallel::REQUESTS) } else { 1 };
        let members =
            parallel::map(&index.manifests, at_once, |entry| match read_member(self.source, entry) {
                Ok(document) => {
                    self.node(document, depth + 1, self.needs_all_configs || entry.platform.is_none())
                }
                Err(error) => self.unread(entry.digest.clone(), None, error),
            })?;
        Ok(TreeNode::Index(IndexNode { document, index, members }))
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
