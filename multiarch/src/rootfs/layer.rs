//! A layer as a tar that depends only on the paths, contents and execute bits of files.
//!
//! Entries are sorted, with directories before what is in them. Owners are 0:0, all times are the same, modes are 0755 or 0644.
//! Only the list of entries is in memory.

use super::base_tree::BaseTree;
use error::Error;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// The entries of a layer, by their path in the image without a leading slash.
#[derive(Debug, Default)]
pub struct Layer {
    entries: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File { source: PathBuf, size: u64, executable: bool },
    Link { target: PathBuf },
}

impl Layer {
    /// Adds a file, or everything in a directory. `to` is an absolute path in the image; if it ends in `/`, a file is added to that
    /// directory under its own name. If the source is a link, it is followed; links below it stay links.
    pub fn add(&mut self, source: &Path, to: &str) -> Result<(), Error> {
        let doing = || format!("copy \"{}\" to \"{to}\"", source.display());
        let meta = fs::metadata(source).map_err(|e| Error::from_io(doing(), e))?;
        let mut path =
            to.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/").into_bytes();
        if meta.is_dir() {
            if !path.is_empty() {
                self.insert(path.clone(), Entry::Directory, source)?;
            }
            return self.add_directory(source, &path);
        }
        if to.ends_with('/') {
            let name = source.file_name().ok_or_else(|| Error::bad_input(doing(), "it has no file name"))?;
            path = join(&path, name);
        }
        if path.is_empty() {
            return Err(Error::bad_input(doing(), "a file cannot be the image's root"));
        }
        let entry = file_entry(source, &meta).ok_or_else(|| special(&doing()))?;
        self.insert(path, entry, source)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Resolves the paths of the entries in the base image: links of the base image are followed, and directories that it has are
    /// left out. An entry for them would change their mode, or replace a link such as `/lib` by a directory.
    pub fn resolve_paths(&mut self, base: &BaseTree) -> Result<(), Error> {
        for (path, entry) in std::mem::take(&mut self.entries) {
            let is_directory = entry == Entry::Directory;
            let at = base.resolve(&path, is_directory)?;
            match base.has_directory(&at) {
                true if is_directory => {}
                true => {
                    let doing = format!("copy a file to \"/{}\"", String::from_utf8_lossy(&path));
                    return Err(Error::bad_input(doing, "it is a directory in the base image")
                        .hint("end the destination with \"/\" to copy the file into it"));
                }
                false => self.place(at, entry, &|parent| base.has_directory(parent))?,
            }
        }
        Ok(())
    }

    fn add_directory(&mut self, directory: &Path, path: &[u8]) -> Result<(), Error> {
        let doing = || format!("read \"{}\"", directory.display());
        for item in fs::read_dir(directory).map_err(|e| Error::from_io(doing(), e))? {
            let item = item.map_err(|e| Error::from_io(doing(), e))?;
            let source = item.path();
            let meta = item.metadata().map_err(|e| Error::from_io(doing(), e))?;
            let below = join(path, &item.file_name());
            if meta.is_dir() {
                self.insert(below.clone(), Entry::Directory, &source)?;
                self.add_directory(&source, &below)?;
            } else if meta.is_symlink() {
                let target = fs::read_link(&source).map_err(|e| Error::from_io(doing(), e))?;
                self.insert(below, Entry::Link { target }, &source)?;
            } else {
                let entry = file_entry(&source, &meta);
                let entry = entry.ok_or_else(|| special(&format!("copy \"{}\"", source.display())))?;
                self.insert(below, entry, &source)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: Vec<u8>, entry: Entry, source: &Path) -> Result<(), Error> {
        // In a layer, such a name is a whiteout.
        if path.split(|b| *b == b'/').any(|part| part.starts_with(b".wh.")) {
            let doing = format!("copy \"{}\"", source.display());
            return Err(Error::bad_input(doing, "a layer cannot contain names that begin with \".wh.\""));
        }
        self.place(path, entry, &|_| false)
    }

    /// Adds an entry, and its parent directories unless `there` has them. Two sources may have the same directories, but no other
    /// entries in common.
    fn place(&mut self, path: Vec<u8>, entry: Entry, there: &dyn Fn(&[u8]) -> bool) -> Result<(), Error> {
        let taken = |what: &[u8]| {
            let doing = format!("copy to \"/{}\"", String::from_utf8_lossy(&path));
            let why = format!("something else is copied to \"/{}\"", String::from_utf8_lossy(what));
            Error::bad_input(doing, why).hint("remove one of them")
        };
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let parent = &path[..at];
            if there(parent) {
                continue;
            }
            match self.entries.entry(parent.to_vec()).or_insert(Entry::Directory) {
                Entry::Directory => {}
                Entry::File { .. } | Entry::Link { .. } => return Err(taken(parent)),
            }
        }
        match self.entries.get(&path) {
            Some(other) if *other != entry => Err(taken(&path)),
            _ => {
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }

    /// A reader of the tar. `time` is the modification time of all entries, in seconds since 1970.
    pub fn tar(&self, time: u64) -> TarReader<'_> {
        TarReader {
            entries: self.entries.iter(),
            time,
            head: io::Cursor::new(Vec::new()),
            body: None,
            ended: false,
        }
    }
}

fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    match path {
        [] => name.as_bytes().to_vec(),
        path => [path, b"/", name.as_bytes()].concat(),
    }
}

/// `None`: it is a socket, FIFO or device.
fn file_entry(source: &Path, meta: &fs::Metadata) -> Option<Entry> {
    let executable = meta.permissions().mode() & 0o100 != 0;
    meta.is_file().then(|| Entry::File { source: source.to_path_buf(), size: meta.len(), executable })
}

fn special(doing: &str) -> Error {
    Error::bad_input(doing, "it is a socket, FIFO or device, which cannot be in a layer")
}

/// Reads a tar in pieces: a header, the content of its file, padding, the next header.
pub struct TarReader<'a> {
    entries: std::collections::btree_map::Iter<'a, Vec<u8>, Entry>,
    time: u64,
    head: io::Cursor<Vec<u8>>,
    body: Option<Body<'a>>,
    ended: bool,
}

/// A file with the number of bytes that are still to be read, and the number of zeros that follow.
struct Body<'a> {
    source: &'a Path,
    file: File,
    left: u64,
    padding: u64,
}

const BLOCK: u64 = 512;

impl Read for TarReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.head.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if let Some(body) = &mut self.body {
                let count = body.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                self.body = None;
            }
            match self.entries.next() {
                Some((path, entry)) => self.begin(path, entry)?,
                // Two blocks of zeros are the end of a tar.
                None if !self.ended => {
                    self.ended = true;
                    self.head = io::Cursor::new(vec![0; 2 * BLOCK as usize]);
                }
                None => return Ok(0),
            }
        }
    }
}

impl<'a> TarReader<'a> {
    fn begin(&mut self, path: &[u8], entry: &'a Entry) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        let mut path = path.to_vec();
        let (kind, mode, size) = match entry {
            Entry::Directory => {
                path.push(b'/');
                (EntryType::Directory, 0o755, 0)
            }
            Entry::File { size, executable, .. } => {
                (EntryType::Regular, if *executable { 0o755 } else { 0o644 }, *size)
            }
            Entry::Link { .. } => (EntryType::Symlink, 0o777, 0),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        let path = PathBuf::from(std::ffi::OsString::from_vec(path));
        // The tar crate writes the header, and what long names need before it. The content follows by our hands.
        let mut builder = Builder::new(Vec::new());
        match entry {
            Entry::Link { target } => builder.append_link(&mut header, &path, target)?,
            _ => builder.append_data(&mut header, &path, io::empty())?,
        }
        self.head = io::Cursor::new(std::mem::take(builder.get_mut()));
        if let Entry::File { source, size, .. } = entry {
            let file = File::open(source).map_err(|e| in_file(source, e))?;
            self.body =
                Some(Body { source, file, left: *size, padding: size.next_multiple_of(BLOCK) - size });
        }
        Ok(())
    }
}

impl Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left > 0 {
            let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let count = self.file.read(&mut buffer[..most]).map_err(|e| in_file(self.source, e))?;
            if count == 0 {
                return Err(changed(self.source));
            }
            self.left -= count as u64;
            // A file that grew would be cut without a word.
            if self.left == 0 && self.file.read(&mut [0]).map_err(|e| in_file(self.source, e))? > 0 {
                return Err(changed(self.source));
            }
            return Ok(count);
        }
        let most = buffer.len().min(usize::try_from(self.padding).unwrap_or(usize::MAX));
        buffer[..most].fill(0);
        self.padding -= most as u64;
        Ok(most)
    }
}

fn in_file(source: &Path, error: io::Error) -> io::Error {
    Error::from_io(format!("read \"{}\"", source.display()), error).into_io()
}

fn changed(source: &Path) -> io::Error {
    let doing = format!("read \"{}\"", source.display());
    Error::conflict(doing, "it changed while it was read").hint("run again when nobody writes it").into_io()
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;
    use std::os::unix::fs::symlink;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn bytes(layer: &Layer) -> Vec<u8> {
        let mut out = Vec::new();
        layer.tar(86_400).read_to_end(&mut out).unwrap();
        out
    }

    /// A tar as rows: type, mode, owner, time, path, what is in it.
    fn rows(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let rows = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            let kind = match header.entry_type() {
                EntryType::Directory => 'd',
                EntryType::Symlink => 'l',
                EntryType::Regular => '-',
                other => panic!("{other:?}"),
            };
            let path = entry.path().unwrap().display().to_string();
            let link =
                entry.link_name().unwrap().map(|to| format!(" -> {}", to.display())).unwrap_or_default();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let (owner, time) = (header.uid().unwrap() + header.gid().unwrap(), header.mtime().unwrap());
            format!("{kind}{:o} {owner} {time} {path}{link} {text:?}", header.mode().unwrap())
        });
        rows.collect()
    }

    #[test]
    fn a_layer_has_sorted_files_directories_and_links_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("app"), "run", 0o700);
        write(&dir.path().join("etc/b.conf"), "b", 0o600);
        write(&dir.path().join("etc/sub/a.conf"), "a", 0o666);
        symlink("../b.conf", dir.path().join("etc/sub/link")).unwrap();
        symlink("app", dir.path().join("other")).unwrap();
        let mut layer = Layer::default();
        layer.add(&dir.path().join("app"), "/usr/bin/").unwrap();
        layer.add(&dir.path().join("etc"), "/etc").unwrap();
        layer.add(&dir.path().join("other"), "/bin/other").unwrap();
        assert_eq!(
            rows(&bytes(&layer)),
            [
                "d755 0 86400 bin/ \"\"",
                "-755 0 86400 bin/other \"run\"",
                "d755 0 86400 etc/ \"\"",
                "-644 0 86400 etc/b.conf \"b\"",
                "d755 0 86400 etc/sub/ \"\"",
                "-644 0 86400 etc/sub/a.conf \"a\"",
                "l777 0 86400 etc/sub/link -> ../b.conf \"\"",
                "d755 0 86400 usr/ \"\"",
                "d755 0 86400 usr/bin/ \"\"",
                "-755 0 86400 usr/bin/app \"run\"",
            ]
        );
    }

    #[test]
    fn long_names_and_contents_of_every_size_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
        let mut layer = Layer::default();
        for size in [0_usize, 1, 511, 512, 513, 200_000] {
            let name = dir.path().join(size.to_string());
            write(&name, &"x".repeat(size), 0o644);
            layer.add(&name, &format!("/{long}/{size}")).unwrap();
        }
        symlink("t".repeat(150), dir.path().join("link")).unwrap();
        let mut links = Layer::default();
        fs::create_dir(dir.path().join("directory")).unwrap();
        fs::rename(dir.path().join("link"), dir.path().join("directory/link")).unwrap();
        links.add(&dir.path().join("directory"), "/").unwrap();
        let tar = bytes(&layer);
        assert_eq!(tar.len() % 512, 0);
        let found = rows(&tar);
        assert_eq!(found.len(), 8);
        for size in [0_usize, 1, 511, 512, 513, 200_000] {
            let wanted = format!("-644 0 86400 {long}/{size} \"{}\"", "x".repeat(size));
            assert!(found.contains(&wanted), "{size}");
        }
        assert_eq!(rows(&bytes(&links)), [format!("l777 0 86400 link -> {} \"\"", "t".repeat(150))]);
    }

    #[test]
    fn files_that_no_layer_can_contain_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a"), "a", 0o644);
        write(&dir.path().join("b"), "b", 0o644);
        write(&dir.path().join("gone/.wh.x"), "", 0o644);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let check = |copies: &[(&str, &str)], kind: Exit, why: &str| {
            let mut layer = Layer::default();
            let error =
                copies.iter().find_map(|(from, to)| layer.add(&dir.path().join(from), to).err()).unwrap();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        };
        check(&[("a", "/x"), ("b", "/x")], Exit::BadInput, "something else is copied to \"/x\"");
        check(&[("a", "/x"), ("b", "/x/y")], Exit::BadInput, "something else is copied to \"/x\"");
        check(&[("a", "/x/y"), ("b", "/x")], Exit::BadInput, "something else");
        check(&[("gone", "/")], Exit::BadInput, "cannot contain names");
        check(&[("socket", "/s")], Exit::BadInput, "socket");
        check(&[("none", "/n")], Exit::NotFound, "no such file");
    }

    #[test]
    fn a_file_that_changes_during_the_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let check = |text: &str| {
            let file = dir.path().join("a");
            write(&file, "four", 0o644);
            let mut layer = Layer::default();
            layer.add(&file, "/a").unwrap();
            write(&file, text, 0o644);
            let error = layer.tar(0).read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(Error::from_io("read", error).kind, Exit::Conflict);
        };
        check("fiver");
        check("one");
    }
}
