//! What belongs to an image without being named by it: manifests whose `subject` it is (OCI 1.1), cosign's tags.

use crate::parallel;
use crate::store::{ImageSource, ImageStore, Listed, Pointer};
use error::Error;
use error::Exit;
use error::text;
use image_model::digest::Digest;
use image_model::manifest::{Content, Descriptor, Document, DocumentError, media_type};
use image_model::raw_json::{self, JsonError, Object, Splice};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What cosign hangs on an image by a tag that is made of its digest: signature, attestations, SBOM.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];
/// Requests at once: they go along with those that write the new image.
const LOOKS: usize = 4;
/// How often a list is written again that others write at the same time.
const TRIES: usize = 5;

/// What belongs to one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belongings {
    pub subject: Digest,
    pub referrers: Vec<Descriptor>,
    /// Whoever writes a referrer must list it under the tag as well.
    pub by_tag: bool,
    /// cosign's: `sha256-HEX.sig`.
    pub tags: Vec<String>,
}

/// The tag of the index that lists what belongs to `subject`.
pub fn tag_of(subject: &Digest) -> String {
    let hex = subject.hex();
    // A sha512 is cut: the specification wants it to be a tag.
    format!("{}-{}", subject.algorithm(), hex.get(..64).unwrap_or(hex))
}

/// Finds what belongs to each of these documents: two round trips at most where the store has a list of its own and
/// few tags.
pub fn look(source: &dyn ImageSource, subjects: &[Digest]) -> Result<Vec<Belongings>, Error> {
    let (tags, listed) = std::thread::scope(|scope| {
        let tags = scope.spawn(|| source.tags_at_once());
        let listed = referrers_of_all(source, subjects);
        (tags.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), listed)
    });
    // Who may not list tags may still look for one.
    let tags: Option<BTreeSet<String>> = tags.unwrap_or(None).map(|tags| tags.into_iter().collect());
    let unknown: Vec<(&Digest, Listed)> = subjects.iter().zip(listed?).collect();
    parallel::map(&unknown, LOOKS, |(subject, listed)| {
        let (mut referrers, by_tag) = match listed {
            Listed::ByStore(entries) => (entries.clone(), false),
            Listed::ByTag(entries) => (entries.clone(), true),
        };
        let may_be_there = |tag: &str| tags.as_ref().is_none_or(|tags| tags.contains(tag));
        if by_tag && may_be_there(&tag_of(subject)) {
            for entry in listed_under_tag(source, subject)? {
                if !referrers.iter().any(|known| known.digest == entry.digest) {
                    referrers.push(entry);
                }
            }
        }
        Ok(Belongings {
            subject: (*subject).clone(),
            referrers,
            by_tag,
            tags: cosign_tags(source, subject, tags.as_ref())?,
        })
    })
}

/// One first: a registry that has no such list is not asked for each.
fn referrers_of_all(source: &dyn ImageSource, subjects: &[Digest]) -> Result<Vec<Listed>, Error> {
    let Some((first, rest)) = subjects.split_first() else { return Ok(Vec::new()) };
    let mut listed = vec![source.referrers(first)?];
    listed.extend(parallel::map(rest, LOOKS, |subject| source.referrers(subject))?);
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
    let what = format!("the list of referrers of {subject} in \"{}\"", source.place());
    match list.parse().map_err(|e| e.at(&what))? {
        Content::Index(index) => Ok(index.manifests),
        // A tag that only looks like one.
        Content::Manifest(_) => Ok(Vec::new()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Belonging {
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Belonging {
    fn read(document: &Document) -> Result<Self, DocumentError> {
        serde_json::from_slice(document.bytes()).map_err(|e| DocumentError::Shape(e.to_string()))
    }
}

/// The document that this one belongs to.
pub fn subject_of(document: &Document) -> Result<Option<Descriptor>, DocumentError> {
    Ok(Belonging::read(document)?.subject)
}

/// Those of these entries that belong to `subject`. An entry that cannot be read is none.
pub fn among(
    entries: Vec<Descriptor>,
    subject: &Digest,
    read: impl Fn(&Descriptor) -> Option<Document>,
) -> Vec<Descriptor> {
    let belongs = |entry: &Descriptor| {
        let document = read(entry)?;
        let named = subject_of(&document).ok()??;
        (named.digest == *subject).then(|| entry_of(&document).ok())?
    };
    entries.iter().filter_map(belongs).collect()
}

/// As a list of referrers describes this one: with its artifact type and annotations.
pub fn entry_of(document: &Document) -> Result<Descriptor, DocumentError> {
    let read = Belonging::read(document)?;
    let mut entry = document.descriptor();
    entry.artifact_type =
        read.artifact_type.filter(|kind| !kind.is_empty()).or(read.config.map(|config| config.media_type));
    entry.annotations = read.annotations.unwrap_or_default();
    Ok(entry)
}

/// A manifest that will be written for its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferrerStep {
    pub subject: Digest,
    pub document: Document,
    /// The store keeps no list: the subject's tag must name one.
    pub by_tag: bool,
}

/// One line for each write that may be made.
pub struct Shown<'a>(pub &'a [ReferrerStep], pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ReferrerStep { subject, document, .. } in self.0 {
            let size = text::format_bytes(document.bytes().len() as u64);
            writeln!(f, "  referrer  {}  {size:>10}  write, of {subject}", document.digest())?;
        }
        let listed: BTreeSet<&Digest> = self.0.iter().filter(|s| s.by_tag).map(|s| &s.subject).collect();
        for subject in listed {
            writeln!(f, "  list      {}:{}  of referrers, made or added to", self.1, tag_of(subject))?;
        }
        Ok(())
    }
}

/// Writes them in their order, then the lists that the store does not keep itself. They may come before their
/// subject: then it is there with all that belongs to it from its first moment.
pub fn apply(steps: &[ReferrerStep], store: &dyn ImageStore) -> Result<(), Error> {
    let mut lists: BTreeMap<&Digest, Vec<Descriptor>> = BTreeMap::new();
    for step in steps {
        if !store.write_referrer(&step.document)? {
            let entry = entry_of(&step.document).map_err(|e| e.at(step.document.digest().as_str()))?;
            lists.entry(&step.subject).or_default().push(entry);
        }
    }
    for (subject, entries) in lists {
        list_under_tag(store, subject, &entries)?;
    }
    Ok(())
}

/// Adds to the index under the subject's tag. Others may do the same at the same time, and a registry's tag cannot be
/// locked: it is read again before each write and behind it.
fn list_under_tag(store: &dyn ImageStore, subject: &Digest, entries: &[Descriptor]) -> Result<(), Error> {
    let tag = tag_of(subject);
    let doing = || format!("list the referrers of {subject} under \"{}:{tag}\"", store.place());
    for _ in 0..TRIES {
        let now = match store.read_document(&Pointer::Tag(tag.clone())) {
            Ok(list) => Some(list),
            Err(error) if error.kind == Exit::NotFound => None,
            Err(error) => return Err(error),
        };
        match list_with(now.as_ref(), entries).map_err(|e| e.at(&doing()))? {
            // Moved or not, the next look shows whether the entries are in it.
            Some(list) => drop(store.move_tag(&tag, now.as_ref().map(Document::digest), &list)?),
            None => return Ok(()),
        }
    }
    Err(Error::conflict(doing(), "others write the same list again and again").hint("run again"))
}

/// The list with these entries in it; `None`: they are in it already.
fn list_with(list: Option<&Document>, entries: &[Descriptor]) -> Result<Option<Document>, DocumentError> {
    let shape = |e: serde_json::Error| DocumentError::Shape(e.to_string());
    let known = match list.map(Document::parse).transpose()? {
        Some(Content::Index(index)) => index.manifests,
        Some(Content::Manifest(_)) => {
            return Err(DocumentError::Shape("an image has the tag of the list".into()));
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
    let member = Object::parse(bytes)?.unique(bytes, "manifests")?.map(|member| member.value_at.clone());
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

    fn found(store: &MemoryStore, subject: &Document) -> Belongings {
        look(store, std::slice::from_ref(subject.digest())).unwrap().remove(0)
    }

    #[test]
    fn what_is_written_is_found_again_and_once() {
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
        assert_eq!(there.referrers, [entry_of(&one).unwrap(), entry_of(&two).unwrap()]);
        assert_eq!(there.referrers[0].artifact_type.as_deref(), Some("application/x.signature"));
        assert_eq!(there.referrers[1].annotations["note"], "2");
        assert!(there.by_tag);
        assert_eq!(subject_of(&one).unwrap().unwrap().digest, *image.digest());
    }

    #[test]
    fn a_list_keeps_every_byte_that_it_had() {
        let store = MemoryStore::new();
        let one = signature(&store, &Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap(), "1");
        let entry = serde_json::to_string(&entry_of(&one).unwrap()).unwrap();
        let check = |list: &str, expected: &str| {
            let list = Document::new(list.into(), None).unwrap();
            let now = list_with(Some(&list), &[entry_of(&one).unwrap()]).unwrap().unwrap();
            assert_eq!(String::from_utf8_lossy(now.bytes()), expected.replace("ENTRY", &entry));
            assert_eq!(list_with(Some(&now), &[entry_of(&one).unwrap()]).unwrap(), None);
        };
        check(r#"{ "manifests" : [ ] , "x":1.50}"#, r#"{ "manifests" : [ENTRY ] , "x":1.50}"#);
        check(r#"{"manifests":null}"#, r#"{"manifests":[ENTRY]}"#);
        let other = r#"{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size": 2}"#;
        check(&format!("{{\"manifests\":[ {other}\n]}}"), &format!("{{\"manifests\":[ {other},ENTRY\n]}}"));
        let image = Document::new(one.bytes().to_vec(), None).unwrap();
        assert!(list_with(Some(&image), &[entry_of(&one).unwrap()]).is_err());
    }

    #[test]
    fn cosign_hangs_its_things_on_a_tag() {
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
    fn a_digest_makes_a_tag() {
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
