//! What an image and its index say, for people and for programs.

use error::text;
use image_model::manifest::Descriptor;
use image_store::tree::{Image, TreeNode};
use serde_json::{Value, json};

/// A table: one row an image, the index entry beside the label.
pub fn text(node: &TreeNode) -> String {
    let root = node.document();
    let mut out = format!("{}  {}\n", root.digest(), root.media_type());
    let rows: Vec<Vec<String>> = node.images().into_iter().map(|(entry, image)| row(entry, image)).collect();
    out.push_str(&cli::table(
        &["INDEX ENTRY", "LABEL", "LAYERS", "SIZE", "MANIFEST", "CONFIG", "NOTE"],
        &rows,
    ));
    out
}

fn row(entry: Option<&Descriptor>, image: &Image) -> Vec<String> {
    let said = entry.and_then(|entry| entry.platform.as_ref()).map_or("-".into(), ToString::to_string);
    let size: u64 = image.manifest.layers.iter().map(|layer| layer.size).sum();
    vec![
        said,
        label(image).unwrap_or_else(|| "-".into()),
        image.manifest.layers.len().to_string(),
        text::format_bytes(size),
        image.document.digest().short().to_string(),
        image.manifest.config.digest.short().to_string(),
        note(entry, image),
    ]
}

fn label(image: &Image) -> Option<String> {
    let config = image.config.as_ref()?;
    let platform = &config.parsed.platform;
    Some(if platform.architecture.is_empty() { "(none)".into() } else { platform.to_string() })
}

/// What a person should see about this image.
fn note(entry: Option<&Descriptor>, image: &Image) -> String {
    if let Some(subject) = entry.and_then(|entry| entry.attests()) {
        return format!("attests {}", subject.get(7..19).unwrap_or(subject));
    }
    if !image.is_runnable() {
        return "artifact".into();
    }
    let said = entry.and_then(|entry| entry.platform.as_ref());
    match (said, &image.config) {
        (Some(said), Some(config)) if !config.parsed.platform.answers_entry(said) => {
            "the label differs from the index".into()
        }
        _ => String::new(),
    }
}

/// The same as an object: `digest`, `mediaType`, and `images`, each with `entry`, `label`, `manifest`, `config`,
/// `layers` (digest, size, mediaType).
pub fn json(node: &TreeNode) -> Value {
    let images: Vec<Value> = node
        .images()
        .into_iter()
        .map(|(entry, image)| {
            let layers: Vec<Value> = image
                .manifest
                .layers
                .iter()
                .map(|layer| json!({"digest": layer.digest, "size": layer.size, "mediaType": layer.media_type}))
                .collect();
            json!({
                "entry": entry.and_then(|entry| entry.platform.as_ref()),
                "label": image.config.as_ref().map(|config| &config.parsed.platform),
                "attests": entry.and_then(|entry| entry.attests()),
                "runnable": image.is_runnable(),
                "manifest": image.document.digest(),
                "mediaType": image.document.media_type(),
                "config": image.manifest.config.digest,
                "layers": layers,
            })
        })
        .collect();
    json!({"digest": node.digest(), "mediaType": node.document().media_type(), "images": images})
}
