//! The fields that make a manifest a referrer: subject, artifact type and annotations (image-spec 1.1, manifest.md).

use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, DocumentError};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerFields {
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl ReferrerFields {
    fn read(document: &Document) -> Result<Self, DocumentError> {
        serde_json::from_slice(document.bytes()).map_err(|e| DocumentError::Shape(e.to_string()))
    }
}

/// Returns the subject of a manifest, or `None` if it has none.
///
/// # Errors
/// [`DocumentError::Shape`] if the subject is not a descriptor.
pub fn subject_of(document: &Document) -> Result<Option<Descriptor>, DocumentError> {
    Ok(ReferrerFields::read(document)?.subject)
}

/// Returns the descriptor of a referrer as a list of referrers has it: with artifact type and annotations.
///
/// # Errors
/// [`DocumentError::Shape`] if the subject, config or annotations have another type.
pub fn referrer_entry(document: &Document) -> Result<Descriptor, DocumentError> {
    let read = ReferrerFields::read(document)?;
    let mut entry = document.descriptor();
    entry.artifact_type =
        read.artifact_type.filter(|kind| !kind.is_empty()).or(read.config.map(|config| config.media_type));
    entry.annotations = read.annotations.unwrap_or_default();
    Ok(entry)
}

/// Returns those of these entries whose subject is `subject`. Entries that cannot be read are left out.
pub fn referrers_among(
    entries: Vec<Descriptor>,
    subject: &Digest,
    read: impl Fn(&Descriptor) -> Option<Document>,
) -> Vec<Descriptor> {
    let refers = |entry: &Descriptor| {
        let document = read(entry)?;
        let found = subject_of(&document).ok()??;
        (found.digest == *subject).then(|| referrer_entry(&document).ok())?
    };
    entries.iter().filter_map(refers).collect()
}
