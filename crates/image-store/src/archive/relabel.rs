//! Replacement of an image by a relabeled one under all of its names: the files of an archive that change.

use super::format::index_json::IndexJson;
use super::format::manifest_json::ManifestJson;
use super::format::{INDEX_JSON, MANIFEST_JSON, blob_path, digest_in_name};
use super::snapshot::Snapshot;
use crate::plan::{BlobContent, WantedImage};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Config, Document, ParsedDocument};
use image_model::platform::Platform;

/// An image with another platform, and what it replaces.
pub struct Relabel {
    /// New configs and manifests, and the new root.
    pub wanted: WantedImage,
    /// Old and new digests of configs.
    pub configs: Vec<(Digest, Digest)>,
    /// Old and new digests of manifests and indexes, including the root.
    pub documents: Vec<(Digest, Digest)>,
}

const DOING: &str = "fix the platform";

/// Files of an archive that change or are new.
#[derive(Default)]
pub struct RelabeledFiles {
    /// New members, by path.
    pub added: Vec<(String, Vec<u8>)>,
    /// The new `index.json`.
    pub index: Option<Vec<u8>>,
    /// The new `manifest.json`.
    pub list: Option<Vec<u8>>,
}

impl RelabeledFiles {
    pub fn new(archive: &Snapshot, was: &Digest, relabel: &Relabel) -> Result<Self, Error> {
        let mut added = Vec::new();
        let mut platform = None;
        let documents = relabel.wanted.levels.iter().flatten().chain([&relabel.wanted.root]);
        let mut index = None;
        for (blob, content) in &relabel.wanted.blobs {
            let BlobContent::Bytes(bytes) = content else {
                return Err(Error::bad_input(
                    DOING,
                    format!("{} would have to be copied from another store", blob.digest),
                ));
            };
            platform = platform.or(platform_of(&relabel.wanted.root, &blob.digest, bytes)?);
            let path = match &archive.index {
                Some(_) => blob_path(&blob.digest),
                None => classic_path(archive, relabel, &blob.digest),
            };
            added.push((path, bytes.to_vec()));
        }
        if let Some(old) = &archive.index {
            added.extend(documents.map(|d| (blob_path(d.digest()), d.bytes().to_vec())));
            index = Some(point_all(old, was, &relabel.wanted.root, platform.as_ref())?);
        }
        let list = match &archive.list {
            Some(list) => Some(reconfigure(archive, list, relabel)?),
            None => None,
        };
        added.retain(|(path, _)| archive.tar.find(path.as_bytes()).is_none());
        Ok(Self { added, index, list })
    }
}

/// Returns the platform that the root declares, if this is its config.
fn platform_of(root: &Document, digest: &Digest, config: &[u8]) -> Result<Option<Platform>, Error> {
    match root.parse() {
        Ok(ParsedDocument::Manifest(manifest)) if manifest.config.digest == *digest => {
            let config = Config::parse(config).map_err(|e| e.at(&format!("config {digest}")))?;
            Ok(Some(config.platform))
        }
        _ => Ok(None),
    }
}

/// Makes every entry of the old image refer to the new one.
fn point_all(
    index: &IndexJson,
    was: &Digest,
    now: &Document,
    platform: Option<&Platform>,
) -> Result<Vec<u8>, Error> {
    let mut index = index.clone();
    for i in 0..index.entries.len() {
        if index.entries[i].digest == *was {
            index = index.point(i, now, platform).map_err(|e| e.at(&format!("the edited {INDEX_JSON}")))?;
        }
    }
    Ok(index.bytes().to_vec())
}

/// Returns the path of the new config `now`: like that of the old one if its name is its digest.
fn classic_path(archive: &Snapshot, relabel: &Relabel, now: &Digest) -> String {
    let items = archive.list.iter().flat_map(|list| &list.items);
    let was = relabel.configs.iter().find(|(_, new)| new == now).map(|(was, _)| was);
    let old = items.map(|item| &item.config).find(|path| digest_in_name(path).as_ref() == was);
    match (old, was) {
        (Some(old), Some(was)) => old.replace(was.hex(), now.hex()),
        _ => format!("{}.json", now.hex()),
    }
}

fn reconfigure(archive: &Snapshot, list: &ManifestJson, relabel: &Relabel) -> Result<Vec<u8>, Error> {
    let mut items = Vec::new();
    for (i, config) in archive.item_configs.iter().enumerate() {
        // Two items may have the same config in two members.
        let moved = relabel.configs.iter().find(|(was, _)| was == config);
        if let Some((_, now)) = moved {
            let path = match &archive.index {
                Some(_) => blob_path(now),
                None => classic_path(archive, relabel, now),
            };
            items.push((i, path));
        }
    }
    let changed = list.reconfigured(&items).map_err(|e| e.at(&format!("the edited {MANIFEST_JSON}")))?;
    Ok(changed.bytes().to_vec())
}
