//! The encoding of [`LayerFacts`] as bytes, for the cache.
//!
//! Numbers are little-endian. A checksum that requires the key and a check of every index make sure that damaged bytes are
//! rejected, never decoded to wrong facts.

use super::{LayerFacts, NameHasher, Program, Record};
use crate::file::FileFacts;
use crate::secret::keyed_digest;
use image_model::digest::Digest;
use std::ops::Range;

/// Changes with the encoding and with the facts that are read from files, so that older encodings are rejected.
const VERSION: &str = concat!("multiarch layer facts 11 ", env!("CARGO_PKG_VERSION"), "\n");
/// Its hash detects a standard library with another hash function.
const PROBE: &[u8] = b"usr/bin/env";
const SUM: usize = 64;

/// Encodes the facts from the layer with this name. `None`: the encoding has more than `most` bytes.
pub fn encode(layer: &LayerFacts, name: &str, most: usize) -> Option<Vec<u8>> {
    let facts = serde_json::to_vec(&layer.facts).ok()?;
    let mut out = Vec::with_capacity(layer.records.len() * 12 + layer.text.len() + facts.len() + 1024);
    out.extend_from_slice(VERSION.as_bytes());
    put(&mut out, layer.hasher.hash(PROBE));
    part(&mut out, name.as_bytes());
    for number in [layer.unlisted, layer.stored, layer.unpacked, layer.archives_unread] {
        put(&mut out, number);
    }
    part(&mut out, &layer.text);
    part(&mut out, &facts);
    part(&mut out, &serde_json::to_vec(&layer.archives).ok()?);
    put(&mut out, layer.links.len() as u64);
    for link in &layer.links {
        out.extend([link.start.to_le_bytes(), link.end.to_le_bytes()].concat());
    }
    put(&mut out, layer.programs.len() as u64);
    for program in &layer.programs {
        out.extend([program.path.start, program.path.end, program.facts].map(u32::to_le_bytes).concat());
    }
    put(&mut out, layer.records.len() as u64);
    for record in &layer.records {
        out.extend_from_slice(&record.name.to_le_bytes());
        out.extend_from_slice(&record.what.to_le_bytes());
    }
    let sum = sum(&out, &layer.hasher);
    out.extend_from_slice(sum.hex().as_bytes());
    (out.len() <= most).then_some(out)
}

/// Decodes what [`encode`] wrote for the layer with this name and this hasher. `None`: it is anything else.
pub fn decode(bytes: &[u8], name: &str, hasher: &NameHasher) -> Option<LayerFacts> {
    let (content, found) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    if sum(content, hasher).hex().as_bytes() != found {
        return None;
    }
    let mut rest = Rest(content.strip_prefix(VERSION.as_bytes())?);
    if rest.number()? != hasher.hash(PROBE) || rest.part()? != name.as_bytes() {
        return None;
    }
    let mut layer = LayerFacts { is_cached: true, ..LayerFacts::empty(hasher) };
    for number in [&mut layer.unlisted, &mut layer.stored, &mut layer.unpacked, &mut layer.archives_unread] {
        *number = rest.number()?;
    }
    layer.text = rest.part()?.to_vec();
    layer.facts = serde_json::from_slice::<Vec<FileFacts>>(rest.part()?).ok()?;
    layer.archives = serde_json::from_slice(rest.part()?).ok()?;
    let text = layer.text.len();
    let within = |range: &Range<u32>| range.start <= range.end && range.end as usize <= text;
    for _ in 0..rest.count(8)? {
        layer.links.push(Some(rest.small()?..rest.small()?).filter(within)?);
    }
    for _ in 0..rest.count(12)? {
        let path = Some(rest.small()?..rest.small()?).filter(within)?;
        layer.programs.push(Program { path, facts: rest.small()? });
    }
    let records = rest.count(12)?;
    layer.records.reserve_exact(records);
    for order in 0..records {
        let (name, what) = (rest.number()?, rest.small()?);
        layer.records.push(Record { name, what, order: order as u32 });
    }
    (rest.0.is_empty() && layer.records.is_sorted_by_key(|record| record.name)).then_some(layer)
}

fn sum(content: &[u8], hasher: &NameHasher) -> Digest {
    keyed_digest(hasher.key(), content)
}

fn put(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes that are still to be decoded.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn small(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// The number of items that follow, each of `size` bytes. `None`: there are fewer bytes.
    fn count(&mut self, size: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count.checked_mul(size)? <= self.0.len()).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerEntry;
    use crate::layer::tests::{HASHER_KEY, Tar, elf};

    fn hasher() -> NameHasher {
        NameHasher::new(HASHER_KEY)
    }

    fn kept() -> Vec<u8> {
        let layer =
            Tar::default().file("bin/app", &elf(183)).symlink("bin/sh", "app").file("opt/.wh.x", b"").facts();
        encode(&layer, "name", usize::MAX).unwrap()
    }

    #[test]
    fn encoded_facts_are_decoded() {
        let layer = decode(&kept(), "name", &hasher()).unwrap();
        assert!(matches!(
            layer.entry(b"bin/app"),
            Some(LayerEntry::File { facts: Some(FileFacts::Elf(_)), .. })
        ));
        assert_eq!(layer.entry(b"bin/sh"), Some(LayerEntry::Symlink(b"app")));
        assert!(layer.is_whiteout(hasher().hash(b"opt/x")) && layer.is_cached);
        assert_eq!(layer.programs().map(|(path, _)| path).collect::<Vec<_>>(), [b"bin/app"]);
    }

    #[test]
    fn damaged_facts_and_those_of_another_key_are_refused() {
        let bytes = kept();
        assert!(decode(&bytes, "other name", &hasher()).is_none());
        assert!(decode(&bytes, "name", &NameHasher::random()).is_none());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, "name", &hasher()).is_none(), "byte {at}");
            assert!(decode(&bytes[..at], "name", &hasher()).is_none(), "cut at {at}");
        }
        assert!(encode(&LayerFacts::empty(&hasher()), "name", 100).is_none(), "too large");
    }
}
