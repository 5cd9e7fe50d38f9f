//! Files that are being written: gone if they are not kept, and gone when the program is told to end.
//!
//! A program that dies of SIGINT, SIGTERM or SIGHUP runs no destructors. [`remove_temp_files_on_signal`] waits for these signals on a
//! thread of its own, takes away what is half done, and then dies of the signal, as whoever sent it expects.

use nix::sys::signal::{SigSet, Signal, raise};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::NamedTempFile;

static HALF_DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn half_done() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A panic elsewhere leaves a whole set: every change is one insertion or removal.
    HALF_DONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new file under a name that no reader looks at.
#[derive(Debug)]
pub struct AtomicFile {
    // Dropped in this order: a file that is not listed must not be there.
    file: NamedTempFile,
    listed: Listed,
}

#[derive(Debug)]
struct Listed(PathBuf);

impl AtomicFile {
    pub fn create(make: impl FnOnce() -> io::Result<NamedTempFile>) -> io::Result<Self> {
        // Whoever ends the program holds this: there is no file that is not listed yet.
        let mut half_done = half_done();
        let file = make()?;
        let path = file.path().to_path_buf();
        half_done.insert(path.clone());
        Ok(Self { file, listed: Listed(path) })
    }

    pub fn as_file(&self) -> &File {
        self.file.as_file()
    }

    pub fn as_file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Gives the file its name, over whatever has it.
    pub fn persist(self, path: &Path) -> io::Result<File> {
        let Self { file, listed } = self;
        // And nothing gets a name any more.
        let ending = half_done();
        let kept = file.persist(path).map_err(|error| error.error);
        drop(ending);
        drop(listed);
        kept
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        half_done().remove(&self.0);
    }
}

/// From here on, a signal to end takes half-written files away first. To be called before there are threads: they
/// inherit that these signals are not for them. (Child processes do not: std gives them an empty mask.)
pub fn remove_temp_files_on_signal() {
    let mut watched = SigSet::empty();
    let ignored = ignored();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Under nohup a hangup stays ignored.
        if ignored >> (signal as u32 - 1) & 1 == 0 {
            watched.add(signal);
        }
    }
    // A file that would be longer than setrlimit(2) allows is an error to tell, and nothing to die of.
    let mut held = watched;
    held.add(Signal::SIGXFSZ);
    if held.thread_block().is_err() {
        return;
    }
    if std::thread::Builder::new().spawn(move || end(&watched)).is_err() {
        let _ = watched.thread_unblock();
    }
}

fn end(watched: &SigSet) {
    let Ok(signal) = watched.wait() else { return };
    let half_done = half_done();
    for path in half_done.iter() {
        let _ = fs::remove_file(path);
    }
    let _ = watched.thread_unblock();
    let _ = raise(signal);
    // Not reached: the signal is not ignored, and nobody handles it.
    std::process::exit(128 + signal as i32);
}

/// `SigIgn` of proc_pid_status(5): a bit for each signal that whoever started us told us to ignore.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_half_done_until_it_is_kept_or_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let new = || AtomicFile::create(|| tempfile::Builder::new().tempfile_in(dir.path())).unwrap();
        let ours = || half_done().iter().filter(|path| path.starts_with(dir.path())).count();
        let (kept, dropped) = (new(), new());
        assert_eq!(ours(), 2);
        kept.persist(&dir.path().join("kept")).unwrap();
        assert_eq!(ours(), 1);
        drop(dropped);
        assert_eq!((ours(), fs::read_dir(dir.path()).unwrap().count()), (0, 1));
    }
}
