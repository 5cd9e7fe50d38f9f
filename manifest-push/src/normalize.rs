//! Nested indexes and the platforms of entries put in order: the members keep their digests.

use image_model::manifest::{Document, DocumentError, ParsedDocument, media_type};
use image_model::patch::{EntryChange, patch_index};
use image_model::platform::Platform;
use image_model::raw_json::{self, JsonObject, Splice};
use image_store::tree::{IndexNode, TreeNode};

/// Returns the index with the entries of nested indexes in place of those; `None` if it has none. An entry that stands twice is
/// taken once.
///
/// # Errors
/// [`DocumentError::Shape`] if a nested index could not be read, or no entry would be left.
pub fn flattened(node: &IndexNode) -> Result<Option<IndexNode>, DocumentError> {
    let is_nested = |(entry, member): (&image_model::manifest::Descriptor, &TreeNode)| {
        matches!(member, TreeNode::Index(_)) || media_type::is_index(&entry.media_type)
    };
    if !node.index.manifests.iter().zip(&node.members).any(is_nested) {
        return Ok(None);
    }
    let mut found = Vec::new();
    collect(node, &mut found)?;
    if found.is_empty() {
        return Err(DocumentError::Shape("its nested indexes have no members".into()));
    }
    let input = node.document.bytes();
    let object = JsonObject::parse(input)?;
    let list = manifests(input, &object)?;
    let own = raw_json::elements(input, &list, "manifests")?;
    let (lead, tail) = match (own.first(), own.last()) {
        (Some(first), Some(last)) => (&input[list.start + 1..first.start], &input[last.end..list.end - 1]),
        _ => (&input[0..0], &input[0..0]),
    };
    let apart = match own.as_slice() {
        [first, second, ..] => input[first.end..second.start].to_vec(),
        _ => [b",", lead].concat(),
    };
    let entries = found.iter().map(|(entry, _)| *entry).collect::<Vec<_>>().join(apart.as_slice());
    let mut splice = Splice::default();
    splice.replace(list.clone(), [b"[", lead, entries.as_slice(), tail, b"]"].concat());
    let document = Document::new(splice.apply(input), Some(node.document.media_type()))?;
    let members = found.into_iter().map(|(_, member)| member.clone()).collect();
    with_members(document, members).map(Some)
}

/// Collects the entries as they are written, with their members, at any depth.
fn collect<'a>(node: &'a IndexNode, out: &mut Vec<(&'a [u8], &'a TreeNode)>) -> Result<(), DocumentError> {
    let input = node.document.bytes();
    let list = manifests(input, &JsonObject::parse(input)?)?;
    let written = raw_json::elements(input, &list, "manifests")?;
    for ((entry, member), at) in node.index.manifests.iter().zip(&node.members).zip(written) {
        match member {
            TreeNode::Index(inner) => collect(inner, out)?,
            TreeNode::Unread(_) if media_type::is_index(&entry.media_type) => {
                let why = format!("the nested index {} could not be read", entry.digest);
                return Err(DocumentError::Shape(why));
            }
            TreeNode::Image(_) | TreeNode::Unread(_) => {
                if !out.iter().any(|(other, _)| *other == &input[at.clone()]) {
                    out.push((&input[at], member));
                }
            }
        }
    }
    Ok(())
}

/// Returns the index with the names that engines look for in place of platform aliases, and with the declared platform of
/// the image in entries without one; `None` if nothing changes.
///
/// # Errors
/// [`DocumentError::Json`] if readers may disagree about a platform.
pub fn normalized(node: &IndexNode) -> Result<Option<IndexNode>, DocumentError> {
    let entries = node.index.manifests.iter().zip(&node.members).enumerate();
    let platforms: Vec<(usize, Platform)> = entries
        .filter(|(_, (entry, _))| entry.attested_digest().is_none())
        .filter_map(|(at, (entry, member))| match &entry.platform {
            Some(written) => Some((at, written.canonical())).filter(|(_, name)| name != written),
            None => declared(member).map(|platform| (at, platform.canonical())),
        })
        .collect();
    if platforms.is_empty() {
        return Ok(None);
    }
    let changes: Vec<EntryChange<'_>> = platforms
        .iter()
        .map(|(index, platform)| EntryChange {
            index: *index,
            document: None,
            platform: Some(platform),
            attested_digest: None,
        })
        .collect();
    with_members(patch_index(&node.document, &changes)?, node.members.clone()).map(Some)
}

/// The declared platform of an image, if a container can be made of it.
fn declared(member: &TreeNode) -> Option<&Platform> {
    let TreeNode::Image(image) = member else { return None };
    let platform = &image.config.as_ref().filter(|_| image.is_runnable())?.parsed.platform;
    (!platform.os.is_empty() && !platform.architecture.is_empty()).then_some(platform)
}

fn with_members(document: Document, members: Vec<TreeNode>) -> Result<IndexNode, DocumentError> {
    match document.parse()? {
        ParsedDocument::Index(index) => Ok(IndexNode { document, index, members }),
        ParsedDocument::Manifest(_) => Err(DocumentError::Shape("it is no index".into())),
    }
}

fn manifests(input: &[u8], object: &JsonObject) -> Result<std::ops::Range<usize>, DocumentError> {
    let absent = || DocumentError::Shape("it has no \"manifests\"".into());
    Ok(object.unique(input, "manifests")?.ok_or_else(absent)?.value_at.clone())
}

#[cfg(test)]
mod tests;
