//! The lock of a work directory: one release at a time, since two would overwrite each other's staged images.

use crate::request::Request;
use crate::work_dir;
use error::Error;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

/// Creates the work directory if it does not exist, and locks it until the file is dropped. The time of the lock file is
/// the time of the last use.
///
/// # Errors
/// `Conflict` if another release is using it; `NotPermitted` as [`work_dir::check`].
pub fn acquire(request: &Request) -> Result<File, Error> {
    let work_dir = &request.work_dir;
    work_dir::make(request)?;
    let file = open(work_dir)?;
    match file.try_lock() {
        Ok(()) => {
            drop(file.set_modified(SystemTime::now()));
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => {
            Err(Error::conflict(work_dir::doing(work_dir), "another release is using it")
                .hint("wait for it, or name another directory with --work-dir"))
        }
        Err(fs::TryLockError::Error(error)) => Err(Error::from_io(work_dir::doing(work_dir), error)),
    }
}

/// Opens the lock file, creating it if it does not exist. A link is not followed, and nothing is truncated.
fn open(work_dir: &Path) -> Result<File, Error> {
    let path = work_dir.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let opened = options.open(&path).and_then(|file| file.metadata().map(|meta| (file, meta)));
    let refused = |why: &str| Error::not_permitted(work_dir::doing(&path), why).hint(work_dir::OTHER);
    match opened {
        Ok((file, meta)) if meta.is_file() => Ok(file),
        Ok(_) => Err(refused("it is not a regular file")),
        Err(error)
            if [Errno::ELOOP, Errno::ENXIO]
                .iter()
                .any(|errno| error.raw_os_error() == Some(*errno as i32)) =>
        {
            Err(refused("it is a link or a FIFO"))
        }
        Err(error) => Err(Error::from_io(work_dir::doing(&path), error)),
    }
}
