//! What lies beside an archive while it changes: the lock, and files of which a killed writer may leave one.

use error::Error;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a second writer waits for the first.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// Ends the names of files that are being written.
pub const SUFFIX: &str = ".archive-tmp";

/// The folder in which the archive lies.
pub fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// Locks the folder: a lock on the archive itself would go with the old file, one beside it would be litter.
pub fn lock(dir: &Path, place: &str) -> Result<File, Error> {
    let doing = || format!("lock the folder of \"{place}\"");
    let folder = File::open(dir).map_err(|e| Error::from_io(doing(), e))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                let why = "another process has held the lock for 30 seconds";
                return Err(Error::conflict(doing(), why).hint("run again when it is done"));
            }
            Err(TryLockError::Error(error)) => return Err(Error::from_io(doing(), error)),
        }
    }
}

/// Begins their names.
pub fn prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// Removes what a killed writer of this archive left. Only one writer at a time holds the lock, so nobody is
/// still writing such a file.
pub fn remove_leftovers(dir: &Path, path: &Path) {
    let prefix = prefix(path);
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(prefix.as_encoded_bytes()) && name.ends_with(SUFFIX.as_bytes()) {
            // It costs room, not correctness: no reason to fail.
            let _ = fs::remove_file(entry.path());
        }
    }
}
