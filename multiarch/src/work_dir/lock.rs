//! The lock of a work directory: one release at a time, since two would overwrite each other's staged images.

use crate::request::Request;
use crate::work_dir::{self, WORK};
use error::{Error, Exit};
use std::fs::{self, File};
use std::time::SystemTime;

/// Creates the work directory if it does not exist, and locks it until the file is dropped. The time of the lock file is
/// the time of the last use.
///
/// # Errors
/// `Conflict` if another release is using it; `NotPermitted` if another user can write in it.
pub fn acquire(request: &Request) -> Result<File, Error> {
    let dir = work_dir::make(request)?;
    let doing = || format!("use the work directory \"{}\"", dir.path().display());
    let file = dir.dir().open_lock("lock", 0o600).map_err(|error| {
        let path = dir.path().join("lock");
        match Error::from_io(doing(), error) {
            Error { kind: Exit::BadInput, .. } => {
                let doing = format!("use the work directory \"{}\"", path.display());
                Error::not_permitted(doing, "it is a link or a FIFO").hint(WORK.way_out)
            }
            error => error,
        }
    })?;
    match file.try_lock() {
        Ok(()) => {
            drop(file.set_modified(SystemTime::now()));
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => Err(Error::conflict(doing(), "another release is using it")
            .hint("wait for it, or name another directory with --work-dir")),
        Err(fs::TryLockError::Error(error)) => Err(Error::from_io(doing(), error)),
    }
}
