//! The tags of the entries of an OCI layout's `index.json`, in a directory or an archive.

use image_model::digest::Digest;
use image_model::manifest::Descriptor;
use std::collections::{BTreeMap, BTreeSet};

/// The tag of the image of a local store that has no name: `skopeo copy ... oci:DIR` and `docker save IMAGE-ID` write
/// such images. A registry has none.
pub const UNNAMED: &str = "";

/// The annotation that holds an entry's tag (image-spec, annotations.md). Docker and BuildKit write only the part behind
/// the colon.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the full name of an image (containerd, images/annotations.go).
pub const IMAGE_NAME: &str = "io.containerd.image.name";

/// The tags of all entries.
pub struct EntryTags<'a> {
    entries: &'a [Descriptor],
    /// The tag of each entry: that of the annotation or, if it is absent or entries for different images have it, the full
    /// name. [`UNNAMED`] for an entry with neither.
    pub tags: Vec<&'a str>,
    by_tag: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> EntryTags<'a> {
    pub fn new(entries: &'a [Descriptor]) -> Self {
        let mut images: BTreeMap<&str, BTreeSet<&Digest>> = BTreeMap::new();
        for entry in entries {
            images.entry(annotation(entry, REF_NAME)).or_default().insert(&entry.digest);
        }
        let mut tags = Vec::with_capacity(entries.len());
        let mut by_tag: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, entry) in entries.iter().enumerate() {
            let (tag, full) = (annotation(entry, REF_NAME), annotation(entry, IMAGE_NAME));
            let is_ambiguous = images.get(tag).is_some_and(|images| images.len() > 1);
            let tag = if full != UNNAMED && (tag == UNNAMED || is_ambiguous) { full } else { tag };
            tags.push(tag);
            by_tag.entry(tag).or_default().push(i);
        }
        Self { entries, tags, by_tag }
    }

    /// The indexes of the entries with this tag; of those with this full name, if no entry has the tag.
    pub fn with_tag(&self, tag: &str) -> Vec<usize> {
        let called = self.by_tag.get(tag).cloned().unwrap_or_default();
        if !called.is_empty() || tag == UNNAMED {
            return called;
        }
        (0..self.entries.len()).filter(|i| annotation(&self.entries[*i], IMAGE_NAME) == tag).collect()
    }

    /// Returns whether this is a tag, and of one image.
    pub fn is_unique(&self, tag: &str) -> bool {
        let called = self.by_tag.get(tag).map_or(&[][..], Vec::as_slice);
        let digests = || called.iter().map(|i| &self.entries[*i].digest);
        tag != UNNAMED && !called.is_empty() && digests().all(|digest| Some(digest) == digests().next())
    }
}

fn annotation<'a>(entry: &'a Descriptor, key: &str) -> &'a str {
    entry.annotations.get(key).map_or(UNNAMED, String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_are_not_unique_are_full_names() {
        // The annotations and the digest of each entry.
        let entry = |(tag, full, image): &(&str, &str, u8)| {
            let mut entry = Descriptor::of("", &[*image]);
            for (key, value) in [(REF_NAME, tag), (IMAGE_NAME, full)] {
                if !value.is_empty() {
                    entry.annotations.insert(key.into(), (*value).into());
                }
            }
            entry
        };
        let check = |entries: &[(&str, &str, u8)], expected: &[&str]| {
            let entries: Vec<Descriptor> = entries.iter().map(entry).collect();
            let found = EntryTags::new(&entries);
            assert_eq!(found.tags, expected);
            for (i, expected) in expected.iter().enumerate() {
                assert!(found.with_tag(expected).contains(&i));
            }
        };
        check(&[("1", "q.io/a:1", 1), ("1", "q.io/b:1", 2)], &["q.io/a:1", "q.io/b:1"]);
        check(&[("1", "q.io/a:1", 1), ("1", "q.io/b:1", 1)], &["1", "1"]);
        check(&[("1", "q.io/a:1", 1), ("1", "", 2)], &["q.io/a:1", "1"]);
        check(&[("", "q.io/a:1", 1), ("", "", 2), ("2", "", 3)], &["q.io/a:1", "", "2"]);
        let entries: Vec<Descriptor> =
            [("1", "q.io/a:1", 1), ("1", "q.io/b:1", 1), ("2", "", 2)].iter().map(entry).collect();
        let found = EntryTags::new(&entries);
        assert_eq!(found.with_tag("q.io/b:1"), [1]);
        assert_eq!(found.with_tag("1"), [0, 1]);
        assert_eq!(found.with_tag("x"), [0; 0]);
        assert!(found.is_unique("1") && !found.is_unique("x") && !found.is_unique(UNNAMED));
    }
}
