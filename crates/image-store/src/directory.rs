//! Open directories, whose contents are reached beneath them: links are not followed, and only regular files are opened.

use error::Error;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const OPEN: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory. Whatever replaces it or a directory above it, names still refer to its own contents.
#[derive(Clone, Debug)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

impl Directory {
    /// Opens a directory that the user named: links in its path are followed.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, OFlags::empty())
    }

    /// Opens a directory. Only links above it are followed.
    ///
    /// # Errors
    /// As open(2); `BadInput` if it is a link or a file.
    pub fn open_itself(path: &Path) -> io::Result<Self> {
        Self::open_as(path, OFlags::NOFOLLOW).map_err(|error| not_a_directory(path, error))
    }

    fn open_as(path: &Path, flags: OFlags) -> io::Result<Self> {
        let fd = openat(CWD, path, OPEN | flags, Mode::empty())?;
        Ok(Self { fd: Arc::new(fd), path: path.into() })
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its metadata.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn metadata(&self) -> io::Result<Metadata> {
        // A duplicate, since a `File` closes its descriptor.
        File::from(self.fd.try_clone()?).metadata()
    }

    /// Opens the directory at a relative path. No component may be a link or `..`.
    ///
    /// # Errors
    /// As open(2); `BadInput` if a component is not a directory.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let mut dir = self.clone();
        for name in path.as_ref() {
            let path = dir.path.join(name);
            if name == ".." {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let opened = openat(&dir.fd, name, OPEN | OFlags::NOFOLLOW, Mode::empty());
            let fd = opened.map_err(|error| not_a_directory(&path, error.into()))?;
            dir = Self { fd: Arc::new(fd), path };
        }
        Ok(dir)
    }

    /// Opens the directory at a relative path and creates what does not exist. `Ok` means that new directories outlast
    /// a power cut.
    ///
    /// # Errors
    /// As [`Self::open_dir`] and mkdir(2).
    pub fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Self> {
        let mut dir = self.clone();
        for name in path.as_ref() {
            match mkdirat(&dir.fd, name, Mode::from_raw_mode(mode)) {
                Ok(()) => dir.sync()?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    /// Opens the directory as a file that can be synced and read.
    pub(crate) fn synced(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(&self.fd, ".", flags, Mode::empty())?.into())
    }

    /// Makes the names in it outlast a power cut.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn sync(&self) -> io::Result<()> {
        self.synced()?.sync_all()
    }

    /// Opens a regular file to read. A pipe does not block.
    ///
    /// # Errors
    /// `BadInput` (as an I/O error that [`Error::from_io`] unwraps) if it is something else.
    pub fn open_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.open_file_as(name, OFlags::RDONLY, 0)
    }

    /// Opens a regular file to append to and to read, and creates it if it does not exist. Nothing is truncated.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn append_to_file(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        self.open_file_as(name, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE, mode)
    }

    /// Opens a regular file, whose content is not used, to lock it. Creates it if it does not exist.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_lock(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        self.open_file_as(name, OFlags::WRONLY | OFlags::CREATE, mode)
    }

    fn open_file_as(&self, path: impl AsRef<Path>, flags: OFlags, mode: u32) -> io::Result<File> {
        let path = path.as_ref();
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let dir = self.open_dir(above)?;
        // Opening a pipe would wait for its other end.
        let verb = if flags == OFlags::RDONLY { "read" } else { "open" };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let shown = dir.path.join(name);
        let opened = retry_on_intr(|| openat(&dir.fd, name, flags, Mode::from_raw_mode(mode)));
        only_regular(&shown, opened.map(File::from).map_err(io::Error::from), verb)
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::open_file`]; `BadInput` if it is larger.
    pub fn read_small(&self, name: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.path.join(&name);
        read_at_most(&self.open_file(name)?, limit, &path)
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let dir = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok(unlinkat(&dir.fd, path.file_name().unwrap_or_default(), AtFlags::empty())?)
    }

    /// The names of its entries.
    ///
    /// # Errors
    /// As getdents(2).
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.synced()?)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Opens a regular file to read. It must not be a link itself; links above it are followed. A pipe does not block.
///
/// # Errors
/// `BadInput` (as an I/O error that [`Error::from_io`] unwraps) if it is something else.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // A blob that is a link would let a layout refer to any file of this host; opening a pipe would wait forever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = retry_on_intr(|| openat(CWD, path, flags, Mode::empty()));
    only_regular(path, opened.map(File::from).map_err(io::Error::from), "read")
}

/// Reads a file of at most `limit` bytes, as [`open_regular`] opens it.
///
/// # Errors
/// As [`open_regular`]; `BadInput` if it is larger.
pub fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_at_most(&open_regular(path)?, limit, path)
}

/// Reads what is left of a file, if that is at most `limit` bytes.
pub(crate) fn read_at_most(file: &File, limit: u64, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Read::take(file, limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let why = format!("it is larger than {limit} bytes");
        return Err(Error::bad_input(format!("read \"{}\"", path.display()), why).into_io());
    }
    Ok(bytes)
}

fn only_regular(path: &Path, opened: io::Result<File>, verb: &str) -> io::Result<File> {
    let refuse = |why: &str| {
        let why = format!("it is {why}, not a regular file");
        Error::bad_input(format!("{verb} \"{}\"", path.display()), why).into_io()
    };
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => refuse("a symbolic link"),
        Some(Errno::NXIO) => refuse("a socket or pipe"),
        Some(Errno::ISDIR) => refuse("a directory"),
        _ => error,
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refuse("a directory, pipe or device")),
    }
}

fn not_a_directory(path: &Path, error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        // Linux says that a link is not a directory.
        Some(Errno::NOTDIR | Errno::LOOP) => {
            let why = "it is a link or a file, not a directory";
            Error::bad_input(format!("use the directory \"{}\"", path.display()), why).into_io()
        }
        _ => error,
    }
}

/// The directory of a file; `.` for a bare file name.
pub fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a directory and those above it, if they do not exist. `Ok` means that they outlast a power cut: a file that
/// was synced is lost with a directory that was not.
///
/// # Errors
/// As mkdir(2).
pub fn create_dir_durably(dir: &Path, mode: u32) -> io::Result<()> {
    let above = parent_dir(dir);
    let create = || mkdirat(CWD, dir, Mode::from_raw_mode(mode));
    let created = create().or_else(|error| match error {
        Errno::NOENT => create_dir_durably(above, mode).and_then(|()| Ok(create()?)),
        _ => Err(error.into()),
    });
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(above)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_file::TempFiles;
    use error::Exit;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn kind<T>(result: io::Result<T>) -> Exit {
        Error::from_io("try", result.err().unwrap()).kind
    }

    #[test]
    fn nothing_is_reached_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("real/deep")).unwrap();
        fs::write(at("real/deep/file"), "text").unwrap();
        symlink(at("real"), at("link")).unwrap();
        symlink(at("real/deep/file"), at("real/link")).unwrap();
        let open = Directory::open(dir.path()).unwrap();
        assert_eq!(open.read_small("real/deep/file", 4).unwrap(), b"text");
        assert_eq!(kind(open.read_small("real/deep/file", 3)), Exit::BadInput);
        assert_eq!(kind(open.read_small("link/deep/file", 4)), Exit::BadInput);
        assert_eq!(kind(open.create_dir("link/new", 0o700)), Exit::BadInput);
        assert_eq!(kind(open.append_to_file("real/link", 0o600)), Exit::BadInput);
        assert_eq!(kind(open.open_dir("real/deep/../..")), Exit::Local);
        assert_eq!(kind(Directory::open_itself(&at("link"))), Exit::BadInput);
        assert!(Directory::open(&at("link")).is_ok() && !at("real/new").exists());
    }

    #[test]
    fn an_open_directory_stays_the_same_when_its_path_gets_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("ours")).unwrap();
        fs::create_dir(at("theirs")).unwrap();
        let ours = Directory::open(&at("ours")).unwrap();
        let mut file = TempFiles::default().create(&ours, OsStr::new(".x"), "", 0o600).unwrap();
        fs::rename(at("ours"), at("moved")).unwrap();
        symlink(at("theirs"), at("ours")).unwrap();
        io::Write::write_all(file.as_file_mut(), b"text").unwrap();
        file.persist_durably_in(&ours, OsStr::new("file")).unwrap();
        drop(TempFiles::default().create(&ours, OsStr::new(".x"), "", 0o600).unwrap());
        ours.create_dir("sub", 0o700).unwrap();
        let mut names = ours.names().unwrap();
        names.sort();
        assert_eq!(names, ["file", "sub"]);
        assert_eq!(fs::read(at("moved/file")).unwrap(), b"text");
        assert_eq!(fs::read_dir(at("theirs")).unwrap().count(), 0);
    }
}
