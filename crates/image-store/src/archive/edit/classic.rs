//! Plan of a tag in an archive of the classic form, which has paths to configs and layers and no manifests.
//!
//! Such archives may also have `repositories`, `ID/json` and `ID/VERSION` for Docker before 1.10. All later versions, and
//! podman, skopeo and crane, read `manifest.json` alone where there is one (moby, image/tarexport/load.go), so these
//! files are left as they are: the platform in them is not fixed, and new archives do not have them. Only the files of
//! a layer that is removed are removed with it.

use super::{MemberChange, TarEdit};
use crate::archive::format::manifest_json::{ManifestItem, ManifestJson};
use crate::archive::format::{
    MANIFEST_JSON, check_layers, digest_in_name, layer_media_type, make_manifest, names,
};
use crate::archive::pending::{NewContent, Pending};
use crate::archive::snapshot::Snapshot;
use crate::archive::tar::MemberKind;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Config, Descriptor, Document, Manifest, ParsedDocument, media_type};
use std::collections::BTreeSet;
use std::io::Read;

/// Returns the changes after which `tag` refers to `document`.
pub fn plan_tag(
    archive: &Snapshot,
    pending: &Pending,
    tag: &str,
    document: &Document,
) -> Result<TarEdit, Error> {
    let doing = || format!("tag \"{tag}\"");
    let ParsedDocument::Manifest(manifest) =
        document.parse().map_err(|e| e.at(&format!("manifest {}", document.digest())))?
    else {
        return Err(Error::bad_input(
            doing(),
            "an archive of this form holds single images, and this is an index",
        )
        .hint("use oci:DIR, or a new docker-archive:FILE"));
    };
    let list = archive.list.as_ref().ok_or_else(|| Error::bad_input(doing(), "no manifest.json"))?;
    let wanted = ClassicImage::new(archive, pending, &manifest, document)?;
    let old = list.named(tag).map(|i| &list.items[i]);
    let same = (0..list.items.len()).find(|i| archive.item_documents.get(*i) == Some(document.digest()));
    let (config_path, layer_paths) = match same {
        Some(i) => (list.items[i].config.clone(), list.items[i].layers.clone()),
        None => wanted.paths(archive, old, tag)?,
    };
    let changed = list
        .retag(tag, &config_path, &layer_paths)
        .map_err(|e| e.at(&format!("the edited {MANIFEST_JSON}")))?;

    let mut edit = TarEdit { before: archive.tar.find(MANIFEST_JSON.as_bytes()), ..TarEdit::default() };
    let dropped = dropped_members(archive, list, &changed)?;
    edit.changes.extend(dropped.iter().map(|member| (*member, MemberChange::Drop)));
    add_config(&mut edit, archive, &wanted, old, &config_path, &dropped)?;
    for ((path, layer), bytes) in layer_paths.iter().zip(&manifest.layers).zip(&wanted.layers) {
        let is_there = archive.layers.contains_key(path) || edit.added.iter().any(|(added, _)| added == path);
        if let Some(bytes) = bytes.as_ref().filter(|_| !is_there) {
            // A member that is not listed may have the same name and content.
            if archive.tar.find(path.as_bytes()).is_some() {
                refuse_taken(archive, path, &layer.digest)?;
                continue;
            }
            edit.added.push((path.clone(), bytes.clone()));
        }
    }
    if changed.bytes() != list.bytes() {
        edit.set(archive, MANIFEST_JSON, changed.bytes());
    }
    Ok(edit)
}

/// The wanted image in the form that a classic archive can hold.
struct ClassicImage {
    config_digest: Digest,
    config_bytes: Vec<u8>,
    layer_digests: Vec<Digest>,
    /// Content of new layers; `None` for a layer that the archive has.
    layers: Vec<Option<NewContent>>,
}

impl ClassicImage {
    fn new(
        archive: &Snapshot,
        pending: &Pending,
        manifest: &Manifest,
        document: &Document,
    ) -> Result<Self, Error> {
        let doing = || format!("write image {}", document.digest());
        let absent = |what: &Descriptor| {
            Error::bad_input(doing(), format!("it references {}, which is absent", what.digest))
                .hint("write that first")
        };
        let config_bytes =
            read_whole(archive, pending, &manifest.config)?.ok_or_else(|| absent(&manifest.config))?;
        let config =
            Config::parse(&config_bytes).map_err(|e| e.at(&format!("config {}", manifest.config.digest)))?;
        let mut layers = Vec::new();
        let mut described = Vec::new();
        for layer in &manifest.layers {
            if let Some(known) = archive.layers.values().find(|known| known.blob.digest == layer.digest) {
                described.push(known.blob.clone());
                layers.push(None);
                continue;
            }
            let bytes = pending.blobs.get(&layer.digest).ok_or_else(|| absent(layer))?;
            let mut head = Vec::new();
            bytes.reader().take(6).read_to_end(&mut head).map_err(|e| Error::from_io(doing(), e))?;
            let kind = layer_media_type(&head).map_err(|how| {
                Error::bad_input(doing(), format!("layer {} is compressed with {how}", layer.digest))
            })?;
            described.push(Descriptor::new(kind, layer.digest.clone(), bytes.size()));
            layers.push(Some(bytes.clone()));
        }
        check_layers(&described, &config.diff_ids).map_err(|why| Error::bad_input(doing(), why))?;
        let kept = make_manifest(
            &Descriptor::new(
                media_type::DOCKER_CONFIG,
                manifest.config.digest.clone(),
                config_bytes.len() as u64,
            ),
            &described,
        )?;
        // A reader must find this manifest under the tag, and a classic archive cannot store it.
        if kept.digest() != document.digest() {
            let why = "an archive of this form has no manifests, and this one would be lost";
            return Err(Error::bad_input(doing(), why).hint("write to a new docker-archive:FILE"));
        }
        Ok(Self {
            config_digest: manifest.config.digest.clone(),
            config_bytes,
            layer_digests: manifest.layers.iter().map(|layer| layer.digest.clone()).collect(),
            layers,
        })
    }

    /// Returns the paths of config and layers.
    fn paths(
        &self,
        archive: &Snapshot,
        old: Option<&ManifestItem>,
        tag: &str,
    ) -> Result<(String, Vec<String>), Error> {
        let mut layers = Vec::new();
        for (i, digest) in self.layer_digests.iter().enumerate() {
            let has_it =
                |path: &String| archive.layers.get(path).is_some_and(|known| known.blob.digest == *digest);
            let same_place = old.and_then(|old| old.layers.get(i)).filter(|path| has_it(path));
            let path = same_place.or_else(|| archive.layers.keys().find(|path| has_it(path)));
            layers.push(path.cloned().unwrap_or_else(|| format!("{}/layer.tar", digest.hex())));
        }
        let hex = self.config_digest.hex();
        let items = archive.list.as_ref().map_or(&[][..], |list| &list.items);
        let known = archive.blob(&self.config_digest);
        let known = known.and_then(|_| {
            items.iter().find(|item| digest_in_name(&item.config).as_ref() == Some(&self.config_digest))
        });
        if let Some(item) = known {
            return Ok((item.config.clone(), layers));
        }
        // The new config is named as the old one is. A name without a digest can be kept only by replacing the old config.
        let config = match old {
            Some(old) => match digest_in_name(&old.config) {
                Some(digest) => old.config.replace(digest.hex(), hex),
                None => {
                    // Two items may spell the path of the same file differently.
                    let file = archive.file(&old.config);
                    let only_user =
                        items.iter().filter(|item| archive.file(&item.config) == file).count() == 1;
                    let keeps_a_name = old.tags.iter().any(|other| !names::same(other, tag));
                    match only_user && !keeps_a_name {
                        true => old.config.clone(),
                        false => format!("{hex}.json"),
                    }
                }
            },
            None => format!("{hex}.json"),
        };
        Ok((config, layers))
    }
}

/// Returns a whole config.
fn read_whole(archive: &Snapshot, pending: &Pending, blob: &Descriptor) -> Result<Option<Vec<u8>>, Error> {
    let doing = || format!("read config {}", blob.digest);
    if let Some(bytes) = pending.blobs.get(&blob.digest) {
        let mut out = Vec::new();
        bytes.reader().read_to_end(&mut out).map_err(|e| Error::from_io(doing(), e))?;
        return Ok(Some(out));
    }
    let Some(member) = archive.blob(&blob.digest) else { return Ok(None) };
    let member = &archive.tar.members()[member];
    let bytes =
        archive.tar.read_small(member, image_model::manifest::CONFIG_MAX).map_err(|e| e.at(doing()))?;
    match blob.digest.matches(&bytes) {
        true => Ok(Some(bytes)),
        false => Err(Error::integrity(doing(), "the content has another digest")),
    }
}

/// Replaces the old config if it is dropped, or adds the new one.
fn add_config(
    edit: &mut TarEdit,
    archive: &Snapshot,
    wanted: &ClassicImage,
    old: Option<&ManifestItem>,
    path: &str,
    dropped: &BTreeSet<usize>,
) -> Result<(), Error> {
    let replaced = old.and_then(|old| archive.tar.resolve(old.config.as_bytes()).ok()?.pop());
    let is_there = archive.tar.find(path.as_bytes());
    if let Some(member) = is_there {
        let is_replaced = replaced == Some(member) && old.is_some_and(|old| old.config == path);
        if !is_replaced {
            return refuse_taken(archive, path, &wanted.config_digest);
        }
        let member = &archive.tar.members()[member];
        let bytes = archive.tar.read_small(member, image_model::manifest::CONFIG_MAX);
        if bytes.is_ok_and(|bytes| bytes == wanted.config_bytes) {
            return Ok(());
        }
    }
    let bytes = NewContent::from(wanted.config_bytes.as_slice());
    match replaced.filter(|member| dropped.contains(member) || is_there == Some(*member)) {
        Some(member) => {
            edit.changes.insert(member, MemberChange::Replace { name: path.into(), bytes });
        }
        None => edit.added.push((path.into(), bytes)),
    }
    Ok(())
}

/// Refuses a new member whose name is taken by a member with other content.
fn refuse_taken(archive: &Snapshot, path: &str, digest: &Digest) -> Result<(), Error> {
    let Some(member) = archive.tar.find(path.as_bytes()) else { return Ok(()) };
    let member = &archive.tar.members()[member];
    let content =
        image_model::digest::Verified::new(archive.tar.content(member), digest, member.size, "member");
    let is_same =
        member.kind == MemberKind::File && std::io::copy(&mut { content }, &mut std::io::sink()).is_ok();
    match is_same {
        true => Ok(()),
        false => {
            Err(Error::bad_input(format!("add \"{path}\""), "the archive has another member of that name"))
        }
    }
}

/// Returns the members that no image uses any more, with the files for Docker before 1.10 beside them.
fn dropped_members(
    archive: &Snapshot,
    before: &ManifestJson,
    after: &ManifestJson,
) -> Result<BTreeSet<usize>, Error> {
    let tar = &archive.tar;
    let used = |list: &ManifestJson| -> BTreeSet<usize> {
        let paths = list.items.iter().flat_map(|item| item.layers.iter().chain([&item.config]));
        paths.filter_map(|path| tar.resolve(path.as_bytes()).ok()).flatten().collect()
    };
    let (used_before, used_after) = (used(before), used(after));
    let mut dropped: BTreeSet<usize> = used_before.difference(&used_after).copied().collect();
    if dropped.is_empty() {
        return Ok(dropped);
    }
    // podman's `ID/layer.tar` are links that are not listed. They are dropped with the layer that they lead to.
    for (i, member) in tar.members().iter().enumerate() {
        if !matches!(member.kind, MemberKind::Symlink | MemberKind::HardLink) || used_after.contains(&i) {
            continue;
        }
        let members = tar.resolve(tar.name(member)).unwrap_or_default();
        if members.last().is_some_and(|file| dropped.contains(file)) {
            dropped.insert(i);
        }
    }
    let directories: Vec<Vec<u8>> = dropped
        .iter()
        .filter_map(|i| tar.name(&tar.members()[*i]).strip_suffix(b"/layer.tar").map(<[u8]>::to_vec))
        .collect();
    for directory in directories {
        let beside = |file: &[u8]| tar.find(&[directory.as_slice(), file].concat());
        dropped.extend([beside(b"/json"), beside(b"/VERSION"), beside(b"")].into_iter().flatten());
    }
    Ok(dropped.difference(&used_after).copied().collect())
}
