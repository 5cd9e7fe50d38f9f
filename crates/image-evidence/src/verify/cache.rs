//! A cache of layer facts on disk, so that a layer is read only once.
//!
//! `$XDG_CACHE_HOME/multiarch/layers` contains `key`, a secret of this directory, and a file for each layer. Files are named
//! by digest and diff ID, so they never become outdated. They contain hashes of paths, link targets and facts from
//! programs: no URLs and no credentials. Files are written atomically, so that several processes can share the directory;
//! damaged files are ignored. A failure costs time, but never changes a result. A directory in which other users can write
//! is not used.

use crate::layer::encoding;
use crate::layer::{LayerFacts, NameHasher};
use crate::secret::{self, SecretKey, UNFINISHED};
use error::Error;
use image_model::digest::Digest;
use image_store::atomic_file::TempFiles;
use image_store::private_dir::{CACHE, PrivateDir};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

/// Bytes of all files together. The least recently used ones are removed first.
const BYTES_MAX: u64 = 256 << 20;
/// Bytes of one file. A layer with a million entries has 12 MB.
const FILE_MAX: usize = 32 << 20;
/// The age at which temporary files of killed processes are removed.
const LEFT_AFTER: Duration = Duration::from_secs(3600);
/// The suffix of the name for layers that were read in part.
const IN_PART: &str = " in part";
/// The suffix of the name for layers of which the archives were read as well.
const DEEP: &str = " deep";

/// A cache directory.
pub struct LayerCache {
    dir: PrivateDir,
    /// Has the key of the directory.
    hasher: NameHasher,
    temp_files: TempFiles,
    /// Bytes written by this process since the directory was last pruned.
    written: Mutex<u64>,
}

impl LayerCache {
    /// The cache of the user.
    ///
    /// # Errors
    /// Why it cannot be used: `Local` if there is no such directory, `NotPermitted` if others can write in it.
    pub fn for_user(temp_files: &TempFiles) -> Result<Self, Error> {
        Self::open(&CACHE.path()?, temp_files)
    }

    /// Opens or creates `layers` in a cache directory, for example `~/.cache/multiarch`.
    ///
    /// # Errors
    /// As [`PrivateDir::create`].
    pub fn open(cache: &Path, temp_files: &TempFiles) -> Result<Self, Error> {
        let dir = PrivateDir::create(cache, CACHE.purpose)?.create_subdir("layers")?;
        let key = SecretKey::create(&dir, temp_files);
        let key =
            key.map_err(|e| Error::from_io(format!("use the cache \"{}\"", dir.path().display()), e))?;
        let hasher = NameHasher::new(*key.bytes());
        let cache = Self { dir, hasher, temp_files: temp_files.clone(), written: Mutex::default() };
        cache.prune();
        Ok(cache)
    }

    /// The hasher of the cached layers, which layers need that are read with them.
    pub fn hasher(&self) -> &NameHasher {
        &self.hasher
    }

    /// The facts from a layer that was read whole.
    pub fn read(&self, layer: &Digest, diff_id: Option<&Digest>) -> Option<LayerFacts> {
        self.read_as(layer, diff_id, "")
    }

    /// The facts from a layer and the archives in it.
    pub fn read_deep(&self, layer: &Digest, diff_id: Option<&Digest>) -> Option<LayerFacts> {
        let mut facts = self.read_as(layer, diff_id, DEEP)?;
        facts.is_deep = true;
        Some(facts)
    }

    /// The facts from the table of contents and some files of a layer.
    pub fn read_part(&self, layer: &Digest, diff_id: Option<&Digest>) -> Option<LayerFacts> {
        let mut facts = self.read_as(layer, diff_id, IN_PART)?;
        facts.is_partial = true;
        Some(facts)
    }

    fn read_as(&self, layer: &Digest, diff_id: Option<&Digest>, what: &str) -> Option<LayerFacts> {
        let (name, file_name) = place(layer, diff_id, what);
        let remove = || drop(self.dir.dir().remove_file(&file_name));
        let file = match self.dir.open_file(&file_name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(_) => {
                remove();
                return None;
            }
        };
        let mut bytes = Vec::new();
        Read::take(&file, FILE_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        let found = encoding::decode(&bytes, &name, &self.hasher);
        match &found {
            // The modification time is the time of the last use.
            Some(_) => drop(file.set_modified(SystemTime::now())),
            None => remove(),
        }
        found
    }

    /// Writes the facts from a layer, if possible.
    pub fn write(&self, layer: &Digest, diff_id: Option<&Digest>, facts: &LayerFacts) {
        let suffix = match facts {
            LayerFacts { is_deep: true, .. } => DEEP,
            LayerFacts { is_partial: true, .. } => IN_PART,
            _ => "",
        };
        let (name, file_name) = place(layer, diff_id, suffix);
        let Some(bytes) = encoding::encode(facts, &name, FILE_MAX) else { return };
        // Nothing depends on it, for example on a full disk.
        if self.keep(&file_name, &bytes).is_err() {
            return;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written += bytes.len() as u64;
        if *written > BYTES_MAX / 8 {
            *written = 0;
            self.prune();
        }
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let dir = self.dir.dir();
        let mut file = self.temp_files.create(dir, OsStr::new(UNFINISHED), "", 0o600)?;
        file.as_file_mut().write_all(bytes)?;
        file.persist_in(dir, OsStr::new(name)).map(drop)
    }

    /// Removes the least recently used files until the others are small enough.
    fn prune(&self) {
        let dir = self.dir.dir();
        let Ok(names) = dir.names() else { return };
        let mut files: Vec<(SystemTime, u64, OsString)> = Vec::new();
        for name in names {
            let Ok(metadata) = dir.open_file(&name).and_then(|file| file.metadata()) else { continue };
            let Ok(used) = metadata.modified() else { continue };
            let is_left = name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
            if is_left && used.elapsed().is_ok_and(|age| age > LEFT_AFTER) {
                drop(dir.remove_file(name));
            } else if !is_left && name != secret::FILE {
                files.push((used, metadata.size(), name));
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, size, name) in files {
            if total <= BYTES_MAX {
                return;
            }
            drop(dir.remove_file(name));
            total -= size;
        }
    }
}

/// The name of a layer in its cache file, and the name of that file.
fn place(layer: &Digest, diff_id: Option<&Digest>, what: &str) -> (String, String) {
    let name = format!("{layer} {}{what}", diff_id.map_or("-", Digest::as_str));
    let file_name = Digest::of(name.as_bytes()).hex().to_string();
    (name, file_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tests::{HASHER_KEY, Tar, elf};
    use std::fs::{self, File};

    fn cache(dir: &Path) -> LayerCache {
        // Without `open`: its key is random, and the layers of the tests have this one.
        let hasher = NameHasher::new(HASHER_KEY);
        let (temp_files, written) = (TempFiles::default(), Mutex::default());
        let dir = PrivateDir::create(dir, CACHE.purpose).unwrap();
        LayerCache { dir, hasher, temp_files, written }
    }

    #[test]
    fn two_first_processes_have_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = || *LayerCache::open(dir.path(), &TempFiles::default()).unwrap().hasher.key();
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(key)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && *key != [0; 32]));
        fs::write(dir.path().join("layers/key"), b"cut").unwrap();
        assert_ne!(key(), keys[0], "a damaged key is replaced");
    }

    #[test]
    fn least_recently_used_files_are_removed_and_leftovers_after_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, size: u64, age: u64| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_len(size).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        file("key", 32, 9000);
        file("old", BYTES_MAX / 2, 300);
        file("middle", BYTES_MAX / 2, 200);
        file("young", BYTES_MAX / 2, 100);
        file(".new-1", 1, 4000);
        file(".new-2", 1, 10);
        cache(dir.path()).prune();
        let mut left: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".new-2", "key", "middle", "young"]);
    }

    #[test]
    fn concurrent_processes_read_complete_files() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let facts = Tar::default().file("bin/app", &elf(183)).facts();
        let layer = Digest::of(b"layer");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        cache.write(&layer, None, &facts);
                        assert_eq!(cache.read(&layer, None).unwrap().programs().count(), 1);
                    }
                });
            }
        });
        assert!(cache.read(&layer, Some(&layer)).is_none(), "what it unpacks to is part of the name");
        let place = dir.path().join(place(&layer, None, "").1);
        fs::write(&place, b"damaged").unwrap();
        assert!(cache.read(&layer, None).is_none() && !place.exists());
    }
}
