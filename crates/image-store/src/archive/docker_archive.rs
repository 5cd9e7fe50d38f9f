//! `docker save` archives: tars with one or more images, read without unpacking and replaced atomically.
//!
//! There are two forms. The classic one (Docker before 25, podman, skopeo) has paths to configs and layers and no
//! manifests; these are generated, always the same for the same image. The other one (Docker 25 and later, BuildKit) is an
//! OCI layout with `manifest.json` in addition. New archives are written as layouts, which all of these programs load.
//! Blobs and documents are kept outside the archive until a tag refers to them: [`ImageStore::write_tag`] writes the
//! archive once, and no reader sees a partial one.

use super::edit::plan_tag;
use super::expected::{self, ExpectedNames};
use super::format::MANIFEST_JSON;
use super::format::names::Naming;
use super::in_place::{self, InPlacePlan, redo_log};
use super::pending::{self, Pending};
use super::relabel::Relabel;
use super::snapshot::{FileIdentity, Snapshot};
use super::write;
use crate::atomic_file::TempFiles;
use crate::directory::{open_regular, parent_dir};
use crate::store::{ImageSource, ImageStore, OpenContent, Pointer, ReferrerList, UNNAMED};
use crate::subject::referrers_among;
use error::Error;
use image_model::digest::{Digest, Verified};
use image_model::manifest::{Descriptor, Document, ParsedDocument};
use image_model::reference::Reference;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A `docker save` archive.
pub struct DockerArchive {
    naming: Naming,
    /// The path as the user wrote it, for messages.
    named: PathBuf,
    /// The file, with all links resolved.
    path: PathBuf,
    /// The name of the image that was requested.
    only: Option<String>,
    temp_files: TempFiles,
    state: Mutex<State>,
    /// Locked while the archive is rewritten.
    writing: Mutex<()>,
}

/// The archive as it was read, and what was written but has no tag yet.
struct State {
    archive: Arc<Snapshot>,
    pending: Pending,
}

impl DockerArchive {
    /// Opens an existing archive. `name` selects one of its images.
    ///
    /// # Errors
    /// `NotFound` if the file or the image is absent, `BadInput` if it is no such archive or ambiguous, `Integrity` if it
    /// is damaged.
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self, Error> {
        Self::open_as(path, name, Naming::Docker)
    }

    /// Opens an archive, or prepares a new one, which is created with the first tag.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        Self::open_or_create_as(path, Naming::Docker)
    }

    /// The same store, whose temporary files are in this list. A program whose store is not opened by
    /// [`Stores`](crate::open::Stores) calls this before the first write.
    #[must_use]
    pub fn with_temp_files(self, temp_files: &TempFiles) -> Self {
        Self { temp_files: temp_files.clone(), ..self }
    }

    pub(super) fn open_as(path: &Path, name: Option<&str>, naming: Naming) -> Result<Self, Error> {
        let place = place_of(path, naming);
        let doing = || format!("open \"{place}\"");
        let target = fs::canonicalize(path).map_err(|e| Error::from_io(doing(), e))?;
        redo_log::recover(&target, &place)?;
        let file = open_regular(&target).map_err(|e| Error::from_io(doing(), e))?;
        let archive = Self::new(path, target, Snapshot::read(file, &place, naming)?, name);
        if let Some(name) = name {
            let found = archive.archive();
            if found.named(name).ok().flatten().is_none() && archive.by_digest(name).is_none() {
                let names: Vec<&str> = found.names.values().map(|named| named.shown.as_str()).collect();
                return Err(Error::not_found(doing(), format!("it has no image \"{name}\""))
                    .hint(format!("it has: {}", names.join(", "))));
            }
        }
        Ok(archive)
    }

    pub(super) fn open_or_create_as(path: &Path, naming: Naming) -> Result<Self, Error> {
        let doing = || format!("create \"{}\"", place_of(path, naming));
        let identity = match fs::metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() == 0 => Some(FileIdentity::of(&meta)),
            Ok(_) => return Self::open_as(path, None, naming),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::from_io(doing(), error)),
        };
        // A link to a file that does not exist yet is followed, as a shell redirection does.
        let target = fs::canonicalize(path)
            .or_else(|_| fs::read_link(path).map(|link| parent_dir(path).join(link)))
            .unwrap_or_else(|_| path.to_path_buf());
        let file = tempfile::tempfile_in(parent_dir(&target)).map_err(|e| Error::from_io(doing(), e))?;
        Ok(Self::new(path, target, Snapshot::empty(file, identity, naming)?, None))
    }

    pub(super) fn new(named: &Path, path: PathBuf, archive: Snapshot, only: Option<&str>) -> Self {
        let naming = archive.naming;
        let state = State { archive: Arc::new(archive), pending: Pending::default() };
        Self {
            naming,
            named: named.to_path_buf(),
            path,
            only: only.map(str::to_string),
            temp_files: TempFiles::default(),
            state: Mutex::new(state),
            writing: Mutex::new(()),
        }
    }

    /// Returns the image that the archive was opened for, or its only image.
    ///
    /// # Errors
    /// `NotFound` if the archive is empty, `BadInput` if it has several images.
    pub fn only_image(&self) -> Result<Pointer, Error> {
        if let Some(only) = &self.only {
            return Ok(self.by_digest(only).map_or_else(|| Pointer::Tag(only.clone()), Pointer::Digest));
        }
        let archive = self.archive();
        let doing = || format!("choose an image of \"{}\"", self.display_name());
        let mut images: Vec<&Digest> =
            archive.names.values().chain(&archive.unnamed).map(|named| &named.document).collect();
        images.sort();
        images.dedup();
        let names: Vec<&str> = archive.names.values().map(|named| named.shown.as_str()).collect();
        match images.as_slice() {
            [_] => Ok(Pointer::Tag(names.first().copied().unwrap_or(UNNAMED).to_string())),
            [] => Err(Error::not_found(doing(), "the archive is empty")),
            many => Err(Error::bad_input(doing(), format!("it has {} images", many.len()))
                .hint(format!("add one of the names: {}", names.join(", ")))),
        }
    }

    /// Returns a plan that overwrites the changed members without moving others, so that the time does not depend on the
    /// archive's size; or the reason why that is impossible.
    ///
    /// # Errors
    /// `BadInput` if a document of the archive is damaged, otherwise that of reading the file.
    pub fn plan_in_place(
        &self,
        was: &Digest,
        rewrite: &Relabel,
    ) -> Result<Result<InPlacePlan, String>, Error> {
        self.archive().refuse_unreadable()?;
        in_place::plan(&self.archive(), self.only.as_deref(), was, rewrite)
    }

    /// Applies a plan of [`Self::plan_in_place`]. If the process is killed, the next one that opens the archive finds the
    /// old or the new image.
    ///
    /// # Errors
    /// `Conflict` if the archive changed since it was read, `BadInput` if the result would not be valid.
    pub fn apply_in_place(&self, place: &InPlacePlan) -> Result<(), Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.display_name();
        let archive = self.archive();
        let (expected, layer_digests) =
            (ExpectedNames::after_relabel(&archive, &place.root), archive.layer_digests());
        drop(archive);
        self.exchange(&name, |old| {
            write::overwrite(&self.temp_files, &self.path, old, place, &name, || {
                let result = old.read_over(&place.writes, &name, &layer_digests);
                let result = result.map_err(|error| expected::unreadable(&name, error))?;
                expected.check(&result).map_err(|why| expected::refused(&name, &why))?;
                Ok(result)
            })
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole values here: every change below is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn archive(&self) -> Arc<Snapshot> {
        self.state().archive.clone()
    }

    /// Parses an image ID, which users may give instead of a name.
    fn by_digest(&self, text: &str) -> Option<Digest> {
        let digest: Digest = text.parse().ok()?;
        self.archive().document(&digest).map(|document| document.digest().clone())
    }

    fn find(&self, at: &Pointer) -> Result<Option<Document>, Error> {
        let state = self.state();
        let archive = &state.archive;
        let digest = match at {
            Pointer::Tag(tag) => {
                let doing = || format!("find \"{at}\" in \"{}\"", self.display_name());
                let named = archive.named(tag).map_err(|why| Error::bad_input(doing(), why))?;
                match (named, tag.parse::<Digest>()) {
                    (Some(named), _) => named.document.clone(),
                    (None, Ok(digest)) => digest,
                    (None, Err(_)) => return Ok(None),
                }
            }
            Pointer::Digest(digest) => digest.clone(),
        };
        let found = archive.document(&digest).or_else(|| state.pending.documents.get(&digest));
        match archive.unreadable.get(&digest) {
            Some(error) if found.is_none() => Err(error.clone()),
            _ => Ok(found.cloned()),
        }
    }

    /// Replaces the archive: `exchange` checks and writes the new one. The old table of members is dropped first, since two
    /// tables of a large archive take too much memory. After an error the old archive is read again.
    fn exchange(
        &self,
        place: &str,
        exchange: impl FnOnce(&Snapshot) -> Result<Snapshot, Error>,
    ) -> Result<(), Error> {
        // Locked meanwhile, so that no reader finds an archive without members.
        let mut state = self.state();
        let emptied = Arc::new(state.archive.emptied());
        state.archive = emptied.clone();
        match exchange(&emptied) {
            Ok(archive) => {
                let mut pending = std::mem::take(&mut state.pending);
                pending.blobs.retain(|digest, _| archive.blob(digest).is_none());
                pending.documents.retain(|digest, _| !archive.documents.contains_key(digest));
                *state = State { archive: Arc::new(archive), pending };
                Ok(())
            }
            Err(error) => {
                // If that fails too, the first error is reported.
                if let Ok(archive) = emptied.read_again(place) {
                    state.archive = Arc::new(archive);
                }
                Err(error)
            }
        }
    }
}

fn place_of(path: &Path, naming: Naming) -> String {
    let file = path.to_path_buf();
    match naming {
        Naming::Docker => Reference::DockerArchive { file, name: None }.to_string(),
        Naming::Layout => Reference::OciArchive { file, tag: None, digest: None }.to_string(),
    }
}

impl ImageSource for DockerArchive {
    fn display_name(&self) -> String {
        place_of(&self.named, self.naming)
    }

    fn read_document(&self, at: &Pointer) -> Result<Document, Error> {
        let absent = || {
            let doing = format!("read \"{at}\" of \"{}\"", self.display_name());
            Error::not_found(doing, "the archive has no such image")
        };
        self.find(at)?.ok_or_else(absent)
    }

    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        Ok(self.find(at)?.map(|document| document.descriptor()))
    }

    fn untagged(&self) -> Result<Vec<Digest>, Error> {
        let archive = self.archive();
        let tagged: BTreeSet<&Digest> = archive.names.values().map(|named| &named.document).collect();
        let all: BTreeSet<&Digest> = archive.unnamed.iter().map(|named| &named.document).collect();
        Ok(all.difference(&tagged).map(|digest| (*digest).clone()).collect())
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        let mut tags: Vec<String> = self.archive().names.values().map(|named| named.shown.clone()).collect();
        tags.sort();
        Ok(tags)
    }

    fn tags_of_same_entry(&self, tag: &str) -> Result<Vec<String>, Error> {
        let archive = self.archive();
        Ok(archive.names_of_same_entry(tag).into_iter().map(|named| named.shown.clone()).collect())
    }

    fn referrers(&self, subject: &Digest) -> Result<ReferrerList, Error> {
        let archive = self.archive();
        let entries = archive.index.as_ref().map(|index| index.entries.clone()).unwrap_or_default();
        Ok(ReferrerList::TagSchema(referrers_among(entries, subject, |entry| {
            archive.document(&entry.digest).cloned()
        })))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        let state = self.state();
        let stored = state.archive.blob(&blob.digest).map(|i| state.archive.tar.members()[i].size);
        let pending = state.pending.blobs.get(&blob.digest).map(pending::NewContent::size);
        Ok(stored.or(pending) == Some(blob.size))
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let what = format!("blob of \"{}\"", self.display_name());
        let state = self.state();
        let content: Box<dyn Read + Send> =
            match (state.archive.blob(&blob.digest), state.pending.blobs.get(&blob.digest)) {
                (Some(member), _) => {
                    Box::new(state.archive.tar.content(&state.archive.tar.members()[member]))
                }
                (None, Some(bytes)) => bytes.reader(),
                (None, None) => {
                    let doing = format!("read {what} {}", blob.digest);
                    return Err(Error::not_found(doing, "there is no such blob"));
                }
            };
        Ok(Box::new(Verified::new(content, &blob.digest, blob.size, what)))
    }
}

impl ImageStore for DockerArchive {
    /// Keeps the blob until a tag needs it: a small one in memory, a large one in an unnamed file.
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
        if self.has_blob(blob)? {
            return Ok(());
        }
        let in_memory = self.state().pending.memory();
        let bytes = pending::take(blob, open()?, in_memory, parent_dir(&self.path))?;
        self.state().pending.blobs.insert(blob.digest.clone(), bytes);
        Ok(())
    }

    /// Keeps the document until a tag needs it: an archive has only what its tags reference.
    fn write_document(&self, document: &Document) -> Result<(), Error> {
        let doing = || format!("write manifest {} to \"{}\"", document.digest(), self.display_name());
        let absent = |digest: &Digest| {
            Error::bad_input(doing(), format!("it references {digest}, which is absent"))
                .hint("write that first")
        };
        let archive = self.archive();
        match document.parse().map_err(|e| e.at(&format!("manifest {}", document.digest())))? {
            ParsedDocument::Index(_) if archive.index.is_none() => {
                let why = "an archive of this form holds single images, and this is an index";
                return Err(Error::bad_input(doing(), why).hint("use oci:DIR, or a new docker-archive: file"));
            }
            ParsedDocument::Index(index) => {
                for member in &index.manifests {
                    let is_there = self.find(&Pointer::from(&member.digest))?.is_some();
                    if !is_there && !archive.absent.contains(&member.digest) {
                        return Err(absent(&member.digest));
                    }
                }
            }
            ParsedDocument::Manifest(manifest) => {
                if !self.has_blob(&manifest.config)? {
                    return Err(absent(&manifest.config.digest));
                }
                for layer in manifest.layers.iter().filter(|layer| layer.urls.is_empty()) {
                    if !self.has_blob(layer)? && !archive.lacks(&layer.digest) {
                        return Err(absent(&layer.digest));
                    }
                }
            }
        }
        self.state().pending.documents.insert(document.digest().clone(), document.clone());
        Ok(())
    }

    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (archive, pending) = {
            let state = self.state();
            (state.archive.clone(), state.pending.clone())
        };
        archive.refuse_unreadable()?;
        let place = self.display_name();
        let doing = || format!("tag \"{tag}\" in \"{place}\"");
        let named = archive.named(tag).map_err(|why| Error::bad_input(doing(), why))?;
        if named.is_some_and(|named| named.document == *document.digest()) {
            return Ok(());
        }
        if self.naming == Naming::Layout && archive.tar.find(MANIFEST_JSON.as_bytes()).is_some() {
            let why = "it is also a `docker save` archive, whose manifest.json would not be updated";
            let hint = format!("use docker-archive:{}", self.named.display());
            return Err(Error::bad_input(doing(), why).hint(hint));
        }
        let edit = plan_tag(&archive, &pending, tag, document)?;
        if edit.is_nothing() {
            return Ok(());
        }
        let expected = ExpectedNames::after_tag(&archive, tag, document.digest());
        let written = write::write(&self.temp_files, &self.path, &archive, &edit, &place)?;
        drop(archive);
        self.exchange(&place, |_| written.replace(&self.path, &place, self.naming, &expected))
    }
}

#[cfg(test)]
mod tests;
