//! Files that readers see whole or not at all: written under a temporary name, then renamed.
//!
//! A program that dies of SIGINT, SIGTERM or SIGHUP runs no destructors. [`TempFiles::removed_on_signal`] waits for these
//! signals on a thread of its own, removes the temporary files, and then lets the signal end the process, as its sender
//! expects.

use crate::directory::{Directory, create_dir_durably, parent_dir};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, linkat, openat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Creates temporary files and lists those that exist. Clones share the list. A program has one, which it gets from
/// [`TempFiles::removed_on_signal`]; the files of a default one remain if a signal ends the process.
#[derive(Clone, Debug, Default)]
pub struct TempFiles(Arc<Mutex<BTreeMap<PathBuf, Directory>>>);

/// A new file under a temporary name. It is removed when it is dropped, or when a signal ends the process, unless it got
/// its final name before.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    name: TempName,
}

/// The temporary name of a file; removed when it is dropped.
#[derive(Debug)]
struct TempName {
    dir: Directory,
    name: OsString,
    /// The file has this name, not its final one.
    is_used: bool,
    list: TempFiles,
}

impl TempFiles {
    /// Makes SIGINT, SIGTERM and SIGHUP remove these files before they end the process. Handlers of signals do not reach child
    /// processes, as a mask of blocked signals would, with which no builder could be interrupted.
    pub fn removed_on_signal() -> Self {
        let temp_files = Self::default();
        let ignored = ignored();
        // Under nohup, SIGHUP stays ignored.
        let watched = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let watched: Vec<i32> = watched.collect();
        // A file that grows beyond setrlimit(2) must be an error with a message, not the end of the process.
        let _ = flag::register(SIGXFSZ, Arc::default());
        let Ok(mut signals) = Signals::new(&watched) else { return temp_files };
        let list = temp_files.clone();
        let wait =
            move || signals.forever().next().into_iter().for_each(|signal| end_on_signal(signal, &list));
        if std::thread::Builder::new().spawn(wait).is_err() {
            for signal in watched {
                let _ = flag::register_conditional_default(signal, Arc::new(AtomicBool::new(true)));
            }
        }
        temp_files
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Directory>> {
        // A panic elsewhere leaves a whole list: every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a file in `dir`, readable and writable as `mode` less the umask permits.
    ///
    /// # Errors
    /// As open(2).
    pub fn create_in(&self, dir: &Path, mode: u32) -> io::Result<AtomicFile> {
        self.create(&Directory::open(dir)?, OsStr::new(".tmp"), "", mode)
    }

    /// Creates a file whose temporary name other code recognizes by its prefix and suffix.
    ///
    /// # Errors
    /// As open(2).
    pub fn create(&self, dir: &Directory, prefix: &OsStr, suffix: &str, mode: u32) -> io::Result<AtomicFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The thread that ends the program takes the same lock: no file exists that is not listed yet.
        let mut list = self.lock();
        loop {
            let mut name = prefix.to_os_string();
            // Short, since the prefix can be as long as the name of an archive.
            name.push(format!("{:06x}{suffix}", RandomState::new().hash_one(prefix) & 0xff_ffff));
            match openat(dir.fd(), &name, flags, Mode::from_raw_mode(mode)) {
                Err(Errno::EXIST | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(file) => {
                    list.insert(dir.path().join(&name), dir.clone());
                    let name = TempName { dir: dir.clone(), name, is_used: true, list: self.clone() };
                    return Ok(AtomicFile { file: file.into(), name });
                }
            }
        }
    }

    /// Writes a whole file over `path`, creating its directory. A new file gets `mode` less the umask. After a power cut
    /// the old file or an empty one may be there.
    ///
    /// # Errors
    /// Those of the file system; the old file is unchanged.
    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        let dir = parent_dir(path);
        fs::create_dir_all(dir)?;
        let mut file = self.create_in(dir, mode)?;
        file.as_file_mut().write_all(content)?;
        file.persist(path).map(drop)
    }

    /// Does what [`Self::write`] does. `Ok` means that the file, its name and the directories above it outlast a power
    /// cut.
    ///
    /// # Errors
    /// Those of the file system; unless the last sync failed, the old file is unchanged.
    pub fn write_durably(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        let dir = parent_dir(path);
        create_dir_durably(dir, 0o777)?;
        self.write_durably_in(&Directory::open(dir)?, file_name(path)?, content, mode)
    }

    /// Does what [`Self::write_durably`] does, with a name in an open directory.
    ///
    /// # Errors
    /// Those of the file system; unless the last sync failed, the old file is unchanged.
    pub fn write_durably_in(
        &self,
        dir: &Directory,
        name: &OsStr,
        content: &[u8],
        mode: u32,
    ) -> io::Result<()> {
        let mut file = self.create(dir, OsStr::new(".tmp"), "", mode)?;
        file.as_file_mut().write_all(content)?;
        file.persist_durably_in(dir, name).map(drop)
    }
}

impl AtomicFile {
    /// The open file.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// The open file, to write to.
    pub fn as_file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Renames the file to `path`, which may exist. After a power cut the old file or an empty one may be there.
    ///
    /// # Errors
    /// As rename(2). The temporary file is removed.
    pub fn persist(self, path: &Path) -> io::Result<File> {
        self.persist_in(&Directory::open(parent_dir(path))?, file_name(path)?)
    }

    /// Does what [`Self::persist`] does, with a name in an open directory.
    ///
    /// # Errors
    /// As rename(2).
    pub fn persist_in(mut self, dir: &Directory, name: &OsStr) -> io::Result<File> {
        // Held so that the program does not end between the rename and the return.
        let list = self.name.list.lock();
        let renamed = renameat(self.name.dir.fd(), &self.name.name, dir.fd(), name);
        drop(list);
        renamed?;
        self.name.is_used = false;
        Ok(self.file)
    }

    /// Gives the file this name in its own directory.
    ///
    /// # Errors
    /// `AlreadyExists` if something has the name.
    pub fn persist_new(mut self, name: &OsStr) -> io::Result<File> {
        let (dir, temporary) = (self.name.dir.fd(), &self.name.name);
        match renameat_with(dir, temporary, dir, name, RenameFlags::NOREPLACE) {
            // Not every file system has this. The temporary name of a linked file is removed.
            Err(Errno::INVAL | Errno::NOSYS) => linkat(dir, temporary, dir, name, AtFlags::empty())?,
            renamed => {
                renamed?;
                self.name.is_used = false;
            }
        }
        Ok(self.file)
    }

    /// Renames the file to `path`, which may exist. `Ok` means that content and name outlast a power cut, if the
    /// directory does (see [`create_dir_durably`]).
    ///
    /// # Errors
    /// As fsync(2) and rename(2). The new file is in place only if syncing its directory failed.
    pub fn persist_durably(self, path: &Path) -> io::Result<File> {
        self.persist_durably_in(&Directory::open(parent_dir(path))?, file_name(path)?)
    }

    /// Does what [`Self::persist_durably`] does, with a name in an open directory.
    ///
    /// # Errors
    /// As rename(2) and fsync(2).
    pub fn persist_durably_in(self, dir: &Directory, name: &OsStr) -> io::Result<File> {
        self.as_file().sync_all()?;
        // Opened before the rename: an error after it would be reported with the new file in place.
        let synced = dir.synced()?;
        let file = self.persist_in(dir, name)?;
        synced.sync_all()?;
        Ok(file)
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        let mut list = self.list.lock();
        if self.is_used {
            let _ = unlinkat(self.dir.fd(), &self.name, AtFlags::empty());
        }
        list.remove(&self.dir.path().join(&self.name));
    }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or(io::Error::from(io::ErrorKind::IsADirectory))
}

fn end_on_signal(signal: i32, temp_files: &TempFiles) {
    // Locked until the end, so that no further file is created.
    let list = temp_files.lock();
    for (path, dir) in list.iter() {
        let _ = unlinkat(dir.fd(), path.file_name().unwrap_or_default(), AtFlags::empty());
    }
    let _ = emulate_default_handler(signal);
    // Not reached: the default of these signals ends the process.
    std::process::exit(128 + signal);
}

/// Returns `SigIgn` of /proc/PID/status (proc_pid_status(5)): one bit for each signal that was ignored at the start.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_temporary_until_it_is_persisted_or_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let temp_files = TempFiles::default();
        let new = || temp_files.create_in(dir.path(), 0o600).unwrap();
        let ours = || temp_files.lock().len();
        let (kept, dropped) = (new(), new());
        assert_eq!(ours(), 2);
        kept.persist(&dir.path().join("kept")).unwrap();
        assert_eq!(ours(), 1);
        drop(dropped);
        assert_eq!((ours(), fs::read_dir(dir.path()).unwrap().count()), (0, 1));
    }

    #[test]
    fn a_file_is_replaced_whole_in_directories_that_are_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        let temp_files = TempFiles::default();
        temp_files.write(&path, b"old", 0o600).unwrap();
        temp_files.write_durably(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = temp_files.create_in(&path, 0o600).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::ENOTDIR as i32));
    }
}
