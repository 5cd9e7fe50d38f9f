//! The folders and links of a base image, as its layers leave them. Read with bounds; nothing is extracted.

use error::Error;
use flate2::bufread::MultiGzDecoder;
use image_model::manifest::Descriptor;
use image_store::store::ImageSource;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use tar::{Archive, EntryType};

/// Bounds on what is read of layers that others made: entries, names together, an extension header, all layers
/// decompressed, links on the way to a path (as many as Linux follows).
const ENTRIES_MAX: usize = 2_000_000;
const NAMES_MAX: usize = 32 << 20;
const EXTENSION_MAX: u64 = 1 << 20;
const BYTES_MAX: u64 = 64 << 30;
const LINKS_MAX: usize = 40;

#[derive(Debug, Default)]
pub struct BaseTree {
    /// Paths without a slash in front or at the end.
    nodes: BTreeMap<Vec<u8>, Node>,
    names: usize,
    entries: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Folder,
    Link(Vec<u8>),
}

impl BaseTree {
    /// Reads the layers, lowest first.
    pub fn read(source: &dyn ImageSource, layers: &[Descriptor]) -> Result<Self, Error> {
        let mut tree = Self::default();
        let mut left = BYTES_MAX;
        for layer in layers {
            let doing = || format!("read layer {} of \"{}\"", layer.digest, source.place());
            let mut blob = BufReader::with_capacity(64 << 10, source.open_blob(layer)?);
            let mut head = [0; 4];
            let count = read_full(&mut blob, &mut head).map_err(|e| Error::from_io(doing(), e))?;
            let blob = io::Cursor::new(head[..count].to_vec()).chain(blob);
            let content: Box<dyn Read> = match head {
                [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(blob)),
                [0x28, 0xb5, 0x2f, 0xfd] => {
                    return Err(Error::bad_input(
                        doing(),
                        "it is compressed with zstd, which is not read here",
                    )
                    .hint("use a base image with gzip layers, or a Dockerfile"));
                }
                _ => Box::new(blob),
            };
            let mut content = content.take(left);
            tree.add_layer(&mut content).map_err(|e| Error::from_io(doing(), e))?;
            // What stands behind the tar belongs to the blob: its digest is checked at the end.
            io::copy(&mut content, &mut io::sink()).map_err(|e| Error::from_io(doing(), e))?;
            left = content.limit();
            if left == 0 {
                return Err(Error::bad_input(
                    doing(),
                    format!("its layers hold more than {BYTES_MAX} bytes"),
                ));
            }
        }
        Ok(tree)
    }

    pub fn has_folder(&self, path: &[u8]) -> bool {
        path.is_empty() || self.nodes.get(path) == Some(&Node::Folder)
    }

    /// Where a path lies when links on the way to it are followed, and the last one too if `follow_last`.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, Error> {
        let mut ahead: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == b".." {
                at.truncate(at.iter().rposition(|b| *b == b'/').unwrap_or(0));
                continue;
            }
            let next = if at.is_empty() { part } else { [&at[..], b"/", &part].concat() };
            match self.nodes.get(&next) {
                Some(Node::Link(target)) if follow_last || !ahead.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        let doing = format!("find \"/{}\" in the base image", String::from_utf8_lossy(path));
                        return Err(Error::bad_input(doing, "its links lead in a circle"));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    ahead.extend(parts(target).rev().map(<[u8]>::to_vec));
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    fn add_layer(&mut self, content: impl Read) -> io::Result<()> {
        let mut archive = Archive::new(content);
        let (mut long_name, mut long_link) = (None, None);
        // Raw: the crate would load a long name of any length into memory.
        for entry in archive.entries()?.raw(true) {
            let mut entry = entry?;
            self.count(0)?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::GNULongName => long_name = Some(until_nul(read_extension(&mut entry)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(read_extension(&mut entry)?)),
                EntryType::XHeader => {
                    let content = read_extension(&mut entry)?;
                    for record in tar::PaxExtensions::new(&content) {
                        let record = record?;
                        match record.key_bytes() {
                            b"path" => long_name = Some(record.value_bytes().to_vec()),
                            b"linkpath" => long_link = Some(record.value_bytes().to_vec()),
                            // Only files beyond 8 GiB need it; what follows one would be misread here.
                            b"size" => return Err(bad("a PAX size, which is not read here")),
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => {}
                _ => {
                    let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                    let link = long_link.take();
                    let link = link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
                    self.apply(kind, &name, link.unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }

    /// One entry of a layer, laid over what the layers below left. Source: image-spec, layer.md, "Whiteouts".
    fn apply(&mut self, kind: EntryType, name: &[u8], link: Vec<u8>) -> io::Result<()> {
        let path: Vec<&[u8]> = parts(name).collect();
        if path.contains(&&b".."[..]) {
            return Err(bad("a name that leaves the image"));
        }
        let Some((last, parents)) = path.split_last() else { return Ok(()) };
        let parent = parents.join(&b'/');
        if *last == b".wh..wh..opq" {
            self.remove_below(&parent);
            return Ok(());
        }
        if let Some(removed) = last.strip_prefix(b".wh.") {
            let removed = [parents, &[removed]].concat().join(&b'/');
            self.remove_below(&removed);
            self.nodes.remove(&removed);
            return Ok(());
        }
        for depth in 1..path.len() {
            let above = path[..depth].join(&b'/');
            if !self.nodes.contains_key(&above) {
                self.count(above.len())?;
                self.nodes.insert(above, Node::Folder);
            }
        }
        let path = path.join(&b'/');
        match kind {
            EntryType::Directory => {
                self.count(path.len())?;
                self.nodes.insert(path, Node::Folder);
            }
            EntryType::Symlink => {
                self.count(path.len() + link.len())?;
                self.remove_below(&path);
                self.nodes.insert(path, Node::Link(link));
            }
            // A file; what was a folder or link here is gone.
            _ => {
                if self.nodes.remove(&path).is_some() {
                    self.remove_below(&path);
                }
            }
        }
        Ok(())
    }

    fn remove_below(&mut self, path: &[u8]) {
        let from = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let below: Vec<Vec<u8>> = self
            .nodes
            .range(from.clone()..)
            .map(|(at, _)| at)
            .take_while(|at| at.starts_with(&from))
            .cloned()
            .collect();
        for at in below {
            self.nodes.remove(&at);
        }
    }

    fn count(&mut self, name: usize) -> io::Result<()> {
        self.entries += 1;
        self.names += name;
        match self.entries > ENTRIES_MAX || self.names > NAMES_MAX {
            true => Err(bad("more entries than are read here")),
            false => Ok(()),
        }
    }
}

/// The parts of a path, without empty ones and `.`.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn read_extension(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    entry.take(EXTENSION_MAX + 1).read_to_end(&mut content)?;
    match content.len() as u64 > EXTENSION_MAX {
        true => Err(bad("an extension header of more than 1 MiB")),
        false => Ok(content),
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(text.iter().position(|b| *b == 0).unwrap_or(text.len()));
    text
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn bad(why: &str) -> io::Error {
    Error::bad_input("read a layer of the base image", format!("it has {why}")).into_io()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_model::manifest::media_type;
    use image_store::compress::Gzip;
    use image_store::store::memory::MemoryStore;
    use tar::{Builder, Header};

    /// A layer of rows: `path/`, `path` or `path -> target`.
    fn layer(rows: &[&str]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for row in rows {
            let mut header = Header::new_gnu();
            header.set_size(0);
            match row.split_once(" -> ") {
                Some((path, target)) => {
                    header.set_entry_type(EntryType::Symlink);
                    builder.append_link(&mut header, path, target).unwrap();
                }
                None => {
                    let folder = row.ends_with('/');
                    header.set_entry_type(if folder { EntryType::Directory } else { EntryType::Regular });
                    builder.append_data(&mut header, row, io::empty()).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    fn tree(layers: &[&[&str]]) -> BaseTree {
        let store = MemoryStore::new();
        let add = |(at, rows): (usize, &&[&str])| {
            let mut bytes = layer(rows);
            // Every other layer compressed.
            if at % 2 == 0 {
                let plain = std::mem::take(&mut bytes);
                Gzip::new(plain.as_slice()).read_to_end(&mut bytes).unwrap();
            }
            store.add_blob(media_type::OCI_LAYER, &bytes)
        };
        let layers: Vec<Descriptor> = layers.iter().enumerate().map(add).collect();
        BaseTree::read(&store, &layers).unwrap()
    }

    #[test]
    fn paths_lead_where_the_links_of_the_base_lead() {
        let long = format!("{}/", "n".repeat(150));
        let base = tree(&[
            &[
                "usr/lib/",
                "lib -> usr/lib",
                "var/run -> /run",
                "run/",
                "a -> b",
                "b -> a",
                "up -> ../usr/../usr",
                &long,
            ],
            &["etc/conf", "opt/x/"],
        ]);
        let check = |path: &str, follow: bool, at: &str, folder: bool| {
            let found = base.resolve(path.as_bytes(), follow).unwrap();
            assert_eq!(String::from_utf8_lossy(&found), at, "{path}");
            assert_eq!(base.has_folder(&found), folder, "{path}");
        };
        check("lib", true, "usr/lib", true);
        check("lib", false, "lib", false);
        check("lib/x/y", false, "usr/lib/x/y", false);
        check("var/run/app.pid", true, "run/app.pid", false);
        check("up/lib", false, "usr/lib", true);
        check("etc", true, "etc", true);
        check("etc/conf", true, "etc/conf", false);
        check("opt/x", true, "opt/x", true);
        check(&"n".repeat(150), true, &"n".repeat(150), true);
        assert!(base.resolve(b"a/x", true).unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn upper_layers_remove_and_replace() {
        let base = tree(&[
            &["a/x/", "b/y/", "c/", "d -> a", "e/z/"],
            &[".wh.a", "b/.wh..wh..opq", "c", "d/", "e -> b"],
        ]);
        for (path, folder) in
            [("a", false), ("a/x", false), ("b", true), ("b/y", false), ("c", false), ("d", true)]
        {
            assert_eq!(base.has_folder(path.as_bytes()), folder, "{path}");
        }
        assert_eq!(base.resolve(b"e/q", false).unwrap(), b"b/q");
    }

    #[test]
    fn a_layer_that_would_eat_the_memory_is_refused() {
        let store = MemoryStore::new();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(EXTENSION_MAX + 1);
        header.set_cksum();
        let bytes = [header.as_bytes().to_vec(), vec![b'n'; 2 << 20]].concat();
        let blob = store.add_blob(media_type::OCI_LAYER, &bytes);
        let error = BaseTree::read(&store, &[blob]).unwrap_err();
        assert!(error.to_string().contains("more than 1 MiB"), "{error}");
        let zstd = store.add_blob(media_type::OCI_LAYER_ZSTD, b"\x28\xb5\x2f\xfd....");
        assert!(BaseTree::read(&store, &[zstd]).unwrap_err().to_string().contains("zstd"));
    }
}
