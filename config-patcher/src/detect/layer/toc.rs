//! A layer's own table of contents: names without reading the layer, and single files out of the middle of it.
//!
//! eStargz has it as a tar member in a gzip member of its own, zstd:chunked as a skippable frame; both are JSON of the
//! same words. What is read of it is held against the digest that the manifest's descriptor says, and each file against
//! the digest that the table says. Whatever does not fit: then the layer is read whole.
//!
//! Sources: stargz-snapshotter, docs/estargz.md; containers/storage, pkg/chunked/internal.

use super::walk::{plain, whiteout};
use super::{Builder, LayerFacts, Node};
use crate::detect::elf::sampler::Sampler;
use crate::detect::file::{self, Facts};
use flate2::read::GzDecoder;
use image_store::digest::{Digest, Verified};
use image_store::error::StoreError;
use image_store::manifest::{Descriptor, media_type};
use image_store::store::ImageSource;
use image_store::tar_file::header::Fields;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;

/// Smaller layers are read whole: one request in place of several.
const WORTH_FROM: u64 = 1 << 20;
/// A table as it is stored, and as it unpacks. The names of 100,000 files take some 30 MB.
const STORED_MAX: u64 = 16 << 20;
const UNPACKED_MAX: u64 = 32 << 20;
/// A larger file is no quicker to get than its layer.
const FILE_MAX: u64 = 512 << 20;

const ESTARGZ: &str = "containerd.io/snapshot/stargz/toc.digest";
const ZSTD_CHUNKED: [&str; 2] =
    ["io.github.containers.zstd-chunked.manifest-", "io.containers.zstd-chunked.manifest-"];
/// An empty gzip member whose extra field ends so; in front of it stands the offset in 16 hexadecimal digits.
const FOOTER: u64 = 51;
const FOOTER_END: &[u8] = b"STARGZ";

/// Where the files of a layer lie.
#[derive(Debug)]
pub struct Toc {
    packer: Packer,
    /// By the hash of the name.
    files: HashMap<u64, Place>,
    layer: Descriptor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packer {
    Gzip,
    Zstd,
}

/// One file: parts of the blob in their order, each packed for itself.
#[derive(Clone, Debug)]
struct Place {
    parts: Vec<Part>,
    size: u64,
    digest: Digest,
}

#[derive(Clone, Debug)]
struct Part {
    stored: Range<u64>,
    /// What stands before the content in what it unpacks to.
    before: u64,
    size: u64,
}

#[derive(Deserialize)]
struct Table {
    version: u64,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    link_name: String,
    mode: i64,
    size: u64,
    digest: String,
    offset: u64,
    end_offset: u64,
    inner_offset: u64,
    chunk_size: u64,
    chunk_offset: u64,
    chunk_type: String,
}

/// Reads the table of a layer that has one which can be trusted. `None`: read the layer itself.
pub fn read(source: &dyn ImageSource, layer: &Descriptor) -> Result<Option<LayerFacts>, StoreError> {
    let is_elsewhere =
        media_type::is_foreign_layer(&layer.media_type) || layer.media_type.contains("+encrypted");
    if layer.size < WORTH_FROM || is_elsewhere {
        return Ok(None);
    }
    let found = match layer.annotations.get(ESTARGZ) {
        Some(digest) => estargz(source, layer, digest)?,
        None => zstd_chunked(source, layer)?,
    };
    let Some((packer, json, end, read)) = found else { return Ok(None) };
    let Ok(table) = serde_json::from_slice::<Table>(&json) else { return Ok(None) };
    if table.version != 1 {
        return Ok(None);
    }
    Ok(facts(&table, packer, end, layer).map(|facts| LayerFacts { stored: read, ..facts }))
}

/// A file of which only the place was known. `false`: it cannot be had so; read the layer itself.
pub fn fetch(source: &dyn ImageSource, facts: &mut LayerFacts, path: &[u8]) -> Result<bool, StoreError> {
    let Some(path) = target(facts, path) else { return Ok(false) };
    let Some(toc) = &facts.toc else { return Ok(false) };
    let Some(place) = toc.files.get(&super::name_hash(&path)).cloned() else { return Ok(false) };
    let stored: u64 = place.parts.iter().map(|part| part.stored.end - part.stored.start).sum();
    let (packer, layer) = (toc.packer, toc.layer.clone());
    let Some(found) = classify(source, &layer, packer, &place)? else { return Ok(false) };
    facts.stored += stored;
    Ok(facts.learn(&path, found))
}

/// The file that a name of hard links means.
fn target(facts: &LayerFacts, path: &[u8]) -> Option<Vec<u8>> {
    let mut path = path;
    for _ in 0..40 {
        match facts.node(super::name_hash(path))? {
            Node::HardLink(further) => path = further,
            Node::File { .. } => return Some(path.to_vec()),
            _ => return None,
        }
    }
    None
}

/// What the file is. The outer `None`: its bytes are not what the table says.
fn classify(
    source: &dyn ImageSource,
    layer: &Descriptor,
    packer: Packer,
    place: &Place,
) -> Result<Option<Option<Facts>>, StoreError> {
    let mut content: Box<dyn Read + '_> = Box::new(io::empty());
    for part in &place.parts {
        let Some(stored) = source.open_part(layer, part.stored.clone())? else { return Ok(None) };
        let unpacked: Box<dyn Read + '_> = match packer {
            Packer::Gzip => Box::new(GzDecoder::new(stored)),
            Packer::Zstd => match zstd::stream::read::Decoder::new(stored) {
                Ok(decoder) => Box::new(decoder.single_frame()),
                Err(_) => return Ok(None),
            },
        };
        content = Box::new(content.chain(Skipped { inner: unpacked, before: part.before }.take(part.size)));
    }
    let mut content = Verified::new(content, &place.digest, place.size, "file of a layer");
    let mut sampler = Sampler::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(Some(file::classify(&sampler.finish()))),
            Ok(count) if sampler.wants_more() => sampler.push(&buffer[..count]),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Damaged, or the connection is gone: reading the layer whole tells which.
            Err(_) => return Ok(None),
        }
    }
}

/// Leaves the first bytes out.
struct Skipped<R> {
    inner: R,
    before: u64,
}

impl<R: Read> Read for Skipped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.before > 0 {
            io::copy(&mut (&mut self.inner).take(std::mem::take(&mut self.before)), &mut io::sink())?;
        }
        self.inner.read(buffer)
    }
}

/// How it is packed, the table, where it begins in the blob, and how many bytes were read for it.
type Found = Option<(Packer, Vec<u8>, u64, u64)>;

fn estargz(source: &dyn ImageSource, layer: &Descriptor, digest: &str) -> Result<Found, StoreError> {
    let Ok(digest) = digest.parse::<Digest>() else { return Ok(None) };
    let Some(footer) = part(source, layer, layer.size - FOOTER..layer.size)? else { return Ok(None) };
    let Some(at) = footer_offset(&footer).filter(|at| *at < layer.size - FOOTER) else { return Ok(None) };
    let stored = at..layer.size - FOOTER;
    let length = stored.end - stored.start;
    let Some(packed) = part(source, layer, stored)? else { return Ok(None) };
    let mut tar = Vec::new();
    let unpacked = GzDecoder::new(packed.as_slice()).take(UNPACKED_MAX + 1).read_to_end(&mut tar);
    if unpacked.is_err() || tar.len() as u64 > UNPACKED_MAX {
        return Ok(None);
    }
    let json = tar.first_chunk().and_then(|header| {
        let fields = Fields::parse(header).ok()?;
        let size = usize::try_from(fields.size).ok()?;
        tar.get(512..512_usize.checked_add(size)?).map(<[u8]>::to_vec)
    });
    Ok(json.filter(|json| digest.matches(json)).map(|json| (Packer::Gzip, json, at, length + FOOTER)))
}

fn footer_offset(footer: &[u8]) -> Option<u64> {
    // 10 bytes of header, 2 of the extra field's length, "SG" and a length, 16 digits, the end.
    let extra = footer.get(16..38)?;
    let digits = extra.strip_suffix(FOOTER_END)?;
    (footer.starts_with(&[0x1f, 0x8b, 8, 4]) && &footer[12..14] == b"SG")
        .then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}

fn zstd_chunked(source: &dyn ImageSource, layer: &Descriptor) -> Result<Found, StoreError> {
    let said =
        |name: &str| ZSTD_CHUNKED.iter().find_map(|prefix| layer.annotations.get(&format!("{prefix}{name}")));
    let (Some(digest), Some(position)) = (said("checksum"), said("position")) else { return Ok(None) };
    let Ok(digest) = digest.parse::<Digest>() else { return Ok(None) };
    // offset:stored length:unpacked length:type
    let numbers: Vec<u64> = position.split(':').filter_map(|number| number.parse().ok()).collect();
    let [at, length, unpacked, 1] = numbers[..] else { return Ok(None) };
    let Some(end) = at.checked_add(length).filter(|end| *end <= layer.size) else { return Ok(None) };
    if unpacked > UNPACKED_MAX {
        return Ok(None);
    }
    let Some(packed) = part(source, layer, at..end)? else { return Ok(None) };
    if !digest.matches(&packed) {
        return Ok(None);
    }
    let mut json = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(packed.as_slice());
    let read = decoder.and_then(|decoder| decoder.take(unpacked + 1).read_to_end(&mut json));
    Ok(read.ok().filter(|read| *read as u64 == unpacked).map(|_| (Packer::Zstd, json, at, length)))
}

/// A small part, in memory. `None`: not to be had.
fn part(
    source: &dyn ImageSource,
    layer: &Descriptor,
    stored: Range<u64>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let length = stored.end - stored.start;
    if length == 0 || length > STORED_MAX {
        return Ok(None);
    }
    let Some(mut content) = source.open_part(layer, stored)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(length as usize);
    let doing = || format!("read the table of contents of layer {}", layer.digest);
    content.read_to_end(&mut bytes).map_err(|e| super::stream::failed(doing(), e))?;
    Ok((bytes.len() as u64 == length).then_some(bytes))
}

/// `None`: the table says what no layer has.
fn facts(table: &Table, packer: Packer, end: u64, layer: &Descriptor) -> Option<LayerFacts> {
    let mut builder = Builder::default();
    let mut places: HashMap<u64, Place> = HashMap::new();
    // Where a part ends is where the next one begins, unless it is said.
    let mut begins: Vec<u64> = table.entries.iter().map(|entry| entry.offset).chain([end]).collect();
    begins.sort_unstable();
    let part = |entry: &Entry, size: u64| {
        let next = begins.get(begins.partition_point(|begin| *begin <= entry.offset)).copied();
        let stored_end = if entry.end_offset > 0 { entry.end_offset } else { next? };
        let is_sound = entry.offset < stored_end && stored_end <= end && entry.chunk_type.is_empty();
        is_sound.then_some(Part { stored: entry.offset..stored_end, before: entry.inner_offset, size })
    };
    let mut last = None;
    for entry in &table.entries {
        let name = plain(entry.name.as_bytes());
        if entry.kind == "chunk" {
            // Behind the file that it is of, in order.
            let place: &mut Place = places.get_mut(&last?)?;
            let known: u64 = place.parts.iter().map(|part| part.size).sum();
            let size = if entry.chunk_size > 0 { entry.chunk_size } else { place.size.checked_sub(known)? };
            match part(entry, size).filter(|_| entry.chunk_offset == known) {
                Some(part) => place.parts.push(part),
                None => drop(places.remove(&last?)),
            }
            continue;
        }
        if let Some(result) = whiteout(&mut builder, &name) {
            result.ok()?;
            continue;
        }
        match entry.kind.as_str() {
            "dir" if name.is_empty() => Ok(()),
            _ if name.is_empty() => return None,
            "dir" => builder.directory(&name),
            "symlink" => builder.symlink(&name, entry.link_name.as_bytes()),
            "hardlink" => builder.hard_link(&name, &plain(entry.link_name.as_bytes())),
            "char" | "block" | "fifo" => builder.other(&name),
            "reg" => {
                let hash = super::name_hash(&name);
                last = Some(hash);
                let size = if entry.chunk_size > 0 { entry.chunk_size } else { entry.size };
                let digest = entry.digest.parse::<Digest>().ok().filter(|_| entry.size <= FILE_MAX);
                if let (Some(digest), Some(part)) = (digest, part(entry, size)) {
                    places.insert(hash, Place { parts: vec![part], size: entry.size, digest });
                } else {
                    places.remove(&hash);
                }
                let facts = if entry.size == 0 { None } else { Some(Facts::Unread) };
                builder.file(&name, facts, entry.mode & 0o111 != 0)
            }
            _ => return None,
        }
        .ok()?;
    }
    let mut facts = builder.finish();
    facts.in_part = true;
    facts.toc = Some(Box::new(Toc { packer, files: places, layer: layer.clone() }));
    Some(facts)
}
