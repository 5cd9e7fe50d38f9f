//! Replaces an archive by an edited one, which is written beside it and synced before it is renamed; or overwrites parts.

use super::beside::{SUFFIX, lock, prefix, remove_leftovers};
use super::edit::{Piece, TarEdit};
use super::expected::{self, ExpectedNames};
use super::format::names::Naming;
use super::in_place::{InPlacePlan, redo_log};
use super::pending::NewContent;
use super::snapshot::{FileIdentity, LayerDigests, Snapshot};
use super::tar::write;
use crate::atomic_file::{AtomicFile, TempFiles};
use crate::directory::{Directory, parent_dir};
use crate::file_metadata::{copy_metadata, copy_times};
use error::Error;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// Bytes that are copied before the kernel is told to write them to disk.
const PIECE: u64 = 32 << 20;

/// A new archive beside the old one, complete and synced. It is removed unless it replaces the old one.
pub struct NewArchive {
    file: AtomicFile,
    /// Of the old archive.
    identity: Option<FileIdentity>,
    /// Digests of layers that are in both, by their offset in the new archive.
    layer_digests: LayerDigests,
    locked: File,
}

/// Writes the edited archive beside the old one.
///
/// # Errors
/// `Conflict` if the old archive changed since it was read.
pub fn write(
    temp_files: &TempFiles,
    path: &Path,
    snapshot: &Snapshot,
    edit: &TarEdit,
    place: &str,
) -> Result<NewArchive, Error> {
    let doing = || format!("write \"{place}\"");
    let dir = parent_dir(path);
    let locked = lock(dir, place)?;
    refuse_changed(path, snapshot.identity, place)?;
    remove_leftovers(dir, path);
    let pieces = edit.pieces(snapshot);
    let file = write_beside(temp_files, path, snapshot, &pieces).map_err(|e| Error::from_io(doing(), e))?;
    Ok(NewArchive {
        file,
        identity: snapshot.identity,
        layer_digests: moved(&pieces, snapshot.layer_digests()),
        locked,
    })
}

impl NewArchive {
    /// Reads the new archive as any reader will, and renames it over the old one if it has the expected names.
    pub fn replace(
        self,
        path: &Path,
        place: &str,
        naming: Naming,
        expected: &ExpectedNames,
    ) -> Result<Snapshot, Error> {
        let failed = |e| Error::from_io(format!("write \"{place}\""), e);
        let file = self.file.as_file().try_clone().map_err(failed)?;
        let mut result = Snapshot::read_known(file, place, naming, &self.layer_digests)
            .map_err(|error| expected::unreadable(place, error))?;
        expected.check(&result).map_err(|why| expected::refused(place, &why))?;
        // A process without the lock may have changed the old archive meanwhile.
        refuse_changed(path, self.identity, place)?;
        let file = self.file.persist(path).map_err(failed)?;
        // Nothing is opened from here on: an error would be reported with the new archive in place.
        self.locked.sync_all().map_err(failed)?;
        // The rename changed the time of the inode.
        result.identity = Some(FileIdentity::of(&file.metadata().map_err(failed)?));
        Ok(result)
    }
}

/// Returns digests of layers by the offset of their content in the new archive.
fn moved(pieces: &[Piece], known: LayerDigests) -> LayerDigests {
    let mut moved = LayerDigests::new();
    let mut at = 0;
    for piece in pieces {
        if let Piece::Kept(range) = piece {
            let kept = known.range(range.clone());
            moved.extend(kept.map(|(was, digest)| (was - range.start + at, digest.clone())));
        }
        at += piece.length();
    }
    moved
}

/// Overwrites members at their offsets if `check` accepts the result, and returns the new snapshot.
///
/// # Errors
/// `Conflict` if the archive changed since it was read.
pub fn overwrite(
    temp_files: &TempFiles,
    path: &Path,
    snapshot: &Snapshot,
    new: &InPlacePlan,
    place: &str,
    check: impl FnOnce() -> Result<Snapshot, Error>,
) -> Result<Snapshot, Error> {
    let dir = parent_dir(path);
    let locked = lock(dir, place)?;
    refuse_changed(path, snapshot.identity, place)?;
    remove_leftovers(dir, path);
    let mut result = check()?;
    redo_log::write(temp_files, path, &locked, &new.writes, place)?;
    result.set_written().map_err(|e| Error::from_io(format!("read \"{place}\""), e))?;
    Ok(result)
}

fn refuse_changed(path: &Path, identity: Option<FileIdentity>, place: &str) -> Result<(), Error> {
    let doing = || format!("write \"{place}\"");
    let now = match fs::symlink_metadata(path) {
        Ok(meta) => Some(FileIdentity::of(&meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::from_io(doing(), error)),
    };
    if now == identity {
        return Ok(());
    }
    Err(Error::conflict(doing(), "another process changed the file after it was read")
        .hint("no changes were made; run the command again"))
}

fn write_beside(
    temp_files: &TempFiles,
    path: &Path,
    snapshot: &Snapshot,
    pieces: &[Piece],
) -> io::Result<AtomicFile> {
    // A new archive gets its mode less the umask, as any new file. One that replaces another gets that one's mode at the
    // end, and no other user may read it until then.
    let mode = if snapshot.identity.is_some() { 0o600 } else { 0o666 };
    let dir = Directory::open(parent_dir(path))?;
    let mut file = temp_files.create(&dir, &prefix(path), SUFFIX, mode)?;
    write_pieces(pieces, snapshot.tar.file(), file.as_file_mut())?;
    if snapshot.identity.is_some() {
        copy_metadata(snapshot.tar.file(), file.as_file())?;
        copy_times(snapshot.tar.file(), file.as_file())?;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes the new archive. Most changes leave most bytes at their offsets: up to the end of these, the old archive is copied
/// in one piece, and new parts are written over it. File systems with reflinks can share the blocks of a file's start, but
/// not of single members, since tars have smaller blocks than disks.
fn write_pieces(pieces: &[Piece], old: &File, out: &mut File) -> io::Result<()> {
    let unmoved = unmoved(pieces);
    copy_at_pace(old, unmoved, out)?;
    let mut at = 0;
    for piece in pieces {
        let end = at + piece.length();
        match piece {
            Piece::Kept(_) if end <= unmoved => {}
            Piece::Kept(range) => {
                out.seek(SeekFrom::Start(at))?;
                copy(old, range.clone(), out)?;
            }
            Piece::New { headers, bytes } => {
                out.seek(SeekFrom::Start(at))?;
                out.write_all(headers)?;
                match bytes {
                    NewContent::Memory(bytes) => out.write_all(bytes)?,
                    NewContent::Spooled { file, size } => copy(file, 0..*size, out)?,
                }
                out.write_all(write::padding(bytes.size()))?;
            }
            Piece::End => {
                out.seek(SeekFrom::Start(at))?;
                out.write_all(&write::END)?;
            }
        }
        at = end;
    }
    Ok(())
}

/// Returns the offset up to which kept parts have their old offsets.
fn unmoved(pieces: &[Piece]) -> u64 {
    let (mut at, mut unmoved) = (0, 0);
    for piece in pieces {
        match piece {
            Piece::Kept(range) if range.start != at => break,
            Piece::Kept(range) => unmoved = range.end,
            Piece::New { .. } | Piece::End => {}
        }
        at += piece.length();
    }
    unmoved
}

/// Copies the start of a file. While one piece is copied, the kernel writes the one before to disk and drops it from the
/// cache of the old file; otherwise all of it would have to be written at the end.
fn copy_at_pace(old: &File, length: u64, out: &mut File) -> io::Result<()> {
    if length <= PIECE {
        return copy(old, 0..length, out);
    }
    let new = out.try_clone()?;
    std::thread::scope(|scope| {
        let (copied, pieces) = std::sync::mpsc::channel::<Range<u64>>();
        scope.spawn(move || {
            for piece in pieces {
                for file in [&new, old] {
                    // Makes the kernel write dirty pages (posix_fadvise(2)). It is advice, so an error is ignored.
                    let (at, length) = (piece.start as i64, (piece.end - piece.start) as i64);
                    let _ = posix_fadvise(file, at, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
                }
            }
        });
        let mut at = 0;
        while at < length {
            let end = length.min(at + PIECE);
            copy(old, at..end, out)?;
            // Sending fails only if the thread panicked.
            let _ = copied.send(at..end);
            at = end;
        }
        Ok(())
    })
}

/// Copies a range of a file. `io::copy` uses copy_file_range(2), which can share blocks. It moves the file's cursor, which
/// only writers use, one at a time; readers read by offset.
fn copy(from: &File, range: Range<u64>, out: &mut File) -> io::Result<()> {
    let (mut from, length) = (from, range.end - range.start);
    from.seek(SeekFrom::Start(range.start))?;
    let copied = io::copy(&mut io::Read::take(from, length), out)?;
    match copied == length {
        true => Ok(()),
        false => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive was truncated while it was copied"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_at_their_old_offsets_are_copied_in_one_piece() {
        let new =
            |size: usize| Piece::New { headers: vec![1; 512], bytes: NewContent::from(&vec![2; size][..]) };
        let check = |pieces: &[Piece], expected: u64| {
            assert_eq!(unmoved(pieces), expected);
            let dir = tempfile::tempdir().unwrap();
            let old: Vec<u8> = (0..8192_u32).map(|i| (i / 512) as u8 + 10).collect();
            fs::write(dir.path().join("old"), &old).unwrap();
            let mut out = File::create(dir.path().join("new")).unwrap();
            write_pieces(pieces, &File::open(dir.path().join("old")).unwrap(), &mut out).unwrap();
            let mut wanted = Vec::new();
            for piece in pieces {
                match piece {
                    Piece::Kept(range) => wanted.extend(&old[range.start as usize..range.end as usize]),
                    Piece::New { headers, bytes } => {
                        wanted.extend(headers);
                        wanted.extend(vec![2; bytes.size() as usize]);
                        wanted.extend(write::padding(bytes.size()));
                    }
                    Piece::End => wanted.extend(write::END),
                }
            }
            assert!(fs::read(dir.path().join("new")).unwrap() == wanted, "{expected}");
        };
        check(&[Piece::Kept(0..8192)], 8192);
        check(&[Piece::Kept(0..512), new(500), Piece::Kept(1536..8192)], 8192);
        check(&[Piece::Kept(0..512), new(513), Piece::Kept(1536..8192)], 512);
        check(&[Piece::Kept(1024..2048), new(1), Piece::End], 0);
        check(&[new(1024), Piece::Kept(1536..4096), Piece::Kept(5120..8192), Piece::End], 4096);
        check(&[new(3), Piece::End], 0);
    }
}
