//! The directories and links of a base image, as its layers leave them. Nothing is extracted.

use error::Error;
use image_evidence::layer::{self, LayerEntry, LayerFacts, LayerOutcome, NameHasher};
use image_evidence::overlay::OverlayTree;
use image_model::digest::Digest;
use image_model::manifest::Descriptor;
use image_store::store::ImageSource;

/// As many links as Linux follows on the way to a path, path_resolution(7).
const LINKS_MAX: usize = 40;

/// The layers of a base image, lowest first.
///
/// Paths are relative to the root of the image, without a slash in front or at the end.
#[derive(Debug, Default)]
pub struct BaseTree {
    layers: Vec<LayerFacts>,
}

impl BaseTree {
    /// Reads the layers, lowest first, and verifies that each unpacks to its diff ID.
    ///
    /// # Errors
    /// `BadInput` for a layer that is encrypted, stored elsewhere, or compressed in an unsupported way; `Integrity` for
    /// one that differs from its digest or its diff ID; otherwise as the store.
    pub fn read(source: &dyn ImageSource, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<Self, Error> {
        let mut tree = Self::default();
        let hasher = NameHasher::random();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            match layer::read(source, layer, Some(diff_id), &hasher)? {
                LayerOutcome::Read(facts) => tree.layers.push(*facts),
                LayerOutcome::Skipped(reason) => {
                    return Err(Error::bad_input(
                        format!("read layer {} of the base image", layer.digest),
                        reason,
                    )
                    .hint("use another base image, or a Dockerfile"));
                }
            }
        }
        Ok(tree)
    }

    /// Returns whether the path is a directory, and not a link to one.
    pub fn has_directory(&self, path: &[u8]) -> bool {
        path.is_empty()
            || matches!(self.overlay().entry(path), Some(LayerEntry::Directory | LayerEntry::Implied))
    }

    /// The path with links followed on the way to it, and at its end as well if `follow_last`. What does not exist is
    /// no link.
    ///
    /// # Errors
    /// `BadInput` for a path with too many links.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, Error> {
        let overlay = self.overlay();
        // The parts that are still to be followed, the next one last.
        let mut rest: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == b".." {
                at.truncate(layer::parent(&at).len());
                continue;
            }
            let next = if at.is_empty() { part } else { [&at[..], b"/", &part].concat() };
            match overlay.entry(&next) {
                Some(LayerEntry::Symlink(target)) if follow_last || !rest.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        let doing = format!("find \"/{}\" in the base image", String::from_utf8_lossy(path));
                        return Err(Error::bad_input(doing, "too many levels of symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    rest.extend(parts(target).rev().map(<[u8]>::to_vec));
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    fn overlay(&self) -> OverlayTree<'_> {
        OverlayTree::new(self.layers.iter().map(Some).collect())
    }
}

/// The parts of a path, without empty ones and `.`.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;
    use image_model::manifest::media_type;
    use image_store::archive::tar::extension::EXTENSION_MAX;
    use image_store::compress::Gzip;
    use image_store::store::memory::MemoryStore;
    use std::io::{self, Read};
    use tar::{Builder, EntryType, Header};

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
                    let is_directory = row.ends_with('/');
                    header.set_entry_type(if is_directory {
                        EntryType::Directory
                    } else {
                        EntryType::Regular
                    });
                    builder.append_data(&mut header, row, io::empty()).unwrap();
                }
            }
        }
        builder.into_inner().unwrap()
    }

    /// The tree of these layers, compressed in three different ways.
    fn trees(layers: &[&[&str]]) -> [BaseTree; 3] {
        [0, 1, 2].map(|first| tree(layers, first))
    }

    fn tree(layers: &[&[&str]], first: usize) -> BaseTree {
        let store = MemoryStore::new();
        let mut diff_ids = Vec::new();
        let mut add = |(at, rows): (usize, &&[&str])| {
            let plain = layer(rows);
            diff_ids.push(Digest::of(&plain));
            let bytes = match (at + first) % 3 {
                0 => {
                    let mut bytes = Vec::new();
                    Gzip::new(plain.as_slice()).read_to_end(&mut bytes).unwrap();
                    bytes
                }
                1 => zstd::encode_all(plain.as_slice(), 1).unwrap(),
                _ => plain,
            };
            store.add_blob(media_type::OCI_LAYER, &bytes)
        };
        let layers: Vec<Descriptor> = layers.iter().enumerate().map(&mut add).collect();
        BaseTree::read(&store, &layers, &diff_ids).unwrap()
    }

    #[test]
    fn paths_follow_the_links_of_the_base() {
        let long = format!("{}/", "n".repeat(150));
        let bases = trees(&[
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
        let check = |path: &str, follow: bool, at: &str, is_directory: bool| {
            for base in &bases {
                let found = base.resolve(path.as_bytes(), follow).unwrap();
                assert_eq!(String::from_utf8_lossy(&found), at, "{path}");
                assert_eq!(base.has_directory(&found), is_directory, "{path}");
            }
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
        let error = bases[0].resolve(b"a/x", true).unwrap_err();
        assert!(error.to_string().contains("too many levels of symbolic links"), "{error}");
    }

    #[test]
    fn upper_layers_remove_and_replace() {
        let bases = trees(&[
            &["a/x/", "b/y/", "c/", "d -> a", "e/z/"],
            &[".wh.a", "b/.wh..wh..opq", "c", "d/", "e -> b"],
        ]);
        for base in bases {
            for (path, is_directory) in
                [("a", false), ("a/x", false), ("b", true), ("b/y", false), ("c", false), ("d", true)]
            {
                assert_eq!(base.has_directory(path.as_bytes()), is_directory, "{path}");
            }
            assert_eq!(base.resolve(b"e/q", false).unwrap(), b"b/q");
        }
    }

    #[test]
    fn a_layer_above_the_memory_limit_is_refused() {
        let store = MemoryStore::new();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(EXTENSION_MAX + 1);
        header.set_cksum();
        let bytes = [header.as_bytes().to_vec(), vec![b'n'; 2 << 20]].concat();
        let blob = store.add_blob(media_type::OCI_LAYER, &bytes);
        let error = BaseTree::read(&store, &[blob], &[Digest::of(&bytes)]).unwrap_err();
        assert!(error.to_string().contains("an extension header of"), "{error}");
    }

    #[test]
    fn an_unreadable_layer_is_an_error_with_a_suggestion() {
        let store = MemoryStore::new();
        let lz4 = b"\x04\x22\x4d\x18....";
        let blob = store.add_blob(media_type::OCI_LAYER, lz4);
        let error = BaseTree::read(&store, &[blob], &[Digest::of(b"its tar")]).unwrap_err();
        assert!(
            error.to_string().contains("lz4") && error.to_string().contains("another base image"),
            "{error}"
        );
        let blob =
            store.add_blob(media_type::OCI_LAYER_ZSTD, &zstd::encode_all(&layer(&["a/"])[..], 1).unwrap());
        let error = BaseTree::read(&store, &[blob], &[Digest::of(b"another tar")]).unwrap_err();
        assert_eq!(error.kind, Exit::Integrity, "{error}");
    }
}
