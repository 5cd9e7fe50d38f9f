//! Hashes of paths with a secret key, so that nobody can construct two paths with the same hash.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The directory of drive C: in the layers of Windows images.
const WINDOWS_FILES: &[u8] = b"Files/";

/// A hash function for paths with a key. Layers that are compared must have the same one.
#[derive(Clone)]
pub struct NameHasher {
    key: [u8; 32],
    /// A hasher that was fed with the key.
    start: DefaultHasher,
}

impl NameHasher {
    /// The hash function with this key.
    pub fn new(key: [u8; 32]) -> Self {
        let mut start = DefaultHasher::new();
        start.write(&key);
        Self { key, start }
    }

    /// A hash function with a random key.
    pub fn random() -> Self {
        let random = RandomState::new();
        let mut key = [0; 32];
        for (number, part) in key.chunks_mut(8).enumerate() {
            part.copy_from_slice(&random.hash_one(number).to_le_bytes());
        }
        Self::new(key)
    }

    /// The secret key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The hash of a normalized path. Below `Files/`, where Windows layers have their files, the case of ASCII letters does not
    /// count.
    pub(crate) fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = self.start.clone();
        let start = if name.starts_with(WINDOWS_FILES) { WINDOWS_FILES.len() } else { name.len() };
        hasher.write(&name[..start]);
        write_folded(&mut hasher, &name[start..]);
        hasher.finish()
    }

    /// The hashes of the directories above a normalized path, the root excluded, and that of the path itself at the end.
    /// Takes time in proportion to the length of the path.
    pub(crate) fn hash_all(&self, name: &[u8]) -> Vec<u64> {
        let mut hasher = self.start.clone();
        let mut hashes = Vec::new();
        for (number, part) in name.split(|byte| *byte == b'/').enumerate() {
            if number > 0 {
                hasher.write(b"/");
            }
            match number > 0 && name.starts_with(WINDOWS_FILES) {
                true => write_folded(&mut hasher, part),
                false => hasher.write(part),
            }
            hashes.push(hasher.finish());
        }
        hashes
    }
}

fn write_folded(hasher: &mut DefaultHasher, part: &[u8]) {
    for chunk in part.chunks(64) {
        let mut folded = [0; 64];
        let folded = &mut folded[..chunk.len()];
        folded.copy_from_slice(chunk);
        folded.make_ascii_lowercase();
        hasher.write(folded);
    }
}

// The key is a secret.
impl fmt::Debug for NameHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameHasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_directories_do_not_depend_on_the_path_below() {
        let hasher = NameHasher::random();
        let long = format!("Files/{}/B", "Aa".repeat(100));
        for path in
            ["", "a", "usr/local/bin/python3.12", "a/b/c/d/e/f/g/h/i/j/k/l", "Files", "Files/A/b", &long]
        {
            let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
            let each: Vec<u64> = ends.map(|end| hasher.hash(&path.as_bytes()[..end])).collect();
            assert_eq!(hasher.hash_all(path.as_bytes()), each, "{path}");
        }
    }

    #[test]
    fn case_counts_except_in_the_files_of_windows_layers() {
        let hasher = NameHasher::random();
        let is_same = |one: &str, other: &str| hasher.hash(one.as_bytes()) == hasher.hash(other.as_bytes());
        assert!(is_same("Files/Windows/System32/CMD.exe", "Files/windows/system32/cmd.exe"));
        assert!(!is_same("Files", "files") && !is_same("files/A", "files/a") && !is_same("usr/A", "usr/a"));
        assert!(!is_same("Files/a/b", "Files/a/c"));
    }
}
