//! New members in the very places of the old ones, for changes so small that each fits into the blocks it has.
//!
//! A label makes a config some bytes longer, and the last block of a member is seldom full. The names of configs and
//! manifests say their digests, so their headers change too, and with them what names them; but all digests are
//! equally long. What has no digest of its own, such as `manifest.json`, may be filled up with white space; what has
//! one keeps the bytes that the digest was made of.

use super::edit::repository_id;
use super::format::names::Naming;
use super::format::{INDEX_JSON, MANIFEST_JSON, legacy};
use super::relabel::{Relabel, RelabeledFiles};
use super::snapshot::Snapshot;
use super::tar::{BLOCK, ByteWrite, MemberKind, padded, write};
use crate::plan::BlobContent;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{CONFIG_MAX, Config, Document, ParsedDocument};
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
    for (path, bytes) in label_copies(archive, rewrite)? {
        let Some(member) = archive.tar.find(path.as_bytes()) else { continue };
        if let Err(why) = slots.put(member, &path, &bytes, Fill::WhiteSpace) {
            return Ok(Err(why));
        }
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

/// The topmost layer's `json`, which Docker before 1.10 reads, has a copy of the label.
fn label_copies(archive: &Snapshot, rewrite: &Relabel) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut copies = Vec::new();
    let (None, Some(list)) = (&archive.index, &archive.list) else { return Ok(copies) };
    for item in &list.items {
        let folder = match item.layers.last().and_then(|top| top.strip_suffix("/layer.tar")) {
            Some(folder) => Some(folder.to_string()),
            None => repository_id(archive, item)?,
        };
        let path = format!("{}/json", folder.unwrap_or_default());
        let Some(member) = archive.tar.find(path.as_bytes()) else { continue };
        let read = |member: usize| {
            let member = &archive.tar.members()[member];
            archive.tar.read_small(member, CONFIG_MAX).map_err(|e| e.at(format!("read \"{path}\"")))
        };
        let json = read(member)?;
        for (was, now) in &rewrite.configs {
            let new = rewrite.wanted.blobs.iter().find(|(blob, _)| blob.digest == *now);
            let (Some(old), Some((_, BlobContent::Bytes(new)))) = (archive.blob(was), new) else {
                continue;
            };
            let old = Config::parse(&read(old)?).map_err(|e| e.at(&format!("config {was}")))?;
            let new = Config::parse(new).map_err(|e| e.at(&format!("config {now}")))?;
            let changed = legacy::relabel(&json, &old, &new).map_err(|e| e.at(&path))?;
            if changed != json {
                copies.push((path.clone(), changed));
            }
        }
    }
    copies.dedup();
    Ok(copies)
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
