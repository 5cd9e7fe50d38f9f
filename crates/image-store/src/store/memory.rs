//! A store in memory: the simplest implementation of the contract, for tests and examples.

use super::{ImageSource, ImageStore, OpenContent, Pointer, TagMove};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, ParsedDocument};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An image store in memory.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, Vec<u8>>,
    documents: BTreeMap<Digest, Document>,
    tags: BTreeMap<String, Digest>,
}

impl MemoryStore {
    /// Returns an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole values here: every change below is one insertion.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes these bytes as a blob and returns its descriptor.
    pub fn add_blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let blob = Descriptor::of(media_type, bytes);
        self.state().blobs.insert(blob.digest.clone(), bytes.to_vec());
        blob
    }
}

impl ImageSource for MemoryStore {
    fn display_name(&self) -> String {
        "memory".into()
    }

    fn read_document(&self, at: &Pointer) -> Result<Document, Error> {
        let state = self.state();
        let digest = match at {
            Pointer::Tag(tag) => state.tags.get(tag),
            Pointer::Digest(digest) => Some(digest),
        };
        let document = digest.and_then(|digest| state.documents.get(digest)).cloned();
        document.ok_or_else(|| Error::not_found(format!("read \"memory:{at}\""), "there is no such image"))
    }

    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        Ok(self.read_document(at).ok().map(|document| document.descriptor()))
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        Ok(self.state().tags.keys().cloned().collect())
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        Ok(self.state().blobs.get(&blob.digest).is_some_and(|bytes| bytes.len() as u64 == blob.size))
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let doing = || format!("read blob {} of \"memory\"", blob.digest);
        let bytes = self.state().blobs.get(&blob.digest).cloned();
        let bytes = bytes.ok_or_else(|| Error::not_found(doing(), "there is no such blob"))?;
        let content = std::io::Cursor::new(bytes);
        Ok(Box::new(image_model::digest::Verified::new(
            content,
            &blob.digest,
            blob.size,
            "blob of \"memory\"",
        )))
    }
}

impl ImageStore for MemoryStore {
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
        let doing = format!("write blob {} to \"memory\"", blob.digest);
        let mut bytes = Vec::new();
        let mut reader = image_model::digest::Verified::new(open()?, &blob.digest, blob.size, "blob");
        reader.read_to_end(&mut bytes).map_err(|e| Error::from_io(doing, e))?;
        self.state().blobs.insert(blob.digest.clone(), bytes);
        Ok(())
    }

    fn write_document(&self, document: &Document) -> Result<(), Error> {
        let doing = format!("write manifest {} to \"memory\"", document.digest());
        let absent = |what: &Digest| {
            Error::bad_input(doing.clone(), format!("it references {what}, which is absent"))
                .hint("write that first")
        };
        let content = document.parse().map_err(|e| e.at(&format!("manifest {}", document.digest())))?;
        let mut state = self.state();
        match content {
            ParsedDocument::Index(index) => {
                for member in &index.manifests {
                    if !state.documents.contains_key(&member.digest) {
                        return Err(absent(&member.digest));
                    }
                }
            }
            ParsedDocument::Manifest(manifest) => {
                let local = |layer: &&Descriptor| layer.urls.is_empty();
                for blob in std::iter::once(&manifest.config).chain(manifest.layers.iter().filter(local)) {
                    if !state.blobs.contains_key(&blob.digest) {
                        return Err(absent(&blob.digest));
                    }
                }
            }
        }
        state.documents.insert(document.digest().clone(), document.clone());
        Ok(())
    }

    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        self.write_document(document)?;
        self.state().tags.insert(tag.to_string(), document.digest().clone());
        Ok(())
    }

    fn move_tag(&self, tag: &str, was: Option<&Digest>, document: &Document) -> Result<TagMove, Error> {
        self.write_document(document)?;
        let mut state = self.state();
        let now = state.tags.get(tag);
        if now != was && now != Some(document.digest()) {
            return Ok(TagMove::Conflict(now.cloned()));
        }
        state.tags.insert(tag.to_string(), document.digest().clone());
        Ok(TagMove::Done)
    }
}
