//! Temporary files of a layout. A writer locks its file, so that files of killed writers are recognized: nobody has a
//! lock on them.

use crate::atomic_file::{AtomicFile, TempFiles};
use crate::directory::Directory;
use std::ffi::OsStr;
use std::fs::TryLockError;
use std::io;
use std::os::unix::fs::MetadataExt;

const PREFIX: &str = ".write-";
const SUFFIX: &str = ".tmp";

/// Creates a temporary file in `dir`.
pub fn create(temp_files: &TempFiles, dir: &Directory) -> io::Result<AtomicFile> {
    loop {
        let file = temp_files.create(dir, OsStr::new(PREFIX), SUFFIX, 0o666)?;
        match file.as_file().try_lock() {
            // Before it was locked, another process may have removed it as a leftover.
            Ok(()) if file.as_file().metadata()?.nlink() == 0 => {}
            Err(TryLockError::WouldBlock) => {}
            // On a file system without locks, leftovers are not removed either.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// Returns whether a file name is that of a temporary file.
pub fn is_unfinished(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

/// Removes the temporary files of killed writers. Errors are ignored, since such files only take up space.
pub fn remove_leftovers(dir: &Directory) {
    for name in dir.names().unwrap_or_default().iter().filter(|name| is_unfinished(name)) {
        if let Ok(file) = dir.open_file(name)
            && file.try_lock().is_ok()
        {
            let _ = dir.remove_file(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_temporary_files_without_a_writer_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let open = Directory::open(dir.path()).unwrap();
        let at_work = create(&TempFiles::default(), &open).unwrap();
        let left = dir.path().join(format!("{PREFIX}1{SUFFIX}"));
        fs::write(&left, "").unwrap();
        let other = dir.path().join("other.tmp");
        fs::write(&other, "").unwrap();
        remove_leftovers(&open);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the locked file and the other one");
        assert!(other.exists() && !left.exists());
        let kept = dir.path().join("kept");
        at_work.persist(&kept).unwrap();
        remove_leftovers(&open);
        assert!(kept.exists());
    }
}
