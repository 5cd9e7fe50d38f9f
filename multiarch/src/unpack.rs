//! The unpacker of an image's layers into a temporary root directory, for a smoke test only.
//!
//! The kernel resolves every path below the root directory (openat2(2), `RESOLVE_IN_ROOT`), so that absolute links of the image
//! lead to its own root. Set-user-id and set-group-id bits, devices, FIFOs and sockets are left out.

use error::Error;
use error::text::format_bytes;
use image_evidence::layer::decoder::LayerDecoder;
use image_evidence::layer::{self, Whiteout};
use image_model::manifest::Descriptor;
use image_store::store::ImageSource;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sandbox::SandboxIds;
use std::cell::Cell;
use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// What an image may use. Large images have a few hundred thousand entries, some ten directories deep.
const LIMITS: UnpackLimits =
    UnpackLimits { bytes: 16 << 30, entries: 2_000_000, depth: 256, free: 512 << 20 };
/// Free space is looked up after so many bytes.
const FREE_AFTER: u64 = 64 << 20;
/// Directories that the sandbox mounts over.
const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "tmp"];
const DIRECTORY: u32 = 0o755;
/// Permission bits and the sticky bit.
const MODE_BITS: u32 = 0o1777;

/// Why an image was not unpacked.
#[derive(Debug)]
pub enum UnpackError {
    /// Because of the image: it fails on every host.
    Image(String),
    /// Because of this host or the store.
    Host(Error),
}

/// The space that an image may use.
#[derive(Clone, Copy, Debug)]
struct UnpackLimits {
    /// Bytes of all files together, holes included.
    bytes: u64,
    /// Entries of all layers, directories that they imply, and names that opaque whiteouts are compared with.
    entries: u64,
    /// Directories above a directory. Removing a tree needs an open directory for each.
    depth: usize,
    /// Bytes that stay free on the disk.
    free: u64,
}

/// Unpacks the layers, lowest first, to `root`, which is an empty directory, and creates `working_dir`.
pub fn unpack(
    source: &dyn ImageSource,
    layers: &[Descriptor],
    root: &Path,
    working_dir: &Path,
    ids: SandboxIds,
) -> Result<(), UnpackError> {
    let local = |doing: &str, errno: Errno| UnpackError::Host(Error::from_io(doing, errno.into()));
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = openat(AT_FDCWD, root, flags, Mode::empty())
        .map_err(|errno| local("open the directory for the smoke test", errno))?;
    let mut tree = Tree::new(root, ids, LIMITS);
    // Independent of the umask of the caller.
    tree.set_metadata(tree.root.as_fd(), OsStr::new("."), DIRECTORY, (0, 0))
        .map_err(|error| classify("prepare the directory for the smoke test".into(), error))?;
    for layer in layers {
        let doing = || format!("unpack layer {} for the smoke test", layer.digest);
        let blob = source.open_blob(layer).map_err(UnpackError::Host)?;
        let unpacked = LayerDecoder::new(blob, None).map_err(|error| classify(doing(), error))?;
        let mut content = unpacked.map_err(|packer| {
            UnpackError::Image(format!(
                "layer {} is compressed with {packer}, which is not supported",
                layer.digest
            ))
        })?;
        tree.add_layer(&mut content).map_err(|error| classify(doing(), error))?;
        // The digest includes the bytes after the end marker.
        io::copy(&mut content, &mut io::sink()).map_err(|error| classify(doing(), error))?;
    }
    tree.finish(working_dir)
        .map_err(|error| classify("prepare the directory for the smoke test".into(), error))
}

/// Only errors that no layer can cause count as errors of the host. Otherwise a layer could prevent its own test.
fn classify(doing: String, error: io::Error) -> UnpackError {
    let of_store = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    let of_host = error.raw_os_error().is_some_and(|code| {
        let host = [
            Errno::EDQUOT,
            Errno::EIO,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::ENOSPC,
            Errno::EROFS,
        ];
        host.contains(&Errno::from_raw(code))
    });
    if of_store || of_host {
        let error = Error::from_io(doing, error);
        return UnpackError::Host(if of_host { error.hint("free space, or use --no-smoke") } else { error });
    }
    UnpackError::Image(format!("cannot {doing}: {}", error::io_reason(&error)))
}

struct Tree {
    root: OwnedFd,
    ids: SandboxIds,
    limits: UnpackLimits,
    /// Bytes of files that were written.
    bytes: u64,
    entries: Cell<u64>,
}

/// Paths that a layer has added, as hashes: a hostile layer has millions of long ones.
#[derive(Default)]
struct AddedPaths {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl AddedPaths {
    fn add_with_ancestors(&mut self, path: &Path) {
        self.hashes.extend(path.ancestors().map(|path| self.hasher.hash_one(path)));
    }

    fn contains(&self, path: &Path) -> bool {
        self.hashes.contains(&self.hasher.hash_one(path))
    }
}

impl Tree {
    fn new(root: OwnedFd, ids: SandboxIds, limits: UnpackLimits) -> Self {
        Self { root, ids, limits, bytes: 0, entries: Cell::new(0) }
    }

    fn add_layer(&mut self, content: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(content);
        // A whiteout removes files of lower layers, not of its own.
        let mut added = AddedPaths::default();
        for entry in archive.entries()? {
            let mut entry = entry?;
            self.count_entry()?;
            let path = normalized(&entry.path()?)?;
            match Whiteout::parse(path.as_os_str().as_bytes()) {
                Some(whiteout) => self.remove_lower(&whiteout, &path, &added)?,
                None if self.add(&mut entry, &path)? => added.add_with_ancestors(&path),
                None => {}
            }
        }
        Ok(())
    }

    fn count_entry(&self) -> io::Result<()> {
        self.entries.set(self.entries.get() + 1);
        match self.entries.get() <= self.limits.entries {
            true => Ok(()),
            false => Err(invalid(format!("it has more than {} files and directories", self.limits.entries))),
        }
    }

    /// Writes the content of a file.
    fn write_file(&mut self, mut content: impl Read, file: &mut File) -> io::Result<()> {
        loop {
            let free = fstatvfs(&*file)?;
            if free.blocks_available().saturating_mul(free.fragment_size()) < self.limits.free {
                return Err(Errno::ENOSPC.into());
            }
            let most = FREE_AFTER.min(self.limits.bytes - self.bytes + 1);
            let count = io::copy(&mut content.by_ref().take(most), file)?;
            self.bytes += count;
            if self.bytes > self.limits.bytes {
                return Err(invalid(format!(
                    "its files are larger than {}",
                    format_bytes(self.limits.bytes)
                )));
            }
            if count < most {
                return Ok(());
            }
        }
    }

    /// Creates a directory.
    fn create_dir(&self, above: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        self.count_entry()?;
        // The kernel knows where links led. It cannot tell a path that is too long.
        let place = fs::read_link(descriptor_path(&above));
        let root = fs::read_link(descriptor_path(&self.root))?;
        let depth = place.ok().and_then(|place| Some(place.strip_prefix(&root).ok()?.components().count()));
        if depth.is_none_or(|depth| depth >= self.limits.depth) {
            let why = format!("its directories are more than {} deep", self.limits.depth);
            return Err(invalid(why));
        }
        Ok(mkdirat(above, name, Mode::from_bits_truncate(DIRECTORY))?)
    }

    /// Carries out the whiteout at `path`, except for what its own layer added before.
    fn remove_lower(&self, whiteout: &Whiteout, path: &Path, added: &AddedPaths) -> io::Result<()> {
        // What is removed is below the directory that the whiteout itself is in.
        let parent = path.parent().unwrap_or(Path::new(""));
        match whiteout {
            Whiteout::Ignored => Ok(()),
            Whiteout::Invalid => Err(invalid(format!("\"{}\" is not a valid whiteout", path.display()))),
            Whiteout::Empties(_) => {
                let Ok(dir) = self.open_dir(parent) else { return Ok(()) };
                for entry in fs::read_dir(descriptor_path(&dir))? {
                    let name = entry?.file_name();
                    self.count_entry()?;
                    if !added.contains(&parent.join(&name)) {
                        remove(dir.as_fd(), &name)?;
                    }
                }
                Ok(())
            }
            Whiteout::Removes(removed) => {
                let removed = Path::new(OsStr::from_bytes(removed));
                let Ok(dir) = self.open_dir(parent) else { return Ok(()) };
                match removed.file_name() {
                    Some(name) if !added.contains(removed) => remove(dir.as_fd(), name),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Adds an entry. `false`: entries of this type are left out.
    fn add(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> io::Result<bool> {
        let header = entry.header();
        let kind = header.entry_type();
        let mode = header.mode().unwrap_or(DIRECTORY) & MODE_BITS;
        let owner = (header.uid().unwrap_or(0), header.gid().unwrap_or(0));
        let Some(name) = path.file_name() else {
            // The root directory itself.
            if kind == EntryType::Directory {
                self.set_metadata(self.root.as_fd(), OsStr::new("."), mode | 0o700, owner)?;
            }
            return Ok(kind == EntryType::Directory);
        };
        let parent = self.make_dir(path.parent().unwrap_or(Path::new("")))?;
        let dir = parent.as_fd();
        match kind {
            EntryType::Directory => {
                if !is_directory(dir, name) {
                    remove(dir, name)?;
                    self.create_dir(dir, name)?;
                }
                // Otherwise an ordinary user could not remove the tree.
                self.set_metadata(dir, name, mode | 0o700, owner)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(dir, name)?;
                let flags =
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let file = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
                self.write_file(entry, &mut File::from(file))?;
                self.set_metadata(dir, name, mode, owner)?;
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| invalid(format!("link \"{}\" has no target", path.display())))?;
                remove(dir, name)?;
                symlinkat(target.as_ref(), dir, name)?;
                self.set_owner(dir, name, owner)?;
            }
            EntryType::Link => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| invalid(format!("link \"{}\" has no target", path.display())))?;
                let target = normalized(&target)?;
                let at = self.open_dir(target.parent().unwrap_or(Path::new("")))?;
                if target != path {
                    remove(dir, name)?;
                    linkat(&at, target.file_name().unwrap_or_default(), dir, name, AtFlags::empty())?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Creates the mount points of the sandbox, and the working directory, as container engines do.
    fn finish(&self, working_dir: &Path) -> io::Result<()> {
        for name in MOUNT_POINTS {
            let (root, name) = (self.root.as_fd(), OsStr::new(name));
            if !is_directory(root, name) {
                remove(root, name)?;
                mkdirat(root, name, Mode::from_bits_truncate(DIRECTORY))?;
                self.set_metadata(root, name, DIRECTORY, (0, 0))?;
            }
        }
        let dir = normalized(working_dir)?;
        if matches!(self.open_dir(&dir), Err(Errno::ENOTDIR)) {
            return Err(invalid(format!(
                "working directory \"{}\" is not a directory",
                working_dir.display()
            )));
        }
        self.make_dir(&dir).map(drop)
    }

    /// Opens a directory of the tree. Links are followed within the tree.
    fn open_dir(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&self.root, path, how)
    }

    /// Opens a directory of the tree and creates it if necessary. A file in its place is replaced.
    fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.open_dir(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            opened => return Ok(opened?),
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ENOENT.into());
        };
        let above = self.make_dir(above)?;
        if !is_directory(above.as_fd(), name) {
            remove(above.as_fd(), name)?;
            self.create_dir(above.as_fd(), name)?;
            self.set_metadata(above.as_fd(), name, DIRECTORY, (0, 0))?;
        }
        Ok(self.open_dir(path)?)
    }

    /// Sets mode and owner of a new file, which is not a link. The owner first, because chown(2) clears bits of the mode.
    fn set_metadata(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        mode: u32,
        owner: (u64, u64),
    ) -> io::Result<()> {
        self.set_owner(dir, name, owner)?;
        Ok(fchmodat(dir, name, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?)
    }

    fn set_owner(&self, dir: BorrowedFd<'_>, name: &OsStr, (uid, gid): (u64, u64)) -> io::Result<()> {
        if self.ids.is_own() {
            return Ok(());
        }
        let (uid, gid) = self.ids.outside(uid, gid);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }
}

/// The path of an entry, relative to the root of the tree. Here `..` is an error: an image that needs it is not tested.
fn normalized(path: &Path) -> io::Result<PathBuf> {
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(invalid(format!("\"{}\" leads out of the image", path.display())));
    }
    Ok(PathBuf::from(OsString::from_vec(layer::normalize(path.as_os_str().as_bytes()))))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn is_directory(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// Removes what has the name, if anything does.
fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => fs::remove_dir_all(descriptor_path(&dir).join(name)),
        removed => Ok(removed?),
    }
}

/// A path to an open directory, for functions of std that take a path.
fn descriptor_path(dir: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries `PATH/` for directories, `PATH` for files with a text, `PATH -> TARGET` and `PATH => TARGET` for links.
    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            header.set_mode(0o6755);
            let (path, kind) = match (path.split_once(" -> "), path.split_once(" => "), path.ends_with('/')) {
                (Some((path, target)), ..) => {
                    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                    (path, EntryType::Symlink)
                }
                (_, Some((path, target)), _) => {
                    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                    (path, EntryType::Link)
                }
                (None, None, true) => (*path, EntryType::Directory),
                (None, None, false) => {
                    header.set_size(text.len() as u64);
                    (*path, EntryType::Regular)
                }
            };
            header.set_entry_type(kind);
            // Written raw: the builder refuses the names that this is about.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    struct Unpacking {
        dir: tempfile::TempDir,
    }

    impl Unpacking {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("root")).unwrap();
            fs::write(dir.path().join("precious"), "mine").unwrap();
            Self { dir }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.dir.path().join("root").join(path)
        }

        fn add(&self, entries: &[(&str, &str)]) -> io::Result<()> {
            self.add_within(LIMITS, &layer(entries))
        }

        fn add_within(&self, limits: UnpackLimits, layer: &[u8]) -> io::Result<()> {
            let root = File::open(self.path("")).unwrap().into();
            let mut tree = Tree::new(root, SandboxIds::of_process(), limits);
            tree.add_layer(layer)?;
            tree.finish(Path::new("/work/dir"))
        }

        fn has(&self, path: &str) -> bool {
            fs::symlink_metadata(self.path(path)).is_ok()
        }
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        let tree = Unpacking::new();
        tree.add(&[("a/", ""), ("a/x", "1"), ("a/y", "1"), ("b/", ""), ("b/z", "1"), ("b/new", "1")])
            .unwrap();
        tree.add(&[
            ("a/.wh.x", ""),
            ("b/new", "2"),
            ("b/.wh..wh..opq", ""),
            ("n", ""),
            (".wh.n", ""),
            ("a/.wh..wh.plnk", ""),
        ])
        .unwrap();
        assert_eq!(
            ["a/x", "a/y", "b/z", "b/new", "n"].map(|path| tree.has(path)),
            [false, true, false, true, true]
        );
    }

    #[test]
    fn a_whiteout_of_the_directory_itself_is_invalid() {
        for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
            let tree = Unpacking::new();
            tree.add(&[("a/", ""), ("a/x", "1")]).unwrap();
            assert!(tree.add(&[(name, "")]).is_err(), "{name}");
            assert!(tree.has("a/x") && tree.dir.path().join("precious").exists(), "{name}");
        }
    }

    #[test]
    fn a_file_replaces_a_directory_and_the_other_way_round() {
        let tree = Unpacking::new();
        tree.add(&[("a/", ""), ("a/x", "1"), ("b", "file"), ("c", "file")]).unwrap();
        tree.add(&[("a", "file"), ("b/", ""), ("c/d", "2")]).unwrap();
        assert_eq!(fs::read_to_string(tree.path("a")).unwrap(), "file");
        assert!(tree.path("b").is_dir() && tree.path("c/d").is_file());
    }

    #[test]
    fn links_are_resolved_within_the_tree() {
        let tree = Unpacking::new();
        tree.add(&[("usr/lib/", ""), ("lib -> /usr/lib", ""), ("up -> ../../..", "")]).unwrap();
        tree.add(&[("lib/a", "1"), ("hard => lib/a", ""), ("up/b", "2")]).unwrap();
        assert!(["usr/lib/a", "hard", "b"].iter().all(|path| tree.path(path).is_file()));
        assert!(!tree.dir.path().join("b").exists());
    }

    #[test]
    fn nothing_leaves_the_tree() {
        for entries in [
            &[("../escaped", "1")][..],
            &[("../.wh.precious", "")],
            &[("a => ../precious", "")],
            &[("out -> /", ""), ("a => out/precious", "")],
        ] {
            let tree = Unpacking::new();
            assert!(tree.add(entries).is_err(), "{entries:?}");
            assert_eq!(fs::read_to_string(tree.dir.path().join("precious")).unwrap(), "mine");
            assert!(!tree.dir.path().join("escaped").exists() && !tree.has("a"), "{entries:?}");
        }
    }

    #[test]
    fn mount_points_and_working_directory_are_directories_of_the_tree() {
        let tree = Unpacking::new();
        tree.add(&[("dev -> /../..", ""), ("proc", "file"), ("work -> /opt", "")]).unwrap();
        let is_dir = |path: &str| fs::symlink_metadata(tree.path(path)).is_ok_and(|meta| meta.is_dir());
        assert!(["dev", "proc", "tmp"].iter().all(|path| is_dir(path)));
        // A link that leads nowhere gives way.
        assert!(is_dir("work/dir"));
    }

    #[test]
    fn set_user_id_bits_are_left_out() {
        let tree = Unpacking::new();
        tree.add(&[("su", "1"), ("dir/", "")]).unwrap();
        let mode = |path: &str| {
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(tree.path(path)).unwrap().permissions())
        };
        assert_eq!((mode("su") & 0o7777, mode("dir") & 0o7777), (0o755, 0o755));
    }

    /// What an image exceeds is its own fault; what the host lacks is not.
    #[test]
    fn an_image_that_is_too_large_fails() {
        let text = "x".repeat(1000);
        let many: Vec<(String, &str)> = (0..20).map(|i| (format!("dir{i}/file"), "")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let links: Vec<(String, &str)> = (0..40).map(|i| (format!("link{i} => a"), "")).collect();
        let links =
            [&[("a", "1")][..], &links.iter().map(|(l, t)| (l.as_str(), *t)).collect::<Vec<_>>()].concat();
        let opaque = [&[("d/", "")][..], &[("d/.wh..wh..opq", ""); 40]].concat();
        let crowded = [&many[..], &[(".wh..wh..opq", "")]].concat();
        let deep = format!("{}/file", "d/".repeat(40));
        // Each path is short, and leads through the link before it.
        let hop = "d/".repeat(9);
        let hops = [(format!("{hop}one -> /{hop}"), ""), (format!("{hop}one/{hop}f"), "")];
        let hops: Vec<(&str, &str)> = hops.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let mut sparse = tar::Header::new_gnu();
        sparse.set_path("sparse").unwrap();
        sparse.set_entry_type(EntryType::GNUSparse);
        sparse.set_size(0);
        sparse.set_mode(0o644);
        sparse.set_uid(0);
        sparse.set_gid(0);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.sparse[0] = tar::GnuSparseHeader { offset: *b"00000010000\0", numbytes: *b"00000000000\0" };
        gnu.realsize = *b"00000010000\0";
        sparse.set_cksum();
        let sparse = [sparse.as_bytes().as_slice(), &[0; 1024]].concat();
        let limits = UnpackLimits { bytes: 1500, entries: 30, depth: 16, free: 0 };
        for (what, layer, why) in [
            ("two files", layer(&[("a", &text), ("b", &text)]), "its files are larger than 1.5 KiB"),
            ("a file of holes", sparse, "its files are larger than 1.5 KiB"),
            ("directories", layer(&many), "it has more than 30 files and directories"),
            ("hard links", layer(&links), "it has more than 30 files and directories"),
            ("whiteouts", layer(&opaque), "it has more than 30 files and directories"),
            ("a directory that is listed", layer(&crowded), "it has more than 30 files and directories"),
            ("a deep path", layer(&[(&deep, "")]), "its directories are more than 16 deep"),
            ("links into depth", layer(&hops), "its directories are more than 16 deep"),
        ] {
            let error = Unpacking::new().add_within(limits, &layer).unwrap_err();
            assert_eq!(error.to_string(), why, "{what}");
            assert!(matches!(classify("unpack".into(), error), UnpackError::Image(_)), "{what}");
        }
        let fits = layer(&[("a", &text), ("b", &text[..500]), ("d/d/d/d/d/d/d/d/d/d/d/d/", "")]);
        Unpacking::new().add_within(limits, &fits).unwrap();
        let full = UnpackLimits { free: u64::MAX, ..LIMITS };
        let error = Unpacking::new().add_within(full, &layer(&[("a", "x")])).unwrap_err();
        let UnpackError::Host(error) = classify("unpack".into(), error) else { panic!("of the image") };
        assert!(error.to_string().ends_with("; free space, or use --no-smoke"), "{error}");
    }

    /// The deepest tree that is unpacked can be removed with 1024 open files, the usual limit.
    #[test]
    fn the_limits_are_those_of_the_documentation() {
        assert_eq!(
            (LIMITS.bytes >> 30, LIMITS.entries, LIMITS.depth, LIMITS.free >> 20),
            (16, 2_000_000, 256, 512)
        );
        let tree = Unpacking::new();
        let deep = tar_of_depth(255);
        tree.add_within(LIMITS, &deep).unwrap();
        fs::remove_dir_all(tree.path("")).unwrap();
        assert!(Unpacking::new().add_within(LIMITS, &tar_of_depth(300)).is_err());
    }

    fn tar_of_depth(depth: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, format!("{}f", "d/".repeat(depth)), io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn only_errors_that_no_layer_can_cause_are_attributed_to_the_host() {
        let check = |error: io::Error, of_host: bool| {
            let shown = format!("{error:?}");
            assert_eq!(matches!(classify("unpack".into(), error), UnpackError::Host(_)), of_host, "{shown}");
        };
        check(Errno::ENOSPC.into(), true);
        check(Error::integrity("read", "it differs").into_io(), true);
        check(Errno::ENAMETOOLONG.into(), false);
        check(Errno::ELOOP.into(), false);
        check(invalid("no tar".into()), false);
    }
}
