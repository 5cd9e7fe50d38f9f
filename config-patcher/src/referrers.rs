//! Referrers and signature tags of an image that changes, and copies of the referrers for the new image.

use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use image_model::patch::patch_subject;
use image_store::parallel;
use image_store::referrers::{Attached, ReferrerStep, find_attached};
use image_store::store::{ImageSource, Pointer};
use image_store::subject::subject_of;
use std::collections::BTreeSet;

/// A signature of an SBOM of an image is two levels deep.
const DEPTH_MAX: usize = 8;
/// The largest number of referrers that are copied.
const COPIES_MAX: usize = 1_000;

/// A subject of referrers, and the document that replaces it.
#[derive(Clone, Debug)]
pub struct ReplacedSubject {
    pub old: Digest,
    pub new: Document,
}

/// A manifest whose subject is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The old subject.
    pub subject: Digest,
    pub digest: Digest,
    /// Its artifact type or media type: `application/vnd.dev.sigstore.bundle.v0.3+json`.
    pub artifact_type: String,
    /// The copy for the new image.
    pub copy: Option<Digest>,
}

/// Referrers and attestations of the old image.
#[derive(Clone, Debug, Default)]
pub struct AttachedArtifacts {
    pub referrers: Vec<Referrer>,
    /// Tags of cosign, each with the digest from which it is derived.
    pub tags: Vec<(Digest, String)>,
    /// The writes that copy the referrers, in their order.
    pub steps: Vec<ReferrerStep>,
    /// Referrers that could not be copied, and why.
    pub notes: Vec<String>,
}

/// Returns what is attached to the old documents.
pub fn find_referrers(
    source: &dyn ImageSource,
    replaced: &[ReplacedSubject],
) -> Result<AttachedArtifacts, Error> {
    let mut found = AttachedArtifacts::default();
    for attached in find_all(source, replaced)? {
        let Attached { subject, referrers, tags, .. } = attached;
        for entry in referrers.iter().filter(|entry| !is_replaced(&entry.digest, replaced)) {
            found.referrers.push(referrer(&subject, entry, None));
        }
        found.tags.extend(tags.into_iter().map(|tag| (subject.clone(), tag)));
    }
    Ok(found)
}

/// The same, with a copy of each referrer, and of its referrers, for the new image. Only the subjects change: what is
/// signed or stated in a referrer still names the old image.
///
/// # Errors
/// Bad input, if there are too many.
pub fn copy_referrers(
    source: &dyn ImageSource,
    replaced: &[ReplacedSubject],
) -> Result<AttachedArtifacts, Error> {
    let mut found = AttachedArtifacts::default();
    let mut seen: BTreeSet<Digest> = replaced.iter().map(|replaced| replaced.old.clone()).collect();
    let mut level = replaced.to_vec();
    for _ in 0..DEPTH_MAX {
        let mut next = Vec::new();
        for (ReplacedSubject { old, new }, attached) in level.iter().zip(find_all(source, &level)?) {
            let Attached { referrers, tags, by_tag, .. } = attached;
            found.tags.extend(tags.into_iter().map(|tag| (old.clone(), tag)));
            let unseen: Vec<Descriptor> =
                referrers.into_iter().filter(|entry| seen.insert(entry.digest.clone())).collect();
            if found.steps.len() + unseen.len() > COPIES_MAX {
                return Err(too_many(source, &format!("there are more than {COPIES_MAX}")));
            }
            let read = parallel::map(&unseen, source.concurrency(parallel::REQUESTS), |entry| {
                read(source, entry, old)
            })?;
            for (entry, document) in unseen.iter().zip(read) {
                let document = match document {
                    Ok(document) => document,
                    Err(why) => {
                        found.notes.push(format!("{} was not copied: {why}", entry.digest));
                        continue;
                    }
                };
                let failed = |e: image_model::manifest::DocumentError| e.at(entry.digest.as_str());
                let document = patch_subject(&document, new).map_err(failed)?;
                found.referrers.push(referrer(old, entry, Some(document.digest().clone())));
                let subject = new.digest().clone();
                found.steps.push(ReferrerStep { subject, document: document.clone(), by_tag });
                next.push(ReplacedSubject { old: entry.digest.clone(), new: document });
            }
        }
        if next.is_empty() {
            return Ok(found);
        }
        level = next;
    }
    Err(too_many(source, &format!("they refer to each other more than {DEPTH_MAX} levels deep")))
}

fn find_all(source: &dyn ImageSource, replaced: &[ReplacedSubject]) -> Result<Vec<Attached>, Error> {
    let subjects: Vec<Digest> = replaced.iter().map(|replaced| replaced.old.clone()).collect();
    find_attached(source, &subjects)
}

/// An attestation in an index may be a referrer of its image as well; it is replaced already.
fn is_replaced(digest: &Digest, replaced: &[ReplacedSubject]) -> bool {
    replaced.iter().any(|replaced| replaced.old == *digest)
}

fn referrer(subject: &Digest, entry: &Descriptor, copy: Option<Digest>) -> Referrer {
    let artifact_type = entry.artifact_type.clone().unwrap_or_else(|| entry.media_type.clone());
    Referrer { subject: subject.clone(), digest: entry.digest.clone(), artifact_type, copy }
}

/// The referrer, or why it is none: clients maintain the lists under tags, which may be out of date.
fn read(
    source: &dyn ImageSource,
    entry: &Descriptor,
    subject: &Digest,
) -> Result<Result<Document, String>, Error> {
    let document = match source.read_document(&Pointer::from(&entry.digest)) {
        Ok(document) => document,
        Err(error) if error.kind == Exit::NotFound => return Ok(Err("it does not exist".into())),
        Err(error) => return Err(error),
    };
    let named = subject_of(&document).map_err(|e| e.at(entry.digest.as_str()))?;
    Ok(match named {
        Some(named) if named.digest == *subject => Ok(document),
        _ => Err(format!("its subject is not {subject}, although it is listed there")),
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
    fn copies_of_signatures_of_referrers_are_deterministic() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "newer", None));
        let sbom = manifest(&store, "sbom", Some(&old));
        let signature = manifest(&store, "signature", Some(&sbom));
        listed(&store, &old, &[&sbom]);
        listed(&store, &sbom, &[&signature]);
        let replaced = [ReplacedSubject { old: old.digest().clone(), new: new.clone() }];
        let listed: Vec<_> = find_referrers(&store, &replaced).unwrap().referrers;
        assert_eq!(listed.iter().map(|r| (&r.digest, &r.copy)).collect::<Vec<_>>(), [(sbom.digest(), &None)]);
        let carried = copy_referrers(&store, &replaced).unwrap();
        assert_eq!(carried.steps.len(), 2);
        apply(&carried.steps, &store).unwrap();
        let back = ReplacedSubject { old: new.digest().clone(), new: old.clone() };
        let back = copy_referrers(&store, &[back]).unwrap();
        let returned: Vec<_> = back.steps.iter().map(|step| step.document.digest()).collect();
        assert_eq!(returned, [sbom.digest(), signature.digest()], "copied back byte for byte");
        assert_eq!(copy_referrers(&store, &replaced).unwrap().steps, carried.steps);
    }

    #[test]
    fn a_listed_manifest_that_is_not_a_referrer_is_reported_and_not_copied() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "new", None));
        let other = manifest(&store, "of another", Some(&new));
        listed(&store, &old, &[&other]);
        let found = copy_referrers(&store, &[ReplacedSubject { old: old.digest().clone(), new }]).unwrap();
        assert!(found.steps.is_empty() && found.notes[0].contains("its subject is not"), "{found:?}");
    }

    #[test]
    fn more_than_1000_referrers_are_not_copied() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "new", None));
        let referrers: Vec<Document> =
            (0..1001).map(|i| manifest(&store, &i.to_string(), Some(&old))).collect();
        let copy = |count: usize| {
            listed(&store, &old, &referrers[..count].iter().collect::<Vec<_>>());
            copy_referrers(&store, &[ReplacedSubject { old: old.digest().clone(), new: new.clone() }])
        };
        assert_eq!(copy(1000).unwrap().steps.len(), 1000);
        let error = copy(1001).unwrap_err();
        assert!(error.to_string().contains("there are more than 1000"), "{error}");
    }

    #[test]
    fn an_endless_chain_is_refused() {
        let store = MemoryStore::new();
        let (old, new) = (manifest(&store, "old", None), manifest(&store, "new", None));
        let mut last = old.clone();
        for _ in 0..=DEPTH_MAX {
            let next = manifest(&store, "next", Some(&last));
            listed(&store, &last, &[&next]);
            last = next;
        }
        let error =
            copy_referrers(&store, &[ReplacedSubject { old: old.digest().clone(), new }]).unwrap_err();
        assert!(error.to_string().contains("8 levels deep"), "{error}");
    }
}
