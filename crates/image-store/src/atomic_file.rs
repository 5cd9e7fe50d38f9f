//! Files that readers see whole or not at all: written under a temporary name, then renamed.
//!
//! A program that dies of SIGINT, SIGTERM or SIGHUP runs no destructors. [`TempFiles::removed_on_signal`] waits for these
//! signals on a thread of its own, removes the temporary files, and then lets the signal end the process, as its sender
//! expects.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

/// Creates temporary files and lists those that exist. Clones share the list. A program has one, which it gets from
/// [`TempFiles::removed_on_signal`]; the files of a default one remain if a signal ends the process.
#[derive(Clone, Debug, Default)]
pub struct TempFiles(Arc<Mutex<BTreeSet<PathBuf>>>);

/// A new file under a temporary name. It is removed when it is dropped, or when a signal ends the process, unless it got
/// its final name before.
#[derive(Debug)]
pub struct AtomicFile {
    // Dropped in this order: a file that is not listed must not exist.
    file: NamedTempFile,
    listed: ListedPath,
}

#[derive(Debug)]
struct ListedPath {
    path: PathBuf,
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

    fn lock(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        // A panic elsewhere leaves a whole set: every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a file in `dir`, readable and writable as `mode` less the umask permits.
    ///
    /// # Errors
    /// As open(2).
    pub fn create_in(&self, dir: &Path, mode: u32) -> io::Result<AtomicFile> {
        self.create(|| tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(dir))
    }

    /// Creates a file by `make`, for names that other code recognizes.
    ///
    /// # Errors
    /// Those of `make`, without the temporary name.
    pub fn create(&self, make: impl FnOnce() -> io::Result<NamedTempFile>) -> io::Result<AtomicFile> {
        // The thread that ends the program takes the same lock: no file exists that is not listed yet.
        let mut list = self.lock();
        let file = make().map_err(without_path)?;
        let path = file.path().to_path_buf();
        list.insert(path.clone());
        Ok(AtomicFile { file, listed: ListedPath { path, list: self.clone() } })
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
        create_dir_durably(dir)?;
        let mut file = self.create_in(dir, mode)?;
        file.as_file_mut().write_all(content)?;
        file.persist_durably(path).map(drop)
    }
}

impl AtomicFile {
    /// The open file.
    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// The open file, to write to.
    pub fn as_file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Renames the file to `path`, which may exist. After a power cut the old file or an empty one may be there.
    ///
    /// # Errors
    /// As rename(2). The temporary file is removed.
    pub fn persist(self, path: &Path) -> io::Result<File> {
        let Self { file, listed } = self;
        // Held so that the program does not end between the rename and the return.
        let list = listed.list.lock();
        let renamed = file.persist(path).map_err(|error| error.error);
        drop(list);
        drop(listed);
        renamed
    }

    /// Renames the file to `path`, which may exist. `Ok` means that content and name outlast a power cut, if the
    /// directory does (see [`create_dir_durably`]).
    ///
    /// # Errors
    /// As fsync(2) and rename(2). The new file is in place only if syncing its directory failed.
    pub fn persist_durably(self, path: &Path) -> io::Result<File> {
        self.as_file().sync_all()?;
        // Opened before the rename: an error after it would be reported with the new file in place.
        let dir = File::open(parent_dir(path))?;
        let file = self.persist(path)?;
        dir.sync_all()?;
        Ok(file)
    }
}

impl Drop for ListedPath {
    fn drop(&mut self) {
        self.list.lock().remove(&self.path);
    }
}

/// Returns the system's error. tempfile wraps it and adds the temporary name, which means nothing to the user.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    let Some((reason, _)) = text.split_once(" at path ") else { return error };
    let code = reason.rsplit_once("(os error ").and_then(|(_, code)| code.strip_suffix(')')?.parse().ok());
    code.map_or_else(|| io::Error::new(error.kind(), reason.to_string()), io::Error::from_raw_os_error)
}

/// The directory of a file; `.` for a bare file name.
pub fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a directory and those above it, if they do not exist. `Ok` means that they outlast a power cut: a file that
/// was synced is lost with a directory that was not.
///
/// # Errors
/// As mkdir(2) and fsync(2); `AlreadyExists` if something else has the path.
pub fn create_dir_durably(dir: &Path) -> io::Result<()> {
    let above = parent_dir(dir);
    let created = fs::create_dir(dir).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => create_dir_durably(above).and_then(|()| fs::create_dir(dir)),
        _ => Err(error),
    });
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(above)?.sync_all(),
    }
}

fn end_on_signal(signal: i32, temp_files: &TempFiles) {
    // Locked until the end, so that no further file is created.
    let list = temp_files.lock();
    for path in list.iter() {
        let _ = fs::remove_file(path);
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
