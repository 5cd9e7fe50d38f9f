//! Edits of the platform in configs, and of the descriptors above them in manifests and indexes.
//!
//! All functions take bytes and return bytes. Only the values that must change are replaced: key order, spacing, unknown
//! keys and every other byte are preserved.

use crate::manifest::{Descriptor, Document, DocumentError, read_platform};
use crate::platform::Platform;
use crate::raw_json::{self, JsonError, JsonObject, Splice};
use base64::Engine as _;

/// Result of [`patch_config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched {
    /// The declared platform is correct already, so bytes and digest stay the same.
    Unchanged,
    /// The new bytes.
    Changed(Vec<u8>),
}

/// Strictness of the comparison of a declared platform with the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchRule {
    /// The user gave the platform: its variant must be written out.
    Explicit,
    /// The platform is that of an index entry: default variants of arm64 and amd64 may be missing.
    IndexEntry,
}

/// Declares `wanted` in an image config.
///
/// # Errors
/// If the config is not a JSON object, or readers disagree about its platform.
pub fn patch_config(config: &[u8], wanted: &Platform, rule: MatchRule) -> Result<Patched, DocumentError> {
    let object = JsonObject::parse(config)?;
    let declared = read_platform(config, &object)?;
    let is_correct = match rule {
        MatchRule::Explicit => declared.satisfies(wanted),
        MatchRule::IndexEntry => declared.satisfies_entry(wanted),
    };
    if is_correct {
        return Ok(Patched::Unchanged);
    }
    let mut splice = Splice::default();
    splice_platform_keys(config, &object, &declared, wanted, &mut splice)?;
    Ok(Patched::Changed(splice.apply(config)))
}

/// Replaces the platform keys that differ. A missing key is inserted where the writer of the document would have put it:
/// in order if the keys are sorted, otherwise after a related key.
fn splice_platform_keys(
    input: &[u8],
    object: &JsonObject,
    declared: &Platform,
    wanted: &Platform,
    splice: &mut Splice,
) -> Result<(), JsonError> {
    // Keys that are inserted at the same place get this order.
    let mut set: Vec<(&str, String, &[&str])> = Vec::new();
    if declared.architecture != wanted.architecture {
        set.push(("architecture", quoted(&wanted.architecture), &[]));
    }
    match &wanted.variant {
        Some(variant) if declared.variant.as_ref() != Some(variant) => {
            set.push(("variant", quoted(variant), &["architecture"]));
        }
        Some(_) => {}
        // The old variant belongs to another architecture, was not requested, or is an alias.
        None if declared.variant.is_some()
            && (!declared.matches(wanted) || declared.canonical().variant != declared.variant) =>
        {
            splice.remove(input, object, "variant")?
        }
        None => {}
    }
    if declared.os != wanted.os {
        set.push(("os", quoted(&wanted.os), &["architecture"]));
    }
    // os.version and os.features belong to one operating system and would be wrong for another.
    let is_other_os = declared.os != wanted.os && !declared.os.is_empty();
    match &wanted.os_version {
        Some(version) if declared.os_version.as_ref() != Some(version) => {
            set.push(("os.version", quoted(version), &["os"]));
        }
        None if is_other_os && declared.os_version.is_some() => splice.remove(input, object, "os.version")?,
        _ => {}
    }
    if !wanted.os_features.is_empty() && declared.os_features != wanted.os_features {
        let list: Vec<String> = wanted.os_features.iter().map(|feature| quoted(feature)).collect();
        set.push(("os.features", format!("[{}]", list.join(",")), &["os.version", "os"]));
    } else if is_other_os && !declared.os_features.is_empty() {
        splice.remove(input, object, "os.features")?;
    }
    if object.is_sorted() {
        set.sort();
    }
    for (key, value, related) in set {
        match object.is_sorted() {
            true => splice.set_sorted(input, object, key, &value)?,
            false => splice.set(input, object, key, &value, related)?,
        }
    }
    Ok(())
}

/// Returns a JSON string. Platforms contain no special characters, but no value is inserted without quoting.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the manifest with another config: digest, size and, if present, the inlined content of the descriptor.
///
/// # Errors
/// [`DocumentError::Shape`] if there is no `config`, [`DocumentError::Json`] if readers may disagree about a key that is changed.
pub fn patch_manifest(manifest: &Document, config: &[u8]) -> Result<Document, DocumentError> {
    patch_descriptor(manifest, "config", &Descriptor::of("", config), config)
}

/// Returns the manifest of a referrer with another subject.
///
/// # Errors
/// [`DocumentError::Shape`] if there is no `subject`, [`DocumentError::Json`] if readers may disagree about a key that is changed.
pub fn patch_subject(manifest: &Document, subject: &Document) -> Result<Document, DocumentError> {
    patch_descriptor(manifest, "subject", &subject.descriptor(), subject.bytes())
}

fn patch_descriptor(
    manifest: &Document,
    key: &str,
    now: &Descriptor,
    content: &[u8],
) -> Result<Document, DocumentError> {
    let input = manifest.bytes();
    let object = JsonObject::parse(input)?;
    let absent = || DocumentError::Shape(format!("it has no \"{key}\""));
    let member = object.unique(input, key)?.ok_or_else(absent)?;
    let mut splice = Splice::default();
    let at = JsonObject::parse_at(input, &member.value_at, key)?;
    splice_descriptor(input, &at, now, content, &mut splice)?;
    Document::new(splice.apply(input), Some(manifest.media_type()))
}

/// Replaces digest, size and, if the content is inlined, `data`.
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

/// Changes of one entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange<'a> {
    /// Position of the entry, from 0.
    pub index: usize,
    /// The new member; `None` preserves digest and size.
    pub document: Option<&'a Document>,
    /// The new index platform; `None` preserves it.
    pub platform: Option<&'a Platform>,
    /// The new digest of the image that an attestation member describes; `None` preserves it.
    pub attested_digest: Option<&'a str>,
}

/// Returns the index with these entries changed.
///
/// # Errors
/// [`DocumentError::Shape`] if an index of `changes` is not in `manifests`, [`DocumentError::Json`] if readers may disagree about a
/// key that is changed.
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
    let existing = entry.unique(input, "platform")?.filter(|p| input[p.value_at.clone()] != *b"null");
    let Some(member) = existing else {
        let text = serde_json::to_string(wanted).map_err(|e| DocumentError::Shape(e.to_string()))?;
        splice.set(input, entry, "platform", &text, &["size", "digest", "mediaType"])?;
        return Ok(());
    };
    let object = JsonObject::parse_at(input, &member.value_at, "platform")?;
    let declared = read_platform(input, &object)?;
    if !declared.satisfies(wanted) {
        splice_platform_keys(input, &object, &declared, wanted, splice)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
