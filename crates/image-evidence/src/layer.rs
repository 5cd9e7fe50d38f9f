//! The contents of one layer, read once from its first byte to its last: paths, links and the facts from programs.
//!
//! Nothing is extracted. Paths are kept as hashes, so that a layer of a million files takes 16 MB; links and the paths of
//! programs are kept in full, within bounds. The stored bytes are verified against the layer's digest, the unpacked ones
//! against its diff ID in the config.

use super::file::FileFacts;
use decoder::LayerDecoder;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, media_type};
use image_model::platform::Platform;
use image_store::store::ImageSource;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;

pub mod decoder;
pub mod encoding;
mod names;
mod paths;
mod sparse;
mod tar_header;
pub mod toc;
mod walk;
mod zip;

pub use names::NameHasher;
pub use paths::{Whiteout, normalize, parent};

/// The facts from a layer, or the reason why it was not read.
#[derive(Debug)]
pub enum LayerOutcome {
    /// The layer was read to its end.
    Read(Box<LayerFacts>),
    /// It is stored elsewhere, encrypted, compressed in an unsupported way, or has entries that engines do not unpack.
    Skipped(String),
}

/// The entries of a layer.
#[derive(Debug)]
pub struct LayerFacts {
    pub(crate) hasher: NameHasher,
    /// Sorted by the hash of the path. A path has at most one entry, one whiteout and one opaque mark.
    records: Vec<Record>,
    text: Vec<u8>,
    links: Vec<Range<u32>>,
    facts: Vec<FileFacts>,
    programs: Vec<Program>,
    /// The number of programs whose paths are not kept, because there are too many.
    pub unlisted: u64,
    /// Bytes of the stored layer that were read.
    pub stored: u64,
    /// Bytes of the unpacked layer.
    pub unpacked: u64,
    /// Whether it comes from the cache; nothing was read in this run.
    pub is_cached: bool,
    /// Whether only its table of contents and some of its files were read.
    pub is_partial: bool,
    /// Archives (jar, war, ear, wheel) with native programs or libraries, if the layer was read deep.
    pub(crate) archives: Vec<ArchiveNatives>,
    /// The number of archives that were not read to their end.
    pub(crate) archives_unread: u64,
    /// Whether archives in it were read.
    pub is_deep: bool,
    /// The table of contents, from which further files can be read.
    pub toc: Option<Box<toc::Toc>>,
}

/// An archive and the platforms of the programs and libraries in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArchiveNatives {
    /// The normalized path.
    pub path: Vec<u8>,
    pub platforms: Vec<Platform>,
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

/// One entry of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerEntry<'a> {
    /// A directory with an entry of its own.
    Directory,
    /// A directory without an entry of its own: the layer has something in it. A lower layer may have a link with the
    /// same path.
    Implied,
    /// A regular file.
    File {
        /// Facts about the file; `None` for data.
        facts: Option<&'a FileFacts>,
        /// Whether any execute bit is set.
        executable: bool,
    },
    /// A symbolic link with its target as written.
    Symlink(&'a [u8]),
    /// A hard link with the normalized path of its target.
    HardLink(&'a [u8]),
    /// A device or a FIFO.
    Other,
}

// A record has its kind in the lowest bits, then one bit for executable files, then an index.
const KIND_BITS: u32 = 4;
const DIRECTORY: u32 = 0;
const IMPLIED: u32 = 1;
const FILE: u32 = 2;
const SYMLINK: u32 = 3;
const HARD_LINK: u32 = 4;
const OTHER: u32 = 5;
/// The first mark; the kinds of entries are lower.
const WHITEOUT: u32 = 6;
const OPAQUE: u32 = 7;
const EXECUTABLE: u32 = 1 << KIND_BITS;
const INDEX_AT: u32 = KIND_BITS + 1;
const NO_FACTS: u32 = u32::MAX >> INDEX_AT;

/// A layer with more entries is rejected, because it needs too much memory. Large images have a few hundred thousand.
const RECORDS_MAX: usize = 2_500_000;
/// The number of records before duplicates are removed: every entry, and the directories above it if they differ from those
/// of the entry before.
const RECORDED_MAX: usize = 50_000_000;
/// Bytes of the paths of programs and the targets of links.
const TEXT_MAX: usize = 24 << 20;
const PROGRAMS_MAX: usize = 100_000;
/// Bytes of the paths of archives that are kept.
const ARCHIVE_PATHS_MAX: usize = 4 << 20;
/// The number of different facts. Beyond half of it, only the platforms are kept.
const FACTS_MAX: usize = 16_384;

/// Reads a layer to its end. `diff_id` is its digest without compression, from the image config. All layers of an image
/// need the same hasher.
///
/// # Errors
/// `Integrity` if it differs from its digest or diff ID; `BadInput` if it is not a valid layer; otherwise as the store.
pub fn read(
    source: &dyn ImageSource,
    layer: &Descriptor,
    diff_id: Option<&Digest>,
    hasher: &NameHasher,
) -> Result<LayerOutcome, Error> {
    read_as(source, layer, diff_id, hasher, false)
}

/// As [`read()`]. `deep`: the archives in the layer (jar, war, ear, wheel) are read as well.
///
/// # Errors
/// As [`read()`].
pub(crate) fn read_as(
    source: &dyn ImageSource,
    layer: &Descriptor,
    diff_id: Option<&Digest>,
    hasher: &NameHasher,
    deep: bool,
) -> Result<LayerOutcome, Error> {
    if media_type::is_foreign_layer(&layer.media_type) && !source.has_blob(layer)? {
        return Ok(LayerOutcome::Skipped("it is stored outside the registry".into()));
    }
    if layer.media_type.contains("+encrypted") {
        return Ok(LayerOutcome::Skipped("it is encrypted".into()));
    }
    if is_other_format(&layer.media_type) {
        return Ok(LayerOutcome::Skipped(format!("it is no tar file, but \"{}\"", layer.media_type)));
    }
    let doing = || format!("read layer {} of \"{}\"", layer.digest, source.display_name());
    // The store verifies this digest of a layer that is not compressed.
    let diff_id = diff_id.filter(|id| **id != layer.digest);
    match read_stream_as(source.open_blob(layer)?, diff_id, hasher, deep, &doing) {
        Ok(LayerOutcome::Read(mut facts)) => {
            facts.stored = layer.size;
            Ok(LayerOutcome::Read(facts))
        }
        // Damaged bytes look like a bad archive. If the digest differs, that is the error to report.
        Err(error) if error.kind == Exit::BadInput => {
            let mut blob = source.open_blob(layer)?;
            io::copy(&mut blob, &mut io::sink()).map_err(|e| decoder::failed(doing(), e))?;
            Err(error)
        }
        other => other,
    }
}

/// Returns whether a vendor's media type is that of another format than tar: nydus, EROFS, squashfs, WebAssembly.
fn is_other_format(media_type: &str) -> bool {
    let is_vendors = media_type.starts_with("application/vnd.") && !media_type.contains("tar");
    is_vendors || media_type == "application/wasm"
}

/// Reads a layer from its stored bytes. `doing` describes the operation in errors.
///
/// # Errors
/// As [`read()`], but the digest of the stored bytes is not verified.
pub fn read_stream(
    blob: impl Read,
    diff_id: Option<&Digest>,
    hasher: &NameHasher,
    doing: &dyn Fn() -> String,
) -> Result<LayerOutcome, Error> {
    read_stream_as(blob, diff_id, hasher, false, doing)
}

/// As [`read_stream`]. `deep`: the archives in the layer are read as well.
///
/// # Errors
/// As [`read_stream`].
pub fn read_stream_as(
    blob: impl Read,
    diff_id: Option<&Digest>,
    hasher: &NameHasher,
    deep: bool,
    doing: &dyn Fn() -> String,
) -> Result<LayerOutcome, Error> {
    let failed = |error| decoder::failed(doing(), error);
    let mut unpacked = match LayerDecoder::new(blob, diff_id).map_err(failed)? {
        Ok(unpacked) => unpacked,
        Err(kind) => {
            return Ok(LayerOutcome::Skipped(format!(
                "it is compressed with {kind}, which is not supported"
            )));
        }
    };
    let mut facts = match walk::walk(&mut unpacked, hasher, deep) {
        // Engines accept more.
        Err(walk::WalkError::Io(error)) if decoder::NotDecoded::is_in(&error) => {
            return Ok(LayerOutcome::Skipped(error.to_string()));
        }
        Err(error @ walk::WalkError::NotUnpacked { .. }) => {
            // To its end, because damaged bytes are an error of another kind.
            io::copy(&mut unpacked, &mut io::sink()).and_then(|_| unpacked.finish()).map_err(failed)?;
            return Ok(LayerOutcome::Skipped(error.to_string()));
        }
        walked => walked.map_err(|error| error.at(doing()))?,
    };
    unpacked.finish().map_err(failed)?;
    facts.unpacked = unpacked.count();
    Ok(LayerOutcome::Read(Box::new(facts)))
}

impl LayerFacts {
    /// A layer without entries.
    pub fn empty(hasher: &NameHasher) -> Self {
        Self {
            hasher: hasher.clone(),
            records: Vec::new(),
            text: Vec::new(),
            links: Vec::new(),
            facts: Vec::new(),
            programs: Vec::new(),
            unlisted: 0,
            stored: 0,
            unpacked: 0,
            is_cached: false,
            is_partial: false,
            archives: Vec::new(),
            archives_unread: 0,
            is_deep: false,
            toc: None,
        }
    }

    /// The entry with this normalized path.
    pub fn entry(&self, path: &[u8]) -> Option<LayerEntry<'_>> {
        self.entry_of(self.hasher.hash(path))
    }

    /// The entry whose path has this hash.
    pub(crate) fn entry_of(&self, name: u64) -> Option<LayerEntry<'_>> {
        self.of(name).iter().find(|record| record.kind() < WHITEOUT).map(|record| self.decode(*record))
    }

    /// Returns whether the layer removes the path with this hash from lower layers.
    pub(crate) fn is_whiteout(&self, name: u64) -> bool {
        self.of(name).iter().any(|record| record.kind() == WHITEOUT)
    }

    /// Returns whether the layer removes everything that lower layers have in the directory with this hash.
    pub(crate) fn is_opaque(&self, name: u64) -> bool {
        self.of(name).iter().any(|record| record.kind() == OPAQUE)
    }

    /// Returns whether the layer hides what lower layers have in the directory with this hash.
    pub(crate) fn hides(&self, directory: u64) -> bool {
        self.of(directory).iter().any(|record| !matches!(record.kind(), DIRECTORY | IMPLIED))
    }

    /// Paths and facts of the files that were built for a platform.
    pub fn programs(&self) -> impl Iterator<Item = (&[u8], &FileFacts)> {
        self.programs
            .iter()
            .filter_map(|program| Some((self.text(&program.path), self.facts.get(program.facts as usize)?)))
    }

    /// Records the facts from a file of which only the location was known. `false`: there is no such file.
    fn learn(&mut self, path: &[u8], facts: Option<FileFacts>) -> bool {
        let name = self.hasher.hash(path);
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

/// Collects the entries of a layer in their order in the archive.
struct LayerBuilder {
    layer: LayerFacts,
    known: HashMap<FileFacts, u32>,
    /// The directory of the last entry, which the next entry usually shares.
    last_parent: Vec<u8>,
    /// The number of records that were added, duplicates included.
    recorded: usize,
}

/// A layer that needs too much memory.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TooLarge(String);

impl LayerBuilder {
    fn new(hasher: &NameHasher) -> Self {
        Self { layer: LayerFacts::empty(hasher), known: HashMap::new(), last_parent: Vec::new(), recorded: 0 }
    }

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

    fn archive(&mut self, name: &[u8], platforms: Vec<Platform>, is_whole: bool) {
        let kept: usize = self.layer.archives.iter().map(|archive| archive.path.len()).sum();
        let has_room = kept + name.len() <= ARCHIVE_PATHS_MAX;
        self.layer.archives_unread += u64::from(!is_whole || !has_room);
        if has_room && !platforms.is_empty() {
            self.layer.archives.push(ArchiveNatives { path: name.to_vec(), platforms });
        }
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
                FileFacts::Foreign(_)
                | FileFacts::WebAssembly(_)
                | FileFacts::Unread
                | FileFacts::Data(_) => {}
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
            if !parent.is_empty() {
                for directory in self.layer.hasher.hash_all(parent) {
                    self.record(directory, IMPLIED)?;
                }
            }
            self.last_parent.clear();
            self.last_parent.extend_from_slice(parent);
        }
        self.record(self.layer.hasher.hash(name), what)
    }

    /// Adds a record of the path with this hash.
    fn record(&mut self, name: u64, what: u32) -> Result<(), TooLarge> {
        self.recorded += 1;
        if self.recorded > RECORDED_MAX {
            return Err(TooLarge(format!("it names more than {RECORDED_MAX} files and directories")));
        }
        if self.layer.records.len() >= RECORDS_MAX {
            // Directories that are implied repeatedly fill the list, so remove duplicates first.
            self.deduplicate();
            if self.layer.records.len() >= RECORDS_MAX / 2 {
                return Err(TooLarge(format!("it has more than {} entries", RECORDS_MAX / 2)));
            }
        }
        let order = self.layer.records.len() as u32;
        self.layer.records.push(Record { name, what, order });
        Ok(())
    }

    /// Sorts the records and removes duplicates: of entries with the same path the last one counts, and an implied
    /// directory only if there is no other.
    fn deduplicate(&mut self) {
        let records = &mut self.layer.records;
        // Entries come before marks, and implied directories first, so that the last entry is the one that counts.
        let rank = |record: &Record| match record.kind() {
            IMPLIED => 0,
            kind if kind < WHITEOUT => 1,
            kind => kind,
        };
        records.sort_unstable_by_key(|record| (record.name, rank(record), record.order));
        let mut kept = 0;
        for i in 0..records.len() {
            let record = records[i];
            let is_entry = record.kind() < WHITEOUT;
            let replaces = kept > 0 && {
                let last = records[kept - 1];
                last.name == record.name
                    && ((is_entry && last.kind() < WHITEOUT) || last.kind() == record.kind())
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
        self.deduplicate();
        self.layer.records.shrink_to_fit();
        self.layer
    }
}

#[cfg(test)]
pub(crate) mod tests;
