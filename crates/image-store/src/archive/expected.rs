//! The names that an archive must have after a change, compared with those of the result before it is written.

use super::snapshot::Snapshot;
use crate::store::UNNAMED;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

pub struct ExpectedNames {
    /// Digests by the key of the name. The empty name is that of the image without one.
    names: BTreeMap<String, Digest>,
    /// Images without a name, which may get one.
    unnamed: BTreeSet<Digest>,
}

impl ExpectedNames {
    /// `tag` refers to `document`, and all other names are unchanged.
    pub fn after_tag(archive: &Snapshot, tag: &str, document: &Digest) -> Self {
        let names = archive.names.iter().map(|(key, named)| (key.clone(), named.document.clone()));
        let mut expected = Self {
            names: names.collect(),
            unnamed: archive.unnamed.iter().map(|n| n.document.clone()).collect(),
        };
        if tag == UNNAMED {
            expected.unnamed.clear();
        }
        let key = if tag == UNNAMED { tag.to_string() } else { archive.key(tag) };
        expected.names.insert(key, document.clone());
        expected
    }

    /// Every name refers to this image.
    pub fn after_relabel(archive: &Snapshot, document: &Digest) -> Self {
        let unnamed = archive.unnamed.iter().map(|_| UNNAMED.to_string());
        let names = archive.names.keys().cloned().chain(unnamed);
        Self { names: names.map(|name| (name, document.clone())).collect(), unnamed: BTreeSet::new() }
    }

    /// Returns the first difference as an error.
    pub fn check(&self, result: &Snapshot) -> Result<(), String> {
        for (name, digest) in &self.names {
            let shown = if name == UNNAMED { "the image without a name" } else { name };
            match result.named(name)? {
                Some(named) if named.document == *digest => {}
                Some(named) => return Err(format!("{shown} would be {}, not {digest}", named.document)),
                None => return Err(format!("{shown} would not be found")),
            }
        }
        match self.unnamed.iter().find(|digest| !result.documents.contains_key(*digest)) {
            Some(digest) => Err(format!("image {digest} would not be found")),
            None => Ok(()),
        }
    }
}

/// Returns the error for a result that cannot be read. I/O errors are returned unchanged.
pub fn unreadable(place: &str, error: Error) -> Error {
    match error.kind {
        Exit::BadInput | Exit::Integrity | Exit::NotFound => refused(place, &error.reason),
        _ => error,
    }
}

/// Returns the error for a result that does not replace the archive.
pub fn refused(place: &str, why: &str) -> Error {
    Error::bad_input(format!("write \"{place}\""), format!("the result failed its check: {why}"))
        .hint("no changes were made; copy the image to a new archive or to oci:DIR")
}
