//! Blobs and documents that were written but have no tag yet: small ones in memory, large ones in unnamed files.

use super::tar::FileSlice;
use error::Error;
use image_model::digest::{Digest, Verified};
use image_model::manifest::{Descriptor, Document};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

/// Blobs up to this size are kept in memory; configs and attestations are smaller.
const SMALL: u64 = 256 << 10;
/// Largest total of blobs in memory; above it, small ones are written to files too.
const MEMORY_MAX: u64 = 16 << 20;

/// The bytes of a new member.
#[derive(Clone)]
pub enum NewContent {
    Memory(Arc<[u8]>),
    Spooled { file: Arc<File>, size: u64 },
}

impl NewContent {
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Spooled { size, .. } => *size,
        }
    }

    pub fn reader(&self) -> Box<dyn Read + Send> {
        match self {
            Self::Memory(bytes) => Box::new(Cursor::new(bytes.clone())),
            Self::Spooled { file, size } => Box::new(FileSlice::new(file.clone(), 0..*size)),
        }
    }
}

impl From<&[u8]> for NewContent {
    fn from(bytes: &[u8]) -> Self {
        Self::Memory(bytes.into())
    }
}

#[derive(Clone, Default)]
pub struct Pending {
    pub blobs: BTreeMap<Digest, NewContent>,
    pub documents: BTreeMap<Digest, Document>,
}

impl Pending {
    /// Returns the bytes that small blobs take in memory.
    pub fn memory(&self) -> u64 {
        let in_memory = |bytes: &NewContent| match bytes {
            NewContent::Memory(bytes) => bytes.len() as u64,
            NewContent::Spooled { .. } => 0,
        };
        self.blobs.values().map(in_memory).sum()
    }
}

/// Reads and verifies a blob, into memory or into an unnamed file in `dir`. `in_memory` is the total of blobs in memory.
pub fn take(blob: &Descriptor, content: impl Read, in_memory: u64, dir: &Path) -> Result<NewContent, Error> {
    let doing = || format!("keep blob {}", blob.digest);
    let mut content = Verified::new(content, &blob.digest, blob.size, "blob");
    if blob.size <= SMALL && in_memory + blob.size <= MEMORY_MAX {
        let mut bytes = Vec::with_capacity(blob.size as usize);
        content.read_to_end(&mut bytes).map_err(|e| Error::from_io(doing(), e))?;
        return Ok(NewContent::from(bytes.as_slice()));
    }
    // Beside the archive: there is space for the archive, and the kernel can copy within one file system.
    let mut file = tempfile::tempfile_in(dir).map_err(|e| Error::from_io(doing(), e))?;
    io::copy(&mut content, &mut file).map_err(|e| Error::from_io(doing(), e))?;
    Ok(NewContent::Spooled { file: Arc::new(file), size: blob.size })
}
