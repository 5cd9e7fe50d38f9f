//! Tags in the entries of `index.json`.

use crate::store::UNNAMED;
use image_model::manifest::{Descriptor, Document, DocumentError};
use image_model::raw_json::{self, JsonObject, Splice};

/// The annotation that holds an entry's tag (image-spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Returns the tag of an entry, or [`UNNAMED`].
pub fn name_of(entry: &Descriptor) -> &str {
    entry.annotations.get(REF_NAME).map_or(UNNAMED, String::as_str)
}

/// Returns `index.json` with `tag` referring to `document`: the tag's entry is replaced, or one is added at the end. Every
/// other byte is preserved.
pub fn retag(index: &[u8], tag: &str, document: &Document) -> Result<Vec<u8>, DocumentError> {
    let object = JsonObject::parse(index)?;
    let shape = |e: serde_json::Error| DocumentError::Shape(e.to_string());
    let mut entry = document.descriptor();
    if tag != UNNAMED {
        entry.annotations.insert(REF_NAME.into(), tag.into());
    }
    let text = serde_json::to_string(&entry).map_err(shape)?;
    let mut splice = Splice::default();
    let Some(list) =
        object.unique(index, "manifests")?.filter(|m| index.get(m.value_at.clone()) != Some(b"null"))
    else {
        splice.set(index, &object, "manifests", &format!("[{text}]"), &["mediaType", "schemaVersion"])?;
        return Ok(splice.apply(index));
    };
    let entries = raw_json::elements(index, &list.value_at, "manifests")?;
    for at in &entries {
        let old: Descriptor = serde_json::from_slice(&index[at.clone()]).map_err(shape)?;
        if name_of(&old) == tag {
            splice.replace(at.clone(), text);
            return Ok(splice.apply(index));
        }
    }
    let end = entries.last().map_or(list.value_at.start + 1, |last| last.end);
    let comma = if entries.is_empty() { "" } else { "," };
    splice.replace(end..end, format!("{comma}{text}"));
    Ok(splice.apply(index))
}
