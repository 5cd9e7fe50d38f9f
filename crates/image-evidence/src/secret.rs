//! Keys with which files of earlier runs are authenticated.

use image_model::digest::{Digest, Hasher};
use image_store::atomic_file::TempFiles;
use image_store::private_dir::PrivateDir;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};

/// The file of a key.
pub(crate) const FILE: &str = "key";
/// The prefix of temporary names.
pub(crate) const UNFINISHED: &str = ".new-";

/// A secret of this user.
#[derive(Clone)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// A key for this process alone.
    ///
    /// # Errors
    /// If the kernel provides no random bytes.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key in the file `key` of a directory, if there is one.
    pub fn existing(dir: &PrivateDir) -> Option<Self> {
        dir.read_small(FILE, 32).ok()?.try_into().ok().map(Self)
    }

    /// The key in the file `key` of a directory. The first process creates it; what is not a key is replaced.
    ///
    /// # Errors
    /// If it can neither be read nor written.
    pub fn create(dir: &PrivateDir, temp_files: &TempFiles) -> io::Result<Self> {
        for _ in 0..3 {
            if let Some(key) = Self::existing(dir) {
                return Ok(key);
            }
            let mut new = temp_files.create(dir.dir(), OsStr::new(UNFINISHED), "", 0o600)?;
            new.as_file_mut().write_all(&Self::random()?.0)?;
            // If two processes create it at once, the second one reads the key of the first.
            match new.persist_new(OsStr::new(FILE)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if Self::existing(dir).is_none() => dir.dir().remove_file(FILE)?,
                _ => {}
            }
        }
        Err(io::Error::other("the key file keeps changing"))
    }

    /// The key itself.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of some content that only the owner of the key can compute.
    pub fn digest(&self, content: &[u8]) -> Digest {
        keyed_digest(&self.0, content)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

/// The digest of some content that only the owner of the key can compute.
pub(crate) fn keyed_digest(key: &[u8; 32], content: &[u8]) -> Digest {
    // With the key at both ends, a digest cannot be extended to one of more bytes.
    let mut hasher = Hasher::sha256();
    for part in [key.as_slice(), content, key] {
        hasher.update(part);
    }
    hasher.finish()
}
