//! Files that are not whole yet. Each is locked by its writer, so that one that a killed writer left is known by
//! nobody holding it, and removed.

use crate::atomic_file::AtomicFile;
use crate::regular_file::open_regular;
use std::ffi::OsStr;
use std::fs::{self, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const PREFIX: &str = ".write-";
const SUFFIX: &str = ".tmp";

/// A new file in `dir` that no reader looks at, gone if it is not kept.
pub fn create(dir: &Path) -> io::Result<AtomicFile> {
    loop {
        // Like any new file, it gets what the umask leaves.
        let mode = Permissions::from_mode(0o666);
        let file = AtomicFile::create(|| {
            tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).permissions(mode).tempfile_in(dir)
        })?;
        match file.as_file().try_lock() {
            // Between its birth and the lock, somebody may have taken it for a leftover.
            Ok(()) if file.as_file().metadata()?.nlink() == 0 => {}
            Err(TryLockError::WouldBlock) => {}
            // A file system without locks has no leftovers removed either.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

pub fn is_unfinished(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

/// Removes what killed writers left in `dir`. It costs room, not correctness: no reason to fail.
pub fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| is_unfinished(&entry.file_name())) {
        if let Ok(file) = open_regular(&entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_writes_any_more_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at_work = create(dir.path()).unwrap();
        let left = dir.path().join(format!("{PREFIX}1{SUFFIX}"));
        fs::write(&left, "").unwrap();
        let other = dir.path().join("other.tmp");
        fs::write(&other, "").unwrap();
        remove_leftovers(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the one at work and the other");
        assert!(other.exists() && !left.exists());
        let kept = dir.path().join("kept");
        at_work.persist(&kept).unwrap();
        remove_leftovers(dir.path());
        assert!(kept.exists());
    }
}
