//! The label in a config, and what follows from it in manifests and indexes: bytes to bytes.
//!
//! Only the values that must change change. Key order, spacing, unknown keys and every other byte stay.

use crate::manifest::{Descriptor, Document, DocumentError, read_label};
use crate::platform::Platform;
use crate::raw_json::{self, JsonError, Object, Splice};
use base64::Engine as _;

/// What came of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched {
    /// The label is right: nothing is written, the digest stays.
    Unchanged,
    Changed(Vec<u8>),
}

/// How literally a label must say the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A person named it: a variant that was asked for is written out.
    Explicit,
    /// An index entry says it: default variants of arm64 and amd64 need not be written.
    Entry,
}

/// Says `wanted` in an image config.
pub fn patch_config(config: &[u8], wanted: &Platform, ask: Ask) -> Result<Patched, DocumentError> {
    let object = Object::parse(config)?;
    let label = read_label(config, &object)?;
    let right = match ask {
        Ask::Explicit => label.answers(wanted),
        Ask::Entry => label.answers_entry(wanted),
    };
    if right {
        return Ok(Patched::Unchanged);
    }
    let mut splice = Splice::default();
    splice_label(config, &object, &label, wanted, &mut splice)?;
    Ok(Patched::Changed(splice.apply(config)))
}

/// Writes the platform's keys where they differ. Insertions that share a place come in the order of this text.
fn splice_label(
    input: &[u8],
    object: &Object,
    label: &Platform,
    wanted: &Platform,
    splice: &mut Splice,
) -> Result<(), JsonError> {
    if label.architecture != wanted.architecture {
        splice.set(input, object, "architecture", &quoted(&wanted.architecture), &[])?;
    }
    match &wanted.variant {
        Some(variant) if label.variant.as_ref() != Some(variant) => {
            splice.set(input, object, "variant", &quoted(variant), &["architecture"])?;
        }
        Some(_) => {}
        // The old variant belongs to another machine, or is one that nobody asked for.
        None if label.variant.is_some() && !label.fits(wanted) => splice.remove(input, object, "variant")?,
        None => {}
    }
    if label.os != wanted.os {
        splice.set(input, object, "os", &quoted(&wanted.os), &["architecture"])?;
    }
    // A version and features belong to one system: of another one, they would be wrong.
    let other_system = label.os != wanted.os && !label.os.is_empty();
    match &wanted.os_version {
        Some(version) if label.os_version.as_ref() != Some(version) => {
            splice.set(input, object, "os.version", &quoted(version), &["os"])?;
        }
        None if other_system && label.os_version.is_some() => splice.remove(input, object, "os.version")?,
        _ => {}
    }
    if !wanted.os_features.is_empty() && label.os_features != wanted.os_features {
        let list: Vec<String> = wanted.os_features.iter().map(|feature| quoted(feature)).collect();
        splice.set(input, object, "os.features", &format!("[{}]", list.join(",")), &["os.version", "os"])?;
    } else if other_system && !label.os_features.is_empty() {
        splice.remove(input, object, "os.features")?;
    }
    Ok(())
}

/// A JSON string. Platforms hold words only, but a value is never pasted unquoted.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The manifest with its config replaced: digest, size, and the inlined copy if there is one.
pub fn patch_manifest(manifest: &Document, config: &[u8]) -> Result<Document, DocumentError> {
    let input = manifest.bytes();
    let object = Object::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"config\"".into());
    let member = object.unique(input, "config")?.ok_or_else(absent)?;
    let mut splice = Splice::default();
    let at = Object::parse_at(input, &member.value_at, "config")?;
    splice_descriptor(input, &at, &Descriptor::of("", config), config, &mut splice)?;
    Document::new(splice.apply(input), Some(manifest.media_type()))
}

/// A manifest that belongs to another document, made to belong to what took that one's place.
pub fn patch_subject(manifest: &Document, subject: &Document) -> Result<Document, DocumentError> {
    let input = manifest.bytes();
    let object = Object::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"subject\"".into());
    let member = object.unique(input, "subject")?.ok_or_else(absent)?;
    let mut splice = Splice::default();
    let at = Object::parse_at(input, &member.value_at, "subject")?;
    splice_descriptor(input, &at, &subject.descriptor(), subject.bytes(), &mut splice)?;
    Document::new(splice.apply(input), Some(manifest.media_type()))
}

/// Digest, size and, where the content is inlined, `data`.
fn splice_descriptor(
    input: &[u8],
    object: &Object,
    now: &Descriptor,
    content: &[u8],
    splice: &mut Splice,
) -> Result<(), JsonError> {
    splice.set(input, object, "digest", &quoted(now.digest.as_str()), &["mediaType"])?;
    splice.set(input, object, "size", &now.size.to_string(), &["digest", "mediaType"])?;
    if let Some(data) = object.unique(input, "data")?.filter(|data| input[data.value_at.clone()] != *b"null")
    {
        let encoded = base64::engine::general_purpose::STANDARD.encode(content);
        splice.replace(data.value_at.clone(), quoted(&encoded));
    }
    Ok(())
}

/// What changes in one entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange<'a> {
    /// Which entry, counted from 0.
    pub index: usize,
    /// The member as it is now; `None` leaves digest and size.
    pub document: Option<&'a Document>,
    /// The platform that the entry must say; `None` leaves it.
    pub platform: Option<&'a Platform>,
    /// The image that an attestation member speaks of, by its new digest.
    pub attests: Option<&'a str>,
}

/// The index with these entries changed.
pub fn patch_index(index: &Document, changes: &[EntryChange<'_>]) -> Result<Document, DocumentError> {
    let input = index.bytes();
    let object = Object::parse(input)?;
    let absent = || DocumentError::Shape("it has no \"manifests\"".into());
    let list = object.unique(input, "manifests")?.ok_or_else(absent)?;
    let entries = raw_json::elements(input, &list.value_at, "manifests")?;
    let mut splice = Splice::default();
    for change in changes {
        let at = entries.get(change.index).ok_or_else(absent)?;
        let entry = Object::parse_at(input, at, "manifests")?;
        if let Some(document) = change.document {
            splice_descriptor(input, &entry, &document.descriptor(), document.bytes(), &mut splice)?;
        }
        if let Some(platform) = change.platform {
            splice_platform(input, &entry, platform, &mut splice)?;
        }
        if let Some(subject) = change.attests
            && let Some(annotations) = entry.unique(input, "annotations")?
        {
            let annotations = Object::parse_at(input, &annotations.value_at, "annotations")?;
            splice.set(input, &annotations, "vnd.docker.reference.digest", &quoted(subject), &[])?;
        }
    }
    Document::new(splice.apply(input), Some(index.media_type()))
}

fn splice_platform(
    input: &[u8],
    entry: &Object,
    wanted: &Platform,
    splice: &mut Splice,
) -> Result<(), DocumentError> {
    let there = entry.unique(input, "platform")?.filter(|p| input[p.value_at.clone()] != *b"null");
    let Some(member) = there else {
        let text = serde_json::to_string(wanted).map_err(|e| DocumentError::Shape(e.to_string()))?;
        splice.set(input, entry, "platform", &text, &["size", "digest", "mediaType"])?;
        return Ok(());
    };
    let object = Object::parse_at(input, &member.value_at, "platform")?;
    let label = read_label(input, &object)?;
    if !label.answers(wanted) {
        splice_label(input, &object, &label, wanted, splice)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::manifest::media_type;

    fn patched(config: &str, wanted: &str, ask: Ask) -> Option<String> {
        match patch_config(config.as_bytes(), &wanted.parse().unwrap(), ask).unwrap() {
            Patched::Unchanged => None,
            Patched::Changed(bytes) => Some(String::from_utf8(bytes).unwrap()),
        }
    }

    fn check(config: &str, wanted: &str, expected: &str) {
        assert_eq!(patched(config, wanted, Ask::Explicit).as_deref(), Some(expected));
        assert_eq!(patched(expected, wanted, Ask::Explicit), None, "a second patch has nothing to do");
    }

    #[test]
    fn only_the_label_changes() {
        check(
            r#"{"architecture":"amd64","config":{"StopTimeout":1.50},"container":"c0","os":"linux","x":"\u003c"}"#,
            "linux/arm/v7",
            r#"{"architecture":"arm","variant":"v7","config":{"StopTimeout":1.50},"container":"c0","os":"linux","x":"\u003c"}"#,
        );
        check(
            r#"{"architecture":"arm","os":"linux"}"#,
            "linux/arm/v7",
            r#"{"architecture":"arm","variant":"v7","os":"linux"}"#,
        );
        check(
            r#"{"architecture":"arm64","variant":"v8","os":"linux"}"#,
            "linux/amd64",
            r#"{"architecture":"amd64","os":"linux"}"#,
        );
        check(
            "{\n \"os\": \"linux\"\n}",
            "linux/arm64",
            "{\n \"architecture\": \"arm64\",\n \"os\": \"linux\"\n}",
        );
        check(
            r#"{"rootfs":1}"#,
            "linux/arm/v5",
            r#"{"architecture":"arm","variant":"v5","os":"linux","rootfs":1}"#,
        );
        check("{}", "linux/arm/v5", r#"{"architecture":"arm","variant":"v5","os":"linux"}"#);
        check(r#"{"architecture":null,"os":"linux"}"#, "linux/386", r#"{"architecture":"386","os":"linux"}"#);
        check(
            r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["a"]}"#,
            "windows/amd64:10.0.2",
            r#"{"architecture":"amd64","os":"windows","os.version":"10.0.2","os.features":["a"]}"#,
        );
        check(
            r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["a"]}"#,
            "linux/amd64",
            r#"{"architecture":"amd64","os":"linux"}"#,
        );
    }

    #[test]
    fn a_right_label_is_left_alone() {
        let unchanged = |config: &str, wanted: &str, ask: Ask| assert_eq!(patched(config, wanted, ask), None);
        unchanged(r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#, "linux/arm64", Ask::Explicit);
        unchanged(r#"{"architecture":"arm64","os":"linux"}"#, "linux/arm64/v8", Ask::Entry);
        assert!(
            patched(r#"{"architecture":"arm64","os":"linux"}"#, "linux/arm64/v8", Ask::Explicit).is_some()
        );
        assert!(patched(r#"{"architecture":"arm","os":"linux"}"#, "linux/arm/v7", Ask::Entry).is_some());
    }

    #[test]
    fn keys_that_readers_read_differently_are_refused() {
        let refused = |config: &str| {
            patch_config(config.as_bytes(), &"linux/arm64".parse().unwrap(), Ask::Explicit).is_err()
        };
        assert!(refused(r#"{"architecture":"amd64","Architecture":"arm64","os":"linux"}"#));
        assert!(refused(r#"{"architecture":"amd64","os":"linux","os":"linux"}"#));
        assert!(refused(r#"{"v\u0061riant":"v8","architecture":"amd64","os":"linux"}"#));
    }

    #[test]
    fn a_manifest_follows_its_config_with_digest_size_and_data() {
        let old = Digest::of(b"old");
        let text = format!(
            "{{ \"config\" : {{\"data\":\"b2xk\",\"size\": 3,\"digest\":\"{old}\",\"mediaType\":\"{}\"}}, \"layers\":[], \"n\":1e3 }}",
            media_type::OCI_CONFIG
        );
        let manifest = Document::new(text.clone().into_bytes(), None).unwrap();
        let now = patch_manifest(&manifest, b"newer").unwrap();
        let expected = text
            .replace(old.as_str(), Digest::of(b"newer").as_str())
            .replace("\"size\": 3", "\"size\": 5")
            .replace("b2xk", "bmV3ZXI=");
        assert_eq!(String::from_utf8_lossy(now.bytes()), expected);
    }

    #[test]
    fn what_belongs_to_a_manifest_follows_it() {
        let subject = Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap();
        let old = Digest::of(b"x");
        let text = format!(
            r#"{{"config":{{"digest":"{old}","size":1}}, "subject": {{"size":1 , "digest":"{old}","x":1.50}},"layers":[]}}"#
        );
        let signature = Document::new(text.clone().into_bytes(), None).unwrap();
        let at = text.find("subject").unwrap();
        let now = text[at..].replace(old.as_str(), subject.digest().as_str()).replace("1 ,", "16 ,");
        let patched = patch_subject(&signature, &subject).unwrap();
        assert_eq!(String::from_utf8_lossy(patched.bytes()), format!("{}{now}", &text[..at]));
        let image = Document::new(br#"{"config":{},"layers":[]}"#.to_vec(), None).unwrap();
        assert!(patch_subject(&image, &subject).is_err());
    }

    #[test]
    fn an_index_follows_its_members() {
        let member = Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap();
        let old = Digest::of(b"x");
        let text = format!(
            "{{\"manifests\":[ {{\"digest\":\"{old}\",\"size\":1,\"platform\":{{\"architecture\":\"amd64\",\"os\":\"linux\",\"features\":[]}}}},\n{{\"digest\":\"{old}\",\"size\":1,\"annotations\":{{\"vnd.docker.reference.digest\":\"{old}\"}}}}]}}"
        );
        let index = Document::new(text.into_bytes(), None).unwrap();
        let platform: Platform = "linux/arm/v7".parse().unwrap();
        let new = member.digest().as_str();
        let changes = [
            EntryChange { index: 0, document: Some(&member), platform: Some(&platform), attests: None },
            EntryChange { index: 1, document: None, platform: None, attests: Some(new) },
        ];
        let size = member.bytes().len();
        let expected = format!(
            "{{\"manifests\":[ {{\"digest\":\"{new}\",\"size\":{size},\"platform\":{{\"architecture\":\"arm\",\"variant\":\"v7\",\"os\":\"linux\",\"features\":[]}}}},\n{{\"digest\":\"{old}\",\"size\":1,\"annotations\":{{\"vnd.docker.reference.digest\":\"{new}\"}}}}]}}"
        );
        assert_eq!(String::from_utf8_lossy(patch_index(&index, &changes).unwrap().bytes()), expected);
    }
}
