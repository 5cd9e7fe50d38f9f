//! Reproducible gzip, and import of images whose layers are not compressed, as `docker save` writes them.

use crate::store::oci_layout::OciLayout;
use crate::store::{ImageSource, ImageStore, Pointer, read_blob};
use error::Error;
use flate2::bufread::GzEncoder;
use flate2::{Compression, GzBuilder};
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{CONFIG_MAX, Config, Descriptor, Document, ParsedDocument, media_type};
use serde::Serialize;
use std::io::{self, BufReader, Read};

/// Reader that compresses its content with gzip. The same content gives the same bytes: there is no time, name or
/// operating system in the header, and input is compressed in pieces of one size however `content` returns it.
pub struct Gzip<R: Read> {
    encoder: GzEncoder<BufReader<Hashing<R>>>,
}

/// Level 9 is three times slower and 0.1 % smaller on layers.
const LEVEL: u32 = 6;
const PIECE: usize = 64 << 10;

impl<R: Read> Gzip<R> {
    /// Compresses `content`.
    pub fn new(content: R) -> Self {
        let content = Hashing { inner: content, hasher: Hasher::sha256() };
        let builder = GzBuilder::new().mtime(0).operating_system(255);
        let encoder = builder.buf_read(BufReader::with_capacity(PIECE, content), Compression::new(LEVEL));
        Self { encoder }
    }

    /// Returns the digest of the uncompressed content that was read: a layer's diff ID.
    pub fn finish(self) -> Digest {
        self.encoder.into_inner().into_inner().hasher.finish()
    }
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.encoder.read(buffer)
    }
}

/// Hashes the content and fills each buffer, so that short reads do not change the result.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.hasher.update(&buffer[..filled]);
        Ok(filled)
    }
}

/// The media types that an image is written with. Config and layers are the same in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestFormat {
    /// `application/vnd.docker.*`, schema 2.
    Docker,
    /// `application/vnd.oci.*`.
    Oci,
}

impl ManifestFormat {
    /// The media type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Docker => media_type::DOCKER_MANIFEST,
            Self::Oci => media_type::OCI_MANIFEST,
        }
    }

    /// The media type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Self::Docker => media_type::DOCKER_CONFIG,
            Self::Oci => media_type::OCI_CONFIG,
        }
    }

    /// The media type of a layer compressed with gzip.
    pub fn layer_gzip(self) -> &'static str {
        match self {
            Self::Docker => media_type::DOCKER_LAYER_GZIP,
            Self::Oci => media_type::OCI_LAYER_GZIP,
        }
    }
}

/// Copies one image: its config byte for byte, its layers compressed unless they are already, and a new manifest. `Ok`
/// means that `out` has all of it, without a tag.
///
/// # Errors
/// `BadInput` for an index, `Integrity` if the layers do not match the diff IDs of the config.
pub fn import_compressed(
    source: &dyn ImageSource,
    at: &Pointer,
    out: &OciLayout,
    format: ManifestFormat,
) -> Result<Document, Error> {
    let doing = || format!("import \"{at}\" of \"{}\"", source.display_name());
    let document = source.read_document(at)?;
    let ParsedDocument::Manifest(image) =
        document.parse().map_err(|e| e.at(&format!("manifest \"{at}\"")))?
    else {
        return Err(Error::bad_input(doing(), "it is an index, not one image"));
    };
    let config_bytes = read_blob(source, &image.config, CONFIG_MAX)?;
    let config =
        Config::parse(&config_bytes).map_err(|e| e.at(&format!("config {}", image.config.digest)))?;
    if config.diff_ids.len() != image.layers.len() {
        let (ids, layers) = (config.diff_ids.len(), image.layers.len());
        return Err(Error::integrity(
            doing(),
            format!("its config has {ids} diff IDs, its manifest {layers} layers"),
        ));
    }
    let mut layers = Vec::new();
    for (layer, diff_id) in image.layers.iter().zip(&config.diff_ids) {
        layers.push(import_layer(source, layer, diff_id, out, format)?);
    }
    let described = Descriptor::new(format.config(), image.config.digest.clone(), image.config.size);
    out.write_blob(&described, &|| Ok(Box::new(config_bytes.as_slice())))?;
    let manifest = manifest(format, described, layers)?;
    out.write_document(&manifest)?;
    Ok(manifest)
}

/// Returns the manifest of one image, with keys in the order in which Docker writes them.
///
/// # Errors
/// `BadInput` if the descriptors do not make a valid manifest.
pub fn manifest(
    format: ManifestFormat,
    config: Descriptor,
    layers: Vec<Descriptor>,
) -> Result<Document, Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Written {
        schema_version: u8,
        media_type: &'static str,
        config: Descriptor,
        layers: Vec<Descriptor>,
    }
    let written = Written { schema_version: 2, media_type: format.manifest(), config, layers };
    let doing = "write a manifest";
    let bytes = serde_json::to_vec(&written).map_err(|e| Error::bad_input(doing, e.to_string()))?;
    Document::new(bytes, None).map_err(|e| Error::bad_input(doing, e.to_string()))
}

fn import_layer(
    source: &dyn ImageSource,
    layer: &Descriptor,
    diff_id: &Digest,
    out: &OciLayout,
    format: ManifestFormat,
) -> Result<Descriptor, Error> {
    if media_type::is_foreign_layer(&layer.media_type) {
        return Ok(layer.clone());
    }
    let doing = || format!("compress layer {} of \"{}\"", layer.digest, source.display_name());
    let mut content = source.open_blob(layer)?;
    let mut head = Vec::new();
    content.by_ref().take(4).read_to_end(&mut head).map_err(|e| Error::from_io(doing(), e))?;
    if let Some(compressed) = compressed_type(&head, format) {
        let found = Descriptor::new(compressed, layer.digest.clone(), layer.size);
        out.write_blob(&found, &|| source.open_blob(layer))?;
        return Ok(found);
    }
    let mut gzip = Gzip::new(head.as_slice().chain(content));
    let written = out.add_blob(format.layer_gzip(), &mut gzip)?;
    let found = gzip.finish();
    match found == *diff_id {
        true => Ok(written),
        false => {
            Err(Error::integrity(doing(), format!("its content is {found}; the config declares {diff_id}")))
        }
    }
}

/// Returns the media type of a layer that begins with these bytes, or `None` if it is not compressed. Older archives have
/// no media types, and some have wrong ones.
fn compressed_type(head: &[u8], format: ManifestFormat) -> Option<&'static str> {
    match head {
        [0x1f, 0x8b, ..] => Some(format.layer_gzip()),
        // Docker has no media type of its own for zstd; its engine reads OCI's.
        [0x28, 0xb5, 0x2f, 0xfd] => Some(media_type::OCI_LAYER_ZSTD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use error::Exit;
    use flate2::bufread::MultiGzDecoder;

    /// A reader that returns pieces of an odd size.
    struct Crumbs<'a>(&'a [u8], usize);

    impl Read for Crumbs<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(buffer.len()).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn gzip(content: impl Read) -> (Vec<u8>, Digest) {
        let mut gzip = Gzip::new(content);
        let mut bytes = Vec::new();
        gzip.read_to_end(&mut bytes).unwrap();
        (bytes, gzip.finish())
    }

    /// Returns 300 KiB of moderately compressible text.
    fn content() -> Vec<u8> {
        (0..40_000_u32)
            .flat_map(|i| format!("{:x} ", i.wrapping_mul(2_654_435_761) >> 8).into_bytes())
            .collect()
    }

    #[test]
    fn the_same_content_has_the_same_bytes_for_any_read_size() {
        let content = content();
        let (whole, diff_id) = gzip(content.as_slice());
        assert_eq!(diff_id, Digest::of(&content));
        for size in [1, 7, 4096, 65_537] {
            assert!(gzip(Crumbs(&content, size)) == (whole.clone(), diff_id.clone()), "pieces of {size}");
        }
        let mut back = Vec::new();
        MultiGzDecoder::new(whole.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == content);
        // If this digest changes, all images that these tools build have another digest.
        assert_eq!(
            Digest::of(&whole).to_string(),
            "sha256:45db53c56b1fcb161aae636075a169a0f01e42cd89cf7de8b5957d1e823c2426"
        );
    }

    /// Returns an image with these layers in a memory store; the config has these diff IDs.
    fn image(layers: &[(&str, &[u8])], diff_ids: &[Digest]) -> (MemoryStore, Pointer) {
        let store = MemoryStore::new();
        let ids: Vec<String> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
        // Unusual spaces and key order, which must be preserved.
        let config = format!(
            "{{ \"os\":\"linux\",\"architecture\": \"amd64\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
            ids.join(",")
        );
        let config = store.add_blob(media_type::DOCKER_CONFIG, config.as_bytes());
        let layers = layers.iter().map(|(kind, bytes)| store.add_blob(kind, bytes)).collect();
        let document = manifest(ManifestFormat::Docker, config, layers).unwrap();
        store.write_document(&document).unwrap();
        (store, Pointer::from(document.digest()))
    }

    #[test]
    fn an_image_is_imported_with_its_config_unchanged_and_its_layers_compressed() {
        let plain = content();
        let (zipped, zipped_id) = gzip(&b"other"[..]);
        let layers =
            [(media_type::DOCKER_LAYER, plain.as_slice()), (media_type::DOCKER_LAYER, zipped.as_slice())];
        let (store, at) = image(&layers, &[Digest::of(&plain), zipped_id]);
        let dir = tempfile::tempdir().unwrap();
        let out = OciLayout::open_or_create(dir.path()).unwrap();
        for format in [ManifestFormat::Docker, ManifestFormat::Oci] {
            let document = import_compressed(&store, &at, &out, format).unwrap();
            assert_eq!(document.media_type(), format.manifest());
            assert_eq!(import_compressed(&store, &at, &out, format).unwrap(), document);
            let ParsedDocument::Manifest(found) = document.parse().unwrap() else { panic!("an index") };
            let ParsedDocument::Manifest(before) = store.read_document(&at).unwrap().parse().unwrap() else {
                panic!()
            };
            assert_eq!(found.config.digest, before.config.digest);
            assert_eq!(
                read_blob(&out, &found.config, 1 << 20).unwrap(),
                read_blob(&store, &before.config, 1 << 20).unwrap()
            );
            assert!(found.layers.iter().all(|layer| layer.media_type == format.layer_gzip()));
            assert_eq!(found.layers[0].digest, Digest::of(&gzip(plain.as_slice()).0));
            assert_eq!(found.layers[1].digest, Digest::of(&zipped));
        }
    }

    #[test]
    fn a_layer_that_differs_from_the_config_is_refused() {
        let layers = [(media_type::DOCKER_LAYER, &b"layer"[..])];
        let check = |diff_ids: &[Digest]| {
            let (store, at) = image(&layers, diff_ids);
            let dir = tempfile::tempdir().unwrap();
            let out = OciLayout::open_or_create(dir.path()).unwrap();
            import_compressed(&store, &at, &out, ManifestFormat::Docker).unwrap_err().kind
        };
        assert_eq!(check(&[Digest::of(b"another")]), Exit::Integrity);
        assert_eq!(check(&[]), Exit::Integrity);
    }
}
