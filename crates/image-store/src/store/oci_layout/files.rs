//! Folders that outlast a power cut, and files that are files.

use error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes a folder, and what it lies in, if it is not there. After a power cut it still is: what is synced in a folder
/// is lost with it.
pub fn create_dir_durably(dir: &Path) -> io::Result<()> {
    let above = dir.parent().filter(|above| *above != Path::new("")).unwrap_or(Path::new("."));
    let made = fs::create_dir(dir).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => create_dir_durably(above).and_then(|()| fs::create_dir(dir)),
        _ => Err(error),
    });
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(above)?.sync_all(),
    }
}

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

pub fn open_regular(path: &Path) -> io::Result<File> {
    let refuse = |why: &str| {
        Error::bad_input(format!("read \"{}\"", path.display()), format!("it is {why}, not a regular file"))
            .into_io()
    };
    // A blob that is a link would let a layout name any file of this host; opening a pipe would wait for ever.
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
        false => Err(refuse("a folder, pipe or device")),
    }
}
