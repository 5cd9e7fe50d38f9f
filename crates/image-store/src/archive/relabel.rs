//! An image that takes another's place under all of its names: what that changes in an archive.

use super::format::index_json::IndexJson;
use super::format::manifest_json::ManifestJson;
use super::format::{INDEX_JSON, MANIFEST_JSON, blob_path, digest_in_name};
use super::snapshot::Snapshot;
use crate::plan::{BlobContent, WantedImage};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Config, Document, ParsedDocument};
use image_model::platform::Platform;

/// What becomes of an image that has a wrong label.
pub struct Relabel {
    /// New configs, manifests, and the root.
    pub wanted: WantedImage,
    /// The configs' digests as they were and as they are.
    pub configs: Vec<(Digest, Digest)>,
    /// The same of manifests and indexes, the root among them.
    pub documents: Vec<(Digest, Digest)>,
}

const DOING: &str = "put the label right";

/// What goes out otherwise than it came, and what is new.
#[derive(Default)]
pub struct RelabeledFiles {
    /// New members, by path.
    pub added: Vec<(String, Vec<u8>)>,
    pub index: Option<Vec<u8>>,
    pub list: Option<Vec<u8>>,
}

impl RelabeledFiles {
    pub fn new(archive: &Snapshot, was: &Digest, rewrite: &Relabel) -> Result<Self, Error> {
        let mut added = Vec::new();
        let mut label = None;
        let documents = rewrite.wanted.levels.iter().flatten().chain([&rewrite.wanted.root]);
        let mut index = None;
        for (blob, content) in &rewrite.wanted.blobs {
            let BlobContent::Bytes(bytes) = content else {
                return Err(Error::bad_input(DOING, format!("{} comes from elsewhere", blob.digest)));
            };
            label = label.or(label_of(&rewrite.wanted.root, &blob.digest, bytes)?);
            let path = match &archive.index {
                Some(_) => blob_path(&blob.digest),
                None => classic_path(archive, rewrite, &blob.digest),
            };
            added.push((path, bytes.to_vec()));
        }
        if let Some(old) = &archive.index {
            added.extend(documents.map(|d| (blob_path(d.digest()), d.bytes().to_vec())));
            index = Some(point_all(old, was, &rewrite.wanted.root, label.as_ref())?);
        }
        let list = match &archive.list {
            Some(list) => Some(reconfigure(archive, list, rewrite)?),
            None => None,
        };
        added.retain(|(path, _)| archive.tar.find(path.as_bytes()).is_none());
        Ok(Self { added, index, list })
    }
}

/// What the root says it is for, if this is its config.
fn label_of(root: &Document, digest: &Digest, config: &[u8]) -> Result<Option<Platform>, Error> {
    match root.parse() {
        Ok(ParsedDocument::Manifest(manifest)) if manifest.config.digest == *digest => {
            let config = Config::parse(config).map_err(|e| e.at(&format!("config {digest}")))?;
            Ok(Some(config.platform))
        }
        _ => Ok(None),
    }
}

/// Every entry of the old image, by whatever name, is one of the new image.
fn point_all(
    index: &IndexJson,
    was: &Digest,
    now: &Document,
    label: Option<&Platform>,
) -> Result<Vec<u8>, Error> {
    let mut index = index.clone();
    for i in 0..index.entries.len() {
        if index.entries[i].digest == *was {
            index = index.point(i, now, label).map_err(|e| e.at(&format!("the edited {INDEX_JSON}")))?;
        }
    }
    Ok(index.bytes().to_vec())
}

/// The path of the new config `now`: named as the old one is, if that one's name says its digest.
fn classic_path(archive: &Snapshot, rewrite: &Relabel, now: &Digest) -> String {
    let items = archive.list.iter().flat_map(|list| &list.items);
    let was = rewrite.configs.iter().find(|(_, new)| new == now).map(|(was, _)| was);
    let old = items.map(|item| &item.config).find(|path| digest_in_name(path).as_ref() == was);
    match (old, was) {
        (Some(old), Some(was)) => old.replace(was.hex(), now.hex()),
        _ => format!("{}.json", now.hex()),
    }
}

fn reconfigure(archive: &Snapshot, list: &ManifestJson, rewrite: &Relabel) -> Result<Vec<u8>, Error> {
    let mut items = Vec::new();
    for (i, config) in archive.item_configs.iter().enumerate() {
        // Two items may have the same config in two members.
        let moved = rewrite.configs.iter().find(|(was, _)| was == config);
        if let Some((_, now)) = moved {
            let path = match &archive.index {
                Some(_) => blob_path(now),
                None => classic_path(archive, rewrite, now),
            };
            items.push((i, path));
        }
    }
    let changed = list.reconfigured(&items).map_err(|e| e.at(&format!("the edited {MANIFEST_JSON}")))?;
    Ok(changed.bytes().to_vec())
}
