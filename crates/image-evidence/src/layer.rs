//! One layer, read once from its first byte to its last: which names it has, and what its programs are for.
//!
//! Nothing is extracted. Names are kept as hashes, so that a layer of a million files takes 16 MB here; links, and
//! the names of programs, are kept as they are, within bounds. Everything read is held against the layer's digest,
//! and what it unpacks to against the config's diff_id.

use super::file::FileFacts;
use decoder::LayerDecoder;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, media_type};
use image_store::store::ImageSource;
use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;

pub mod decoder;
pub mod encoding;
mod names;
mod paths;
pub mod toc;
mod walk;

pub use names::{NameKey, name_hash, use_key};
pub use paths::{Whiteout, normalize, parent};

/// A layer, or why it was not read.
#[derive(Debug)]
pub enum LayerOutcome {
    Read(Box<LayerFacts>),
    /// It lies elsewhere, or is packed in a way that is not known here.
    Skipped(String),
}

/// What is kept of a layer.
#[derive(Debug, Default)]
pub struct LayerFacts {
    /// Sorted by the hash of the name; marks of whiteouts stand beside the node of the same name.
    records: Vec<Record>,
    text: Vec<u8>,
    links: Vec<Range<u32>>,
    facts: Vec<FileFacts>,
    programs: Vec<Program>,
    /// Programs whose names are not kept, because there are too many.
    pub unlisted: u64,
    /// Bytes of the layer as it is stored and as it unpacks.
    pub stored: u64,
    pub unpacked: u64,
    /// Known from an earlier look: nothing was read this time.
    pub is_cached: bool,
    /// Its table of contents was read, and only some of its files.
    pub is_partial: bool,
    /// Where the others lie.
    pub toc: Option<Box<toc::Toc>>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    name: u64,
    what: u32,
    order: u32,
}

#[derive(Debug)]
struct Program {
    path: Range<u32>,
    facts: u32,
}

/// What a layer has under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerEntry<'a> {
    Directory,
    /// It is there because something lies in it; below may be a link of the same name.
    Implied,
    File {
        facts: Option<&'a FileFacts>,
        executable: bool,
    },
    /// The target as it is written.
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    /// A device, a pipe.
    Other,
}

// A record's kind in its lowest bits, then one bit for executable files, then an index.
const KIND_BITS: u32 = 4;
const DIRECTORY: u32 = 0;
const IMPLIED: u32 = 1;
const FILE: u32 = 2;
const SYMLINK: u32 = 3;
const HARD_LINK: u32 = 4;
const OTHER: u32 = 5;
/// The first mark; nodes are below.
const WHITEOUT: u32 = 6;
const OPAQUE: u32 = 7;
const EXECUTABLE: u32 = 1 << KIND_BITS;
const INDEX_AT: u32 = KIND_BITS + 1;
const NO_FACTS: u32 = u32::MAX >> INDEX_AT;

/// More members than this are refused: they would not fit in memory. Large images have some hundred thousand.
const RECORDS_MAX: usize = 2_500_000;
/// Names of programs and targets of links.
const TEXT_MAX: usize = 24 << 20;
const PROGRAMS_MAX: usize = 100_000;
/// Different facts. Beyond, only the platforms are told apart.
const FACTS_MAX: usize = 16_384;

/// Reads a layer to its end. `diff_id` is what the config says that it unpacks to.
pub fn read(
    source: &dyn ImageSource,
    layer: &Descriptor,
    diff_id: Option<&Digest>,
) -> Result<LayerOutcome, Error> {
    if media_type::is_foreign_layer(&layer.media_type) && !source.has_blob(layer)? {
        return Ok(LayerOutcome::Skipped("it lies outside the registry".into()));
    }
    if layer.media_type.contains("+encrypted") {
        return Ok(LayerOutcome::Skipped("it is encrypted".into()));
    }
    let doing = || format!("read layer {} of \"{}\"", layer.digest, source.display_name());
    // What is stored unpacked is held against this very digest already.
    let diff_id = diff_id.filter(|id| **id != layer.digest);
    match read_stream(source.open_blob(layer)?, diff_id, &doing) {
        Ok(LayerOutcome::Read(mut facts)) => {
            facts.stored = layer.size;
            Ok(LayerOutcome::Read(facts))
        }
        // Damage on the way looks like a bad archive as well. The digest tells which of both it is.
        Err(error) if error.kind == Exit::BadInput => {
            let mut blob = source.open_blob(layer)?;
            io::copy(&mut blob, &mut io::sink()).map_err(|e| decoder::failed(doing(), e))?;
            Err(error)
        }
        other => other,
    }
}

/// Reads a layer's bytes as they are stored. `doing` is for errors.
pub fn read_stream(
    blob: impl Read,
    diff_id: Option<&Digest>,
    doing: &dyn Fn() -> String,
) -> Result<LayerOutcome, Error> {
    let failed = |error| decoder::failed(doing(), error);
    let mut unpacked = match LayerDecoder::new(blob, diff_id).map_err(failed)? {
        Ok(unpacked) => unpacked,
        Err(kind) => {
            return Ok(LayerOutcome::Skipped(format!("it is packed with {kind}, which is not read here")));
        }
    };
    let mut facts = walk::walk(&mut unpacked).map_err(|error| error.at(doing()))?;
    unpacked.finish().map_err(failed)?;
    facts.unpacked = unpacked.count();
    Ok(LayerOutcome::Read(Box::new(facts)))
}

impl LayerFacts {
    /// What the layer has under this name, given its hash.
    pub fn entry(&self, name: u64) -> Option<LayerEntry<'_>> {
        self.of(name).iter().find(|record| record.kind() < WHITEOUT).map(|record| self.decode(*record))
    }

    /// The layer takes away what layers below have under this name.
    pub fn is_whiteout(&self, name: u64) -> bool {
        self.of(name).iter().any(|record| record.kind() == WHITEOUT)
    }

    /// The layer takes away all that layers below have in this directory.
    pub fn is_opaque(&self, name: u64) -> bool {
        self.of(name).iter().any(|record| record.kind() == OPAQUE)
    }

    /// Files that say something about platforms, by name.
    pub fn programs(&self) -> impl Iterator<Item = (&[u8], &FileFacts)> {
        self.programs
            .iter()
            .filter_map(|program| Some((self.text(&program.path), self.facts.get(program.facts as usize)?)))
    }

    /// What a file turned out to be of which only the place was known.
    fn learn(&mut self, path: &[u8], facts: Option<FileFacts>) -> bool {
        let name = name_hash(path);
        let at = self.records.partition_point(|record| record.name < name);
        let index = match facts {
            Some(facts) => {
                let index = self.facts.len() as u32;
                if matches!(facts, FileFacts::Elf(_) | FileFacts::Foreign(_)) {
                    let start = self.text.len() as u32;
                    self.text.extend_from_slice(path);
                    self.programs.push(Program { path: start..self.text.len() as u32, facts: index });
                }
                self.facts.push(facts);
                index
            }
            None => NO_FACTS,
        };
        let same = self.records[at..].iter_mut().take_while(|record| record.name == name);
        let mut is_known = false;
        for record in same.filter(|record| record.kind() == FILE) {
            record.what = record.what & ((1 << INDEX_AT) - 1) | index << INDEX_AT;
            is_known = true;
        }
        is_known
    }

    fn of(&self, name: u64) -> &[Record] {
        let start = self.records.partition_point(|record| record.name < name);
        let length = self.records[start..].iter().take_while(|record| record.name == name).count();
        &self.records[start..start + length]
    }

    fn decode(&self, record: Record) -> LayerEntry<'_> {
        let index = record.what >> INDEX_AT;
        let link = || self.links.get(index as usize).map_or(&[][..], |range| self.text(range));
        match record.kind() {
            DIRECTORY => LayerEntry::Directory,
            IMPLIED => LayerEntry::Implied,
            FILE => LayerEntry::File {
                facts: self.facts.get(index as usize),
                executable: record.what & EXECUTABLE != 0,
            },
            SYMLINK => LayerEntry::Symlink(link()),
            HARD_LINK => LayerEntry::HardLink(link()),
            _ => LayerEntry::Other,
        }
    }

    fn text(&self, range: &Range<u32>) -> &[u8] {
        &self.text[range.start as usize..range.end as usize]
    }
}

impl Record {
    fn kind(self) -> u32 {
        self.what & (EXECUTABLE - 1)
    }
}

/// Collects a layer's members in the order in which they come.
#[derive(Default)]
struct LayerBuilder {
    layer: LayerFacts,
    known: HashMap<FileFacts, u32>,
    /// The directory of the last member: the next one mostly lies in the same.
    last_parent: Vec<u8>,
}

/// A layer that is too large to be kept.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TooLarge(String);

impl LayerBuilder {
    fn directory(&mut self, name: &[u8]) -> Result<(), TooLarge> {
        self.add(name, DIRECTORY)
    }

    fn other(&mut self, name: &[u8]) -> Result<(), TooLarge> {
        self.add(name, OTHER)
    }

    fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), TooLarge> {
        let index = self.link(target)?;
        self.add(name, SYMLINK | index << INDEX_AT)
    }

    fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), TooLarge> {
        let index = self.link(target)?;
        self.add(name, HARD_LINK | index << INDEX_AT)
    }

    fn whiteout(&mut self, whiteout: &Whiteout) -> Result<(), TooLarge> {
        match whiteout {
            Whiteout::Removes(path) => self.add(path, WHITEOUT),
            Whiteout::Empties(directory) => self.add(directory, OPAQUE),
            Whiteout::Ignored | Whiteout::Invalid => Ok(()),
        }
    }

    fn file(&mut self, name: &[u8], facts: Option<FileFacts>, executable: bool) -> Result<(), TooLarge> {
        let says_platform = matches!(facts, Some(FileFacts::Elf(_) | FileFacts::Foreign(_)));
        let index = facts.and_then(|facts| self.intern(facts));
        match index {
            Some(facts) if says_platform => self.program(name, facts),
            None if says_platform => self.layer.unlisted += 1,
            _ => {}
        }
        let bit = if executable { EXECUTABLE } else { 0 };
        self.add(name, FILE | bit | index.unwrap_or(NO_FACTS) << INDEX_AT)
    }

    fn program(&mut self, name: &[u8], facts: u32) {
        let has_room =
            self.layer.programs.len() < PROGRAMS_MAX && self.layer.text.len() + name.len() <= TEXT_MAX / 2;
        match has_room {
            true => {
                let path = self.keep(name);
                self.layer.programs.push(Program { path, facts });
            }
            false => self.layer.unlisted += 1,
        }
    }

    fn intern(&mut self, mut facts: FileFacts) -> Option<u32> {
        if let Some(index) = self.known.get(&facts) {
            return Some(*index);
        }
        if self.layer.facts.len() >= FACTS_MAX / 2 {
            match &mut facts {
                FileFacts::Elf(elf) => {
                    elf.details.clear();
                    elf.needed.clear();
                    elf.interpreter = None;
                }
                FileFacts::Script(script) => script.last_command = None,
                FileFacts::Foreign(_) | FileFacts::Unread => {}
            }
            if let Some(index) = self.known.get(&facts) {
                return Some(*index);
            }
        }
        if self.layer.facts.len() >= FACTS_MAX {
            return None;
        }
        let index = self.layer.facts.len() as u32;
        self.layer.facts.push(facts.clone());
        self.known.insert(facts, index);
        Some(index)
    }

    fn link(&mut self, target: &[u8]) -> Result<u32, TooLarge> {
        if self.layer.text.len() + target.len() > TEXT_MAX {
            return Err(TooLarge(format!("the names of its links and programs exceed {TEXT_MAX} bytes")));
        }
        let range = self.keep(target);
        self.layer.links.push(range);
        Ok(self.layer.links.len() as u32 - 1)
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<u32> {
        // TEXT_MAX is far below u32::MAX.
        let start = self.layer.text.len() as u32;
        self.layer.text.extend_from_slice(bytes);
        start..self.layer.text.len() as u32
    }

    fn add(&mut self, name: &[u8], what: u32) -> Result<(), TooLarge> {
        let parent = parent(name);
        if self.last_parent != parent {
            for (end, byte) in parent.iter().enumerate() {
                if *byte == b'/' {
                    self.record(&parent[..end], IMPLIED)?;
                }
            }
            if !parent.is_empty() {
                self.record(parent, IMPLIED)?;
            }
            self.last_parent.clear();
            self.last_parent.extend_from_slice(parent);
        }
        self.record(name, what)
    }

    fn record(&mut self, name: &[u8], what: u32) -> Result<(), TooLarge> {
        if self.layer.records.len() >= RECORDS_MAX {
            // Directories that are implied again and again fill the list; see what is left without them.
            self.settle();
            if self.layer.records.len() >= RECORDS_MAX / 2 {
                return Err(TooLarge(format!("it has more than {} members", RECORDS_MAX / 2)));
            }
        }
        let order = self.layer.records.len() as u32;
        self.layer.records.push(Record { name: name_hash(name), what, order });
        Ok(())
    }

    /// Sorts, and leaves one node and the marks of each name: the last member counts, an implied directory only
    /// where there is nothing else.
    fn settle(&mut self) {
        let records = &mut self.layer.records;
        // Marks behind nodes; of nodes the implied first, so that the last of them is the one that counts.
        let rank = |record: &Record| match record.kind() {
            IMPLIED => 0,
            kind if kind < WHITEOUT => 1,
            kind => kind,
        };
        records.sort_unstable_by_key(|record| (record.name, rank(record), record.order));
        let mut kept = 0;
        for i in 0..records.len() {
            let record = records[i];
            let is_node = record.kind() < WHITEOUT;
            let replaces = kept > 0 && {
                let last = records[kept - 1];
                last.name == record.name
                    && ((is_node && last.kind() < WHITEOUT) || last.kind() == record.kind())
            };
            if !replaces {
                kept += 1;
            }
            records[kept - 1] = Record { order: 0, ..record };
        }
        records.truncate(kept);
        for (i, record) in records.iter_mut().enumerate() {
            record.order = i as u32;
        }
    }

    fn finish(mut self) -> LayerFacts {
        self.settle();
        self.layer.records.shrink_to_fit();
        self.layer
    }
}

#[cfg(test)]
pub mod tests;
