//! Contents of archives: lists of images, image names, paths of configs and layers.

use super::tar::plain_name;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use serde::Serialize;

pub mod index_json;
pub mod manifest_json;
pub mod names;

/// Largest `manifest.json` and `index.json`, which have some hundred bytes for each image.
pub const LIST_MAX: u64 = 4 << 20;

pub const MANIFEST_JSON: &str = "manifest.json";
pub const INDEX_JSON: &str = "index.json";
pub const OCI_LAYOUT: &str = "oci-layout";

/// Returns the path of a blob in a layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Returns the digest in the path of a layout's blob, however the path is spelled.
pub fn digest_of_path(path: &str) -> Option<Digest> {
    let plain = plain_name(path.as_bytes()).ok()?;
    let (algorithm, hex) = str::from_utf8(&plain).ok()?.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Checks that a config has one diff ID for each layer, and that uncompressed layers have theirs as digest. `docker load`
/// refuses anything else, after unpacking it.
pub fn check_layers(layers: &[Descriptor], diff_ids: &[Digest]) -> Result<(), String> {
    if layers.len() != diff_ids.len() {
        return Err(format!("it has {} layers, its config {} diff_ids", layers.len(), diff_ids.len()));
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let is_plain = matches!(layer.media_type.as_str(), media_type::DOCKER_LAYER | media_type::OCI_LAYER);
        if is_plain && layer.digest != *diff_id {
            return Err(format!("its layer {} should be {diff_id} by its config", layer.digest));
        }
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MadeManifest<'a> {
    schema_version: u8,
    media_type: &'static str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// Returns a manifest for an image without one: always the same bytes for the same config and layers.
pub fn make_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Document, Error> {
    let doing = || format!("describe the image {}", config.digest);
    let manifest =
        MadeManifest { schema_version: 2, media_type: media_type::DOCKER_MANIFEST, config, layers };
    let bytes = serde_json::to_vec(&manifest).map_err(|e| Error::bad_input(doing(), e.to_string()))?;
    Document::new(bytes, None).map_err(|e| e.at(&doing()))
}

/// Returns the media type of a layer that begins with these bytes, or the name of a compression that no engine reads.
pub fn layer_media_type(head: &[u8]) -> Result<&'static str, &'static str> {
    // RFC 1952, RFC 8878, and the signatures of bzip2 and xz.
    match head {
        [0x1f, 0x8b, ..] => Ok(media_type::DOCKER_LAYER_GZIP),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(DOCKER_LAYER_ZSTD),
        [b'B', b'Z', b'h', ..] => Err("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
        _ => Ok(media_type::DOCKER_LAYER),
    }
}

/// containerd's media type (images/mediatypes.go); Docker has none.
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// Returns the digest in the name of a config: `HEX.json` (Docker), `sha256:HEX` (crane, kaniko), `blobs/sha256/HEX`.
pub fn digest_in_name(path: &str) -> Option<Digest> {
    let file = path.rsplit('/').next()?;
    let file = file.strip_suffix(".json").unwrap_or(file);
    format!("sha256:{}", file.strip_prefix("sha256:").unwrap_or(file)).parse().ok()
}
