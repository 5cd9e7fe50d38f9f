//! The embedded builder: an image of files, on a base image or from scratch, without a container engine and without root.
//!
//! The same files give the same image, bit for bit, at any time, in any directory and for any user.

use crate::spec::FilesRecipe;
use crate::work_dir::records::Records;
use config::Inherited;
use error::Error;
use error::Exit;
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{CONFIG_MAX, Config, Descriptor, Document, Index, ParsedDocument, media_type};
use image_model::platform::Platform;
use image_store::compress::{Gzip, ManifestFormat, manifest};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer, read_blob};
use layer::Layer;
use std::io;

mod base_tree;
mod config;
mod layer;

/// An image to build.
pub struct RootfsJob<'a> {
    /// Its platform.
    pub platform: &'a Platform,
    /// Its files and its config.
    pub recipe: &'a FilesRecipe,
    /// The time of everything in the image, in seconds since 1970: SOURCE_DATE_EPOCH, or 0.
    pub epoch: u64,
    /// Records of the layers that earlier runs compressed.
    pub records: &'a Records,
}

/// A base image, the `from` of a recipe.
pub struct Base<'a> {
    /// The store that has it.
    pub source: &'a dyn ImageSource,
    /// Its tag or digest.
    pub at: Pointer,
    /// Its name in the spec.
    pub name: String,
}

/// Builds an image and writes it to `out`, without a tag. `Ok` means that everything it references is in `out`.
pub fn build_image(job: &RootfsJob<'_>, base: Option<Base<'_>>, out: &OciLayout) -> Result<Document, Error> {
    let doing = || format!("build the image for {}", job.platform);
    let created = image_model::date::rfc3339(job.epoch).ok_or_else(|| {
        Error::bad_input(doing(), format!("the time {} is after the year 9999", job.epoch))
            .hint("set SOURCE_DATE_EPOCH to seconds since 1970")
    })?;
    let mut layer = Layer::default();
    for (source, to) in &job.recipe.copy {
        layer.add(source, to)?;
    }
    let (inherited, mut layers) = match base {
        Some(base) => take_base(&base, job.platform, out)?,
        None => (Inherited::default(), Vec::new()),
    };
    if !layers.is_empty() && !layer.is_empty() {
        layer.resolve_paths(&base_tree::BaseTree::read(out, &layers, &inherited.diff_ids)?)?;
    }
    let mut diff_id = None;
    if !layer.is_empty() {
        let (compressed, content) = compress(&layer, job, out)?;
        layers.push(compressed);
        diff_id = Some(content);
    }
    let config = config::write(job.platform, &job.recipe.run, inherited, diff_id, &created)?;
    let config = out.add_blob(media_type::OCI_CONFIG, config.as_slice())?;
    let document = manifest(ManifestFormat::Oci, config, layers)?;
    out.write_document(&document)?;
    Ok(document)
}

/// Writes the layer to `out` and returns its descriptor and its diff ID. A layer that an earlier run compressed is found by its
/// diff ID, because hashing is ten times faster than compressing.
fn compress(layer: &Layer, job: &RootfsJob<'_>, out: &OciLayout) -> Result<(Descriptor, Digest), Error> {
    let doing = || format!("read the files for {}", job.platform);
    let mut hashed = Hashed(Hasher::sha256());
    io::copy(&mut layer.tar(job.epoch), &mut hashed).map_err(|e| Error::from_io(doing(), e))?;
    let diff_id = hashed.0.finish();
    if let Some(kept) = job.records.get::<Descriptor>("layer", &diff_id)
        && out.has_blob(&kept)?
    {
        return Ok((kept, diff_id));
    }
    let mut content = Gzip::new(layer.tar(job.epoch));
    let compressed = out.add_blob(media_type::OCI_LAYER_GZIP, &mut content)?;
    // If files changed after the first reading, the second one counts.
    let diff_id = content.finish();
    job.records.keep("layer", &diff_id, &compressed)?;
    Ok((compressed, diff_id))
}

struct Hashed(Hasher);

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies the layers of the base image, and reads its config.
fn take_base(
    base: &Base<'_>,
    wanted: &Platform,
    out: &OciLayout,
) -> Result<(Inherited, Vec<Descriptor>), Error> {
    let doing = || format!("use base image \"{}\" for {wanted}", base.name);
    let (document, entry) = choose(base, wanted)?;
    let content = document.parse().map_err(|e| e.at(&format!("base image \"{}\"", base.name)))?;
    let ParsedDocument::Manifest(image) = content else {
        return Err(Error::bad_input(doing(), "it is an index within an index"));
    };
    let bytes = read_blob(base.source, &image.config, CONFIG_MAX)?;
    let parsed =
        Config::parse(&bytes).map_err(|e| e.at(&format!("the config of base image \"{}\"", base.name)))?;
    let mut said = parsed.platform.clone();
    // Many configs of arm images declare no variant, but their index entry does.
    if let Some(entry) =
        entry.filter(|entry| entry.architecture == said.architecture && said.variant.is_none())
    {
        said.variant = entry.variant;
    }
    if !said.matches(wanted) {
        return Err(Error::new(Exit::CheckFailed, doing(), format!("its config declares {said}"))
            .hint(format!("name a base image for {wanted}")));
    }
    if parsed.diff_ids.len() != image.layers.len() {
        let why =
            format!("its config names {} layers, but it has {}", parsed.diff_ids.len(), image.layers.len());
        return Err(Error::integrity(doing(), why));
    }
    let mut layers = Vec::new();
    for found in &image.layers {
        let layer = Descriptor {
            media_type: oci_layer(&found.media_type).to_string(),
            urls: found.urls.clone(),
            ..Descriptor::new("", found.digest.clone(), found.size)
        };
        if layer.urls.is_empty() {
            out.write_blob(&layer, &|| base.source.open_blob(found))?;
        }
        layers.push(layer);
    }
    Ok((Inherited::read(&base.name, &bytes, &parsed)?, layers))
}

/// The base image itself, or the matching member of its index with the index platform.
fn choose(base: &Base<'_>, wanted: &Platform) -> Result<(Document, Option<Platform>), Error> {
    let document = base.source.read_document(&base.at)?;
    let ParsedDocument::Index(index) =
        document.parse().map_err(|e| e.at(&format!("base image \"{}\"", base.name)))?
    else {
        return Ok((document, None));
    };
    let fitting = index.manifests.iter().find(|m| m.platform.as_ref().is_some_and(|p| p.matches(wanted)));
    let Some(member) = fitting else {
        let doing = format!("use base image \"{}\" for {wanted}", base.name);
        return Err(Error::not_found(doing, format!("it has only {}", offered(&index))));
    };
    let document = base.source.read_document(&Pointer::from(&member.digest))?;
    Ok((document, member.platform.clone()))
}

/// The platforms of an index, for a message.
fn offered(index: &Index) -> String {
    let platforms = index.manifests.iter().filter_map(|m| m.platform.as_ref()).filter(|p| !p.is_unknown());
    let names: Vec<String> = platforms.map(Platform::to_string).collect();
    match names.is_empty() {
        true => "members without a platform".to_string(),
        false => names.join(", "),
    }
}

/// The OCI media type of a layer. The bytes are the same.
fn oci_layer(media_type: &str) -> &str {
    match media_type {
        media_type::DOCKER_LAYER => media_type::OCI_LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        other => other,
    }
}

#[cfg(test)]
mod tests;
