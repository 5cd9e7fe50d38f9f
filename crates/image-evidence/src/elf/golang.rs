//! Go's build settings, the only place in a Go program that has GOARM, GOAMD64 and similar settings.
//!
//! Source: debug/buildinfo of Go. The magic is at a multiple of 16 in the first writable segment. Bit 2 of byte 15 is set
//! if version and settings follow at byte 32, each after its length. Programs of Go before 1.18 have pointers there and
//! are not read.

use super::uleb128;
use crate::cpu::{MarkReader, levels};

const MAGIC: &[u8] = b"\xff Go buildinf:";
const INLINE: u8 = 2;
const STRINGS_AT: usize = 32;
const SETTINGS: [&str; 8] =
    ["GOARM", "GOARM64", "GO386", "GOAMD64", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64"];

/// Searches a streamed segment for the magic, and keeps what follows it.
#[derive(Default)]
pub struct BuildInfoScanner {
    found: Vec<u8>,
    /// The last bytes, fewer than 16, in which the magic may begin.
    carry: Vec<u8>,
}

impl BuildInfoScanner {
    /// Prepares for the next file.
    pub fn restart(&mut self) {
        self.found.clear();
        self.carry.clear();
    }

    /// Takes the next bytes of the segment, which are at offset `at` of the file. Keeps at most `most` bytes.
    pub fn push(&mut self, at: u64, bytes: &[u8], most: usize) {
        if !self.found.is_empty() {
            let room = most.saturating_sub(self.found.len()).min(bytes.len());
            self.found.extend_from_slice(&bytes[..room]);
            return;
        }
        let start = at.saturating_sub(self.carry.len() as u64);
        self.carry.extend_from_slice(bytes);
        // Offsets and addresses are congruent modulo the page size, so the offset is aligned as the address is.
        let skew = (16 - (start % 16) as usize) % 16;
        let mut place = skew;
        while let Some(block) = self.carry.get(place..place.saturating_add(16)) {
            if block.starts_with(MAGIC) {
                self.found.extend_from_slice(&self.carry[place..]);
                self.found.truncate(most);
                self.carry.clear();
                return;
            }
            place += 16;
        }
        let done = place.min(self.carry.len());
        self.carry.drain(..done);
    }

    /// The magic and what follows it; empty if it was not found.
    pub fn found(&self) -> &[u8] {
        &self.found
    }
}

/// Adds the settings and the CPU level that they require.
pub fn read(info: &[u8], architecture: &str, marks: &mut MarkReader, details: &mut Vec<String>) {
    let Some(settings) = settings(info) else { return };
    for line in settings.split(|b| *b == b'\n') {
        let Some(setting) = line.strip_prefix(b"build\t").and_then(|s| std::str::from_utf8(s).ok()) else {
            continue;
        };
        let Some((key, value)) = setting.split_once('=') else { continue };
        if !SETTINGS.contains(&key) || value.len() > 40 {
            continue;
        }
        if let Some(level) = level(architecture, key, value) {
            marks.add(&level, setting, true);
        }
        details.push(setting.to_string());
    }
}

/// The CPU level that a setting requires.
fn level(architecture: &str, key: &str, value: &str) -> Option<String> {
    let (base, options) = value.split_once(',').unwrap_or((value, ""));
    let name = match (architecture, key) {
        ("arm", "GOARM") => format!("v{base}"),
        // The atomic instructions that `lse` adds to v8.0 are those of v8.1.
        ("arm64", "GOARM64") if base == "v8.0" && options.split(',').any(|option| option == "lse") => {
            "v8.1".into()
        }
        ("arm64", "GOARM64")
        | ("amd64", "GOAMD64")
        | ("ppc64" | "ppc64le", "GOPPC64")
        | ("riscv64", "GORISCV64") => base.into(),
        _ => return None,
    };
    levels(architecture).contains(&name.as_str()).then_some(name)
}

/// The text of the settings, as far as it was kept.
fn settings(info: &[u8]) -> Option<&[u8]> {
    if !info.starts_with(MAGIC) || info.get(15)? & INLINE == 0 {
        return None;
    }
    let mut rest = info.get(STRINGS_AT..)?;
    let version = usize::try_from(uleb128(&mut rest)?).ok()?;
    rest = rest.get(version..)?;
    let length = usize::try_from(uleb128(&mut rest)?).unwrap_or(usize::MAX);
    Some(&rest[..length.min(rest.len())])
}
