//! The label in a config, and what follows from it in manifests and indexes: bytes to bytes.
//!
//! Only the values that must change change. Key order, spacing, unknown keys and every other byte stay.

use crate::manifest::{Descriptor, Document, DocumentError, read_platform};
use crate::platform::Platform;
use crate::raw_json::{self, JsonError, JsonObject, Splice};
use base64::Engine as _;

/// What came of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched {
    /// The label is right: nothing is written, the digest stays.
    Unchanged,
    Changed(Vec<u8>),
}

/// How literally a label must say the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchRule {
    /// A person named it: a variant that was asked for is written out.
    Explicit,
    /// An index entry says it: default variants of arm64 and amd64 need not be written.
    IndexEntry,
}

/// Says `wanted` in an image config.
pub fn patch_config(config: &[u8], wanted: &Platform, ask: MatchRule) -> Result<Patched, DocumentError> {
    let object = JsonObject::parse(config)?;
    let label = read_platform(config, &object)?;
    let right = match ask {
        MatchRule::Explicit => label.satisfies(wanted),
        MatchRule::IndexEntry => label.satisfies_entry(wanted),
    };
    if right {
        return Ok(Patched::Unchanged);
    }
    let mut splice = Splice::default();
    splice_label(config, &object, &label, wanted, &mut splice)?;
    Ok(Patched::Changed(splice.apply(config)))
}

/// Writes the platform's keys where they differ. A key that is missing goes where the document's own writer would have
/// put it: among sorted keys in their order, else behind its kin.
fn splice_label(
    input: &[u8],
    object: &JsonObject,
    label: &Platform,
    wanted: &Platform,
    splice: &mut Splice,
) -> Result<(), JsonError> {
    // In the order in which they stand where they share a place.
    let mut set: Vec<(&str, String, &[&str])> = Vec::new();
    if label.architecture != wanted.architecture {
        set.push(("architecture", quoted(&wanted.architecture), &[]));
    }
    match &wanted.variant {
        Some(variant) if label.variant.as_ref() != Some(variant) => {
            set.push(("variant", quoted(variant), &["architecture"]));
        }
        Some(_) => {}
        // The old variant belongs to another machine, or is one that nobody asked for.
        None if label.variant.is_some() && !label.matches(wanted) => {
            splice.remove(input, object, "variant")?
        }
        None => {}
    }
    if label.os != wanted.os {
        set.push(("os", quoted(&wanted.os), &["architecture"]));
    }
    // A version and features belong to one system: of another one, they would be wrong.
    let other_system = label.os != wanted.os && !label.os.is_empty();
    match &wanted.os_version {
        Some(version) if label.os_version.as_ref() != Some(version) => {
            set.push(("os.version", quoted(version), &["os"]));
        }
        None if other_system && label.os_version.is_some() => splice.remove(input, object, "os.version")?,
        _ => {}
    }
    if !wanted.os_features.is_empty() && label.os_features != wanted.os_features {
        let list: Vec<String> = wanted.os_features.iter().map(|feature| quoted(feature)).collect();
        set.push(("os.features", format!("[{}]", list.join(",")), &["os.version", "os"]));
    } else if other_system && !label.os_features.is_empty() {
        splice.remove(input, object, "os.features")?;
    }
    if object.is_sorted() {
        set.sort();
    }
    for (key, value, kin) in set {
        match object.is_sorted() {
            true => splice.set_sorted(input, object, key, &value)?,
            false => splice.set(input, object, key, &value, kin)?,
        }
    }
    Ok(())
}

/// A JSON string. Platforms hold words only, but a value is never pasted unquoted.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The manifest with its config replaced: digest, size, and the inlined copy if there is one.
pub fn patch_manifest(manifest: &Document, config: &[u8]) -> Result<Document, DocumentError> {
    let input = manifest.bytes();
    let object = JsonObject::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"config\"".into());
    let member = object.unique(input, "config")?.ok_or_else(absent)?;
    let mut splice = Splice::default();
    let at = JsonObject::parse_at(input, &member.value_at, "config")?;
    splice_descriptor(input, &at, &Descriptor::of("", config), config, &mut splice)?;
    Document::new(splice.apply(input), Some(manifest.media_type()))
}

/// A manifest that belongs to another document, made to belong to what took that one's place.
pub fn patch_subject(manifest: &Document, subject: &Document) -> Result<Document, DocumentError> {
    let input = manifest.bytes();
    let object = JsonObject::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"subject\"".into());
    let member = object.unique(input, "subject")?.ok_or_else(absent)?;
    let mut splice = Splice::default();
    let at = JsonObject::parse_at(input, &member.value_at, "subject")?;
    splice_descriptor(input, &at, &subject.descriptor(), subject.bytes(), &mut splice)?;
    Document::new(splice.apply(input), Some(manifest.media_type()))
}

/// Digest, size and, where the content is inlined, `data`.
fn splice_descriptor(
    input: &[u8],
    object: &JsonObject,
    now: &Descriptor,
    content: &[u8],
    splice: &mut Splice,
) -> Result<(), JsonError> {
    splice.set(input, object, "digest", &quoted(now.digest.as_str()), &["mediaType"])?;
    splice.set(input, object, "size", &now.size.to_string(), &["digest", "mediaType"])?;
    if let Some(data) = object.unique(input, "data")?.filter(|data| input[data.value_at.clone()] != *b"null")
    {
        let encoded = base64::engine::general_purpose::STANDARD.encode(content);
        splice.replace(data.value_at.clone(), quoted(&encoded));
    }
    Ok(())
}

/// What changes in one entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange<'a> {
    /// Which entry, counted from 0.
    pub index: usize,
    /// The member as it is now; `None` leaves digest and size.
    pub document: Option<&'a Document>,
    /// The platform that the entry must say; `None` leaves it.
    pub platform: Option<&'a Platform>,
    /// The image that an attestation member speaks of, by its new digest.
    pub attested_digest: Option<&'a str>,
}

/// The index with these entries changed.
pub fn patch_index(index: &Document, changes: &[EntryChange<'_>]) -> Result<Document, DocumentError> {
    let input = index.bytes();
    let object = JsonObject::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"manifests\"".into());
    let list = object.unique(input, "manifests")?.ok_or_else(absent)?;
    let entries = raw_json::elements(input, &list.value_at, "manifests")?;
    let mut splice = Splice::default();
    for change in changes {
        let at = entries.get(change.index).ok_or_else(absent)?;
        let entry = JsonObject::parse_at(input, at, "manifests")?;
        if let Some(document) = change.document {
            splice_descriptor(input, &entry, &document.descriptor(), document.bytes(), &mut splice)?;
        }
        if let Some(platform) = change.platform {
            splice_platform(input, &entry, platform, &mut splice)?;
        }
        if let Some(subject) = change.attested_digest
            && let Some(annotations) = entry.unique(input, "annotations")?
        {
            let annotations = JsonObject::parse_at(input, &annotations.value_at, "annotations")?;
            splice.set(input, &annotations, "vnd.docker.reference.digest", &quoted(subject), &[])?;
        }
    }
    Document::new(splice.apply(input), Some(index.media_type()))
}

fn splice_platform(
    input: &[u8],
    entry: &JsonObject,
    wanted: &Platform,
    splice: &mut Splice,
) -> Result<(), DocumentError> {
    let there = entry.unique(input, "platform")?.filter(|p| input[p.value_at.clone()] != *b"null");
    let Some(member) = there else {
        let text = serde_json::to_string(wanted).map_err(|e| DocumentError::Shape(e.to_string()))?;
        splice.set(input, entry, "platform", &text, &["size", "digest", "mediaType"])?;
        return Ok(());
    };
    let object = JsonObject::parse_at(input, &member.value_at, "platform")?;
    let label = read_platform(input, &object)?;
    if !label.satisfies(wanted) {
        splice_label(input, &object, &label, wanted, splice)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
