//! Opens and reads regular files only: not links, pipes or devices.

use error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a regular file of at most `limit` bytes. Links are not followed and a pipe does not block.
pub fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(Error::bad_input(
            format!("read \"{}\"", path.display()),
            format!("it is larger than {limit} bytes"),
        )));
    }
    Ok(bytes)
}

/// Opens a regular file to read. Links are not followed and a pipe does not block.
///
/// # Errors
/// `BadInput` (as an I/O error that [`Error::from_io`] unwraps) if it is something else.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let refuse = |why: &str| {
        Error::bad_input(format!("read \"{}\"", path.display()), format!("it is {why}, not a regular file"))
            .into_io()
    };
    // A blob that is a link would let a layout refer to any file of this host; opening a pipe would wait forever.
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(code) if code == nix::errno::Errno::ELOOP as i32 => refuse("a symbolic link"),
            Some(code) if code == nix::errno::Errno::ENXIO as i32 => refuse("a socket or pipe"),
            _ => error,
        }
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refuse("a directory, pipe or device")),
    }
}
