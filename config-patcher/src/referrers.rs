//! What belongs to an image that changes: found and told, and carried over to the new one where that was asked.

use crate::plan::Changes;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use image_model::patch::patch_subject;
use image_store::parallel;
use image_store::referrers::{Attached, ReferrerStep, find_attached};
use image_store::store::{ImageSource, Pointer};
use image_store::subject::subject_of;
use image_store::tree::TreeNode;
use std::collections::BTreeSet;

/// Signatures of SBOMs of images are three deep; nobody goes on for ever.
const DEPTH_MAX: usize = 8;
/// More than this is not carried.
const CARRIED_MAX: usize = 1_000;

/// A document that took another's place.
#[derive(Clone, Debug)]
pub struct Moved {
    pub was: Digest,
    pub now: Document,
}

/// A manifest whose subject changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// As it was.
    pub subject: Digest,
    pub digest: Digest,
    /// What it is: `application/vnd.dev.sigstore.bundle.v0.3+json`.
    pub kind: String,
    /// The copy that belongs to the new image.
    pub carried: Option<Digest>,
}

/// What belongs to the old image.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub referrers: Vec<Referrer>,
    /// cosign's tags, each with the digest that it is made of.
    pub tags: Vec<(Digest, String)>,
    /// The writes that carry the referrers over, in their order.
    pub steps: Vec<ReferrerStep>,
    /// What was listed and could not be carried.
    pub notes: Vec<String>,
}

/// Every document that changed, the root last.
pub fn moved(changes: &Changes, root: &TreeNode) -> Vec<Moved> {
    let below = changes.documents.iter();
    let below = below.map(|replaced| Moved { was: replaced.was.clone(), now: replaced.document.clone() });
    below.chain([Moved { was: root.digest().clone(), now: changes.root.clone() }]).collect()
}

/// Lists what belongs to the old documents.
pub fn find(source: &dyn ImageSource, moved: &[Moved]) -> Result<Found, Error> {
    let mut found = Found::default();
    for belongings in look_at(source, moved)? {
        let Attached { subject, referrers, tags, .. } = belongings;
        for entry in referrers.iter().filter(|entry| !is_one_of(&entry.digest, moved)) {
            found.referrers.push(referrer(&subject, entry, None));
        }
        found.tags.extend(tags.into_iter().map(|tag| (subject.clone(), tag)));
    }
    Ok(found)
}

/// The same, with a copy of each referrer for the new image, and of what belongs to these referrers in turn. Only
/// the subjects change: what is signed or stated in them still names the old image.
pub fn carry(source: &dyn ImageSource, moved: &[Moved]) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut seen: BTreeSet<Digest> = moved.iter().map(|moved| moved.was.clone()).collect();
    let mut level = moved.to_vec();
    for _ in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for (Moved { was, now }, belongings) in level.iter().zip(look_at(source, &level)?) {
            let Attached { referrers, tags, by_tag, .. } = belongings;
            found.tags.extend(tags.into_iter().map(|tag| (was.clone(), tag)));
            let new: Vec<Descriptor> =
                referrers.into_iter().filter(|entry| seen.insert(entry.digest.clone())).collect();
            let read = parallel::map(&new, source.concurrency(parallel::REQUESTS), |entry| {
                read(source, entry, was)
            })?;
            for (entry, document) in new.iter().zip(read) {
                let document = match document {
                    Ok(document) => document,
                    Err(why) => {
                        found.notes.push(format!("{} was not copied: {why}", entry.digest));
                        continue;
                    }
                };
                let failed = |e: image_model::manifest::DocumentError| e.at(entry.digest.as_str());
                let document = patch_subject(&document, now).map_err(failed)?;
                found.referrers.push(referrer(was, entry, Some(document.digest().clone())));
                let subject = now.digest().clone();
                found.steps.push(ReferrerStep { subject, document: document.clone(), by_tag });
                next.push(Moved { was: entry.digest.clone(), now: document });
            }
        }
        if found.steps.len() > CARRIED_MAX {
            return Err(too_many(source, &format!("there are more than {CARRIED_MAX}")));
        }
        if next.is_empty() {
            return Ok(found);
        }
        level = next;
    }
    Err(too_many(source, &format!("they belong to each other more than {DEPTH_MAX} deep")))
}

fn look_at(source: &dyn ImageSource, moved: &[Moved]) -> Result<Vec<Attached>, Error> {
    let subjects: Vec<Digest> = moved.iter().map(|moved| moved.was.clone()).collect();
    find_attached(source, &subjects)
}

/// An attestation within an index may belong to its image by its subject as well: it is no stranger.
fn is_one_of(digest: &Digest, moved: &[Moved]) -> bool {
    moved.iter().any(|moved| moved.was == *digest)
}

fn referrer(subject: &Digest, entry: &Descriptor, carried: Option<Digest>) -> Referrer {
    let kind = entry.artifact_type.clone().unwrap_or_else(|| entry.media_type.clone());
    Referrer { subject: subject.clone(), digest: entry.digest.clone(), kind, carried }
}

/// The referrer, or why a list names what is none: lists under tags are kept by hand, and outlive what they name.
fn read(
    source: &dyn ImageSource,
    entry: &Descriptor,
    subject: &Digest,
) -> Result<Result<Document, String>, Error> {
    let document = match source.read_document(&Pointer::from(&entry.digest)) {
        Ok(document) => document,
        Err(error) if error.kind == Exit::NotFound => return Ok(Err("it is gone".into())),
        Err(error) => return Err(error),
    };
    let named = subject_of(&document).map_err(|e| e.at(entry.digest.as_str()))?;
    Ok(match named {
        Some(named) if named.digest == *subject => Ok(document),
        _ => Err(format!("it does not belong to {subject}, under which it is listed")),
    })
}

fn too_many(source: &dyn ImageSource, why: &str) -> Error {
    Error::bad_input(format!("copy the referrers in \"{}\"", source.display_name()), why)
        .hint("omit --carry-referrers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_model::manifest::media_type::OCI_CONFIG;
    use image_store::referrers::apply;
    use image_store::store::ImageStore;
    use image_store::store::memory::MemoryStore;

    fn manifest(store: &MemoryStore, note: &str, subject: Option<&Document>) -> Document {
        let config = store.add_blob(OCI_CONFIG, b"{}");
        let mut text = serde_json::json!({
            "schemaVersion": 2, "artifactType": "x/y", "config": config, "layers": [], "annotations": {"note": note},
        });
        if let Some(subject) = subject {
            text["subject"] = serde_json::to_value(subject.descriptor()).unwrap();
        }
        let document = Document::new(text.to_string().into_bytes(), None).unwrap();
        store.write_document(&document).unwrap();
        document
    }

    fn listed(store: &MemoryStore, subject: &Document, documents: &[&Document]) {
        let step = |document: &&Document| ReferrerStep {
            subject: subject.digest().clone(),
            document: (*document).clone(),
            by_tag: true,
        };
        apply(&documents.iter().map(step).collect::<Vec<_>>(), store).unwrap();
    }

    #[test]
    fn a_signature_and_what_is_signed_of_it_are_carried_and_a_second_time_the_same() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "newer", None));
        let sbom = manifest(&store, "sbom", Some(&old));
        let signature = manifest(&store, "signature", Some(&sbom));
        listed(&store, &old, &[&sbom]);
        listed(&store, &sbom, &[&signature]);
        let moved = [Moved { was: old.digest().clone(), now: new.clone() }];
        let listed: Vec<_> = find(&store, &moved).unwrap().referrers;
        assert_eq!(
            listed.iter().map(|r| (&r.digest, &r.carried)).collect::<Vec<_>>(),
            [(sbom.digest(), &None)]
        );
        let carried = carry(&store, &moved).unwrap();
        assert_eq!(carried.steps.len(), 2);
        apply(&carried.steps, &store).unwrap();
        let back = Moved { was: new.digest().clone(), now: old.clone() };
        let back = carry(&store, &[back]).unwrap();
        let returned: Vec<_> = back.steps.iter().map(|step| step.document.digest()).collect();
        assert_eq!(returned, [sbom.digest(), signature.digest()], "there and back again, byte for byte");
        assert_eq!(carry(&store, &moved).unwrap().steps, carried.steps);
    }

    #[test]
    fn what_a_list_names_wrongly_is_said_and_left() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "new", None));
        let other = manifest(&store, "of another", Some(&new));
        listed(&store, &old, &[&other]);
        let found = carry(&store, &[Moved { was: old.digest().clone(), now: new }]).unwrap();
        assert!(found.steps.is_empty() && found.notes[0].contains("does not belong"), "{found:?}");
    }

    #[test]
    fn a_chain_without_end_is_refused() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "new", None));
        let mut last = old.clone();
        for _ in 0..=DEPTH_MAX {
            let next = manifest(&store, "next", Some(&last));
            listed(&store, &last, &[&next]);
            last = next;
        }
        let error = carry(&store, &[Moved { was: old.digest().clone(), now: new }]).unwrap_err();
        assert!(error.to_string().contains("8 deep"), "{error}");
    }
}
