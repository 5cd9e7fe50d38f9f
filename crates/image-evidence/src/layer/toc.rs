//! The table of contents of a layer: its paths without reading the layer, and single files from the middle of it.
//!
//! eStargz stores it as a tar entry in a gzip member of its own, zstd:chunked as a skippable frame; both are JSON with the
//! same keys. The table is verified against the digest in the annotations of the layer's descriptor, and each file against
//! its digest in the table. Where anything does not match, the whole layer is read instead.
//!
//! Sources: stargz-snapshotter, docs/estargz.md; containers/storage, pkg/chunked/internal.

use super::{LayerEntry, LayerFacts, NameHasher};
use crate::elf::sampler::Sampler;
use crate::file;
use error::Error;
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{Descriptor, media_type};
use image_store::store::ImageSource;
use parts::BlobPart;
use std::collections::HashMap;
use std::ops::Range;
use table::StoredTable;

mod parts;
mod table;

/// Smaller layers are read whole, with one request instead of several.
const WORTH_FROM: u64 = 1 << 20;
/// Bytes of the stored table.
const STORED_MAX: u64 = 16 << 20;
/// For a larger file, or one that needs more requests, reading the whole layer is no slower.
const FILE_MAX: u64 = 512 << 20;
const REQUESTS_MAX: usize = 32;

const ESTARGZ: &str = "containerd.io/snapshot/stargz/toc.digest";
const ZSTD_CHUNKED: [&str; 2] =
    ["io.github.containers.zstd-chunked.manifest-", "io.containers.zstd-chunked.manifest-"];
/// The footer is an empty gzip member. Its extra field has the offset of the table in 16 hexadecimal digits, and this.
const FOOTER: u64 = 51;
const FOOTER_END: &[u8] = b"STARGZ";

/// The locations of the files of a layer.
#[derive(Debug)]
pub struct Toc {
    packer: Compression,
    /// By the hash of the path.
    files: HashMap<u64, FileLocation>,
    /// The parts of all files; those of one file are adjacent.
    parts: Vec<BlobPart>,
    layer: Descriptor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
}

/// The location of one file: parts of the blob in order, each compressed separately.
#[derive(Debug)]
struct FileLocation {
    parts: Range<u32>,
    size: u64,
    digest: Digest,
}

/// Reads the table of contents of a layer. `None`: it has none that can be used; read the layer itself.
///
/// # Errors
/// As the store.
pub fn read(
    source: &dyn ImageSource,
    layer: &Descriptor,
    hasher: &NameHasher,
) -> Result<Option<LayerFacts>, Error> {
    let is_elsewhere =
        media_type::is_foreign_layer(&layer.media_type) || layer.media_type.contains("+encrypted");
    if layer.size < WORTH_FROM || is_elsewhere {
        return Ok(None);
    }
    let found = match layer.annotations.get(ESTARGZ) {
        Some(digest) => estargz(source, layer, digest)?,
        None => zstd_chunked(source, layer)?,
    };
    Ok(found.and_then(|(stored, read)| Some(LayerFacts { stored: read, ..stored.facts(layer, hasher)? })))
}

/// Reads one file and adds its facts. `false`: the file cannot be read alone; read the layer itself.
///
/// # Errors
/// As the store.
pub fn fetch(source: &dyn ImageSource, facts: &mut LayerFacts, path: &[u8]) -> Result<bool, Error> {
    let Some(path) = target(facts, path) else { return Ok(false) };
    let Some(toc) = &facts.toc else { return Ok(false) };
    let Some(place) = toc.files.get(&facts.hasher.hash(&path)) else { return Ok(false) };
    let parts = &toc.parts[place.parts.start as usize..place.parts.end as usize];
    if parts::runs(parts).count() > REQUESTS_MAX {
        return Ok(false);
    }
    let (mut sampler, mut hasher, mut size) = (Sampler::default(), Hasher::like(&place.digest), 0);
    let mut take = |bytes: &[u8]| {
        hasher.update(bytes);
        size += bytes.len() as u64;
        if sampler.wants_more() {
            sampler.push(bytes);
        }
    };
    let is_read = parts::read(source, &toc.layer, toc.packer, parts, &mut take)?;
    if !is_read || size != place.size || hasher.finish() != place.digest {
        return Ok(false);
    }
    facts.stored += parts.iter().map(|part| part.stored.end - part.stored.start).sum::<u64>();
    Ok(facts.learn(&path, file::classify(&sampler.finish())))
}

/// The path of the file that a path leads to over hard links.
fn target(facts: &LayerFacts, path: &[u8]) -> Option<Vec<u8>> {
    let mut path = path;
    for _ in 0..40 {
        match facts.entry(path)? {
            LayerEntry::HardLink(further) => path = further,
            LayerEntry::File { .. } => return Some(path.to_vec()),
            _ => return None,
        }
    }
    None
}

/// The table, and the number of bytes that were read for it.
type FoundTable = Option<(StoredTable, u64)>;

fn estargz(source: &dyn ImageSource, layer: &Descriptor, digest: &str) -> Result<FoundTable, Error> {
    let Ok(digest) = digest.parse::<Digest>() else { return Ok(None) };
    let Some(footer) = part(source, layer, layer.size - FOOTER..layer.size)? else { return Ok(None) };
    let Some(end) = footer_offset(&footer).filter(|at| *at < layer.size - FOOTER) else { return Ok(None) };
    let Some(packed) = part(source, layer, end..layer.size - FOOTER)? else { return Ok(None) };
    let read = packed.len() as u64 + FOOTER;
    Ok(Some((StoredTable::Gzip { packed, digest, end }, read)))
}

fn footer_offset(footer: &[u8]) -> Option<u64> {
    // 10 bytes of header, 2 of the length of the extra field, "SG" and a length, 16 digits, the end.
    let extra = footer.get(16..38)?;
    let digits = extra.strip_suffix(FOOTER_END)?;
    (footer.starts_with(&[0x1f, 0x8b, 8, 4]) && &footer[12..14] == b"SG")
        .then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}

fn zstd_chunked(source: &dyn ImageSource, layer: &Descriptor) -> Result<FoundTable, Error> {
    let said =
        |name: &str| ZSTD_CHUNKED.iter().find_map(|prefix| layer.annotations.get(&format!("{prefix}{name}")));
    let (Some(digest), Some(position)) = (said("checksum"), said("position")) else { return Ok(None) };
    let Ok(digest) = digest.parse::<Digest>() else { return Ok(None) };
    // OFFSET:STORED LENGTH:UNPACKED LENGTH:TYPE
    let numbers: Vec<u64> = position.split(':').filter_map(|number| number.parse().ok()).collect();
    let [end, length, unpacked, 1] = numbers[..] else { return Ok(None) };
    let Some(after) = end.checked_add(length).filter(|after| *after <= layer.size) else { return Ok(None) };
    let Some(packed) = part(source, layer, end..after)? else { return Ok(None) };
    if !digest.matches(&packed) {
        return Ok(None);
    }
    Ok(Some((StoredTable::Zstd { packed, unpacked, end }, length)))
}

/// A small part of the blob, in memory. `None`: the store cannot read it.
fn part(source: &dyn ImageSource, layer: &Descriptor, stored: Range<u64>) -> Result<Option<Vec<u8>>, Error> {
    let length = stored.end - stored.start;
    if length == 0 || length > STORED_MAX {
        return Ok(None);
    }
    let Some(mut content) = source.open_blob_range(layer, stored)? else { return Ok(None) };
    let mut bytes = Vec::with_capacity(length as usize);
    let doing = || format!("read the table of contents of layer {}", layer.digest);
    content.read_to_end(&mut bytes).map_err(|e| super::decoder::failed(doing(), e))?;
    Ok((bytes.len() as u64 == length).then_some(bytes))
}
