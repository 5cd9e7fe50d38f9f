//! Adds, replaces and removes entries of an index. All other bytes are preserved.

use crate::index::{IndexKind, entry_text};
use image_model::manifest::{Descriptor, Document, DocumentError, media_type};
use image_model::raw_json::{self, JsonObject, Splice};
use std::collections::{BTreeMap, BTreeSet};

/// Changes of an index. Entries are counted from 0.
#[derive(Clone, Debug, Default)]
pub struct IndexChanges {
    pub removed: BTreeSet<usize>,
    pub replaced: BTreeMap<usize, Descriptor>,
    /// Appended after all others.
    pub added: Vec<Descriptor>,
    /// Annotations of the index itself.
    pub annotations: BTreeMap<String, String>,
    /// The new kind; `None` keeps the kind.
    pub kind: Option<IndexKind>,
}

/// Returns the index with these changes.
pub fn edit_index(index: &Document, changes: &IndexChanges) -> Result<Document, DocumentError> {
    let input = index.bytes();
    let object = JsonObject::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"manifests\"".into());
    let list = object.unique(input, "manifests")?.ok_or_else(absent)?;
    let mut splice = Splice::default();
    let is = if index.media_type() == media_type::DOCKER_LIST { IndexKind::Docker } else { IndexKind::Oci };
    let kind = changes.kind.unwrap_or(is);
    splice.replace(list.value_at.clone(), edited_list(index, list.value_at.clone(), changes, kind)?);
    if kind == IndexKind::Docker {
        check_docker_list(input, &object, changes, is)?;
    }
    if !changes.annotations.is_empty() {
        annotate(index, &object, &changes.annotations, &mut splice)?;
    }
    if kind == is {
        return Document::new(splice.apply(input), Some(index.media_type()));
    }
    let media_type = match kind {
        IndexKind::Docker => media_type::DOCKER_LIST,
        IndexKind::Oci => media_type::OCI_INDEX,
    };
    splice.set(
        input,
        &object,
        "mediaType",
        &serde_json::Value::from(media_type).to_string(),
        &["schemaVersion"],
    )?;
    Document::new(splice.apply(input), Some(media_type))
}

/// Refuses what an OCI index can have and Docker's list cannot.
fn check_docker_list(
    input: &[u8],
    object: &JsonObject,
    changes: &IndexChanges,
    is: IndexKind,
) -> Result<(), DocumentError> {
    if !changes.annotations.is_empty() {
        let why = "a Docker manifest list has no annotations; convert it to an OCI index with --type oci";
        return Err(DocumentError::Shape(why.into()));
    }
    for key in ["annotations", "artifactType", "subject"] {
        // A Docker list that has it anyway is left unchanged.
        if is == IndexKind::Oci && object.unique(input, key)?.is_some() {
            let why = format!("it has {key}, which a Docker manifest list cannot have");
            return Err(DocumentError::Shape(why));
        }
    }
    Ok(())
}

fn edited_list(
    index: &Document,
    at: std::ops::Range<usize>,
    changes: &IndexChanges,
    kind: IndexKind,
) -> Result<Vec<u8>, DocumentError> {
    let input = index.bytes();
    let entries = raw_json::elements(input, &at, "manifests")?;
    let (lead, tail) = match (entries.first(), entries.last()) {
        (Some(first), Some(last)) => (&input[at.start + 1..first.start], &input[last.end..at.end - 1]),
        _ => (&input[0..0], &input[0..0]),
    };
    let mut out = vec![b'['];
    let mut is_first = true;
    // The separator of the existing entries.
    let apart = match entries.as_slice() {
        [.., before, last] => input[before.end..last.start].to_vec(),
        _ => [b",", lead].concat(),
    };
    let mut put = |entry: &[u8], before: &[u8]| {
        out.extend_from_slice(if is_first { lead } else { before });
        out.extend_from_slice(entry);
        is_first = false;
    };
    for (i, entry) in entries.iter().enumerate() {
        let before = match i.checked_sub(1) {
            Some(previous) => &input[entries[previous].end..entry.start],
            None => &apart,
        };
        if let Some(new) = changes.replaced.get(&i) {
            put(new_entry(kind, new, lead)?.as_bytes(), before);
        } else if !changes.removed.contains(&i) {
            put(&input[entry.clone()], before);
        }
    }
    for new in &changes.added {
        put(new_entry(kind, new, lead)?.as_bytes(), &apart);
    }
    out.extend_from_slice(tail);
    out.push(b']');
    Ok(out)
}

/// Formats a new entry like the existing ones: on one line, or with the indent of the first of them.
fn new_entry(kind: IndexKind, entry: &Descriptor, lead: &[u8]) -> Result<String, DocumentError> {
    let newline = lead.iter().rposition(|byte| *byte == b'\n');
    let indent = newline.map(|at| String::from_utf8_lossy(&lead[at + 1..]).into_owned());
    entry_text(kind, entry, indent.as_deref()).map_err(|e| DocumentError::Shape(e.to_string()))
}

fn annotate(
    index: &Document,
    object: &JsonObject,
    annotations: &BTreeMap<String, String>,
    splice: &mut Splice,
) -> Result<(), DocumentError> {
    let input = index.bytes();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let there = object.unique(input, "annotations")?.filter(|m| input[m.value_at.clone()] != *b"null");
    let Some(member) = there else {
        let pairs: Vec<String> =
            annotations.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
        splice.set(input, object, "annotations", &format!("{{{}}}", pairs.join(",")), &["manifests"])?;
        return Ok(());
    };
    let map = JsonObject::parse_at(input, &member.value_at, "annotations")?;
    for (key, value) in annotations {
        splice.set(input, &map, key, &quoted(value), &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::IndexStyle;
    use image_model::digest::Digest;

    fn entry(text: &str) -> Descriptor {
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text.as_bytes()), 7);
        entry.platform = Some("linux/arm64".parse().unwrap());
        entry
    }

    fn edited(index: &str, changes: &IndexChanges) -> String {
        let index = Document::new(index.as_bytes().to_vec(), None).unwrap();
        String::from_utf8(edit_index(&index, changes).unwrap().bytes().to_vec()).unwrap()
    }

    fn old(text: &str) -> String {
        format!("{{\"size\" : 1.0e0,\"digest\":\"{}\", \"x\":\"\\u003c\"}}", Digest::of(text.as_bytes()))
    }

    #[test]
    fn unchanged_entries_keep_every_byte() {
        let (a, b, c) = (old("a"), old("b"), old("c"));
        let index = format!("{{\"n\":1e3,\"manifests\":[ {a},\n {b} , {c} ] , \"z\":null}}");
        let remove =
            |at: &[usize]| IndexChanges { removed: at.iter().copied().collect(), ..IndexChanges::default() };
        assert_eq!(edited(&index, &remove(&[])), index);
        assert_eq!(edited(&index, &remove(&[1])), index.replace(&format!(",\n {b} "), " "));
        assert_eq!(edited(&index, &remove(&[0])), index.replace(&format!(" {a},\n {b}"), &format!(" {b}")));
        let new = entry("n");
        let line = entry_text(IndexKind::Oci, &new, None).unwrap();
        let replace = IndexChanges { replaced: [(1, new.clone())].into(), ..IndexChanges::default() };
        assert_eq!(edited(&index, &replace), index.replace(&b, &line));
        let add = IndexChanges { added: vec![new], ..IndexChanges::default() };
        assert_eq!(edited(&index, &add), index.replace(&format!("{c} ]"), &format!("{c} , {line} ]")));
    }

    #[test]
    fn a_conversion_changes_only_the_media_type_and_is_reversible() {
        let of = |kind: IndexKind| IndexChanges { kind: Some(kind), ..IndexChanges::default() };
        let members = [entry("a"), entry("b")];
        let list =
            crate::index::build_index(IndexKind::Docker, IndexStyle::Docker, &members, &BTreeMap::new())
                .unwrap();
        let oci = edit_index(&list, &of(IndexKind::Oci)).unwrap();
        assert_eq!(oci.media_type(), media_type::OCI_INDEX);
        let text = String::from_utf8(oci.bytes().to_vec()).unwrap();
        assert_eq!(text.replace(media_type::OCI_INDEX, media_type::DOCKER_LIST).as_bytes(), list.bytes());
        assert_eq!(edit_index(&oci, &of(IndexKind::Docker)).unwrap().bytes(), list.bytes());
        assert_eq!(edit_index(&oci, &of(IndexKind::Oci)).unwrap().bytes(), oci.bytes());
        // An index without a media type gets one.
        let silent = edited("{\"schemaVersion\":2,\"manifests\":[]}", &of(IndexKind::Docker));
        assert!(silent.contains(media_type::DOCKER_LIST), "{silent}");
        for key in ["annotations", "artifactType", "subject"] {
            let index = format!("{{\"schemaVersion\":2,\"manifests\":[],\"{key}\":null}}");
            let index = Document::new(index.into_bytes(), Some(media_type::OCI_INDEX)).unwrap();
            let error = edit_index(&index, &of(IndexKind::Docker)).unwrap_err().to_string();
            assert!(error.contains(&format!("it has {key}")), "{error}");
        }
    }

    #[test]
    fn a_new_entry_has_the_indentation_of_its_neighbors() {
        let one = crate::index::build_index(
            IndexKind::Oci,
            IndexStyle::ManifestTool,
            &[entry("a")],
            &BTreeMap::new(),
        )
        .unwrap();
        let both = crate::index::build_index(
            IndexKind::Oci,
            IndexStyle::ManifestTool,
            &[entry("a"), entry("b")],
            &BTreeMap::new(),
        )
        .unwrap();
        let add = IndexChanges { added: vec![entry("b")], ..IndexChanges::default() };
        assert_eq!(edit_index(&one, &add).unwrap().bytes(), both.bytes());
        let remove = IndexChanges { removed: [1].into(), ..IndexChanges::default() };
        assert_eq!(edit_index(&both, &remove).unwrap().bytes(), one.bytes());
    }

    #[test]
    fn an_annotation_is_replaced_in_place_or_added() {
        let changes =
            IndexChanges { annotations: [("k".into(), "<".into())].into(), ..IndexChanges::default() };
        assert_eq!(
            edited("{\"manifests\":[]}", &changes),
            "{\"manifests\":[],\"annotations\":{\"k\":\"<\"}}"
        );
        assert_eq!(
            edited("{\"annotations\": {\"a\":\"1\", \"k\" : \"2\"},\"manifests\":[]}", &changes),
            "{\"annotations\": {\"a\":\"1\", \"k\" : \"<\"},\"manifests\":[]}"
        );
    }
}
