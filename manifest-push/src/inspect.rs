//! Output of `inspect`: a table and JSON.

use error::text;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, DocumentError, ParsedDocument};
use image_store::tree::{Image, IndexNode, TreeNode};
use serde_json::{Value, json};

pub mod docker;
pub mod tool;

/// Returns a heading and a table with one row per member. `remedy` is the command that fixes a wrong platform.
pub fn text(name: &str, node: &TreeNode, remedy: &str) -> String {
    let document = node.document();
    let mut out = format!("Name:    {}\n", text::Escaped(name));
    out.push_str(&format!("Digest:  {} {}\n", document.digest(), document.bytes().len()));
    out.push_str(&format!("Type:    {}\n\n", document.media_type()));
    let rows: Vec<Vec<String>> =
        node.images().into_iter().map(|(entry, image)| row(entry, image, remedy)).collect();
    out.push_str(&cli::table(&["PLATFORM", "DIGEST", "SIZE", "LAYERS", "NOTE"], &rows));
    out
}

fn row(entry: Option<&Descriptor>, image: &Image, remedy: &str) -> Vec<String> {
    let declared = image.config.as_ref().map(|config| &config.parsed.platform);
    let listed = entry.and_then(|entry| entry.platform.as_ref());
    let note = match (entry.and_then(|entry| entry.attested_digest()), listed, declared) {
        (Some(subject), ..) => format!("attests {}", subject.get(7..19).unwrap_or(subject)),
        (None, Some(listed), Some(declared)) if image.is_runnable() && !declared.matches(listed) => {
            format!("config declares {declared}; fix: {remedy}")
        }
        _ if !image.is_runnable() => "artifact".into(),
        _ => String::new(),
    };
    let size: u64 = image.manifest.layers.iter().map(|layer| layer.size).sum();
    vec![
        listed.or(declared).map_or("-".into(), ToString::to_string),
        image.document.digest().to_string(),
        text::format_bytes(size),
        image.manifest.layers.len().to_string(),
        note,
    ]
}

/// `schemaVersion`, `name`, `digest`, `size`, `mediaType`, and `members`, each with `platform` (of the index entry, else of the
/// config), `declaredPlatform`, `digest`, `mediaType`, `attests`, `layers` and `bytes`.
pub fn json(name: &str, node: &TreeNode) -> Value {
    let document = node.document();
    let members: Vec<Value> = node
        .images()
        .into_iter()
        .map(|(entry, image)| {
            let declared = image.config.as_ref().map(|config| &config.parsed.platform);
            let bytes: u64 = image.manifest.layers.iter().map(|layer| layer.size).sum();
            json!({
                "platform": entry.and_then(|entry| entry.platform.as_ref()).or(declared),
                "declaredPlatform": declared,
                "digest": image.document.digest(),
                "mediaType": image.document.media_type(),
                "attests": entry.and_then(|entry| entry.attested_digest()),
                "layers": image.manifest.layers.len(),
                "bytes": bytes,
            })
        })
        .collect();
    json!({
        "schemaVersion": 2, "name": name, "digest": document.digest(), "size": document.bytes().len(),
        "mediaType": document.media_type(), "members": members,
    })
}

/// Builds the tree of an index that is not stored yet, over images that exist, also in indexes of their own.
pub fn index_node(root: Document, images: Vec<TreeNode>) -> Result<TreeNode, DocumentError> {
    let ParsedDocument::Index(index) = root.parse()? else {
        return Err(DocumentError::Shape("it is not an index".into()));
    };
    let mut members = Vec::new();
    for entry in &index.manifests {
        let found = images.iter().find_map(|node| member(node, &entry.digest));
        members.push(found.ok_or_else(|| DocumentError::Shape(format!("{} is missing", entry.digest)))?);
    }
    Ok(TreeNode::Index(IndexNode { document: root, index, members }))
}

fn member(node: &TreeNode, digest: &Digest) -> Option<TreeNode> {
    match node {
        node if node.digest() == digest => Some(node.clone()),
        TreeNode::Index(index) => index.members.iter().find_map(|inner| member(inner, digest)),
        TreeNode::Image(_) => None,
    }
}
