//! Plan of a tag in an archive that is an OCI layout.

use super::{MemberChange, TarEdit};
use crate::archive::format::index_json::{self, IndexJson};
use crate::archive::format::manifest_json::ManifestJson;
use crate::archive::format::names::Naming;
use crate::archive::format::{
    INDEX_JSON, MANIFEST_JSON, OCI_LAYOUT, blob_path, check_layers, digest_of_path,
};
use crate::archive::pending::{NewContent, Pending};
use crate::archive::snapshot::Snapshot;
use crate::layout_tags::EntryTags;
use crate::store::UNNAMED;
use crate::tree::DEPTH_MAX;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{CONFIG_MAX, Config, Descriptor, Document, Manifest, ParsedDocument, media_type};
use std::collections::BTreeSet;
use std::io::Read;

const LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";

/// Returns the changes after which `tag` refers to `document`.
pub fn plan_tag(
    archive: &Snapshot,
    pending: &Pending,
    tag: &str,
    document: &Document,
) -> Result<TarEdit, Error> {
    let contents = Contents { archive, pending };
    let doing = || format!("tag \"{tag}\"");
    let index = archive.index.as_ref().ok_or_else(|| Error::bad_input(doing(), "no index.json"))?;
    let reach = contents.reach(document)?;
    let images = contents.images(document)?;

    let platform = contents.declared_platform(document)?;
    let changed_index = retag_index(archive, index, tag, document, platform.as_ref())
        .map_err(|e| e.at(&format!("the edited {INDEX_JSON}")))?;
    let old = archive.named(tag).map_err(|why| Error::bad_input(doing(), why))?;
    let changed_list = match &archive.list {
        Some(list) => {
            let old = old.map(|old| &old.document);
            let followers = followers(archive, list, old, &changed_index);
            Some(contents.retag_list(list, tag, old, &images, &followers)?)
        }
        None => None,
    };

    let mut edit = TarEdit { before: archive.tar.find(INDEX_JSON.as_bytes()), ..TarEdit::default() };
    for digest in dropped(&contents, index, &changed_index, changed_list.as_ref(), document)? {
        if let Some(member) = archive.tar.find(blob_path(&digest).as_bytes()) {
            edit.changes.insert(member, MemberChange::Drop);
        }
    }
    for digest in &reach {
        let path = blob_path(digest);
        if archive.tar.find(path.as_bytes()).is_some() {
            continue;
        }
        if let Some(bytes) = contents.new_bytes(digest, document) {
            edit.added.push((path, bytes));
        }
    }
    if archive.tar.find(OCI_LAYOUT.as_bytes()).is_none() {
        edit.added.insert(0, (OCI_LAYOUT.into(), NewContent::from(LAYOUT)));
    }
    let is_new = archive.tar.find(INDEX_JSON.as_bytes()).is_none();
    if is_new || changed_index.bytes() != index.bytes() {
        edit.set(archive, INDEX_JSON, changed_index.bytes());
    }
    if let (Some(list), Some(changed)) = (&archive.list, &changed_list)
        && (is_new || changed.bytes() != list.bytes())
    {
        edit.set(archive, MANIFEST_JSON, changed.bytes());
    }
    Ok(edit)
}

/// Makes the entries of this tag refer to the document. An entry that other names share is left to them. Names that share an
/// entry that changes get entries of their own for the image that they had.
fn retag_index(
    archive: &Snapshot,
    index: &IndexJson,
    tag: &str,
    document: &Document,
    platform: Option<&image_model::platform::Platform>,
) -> Result<IndexJson, image_model::manifest::DocumentError> {
    let mut moved: Vec<usize> = match archive.naming {
        Naming::Layout if tag != UNNAMED => EntryTags::new(&index.entries).with_tag(tag),
        _ => (0..index.entries.len()).filter(|i| is_called(archive, &index.entries[*i], *i, tag)).collect(),
    };
    if moved.is_empty() && archive.names_of_same_entry(tag).is_empty() {
        moved.extend(archive.names.get(&archive.key(tag)).and_then(|named| named.entry));
    }
    if moved.is_empty() {
        return index.append(tag, document, archive.naming);
    }
    let mut changed = index.clone();
    for entry in &moved {
        changed = changed.point(*entry, document, platform)?;
    }
    let key = archive.key(tag);
    for (other, named) in &archive.names {
        let has_moved = named.entry.is_some_and(|entry| moved.contains(&entry));
        let old = archive.documents.get(&named.document).filter(|_| *other != key && has_moved);
        if let Some(old) = old {
            changed = changed.append(&named.shown, old, archive.naming)?;
        }
    }
    Ok(changed)
}

/// Returns whether this entry itself has the name. Several entries of one image may have the same name.
fn is_called(archive: &Snapshot, entry: &Descriptor, i: usize, tag: &str) -> bool {
    if tag == UNNAMED {
        return archive.unnamed.iter().any(|named| named.entry == Some(i));
    }
    let key = archive.naming.key(tag);
    let is_key = |name: String| archive.naming.key(&name) == key;
    match index_json::image_name(entry) {
        Some(name) => is_key(name),
        // Docker uses the short tag as the name if there is no other.
        None => {
            let has_another = archive.names.iter().any(|(other, n)| *other != key && n.entry == Some(i));
            !has_another && index_json::ref_name(entry).is_some_and(is_key)
        }
    }
}

/// Returns the items without names that refer to the old image, if no entry of the index refers to it any more.
fn followers(
    archive: &Snapshot,
    list: &ManifestJson,
    old: Option<&Digest>,
    changed: &IndexJson,
) -> Vec<usize> {
    let Some(old) = old.filter(|old| changed.entries.iter().all(|entry| entry.digest != **old)) else {
        return Vec::new();
    };
    let is_of_old = |i: &usize| list.items[*i].tags.is_empty() && archive.item_documents.get(*i) == Some(old);
    (0..list.items.len()).filter(is_of_old).collect()
}

/// The archive together with what was written since: a new image may reference both.
struct Contents<'a> {
    archive: &'a Snapshot,
    pending: &'a Pending,
}

impl Contents<'_> {
    fn document(&self, digest: &Digest) -> Option<&Document> {
        self.archive.documents.get(digest).or_else(|| self.pending.documents.get(digest))
    }

    fn has_blob(&self, blob: &Descriptor) -> bool {
        let stored = self.archive.blob(&blob.digest).map(|member| self.archive.tar.members()[member].size);
        let pending = self.pending.blobs.get(&blob.digest).map(NewContent::size);
        stored.or(pending) == Some(blob.size)
    }

    /// Returns the bytes of a blob or document that is not in the archive yet.
    fn new_bytes(&self, digest: &Digest, root: &Document) -> Option<NewContent> {
        if root.digest() == digest {
            return Some(NewContent::from(root.bytes()));
        }
        let document = self.pending.documents.get(digest).map(|document| NewContent::from(document.bytes()));
        document.or_else(|| self.pending.blobs.get(digest).cloned())
    }

    /// Returns everything that a document references, itself first. What is absent must have been absent before.
    fn reach(&self, root: &Document) -> Result<Vec<Digest>, Error> {
        let mut found = Vec::new();
        self.walk(root, 0, true, &mut BTreeSet::new(), &mut found)?;
        Ok(found)
    }

    fn walk(
        &self,
        document: &Document,
        depth: usize,
        strict: bool,
        seen: &mut BTreeSet<Digest>,
        found: &mut Vec<Digest>,
    ) -> Result<(), Error> {
        let doing = || format!("write manifest {}", document.digest());
        let absent = |digest: &Digest| {
            Error::bad_input(doing(), format!("it references {digest}, which is absent"))
                .hint("write that first")
        };
        if depth > DEPTH_MAX {
            return Err(Error::bad_input(doing(), "indexes are nested too deeply"));
        }
        if !seen.insert(document.digest().clone()) {
            return Ok(());
        }
        found.push(document.digest().clone());
        match document.parse().map_err(|e| e.at(&format!("manifest {}", document.digest())))? {
            ParsedDocument::Index(index) => {
                for member in &index.manifests {
                    match self.document(&member.digest) {
                        Some(child) => self.walk(child, depth + 1, strict, seen, found)?,
                        None if !strict || self.archive.absent.contains(&member.digest) => {}
                        None => return Err(absent(&member.digest)),
                    }
                }
            }
            ParsedDocument::Manifest(manifest) => {
                // An image that is in the archive already need not be complete.
                let is_stored = self.archive.documents.contains_key(document.digest());
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    let is_absent = blob.urls.is_empty() && !self.has_blob(blob);
                    let may_be_absent =
                        blob.digest != manifest.config.digest && self.archive.lacks(&blob.digest);
                    if strict && !is_stored && is_absent && !may_be_absent {
                        return Err(absent(&blob.digest));
                    }
                    if seen.insert(blob.digest.clone()) {
                        found.push(blob.digest.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the images of a document that `docker load` could load.
    fn images(&self, root: &Document) -> Result<Vec<Manifest>, Error> {
        let mut images = Vec::new();
        for digest in self.reach(root)? {
            let document = if digest == *root.digest() { Some(root) } else { self.document(&digest) };
            let Some(document) = document else { continue };
            let Ok(ParsedDocument::Manifest(manifest)) = document.parse() else { continue };
            if is_image(&manifest) && manifest.layers.iter().all(|layer| self.has_blob(layer)) {
                images.push(manifest);
            }
        }
        Ok(images)
    }

    fn config(&self, blob: &Descriptor) -> Result<Config, Error> {
        let doing = || format!("read config {}", blob.digest);
        if blob.size > CONFIG_MAX {
            return Err(Error::bad_input(doing(), format!("it has more than {CONFIG_MAX} bytes")));
        }
        let mut bytes = Vec::new();
        let content: Box<dyn Read + Send> = match self.pending.blobs.get(&blob.digest) {
            Some(pending) => pending.reader(),
            None => {
                let member = self.archive.blob(&blob.digest);
                let member = member.ok_or_else(|| Error::not_found(doing(), "there is no such blob"))?;
                Box::new(self.archive.tar.content(&self.archive.tar.members()[member]))
            }
        };
        image_model::digest::Verified::new(content, &blob.digest, blob.size, "config")
            .read_to_end(&mut bytes)
            .map_err(|e| Error::from_io(doing(), e))?;
        Config::parse(&bytes).map_err(|e| e.at(&format!("config {}", blob.digest)))
    }

    /// Returns the platform that a single image declares.
    fn declared_platform(
        &self,
        document: &Document,
    ) -> Result<Option<image_model::platform::Platform>, Error> {
        match document.parse() {
            Ok(ParsedDocument::Manifest(manifest)) if is_image(&manifest) => {
                Ok(Some(self.config(&manifest.config)?.platform))
            }
            _ => Ok(None),
        }
    }

    /// Updates `manifest.json`, which has one image for each name: of an index, the one in the position of the old one.
    /// `followers` are items without a name that change with it.
    fn retag_list(
        &self,
        list: &ManifestJson,
        tag: &str,
        old: Option<&Digest>,
        images: &[Manifest],
        followers: &[usize],
    ) -> Result<ManifestJson, Error> {
        let edited = |e: image_model::manifest::DocumentError| e.at(&format!("the edited {MANIFEST_JSON}"));
        let named = if tag == UNNAMED { None } else { list.named(tag) };
        let item = named.or(followers.first().copied()).map(|i| &list.items[i]);
        let old_images = match old.and_then(|old| self.archive.documents.get(old)) {
            Some(old) => self.images(old)?,
            None => Vec::new(),
        };
        let shown = |image: &&Manifest| {
            item.is_some_and(|item| digest_of_path(&item.config).as_ref() == Some(&image.config.digest))
        };
        let place = old_images.iter().position(|image| shown(&image));
        let is_host = |image: &&Manifest| {
            self.config(&image.config)
                .is_ok_and(|config| config.platform.os == "linux" && config.platform.architecture == "amd64")
        };
        let chosen = images
            .iter()
            .find(shown)
            .or_else(|| images.get(place?).filter(|_| images.len() == old_images.len()))
            .or_else(|| images.iter().find(is_host))
            .or_else(|| images.first());
        let Some(image) = chosen else {
            let list = list.without(followers).map_err(edited)?;
            return if named.is_some() { list.untag(tag).map_err(edited) } else { Ok(list) };
        };
        let diff_ids = self.config(&image.config)?.diff_ids;
        check_layers(&image.layers, &diff_ids)
            .map_err(|why| Error::bad_input(format!("write image {}", image.config.digest), why))?;
        // Paths of layers that stay keep their spelling.
        let spelled = item.map_or(&[][..], |item| &item.layers);
        let path = |(i, layer): (usize, &Descriptor)| {
            let same = spelled.get(i).filter(|path| digest_of_path(path).as_ref() == Some(&layer.digest));
            same.cloned().unwrap_or_else(|| blob_path(&layer.digest))
        };
        let layers: Vec<String> = image.layers.iter().enumerate().map(path).collect();
        let config = blob_path(&image.config.digest);
        let followed = list.repointed(followers, &config, &layers).map_err(edited)?;
        match (tag, named, followers) {
            (UNNAMED, _, []) => followed.retag_item(None, tag, &config, &layers),
            (_, None, [_, ..]) => Ok(followed),
            _ => followed.retag(tag, &config, &layers),
        }
        .map_err(edited)
    }
}

/// Returns whether a manifest is an image: artifacts and attestations have other config or layer types.
fn is_image(manifest: &Manifest) -> bool {
    let is_layer =
        |layer: &Descriptor| layer.media_type.contains(".image.") && layer.media_type.contains(".tar");
    matches!(manifest.config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
        && manifest.layers.iter().all(is_layer)
}

/// Returns what the index referenced and does not reference any more. What it never referenced is left alone.
fn dropped(
    contents: &Contents<'_>,
    before: &IndexJson,
    after: &IndexJson,
    list: Option<&ManifestJson>,
    document: &Document,
) -> Result<Vec<Digest>, Error> {
    let reach = |index: &IndexJson| -> Result<BTreeSet<Digest>, Error> {
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        for entry in &index.entries {
            let known = contents.document(&entry.digest);
            let root = known.or_else(|| (entry.digest == *document.digest()).then_some(document));
            if let Some(root) = root {
                contents.walk(root, 0, false, &mut seen, &mut found)?;
            }
        }
        Ok(found.into_iter().collect())
    };
    let (before, after) = (reach(before)?, reach(after)?);
    let listed: BTreeSet<Digest> = list
        .iter()
        .flat_map(|list| &list.items)
        .flat_map(|item| item.layers.iter().chain([&item.config]))
        .filter_map(|path| digest_of_path(path))
        .collect();
    let gone = before.difference(&after).filter(|digest| !listed.contains(*digest));
    Ok(gone.cloned().collect())
}
