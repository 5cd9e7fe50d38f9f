//! What an archive holds at one moment: its members, its images by name, and where each blob lies.
//!
//! Read once, when the archive is opened, and never changed: after a write there is a new one.

use super::format::blob_path;
use super::format::index_json::IndexJson;
use super::format::manifest_json::ManifestJson;
use super::format::names::Naming;
use super::tar::{ByteWrite, TarFile};
use crate::store::UNNAMED;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

mod read;

/// Tells whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileIdentity {
    pub fn of(meta: &std::fs::Metadata) -> Self {
        // Not the time of the content: that is kept when an archive is rewritten.
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed }
    }
}

/// An image by one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// As the archive spells it.
    pub shown: String,
    pub document: Digest,
    /// Its entry in `index.json`.
    pub entry: Option<usize>,
}

/// Digests of layers by the place of their content.
pub type LayerDigests = BTreeMap<u64, Digest>;

/// A layer as a path of `manifest.json` leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveLayer {
    pub blob: Descriptor,
    /// The links on the way and, last, the file: places in the table of members.
    pub members: Vec<usize>,
}

pub struct Snapshot {
    pub naming: Naming,
    pub tar: TarFile,
    /// `None`: there is no file yet.
    pub identity: Option<FileIdentity>,
    /// The list that `docker load` reads. A layout may do without.
    pub list: Option<ManifestJson>,
    /// `None`: an archive of the old form, which keeps no manifests.
    pub index: Option<IndexJson>,
    /// By the names' keys.
    pub names: BTreeMap<String, NamedImage>,
    pub unnamed: Vec<NamedImage>,
    pub documents: BTreeMap<Digest, Document>,
    /// Images by the digest of their config.
    ids: BTreeMap<Digest, Digest>,
    /// Members of indexes that the archive leaves out: Docker saves only the platforms that it has.
    pub absent: BTreeSet<Digest>,
    /// The image of each item of `list`, and its config.
    pub item_documents: Vec<Digest>,
    pub item_configs: Vec<Digest>,
    pub layers: BTreeMap<String, ArchiveLayer>,
    /// Configs and layers of an archive of the old form; in a layout a blob's name says its digest.
    blobs: BTreeMap<Digest, usize>,
}

impl Snapshot {
    /// An archive that will be there with the first write. `file` is empty and has no name.
    pub fn empty(file: File, identity: Option<FileIdentity>, naming: Naming) -> Result<Self, Error> {
        let doing = "make a new archive";
        let tar = TarFile::read(Arc::new(file)).map_err(|e| e.at(doing))?;
        let mut snapshot = Self::bare(tar, identity, naming);
        snapshot.list = (naming == Naming::Docker).then(ManifestJson::empty);
        snapshot.index = Some(IndexJson::empty().map_err(|e| e.at(doing))?);
        Ok(snapshot)
    }

    /// Reads what the file holds. `place` names it in messages.
    pub fn read(file: File, place: &str, naming: Naming) -> Result<Self, Error> {
        read::read(file, place, naming, &LayerDigests::new(), &[])
    }

    /// The same of a file whose layers need not be read, or that has holes in their place: digests that must be
    /// known are taken from `layer_digests`.
    pub fn read_known(
        file: File,
        place: &str,
        naming: Naming,
        layer_digests: &LayerDigests,
    ) -> Result<Self, Error> {
        read::read(file, place, naming, layer_digests, &[])
    }

    /// Reads what the file of this snapshot will be once these bytes are written over it.
    pub fn read_over(
        &self,
        writes: &[ByteWrite],
        place: &str,
        layer_digests: &LayerDigests,
    ) -> Result<Self, Error> {
        read::read(self.clone_file(place)?, place, self.naming, layer_digests, writes)
    }

    /// Those bytes are written.
    pub fn set_written(&mut self) -> std::io::Result<()> {
        self.tar.set_written();
        self.identity = Some(FileIdentity::of(&self.tar.file().metadata()?));
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
            0 => Self::empty(file, self.identity, self.naming)?,
            _ => Self::read(file, place, self.naming)?,
        };
        // What was done to the file since then counts as a change.
        again.identity = self.identity;
        Ok(again)
    }

    /// Digests of layers whose names do not say them, by the place of their content.
    pub fn layer_digests(&self) -> LayerDigests {
        let place = |layer: &ArchiveLayer| {
            let member = &self.tar.members()[*layer.members.last()?];
            Some((member.data_at, layer.blob.digest.clone()))
        };
        self.layers.values().filter_map(place).collect()
    }

    /// The same file, and nothing is known of it.
    pub fn emptied(&self) -> Self {
        Self::bare(self.tar.emptied(), self.identity, self.naming)
    }

    fn bare(tar: TarFile, identity: Option<FileIdentity>, naming: Naming) -> Self {
        Self {
            naming,
            tar,
            identity,
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
    pub fn named(&self, tag: &str) -> Result<Option<&NamedImage>, String> {
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
    pub fn names_of_same_entry(&self, tag: &str) -> Vec<&NamedImage> {
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
        let members = self.tar.resolve(blob_path(digest).as_bytes()).ok()?;
        members.last().copied()
    }
}
