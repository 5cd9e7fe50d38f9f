//! New members in the very places of the old ones, for changes so small that each fits into the blocks it has.
//!
//! A label makes a config some bytes longer, and the last block of a member is seldom full. The names of configs and
//! manifests say their digests, so their headers change too, and with them what names them; but all digests are
//! equally long. What has no digest of its own, such as `manifest.json`, may be filled up with white space; what has
//! one keeps the bytes that the digest was made of.

use super::format::names::Naming;
use super::format::{INDEX_JSON, MANIFEST_JSON};
use super::relabel::{Relabel, RelabeledFiles};
use super::snapshot::Snapshot;
use super::tar::{BLOCK, ByteWrite, MemberKind, padded, write};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Document, ParsedDocument};
use std::collections::BTreeMap;

pub mod journal;

/// Plan of [`DockerArchive::apply_in_place`](super::DockerArchive::apply_in_place): bytes that replace others at the same
/// offset, in whole members.
#[derive(Debug, PartialEq, Eq)]
pub struct InPlacePlan {
    pub(super) writes: Vec<ByteWrite>,
    /// The image that all names will stand for.
    pub(super) root: Digest,
}

impl InPlacePlan {
    pub fn members(&self) -> usize {
        self.writes.len()
    }

    pub fn bytes(&self) -> u64 {
        self.writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// `Err` within: why the image must be written anew. `only` is the name that was asked for.
pub fn plan(
    archive: &Snapshot,
    only: Option<&str>,
    was: &Digest,
    rewrite: &Relabel,
) -> Result<Result<InPlacePlan, String>, Error> {
    if let Err(why) = is_alone(archive, only, was) {
        return Ok(Err(why));
    }
    let changed = RelabeledFiles::new(archive, was, rewrite)?;
    if let Some(still) = still_needed(archive, rewrite)? {
        return Ok(Err(format!("another image in it needs {still}")));
    }
    let mut slots = Slots { archive, writes: Vec::new() };
    let mut place = || -> Result<(), String> {
        for (path, bytes) in &changed.added {
            let pairs = rewrite.configs.iter().chain(&rewrite.documents);
            let digest = Digest::of(bytes);
            let old = pairs.into_iter().find(|(_, now)| *now == digest).map(|(was, _)| was);
            let member = old.and_then(|old| archive.blob(old));
            slots.put(
                member.ok_or_else(|| format!("{path} takes no other's place"))?,
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
    Ok(Ok(InPlacePlan { writes: slots.writes, root: rewrite.wanted.root.digest().clone() }))
}

/// The image is the only one, and all its names follow.
fn is_alone(archive: &Snapshot, only: Option<&str>, was: &Digest) -> Result<(), String> {
    if archive.naming == Naming::Layout && archive.tar.find(MANIFEST_JSON.as_bytes()).is_some() {
        return Err("it is a `docker save` archive too, whose manifest.json would be left behind".into());
    }
    let mut named = archive.names.values().chain(&archive.unnamed);
    if named.any(|named| named.document != *was) {
        return Err("the archive holds other images".into());
    }
    let Some(only) = only else { return Ok(()) };
    let others = archive.names.len() + archive.unnamed.len() - 1;
    match others > archive.names_of_same_entry(only).len() {
        true => Err("the image has other names, which keep the old label".into()),
        false => Ok(()),
    }
}

/// An old part that the new image goes on naming: of two members of an index that share a config, one changes.
fn still_needed(archive: &Snapshot, rewrite: &Relabel) -> Result<Option<Digest>, Error> {
    let new: BTreeMap<&Digest, &Document> = rewrite
        .wanted
        .levels
        .iter()
        .flatten()
        .chain([&rewrite.wanted.root])
        .map(|document| (document.digest(), document))
        .collect();
    let gone: Vec<&Digest> = rewrite.configs.iter().chain(&rewrite.documents).map(|(was, _)| was).collect();
    let mut open = vec![rewrite.wanted.root.digest().clone()];
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// The bytes have a digest.
    Nothing,
    WhiteSpace,
}

struct Slots<'a> {
    archive: &'a Snapshot,
    writes: Vec<ByteWrite>,
}

impl Slots<'_> {
    /// Gives a member's place to this content, under this name.
    fn put(&mut self, member: usize, name: &str, content: &[u8], fill: Fill) -> Result<(), String> {
        let tar = &self.archive.tar;
        let is_layer = self.archive.layers.values().any(|layer| layer.members.contains(&member));
        let member = &tar.members()[member];
        let was = super::tar::show(tar.name(member));
        if is_layer {
            return Err(format!("{was} is a layer, too"));
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
            return Err(format!("{was} would have {size} bytes, and has room for {room} in its blocks"));
        }
        let header = tar.header_for(member, name, size).map_err(|e| e.to_string())?;
        let header = header.ok_or_else(|| format!("{name} is too long a name"))?;
        let bytes = [header.as_slice(), &content, write::padding(size)].concat();
        match self.writes.iter().any(|(at, _)| *at == member.header_at) {
            true => Err(format!("{was} would become two")),
            false => {
                self.writes.push((member.header_at, bytes));
                Ok(())
            }
        }
    }
}
