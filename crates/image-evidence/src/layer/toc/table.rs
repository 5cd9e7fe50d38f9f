//! The parser of a stored table of contents. It reads entry by entry, so that the paths of a hundred thousand files are
//! never in memory at once.

use super::parts::BlobPart;
use super::{Compression, FILE_MAX, FileLocation, Toc};
use crate::file::FileFacts;
use crate::layer::decoder::zstd_decoder;
use crate::layer::paths::{PATH_MAX, Whiteout, normalize};
use crate::layer::{LayerBuilder, LayerFacts, NameHasher};
use flate2::read::GzDecoder;
use image_model::digest::{Digest, Verified};
use image_model::manifest::Descriptor;
use image_store::archive::tar::header::HeaderFields;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::io::{BufReader, Read};

/// Bytes of the unpacked table. The paths and digests of 100,000 files take about 30 MB.
const UNPACKED_MAX: u64 = 32 << 20;

/// A stored table. `end` is its offset in the blob: all files are before it.
pub enum StoredTable {
    /// A tar with one entry, whose content has this digest.
    Gzip { packed: Vec<u8>, digest: Digest, end: u64 },
    /// JSON whose stored bytes were verified before.
    Zstd { packed: Vec<u8>, unpacked: u64, end: u64 },
}

impl StoredTable {
    /// The facts from the table. `None`: it is damaged, or has entries that no layer can have.
    pub fn facts(&self, layer: &Descriptor, hasher: &NameHasher) -> Option<LayerFacts> {
        let (packer, end) = match self {
            Self::Gzip { end, .. } => (Compression::Gzip, *end),
            Self::Zstd { end, .. } => (Compression::Zstd, *end),
        };
        let mut begins = vec![end];
        self.each(&mut |entry| {
            if entry.kind.has_content() {
                begins.push(entry.offset);
            }
            Some(())
        })?;
        begins.sort_unstable();
        begins.dedup();
        let mut table = Table {
            builder: LayerBuilder::new(hasher),
            files: HashMap::new(),
            parts: Vec::new(),
            begins,
            end,
            last: None,
        };
        self.each(&mut |entry| table.add(&entry))?;
        let mut facts = table.builder.finish();
        facts.is_partial = true;
        table.parts.shrink_to_fit();
        let toc = Toc { packer, files: table.files, parts: table.parts, layer: layer.clone() };
        facts.toc = Some(Box::new(toc));
        Some(facts)
    }

    fn each(&self, take: &mut dyn FnMut(TocEntry) -> Option<()>) -> Option<()> {
        match self {
            Self::Gzip { packed, digest, .. } => {
                let mut tar = GzDecoder::new(packed.as_slice());
                let mut header = [0; 512];
                tar.read_exact(&mut header).ok()?;
                let size = HeaderFields::parse(&header).ok()?.size;
                let json = tar.take(size);
                (size <= UNPACKED_MAX).then(|| parse(Verified::new(json, digest, size, "table"), take))?
            }
            Self::Zstd { packed, unpacked, .. } => {
                let mut json = zstd_decoder(packed.as_slice()).ok()?.take(*unpacked);
                let parsed = (*unpacked <= UNPACKED_MAX).then(|| parse(&mut json, take))?;
                parsed.filter(|()| json.limit() == 0)
            }
        }
    }
}

/// Passes each entry to `take`. `None`: it is not a table, or `take` rejected an entry.
fn parse(json: impl Read, take: &mut dyn FnMut(TocEntry) -> Option<()>) -> Option<()> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(json));
    let version = json.deserialize_map(Whole(take)).ok()?;
    json.end().ok()?;
    (version == 1).then_some(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry {
    #[serde(rename = "type")]
    kind: EntryType,
    #[serde(default)]
    name: String,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    mode: i64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    end_offset: u64,
    #[serde(default)]
    inner_offset: u64,
    #[serde(default)]
    chunk_size: u64,
    #[serde(default)]
    chunk_offset: u64,
    #[serde(default)]
    chunk_type: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum EntryType {
    Dir,
    Reg,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
    Chunk,
}

impl EntryType {
    fn has_content(self) -> bool {
        matches!(self, Self::Reg | Self::Chunk)
    }
}

/// Visits the top-level object and returns its version.
struct Whole<'a>(&'a mut dyn FnMut(TocEntry) -> Option<()>);

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let (mut version, mut entries) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            let is_new = match key.as_str() {
                "version" => version.replace(map.next_value()?).is_none(),
                "entries" => entries.replace(map.next_value_seed(Entries(&mut *self.0))?).is_none(),
                _ => map.next_value::<serde::de::IgnoredAny>().map(|_| true)?,
            };
            if !is_new {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        version.filter(|_| entries.is_some()).ok_or_else(|| A::Error::missing_field("version or entries"))
    }
}

struct Entries<'a>(&'a mut dyn FnMut(TocEntry) -> Option<()>);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(entry) = seq.next_element()? {
            (self.0)(entry).ok_or_else(|| A::Error::custom("invalid entry"))?;
        }
        Ok(())
    }
}

/// The table under construction.
struct Table {
    builder: LayerBuilder,
    files: HashMap<u64, FileLocation>,
    parts: Vec<BlobPart>,
    /// The offsets of all parts: a part without an end offset ends where the next one begins.
    begins: Vec<u64>,
    end: u64,
    /// The file that chunks may follow.
    last: Option<Last>,
}

struct Last {
    name: u64,
    known: u64,
    /// Unpacked bytes before the content, in all parts together.
    before: u64,
}

impl Table {
    /// `None`: no layer can have this entry.
    fn add(&mut self, entry: &TocEntry) -> Option<()> {
        if entry.kind == EntryType::Chunk {
            return self.chunk(entry);
        }
        self.last = None;
        if entry.name.len().max(entry.link_name.len()) > PATH_MAX {
            return None;
        }
        let name = normalize(entry.name.as_bytes());
        if let Some(whiteout) = Whiteout::parse(&name) {
            return self.builder.whiteout(&whiteout).ok();
        }
        let builder = &mut self.builder;
        match entry.kind {
            EntryType::Dir if name.is_empty() => Ok(()),
            _ if name.is_empty() => return None,
            EntryType::Dir => builder.directory(&name),
            EntryType::Symlink => builder.symlink(&name, entry.link_name.as_bytes()),
            EntryType::Hardlink => builder.hard_link(&name, &normalize(entry.link_name.as_bytes())),
            EntryType::Char | EntryType::Block | EntryType::Fifo => builder.other(&name),
            EntryType::Reg | EntryType::Chunk => {
                let facts = if entry.size == 0 { None } else { Some(FileFacts::Unread) };
                let added = builder.file(&name, facts, entry.mode & 0o111 != 0);
                self.file(self.builder.layer.hasher.hash(&name), entry);
                added
            }
        }
        .ok()
    }

    /// Records the location of a file, unless it cannot be read alone.
    fn file(&mut self, name: u64, entry: &TocEntry) {
        self.files.remove(&name);
        let first = self.parts.len() as u32;
        self.last = Some(Last { name, known: 0, before: 0 });
        if let Some(digest) = entry.digest.parse::<Digest>().ok().filter(|_| entry.size <= FILE_MAX) {
            self.files.insert(name, FileLocation { parts: first..first, size: entry.size, digest });
            let size = if entry.chunk_size > 0 { entry.chunk_size } else { entry.size };
            self.part(entry, size);
        }
    }

    /// Adds a further chunk to the last file. Chunks must be in order.
    fn chunk(&mut self, entry: &TocEntry) -> Option<()> {
        let last = self.last.as_ref()?;
        let Some(place) = self.files.get(&last.name) else { return Some(()) };
        let size = if entry.chunk_size > 0 { entry.chunk_size } else { place.size - last.known };
        if entry.chunk_offset == last.known {
            self.part(entry, size);
        } else {
            self.files.remove(&last.name);
        }
        Some(())
    }

    /// Adds a part to the last file. If it is invalid, the location of the file is removed.
    fn part(&mut self, entry: &TocEntry, size: u64) {
        let Some(last) = &mut self.last else { return };
        let Some(place) = self.files.get_mut(&last.name) else { return };
        let next = self.begins.get(self.begins.partition_point(|begin| *begin <= entry.offset)).copied();
        let stored_end = if entry.end_offset > 0 { entry.end_offset } else { next.unwrap_or(0) };
        let part = BlobPart { stored: entry.offset..stored_end, before: entry.inner_offset, size };
        last.before = last.before.saturating_add(part.before);
        let is_sound = part.stored.start < part.stored.end
            && part.stored.end <= self.end
            && entry.chunk_type.is_empty()
            && size <= place.size - last.known
            && last.before <= FILE_MAX;
        last.known += if is_sound { size } else { 0 };
        // Chunks may be adjacent in the same compressed part.
        let earlier = self.parts.last_mut().filter(|_| !place.parts.is_empty());
        match earlier {
            _ if !is_sound => {}
            Some(earlier)
                if earlier.stored == part.stored && earlier.before + earlier.size == part.before =>
            {
                last.before -= part.before;
                earlier.size += size;
                return;
            }
            // Otherwise a small table could cause the same bytes to be read repeatedly.
            Some(earlier) if part.stored.start < earlier.stored.end => {}
            _ => {
                self.parts.push(part);
                place.parts.end = self.parts.len() as u32;
                return;
            }
        }
        let place = self.files.remove(&last.name);
        self.parts.truncate(place.map_or(self.parts.len(), |place| place.parts.start as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether the table is used.
    fn reads(json: &str) -> bool {
        let packed = zstd::encode_all(json.as_bytes(), 1).unwrap();
        let stored = StoredTable::Zstd { packed, unpacked: json.len() as u64, end: 100 };
        stored.facts(&Descriptor::new("", Digest::of(b""), 200), &NameHasher::random()).is_some()
    }

    #[test]
    fn a_table_is_used_only_if_a_layer_can_have_all_its_files() {
        let entries = |entries: &str| format!(r#"{{"version":1,"entries":[{entries}]}}"#);
        let file = |name: &str| format!(r#"{{"type":"reg","name":"{name}","size":1,"offset":0}}"#);
        let chunk = r#"{"type":"chunk","name":"a","offset":5,"chunkOffset":1}"#;
        assert!(reads(&entries("")));
        assert!(reads(&entries(&format!(r#"{{"type":"dir","name":"./"}},{},{chunk}"#, file("a")))));
        assert!(reads(r#"{"entries":[],"more":{"x":[1]},"version":1}"#));
        assert!(reads(&entries(&file(&"n".repeat(4096)))));
        assert!(!reads(&entries(&file(&"n/".repeat(4000)))), "a name that no path is as long as");
        assert!(!reads(&entries(&file("./"))), "a file that is the root");
        assert!(!reads(&entries(chunk)), "a chunk of nothing");
        assert!(!reads(&entries(&format!(r#"{},{{"type":"fifo","name":"p"}},{chunk}"#, file("a")))));
        assert!(!reads(&entries(r#"{"type":"door","name":"a"}"#)));
        assert!(!reads(&entries(r#"{"name":"a"}"#)));
        assert!(!reads(r#"{"version":2,"entries":[]}"#));
        assert!(!reads(r#"{"version":1}"#));
        assert!(!reads(r#"{"version":1,"entries":[],"entries":[]}"#));
        assert!(!reads(r#"{"version":1,"entries":[]} {}"#));
        assert!(!reads(r#"{"version":1,"entries":["#));
    }

    #[test]
    fn a_wrong_length_of_the_table_is_an_error() {
        let json = r#"{"version":1,"entries":[]}"#;
        let packed = zstd::encode_all(json.as_bytes(), 1).unwrap();
        for (unpacked, is_right) in [(26, true), (25, false), (27, false), (UNPACKED_MAX + 1, false)] {
            let stored = StoredTable::Zstd { packed: packed.clone(), unpacked, end: 1 };
            assert_eq!(stored.each(&mut |_| Some(())).is_some(), is_right, "{unpacked}");
        }
    }
}
