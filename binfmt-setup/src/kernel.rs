//! The kernel's table of handlers: the only module that reads or writes binfmt_misc.
//!
//! A table belongs to a user namespace and exists as long as one of its mounts (Linux 6.7 and later), so nothing here
//! unmounts it. `-1` and `0` are never written to `status`: that would remove or disable the entries of all programs.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use error::{Error, Exit, io_reason};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};

use crate::rule::{Entry, Rule, is_safe_name};

/// The mount point of binfmt_misc in every distribution.
pub const MOUNT_POINT: &str = "/proc/sys/fs/binfmt_misc";

/// Read access to a table, for everything that decides.
pub trait ReadTable {
    /// All entries in the order in which the kernel compares them: the one that was registered last comes first.
    ///
    /// # Errors
    /// `NotPermitted`, or `Local` if the kernel failed or shows an entry in an unknown form.
    fn entries(&self) -> Result<Vec<Entry>, Error>;
    /// One entry, if it exists.
    ///
    /// # Errors
    /// As [`ReadTable::entries`].
    fn entry(&self, name: &OsStr) -> Result<Option<Entry>, Error>;
    /// Whether binfmt_misc is enabled as a whole.
    ///
    /// # Errors
    /// As [`ReadTable::entries`].
    fn is_enabled(&self) -> Result<bool, Error>;
}

/// Write access to a table.
pub trait WriteTable: ReadTable {
    /// Registers an entry and reads it back to verify it.
    ///
    /// # Errors
    /// `BadInput` if the rule cannot be written as a line, `Local` if the kernel refuses it.
    fn register(&mut self, rule: &Rule) -> Result<(), Error>;
    /// Removes an entry. It is no error if it does not exist.
    ///
    /// # Errors
    /// `NotPermitted`, or `Local` if the kernel failed.
    fn remove(&mut self, name: &OsStr) -> Result<(), Error>;
    /// Enables an entry.
    ///
    /// # Errors
    /// As [`WriteTable::remove`].
    fn enable(&mut self, name: &OsStr) -> Result<(), Error>;
    /// Disables an entry.
    ///
    /// # Errors
    /// As [`WriteTable::remove`].
    fn disable(&mut self, name: &OsStr) -> Result<(), Error>;
}

/// A mounted table.
#[derive(Debug)]
pub struct Table {
    at: PathBuf,
}

impl Table {
    /// Returns the table that is mounted at `at`, or `None` if there is none. Opening `status` triggers an automount;
    /// reading the directory does not.
    ///
    /// # Errors
    /// `NotPermitted`, or `Local` if the kernel failed.
    pub fn open(at: &Path) -> Result<Option<Self>, Error> {
        match File::open(at.join("status")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(table_error("read", &at.join("status"), &error)),
            Ok(_) => {}
        }
        // A directory with a file `status` is not necessarily a table. BINFMTFS_MAGIC, linux/magic.h.
        let is_table = statfs(at).is_ok_and(|fs| fs.filesystem_type() == FsType(0x4249_4e4d));
        Ok(is_table.then(|| Self { at: at.to_owned() }))
    }

    /// The device number, which differs between tables: that of each user namespace is a file system of its own.
    ///
    /// # Errors
    /// `Local` if the kernel failed.
    pub fn device(&self) -> Result<u64, Error> {
        let metadata = std::fs::metadata(&self.at).map_err(|error| table_error("read", &self.at, &error))?;
        Ok(metadata.dev())
    }

    /// Opens the table for writing and excludes other processes of this program until the value is dropped.
    ///
    /// # Errors
    /// `NotPermitted` without write permission, `Conflict` if another process holds the lock for longer than `timeout`.
    pub fn lock(self, timeout: Duration) -> Result<LockedTable, Error> {
        let path = self.at.join("register");
        let register = OpenOptions::new().write(true).open(&path);
        let register = register.map_err(|error| table_error("write", &path, &error))?;
        // Only root can open this file for writing, so other users cannot block this program.
        let begin = Instant::now();
        loop {
            match register.try_lock() {
                Ok(()) => return Ok(LockedTable { table: self, register }),
                Err(TryLockError::Error(error)) => return Err(table_error("lock", &path, &error)),
                Err(TryLockError::WouldBlock) if begin.elapsed() > timeout => {
                    let why = format!("another binfmt-setup has held the lock for {} s", timeout.as_secs());
                    return Err(Error::conflict("lock binfmt_misc", why).hint("try again when it has ended"));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl ReadTable for Table {
    fn entries(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = vec![];
        let failed = |error: io::Error| table_error("read", &self.at, &error);
        for file in std::fs::read_dir(&self.at).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            if name != "register" && name != "status" {
                // It may have been removed since, which is no error.
                entries.extend(self.entry(&name)?);
            }
        }
        Ok(entries)
    }

    fn entry(&self, name: &OsStr) -> Result<Option<Entry>, Error> {
        let path = self.at.join(name);
        let mut text = vec![];
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(table_error("read", &path, &error)),
            Ok(_) => Ok(Some(Entry::parse(name, &text)?)),
        }
    }

    fn is_enabled(&self) -> Result<bool, Error> {
        let path = self.at.join("status");
        let text = std::fs::read(&path).map_err(|error| table_error("read", &path, &error))?;
        Ok(text.starts_with(b"enabled"))
    }
}

/// Mounts the table of this user namespace at `at`.
///
/// # Errors
/// `NotPermitted` if mounting is not allowed, otherwise `Local`.
pub fn mount_table(at: &Path) -> Result<Table, Error> {
    let doing = || format!("mount binfmt_misc at {}", at.display());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("binfmt_misc"), at, Some("binfmt_misc"), flags, None::<&str>).map_err(
        |errno| match errno {
            Errno::EPERM | Errno::EACCES => Error::not_permitted(doing(), "not allowed to mount it")
                .hint("run as root, in a container with --privileged"),
            Errno::ENODEV => Error::local(doing(), "this kernel has no binfmt_misc")
                .hint("run: modprobe binfmt_misc, or build the kernel with CONFIG_BINFMT_MISC"),
            Errno::ENOENT => {
                Error::local(doing(), "no such directory").hint("mount /proc, or run: modprobe binfmt_misc")
            }
            other => Error::local(doing(), io_reason(&other.into())),
        },
    )?;
    Table::open(at)?.ok_or_else(|| Error::local(doing(), "there is no table after mounting it"))
}

/// A table that no other process of this program writes.
#[derive(Debug)]
pub struct LockedTable {
    table: Table,
    register: File,
}

impl LockedTable {
    /// The table for reading.
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
    fn entries(&self) -> Result<Vec<Entry>, Error> {
        self.table.entries()
    }

    fn entry(&self, name: &OsStr) -> Result<Option<Entry>, Error> {
        self.table.entry(name)
    }

    fn is_enabled(&self) -> Result<bool, Error> {
        self.table.is_enabled()
    }
}

impl WriteTable for LockedTable {
    fn register(&mut self, rule: &Rule) -> Result<(), Error> {
        let line = rule.line()?;
        let doing = || format!("register {}", rule.name.display());
        // One write(2) is one entry: write_all would send the rest of a line as a second entry.
        let written = self.register.write(&line).map_err(|error| register_error(rule, &error))?;
        if written != line.len() {
            let why = format!("the kernel took {written} of {} bytes", line.len());
            return Err(Error::local(doing(), why));
        }
        match self.entry(&rule.name)? {
            Some(entry) if entry.rule == *rule => Ok(()),
            _ => Err(Error::local(doing(), "the kernel shows another handler under this name")
                .hint("another process is changing binfmt_misc: run the command again when it has ended")),
        }
    }

    fn remove(&mut self, name: &OsStr) -> Result<(), Error> {
        match self.switch(name, "-1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| table_error("remove", &self.table.at.join(name), &error)),
        }
    }

    fn enable(&mut self, name: &OsStr) -> Result<(), Error> {
        self.switch(name, "1").map_err(|error| table_error("enable", &self.table.at.join(name), &error))
    }

    fn disable(&mut self, name: &OsStr) -> Result<(), Error> {
        self.switch(name, "0").map_err(|error| table_error("disable", &self.table.at.join(name), &error))
    }
}

/// The kernel reports an error number only; this is what it means for this line.
fn register_error(rule: &Rule, error: &io::Error) -> Error {
    let interpreter = rule.interpreter.display();
    let failed = |reason: String| Error::local(format!("register {}", rule.name.display()), reason);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EEXIST) => failed("the name is taken".into())
            .hint("another process is registering handlers: run the command again when it has ended"),
        Some(Errno::ENOENT) => failed(format!("no such emulator: {interpreter}")),
        Some(Errno::EACCES) => failed(format!(
            "{interpreter} cannot be executed: it is a directory, has no x bit, or is on a file system mounted noexec"
        )),
        Some(Errno::ETXTBSY) => failed(format!("{interpreter} is open for writing"))
            .hint("run the command again when it is written"),
        Some(Errno::EINVAL) => failed("the kernel does not know a field of the line".into())
            .hint("flag F requires Linux 4.8, patterns beyond byte 128 require Linux 5.1"),
        _ => failed(io_reason(error)),
    }
}

fn table_error(verb: &str, path: &Path, error: &io::Error) -> Error {
    let (kind, reason, hint) = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EROFS) => (
            Exit::Local,
            "binfmt_misc is mounted read-only".to_owned(),
            Some("run: mount -o remount,rw /proc/sys/fs/binfmt_misc, or run where /proc/sys is writable"),
        ),
        Some(Errno::EACCES | Errno::EPERM) => (
            Exit::NotPermitted,
            "not permitted".to_owned(),
            Some("run as root, or use \"binfmt-setup run\", which does not require root"),
        ),
        _ => (Exit::Local, io_reason(error), None),
    };
    let error = Error::new(kind, format!("{verb} {}", path.display()), reason);
    Error { hint: hint.map(str::to_owned), ..error }
}
