//! An image, or an index with all that it names, read whole: documents and configs, never layers.

use crate::parallel;
use crate::store::{ImageSource, Pointer, read_blob};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{CONFIG_MAX, Config, Content, Descriptor, Document, Index, Manifest, media_type};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Indexes within indexes deeper than this are refused; nobody builds them.
pub const DEPTH_MAX: usize = 8;
/// More members than this are refused, in one index and in all indexes of a tree together: a few small ones that name the
/// same child many times would otherwise stand for millions.
pub const MEMBERS_MAX: usize = 10_000;

/// What a name points to.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "trees are small and short-lived")]
pub enum Node {
    Image(Image),
    Index(IndexNode),
}

/// One manifest with its config.
#[derive(Clone, Debug)]
pub struct Image {
    pub document: Document,
    pub manifest: Manifest,
    /// `None` for an artifact: its config is no image config.
    pub config: Option<ImageConfig>,
}

#[derive(Clone, Debug)]
pub struct ImageConfig {
    pub bytes: Vec<u8>,
    pub parsed: Config,
}

/// An index and, in its order, its members.
#[derive(Clone, Debug)]
pub struct IndexNode {
    pub document: Document,
    pub index: Index,
    pub members: Vec<Node>,
}

impl Node {
    pub fn document(&self) -> &Document {
        match self {
            Self::Image(image) => &image.document,
            Self::Index(index) => &index.document,
        }
    }

    pub fn digest(&self) -> &Digest {
        self.document().digest()
    }

    /// Every image of the tree with the entry that names it (`None` for the root), depth first.
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
pub struct Seat<'a> {
    /// Its place in the root, then in the index that stands there, and so on.
    pub way: Vec<usize>,
    /// The index that names it.
    pub index: &'a IndexNode,
    pub entry: &'a Descriptor,
    pub node: &'a Node,
}

impl Seat<'_> {
    pub fn is_image(&self) -> bool {
        matches!(self.node, Node::Image(_))
    }

    /// Does it stand in an index within the root?
    pub fn is_within(&self) -> bool {
        self.way.len() > 1
    }
}

impl IndexNode {
    /// Every member at any depth but attestations, depth first.
    pub fn seats(&self) -> Vec<Seat<'_>> {
        let mut out = Vec::new();
        self.add_seats(&[], &mut out);
        out
    }

    fn add_seats<'a>(&'a self, above: &[usize], out: &mut Vec<Seat<'a>>) {
        for (i, (entry, node)) in self.index.manifests.iter().zip(&self.members).enumerate() {
            if entry.attests().is_some() {
                continue;
            }
            let way = [above, &[i]].concat();
            out.push(Seat { way: way.clone(), index: self, entry, node });
            if let Node::Index(inner) = node {
                inner.add_seats(&way, out);
            }
        }
    }
}

/// Those that fit; indexes only where no image does.
pub fn fitting<'a, 'p>(all: &'a [Seat<'p>], fits: impl Fn(&Descriptor) -> bool) -> Vec<&'a Seat<'p>> {
    let found = all.iter().filter(|seat| fits(seat.entry));
    let (images, indexes): (Vec<_>, Vec<_>) = found.partition(|seat| seat.is_image());
    if images.is_empty() { indexes } else { images }
}

impl Image {
    /// An image that a container can be made of: not an attestation, not an artifact.
    pub fn is_runnable(&self) -> bool {
        self.manifest.artifact_type.is_none()
            && self.config.as_ref().is_some_and(|c| !c.parsed.platform.is_unknown())
    }
}

/// Reads what `at` names, and all below it, from `source`.
pub fn read_tree(source: &dyn ImageSource, at: &Pointer) -> Result<Node, Error> {
    grow(source, source.read_document(at)?, 0)
}

/// The tree below a document that has been read already, which lies at this depth.
pub fn grow(source: &dyn ImageSource, document: Document, depth: usize) -> Result<Node, Error> {
    grow_within(source, document, depth, &AtomicUsize::new(MEMBERS_MAX))
}

/// `left` is how many members the whole tree may still have.
fn grow_within(
    source: &dyn ImageSource,
    document: Document,
    depth: usize,
    left: &AtomicUsize,
) -> Result<Node, Error> {
    let what = format!("{} of \"{}\"", document.digest(), source.place());
    match document.parse().map_err(|e| e.at(&what))? {
        Content::Manifest(manifest) => {
            let config = read_config(source, &manifest.config, &what)?;
            Ok(Node::Image(Image { document, manifest, config }))
        }
        Content::Index(index) => {
            let doing = || format!("read index {what}");
            if depth >= DEPTH_MAX {
                return Err(Error::bad_input(doing(), format!("indexes are nested deeper than {DEPTH_MAX}")));
            }
            if index.manifests.len() > MEMBERS_MAX {
                let why = format!("it has {} members; at most {MEMBERS_MAX} are read", index.manifests.len());
                return Err(Error::bad_input(doing(), why));
            }
            let members = index.manifests.len();
            if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(members)).is_err() {
                let why = format!("with it, the indexes of one image have more than {MEMBERS_MAX} members");
                return Err(Error::bad_input(doing(), why));
            }
            // Only the first level fans out: what is nested would multiply the connections.
            let at_once = if depth == 0 { parallel::REQUESTS } else { 1 };
            let members = parallel::map(&index.manifests, at_once, |entry| {
                grow_within(source, read_member(source, entry)?, depth + 1, left)
            })?;
            Ok(Node::Index(IndexNode { document, index, members }))
        }
    }
}

/// The document that an index entry names, held against the entry's size and media type.
fn read_member(source: &dyn ImageSource, entry: &Descriptor) -> Result<Document, Error> {
    let document = source.read_document(&Pointer::from(&entry.digest))?;
    let doing = || format!("read member {} of \"{}\"", entry.digest, source.place());
    let size = document.bytes().len() as u64;
    if size != entry.size {
        let why = format!("the index says {} bytes, it has {size}", entry.size);
        return Err(Error::integrity(doing(), why));
    }
    if !entry.media_type.is_empty() && entry.media_type != document.media_type() {
        let why = format!("the index says \"{}\", it is \"{}\"", entry.media_type, document.media_type());
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
        let said = |document: &Document, platform: &str| {
            let mut entry = document.descriptor();
            entry.platform = Some(platform.parse().unwrap());
            entry
        };
        let mut attests = said(&image, "unknown/unknown");
        attests.annotations.insert("vnd.docker.reference.digest".into(), image.digest().to_string());
        attests.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let inner = index_over(&store, &[said(&image, "linux/arm64"), attests]);
        let unsaid = index_over(&store, &[image.descriptor()]);
        let outer = [said(&image, "linux/amd64"), said(&inner, "linux/arm64"), said(&unsaid, "linux/s390x")];
        let outer = index_over(&store, &outer);
        let Node::Index(node) = read_tree(&store, &Pointer::from(outer.digest())).unwrap() else { panic!() };
        let all = node.seats();
        let ways: Vec<&[usize]> = all.iter().map(|seat| seat.way.as_slice()).collect();
        assert_eq!(ways, [&[0][..], &[1], &[1, 0], &[2], &[2, 0]]);
        let found = |platform: &str| -> Vec<(Vec<usize>, Digest)> {
            let platform = platform.parse().unwrap();
            let fits = |entry: &Descriptor| entry.platform.as_ref().is_some_and(|said| said.fits(&platform));
            fitting(&all, fits).iter().map(|s| (s.way.clone(), s.index.document.digest().clone())).collect()
        };
        assert_eq!(found("linux/amd64"), [(vec![0], outer.digest().clone())]);
        assert_eq!(found("linux/arm64"), [(vec![1, 0], inner.digest().clone())]);
        assert_eq!(found("linux/s390x"), [(vec![2], outer.digest().clone())]);
        assert_eq!(found("linux/riscv64"), []);
    }

    #[test]
    fn a_few_small_indexes_do_not_stand_for_millions_of_images() {
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
