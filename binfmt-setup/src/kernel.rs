//! The kernel's table: the only place that reads or writes binfmt_misc.
//!
//! The table belongs to a user namespace and lives as long as one of its mounts (Linux 6.7 and later), so nothing
//! here ever unmounts it. `-1` and `0` are never written to `status`: that would hit everybody's entries.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use crate::escape::escaped;
use crate::exit::Exit;
use crate::rule::{Entry, EntryError, LineError, Rule, is_safe_name};

/// Where every distribution mounts it.
pub const MOUNT_POINT: &str = "/proc/sys/fs/binfmt_misc";

/// What deciding needs: it cannot write.
pub trait ReadTable {
    /// In the order in which the kernel compares: the entry registered last comes first.
    fn entries(&self) -> Result<Vec<Entry>, KernelError>;
    fn entry(&self, name: &OsStr) -> Result<Option<Entry>, KernelError>;
    /// The switch over all entries.
    fn is_enabled(&self) -> Result<bool, KernelError>;
}

pub trait WriteTable: ReadTable {
    /// `Ok` means that the entry is there and is what was asked for: it was read back.
    fn register(&mut self, rule: &Rule) -> Result<(), KernelError>;
    /// `Ok` means that the entry is gone, whoever removed it.
    fn remove(&mut self, name: &OsStr) -> Result<(), KernelError>;
    fn enable(&mut self, name: &OsStr) -> Result<(), KernelError>;
    fn disable(&mut self, name: &OsStr) -> Result<(), KernelError>;
}

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "binfmt_misc is not mounted at {0}: run as root to have it mounted, or: mount -t binfmt_misc binfmt_misc {0}"
    )]
    NotMounted(String),
    #[error("{at}: {reason}")]
    Mount { at: String, reason: &'static str, source: Errno },
    #[error("{path}: {reason}")]
    File { path: String, reason: String, source: io::Error },
    #[error("entry {name}: {reason}")]
    Refused { name: String, reason: String, source: io::Error },
    #[error(
        "entry {name}: the kernel took {taken} of {length} bytes: nothing is registered by a part of a line"
    )]
    Short { name: String, taken: usize, length: usize },
    #[error("entry {0}: the kernel accepted it but shows another one: another process is changing the table")]
    Differs(String),
    #[error("the table is locked by another binfmt-setup for {0} s: try again when it is done")]
    Locked(u64),
    #[error(
        "the table at {0} belongs to the host, and this is another user namespace: use binfmt-setup run, or mount a \
         table of this namespace there"
    )]
    NotOurs(String),
    #[error(transparent)]
    Line(#[from] LineError),
    #[error(transparent)]
    Form(#[from] EntryError),
}

impl KernelError {
    pub fn exit(&self) -> Exit {
        let by_errno = |source: &io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Io,
        };
        match self {
            Self::NotMounted(_) | Self::NotOurs(_) => Exit::NotPermitted,
            Self::Mount { source: Errno::EPERM | Errno::EACCES, .. } => Exit::NotPermitted,
            Self::File { source, .. } => by_errno(source),
            Self::Locked(_) => Exit::Conflict,
            Self::Line(_) => Exit::BadInput,
            // The kernel says EACCES for a file it cannot execute, which is not about our rights.
            Self::Mount { .. }
            | Self::Refused { .. }
            | Self::Short { .. }
            | Self::Differs(_)
            | Self::Form(_) => Exit::Io,
        }
    }
}

/// A mounted table.
#[derive(Debug)]
pub struct Table {
    at: PathBuf,
}

impl Table {
    /// Finds the table where it should be. Opening `status` makes an automount happen; looking at the folder does not.
    pub fn open(at: &Path) -> Result<Self, KernelError> {
        let not_mounted = || KernelError::NotMounted(escaped(at));
        match File::open(at.join("status")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_mounted()),
            Err(error) => return Err(file_error(&at.join("status"), error)),
            Ok(_) => {}
        }
        // A folder with a file `status` is not yet a table. BINFMTFS_MAGIC, linux/magic.h.
        let is_table = statfs(at).is_ok_and(|fs| fs.filesystem_type() == FsType(0x4249_4e4d));
        if is_table { Ok(Self { at: at.to_owned() }) } else { Err(not_mounted()) }
    }

    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Tells one table from another: each user namespace's is a file system of its own.
    pub fn device(&self) -> Result<u64, KernelError> {
        std::fs::metadata(&self.at).map(|found| found.dev()).map_err(|error| file_error(&self.at, error))
    }

    /// Opens the table for writing and keeps other processes of this tool out until the value is dropped.
    pub fn lock(self, patience: Duration) -> Result<LockedTable, KernelError> {
        let path = self.at.join("register");
        let register =
            OpenOptions::new().write(true).open(&path).map_err(|error| file_error(&path, error))?;
        // Only root can open this file for writing, so nobody else can hold the lock against us.
        let begin = Instant::now();
        loop {
            match register.try_lock() {
                Ok(()) => return Ok(LockedTable { table: self, register }),
                Err(TryLockError::Error(error)) => return Err(file_error(&path, error)),
                Err(TryLockError::WouldBlock) if begin.elapsed() > patience => {
                    return Err(KernelError::Locked(patience.as_secs()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl ReadTable for Table {
    fn entries(&self) -> Result<Vec<Entry>, KernelError> {
        let mut entries = vec![];
        for file in std::fs::read_dir(&self.at).map_err(|error| file_error(&self.at, error))? {
            let name = file.map_err(|error| file_error(&self.at, error))?.file_name();
            if name != "register" && name != "status" {
                // It may be gone by now, which is no error.
                entries.extend(self.entry(&name)?);
            }
        }
        Ok(entries)
    }

    fn entry(&self, name: &OsStr) -> Result<Option<Entry>, KernelError> {
        let path = self.at.join(name);
        let mut text = vec![];
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file_error(&path, error)),
            Ok(_) => Ok(Some(Entry::parse(name, &text)?)),
        }
    }

    fn is_enabled(&self) -> Result<bool, KernelError> {
        let path = self.at.join("status");
        let text = std::fs::read(&path).map_err(|error| file_error(&path, error))?;
        Ok(text.starts_with(b"enabled"))
    }
}

/// Mounts the table of this user namespace. `Ok` means that a table is there now.
pub fn mount_table(at: &Path) -> Result<Table, KernelError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("binfmt_misc"), at, Some("binfmt_misc"), flags, None::<&str>).map_err(|source| {
        let reason = match source {
            Errno::EPERM | Errno::EACCES => {
                "not allowed to mount binfmt_misc here: run as root, in a container with --privileged"
            }
            Errno::ENODEV => {
                "this kernel has no binfmt_misc: modprobe binfmt_misc, or build it with CONFIG_BINFMT_MISC"
            }
            Errno::ENOENT => "no directory to mount binfmt_misc on: mount /proc, or modprobe binfmt_misc",
            _ => "mounting binfmt_misc failed",
        };
        KernelError::Mount { at: escaped(at), reason, source }
    })?;
    Table::open(at)
}

/// The table while no other process of this tool writes it.
#[derive(Debug)]
pub struct LockedTable {
    table: Table,
    register: File,
}

impl LockedTable {
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Writes `0`, `1` or `-1` to the file of one entry, never to `status`.
    fn switch(&self, name: &OsStr, word: &str) -> io::Result<()> {
        if !is_safe_name(name) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        OpenOptions::new().write(true).open(self.table.at.join(name))?.write_all(word.as_bytes())
    }
}

impl ReadTable for LockedTable {
    fn entries(&self) -> Result<Vec<Entry>, KernelError> {
        self.table.entries()
    }

    fn entry(&self, name: &OsStr) -> Result<Option<Entry>, KernelError> {
        self.table.entry(name)
    }

    fn is_enabled(&self) -> Result<bool, KernelError> {
        self.table.is_enabled()
    }
}

impl WriteTable for LockedTable {
    fn register(&mut self, rule: &Rule) -> Result<(), KernelError> {
        let line = rule.line()?;
        let name = escaped(&rule.name);
        // One write(2) is one entry: write_all would send the rest of a line as a second entry.
        let taken = self.register.write(&line).map_err(|source| KernelError::Refused {
            name: name.clone(),
            reason: why_refused(rule, &source),
            source,
        })?;
        if taken != line.len() {
            return Err(KernelError::Short { name, taken, length: line.len() });
        }
        match self.entry(&rule.name)? {
            Some(entry) if entry.rule == *rule => Ok(()),
            _ => Err(KernelError::Differs(name)),
        }
    }

    fn remove(&mut self, name: &OsStr) -> Result<(), KernelError> {
        match self.switch(name, "-1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| file_error(&self.table.at.join(name), error)),
        }
    }

    fn enable(&mut self, name: &OsStr) -> Result<(), KernelError> {
        self.switch(name, "1").map_err(|error| file_error(&self.table.at.join(name), error))
    }

    fn disable(&mut self, name: &OsStr) -> Result<(), KernelError> {
        self.switch(name, "0").map_err(|error| file_error(&self.table.at.join(name), error))
    }
}

/// The kernel answers with a bare number; this is what it means for this line.
fn why_refused(rule: &Rule, error: &io::Error) -> String {
    let interpreter = escaped(&rule.interpreter);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EEXIST) => "the name is taken: another process is registering handlers; run the command again".to_owned(),
        Some(Errno::ENOENT) => format!("no such emulator: {interpreter}"),
        Some(Errno::EACCES) => {
            format!("{interpreter} cannot be executed: it is a directory, has no x bit, or is on a file system mounted noexec")
        }
        Some(Errno::ETXTBSY) => format!("{interpreter} is open for writing: wait until it is written"),
        Some(Errno::EINVAL) => {
            "the kernel does not know a field of the line: flag F needs Linux 4.8, patterns that reach beyond byte \
             128 need 5.1"
                .to_owned()
        }
        _ => "the kernel refused the line".to_owned(),
    }
}

fn file_error(path: &Path, source: io::Error) -> KernelError {
    let reason = match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EROFS) => {
            "is mounted read-only: mount -o remount,rw it, or run where /proc/sys is writable"
        }
        Some(Errno::EACCES | Errno::EPERM) => {
            "not permitted: run as root, or use binfmt-setup run, which needs no root"
        }
        Some(Errno::ENOENT) => "is gone",
        _ => "the kernel refused",
    };
    KernelError::File { path: escaped(path), reason: reason.to_owned(), source }
}
