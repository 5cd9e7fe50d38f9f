//! The output of `inspect`, as text and as JSON.

use crate::select::LeafWithEntry;
use error::text;
use image_model::manifest::{Descriptor, Document};
use image_store::tree::{Image, TreeNode, UnreadNode};
use serde_json::{Value, json};

/// A table with one row for each of the `images` of `node`.
pub fn text(node: &TreeNode, images: &[LeafWithEntry<'_>]) -> String {
    let media_type = node.document().map_or("-", Document::media_type);
    let mut out = format!("{}  {media_type}\n", node.digest());
    let row = |(entry, node): &LeafWithEntry<'_>| match node {
        TreeNode::Image(image) => Some(row(*entry, image)),
        TreeNode::Unread(unread) => Some(unread_row(*entry, unread)),
        TreeNode::Index(_) => None,
    };
    let rows: Vec<Vec<String>> = images.iter().filter_map(row).collect();
    out.push_str(&cli::table(&["INDEX", "DECLARED", "LAYERS", "SIZE", "MANIFEST", "CONFIG", "NOTE"], &rows));
    out
}

fn row(entry: Option<&Descriptor>, image: &Image) -> Vec<String> {
    let index_platform =
        entry.and_then(|entry| entry.platform.as_ref()).map_or("-".into(), ToString::to_string);
    let size: u64 = image.manifest.layers.iter().map(|layer| layer.size).sum();
    vec![
        index_platform,
        declared(image).unwrap_or_else(|| "-".into()),
        image.manifest.layers.len().to_string(),
        text::format_bytes(size),
        image.document.digest().short().to_string(),
        image.manifest.config.digest.short().to_string(),
        note(entry, image),
    ]
}

fn unread_row(entry: Option<&Descriptor>, unread: &UnreadNode) -> Vec<String> {
    let index_platform = entry.and_then(|entry| entry.platform.as_ref());
    let note = unread.absent_part().unwrap_or_else(|| format!("cannot {}", unread.error));
    let unknown = || "-".to_string();
    vec![
        index_platform.map_or_else(unknown, ToString::to_string),
        unknown(),
        unknown(),
        unknown(),
        unread.digest.short().to_string(),
        unknown(),
        text::Escaped(&note).to_string(),
    ]
}

fn declared(image: &Image) -> Option<String> {
    let config = image.config.as_ref()?;
    let platform = &config.parsed.platform;
    Some(if platform.architecture.is_empty() { "(none)".into() } else { platform.to_string() })
}

/// A remark about this image; empty if there is none.
fn note(entry: Option<&Descriptor>, image: &Image) -> String {
    if let Some(subject) = entry.and_then(|entry| entry.attested_digest()) {
        return format!("attests {}", subject.get(7..19).unwrap_or(subject));
    }
    if !image.is_runnable() {
        return "artifact".into();
    }
    let index_platform = entry.and_then(|entry| entry.platform.as_ref());
    match (index_platform, &image.config) {
        (Some(index), Some(config)) if !config.parsed.platform.satisfies_entry(index) => {
            "declared platform differs from the index".into()
        }
        _ => String::new(),
    }
}

/// The JSON form: `schemaVersion`, `digest`, `mediaType`, and `images`, each with `indexPlatform`, `declaredPlatform`,
/// `attests`, `runnable`, `manifest`, `mediaType`, `config`, `layers` (digest, size, mediaType). An image that could not be
/// read has `absent` (what the store does not have, or null) and `error` as well.
pub fn json(node: &TreeNode, images: &[LeafWithEntry<'_>]) -> Value {
    let images: Vec<Value> = images
        .iter()
        .map(|(entry, node)| {
            let image = match node {
                TreeNode::Image(image) => image,
                TreeNode::Index(_) => return Value::Null,
                TreeNode::Unread(unread) => return unread_json(*entry, unread),
            };
            let layers: Vec<Value> = image
                .manifest
                .layers
                .iter()
                .map(|layer| json!({"digest": layer.digest, "size": layer.size, "mediaType": layer.media_type}))
                .collect();
            json!({
                "indexPlatform": entry.and_then(|entry| entry.platform.as_ref()),
                "declaredPlatform": image.config.as_ref().map(|config| &config.parsed.platform),
                "attests": entry.and_then(|entry| entry.attested_digest()),
                "runnable": image.is_runnable(),
                "manifest": image.document.digest(),
                "mediaType": image.document.media_type(),
                "config": image.manifest.config.digest,
                "layers": layers,
            })
        })
        .collect();
    json!({"schemaVersion": 2, "digest": node.digest(), "mediaType": node.document().map(Document::media_type), "images": images})
}

fn unread_json(entry: Option<&Descriptor>, unread: &UnreadNode) -> Value {
    json!({
        "indexPlatform": entry.and_then(|entry| entry.platform.as_ref()),
        "declaredPlatform": null,
        "attests": entry.and_then(|entry| entry.attested_digest()),
        "runnable": false,
        "manifest": unread.digest,
        "mediaType": entry.map(|entry| &entry.media_type),
        "config": null,
        "layers": [],
        "absent": unread.absent_part(),
        "error": format!("cannot {}", unread.error),
    })
}
