//! Reader of archives. It refuses what two readers of the same archive would interpret differently.

use super::{ArchiveLayer, FileIdentity, LayerDigests, NamedImage, Snapshot};
use crate::archive::format::index_json::{self, IndexJson};
use crate::archive::format::manifest_json::{ManifestItem, ManifestJson};
use crate::archive::format::names::{self, Naming};
use crate::archive::format::{
    INDEX_JSON, LIST_MAX, MANIFEST_JSON, OCI_LAYOUT, blob_path, check_layers, digest_in_name, digest_of_path,
    layer_media_type, make_manifest,
};
use crate::archive::tar::{ByteWrite, TarFile};
use crate::layout_tags::EntryTags;
use crate::store::UNNAMED;
use crate::tree::DEPTH_MAX;
use error::{Error, Exit, retry_interrupted};
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{
    CONFIG_MAX, Config, DOCUMENT_MAX, Descriptor, Document, Manifest, ParsedDocument, media_type,
};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Largest total size of manifests, which are kept in memory.
const DOCUMENTS_MAX: usize = 32 << 20;
/// Largest total size of manifests where each counts as often as entries refer to it.
const PARSED_MAX: usize = 256 << 20;
/// Most layers of one image; Docker's limit is 127.
const LAYERS_MAX: usize = 10_000;

/// What a manifest that cannot be read means for the rest of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// The other images can be read; nothing is written.
    Keep,
    /// The archive is refused.
    Refuse,
}

/// Reads the archive as if `writes` were written over it. `place` is its name in messages.
pub fn read(
    file: File,
    place: &str,
    naming: Naming,
    layer_digests: &LayerDigests,
    writes: &[ByteWrite],
    on_damage: OnDamage,
) -> Result<Snapshot, Error> {
    let doing = || format!("read \"{place}\"");
    let identity = FileIdentity::of(&file.metadata().map_err(|e| Error::from_io(doing(), e))?);
    refuse_other_formats(&file, &doing())?;
    let tar = TarFile::read_over(Arc::new(file), writes).map_err(|e| e.at(doing()))?;
    let snapshot = Snapshot::bare(tar, Some(identity), naming);
    let mut reader = Reader { snapshot, place, layer_digests, on_damage, document_bytes: 0, parsed_bytes: 0 };
    reader.read_lists()?;
    if reader.snapshot.index.is_some() {
        reader.read_layout()?;
    } else {
        reader.read_classic()?;
    }
    if reader.snapshot.documents.is_empty() {
        reader.snapshot.refuse_unreadable()?;
    }
    Ok(reader.snapshot)
}

/// Refuses compressed archives, since `docker save | gzip` is common, with a better message than "bad checksum".
fn refuse_other_formats(file: &File, doing: &str) -> Result<(), Error> {
    let mut head = [0; 6];
    let count = retry_interrupted(|| file.read_at(&mut head, 0)).map_err(|e| Error::from_io(doing, e))?;
    if count == 0 {
        return Err(Error::bad_input(doing, "the file is empty"));
    }
    let compressed = match layer_media_type(&head[..count]) {
        Ok(media_type::DOCKER_LAYER) => return Ok(()),
        Ok(media_type::DOCKER_LAYER_GZIP) => "gzip",
        Ok(_) => "zstd",
        Err(other) => other,
    };
    Err(Error::bad_input(doing, format!("the archive is compressed with {compressed}"))
        .hint("decompress it first"))
}

/// Builds a snapshot step by step.
struct Reader<'a> {
    snapshot: Snapshot,
    place: &'a str,
    layer_digests: &'a LayerDigests,
    on_damage: OnDamage,
    document_bytes: usize,
    parsed_bytes: usize,
}

impl Reader<'_> {
    fn refuse(&self, why: impl Into<String>) -> Error {
        Error::bad_input(format!("read \"{}\"", self.place), why)
    }

    fn integrity(&self, why: impl Into<String>) -> Error {
        Error::integrity(format!("read \"{}\"", self.place), why)
    }

    /// Returns the content of a member, or `None` if it is absent.
    fn small(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let tar = &self.snapshot.tar;
        if tar.find(path.as_bytes()).is_none() {
            return Ok(None);
        }
        self.file(path, limit).map(|(_, bytes)| Some(bytes))
    }

    fn file(&self, path: &str, limit: u64) -> Result<(Vec<usize>, Vec<u8>), Error> {
        let doing = || format!("read \"{path}\" of \"{}\"", self.place);
        let tar = &self.snapshot.tar;
        let members = tar.resolve(path.as_bytes()).map_err(|e| e.at(doing()))?;
        let Some(member) = members.last().map(|i| &tar.members()[*i]) else {
            return Err(self.refuse(format!("\"{path}\" is not in the archive")));
        };
        let bytes = tar.read_small(member, limit).map_err(|e| e.at(doing()))?;
        Ok((members, bytes))
    }

    fn read_lists(&mut self) -> Result<(), Error> {
        let what = |path: &str| format!("\"{path}\" of \"{}\"", self.place);
        let is_layout = self.snapshot.naming == Naming::Layout;
        let list = match self.small(MANIFEST_JSON, LIST_MAX)? {
            Some(_) if is_layout => None,
            Some(bytes) => Some(ManifestJson::parse(bytes).map_err(|e| e.at(&what(MANIFEST_JSON)))?),
            None => None,
        };
        let has_layout = self.snapshot.tar.find(OCI_LAYOUT.as_bytes()).is_some();
        let index = match self.small(INDEX_JSON, LIST_MAX)? {
            Some(bytes) if has_layout => Some(IndexJson::parse(bytes).map_err(|e| e.at(&what(INDEX_JSON)))?),
            _ => None,
        };
        match (&list, &index) {
            (None, None) if is_layout => {
                return Err(self
                    .refuse("it has no oci-layout and index.json, so it is no OCI layout in a tar")
                    .hint("if it is a `docker save` archive, use docker-archive:FILE"));
            }
            (None, None) => {
                return Err(self
                    .refuse("it has no manifest.json, so it is no `docker save` archive")
                    .hint("load and save archives of Docker before 1.10 again"));
            }
            (Some(list), None) if list.items.is_empty() => {
                return Err(self.refuse("its manifest.json lists no image"));
            }
            _ => {}
        }
        (self.snapshot.list, self.snapshot.index) = (list, index);
        Ok(())
    }

    fn items(&self) -> Vec<ManifestItem> {
        self.snapshot.list.as_ref().map(|list| list.items.clone()).unwrap_or_default()
    }

    /// Reads the classic form of Docker before 25, podman and skopeo: paths to configs and layers, no manifests.
    fn read_classic(&mut self) -> Result<(), Error> {
        for item in self.items() {
            let (digest, config) = match self.read_item(&item) {
                Ok(digests) => digests,
                // A file of this image is absent, or its config is damaged.
                Err(error) if self.on_damage == OnDamage::Keep && error.kind == Exit::BadInput => {
                    // It has no manifest, so any digest stands for it that no other image has.
                    let text = format!("{} {}", item.config, item.layers.join(" "));
                    let digest = Digest::of(text.as_bytes());
                    self.snapshot.unreadable.insert(digest.clone(), error);
                    (digest.clone(), digest)
                }
                Err(error) => return Err(error),
            };
            self.name_item(&item, &digest, None)?;
            self.snapshot.item_documents.push(digest);
            self.snapshot.item_configs.push(config);
        }
        Ok(())
    }

    /// Reads an image of the classic form. Returns the digests of its manifest, which is made here, and of its config.
    fn read_item(&mut self, item: &ManifestItem) -> Result<(Digest, Digest), Error> {
        let (config, diff_ids) = self.read_config(item)?;
        let mut layers = Vec::new();
        for (path, diff_id) in item.layers.iter().zip(&diff_ids) {
            layers.push(self.read_layer(path, diff_id)?.blob);
        }
        let document = make_manifest(&config, &layers)?;
        let digest = document.digest().clone();
        self.keep(document)?;
        self.snapshot.ids.entry(config.digest.clone()).or_insert_with(|| digest.clone());
        Ok((digest, config.digest))
    }

    /// Reads an item's config and compares it with its name and the number of layers.
    fn read_config(&mut self, item: &ManifestItem) -> Result<(Descriptor, Vec<Digest>), Error> {
        let (members, bytes) = self.file(&item.config, CONFIG_MAX)?;
        let what = format!("\"{}\" of \"{}\"", item.config, self.place);
        let config = Config::parse(&bytes).map_err(|e| e.at(&what))?;
        let blob = Descriptor::of(media_type::DOCKER_CONFIG, &bytes);
        if let Some(named) = digest_in_name(&item.config).filter(|digest| !digest.matches(&bytes)) {
            return Err(self.integrity(format!(
                "config \"{}\" should be {named}; its content is {}",
                item.config, blob.digest
            )));
        }
        let (layers, diff_ids) = (item.layers.len(), config.diff_ids.len());
        if layers != diff_ids {
            let why = format!(
                "manifest.json lists {layers} layers for \"{}\", the config has {diff_ids} diff_ids",
                item.config
            );
            return Err(self.refuse(why));
        }
        if layers > LAYERS_MAX {
            return Err(self.refuse(format!("an image has {layers} layers; the limit is {LAYERS_MAX}")));
        }
        if let Some(member) = members.last() {
            self.snapshot.blobs.insert(blob.digest.clone(), *member);
        }
        Ok((blob, config.diff_ids))
    }

    /// Returns a layer's file and digest. An uncompressed layer has the digest that the config declares, which is verified
    /// when the layer is read. The digest of a compressed one must be computed.
    fn read_layer(&mut self, path: &str, diff_id: &Digest) -> Result<ArchiveLayer, Error> {
        if let Some(known) = self.snapshot.layers.get(path) {
            self.refuse_two_digests(path, known, diff_id)?;
            return Ok(known.clone());
        }
        let doing = || format!("read \"{path}\" of \"{}\"", self.place);
        let tar = &self.snapshot.tar;
        let members = tar.resolve(path.as_bytes()).map_err(|e| e.at(doing()))?;
        let file = *members.last().ok_or_else(|| self.refuse(format!("\"{path}\" is not in the archive")))?;
        let member = &tar.members()[file];
        let mut head = Vec::new();
        let mut content = tar.content(member);
        content.by_ref().take(6).read_to_end(&mut head).map_err(|e| Error::from_io(doing(), e))?;
        let media_type = layer_media_type(&head)
            .map_err(|how| self.refuse(format!("layer \"{path}\" is compressed with {how}")))?;
        let known = self.snapshot.layers.values().find(|known| known.members.last() == Some(&file));
        if let Some(known) = known {
            self.refuse_two_digests(path, known, diff_id)?;
        }
        let digest = match known {
            _ if media_type == media_type::DOCKER_LAYER => diff_id.clone(),
            Some(known) => known.blob.digest.clone(),
            None => match digest_of_path(path).or_else(|| self.layer_digests.get(&member.data_at).cloned()) {
                Some(digest) => digest,
                None => hash_layer(tar.content(member)).map_err(|e| Error::from_io(doing(), e))?,
            },
        };
        let layer = ArchiveLayer { blob: Descriptor::new(media_type, digest, member.size), members };
        self.snapshot.blobs.insert(layer.blob.digest.clone(), file);
        self.snapshot.layers.insert(path.into(), layer.clone());
        Ok(layer)
    }

    /// Refuses an uncompressed layer for which two configs declare different digests.
    fn refuse_two_digests(&self, path: &str, known: &ArchiveLayer, diff_id: &Digest) -> Result<(), Error> {
        let plain = known.blob.media_type == media_type::DOCKER_LAYER;
        match plain && known.blob.digest != *diff_id {
            true => Err(self.integrity(format!(
                "layer \"{path}\" should be {} in one image and {diff_id} in another",
                known.blob.digest
            ))),
            false => Ok(()),
        }
    }

    fn keep(&mut self, document: Document) -> Result<(), Error> {
        if self.snapshot.documents.contains_key(document.digest()) {
            return Ok(());
        }
        self.document_bytes += document.bytes().len();
        if self.document_bytes > DOCUMENTS_MAX {
            return Err(self.refuse(format!("its manifests exceed {DOCUMENTS_MAX} bytes")));
        }
        self.snapshot.documents.insert(document.digest().clone(), document);
        Ok(())
    }

    fn name_item(
        &mut self,
        item: &ManifestItem,
        document: &Digest,
        entry: Option<usize>,
    ) -> Result<(), Error> {
        if item.tags.is_empty() && entry.is_none() {
            self.snapshot.unnamed.push(NamedImage {
                shown: UNNAMED.into(),
                document: document.clone(),
                entry,
            });
        }
        for tag in &item.tags {
            self.name(tag, document, entry)?;
        }
        Ok(())
    }

    fn name(&mut self, shown: &str, document: &Digest, entry: Option<usize>) -> Result<(), Error> {
        let named = NamedImage { shown: shown.into(), document: document.clone(), entry };
        let key = self.snapshot.naming.key(shown);
        match self.snapshot.names.get(&key) {
            Some(other) if other.document != *document => {
                Err(self.refuse(format!("two images in it have the name \"{key}\", so readers differ")))
            }
            Some(_) => Ok(()),
            None => {
                self.snapshot.names.insert(key, named);
                Ok(())
            }
        }
    }

    /// Reads the form of Docker 25 and later and of BuildKit: an OCI layout, with `manifest.json` for older readers.
    fn read_layout(&mut self) -> Result<(), Error> {
        let entries = self.snapshot.index.as_ref().map(|index| index.entries.clone()).unwrap_or_default();
        let mut images = Vec::new();
        for entry in &entries {
            let mut found = Vec::new();
            self.read_below(entry, 0, &mut found)?;
            let is_known = self.snapshot.documents.contains_key(&entry.digest)
                || self.snapshot.unreadable.contains_key(&entry.digest);
            if !is_known {
                return Err(self
                    .refuse(format!("index.json references {}, which is not in the archive", entry.digest)));
            }
            images.push(found);
        }
        let items = self.items();
        // The entry of an item is one with the same name if there is one, otherwise the first with its config.
        for item in &items {
            let (config, diff_ids) = self.read_config(item)?;
            let fits = |entry: &usize| images[*entry].iter().any(|(_, m)| m.config.digest == config.digest);
            let mut candidates: Vec<usize> = (0..entries.len()).filter(fits).collect();
            candidates.sort_by_key(|entry| {
                !index_json::image_name(&entries[*entry]).is_some_and(|tag| item.has(&tag))
            });
            let unreadable = || {
                (0..entries.len()).find(|entry| {
                    let is_named = index_json::image_name(&entries[*entry]).is_some_and(|tag| item.has(&tag));
                    is_named && self.snapshot.unreadable.contains_key(&entries[*entry].digest)
                })
            };
            if let (true, Some(entry)) = (candidates.is_empty(), unreadable()) {
                self.snapshot.item_documents.push(entries[entry].digest.clone());
                self.snapshot.item_configs.push(config.digest);
                continue;
            }
            let Some(entry) = candidates.first().copied() else {
                let why = format!("manifest.json lists image {}, index.json does not", config.digest);
                return Err(self.refuse(why).hint("save the image again"));
            };
            self.check_item(item, &config.digest, &diff_ids, &images[entry])?;
            for tag in &item.tags {
                let named = entries
                    .iter()
                    .position(|e| index_json::image_name(e).is_some_and(|n| names::same(&n, tag)));
                let entry = named.unwrap_or(entry);
                if !candidates.contains(&entry) {
                    return Err(self.refuse(format!(
                        "manifest.json and index.json have different images for \"{tag}\""
                    )));
                }
                self.name(tag, &entries[entry].digest, Some(entry))?;
            }
            self.snapshot.item_documents.push(entries[entry].digest.clone());
            self.snapshot.item_configs.push(config.digest);
        }
        if self.snapshot.naming == Naming::Layout {
            return self.name_entries(&entries);
        }
        for (i, entry) in entries.iter().enumerate() {
            let has_name = self.snapshot.names.values().any(|named| named.entry == Some(i));
            match (index_json::image_name(entry), index_json::ref_name(entry)) {
                (Some(name), _) => self.name(&name, &entry.digest, Some(i))?,
                (None, Some(tag)) if !has_name => self.name(&tag, &entry.digest, Some(i))?,
                (None, _) if has_name => {}
                (None, _) => {
                    let named =
                        NamedImage { shown: UNNAMED.into(), document: entry.digest.clone(), entry: Some(i) };
                    self.snapshot.unnamed.push(named);
                }
            }
        }
        Ok(())
    }

    /// Names the images by the tags of the entries. A tag of several images names none of them.
    fn name_entries(&mut self, entries: &[Descriptor]) -> Result<(), Error> {
        let tags = EntryTags::new(entries);
        for (i, tag) in tags.tags.iter().enumerate() {
            let digest = &entries[i].digest;
            if tags.is_unique(tag) {
                self.name(tag, digest, Some(i))?;
                continue;
            }
            let (shown, document) = (UNNAMED.into(), digest.clone());
            self.snapshot.unnamed.push(NamedImage { shown, document, entry: Some(i) });
        }
        Ok(())
    }

    /// Reads a document of a layout with everything below it, and adds its images to `found`.
    fn read_below(
        &mut self,
        entry: &Descriptor,
        depth: usize,
        found: &mut Vec<(Digest, Manifest)>,
    ) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(self.refuse(format!("indexes are nested deeper than {DEPTH_MAX}")));
        }
        let document = match self.snapshot.documents.get(&entry.digest) {
            Some(document) => document.clone(),
            None if self.snapshot.unreadable.contains_key(&entry.digest) => return Ok(()),
            None => {
                let Some(bytes) = self.small(&blob_path(&entry.digest), DOCUMENT_MAX)? else {
                    self.snapshot.absent.insert(entry.digest.clone());
                    return Ok(());
                };
                match self.document(entry, bytes) {
                    Ok(document) => document,
                    Err(error) if self.on_damage == OnDamage::Keep => {
                        self.snapshot.unreadable.insert(entry.digest.clone(), error);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.keep(document.clone())?;
        self.parsed_bytes += document.bytes().len();
        if self.parsed_bytes > PARSED_MAX {
            return Err(self.refuse("its indexes reference the same images too often"));
        }
        match document.parse().map_err(|e| e.at(&format!("manifest {}", entry.digest)))? {
            ParsedDocument::Manifest(manifest) => {
                let id = manifest.config.digest.clone();
                self.snapshot.ids.entry(id).or_insert_with(|| entry.digest.clone());
                found.push((entry.digest.clone(), manifest));
            }
            ParsedDocument::Index(index) => {
                for member in &index.manifests {
                    self.read_below(member, depth + 1, found)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the document of an entry, which these bytes must be.
    fn document(&self, entry: &Descriptor, bytes: Vec<u8>) -> Result<Document, Error> {
        let what = format!("manifest {} of \"{}\"", entry.digest, self.place);
        if bytes.len() as u64 != entry.size {
            let why = format!("it has {} bytes; its descriptor declares {}", bytes.len(), entry.size);
            return Err(Error::integrity(format!("read {what}"), why));
        }
        let document = Document::new(bytes, Some(&entry.media_type)).map_err(|e| e.at(&what))?;
        document.parse().map_err(|e| e.at(&what))?;
        document
            .with_digest(&entry.digest)
            .ok_or_else(|| Error::integrity(format!("read {what}"), "its content has another digest"))
    }

    /// Checks that an item and its manifest have the same layers: `docker load` reads those of the item, containerd those of
    /// the manifest.
    fn check_item(
        &mut self,
        item: &ManifestItem,
        config: &Digest,
        diff_ids: &[Digest],
        images: &[(Digest, Manifest)],
    ) -> Result<(), Error> {
        for path in &item.layers {
            let doing = format!("read \"{path}\" of \"{}\"", self.place);
            let members = self.snapshot.tar.resolve(path.as_bytes()).map_err(|e| e.at(doing))?;
            let digest = digest_of_path(path);
            let descriptor = images
                .iter()
                .flat_map(|(_, manifest)| &manifest.layers)
                .find(|layer| Some(&layer.digest) == digest.as_ref());
            if let Some(blob) = descriptor.cloned() {
                self.snapshot.layers.insert(path.clone(), ArchiveLayer { blob, members });
            }
        }
        let same = |manifest: &Manifest| {
            manifest.config.digest == *config
                && manifest.layers.len() == item.layers.len()
                && manifest
                    .layers
                    .iter()
                    .zip(&item.layers)
                    .all(|(layer, path)| digest_of_path(path).as_ref() == Some(&layer.digest))
        };
        let Some((_, manifest)) = images.iter().find(|(_, manifest)| same(manifest)) else {
            return Err(
                self.refuse(format!("manifest.json and index.json have different layers for image {config}"))
            );
        };
        check_layers(&manifest.layers, diff_ids)
            .map_err(|why| self.integrity(format!("image {config} is damaged: {why}")))
    }
}

fn hash_layer(mut content: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = retry_interrupted(|| content.read(&mut buffer))?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
    }
}
