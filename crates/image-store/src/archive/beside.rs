//! The lock on an archive's directory, and the names of temporary files beside the archive.

use error::Error;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for which a writer waits for another one.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Suffix of temporary files.
pub const SUFFIX: &str = ".archive-tmp";

/// Locks the archive's directory until the file is dropped: a lock on the archive would be lost when it is replaced, and a
/// lock file would remain.
///
/// # Errors
/// `Conflict` if another process holds the lock for 30 seconds.
pub fn lock(dir: &Path, place: &str) -> Result<File, Error> {
    let doing = || format!("lock the directory of \"{place}\"");
    let directory = File::open(dir).map_err(|e| Error::from_io(doing(), e))?;
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                let why = "another process has held the lock for 30 seconds";
                return Err(
                    Error::conflict(doing(), why).hint("run the command again when that process is done")
                );
            }
            Err(TryLockError::Error(error)) => return Err(Error::from_io(doing(), error)),
        }
    }
}

/// Prefix of the names of temporary files.
pub fn prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// Removes the temporary files of killed writers. The caller holds the lock, so no other process writes such a file.
pub fn remove_leftovers(dir: &Path, path: &Path) {
    let prefix = prefix(path);
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(SUFFIX.as_bytes()) {
            // Errors are ignored, since such files only take up space.
            let _ = fs::remove_file(entry.path());
        }
    }
}
