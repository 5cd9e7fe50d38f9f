//! Paths of layer entries: normalization and whiteouts.

/// The longest path that is kept: PATH_MAX of Linux.
pub(crate) const PATH_MAX: usize = 4096;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Metadata of AUFS, which Docker ignores as well.
const AUFS: &[u8] = b".wh..wh.";

/// Meaning of an entry whose name starts with `.wh.`. Source: OCI image-spec, layer.md, "Whiteouts".
///
/// Whiteouts apply to lower layers, never to the layer that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whiteout {
    /// The file or directory with this path is removed.
    Removes(Vec<u8>),
    /// Everything in the directory with this path is removed.
    Empties(Vec<u8>),
    /// It removes nothing: metadata of AUFS.
    Ignored,
    /// It names no file: `.wh.`, `.wh..` and `.wh...`.
    Invalid,
}

impl Whiteout {
    /// The whiteout at this normalized path. `None`: an ordinary entry.
    pub fn parse(path: &[u8]) -> Option<Self> {
        let directory = parent(path);
        let name = if directory.is_empty() { path } else { &path[directory.len() + 1..] };
        if name == OPAQUE {
            return Some(Self::Empties(directory.to_vec()));
        }
        if name.starts_with(AUFS) {
            return Some(Self::Ignored);
        }
        Some(match name.strip_prefix(WHITEOUT)? {
            b"" | b"." | b".." => Self::Invalid,
            removed if directory.is_empty() => Self::Removes(removed.to_vec()),
            removed => Self::Removes([directory, b"/", removed].concat()),
        })
    }
}

/// A path relative to the root of the image, without empty parts, `.` and `..`. As in container engines, `..` does not
/// lead out of the image.
pub fn normalize(raw: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// The directory of a normalized path. The root is empty.
pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(&[], |end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_remove_a_path_or_empty_a_directory() {
        let check = |path: &str, expected: Option<Whiteout>| {
            assert_eq!(Whiteout::parse(path.as_bytes()), expected, "{path}");
        };
        check("a/.wh.x", Some(Whiteout::Removes(b"a/x".to_vec())));
        check(".wh.x", Some(Whiteout::Removes(b"x".to_vec())));
        check("a/b/.wh..wh..opq", Some(Whiteout::Empties(b"a/b".to_vec())));
        check(".wh..wh..opq", Some(Whiteout::Empties(Vec::new())));
        check("a/.wh..wh.plnk", Some(Whiteout::Ignored));
        for path in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
            check(path, Some(Whiteout::Invalid));
        }
        check(".wh.a/x", None);
        check("a/x.wh.", None);
    }

    #[test]
    fn normalized_paths_stay_in_the_image() {
        let check = |raw: &str, expected: &str| {
            assert_eq!(normalize(raw.as_bytes()), expected.as_bytes(), "{raw}");
        };
        check("/a//b/./c/", "a/b/c");
        check("../../a", "a");
        check("a/../b", "b");
        check("./", "");
    }
}
