//! Output of `inspect`: a table and JSON.

use error::text;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, DocumentError, ParsedDocument};
use image_store::tree::{Image, IndexNode, TreeNode, UnreadNode};
use serde_json::{Value, json};

pub mod docker;
pub mod tool;

/// Returns a heading and a table with one row per member. `remedy` is the command that fixes a wrong platform.
pub fn text(name: &str, node: &TreeNode, remedy: &str) -> String {
    let document = node.document();
    let size = document.map_or("-".into(), |document| document.bytes().len().to_string());
    let mut out = format!("Name:    {}\n", text::Escaped(name));
    out.push_str(&format!("Digest:  {} {size}\n", node.digest()));
    out.push_str(&format!("Type:    {}\n\n", document.map_or("-", Document::media_type)));
    let row = |(entry, node): (Option<&Descriptor>, &TreeNode)| match node {
        TreeNode::Image(image) => Some(row(entry, image, remedy)),
        TreeNode::Unread(unread) => Some(unread_row(entry, unread)),
        TreeNode::Index(_) => None,
    };
    let rows: Vec<Vec<String>> = node.leaves().into_iter().filter_map(row).collect();
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

fn unread_row(entry: Option<&Descriptor>, unread: &UnreadNode) -> Vec<String> {
    let listed = entry.and_then(|entry| entry.platform.as_ref());
    let note = unread.absent_part().unwrap_or_else(|| format!("cannot {}", unread.error));
    let unknown = || "-".to_string();
    vec![
        listed.map_or_else(unknown, ToString::to_string),
        unread.digest.to_string(),
        unknown(),
        unknown(),
        text::Escaped(&note).to_string(),
    ]
}

/// `schemaVersion`, `name`, `digest`, `size`, `mediaType`, and `members`, each with `platform` (of the index entry, else of the
/// config), `declaredPlatform`, `digest`, `mediaType`, `attests`, `layers` and `bytes`. A member that could not be read has
/// `absent` (what the store does not have, or null) and `error` as well.
pub fn json(name: &str, node: &TreeNode) -> Value {
    let document = node.document();
    let members: Vec<Value> = node
        .leaves()
        .into_iter()
        .map(|(entry, node)| {
            let image = match node {
                TreeNode::Image(image) => image,
                TreeNode::Index(_) => return Value::Null,
                TreeNode::Unread(unread) => return unread_json(entry, unread),
            };
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
        "schemaVersion": 2, "name": name, "digest": node.digest(), "size": document.map(|document| document.bytes().len()),
        "mediaType": document.map(Document::media_type), "members": members,
    })
}

fn unread_json(entry: Option<&Descriptor>, unread: &UnreadNode) -> Value {
    json!({
        "platform": entry.and_then(|entry| entry.platform.as_ref()),
        "declaredPlatform": null,
        "digest": unread.digest,
        "mediaType": entry.map(|entry| &entry.media_type),
        "attests": entry.and_then(|entry| entry.attested_digest()),
        "layers": null,
        "bytes": null,
        "absent": unread.absent_part(),
        "error": format!("cannot {}", unread.error),
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
        TreeNode::Image(_) | TreeNode::Unread(_) => None,
    }
}
