//! Samples of a streamed file: a bounded number of bytes, whatever the file contains.

use super::{ElfHeader, INTERPRETER_MAX, PT_DYNAMIC, PT_INTERP, PT_LOAD, golang};

/// Bytes of the head: header, program headers, interpreter, notes, and in most programs the names of libraries.
pub const HEAD: usize = 64 << 10;
/// Bytes that are kept of a file that is neither ELF nor a script.
const FIRST: usize = 4 << 10;
const DYNAMIC: usize = 8 << 10;
/// The bytes after the last loaded segment begin with the attributes; symbols and debug data may follow.
const TAIL: usize = 256 << 10;
const GO: usize = 512 << 10;

/// Collects the sample of one file. It is reused for the next file, so that buffers are allocated once.
#[derive(Default)]
pub struct Sampler {
    head: Vec<u8>,
    seen: u64,
    ranges: Option<Ranges>,
    dynamic: Vec<u8>,
    interpreter: Vec<u8>,
    tail: Vec<u8>,
    go: golang::BuildInfoScanner,
}

/// The parts of the file to keep, as start and end offsets.
#[derive(Clone, Copy)]
struct Ranges {
    dynamic: (u64, u64),
    /// Usually in the head; Debian's mips64el has it after the code.
    interpreter: (u64, u64),
    tail: (u64, u64),
    /// The segment that has Go's build settings.
    writable: (u64, u64),
}

/// The sample of a file.
#[derive(Clone, Copy, Default)]
pub struct Sample<'a> {
    /// The first bytes of the file.
    pub head: &'a [u8],
    /// The dynamic section, or its beginning.
    pub dynamic: &'a [u8],
    /// The path of the loader, with its NUL.
    pub interpreter: &'a [u8],
    /// Bytes after the last loaded segment.
    pub tail: &'a [u8],
    /// Go's build settings, beginning with their magic.
    pub go: &'a [u8],
}

impl Sample<'_> {
    /// The bytes at an offset of the file. `None`: they are not within the head.
    pub fn in_head(&self, offset: u64, size: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        self.head.get(start..end)
    }
}

impl Sampler {
    /// Prepares for the next file.
    pub fn restart(&mut self) {
        self.head.clear();
        self.dynamic.clear();
        self.interpreter.clear();
        self.tail.clear();
        self.go.restart();
        self.seen = 0;
        self.ranges = None;
    }

    /// Takes the next bytes of the file, in pieces of any size.
    pub fn push(&mut self, chunk: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(chunk.len());
        let (head, rest) = chunk.split_at(room);
        self.head.extend_from_slice(head);
        let at = self.seen.saturating_add(room as u64);
        self.seen = self.seen.saturating_add(chunk.len() as u64);
        if self.head.len() < HEAD {
            return;
        }
        let ranges = self.ranges.unwrap_or_else(|| self.begin());
        if !rest.is_empty() {
            self.keep(ranges, at, rest);
        }
    }

    /// Decides from the head which other parts to keep.
    fn begin(&mut self) -> Ranges {
        let ranges = ranges(&self.head);
        self.ranges = Some(ranges);
        let head = std::mem::take(&mut self.head);
        self.keep(ranges, 0, &head);
        self.head = head;
        ranges
    }

    fn keep(&mut self, ranges: Ranges, at: u64, chunk: &[u8]) {
        append(&mut self.dynamic, DYNAMIC, part(ranges.dynamic, at, chunk).1);
        append(&mut self.interpreter, INTERPRETER_MAX, part(ranges.interpreter, at, chunk).1);
        append(&mut self.tail, TAIL, part(ranges.tail, at, chunk).1);
        let (start, bytes) = part(ranges.writable, at, chunk);
        self.go.push(start, bytes, GO);
    }

    /// Returns whether more of the file is needed: of a file that is not ELF, only the first bytes are.
    pub fn wants_more(&self) -> bool {
        self.head.len() < self.head_max() || ElfHeader::parse(&self.head).is_some()
    }

    fn head_max(&self) -> usize {
        let is_wanted = self.head.starts_with(b"#!") || ElfHeader::parse(&self.head).is_some();
        if is_wanted { HEAD } else { FIRST }
    }

    /// The sample, at the end of the file.
    pub fn finish(&mut self) -> Sample<'_> {
        if self.ranges.is_none() {
            self.begin();
        }
        Sample {
            head: &self.head[..self.head.len().min(self.head_max())],
            dynamic: &self.dynamic,
            interpreter: &self.interpreter,
            tail: &self.tail,
            go: self.go.found(),
        }
    }
}

fn append(kept: &mut Vec<u8>, most: usize, bytes: &[u8]) {
    let room = most.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}

/// The part of `chunk` that is within a range of the file, and its offset. `chunk` is at offset `at`.
fn part((start, end): (u64, u64), at: u64, chunk: &[u8]) -> (u64, &[u8]) {
    let chunk_end = at.saturating_add(chunk.len() as u64);
    let (from, to) = (start.max(at), end.min(chunk_end));
    if from >= to {
        return (from, &[]);
    }
    // Both are within the chunk.
    (from, &chunk[(from - at) as usize..(to - at) as usize])
}

fn ranges(head: &[u8]) -> Ranges {
    let nothing = (0, 0);
    let mut ranges = Ranges { dynamic: nothing, interpreter: nothing, tail: nothing, writable: nothing };
    let Some(header) = ElfHeader::parse(head) else { return ranges };
    let mut loaded_end = 0;
    for segment in header.segments(head) {
        let end = segment.offset.saturating_add(segment.size);
        match segment.kind {
            PT_LOAD => {
                loaded_end = loaded_end.max(end);
                // PF_W without PF_X. Go's linker writes the settings at its beginning, others anywhere in it.
                if segment.flags & 3 == 2 && ranges.writable == nothing {
                    ranges.writable = (segment.offset, end);
                }
            }
            PT_DYNAMIC => ranges.dynamic = (segment.offset, end),
            PT_INTERP if ranges.interpreter == nothing => ranges.interpreter = (segment.offset, end),
            _ => {}
        }
    }
    if loaded_end > 0 {
        ranges.tail = (loaded_end, u64::MAX);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_chunk_are_found_at_its_boundaries() {
        let check = |wanted, at, found: (u64, &[u8])| assert_eq!(part(wanted, at, b"abcd"), found);
        check((0, 100), 10, (10, b"abcd"));
        check((11, 13), 10, (11, b"bc"));
        check((14, 100), 10, (14, b""));
        check((0, 10), 10, (10, b""));
        check((13, u64::MAX), 10, (13, b"d"));
        check((0, 0), 0, (0, b""));
        check((u64::MAX, u64::MAX), u64::MAX - 1, (u64::MAX, b""));
    }
}
