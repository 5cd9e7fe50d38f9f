//! Redo log of an archive that is being overwritten: a file beside it with the bytes before and after.
//!
//! The redo log is synced before the archive changes, and removed when the changed archive is synced. Opening an archive with
//! a redo log finishes the change, so a killed writer leaves the old archive or, for readers in this crate, the new one.
//! Other programs ignore the redo log: until then they may see a partly changed archive.

use crate::archive::beside;
use crate::archive::tar::ByteWrite;
use crate::atomic_file::TempFiles;
use crate::directory::{Directory, open_regular, parent_dir};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use error::Error;
use image_model::digest::Digest;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Suffix of redo logs.
const SUFFIX: &str = ".archive-journal";
/// Largest log. It has configs and lists in base64, which are far smaller.
const LOG_MAX: u64 = 128 << 20;

#[derive(Serialize, Deserialize)]
struct RedoLog {
    version: u32,
    device: u64,
    inode: u64,
    length: u64,
    writes: Vec<Overwrite>,
}

#[derive(Serialize, Deserialize)]
struct Overwrite {
    at: u64,
    was: String,
    now: String,
}

pub fn path_of(archive: &Path) -> PathBuf {
    let mut name = beside::prefix(archive);
    name.push(&SUFFIX[1..]);
    parent_dir(archive).join(name)
}

/// Finishes the change of a killed writer, if there is one.
///
/// # Errors
/// `Integrity` if the redo log is damaged.
pub fn recover(archive: &Path, place: &str) -> Result<(), Error> {
    let path = path_of(archive);
    if !path.exists() {
        return Ok(());
    }
    let doing = || format!("finish the interrupted change of \"{place}\"");
    let locked = beside::lock(parent_dir(archive), place)?;
    // Its writer may have been running until the lock was released, and be done now.
    let Some(log) = read(&path, &doing())? else { return Ok(()) };
    let file = open_to_write(archive).map_err(|e| Error::from_io(doing(), e))?;
    let meta = file.metadata().map_err(|e| Error::from_io(doing(), e))?;
    let is_same = (meta.dev(), meta.ino(), meta.size()) == (log.device, log.inode, log.length);
    let damaged = |e: base64::DecodeError| Error::integrity(doing(), e.to_string());
    let mut writes = Vec::new();
    let mut is_meant = is_same;
    for write in &log.writes {
        let was = STANDARD.decode(&write.was).map_err(damaged)?;
        let now = STANDARD.decode(&write.now).map_err(damaged)?;
        is_meant =
            is_meant && is_between(&file, write.at, &was, &now).map_err(|e| Error::from_io(doing(), e))?;
        writes.push((write.at, now));
    }
    // Otherwise another archive replaced the one of the redo log, maybe in the same inode.
    if is_meant {
        apply_writes(&file, &writes).map_err(|e| Error::from_io(doing(), e))?;
    }
    remove(&path, &locked).map_err(|e| Error::from_io(doing(), e))
}

/// Returns whether each byte is the old one or the new one: a writer may have been killed during a write.
fn is_between(file: &File, at: u64, was: &[u8], now: &[u8]) -> io::Result<bool> {
    let mut there = vec![0; now.len()];
    match file.read_exact_at(&mut there, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    Ok(there.iter().zip(was.iter().zip(now)).all(|(there, (was, now))| there == was || there == now))
}

/// Returns `None` if it does not exist.
fn read(path: &Path, doing: &str) -> Result<Option<RedoLog>, Error> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::from_io(doing, error)),
    };
    let mut text = String::new();
    file.take(LOG_MAX).read_to_string(&mut text).map_err(|e| Error::from_io(doing, e))?;
    let log = text.split_once('\n').filter(|(digest, body)| *digest == Digest::of(body.as_bytes()).as_str());
    let log = log.and_then(|(_, body)| serde_json::from_str::<RedoLog>(body).ok());
    let log = log.filter(|log| log.version == 1);
    let damaged = || {
        Error::integrity(doing, format!("its redo log \"{}\" is damaged", path.display()))
            .hint("if no other process uses the archive, remove the redo log")
    };
    log.map(Some).ok_or_else(damaged)
}

fn open_to_write(archive: &Path) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(archive)
}

/// Writes these bytes over the archive. After an error it is unchanged, or the next process that opens it finishes the
/// change.
pub fn write(
    temp_files: &TempFiles,
    archive: &Path,
    directory: &File,
    writes: &[ByteWrite],
    place: &str,
) -> Result<(), Error> {
    let doing = || format!("overwrite parts of \"{place}\"");
    let failed = |e| Error::from_io(doing(), e);
    let file = open_to_write(archive).map_err(failed)?;
    let old = there(&file, writes).map_err(failed)?;
    let path = path_of(archive);
    begin(temp_files, archive, &path, &file, &old, writes).map_err(|error| {
        let _ = remove(&path, directory);
        failed(error)
    })?;
    if let Err(error) = apply_writes(&file, writes) {
        let error = failed(error);
        let undone = apply_writes(&file, &old).and_then(|()| remove(&path, directory));
        return Err(match undone {
            Ok(()) => error,
            Err(_) => error.hint("the archive is partly changed; run the command again to finish it"),
        });
    }
    // The archive is synced. A redo log that reappears after a power cut would write the same bytes again.
    match fs::remove_file(&path).or_else(|_| fs::remove_file(&path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(error).hint(format!("the archive was changed; remove \"{}\"", path.display())))
        }
        _ => {
            let _ = directory.sync_all();
            Ok(())
        }
    }
}

/// Returns the present bytes at the offsets of these writes.
pub fn there(file: &File, writes: &[ByteWrite]) -> io::Result<Vec<ByteWrite>> {
    let mut old = Vec::new();
    for (at, bytes) in writes {
        let mut there = vec![0; bytes.len()];
        file.read_exact_at(&mut there, *at)?;
        old.push((*at, there));
    }
    Ok(old)
}

/// Writes the log.
pub fn begin(
    temp_files: &TempFiles,
    archive: &Path,
    path: &Path,
    file: &File,
    old: &[ByteWrite],
    writes: &[ByteWrite],
) -> io::Result<()> {
    let meta = file.metadata()?;
    let overwrite = |(old, new): (&ByteWrite, &ByteWrite)| Overwrite {
        at: new.0,
        was: STANDARD.encode(&old.1),
        now: STANDARD.encode(&new.1),
    };
    let writes = old.iter().zip(writes).map(overwrite).collect();
    let log = RedoLog { version: 1, device: meta.dev(), inode: meta.ino(), length: meta.size(), writes };
    let body = serde_json::to_string(&log)?;
    let dir = Directory::open(parent_dir(archive))?;
    let mut beside = temp_files.create(&dir, &beside::prefix(archive), beside::SUFFIX, 0o600)?;
    beside.as_file_mut().write_all(format!("{}\n{body}", Digest::of(body.as_bytes())).as_bytes())?;
    beside.persist_durably(path).map(drop)
}

fn apply_writes(file: &File, writes: &[ByteWrite]) -> io::Result<()> {
    let modified = file.metadata()?.modified()?;
    for (at, bytes) in writes {
        file.write_all_at(bytes, *at)?;
    }
    file.set_times(FileTimes::new().set_modified(modified))?;
    file.sync_all()
}

fn remove(path: &Path, directory: &File) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    directory.sync_all()
}
