//! What an archive holds at one moment: its members, its images by name, and where each blob lies.
//!
//! Read once, when the archive is opened, and never changed: after a write there is a new one.

use super::UNNAMED;
use super::index_json::IndexJson;
use super::journal::At;
use super::manifest_json::ManifestJson;
use super::name::Naming;
use crate::tar_file::{TarFile, plain_name};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

mod read;

/// `manifest.json` and `index.json` are lists of some hundred bytes for each image.
pub const LIST_MAX: u64 = 4 << 20;

pub const MANIFEST_JSON: &str = "manifest.json";
pub const INDEX_JSON: &str = "index.json";
pub const OCI_LAYOUT: &str = "oci-layout";
pub const REPOSITORIES: &str = "repositories";

/// Tells whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(meta: &std::fs::Metadata) -> Self {
        // Not the time of the content: that is kept when an archive is rewritten.
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed }
    }
}

/// An image by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As the archive spells it.
    pub shown: String,
    pub document: Digest,
    /// Its entry in `index.json`.
    pub entry: Option<usize>,
}

/// Digests of layers by the place of their content.
pub type Reckoned = BTreeMap<u64, Digest>;

/// A layer as a path of `manifest.json` leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub blob: Descriptor,
    /// The links on the way and, last, the file: places in the table of members.
    pub way: Vec<usize>,
}

pub struct Snapshot {
    pub naming: Naming,
    pub tar: TarFile,
    /// `None`: there is no file yet.
    pub stamp: Option<Stamp>,
    /// The list that `docker load` reads. A layout may do without.
    pub list: Option<ManifestJson>,
    /// `None`: an archive of the old form, which keeps no manifests.
    pub index: Option<IndexJson>,
    /// By the names' keys.
    pub names: BTreeMap<String, Named>,
    pub unnamed: Vec<Named>,
    pub documents: BTreeMap<Digest, Document>,
    /// Images by the digest of their config.
    ids: BTreeMap<Digest, Digest>,
    /// Members of indexes that the archive leaves out: Docker saves only the platforms that it has.
    pub absent: BTreeSet<Digest>,
    /// The image of each item of `list`, and its config.
    pub item_documents: Vec<Digest>,
    pub item_configs: Vec<Digest>,
    pub layers: BTreeMap<String, Layer>,
    /// Configs and layers of an archive of the old form; in a layout a blob's name says its digest.
    blobs: BTreeMap<Digest, usize>,
}

impl Snapshot {
    /// An archive that will be there with the first write. `file` is empty and has no name.
    pub fn empty(file: File, stamp: Option<Stamp>, naming: Naming) -> Result<Self, Error> {
        let doing = "make a new archive";
        let tar = TarFile::read(Arc::new(file)).map_err(|e| e.at(doing))?;
        let mut snapshot = Self::bare(tar, stamp, naming);
        snapshot.list = (naming == Naming::Docker).then(ManifestJson::empty);
        snapshot.index = Some(IndexJson::empty().map_err(|e| e.at(doing))?);
        Ok(snapshot)
    }

    /// Reads what the file holds. `place` names it in messages.
    pub fn read(file: File, place: &str, naming: Naming) -> Result<Self, Error> {
        read::read(file, place, naming, &Reckoned::new(), &[])
    }

    /// The same of a file whose layers need not be read, or that has holes in their place: digests that must be
    /// reckoned are taken from `reckoned`.
    pub fn read_known(file: File, place: &str, naming: Naming, reckoned: &Reckoned) -> Result<Self, Error> {
        read::read(file, place, naming, reckoned, &[])
    }

    /// Reads what the file of this snapshot will be once these bytes are written over it.
    pub fn read_over(&self, writes: &[At], place: &str, reckoned: &Reckoned) -> Result<Self, Error> {
        read::read(self.clone_file(place)?, place, self.naming, reckoned, writes)
    }

    /// Those bytes are written.
    pub fn set_written(&mut self) -> std::io::Result<()> {
        self.tar.set_written();
        self.stamp = Some(Stamp::of(&self.tar.file().metadata()?));
        Ok(())
    }

    fn clone_file(&self, place: &str) -> Result<File, Error> {
        let file = self.tar.file().try_clone();
        file.map_err(|e| Error::from_io(format!("read \"{place}\""), e))
    }

    /// Reads the file of this snapshot once more.
    pub fn read_again(&self, place: &str) -> Result<Self, Error> {
        let file = self.clone_file(place)?;
        let mut again = match self.tar.length() {
            0 => Self::empty(file, self.stamp, self.naming)?,
            _ => Self::read(file, place, self.naming)?,
        };
        // What was done to the file since then counts as a change.
        again.stamp = self.stamp;
        Ok(again)
    }

    /// Digests of layers whose names do not say them, by the place of their content.
    pub fn reckoned(&self) -> Reckoned {
        let place = |layer: &Layer| {
            let member = &self.tar.members()[*layer.way.last()?];
            Some((member.data_at, layer.blob.digest.clone()))
        };
        self.layers.values().filter_map(place).collect()
    }

    /// The same file, and nothing is known of it.
    pub fn emptied(&self) -> Self {
        Self::bare(self.tar.emptied(), self.stamp, self.naming)
    }

    fn bare(tar: TarFile, stamp: Option<Stamp>, naming: Naming) -> Self {
        Self {
            naming,
            tar,
            stamp,
            list: None,
            index: None,
            names: BTreeMap::new(),
            unnamed: Vec::new(),
            documents: BTreeMap::new(),
            ids: BTreeMap::new(),
            absent: BTreeSet::new(),
            item_documents: Vec::new(),
            item_configs: Vec::new(),
            layers: BTreeMap::new(),
            blobs: BTreeMap::new(),
        }
    }

    /// The image of this name. The empty name is that of the one image without any.
    pub fn named(&self, tag: &str) -> Result<Option<&Named>, String> {
        match (tag, self.unnamed.as_slice()) {
            (UNNAMED, []) => Ok(None),
            // Several entries of one image are one image.
            (UNNAMED, [first, rest @ ..]) if rest.iter().all(|other| other.document == first.document) => {
                Ok(Some(first))
            }
            (UNNAMED, many) => Err(format!("{} images in it have no name", many.len())),
            (tag, _) => Ok(self.names.get(&self.naming.key(tag))),
        }
    }

    /// A document by its digest, or by the digest of its config, which Docker calls the image's id.
    pub fn document(&self, digest: &Digest) -> Option<&Document> {
        let by_id = || self.documents.get(self.ids.get(digest)?);
        self.documents.get(digest).or_else(by_id)
    }

    /// Other names that stand for the entry of `index.json` that this name stands for.
    pub fn names_of_same_entry(&self, tag: &str) -> Vec<&Named> {
        let key = self.naming.key(tag);
        let Some(entry) = self.names.get(&key).and_then(|named| named.entry) else { return Vec::new() };
        let others = self.names.iter().filter(|(other, named)| **other != key && named.entry == Some(entry));
        others.map(|(_, named)| named).collect()
    }

    /// The file to which a path of `manifest.json` leads: a place in the table of members.
    pub fn file(&self, path: &str) -> Option<usize> {
        self.tar.resolve(path.as_bytes()).ok()?.pop()
    }

    /// Where the bytes of this digest lie: a place in the table of members.
    pub fn blob(&self, digest: &Digest) -> Option<usize> {
        if let Some(member) = self.blobs.get(digest) {
            return Some(*member);
        }
        self.index.as_ref()?;
        let way = self.tar.resolve(blob_path(digest).as_bytes()).ok()?;
        way.last().copied()
    }
}

/// Where a layout keeps a blob.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The digest that a path of a layout says, however the path is spelled.
pub fn digest_of_path(path: &str) -> Option<Digest> {
    let plain = plain_name(path.as_bytes()).ok()?;
    let (algorithm, hex) = str::from_utf8(&plain).ok()?.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// A config has one diff_id for each layer, and what is not compressed has it as its digest. `docker load` refuses
/// anything else, after it has unpacked it.
pub fn check_layers(layers: &[Descriptor], diff_ids: &[Digest]) -> Result<(), String> {
    if layers.len() != diff_ids.len() {
        return Err(format!("it has {} layers, its config {} diff_ids", layers.len(), diff_ids.len()));
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let is_plain = matches!(layer.media_type.as_str(), media_type::DOCKER_LAYER | media_type::OCI_LAYER);
        if is_plain && layer.digest != *diff_id {
            return Err(format!("its layer {} should be {diff_id} by its config", layer.digest));
        }
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Synthesized<'a> {
    schema_version: u8,
    media_type: &'static str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// The manifest of an image that comes without: always the same bytes for the same config and layers.
pub fn synthesize(config: &Descriptor, layers: &[Descriptor]) -> Result<Document, Error> {
    let doing = || format!("describe the image {}", config.digest);
    let manifest = Synthesized { schema_version: 2, media_type: media_type::DOCKER_MANIFEST, config, layers };
    let bytes = serde_json::to_vec(&manifest).map_err(|e| Error::bad_input(doing(), e.to_string()))?;
    Document::new(bytes, None).map_err(|e| e.at(&doing()))
}

/// How the bytes of a layer begin says how it is compressed.
pub fn layer_media_type(head: &[u8]) -> Result<&'static str, &'static str> {
    // RFC 1952, RFC 8878, and the signatures of bzip2 and xz.
    match head {
        [0x1f, 0x8b, ..] => Ok(media_type::DOCKER_LAYER_GZIP),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(DOCKER_LAYER_ZSTD),
        [b'B', b'Z', b'h', ..] => Err("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
        _ => Ok(media_type::DOCKER_LAYER),
    }
}

/// containerd's name for it (images/mediatypes.go); Docker has none of its own.
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// Configs are named by their digest: `HEX.json` (Docker), `sha256:HEX` (crane, kaniko), `blobs/sha256/HEX`.
pub fn digest_in_name(path: &str) -> Option<Digest> {
    let file = path.rsplit('/').next()?;
    let file = file.strip_suffix(".json").unwrap_or(file);
    format!("sha256:{}", file.strip_prefix("sha256:").unwrap_or(file)).parse().ok()
}
