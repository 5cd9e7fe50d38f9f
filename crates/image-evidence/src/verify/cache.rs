//! A cache of layer facts on disk, so that a layer is read only once.
//!
//! `$XDG_CACHE_HOME/multiarch/layers` contains `key`, a secret of this directory, and a file for each layer. Files are named
//! by digest and diff ID, so they never become outdated. They contain hashes of paths, link targets and facts from
//! programs: no URLs and no credentials. Files are written atomically, so that several processes can share the directory;
//! damaged files are ignored. A failure costs time, but never changes a result.

use crate::layer::encoding;
use crate::layer::{LayerFacts, NameHasher};
use image_model::digest::Digest;
use image_store::atomic_file::TempFiles;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
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
const UNFINISHED: &str = ".new-";

/// A cache directory.
pub struct LayerCache {
    dir: PathBuf,
    /// Has the key of the directory.
    hasher: NameHasher,
    temp_files: TempFiles,
    /// Bytes written by this process since the directory was last pruned.
    written: Mutex<u64>,
}

impl LayerCache {
    /// The cache of the user. `None`: there is no such directory, or it cannot be used.
    pub fn for_user(temp_files: &TempFiles) -> Option<Self> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Self::open(&home.join("multiarch").join("layers"), temp_files).ok()
    }

    /// Opens or creates a cache directory.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn open(dir: &Path, temp_files: &TempFiles) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let cache = Self {
            dir: dir.to_path_buf(),
            hasher: hasher(dir)?,
            temp_files: temp_files.clone(),
            written: Mutex::default(),
        };
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

    /// The facts from the table of contents and some files of a layer.
    pub fn read_part(&self, layer: &Digest, diff_id: Option<&Digest>) -> Option<LayerFacts> {
        let mut facts = self.read_as(layer, diff_id, IN_PART)?;
        facts.is_partial = true;
        Some(facts)
    }

    fn read_as(&self, layer: &Digest, diff_id: Option<&Digest>, what: &str) -> Option<LayerFacts> {
        let (name, path) = self.place(layer, diff_id, what);
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        Read::take(&file, FILE_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        let found = encoding::decode(&bytes, &name, &self.hasher);
        match &found {
            // The modification time is the time of the last use.
            Some(_) => drop(file.set_modified(SystemTime::now())),
            None => drop(fs::remove_file(&path)),
        }
        found
    }

    /// Writes the facts from a layer, if possible.
    pub fn write(&self, layer: &Digest, diff_id: Option<&Digest>, facts: &LayerFacts) {
        let (name, path) = self.place(layer, diff_id, if facts.is_partial { IN_PART } else { "" });
        let Some(bytes) = encoding::encode(facts, &name, FILE_MAX) else { return };
        // Nothing depends on it, for example on a full disk.
        if self.keep(&path, &bytes).is_err() {
            return;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written += bytes.len() as u64;
        if *written > BYTES_MAX / 8 {
            *written = 0;
            self.prune();
        }
    }

    fn keep(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.temp_files.create(|| unfinished(&self.dir))?;
        file.as_file_mut().write_all(bytes)?;
        file.persist(path).map(drop)
    }

    fn place(&self, layer: &Digest, diff_id: Option<&Digest>, what: &str) -> (String, PathBuf) {
        let name = format!("{layer} {}{what}", diff_id.map_or("-", Digest::as_str));
        let path = self.dir.join(Digest::of(name.as_bytes()).hex());
        (name, path)
    }

    /// Removes the least recently used files until the others are small enough.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let (Ok(metadata), name) = (entry.metadata(), entry.file_name()) else { continue };
            let Ok(used) = metadata.modified() else { continue };
            let is_left = name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
            if is_left && used.elapsed().is_ok_and(|age| age > LEFT_AFTER) {
                drop(fs::remove_file(entry.path()));
            } else if !is_left && name != "key" && metadata.is_file() {
                files.push((used, metadata.size(), entry.path()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, size, path) in files {
            if total <= BYTES_MAX {
                return;
            }
            drop(fs::remove_file(path));
            total -= size;
        }
    }
}

/// The hasher with the key of the directory. The first process creates the key.
fn hasher(dir: &Path) -> io::Result<NameHasher> {
    let path = dir.join("key");
    for _ in 0..3 {
        let found = fs::read(&path).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if let Some(bytes) = found {
            return Ok(NameHasher::new(bytes));
        }
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let mut new = unfinished(dir)?;
        new.write_all(&bytes)?;
        // If two processes create it at once, the second one reads the key of the first.
        match new.persist_noclobber(&path) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
            Err(_) if fs::metadata(&path)?.size() != 32 => fs::remove_file(&path)?,
            _ => {}
        }
    }
    Err(io::Error::other("the key file keeps changing"))
}

fn unfinished(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o600)).tempfile_in(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tests::{HASHER_KEY, Tar, elf};

    fn cache(dir: &Path) -> LayerCache {
        // Without `open`: its key is random, and the layers of the tests have this one.
        let hasher = NameHasher::new(HASHER_KEY);
        let (temp_files, written) = (TempFiles::default(), Mutex::default());
        LayerCache { dir: dir.to_path_buf(), hasher, temp_files, written }
    }

    #[test]
    fn two_first_processes_have_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| *hasher(dir.path()).unwrap().key())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && *key != [0; 32]));
        fs::write(dir.path().join("key"), b"cut").unwrap();
        assert_ne!(*hasher(dir.path()).unwrap().key(), keys[0], "a damaged key is replaced");
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
        let place = cache.place(&layer, None, "").1;
        fs::write(&place, b"damaged").unwrap();
        assert!(cache.read(&layer, None).is_none() && !place.exists());
    }
}
