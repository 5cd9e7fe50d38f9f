//! What an archive must name once a change is made, compared with what a reader finds in the result.

use super::snapshot::Snapshot;
use crate::store::UNNAMED;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};

pub struct ExpectedNames {
    /// By the names' keys; the empty name is that of the image without any.
    names: BTreeMap<String, Digest>,
    /// Images without a name. They may get one.
    unnamed: BTreeSet<Digest>,
}

impl ExpectedNames {
    /// `tag` names `document`, and all other names are what they were.
    pub fn after_tag(archive: &Snapshot, tag: &str, document: &Digest) -> Self {
        let names = archive.names.iter().map(|(key, named)| (key.clone(), named.document.clone()));
        let mut expected = Self {
            names: names.collect(),
            unnamed: archive.unnamed.iter().map(|n| n.document.clone()).collect(),
        };
        if tag == UNNAMED {
            expected.unnamed.clear();
        }
        let key = if tag == UNNAMED { tag.to_string() } else { archive.naming.key(tag) };
        expected.names.insert(key, document.clone());
        expected
    }

    /// Every name names this image.
    pub fn after_relabel(archive: &Snapshot, document: &Digest) -> Self {
        let unnamed = archive.unnamed.iter().map(|_| UNNAMED.to_string());
        let names = archive.names.keys().cloned().chain(unnamed);
        Self { names: names.map(|name| (name, document.clone())).collect(), unnamed: BTreeSet::new() }
    }

    /// Why the result is not what it must be.
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

/// The error for a result that a reader refuses. One that could not be read for another reason is that reason.
pub fn unreadable(place: &str, error: Error) -> Error {
    match error.kind {
        Exit::BadInput | Exit::Integrity | Exit::NotFound => refused(place, &error.reason),
        _ => error,
    }
}

/// The error for a result that is not put in the old archive's place.
pub fn refused(place: &str, why: &str) -> Error {
    Error::bad_input(format!("write \"{place}\""), format!("the result failed its check: {why}"))
        .hint("the file was not changed; copy the image to a new archive or to oci:DIR")
}
