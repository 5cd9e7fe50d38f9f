//! `index.json` of archives that are OCI layouts, edited by byte ranges.

use super::names::{self, Naming};
use crate::layout_tags::{IMAGE_NAME, REF_NAME};
use crate::store::UNNAMED;
use image_model::manifest::{Descriptor, Document, DocumentError, ParsedDocument};
use image_model::platform::Platform;
use image_model::raw_json::{self, JsonObject, Splice};
use std::ops::Range;

const EMPTY: &[u8] =
    b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";

/// A parsed index with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexJson {
    bytes: Vec<u8>,
    list_at: Option<Range<usize>>,
    places: Vec<Range<usize>>,
    pub entries: Vec<Descriptor>,
}

impl IndexJson {
    /// Returns the index of an archive without images.
    pub fn empty() -> Result<Self, DocumentError> {
        Self::parse(EMPTY.to_vec())
    }

    pub fn parse(bytes: Vec<u8>) -> Result<Self, DocumentError> {
        let document = Document::new(bytes, None)?;
        let ParsedDocument::Index(index) = document.parse()? else {
            return Err(DocumentError::Shape("it is an image, not an index".into()));
        };
        let bytes = document.bytes().to_vec();
        let object = JsonObject::parse(&bytes)?;
        let list_at = object.unique(&bytes, "manifests")?.map(|list| list.value_at.clone());
        let list_at = list_at.filter(|at| bytes.get(at.start) == Some(&b'['));
        let places = match &list_at {
            Some(at) => raw_json::elements(&bytes, at, "manifests")?,
            None => Vec::new(),
        };
        Ok(Self { bytes, list_at, places, entries: index.manifests })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the index with entry `i` describing `document`. Its annotations are preserved. The platform of an entry is
    /// updated to `platform`; none is added.
    pub fn point(
        &self,
        i: usize,
        document: &Document,
        platform: Option<&Platform>,
    ) -> Result<Self, DocumentError> {
        let (bytes, entry) = (&self.bytes, &self.entries[i]);
        let object = JsonObject::parse_at(bytes, &self.places[i], "manifests")?;
        let mut splice = Splice::default();
        if entry.digest != *document.digest() {
            splice.set(bytes, &object, "digest", &json(document.digest())?, &[])?;
            splice.set(bytes, &object, "size", &document.bytes().len().to_string(), &["digest"])?;
            splice.remove(bytes, &object, "data")?;
        }
        if entry.media_type != document.media_type() {
            splice.set(bytes, &object, "mediaType", &json(document.media_type())?, &[])?;
        }
        match (object.unique(bytes, "platform")?, platform) {
            (Some(old), Some(platform)) => {
                set_platform(&mut splice, bytes, &old.value_at, platform)?;
            }
            (Some(_), None) => splice.remove(bytes, &object, "platform")?,
            (None, _) => {}
        }
        Self::parse(splice.apply(bytes))
    }

    /// Returns the index with one more entry, which has no name if `tag` is [`UNNAMED`].
    pub fn append(&self, tag: &str, document: &Document, naming: Naming) -> Result<Self, DocumentError> {
        let mut entry = document.descriptor();
        if tag == UNNAMED {
            // No annotation.
        } else if naming == Naming::Layout {
            entry.annotations.insert(REF_NAME.into(), tag.into());
        } else {
            let (repository, short) = names::full(tag).ok_or_else(|| {
                DocumentError::Shape(format!("\"{tag}\" is not an image name: use NAME:TAG"))
            })?;
            entry.annotations.insert(IMAGE_NAME.into(), format!("{repository}:{short}"));
            entry.annotations.insert(REF_NAME.into(), short);
        }
        let text = json(&entry)?;
        let mut splice = Splice::default();
        match (&self.list_at, self.places.last()) {
            (_, Some(last)) => splice.replace(last.end..last.end, format!(",{text}")),
            (Some(list), None) => splice.replace(list.start + 1..list.start + 1, text),
            (None, None) => {
                let object = JsonObject::parse(&self.bytes)?;
                splice.set(
                    &self.bytes,
                    &object,
                    "manifests",
                    &format!("[{text}]"),
                    &["mediaType", "schemaVersion"],
                )?;
            }
        }
        Self::parse(splice.apply(&self.bytes))
    }
}

/// Returns the image name of an entry in containerd and Docker.
pub fn image_name(entry: &Descriptor) -> Option<String> {
    entry.annotations.get(IMAGE_NAME).map(|full| names::familiar(full))
}

/// Returns the tag of an entry in an OCI layout.
pub fn ref_name(entry: &Descriptor) -> Option<String> {
    entry.annotations.get(REF_NAME).filter(|tag| !tag.is_empty()).cloned()
}

fn set_platform(
    splice: &mut Splice,
    bytes: &[u8],
    at: &Range<usize>,
    platform: &Platform,
) -> Result<(), DocumentError> {
    if bytes.get(at.clone()) == Some(b"null") {
        return Ok(());
    }
    let object = JsonObject::parse_at(bytes, at, "platform")?;
    let old = image_model::manifest::read_platform(bytes, &object)?;
    let text = |value: &Option<String>| value.as_ref().map(json).transpose();
    let architecture = Some(platform.architecture.clone());
    let os = Some(platform.os.clone());
    let features = match platform.os_features.is_empty() {
        true => None,
        false => Some(json(&platform.os_features)?),
    };
    let changes = [
        ("architecture", old.architecture != platform.architecture, text(&architecture)?),
        ("os", old.os != platform.os, text(&os)?),
        ("os.version", old.os_version != platform.os_version, text(&platform.os_version)?),
        ("os.features", old.os_features != platform.os_features, features),
        ("variant", old.variant != platform.variant, text(&platform.variant)?),
    ];
    for (key, differs, value) in changes {
        match value {
            Some(value) if differs => splice.set(bytes, &object, key, &value, &["os", "architecture"])?,
            None if differs => splice.remove(bytes, &object, key)?,
            _ => {}
        }
    }
    Ok(())
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, DocumentError> {
    serde_json::to_string(value).map_err(|e| DocumentError::Shape(e.to_string()))
}
