//! OCI image layouts: directories with `oci-layout`, `index.json` and `blobs/ALGORITHM/HEX` (image-spec, image-layout.md).
//!
//! Writers take a lock beside `index.json` and rename a whole new file over it. Readers need no lock and never see a
//! partial file. A blob must be a regular file: links, pipes and devices are refused without being followed. Layouts of
//! build systems have `blobs` as a link, which readers follow; a writer does not leave the directory of the layout.

use super::{ImageSource, ImageStore, OpenContent, Pointer, ReferrerList, TagMove, UNNAMED};
use crate::atomic_file::{AtomicFile, TempFiles};
use crate::directory::{Directory, create_dir_durably, open_regular, read_small};
use crate::file_metadata::copy_metadata;
use crate::layout_tags::EntryTags;
use crate::subject::referrers_among;
use error::{Error, Exit, retry_interrupted};
use image_model::digest::{Digest, Hasher, Verified};
use image_model::manifest::{DOCUMENT_MAX, Descriptor, Document, Index, ParsedDocument};
use image_model::raw_json::JsonObject;
use image_model::reference::Reference;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};
use tags::retag;
use unfinished::is_unfinished;

mod tags;
mod unfinished;

pub use crate::layout_tags::REF_NAME;

const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
const EMPTY_INDEX: &str =
    "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";
/// Time for which a writer waits for another one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// An OCI image layout.
pub struct OciLayout {
    dir: PathBuf,
    temp_files: TempFiles,
    /// Done with the first write: removes the temporary files of killed writers.
    cleaned: Once,
    /// `index.json` as it was read last, since a thousand tags would parse the same bytes a thousand times.
    last: Mutex<Option<(Vec<u8>, Arc<Index>)>>,
}

impl OciLayout {
    fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            temp_files: TempFiles::default(),
            cleaned: Once::new(),
            last: Mutex::default(),
        }
    }

    /// Opens an existing layout.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory, `BadInput` if it is no layout.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let layout = Self::new(dir);
        let doing = || format!("open \"{}\"", layout.display_name());
        let marker = layout.dir.join("oci-layout");
        let text = read_small(&marker, 4096).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound if dir.is_dir() => {
                Error::bad_input(doing(), "the directory has no file \"oci-layout\", so it is no OCI layout")
            }
            io::ErrorKind::NotFound => Error::not_found(doing(), "there is no such directory"),
            _ => Error::from_io(doing(), e),
        })?;
        let version = JsonObject::parse(&text).ok().and_then(|object| {
            let member = object.unique(&text, "imageLayoutVersion").ok()??;
            serde_json::from_slice::<String>(&text[member.value_at.clone()]).ok()
        });
        match version {
            Some(version) if version.starts_with("1.") => Ok(layout),
            _ => Err(Error::bad_input(doing(), "its file \"oci-layout\" has no imageLayoutVersion 1.x")),
        }
    }

    /// Opens a layout, or prepares a new one, which is created with the first write.
    ///
    /// # Errors
    /// `BadInput` if the directory has other files.
    pub fn open_or_create(dir: &Path) -> Result<Self, Error> {
        let layout = Self::new(dir);
        if dir.join("oci-layout").exists() {
            return Self::open(dir);
        }
        let doing = || format!("create an OCI layout in \"{}\"", dir.display());
        match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(layout),
            Err(error) => Err(Error::from_io(doing(), error)),
            // No marker yet, but blobs or an empty index: a run was killed before its first tag.
            Ok(mut entries) => {
                let ours = |name: &std::ffi::OsStr| {
                    name == "blobs" || name == ".lock" || name == "index.json" || is_unfinished(name)
                };
                match entries.all(|entry| entry.is_ok_and(|entry| ours(&entry.file_name()))) {
                    true => Ok(layout),
                    false => Err(Error::bad_input(doing(), "the directory has files that are no OCI layout")
                        .hint("use an empty or a new directory")),
                }
            }
        }
    }

    /// The same store, whose temporary files are in this list. A program whose store is not opened by
    /// [`Stores`](crate::open::Stores) calls this before the first write.
    #[must_use]
    pub fn with_temp_files(self, temp_files: &TempFiles) -> Self {
        Self { temp_files: temp_files.clone(), ..self }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns whether the layout is on disk.
    pub fn exists(&self) -> bool {
        self.dir.join("oci-layout").exists()
    }

    /// Returns the only image of the layout.
    ///
    /// # Errors
    /// `NotFound` if the layout is empty, `BadInput` if it has several images.
    pub fn only_image(&self) -> Result<Pointer, Error> {
        let (_, index) = self.read_index()?;
        let doing = || format!("choose an image of \"{}\"", self.display_name());
        let images: BTreeSet<&Digest> = index.manifests.iter().map(|entry| &entry.digest).collect();
        let mut tags = EntryTags::new(&index.manifests).tags;
        match images.len() {
            0 => Err(Error::not_found(doing(), "the layout is empty")),
            1 => Ok(Pointer::Tag(tags.swap_remove(0).to_string())),
            many => {
                tags.retain(|tag| *tag != UNNAMED);
                Err(Error::bad_input(doing(), format!("it has {many} images"))
                    .hint(format!("add one of its tags: {}", tags.join(", "))))
            }
        }
    }

    /// Writes a blob whose digest is not known in advance, and returns its descriptor.
    ///
    /// # Errors
    /// That of reading `content`; `Local` or `NotPermitted` if the layout cannot be written.
    pub fn add_blob(&self, media_type: &str, mut content: impl Read) -> Result<Descriptor, Error> {
        let doing = || format!("write a blob to \"{}\"", self.display_name());
        let mut file = self.temporary().map_err(|e| Error::from_io(doing(), e))?;
        let mut hasher = Hasher::sha256();
        let mut size = 0;
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count =
                retry_interrupted(|| content.read(&mut buffer)).map_err(|e| Error::from_io(doing(), e))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            file.as_file_mut().write_all(&buffer[..count]).map_err(|e| Error::from_io(doing(), e))?;
            size += count as u64;
        }
        let blob = Descriptor::new(media_type, hasher.finish(), size);
        self.store_blob(file, &blob.digest).map_err(|e| Error::from_io(doing(), e))?;
        Ok(blob)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// The directory of the layout, to write in. It may be a link; nothing in it may be one.
    fn directory(&self) -> io::Result<Directory> {
        create_dir_durably(&self.dir, 0o777)?;
        Directory::open(&self.dir)
    }

    /// The directory of the blobs with this algorithm, to write in.
    fn blob_directory(&self, algorithm: &str) -> io::Result<Directory> {
        let dir = self.directory()?.create_dir(Path::new("blobs").join(algorithm), 0o777);
        dir.map_err(|error| match Error::from_io(format!("write to \"{}\"", self.display_name()), error) {
            error if error.kind == Exit::BadInput => error.hint("copy the image to a new layout").into_io(),
            error => error.into_io(),
        })
    }

    /// Creates a temporary file beside the blobs.
    fn temporary(&self) -> io::Result<AtomicFile> {
        let dir = self.blob_directory("sha256")?;
        self.remove_leftovers();
        unfinished::create(&self.temp_files, &dir)
    }

    fn remove_leftovers(&self) {
        self.cleaned.call_once(|| {
            let Ok(dir) = Directory::open(&self.dir) else { return };
            unfinished::remove_leftovers(&dir);
            if let Ok(blobs) = dir.open_dir("blobs/sha256") {
                unfinished::remove_leftovers(&blobs);
            }
        });
    }

    /// Renames a temporary file to the blob of this digest.
    fn store_blob(&self, file: AtomicFile, digest: &Digest) -> io::Result<()> {
        let dir = self.blob_directory(digest.algorithm())?;
        file.persist_durably_in(&dir, OsStr::new(digest.hex())).map(drop)
    }

    /// Returns `index.json` as bytes and parsed.
    fn read_index(&self) -> Result<(Vec<u8>, Arc<Index>), Error> {
        let path = self.dir.join("index.json");
        let what = format!("\"{}\"", path.display());
        let bytes = read_small(&path, DOCUMENT_MAX).map_err(|e| Error::from_io(format!("read {what}"), e))?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, index)) = last.as_ref().filter(|(known, _)| *known == bytes) {
            return Ok((bytes, Arc::clone(index)));
        }
        let document = Document::new(bytes, None).map_err(|e| e.at(&what))?;
        let ParsedDocument::Index(index) = document.parse().map_err(|e| e.at(&what))? else {
            return Err(Error::bad_input(format!("read {what}"), "it is not an index"));
        };
        let index = Arc::new(index);
        *last = Some((document.bytes().to_vec(), Arc::clone(&index)));
        Ok((document.bytes().to_vec(), index))
    }

    fn find(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        // A new layout has no tags yet, but may have documents.
        let index = if self.exists() { Some(self.read_index()?.1) } else { None };
        let entries = index.as_ref().map_or(&[][..], |index| &index.manifests);
        let tag = match at {
            Pointer::Digest(digest) => {
                let entry = entries.iter().find(|entry| entry.digest == *digest).cloned();
                return Ok(entry.or_else(|| self.descriptor_of_blob(digest)));
            }
            Pointer::Tag(tag) => tag,
        };
        let called = EntryTags::new(entries).with_tag(tag);
        let Some(first) = called.first().map(|i| &entries[*i]) else {
            // A digest in the place of a tag, as archives accept it.
            let digest: Option<Digest> = tag.parse().ok();
            return digest.map_or(Ok(None), |digest| self.find(&Pointer::Digest(digest)));
        };
        if called.iter().any(|i| entries[*i].digest != first.digest) {
            let doing = format!("find tag \"{tag}\" in \"{}\"", self.display_name());
            let digests: Vec<String> =
                called.iter().map(|i| format!("{}@{}", self.display_name(), entries[*i].digest)).collect();
            return Err(Error::bad_input(doing, "entries of index.json for different images have this tag")
                .hint(format!("use the digest: {}", digests.join(", "))));
        }
        Ok(Some(first.clone()))
    }

    /// Describes a document without an entry in `index.json` by its blob. Its media type follows from its content.
    fn descriptor_of_blob(&self, digest: &Digest) -> Option<Descriptor> {
        let meta = fs::symlink_metadata(self.blob_path(digest)).ok()?;
        meta.is_file().then(|| Descriptor::new("", digest.clone(), meta.size()))
    }

    /// Takes the layout's lock, which lasts until the file is dropped.
    ///
    /// # Errors
    /// `Conflict` if another process holds it for 30 seconds.
    fn lock(&self) -> Result<File, Error> {
        let doing = || format!("lock \"{}\"", self.display_name());
        let file = self.directory().and_then(|dir| dir.open_lock(".lock", 0o666));
        let file = file.map_err(|e| Error::from_io(doing(), e))?;
        let until = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(Error::conflict(doing(), "another process has held the lock for 30 seconds")
                        .hint("run the command again when that process is done"));
                }
                Err(fs::TryLockError::Error(error)) => return Err(Error::from_io(doing(), error)),
            }
        }
    }

    /// Replaces a file in the layout's directory atomically.
    fn replace_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.remove_leftovers();
        let dir = Directory::open(&self.dir)?;
        let mut file = unfinished::create(&self.temp_files, &dir)?;
        file.as_file_mut().write_all(bytes)?;
        match dir.open_file(name) {
            Ok(old) => copy_metadata(&old, file.as_file())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        file.persist_durably_in(&dir, OsStr::new(name)).map(drop)
    }
}

impl ImageSource for OciLayout {
    fn display_name(&self) -> String {
        Reference::OciLayout { dir: self.dir.clone(), tag: None, digest: None }.to_string()
    }

    fn read_document(&self, at: &Pointer) -> Result<Document, Error> {
        let what = format!("\"{at}\" of \"{}\"", self.display_name());
        let absent = || Error::not_found(format!("read {what}"), "the layout has no such image");
        let entry = self.find(at)?.ok_or_else(absent)?;
        let bytes = read_small(&self.blob_path(&entry.digest), DOCUMENT_MAX);
        let bytes = bytes.map_err(|e| Error::from_io(format!("read {what}"), e))?;
        if bytes.len() as u64 != entry.size {
            let why = format!("it has {} bytes; its descriptor declares {}", bytes.len(), entry.size);
            return Err(Error::integrity(format!("read {what}"), why));
        }
        let document = Document::new(bytes, Some(&entry.media_type)).map_err(|e| e.at(&what))?;
        let wrong =
            || Error::integrity(format!("read {what}"), format!("its content is not {}", entry.digest));
        document.with_digest(&entry.digest).ok_or_else(wrong)
    }

    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        let found = self.find(at)?;
        Ok(found.filter(|entry| {
            self.descriptor_of_blob(&entry.digest).is_some_and(|blob| blob.size == entry.size)
        }))
    }

    fn untagged(&self) -> Result<Vec<Digest>, Error> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        let (_, index) = self.read_index()?;
        let tagged: BTreeSet<Digest> =
            self.tagged_entries(&index).into_iter().map(|(_, entry)| entry.digest.clone()).collect();
        let all: BTreeSet<Digest> = index.manifests.iter().map(|entry| entry.digest.clone()).collect();
        Ok(all.difference(&tagged).cloned().collect())
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        let (_, index) = self.read_index()?;
        let mut tags: Vec<String> = self.tagged_entries(&index).into_iter().map(|(tag, _)| tag).collect();
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    fn referrers(&self, subject: &Digest) -> Result<ReferrerList, Error> {
        let entries = if self.exists() { self.read_index()?.1.manifests.clone() } else { Vec::new() };
        Ok(ReferrerList::TagSchema(referrers_among(entries, subject, |entry| {
            self.read_document(&Pointer::from(&entry.digest)).ok()
        })))
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        Ok(self.descriptor_of_blob(&blob.digest).is_some_and(|found| found.size == blob.size))
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let what = format!("blob of \"{}\"", self.display_name());
        Ok(Box::new(Verified::new(self.open_unverified(blob)?, &blob.digest, blob.size, what)))
    }

    fn open_unverified(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let doing = || format!("read blob of \"{}\" {}", self.display_name(), blob.digest);
        let file = open_regular(&self.blob_path(&blob.digest)).map_err(|e| Error::from_io(doing(), e))?;
        Ok(Box::new(io::BufReader::with_capacity(128 << 10, file)))
    }

    fn open_blob_range<'a>(
        &'a self,
        blob: &Descriptor,
        part: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, Error> {
        let doing = || format!("read a part of blob {} of \"{}\"", blob.digest, self.display_name());
        let failed = |e| Error::from_io(doing(), e);
        let mut file = open_regular(&self.blob_path(&blob.digest)).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.size();
        if part.start >= part.end || part.end > size {
            let why = format!("bytes {} to {} are out of range: it has {size} bytes", part.start, part.end);
            return Err(Error::bad_input(doing(), why));
        }
        file.seek(SeekFrom::Start(part.start)).map_err(failed)?;
        Ok(Some(Box::new(file.take(part.end - part.start))))
    }
}

impl ImageStore for OciLayout {
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
        let doing = || format!("write blob {} to \"{}\"", blob.digest, self.display_name());
        if self.has_blob(blob)? {
            return Ok(());
        }
        let mut file = self.temporary().map_err(|e| Error::from_io(doing(), e))?;
        let mut content = Verified::new(open()?, &blob.digest, blob.size, "blob");
        io::copy(&mut content, file.as_file_mut()).map_err(|e| Error::from_io(doing(), e))?;
        self.store_blob(file, &blob.digest).map_err(|e| Error::from_io(doing(), e))
    }

    fn write_document(&self, document: &Document) -> Result<(), Error> {
        let blob = document.descriptor();
        let doing = || format!("write manifest {} to \"{}\"", blob.digest, self.display_name());
        let absent = |digest: &Digest| {
            Error::bad_input(doing(), format!("it references {digest}, which is absent"))
                .hint("write that first")
        };
        let needed = match document.parse().map_err(|e| e.at(&format!("manifest {}", blob.digest)))? {
            ParsedDocument::Index(index) => index.manifests,
            ParsedDocument::Manifest(manifest) => {
                if !self.has_blob(&manifest.config)? {
                    return Err(absent(&manifest.config.digest));
                }
                manifest.layers.into_iter().filter(|layer| layer.urls.is_empty()).collect()
            }
        };
        for descriptor in &needed {
            if !self.has_blob(descriptor)? && !self.is_listed(&descriptor.digest)? {
                return Err(absent(&descriptor.digest));
            }
        }
        self.write_blob(&blob, &|| Ok(Box::new(document.bytes())))
    }

    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        self.write_document(document)?;
        self.retag_locked(tag, document, &self.lock()?)
    }

    fn move_tag(&self, tag: &str, was: Option<&Digest>, document: &Document) -> Result<TagMove, Error> {
        self.write_document(document)?;
        let lock = self.lock()?;
        let now = self.resolve(&Pointer::Tag(tag.into()))?.map(|named| named.digest);
        if now.as_ref() != was && now.as_ref() != Some(document.digest()) {
            return Ok(TagMove::Conflict(now));
        }
        self.retag_locked(tag, document, &lock).map(|()| TagMove::Done)
    }
}

impl OciLayout {
    /// The entries with a tag that only one image has, and those tags.
    fn tagged_entries<'a>(&self, index: &'a Index) -> Vec<(String, &'a Descriptor)> {
        let tags = EntryTags::new(&index.manifests);
        let tagged = tags.tags.iter().zip(&index.manifests).filter(|(tag, _)| tags.is_unique(tag));
        tagged.map(|(tag, entry)| ((*tag).to_string(), entry)).collect()
    }

    /// Returns whether an index of the layout lists this member, or a manifest this layer. It may be absent: of an image
    /// that was pulled for one platform, Docker Engine and containerd save the whole index.
    fn is_listed(&self, part: &Digest) -> Result<bool, Error> {
        if !self.exists() {
            return Ok(false);
        }
        let mut open: Vec<Descriptor> = self.read_index()?.1.manifests.clone();
        let mut seen = BTreeSet::new();
        while let Some(entry) = open.pop() {
            if !seen.insert(entry.digest.clone()) || !self.has_blob(&entry)? {
                continue;
            }
            let Ok(document) = self.read_document(&Pointer::from(&entry.digest)) else { continue };
            let (parts, members) = match document.parse() {
                Ok(ParsedDocument::Index(index)) => (index.manifests.clone(), index.manifests),
                Ok(ParsedDocument::Manifest(manifest)) => (manifest.layers, Vec::new()),
                Err(_) => continue,
            };
            if parts.iter().any(|listed| listed.digest == *part) {
                return Ok(true);
            }
            open.extend(members);
        }
        Ok(false)
    }

    /// Moves a tag. The caller has held `_lock` since it resolved the tag.
    fn retag_locked(&self, tag: &str, document: &Document, _lock: &File) -> Result<(), Error> {
        let doing = || format!("tag \"{tag}\" in \"{}\"", self.display_name());
        if !self.exists() {
            self.replace_file("index.json", EMPTY_INDEX.as_bytes())
                .map_err(|e| Error::from_io(doing(), e))?;
            self.replace_file("oci-layout", LAYOUT.as_bytes()).map_err(|e| Error::from_io(doing(), e))?;
        }
        let (bytes, index) = self.read_index()?;
        // Fails if the tag is that of several images.
        self.find(&Pointer::Tag(tag.into()))?;
        let called = EntryTags::new(&index.manifests).with_tag(tag);
        let is_right = |i: &usize| index.manifests[*i].digest == *document.digest();
        if !called.is_empty() && called.iter().all(is_right) {
            return Ok(());
        }
        let changed = retag(&bytes, tag, document).map_err(|e| e.at("index.json"))?;
        let result = check_retagged(&index, &changed, tag, document.digest()).map_err(|why| {
            Error::bad_input(doing(), format!("the result failed its check: {why}"))
                .hint("no changes were made; copy the image to a new layout")
        })?;
        self.replace_file("index.json", &changed).map_err(|e| Error::from_io(doing(), e))?;
        // Saves parsing these bytes once more.
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((changed, Arc::new(result)));
        Ok(())
    }
}

/// Parses the edited `index.json` and checks that `tag` refers to `document` and all other tags are unchanged.
fn check_retagged(before: &Index, bytes: &[u8], tag: &str, document: &Digest) -> Result<Index, String> {
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(format!("index.json would be larger than {DOCUMENT_MAX} bytes"));
    }
    let parsed = Document::new(bytes.to_vec(), None).and_then(|document| document.parse());
    let ParsedDocument::Index(after) = parsed.map_err(|e| e.to_string())? else {
        return Err("index.json would not be an index".into());
    };
    let mut called = EntryTags::new(&before.manifests).with_tag(tag);
    if called.is_empty() {
        called.push(before.manifests.len());
    }
    let is_right = |i: &usize| after.manifests.get(*i).is_some_and(|entry| entry.digest == *document);
    if !called.iter().all(is_right) {
        return Err(format!("\"{tag}\" would not refer to {document}"));
    }
    let others = |index: &Index| {
        let others = index.manifests.iter().enumerate().filter(|(i, _)| !called.contains(i));
        others.map(|(_, entry)| entry.clone()).collect::<Vec<_>>()
    };
    match others(before) == others(&after) {
        true => Ok(after),
        false => Err("another tag would change".into()),
    }
}

#[cfg(test)]
mod tests;
