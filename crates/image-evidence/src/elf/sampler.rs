//! What is kept of an ELF file while it streams by: a fixed number of bytes, whatever the file says.

use super::{ElfHeader, INTERPRETER_MAX, PT_DYNAMIC, PT_INTERP, PT_LOAD, golang};

/// The head: header, program headers, interpreter, notes, and of most programs the names of libraries.
pub const HEAD: usize = 64 << 10;
/// Of the head, what is looked at in a file that is neither an ELF nor a script.
const FIRST: usize = 4 << 10;
const DYNAMIC: usize = 8 << 10;
/// What stands behind the last loaded segment begins with the attributes; symbols and debug data may follow.
const TAIL: usize = 256 << 10;
const GO: usize = 512 << 10;

/// Kept bytes of one file. Used for one file after another, so that nothing is allocated anew.
#[derive(Default)]
pub struct Sampler {
    head: Vec<u8>,
    seen: u64,
    plan: Option<Plan>,
    dynamic: Vec<u8>,
    interpreter: Vec<u8>,
    tail: Vec<u8>,
    go: golang::BuildInfoScanner,
}

/// Where in the file the parts lie.
#[derive(Clone, Copy)]
struct Plan {
    dynamic: (u64, u64),
    /// Mostly in the head; Debian's mips64el has it behind the code.
    interpreter: (u64, u64),
    tail: (u64, u64),
    /// The segment that Go puts its build settings into.
    writable: (u64, u64),
}

/// What was kept of a file.
#[derive(Clone, Copy, Default)]
pub struct Sample<'a> {
    pub head: &'a [u8],
    pub dynamic: &'a [u8],
    /// The path of the loader, with its NUL.
    pub interpreter: &'a [u8],
    /// From the end of the last loaded segment on.
    pub tail: &'a [u8],
    /// Go's build settings from their magic on.
    pub go: &'a [u8],
}

impl Sample<'_> {
    pub fn in_head(&self, offset: u64, size: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        self.head.get(start..end)
    }
}

impl Sampler {
    pub fn restart(&mut self) {
        self.head.clear();
        self.dynamic.clear();
        self.interpreter.clear();
        self.tail.clear();
        self.go.restart();
        self.seen = 0;
        self.plan = None;
    }

    /// The next bytes of the file, in order. How they are cut makes no difference.
    pub fn push(&mut self, chunk: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(chunk.len());
        let (head, rest) = chunk.split_at(room);
        self.head.extend_from_slice(head);
        let at = self.seen.saturating_add(room as u64);
        self.seen = self.seen.saturating_add(chunk.len() as u64);
        if self.head.len() < HEAD {
            return;
        }
        let plan = self.plan.unwrap_or_else(|| self.begin());
        if !rest.is_empty() {
            self.keep(plan, at, rest);
        }
    }

    /// The head is there: what else is wanted is known from it.
    fn begin(&mut self) -> Plan {
        let plan = plan(&self.head);
        self.plan = Some(plan);
        let head = std::mem::take(&mut self.head);
        self.keep(plan, 0, &head);
        self.head = head;
        plan
    }

    fn keep(&mut self, plan: Plan, at: u64, chunk: &[u8]) {
        append(&mut self.dynamic, DYNAMIC, part(plan.dynamic, at, chunk).1);
        append(&mut self.interpreter, INTERPRETER_MAX, part(plan.interpreter, at, chunk).1);
        append(&mut self.tail, TAIL, part(plan.tail, at, chunk).1);
        let (start, bytes) = part(plan.writable, at, chunk);
        self.go.push(start, bytes, GO);
    }

    /// Whether more of the file is wanted: nothing is, behind the head of what is no ELF.
    pub fn wants_more(&self) -> bool {
        self.head.len() < self.head_max() || ElfHeader::parse(&self.head).is_some()
    }

    fn head_max(&self) -> usize {
        let is_wanted = self.head.starts_with(b"#!") || ElfHeader::parse(&self.head).is_some();
        if is_wanted { HEAD } else { FIRST }
    }

    /// The end of the file.
    pub fn finish(&mut self) -> Sample<'_> {
        if self.plan.is_none() {
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

/// What of `chunk`, which stands at `at`, lies within `wanted`; and where that stands.
fn part((start, end): (u64, u64), at: u64, chunk: &[u8]) -> (u64, &[u8]) {
    let chunk_end = at.saturating_add(chunk.len() as u64);
    let (from, to) = (start.max(at), end.min(chunk_end));
    if from >= to {
        return (from, &[]);
    }
    // Both are within the chunk.
    (from, &chunk[(from - at) as usize..(to - at) as usize])
}

fn plan(head: &[u8]) -> Plan {
    let nothing = (0, 0);
    let mut plan = Plan { dynamic: nothing, interpreter: nothing, tail: nothing, writable: nothing };
    let Some(header) = ElfHeader::parse(head) else { return plan };
    let mut loaded_end = 0;
    for segment in header.segments(head) {
        let end = segment.offset.saturating_add(segment.size);
        match segment.kind {
            PT_LOAD => {
                loaded_end = loaded_end.max(end);
                // PF_W without PF_X. Go's own linker puts the settings first in it, an external one somewhere.
                if segment.flags & 3 == 2 && plan.writable == nothing {
                    plan.writable = (segment.offset, end);
                }
            }
            PT_DYNAMIC => plan.dynamic = (segment.offset, end),
            PT_INTERP if plan.interpreter == nothing => plan.interpreter = (segment.offset, end),
            _ => {}
        }
    }
    if loaded_end > 0 {
        plan.tail = (loaded_end, u64::MAX);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_of_a_chunk_is_found_at_its_edges() {
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
