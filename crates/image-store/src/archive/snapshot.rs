//! An archive as it was read: its members, its images by name, and the member of each blob. Immutable; after a write there
//! is a new one.

use super::format::blob_path;
use super::format::index_json::IndexJson;
use super::format::manifest_json::ManifestJson;
use super::format::names::Naming;
use super::tar::{ByteWrite, TarFile};
use crate::layout_tags::EntryTags;
use crate::store::UNNAMED;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, ParsedDocument};
use read::OnDamage;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

mod read;

/// Identity of a file, to detect changes since it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileIdentity {
    pub fn of(meta: &std::fs::Metadata) -> Self {
        // The time of the inode, since the modification time is preserved when an archive is rewritten.
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), changed }
    }
}

/// One name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// The name as the archive spells it.
    pub shown: String,
    pub document: Digest,
    /// Its entry in `index.json`.
    pub entry: Option<usize>,
}

/// Digests of layers by the offset of their content.
pub type LayerDigests = BTreeMap<u64, Digest>;

/// A layer to which a path of `manifest.json` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveLayer {
    pub blob: Descriptor,
    /// Indices of the links that lead to it and, last, of the file.
    pub members: Vec<usize>,
}

pub struct Snapshot {
    pub naming: Naming,
    pub tar: TarFile,
    /// `None` if there is no file yet.
    pub identity: Option<FileIdentity>,
    /// `manifest.json`, which `docker load` reads. A layout may have none.
    pub list: Option<ManifestJson>,
    /// `index.json`; `None` for an archive of the classic form, which has no manifests.
    pub index: Option<IndexJson>,
    /// By the key of the name.
    pub names: BTreeMap<String, NamedImage>,
    pub unnamed: Vec<NamedImage>,
    pub documents: BTreeMap<Digest, Document>,
    /// Images by the digest of their config.
    ids: BTreeMap<Digest, Digest>,
    /// Members of indexes that are not in the archive: Docker saves only the platforms that it has.
    pub absent: BTreeSet<Digest>,
    /// Manifests and indexes that cannot be read, with the reason. Nothing is written to such an archive.
    pub unreadable: BTreeMap<Digest, Error>,
    /// Digests of image and config for each item of `list`.
    pub item_documents: Vec<Digest>,
    pub item_configs: Vec<Digest>,
    pub layers: BTreeMap<String, ArchiveLayer>,
    /// Configs and layers of an archive of the classic form. In a layout, a blob's path has its digest.
    blobs: BTreeMap<Digest, usize>,
}

impl Snapshot {
    /// Returns a new archive. `file` is empty and unnamed.
    pub fn empty(file: File, identity: Option<FileIdentity>, naming: Naming) -> Result<Self, Error> {
        let doing = "make a new archive";
        let tar = TarFile::read(Arc::new(file)).map_err(|e| e.at(doing))?;
        let mut snapshot = Self::bare(tar, identity, naming);
        snapshot.list = (naming == Naming::Docker).then(ManifestJson::empty);
        snapshot.index = Some(IndexJson::empty().map_err(|e| e.at(doing))?);
        Ok(snapshot)
    }

    /// Reads an archive. `place` is its name in messages.
    pub fn read(file: File, place: &str, naming: Naming) -> Result<Self, Error> {
        read::read(file, place, naming, &LayerDigests::new(), &[], OnDamage::Keep)
    }

    /// The same of a file whose layers need not be read, or that has holes in their place: digests that must be
    /// known are taken from `layer_digests`.
    pub fn read_known(
        file: File,
        place: &str,
        naming: Naming,
        layer_digests: &LayerDigests,
    ) -> Result<Self, Error> {
        read::read(file, place, naming, layer_digests, &[], OnDamage::Refuse)
    }

    /// Reads the file of this snapshot as if these bytes were written over it.
    pub fn read_over(
        &self,
        writes: &[ByteWrite],
        place: &str,
        layer_digests: &LayerDigests,
    ) -> Result<Self, Error> {
        read::read(self.clone_file(place)?, place, self.naming, layer_digests, writes, OnDamage::Refuse)
    }

    /// Records that those bytes are written.
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
        // Changes since the first read must be detected.
        again.identity = self.identity;
        Ok(again)
    }

    /// Returns the digests of layers whose paths do not have them.
    pub fn layer_digests(&self) -> LayerDigests {
        let place = |layer: &ArchiveLayer| {
            let member = &self.tar.members()[*layer.members.last()?];
            Some((member.data_at, layer.blob.digest.clone()))
        };
        self.layers.values().filter_map(place).collect()
    }

    /// Returns a snapshot of the same file without its contents.
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
            unreadable: BTreeMap::new(),
            item_documents: Vec::new(),
            item_configs: Vec::new(),
            layers: BTreeMap::new(),
            blobs: BTreeMap::new(),
        }
    }

    /// Fails if a manifest cannot be read: the archive is not written then.
    ///
    /// # Errors
    /// That of the first such manifest.
    pub fn refuse_unreadable(&self) -> Result<(), Error> {
        self.unreadable.values().next().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Returns whether an index of the archive lists this member, or a manifest this layer, and the archive does not have it.
    pub fn lacks(&self, part: &Digest) -> bool {
        let lists = |document: &Document| match document.parse() {
            Ok(ParsedDocument::Manifest(manifest)) => {
                manifest.layers.iter().any(|layer| layer.digest == *part)
            }
            Ok(ParsedDocument::Index(_)) | Err(_) => false,
        };
        self.absent.contains(part) || (self.blob(part).is_none() && self.documents.values().any(lists))
    }

    /// Returns the image with this name; [`UNNAMED`] is the one without a name.
    ///
    /// # Errors
    /// The reason if several images have no name.
    pub fn named(&self, tag: &str) -> Result<Option<&NamedImage>, String> {
        match (tag, self.unnamed.as_slice()) {
            (UNNAMED, []) => Ok(None),
            // Several entries of the same image are accepted.
            (UNNAMED, [first, rest @ ..]) if rest.iter().all(|other| other.document == first.document) => {
                Ok(Some(first))
            }
            (UNNAMED, many) => Err(format!("{} images in it have no name", many.len())),
            (tag, _) => Ok(self.names.get(&self.key(tag))),
        }
    }

    /// Returns the key of a name in [`Self::names`]. In a layout, a full name stands for the tag of its entry.
    pub fn key(&self, tag: &str) -> String {
        let key = self.naming.key(tag);
        let entries = self.index.as_ref().map_or(&[][..], |index| &index.entries);
        if self.naming == Naming::Docker || self.names.contains_key(&key) {
            return key;
        }
        let tags = EntryTags::new(entries);
        tags.with_tag(tag).first().map_or(key, |called| tags.tags[*called].to_string())
    }

    /// Returns a document by its digest, or by the digest of its config, which is Docker's image ID.
    pub fn document(&self, digest: &Digest) -> Option<&Document> {
        let by_id = || self.documents.get(self.ids.get(digest)?);
        self.documents.get(digest).or_else(by_id)
    }

    /// Returns the other names that belong to the same entry of `index.json`.
    pub fn names_of_same_entry(&self, tag: &str) -> Vec<&NamedImage> {
        let key = self.key(tag);
        let Some(entry) = self.names.get(&key).and_then(|named| named.entry) else { return Vec::new() };
        let others = self.names.iter().filter(|(other, named)| **other != key && named.entry == Some(entry));
        others.map(|(_, named)| named).collect()
    }

    /// Returns the index of the member to which a path of `manifest.json` leads.
    pub fn file(&self, path: &str) -> Option<usize> {
        self.tar.resolve(path.as_bytes()).ok()?.pop()
    }

    /// Returns the index of the member with this digest.
    pub fn blob(&self, digest: &Digest) -> Option<usize> {
        if let Some(member) = self.blobs.get(digest) {
            return Some(*member);
        }
        self.index.as_ref()?;
        let members = self.tar.resolve(blob_path(digest).as_bytes()).ok()?;
        members.last().copied()
    }
}
