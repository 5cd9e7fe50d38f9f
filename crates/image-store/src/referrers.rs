//! Manifests and tags attached to an image: referrers (distribution-spec 1.1) and the tags that cosign derives from a
//! digest.

use crate::parallel;
use crate::store::{ImageSource, ImageStore, Pointer, ReferrerList};
use crate::subject::referrer_entry;
use error::Error;
use error::Exit;
use error::text;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, DocumentError, ParsedDocument, media_type};
use image_model::raw_json::{self, JsonError, JsonObject, Splice};
use std::collections::{BTreeMap, BTreeSet};

/// Suffixes of the tags under which cosign stores signature, attestations and SBOM: `sha256-HEX.sig`.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];
/// Requests at once. They are sent together with those that write the new image.
const REQUESTS: usize = 4;
/// Attempts to update a list that others update at the same time.
const ATTEMPTS: usize = 5;

/// Manifests and tags that are attached to one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The document.
    pub subject: Digest,
    /// Manifests whose subject it is.
    pub referrers: Vec<Descriptor>,
    /// The store keeps no list of referrers: whoever writes one must add it to the list under [`tag_of`].
    pub by_tag: bool,
    /// cosign's tags: `sha256-HEX.sig`.
    pub tags: Vec<String>,
}

/// Returns the tag of the index that lists the referrers of `subject` (distribution-spec 1.1, "Referrers Tag Schema").
pub fn tag_of(subject: &Digest) -> String {
    let hex = subject.hex();
    // A sha512 is truncated, since the result must be a valid tag.
    format!("{}-{}", subject.algorithm(), hex.get(..64).unwrap_or(hex))
}

/// Returns what is attached to each of these documents. It takes at most two round trips if the store lists referrers
/// and has few tags.
///
/// # Errors
/// As [`ImageSource::referrers`] and [`ImageSource::read_document`]. Tags that cannot be listed are no error.
pub fn find_attached(source: &dyn ImageSource, subjects: &[Digest]) -> Result<Vec<Attached>, Error> {
    let (tags, listed) = std::thread::scope(|scope| {
        let tags = scope.spawn(|| source.tags_in_one_request());
        let listed = referrers_of_all(source, subjects);
        (tags.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), listed)
    });
    // A user who may not list tags may still be allowed to read one.
    let tags: Option<BTreeSet<String>> = tags.unwrap_or(None).map(|tags| tags.into_iter().collect());
    let unknown: Vec<(&Digest, ReferrerList)> = subjects.iter().zip(listed?).collect();
    parallel::map(&unknown, source.concurrency(REQUESTS), |(subject, listed)| {
        let (mut referrers, by_tag) = match listed {
            ReferrerList::Complete(entries) => (entries.clone(), false),
            ReferrerList::TagSchema(entries) => (entries.clone(), true),
        };
        let may_be_there = |tag: &str| tags.as_ref().is_none_or(|tags| tags.contains(tag));
        if by_tag && may_be_there(&tag_of(subject)) {
            for entry in listed_under_tag(source, subject)? {
                if !referrers.iter().any(|known| known.digest == entry.digest) {
                    referrers.push(entry);
                }
            }
        }
        Ok(Attached {
            subject: (*subject).clone(),
            referrers,
            by_tag,
            tags: cosign_tags(source, subject, tags.as_ref())?,
        })
    })
}

/// Asks for one list first: a registry without the referrers API is not asked for each.
fn referrers_of_all(source: &dyn ImageSource, subjects: &[Digest]) -> Result<Vec<ReferrerList>, Error> {
    let Some((first, rest)) = subjects.split_first() else { return Ok(Vec::new()) };
    let mut listed = vec![source.referrers(first)?];
    listed.extend(parallel::map(rest, source.concurrency(REQUESTS), |subject| source.referrers(subject))?);
    Ok(listed)
}

fn cosign_tags(
    source: &dyn ImageSource,
    subject: &Digest,
    tags: Option<&BTreeSet<String>>,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for kind in COSIGN {
        let tag = format!("{}-{}.{kind}", subject.algorithm(), subject.hex());
        let is_there = match tags {
            Some(tags) => tags.contains(&tag),
            None => source.resolve(&Pointer::Tag(tag.clone()))?.is_some(),
        };
        if is_there {
            found.push(tag);
        }
    }
    Ok(found)
}

fn listed_under_tag(source: &dyn ImageSource, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
    let list = match source.read_document(&Pointer::Tag(tag_of(subject))) {
        Ok(list) => list,
        Err(error) if error.kind == Exit::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let what = format!("the referrers list of {subject} in \"{}\"", source.display_name());
    match list.parse().map_err(|e| e.at(&what))? {
        ParsedDocument::Index(index) => Ok(index.manifests),
        // A tag that happens to have this form.
        ParsedDocument::Manifest(_) => Ok(Vec::new()),
    }
}

/// A referrer that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrerStep {
    /// Its subject.
    pub subject: Digest,
    /// The manifest.
    pub document: Document,
    /// The store keeps no list of referrers: the list under the subject's tag must be updated.
    pub by_tag: bool,
}

/// Returns one line for each write that [`apply`] may make. `store` is the store's display name.
pub fn describe(steps: &[ReferrerStep], store: &str) -> String {
    let mut lines = String::new();
    for ReferrerStep { subject, document, .. } in steps {
        let size = text::format_bytes(document.bytes().len() as u64);
        lines += &format!("  referrer  {}  {size:>10}  write, of {subject}\n", document.digest());
    }
    let listed: BTreeSet<&Digest> = steps.iter().filter(|s| s.by_tag).map(|s| &s.subject).collect();
    for subject in listed {
        lines += &format!("  list      {store}:{}  of referrers, create or update\n", tag_of(subject));
    }
    lines
}

/// Writes the referrers in their order, then the lists that the store does not keep itself. Referrers may be written
/// before their subject, so that it is never visible without them.
///
/// # Errors
/// `Conflict` if others keep changing the same list.
pub fn apply(steps: &[ReferrerStep], store: &dyn ImageStore) -> Result<(), Error> {
    let mut lists: BTreeMap<&Digest, Vec<Descriptor>> = BTreeMap::new();
    for step in steps {
        if !store.write_referrer(&step.document)? {
            let entry = referrer_entry(&step.document).map_err(|e| e.at(step.document.digest().as_str()))?;
            lists.entry(&step.subject).or_default().push(entry);
        }
    }
    for (subject, entries) in lists {
        list_under_tag(store, subject, &entries)?;
    }
    Ok(())
}

/// Adds entries to the index under the subject's tag. Others may do the same at the same time, and a registry's tag
/// cannot be locked: it is read again before and after each write.
fn list_under_tag(store: &dyn ImageStore, subject: &Digest, entries: &[Descriptor]) -> Result<(), Error> {
    let tag = tag_of(subject);
    let doing = || format!("update the referrers list of {subject}, \"{}:{tag}\"", store.display_name());
    for _ in 0..ATTEMPTS {
        let now = match store.read_document(&Pointer::Tag(tag.clone())) {
            Ok(list) => Some(list),
            Err(error) if error.kind == Exit::NotFound => None,
            Err(error) => return Err(error),
        };
        match list_with(now.as_ref(), entries).map_err(|e| e.at(&doing()))? {
            // Whether or not the tag moved: the next read shows whether the entries are in the list.
            Some(list) => drop(store.move_tag(&tag, now.as_ref().map(Document::digest), &list)?),
            None => return Ok(()),
        }
    }
    Err(Error::conflict(doing(), "other processes keep changing the same list").hint("run again"))
}

/// Returns the list with these entries, or `None` if it has them already.
fn list_with(list: Option<&Document>, entries: &[Descriptor]) -> Result<Option<Document>, DocumentError> {
    let shape = |e: serde_json::Error| DocumentError::Shape(e.to_string());
    let known = match list.map(Document::parse).transpose()? {
        Some(ParsedDocument::Index(index)) => index.manifests,
        Some(ParsedDocument::Manifest(_)) => {
            return Err(DocumentError::Shape(
                "the tag refers to an image, not to a list of referrers".into(),
            ));
        }
        None => Vec::new(),
    };
    let missing = entries.iter().filter(|entry| !known.iter().any(|known| known.digest == entry.digest));
    let texts: Vec<String> = missing.map(serde_json::to_string).collect::<Result<_, _>>().map_err(shape)?;
    if texts.is_empty() {
        return Ok(None);
    }
    let text = texts.join(",");
    let Some(list) = list else {
        let kind = media_type::OCI_INDEX;
        let bytes = format!("{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"manifests\":[{text}]}}");
        return Document::new(bytes.into_bytes(), None).map(Some);
    };
    let bytes = list.bytes();
    let member = JsonObject::parse(bytes)?.unique(bytes, "manifests")?.map(|member| member.value_at.clone());
    let at = member.ok_or_else(|| JsonError::NotAnObject("\"manifests\"".into()))?;
    let mut splice = Splice::default();
    if bytes.get(at.start) == Some(&b'[') {
        match raw_json::elements(bytes, &at, "manifests")?.last() {
            Some(last) => splice.replace(last.end..last.end, format!(",{text}")),
            None => splice.replace(at.start + 1..at.start + 1, text),
        }
    } else {
        splice.replace(at, format!("[{text}]"));
    }
    Document::new(splice.apply(bytes), Some(list.media_type())).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::subject::referrer_entry;
    use image_model::manifest::media_type::OCI_CONFIG;

    fn signature(store: &MemoryStore, subject: &Document, note: &str) -> Document {
        let config = store.add_blob(OCI_CONFIG, b"{}");
        let text = serde_json::json!({
            "schemaVersion": 2, "artifactType": "application/x.signature", "config": config, "layers": [],
            "subject": subject.descriptor(), "annotations": {"note": note},
        });
        Document::new(text.to_string().into_bytes(), None).unwrap()
    }

    fn step(subject: &Document, document: &Document) -> ReferrerStep {
        ReferrerStep { subject: subject.digest().clone(), document: document.clone(), by_tag: true }
    }

    fn found(store: &MemoryStore, subject: &Document) -> Attached {
        find_attached(store, std::slice::from_ref(subject.digest())).unwrap().remove(0)
    }

    #[test]
    fn written_referrers_are_listed_once() {
        let store = MemoryStore::new();
        let image =
            signature(&store, &Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap(), "image");
        let (one, two) = (signature(&store, &image, "1"), signature(&store, &image, "2"));
        assert_eq!(found(&store, &image).referrers, []);
        for steps in [vec![step(&image, &one)], vec![step(&image, &one), step(&image, &two)]] {
            apply(&steps, &store).unwrap();
            apply(&steps, &store).unwrap();
        }
        let there = found(&store, &image);
        assert_eq!(there.referrers, [referrer_entry(&one).unwrap(), referrer_entry(&two).unwrap()]);
        assert_eq!(there.referrers[0].artifact_type.as_deref(), Some("application/x.signature"));
        assert_eq!(there.referrers[1].annotations["note"], "2");
        assert!(there.by_tag);
        assert_eq!(crate::subject::subject_of(&one).unwrap().unwrap().digest, *image.digest());
    }

    #[test]
    fn unchanged_bytes_of_a_list_are_preserved() {
        let store = MemoryStore::new();
        let one = signature(&store, &Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap(), "1");
        let entry = serde_json::to_string(&referrer_entry(&one).unwrap()).unwrap();
        let check = |list: &str, expected: &str| {
            let list = Document::new(list.into(), None).unwrap();
            let now = list_with(Some(&list), &[referrer_entry(&one).unwrap()]).unwrap().unwrap();
            assert_eq!(String::from_utf8_lossy(now.bytes()), expected.replace("ENTRY", &entry));
            assert_eq!(list_with(Some(&now), &[referrer_entry(&one).unwrap()]).unwrap(), None);
        };
        check(r#"{ "manifests" : [ ] , "x":1.50}"#, r#"{ "manifests" : [ENTRY ] , "x":1.50}"#);
        check(r#"{"manifests":null}"#, r#"{"manifests":[ENTRY]}"#);
        let other = r#"{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size": 2}"#;
        check(&format!("{{\"manifests\":[ {other}\n]}}"), &format!("{{\"manifests\":[ {other},ENTRY\n]}}"));
        let image = Document::new(one.bytes().to_vec(), None).unwrap();
        assert!(list_with(Some(&image), &[referrer_entry(&one).unwrap()]).is_err());
    }

    #[test]
    fn tags_of_cosign_are_found() {
        let store = MemoryStore::new();
        let image =
            signature(&store, &Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap(), "image");
        for end in ["sig", "att", "sbom", "other"] {
            store.write_tag(&format!("sha256-{}.{end}", image.digest().hex()), &image).unwrap();
        }
        let names = ["sig", "att", "sbom"].map(|end| format!("sha256-{}.{end}", image.digest().hex()));
        assert_eq!(found(&store, &image).tags, names);
    }

    #[test]
    fn the_list_tag_is_derived_from_the_digest() {
        assert_eq!(
            tag_of(&format!("sha256:{}", "a".repeat(64)).parse().unwrap()),
            format!("sha256-{}", "a".repeat(64))
        );
        assert_eq!(
            tag_of(&format!("sha512:{}", "b".repeat(128)).parse().unwrap()),
            format!("sha512-{}", "b".repeat(64))
        );
    }
}
