//! Plan that overwrites members at their offsets, for changes that fit into the blocks that the members have.
//!
//! A relabel makes a config some bytes longer, and the last block of a member is seldom full. The names of configs and
//! manifests contain their digests, so their headers change too, and so does what references them; but all digests have
//! the same length. Members without a digest, such as `manifest.json`, may be padded with white space; the others have
//! exactly the bytes of their digest.

use super::format::names::Naming;
use super::format::{INDEX_JSON, MANIFEST_JSON};
use super::relabel::{Relabel, RelabeledFiles};
use super::snapshot::Snapshot;
use super::tar::{BLOCK, ByteWrite, MemberKind, padded, write};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Document, ParsedDocument};
use std::collections::BTreeMap;

pub mod redo_log;

/// Plan of [`DockerArchive::apply_in_place`](super::DockerArchive::apply_in_place): bytes that replace others at the same
/// offset, in whole members.
#[derive(Debug, PartialEq, Eq)]
pub struct InPlacePlan {
    pub(super) writes: Vec<ByteWrite>,
    /// The image that all names will refer to.
    pub(super) root: Digest,
}

impl InPlacePlan {
    /// The number of members that are overwritten.
    pub fn members(&self) -> usize {
        self.writes.len()
    }

    /// The number of bytes that are written.
    pub fn bytes(&self) -> u64 {
        self.writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// Returns the plan, or the reason (the inner `Err`) why the archive must be rewritten instead. `only` is the requested name.
pub fn plan(
    archive: &Snapshot,
    only: Option<&str>,
    was: &Digest,
    relabel: &Relabel,
) -> Result<Result<InPlacePlan, String>, Error> {
    if let Err(why) = is_alone(archive, only, was) {
        return Ok(Err(why));
    }
    let changed = RelabeledFiles::new(archive, was, relabel)?;
    if let Some(still) = still_needed(archive, relabel)? {
        return Ok(Err(format!("another image in it references {still}")));
    }
    let mut slots = Slots { archive, writes: Vec::new() };
    let mut place = || -> Result<(), String> {
        for (path, bytes) in &changed.added {
            let pairs = relabel.configs.iter().chain(&relabel.documents);
            let digest = Digest::of(bytes);
            let old = pairs.into_iter().find(|(_, now)| *now == digest).map(|(was, _)| was);
            let member = old.and_then(|old| archive.blob(old));
            slots.put(
                member.ok_or_else(|| format!("{path} does not replace a member"))?,
                path,
                bytes,
                Fill::Nothing,
            )?;
        }
        for (name, list) in [(INDEX_JSON, &changed.index), (MANIFEST_JSON, &changed.list)] {
            let Some(bytes) = list else { continue };
            let member = archive.tar.find(name.as_bytes()).ok_or_else(|| format!("it has no {name}"))?;
            slots.put(member, name, bytes, Fill::WhiteSpace)?;
        }
        Ok(())
    };
    if let Err(why) = place() {
        return Ok(Err(why));
    }
    Ok(Ok(InPlacePlan { writes: slots.writes, root: relabel.wanted.root.digest().clone() }))
}

/// Checks that the image is the only one and that all of its names change.
fn is_alone(archive: &Snapshot, only: Option<&str>, was: &Digest) -> Result<(), String> {
    if archive.naming == Naming::Layout && archive.tar.find(MANIFEST_JSON.as_bytes()).is_some() {
        return Err("it is also a `docker save` archive, whose manifest.json would not be updated".into());
    }
    let mut named = archive.names.values().chain(&archive.unnamed);
    if named.any(|named| named.document != *was) {
        return Err("the archive has other images".into());
    }
    let Some(only) = only else { return Ok(()) };
    let others = archive.names.len() + archive.unnamed.len() - 1;
    match others > archive.names_of_same_entry(only).len() {
        true => Err("the image has other names, which keep the old platform".into()),
        false => Ok(()),
    }
}

/// Returns an old document or config that the new image still references: two members of an index may share a config, of
/// which one changes.
fn still_needed(archive: &Snapshot, relabel: &Relabel) -> Result<Option<Digest>, Error> {
    let new: BTreeMap<&Digest, &Document> = relabel
        .wanted
        .levels
        .iter()
        .flatten()
        .chain([&relabel.wanted.root])
        .map(|document| (document.digest(), document))
        .collect();
    let gone: Vec<&Digest> = relabel.configs.iter().chain(&relabel.documents).map(|(was, _)| was).collect();
    let mut open = vec![relabel.wanted.root.digest().clone()];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(digest) = open.pop() {
        if gone.contains(&&digest) {
            return Ok(Some(digest));
        }
        if !seen.insert(digest.clone()) {
            continue;
        }
        let document = new.get(&digest).copied().or_else(|| archive.documents.get(&digest));
        let Some(document) = document else { continue };
        match document.parse().map_err(|e| e.at(&format!("manifest {digest}")))? {
            ParsedDocument::Manifest(manifest) => open.push(manifest.config.digest),
            ParsedDocument::Index(index) => {
                open.extend(index.manifests.into_iter().map(|entry| entry.digest))
            }
        }
    }
    Ok(None)
}

/// Padding of content within its last block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// For content with a digest.
    Nothing,
    WhiteSpace,
}

struct Slots<'a> {
    archive: &'a Snapshot,
    writes: Vec<ByteWrite>,
}

impl Slots<'_> {
    /// Adds the write that replaces a member by this content under this name.
    fn put(&mut self, member: usize, name: &str, content: &[u8], fill: Fill) -> Result<(), String> {
        let tar = &self.archive.tar;
        let is_layer = self.archive.layers.values().any(|layer| layer.members.contains(&member));
        let member = &tar.members()[member];
        let was = super::tar::show(tar.name(member));
        if is_layer {
            return Err(format!("{was} is also a layer"));
        }
        if member.kind != MemberKind::File {
            return Err(format!("{was} is a link"));
        }
        if member.start != member.header_at {
            return Err(format!("{was} has more than one header"));
        }
        let mut content = content.to_vec();
        let room = padded(member.size).unwrap_or(member.size);
        if fill == Fill::WhiteSpace && (content.len() as u64) + BLOCK <= room {
            content.resize((room - BLOCK + 1) as usize, b' ');
        }
        let size = content.len() as u64;
        if padded(size) != Some(room) {
            return Err(format!("{was} would have {size} bytes; its blocks have {room}"));
        }
        let header = tar.header_for(member, name, size).map_err(|e| e.to_string())?;
        let header = header.ok_or_else(|| format!("the name {name} is too long"))?;
        let bytes = [header.as_slice(), &content, write::padding(size)].concat();
        match self.writes.iter().any(|(at, _)| *at == member.header_at) {
            true => Err(format!("{was} would be replaced twice")),
            false => {
                self.writes.push((member.header_at, bytes));
                Ok(())
            }
        }
    }
}
