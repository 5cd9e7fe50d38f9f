//! Directories that outlive a run (cache, state, work directory), in which only this user can write.
//!
//! The check begins at a directory of this program, usually `multiarch`, not above: in container jobs, root has the home
//! directory of another user. A directory that others can only read, such as a restored cache, is closed to them.

use crate::directory::{Directory, create_dir_durably, read_at_most};
use error::Error;
use nix::unistd::geteuid;
use rustix::fs::{AtFlags, Mode, chmodat, fchmod};
use std::env;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const WRITABLE_BY_OTHERS: u32 = 0o022;
const OPEN_TO_OTHERS: u32 = 0o077;
const ENTERED_BY_OTHERS: u32 = 0o011;
/// The mode of new directories.
const DIRECTORY: u32 = 0o700;
/// The mode of new files.
const FILE: u32 = 0o600;

/// What a directory is for.
#[derive(Clone, Copy, Debug)]
pub struct DirPurpose {
    /// For messages: `work directory`.
    pub name: &'static str,
    /// What the user can do if it cannot be used.
    pub way_out: &'static str,
}

/// A directory of the XDG Base Directory Specification.
#[derive(Clone, Copy, Debug)]
pub struct UserDir {
    /// What it is for.
    pub purpose: DirPurpose,
    variable: &'static str,
    /// In the home directory, if the variable is not set.
    default: &'static str,
}

/// `~/.cache/multiarch`: what is lost with it costs only time.
pub const CACHE: UserDir = UserDir {
    purpose: DirPurpose { name: "cache", way_out: "set XDG_CACHE_HOME to a directory of this user" },
    variable: "XDG_CACHE_HOME",
    default: ".cache",
};

/// `~/.local/state/multiarch`: drafts and the journal.
pub const STATE: UserDir = UserDir {
    purpose: DirPurpose {
        name: "state directory",
        way_out: "set XDG_STATE_HOME to a directory of this user",
    },
    variable: "XDG_STATE_HOME",
    default: ".local/state",
};

impl UserDir {
    /// Its path. It may not exist.
    ///
    /// # Errors
    /// `Local` if neither variable is set to an absolute path; the specification says to ignore relative ones.
    pub fn path(&self) -> Result<PathBuf, Error> {
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || Some(absolute("HOME")?.join(self.default));
        let path = absolute(self.variable).or_else(home).map(|path| path.join("multiarch"));
        path.ok_or_else(|| {
            let why = format!("neither {} nor HOME is set to an absolute path", self.variable);
            Error::local(format!("find the {}", self.purpose.name), why)
                .hint(format!("set {}", self.variable))
        })
    }

    /// Opens it, as [`PrivateDir::open`].
    ///
    /// # Errors
    /// As [`Self::path`] and [`PrivateDir::open`].
    pub fn open(&self) -> Result<Option<PrivateDir>, Error> {
        PrivateDir::open(&self.path()?, self.purpose)
    }

    /// Opens or creates it, as [`PrivateDir::create`].
    ///
    /// # Errors
    /// As [`Self::path`] and [`PrivateDir::open`].
    pub fn create(&self) -> Result<PrivateDir, Error> {
        PrivateDir::create(&self.path()?, self.purpose)
    }
}

/// An open directory in which only this user can write.
#[derive(Clone, Debug)]
pub struct PrivateDir {
    dir: Directory,
    purpose: DirPurpose,
    /// Others could enter it before it was closed to them. What they could not reach, they did not change, whatever its
    /// mode is.
    was_open: bool,
}

impl PrivateDir {
    /// Opens a directory and changes nothing. `None`: it does not exist. Links above it are followed.
    ///
    /// # Errors
    /// `NotPermitted` if it belongs to another user, or others can write in it; `BadInput` if it is a link or a file.
    pub fn open(path: &Path, purpose: DirPurpose) -> Result<Option<Self>, Error> {
        Self::existing(path, Directory::open_itself(path), purpose, true)
    }

    /// Opens a directory, which is created if it does not exist, and closes it to other users.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create(path: &Path, purpose: DirPurpose) -> Result<Self, Error> {
        let made = create_dir_durably(path, DIRECTORY);
        let dir = Directory::open_itself(path).map_err(|error| {
            // Of a link that leads nowhere, mkdir(2) says that it exists.
            let of_mkdir = made.err().filter(|error| error.kind() != io::ErrorKind::AlreadyExists);
            refused(path, purpose, of_mkdir.unwrap_or(error))
        })?;
        Self::checked(dir, purpose, true)?.closed_to_others()
    }

    /// Opens a directory in this one, as [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn subdir(&self, name: &str) -> Result<Option<Self>, Error> {
        Self::existing(&self.path().join(name), self.dir.open_dir(name), self.purpose, self.was_open)
    }

    /// Opens or creates a directory in this one, as [`Self::create`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create_subdir(&self, name: &str) -> Result<Self, Error> {
        let dir = self.dir.create_dir(name, DIRECTORY);
        let dir = dir.map_err(|error| refused(&self.path().join(name), self.purpose, error))?;
        Self::checked(dir, self.purpose, self.was_open)?.closed_to_others()
    }

    /// The open directory.
    pub fn dir(&self) -> &Directory {
        &self.dir
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn existing(
        path: &Path,
        dir: io::Result<Directory>,
        purpose: DirPurpose,
        is_reachable: bool,
    ) -> Result<Option<Self>, Error> {
        match dir {
            Ok(dir) => Self::checked(dir, purpose, is_reachable).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(path, purpose, error)),
        }
    }

    fn checked(dir: Directory, purpose: DirPurpose, is_reachable: bool) -> Result<Self, Error> {
        let path = dir.path();
        let meta = dir.metadata().map_err(|error| refused(path, purpose, error))?;
        let Err(why) = check(&meta, is_reachable) else {
            let was_open = is_reachable && meta.mode() & ENTERED_BY_OTHERS != 0;
            return Ok(Self { dir, purpose, was_open });
        };
        let trust =
            format!("if you trust its contents, run: chmod -R go-w \"{}\"; otherwise ", path.display());
        let hint = if is_ours(&meta) { trust + purpose.way_out } else { purpose.way_out.into() };
        Err(Error::not_permitted(doing(path, purpose), why).hint(hint))
    }

    fn closed_to_others(self) -> Result<Self, Error> {
        let close = || {
            let mode = self.dir.metadata()?.mode();
            if mode & OPEN_TO_OTHERS != 0 {
                chmodat(self.dir.fd(), ".", Mode::from_raw_mode(mode & DIRECTORY), AtFlags::empty())?;
            }
            Ok(())
        };
        close().map_err(|error| refused(self.path(), self.purpose, error))?;
        Ok(self)
    }

    /// Reads a file of at most `limit` bytes that only this user can write.
    ///
    /// # Errors
    /// As [`Directory::read_small`]; `NotPermitted` if another user can write it.
    pub fn read_small(&self, name: impl AsRef<Path>, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.path().join(&name);
        read_at_most(&self.open_file(name)?, limit, &path)
    }

    /// Opens a regular file to read that only this user can write.
    ///
    /// # Errors
    /// As [`Directory::open_file`]; `NotPermitted` if another user can write it.
    pub fn open_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let path = self.path().join(&name);
        self.only_ours(&path, self.dir.open_file(name)?)
    }

    /// Opens a file to append to and to read, and closes it to other users. Creates it if it does not exist.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn append_to_file(&self, name: &str) -> io::Result<File> {
        let file = self.only_ours(&self.path().join(name), self.dir.append_to_file(name, FILE)?)?;
        let mode = file.metadata()?.mode();
        if mode & OPEN_TO_OTHERS != 0 {
            fchmod(&file, Mode::from_raw_mode(mode & FILE))?;
        }
        Ok(file)
    }

    fn only_ours(&self, path: &Path, file: File) -> io::Result<File> {
        let meta = file.metadata()?;
        check(&meta, self.was_open).map_err(|why| {
            let path = format!("\"{}\"", path.display());
            let hint = match is_ours(&meta) {
                true => format!("if you trust its content, run: chmod go-w {path}"),
                false => format!("move {path} to another directory"),
            };
            Error::not_permitted(format!("use {path}"), why).hint(hint).into_io()
        })?;
        Ok(file)
    }
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == geteuid().as_raw()
}

/// Returns why other users may have changed this file or directory.
fn check(meta: &Metadata, is_reachable: bool) -> Result<(), String> {
    if !is_ours(meta) {
        return Err(format!("it belongs to user {}, and this is user {}", meta.uid(), geteuid()));
    }
    if is_reachable && meta.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(format!("other users can write in it (mode {:04o})", meta.mode() & 0o7777));
    }
    Ok(())
}

fn doing(path: &Path, purpose: DirPurpose) -> String {
    format!("use the {} \"{}\"", purpose.name, path.display())
}

fn refused(path: &Path, purpose: DirPurpose, error: io::Error) -> Error {
    let error = Error::from_io(doing(path, purpose), error);
    Error { action: doing(path, purpose), ..error.hint(purpose.way_out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const TEST: DirPurpose = DirPurpose { name: "directory", way_out: "use another" };

    #[test]
    fn what_others_could_change_is_refused_and_what_they_could_read_is_closed() {
        // The modes of a directory, of one in it and of a file in that; whether both can be used.
        let rows = [
            (0o700, 0o700, 0o600, Ok(())),
            (0o755, 0o755, 0o644, Ok(())),
            (0o777, 0o700, 0o600, Err("directory")),
            (0o720, 0o700, 0o600, Err("directory")),
            (0o755, 0o775, 0o600, Err("sub")),
            (0o755, 0o755, 0o664, Err("file")),
            (0o755, 0o700, 0o666, Ok(())),
            (0o700, 0o777, 0o666, Ok(())),
            (0o744, 0o777, 0o666, Ok(())),
        ];
        for (outer, inner, of_file, expected) in rows {
            let temporary = tempfile::tempdir().unwrap();
            let at = |name: &str| temporary.path().join(name);
            fs::create_dir_all(at("a/b")).unwrap();
            fs::write(at("a/b/file"), "text").unwrap();
            for (path, mode) in [("a/b/file", of_file), ("a/b", inner), ("a", outer)] {
                fs::set_permissions(at(path), Permissions::from_mode(mode)).unwrap();
            }
            let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
            let used = |dir: Result<PrivateDir, Error>| {
                let dir = dir.map_err(|error| (error.kind, "directory"))?;
                let sub = dir.subdir("b").map_err(|error| (error.kind, "sub"))?.unwrap();
                let file = sub.open_file("file");
                file.map(drop).map_err(|error| (Error::from_io("use it", error).kind, "file"))
            };
            let expected = expected.map_err(|what| (Exit::NotPermitted, what));
            let row = format!("{outer:o} {inner:o} {of_file:o}");
            assert_eq!(used(PrivateDir::open(&at("a"), TEST).map(Option::unwrap)), expected, "{row}");
            assert_eq!(mode("a"), outer, "{row}: nothing is changed to read");
            assert_eq!(used(PrivateDir::create(&at("a"), TEST)), expected, "{row}");
            assert!(mode("a") == 0o700 || expected == Err((Exit::NotPermitted, "directory")), "{row}");
        }
    }

    #[test]
    fn a_directory_that_does_not_exist_is_created_closed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b");
        assert!(PrivateDir::open(&path, TEST).unwrap().is_none());
        let dir = PrivateDir::create(&path, TEST).unwrap().create_subdir("c").unwrap();
        dir.append_to_file("file").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(dir.path()), mode(&path.join("c/file"))), (0o700, 0o700, 0o600));
    }
}
