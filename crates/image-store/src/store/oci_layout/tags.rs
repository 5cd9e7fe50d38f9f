//! Tags in the entries of `index.json`.

use crate::layout_tags::{EntryTags, IMAGE_NAME, REF_NAME};
use crate::store::UNNAMED;
use image_model::manifest::{Descriptor, Document, DocumentError};
use image_model::raw_json::{self, JsonObject, Splice};

/// Returns `index.json` with `tag` referring to `document`: the tag's entries are replaced, or one is added at the end. They
/// keep their names. Every other byte is preserved.
pub fn retag(index: &[u8], tag: &str, document: &Document) -> Result<Vec<u8>, DocumentError> {
    let object = JsonObject::parse(index)?;
    let shape = |e: serde_json::Error| DocumentError::Shape(e.to_string());
    let mut new = document.descriptor();
    if tag != UNNAMED {
        new.annotations.insert(REF_NAME.into(), tag.into());
    }
    let text = serde_json::to_string(&new).map_err(shape)?;
    let mut splice = Splice::default();
    let Some(list) =
        object.unique(index, "manifests")?.filter(|m| index.get(m.value_at.clone()) != Some(b"null"))
    else {
        splice.set(index, &object, "manifests", &format!("[{text}]"), &["mediaType", "schemaVersion"])?;
        return Ok(splice.apply(index));
    };
    let entries = raw_json::elements(index, &list.value_at, "manifests")?;
    let old = entries.iter().map(|at| serde_json::from_slice(&index[at.clone()]).map_err(shape));
    let old = old.collect::<Result<Vec<Descriptor>, DocumentError>>()?;
    let called = EntryTags::new(&old).with_tag(tag);
    for i in &called {
        let mut entry = document.descriptor();
        entry.annotations = old[*i].annotations.clone();
        entry.annotations.retain(|key, _| key == REF_NAME || key == IMAGE_NAME);
        splice.replace(entries[*i].clone(), serde_json::to_string(&entry).map_err(shape)?);
    }
    if !called.is_empty() {
        return Ok(splice.apply(index));
    }
    let end = entries.last().map_or(list.value_at.start + 1, |last| last.end);
    let comma = if entries.is_empty() { "" } else { "," };
    splice.replace(end..end, format!("{comma}{text}"));
    Ok(splice.apply(index))
}
