//! The bytes of an index, as manifest-tool writes them, so that a digest pinned somewhere stays.
//!
//! manifest-tool marshals Go structs with two spaces of indent. The field order is that of distribution's
//! `manifestlist.ManifestDescriptor` for Docker's list, and of the image-spec's `Descriptor` for OCI's index.

use image_store::manifest::{Descriptor, Document, DocumentError, media_type};
use image_store::platform::Platform;
use serde::Serialize;
use std::collections::BTreeMap;

/// Which kind of index is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Docker's manifest list
    Docker,
    /// OCI's image index
    Oci,
}

impl Kind {
    /// Docker's list over Docker's manifests; an OCI index as soon as one member is OCI's.
    pub fn of(members: &[Descriptor]) -> Self {
        match members.iter().all(|member| member.media_type == media_type::DOCKER_MANIFEST) {
            true => Self::Docker,
            false => Self::Oci,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a, E> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<E>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DockerEntry<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    platform: Option<&'a Platform>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciEntry<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a Platform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
}

/// An index over these members, in this order.
pub fn build_index(
    kind: Kind,
    members: &[Descriptor],
    annotations: &BTreeMap<String, String>,
) -> Result<Document, DocumentError> {
    let text = match kind {
        Kind::Docker => {
            if !annotations.is_empty() {
                let why = "Docker's manifest list has no annotations; take an OCI index: --type oci";
                return Err(DocumentError::Shape(why.into()));
            }
            let manifests = members.iter().map(|member| DockerEntry {
                media_type: &member.media_type,
                size: member.size,
                digest: member.digest.as_str(),
                annotations: &member.annotations,
                platform: member.platform.as_ref(),
            });
            let manifests = manifests.collect();
            marshal(&List { schema_version: 2, media_type: media_type::DOCKER_LIST, manifests, annotations })
        }
        Kind::Oci => {
            let manifests = members.iter().map(|member| OciEntry {
                media_type: &member.media_type,
                digest: member.digest.as_str(),
                size: member.size,
                annotations: &member.annotations,
                platform: member.platform.as_ref(),
                artifact_type: member.artifact_type.as_deref(),
            });
            let manifests = manifests.collect();
            marshal(&List { schema_version: 2, media_type: media_type::OCI_INDEX, manifests, annotations })
        }
    };
    Document::new(text.map_err(|e| DocumentError::Shape(e.to_string()))?.into_bytes(), None)
}

/// As Go's `json.MarshalIndent(v, "", "  ")` writes it: `<`, `>`, `&` and the line separators are escaped.
fn marshal(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    // These characters can only stand inside a JSON string.
    let escapes = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    Ok(escapes.iter().fold(text, |text, (from, to)| text.replace(*from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(media_type: &str, platform: &str) -> Descriptor {
        let digest =
            "sha256:3a859e0c2bdfb60f52b2c805e2cb55260998b3c343d9e2ea04a742d946be1b1e".parse().unwrap();
        let mut member = Descriptor::new(media_type, digest, 1728);
        member.platform = Some(platform.parse().unwrap());
        member
    }

    #[test]
    fn a_docker_list_is_written_as_manifest_tool_writes_it() {
        let members = [member(media_type::DOCKER_MANIFEST, "linux/arm/v7")];
        let list = build_index(Kind::of(&members), &members, &BTreeMap::new()).unwrap();
        let expected = r#"{
  "schemaVersion": 2,
  "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
  "manifests": [
    {
      "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
      "size": 1728,
      "digest": "sha256:3a859e0c2bdfb60f52b2c805e2cb55260998b3c343d9e2ea04a742d946be1b1e",
      "platform": {
        "architecture": "arm",
        "os": "linux",
        "variant": "v7"
      }
    }
  ]
}"#;
        assert_eq!(String::from_utf8_lossy(list.bytes()), expected);
    }

    #[test]
    fn an_oci_index_has_its_own_order_and_annotations() {
        let members = [member(media_type::OCI_MANIFEST, "windows/amd64:10.0.1")];
        let annotations = BTreeMap::from([("a".to_string(), "<&>".to_string())]);
        let index = build_index(Kind::of(&members), &members, &annotations).unwrap();
        let text = String::from_utf8_lossy(index.bytes()).into_owned();
        assert!(
            text.contains("\"digest\": \"sha256:3a85") && text.find("\"digest\"") < text.find("\"size\""),
            "{text}"
        );
        assert!(text.contains("\"os.version\": \"10.0.1\""), "{text}");
        assert!(text.contains(r#""a": "\u003c\u0026\u003e""#), "{text}");
    }

    #[test]
    fn the_kind_follows_the_members() {
        let docker = member(media_type::DOCKER_MANIFEST, "linux/amd64");
        let oci = member(media_type::OCI_MANIFEST, "linux/arm64");
        assert_eq!(Kind::of(std::slice::from_ref(&docker)), Kind::Docker);
        assert_eq!(Kind::of(&[docker.clone(), oci]), Kind::Oci);
        let annotations = BTreeMap::from([("a".to_string(), "b".to_string())]);
        assert!(build_index(Kind::Docker, &[docker], &annotations).is_err());
    }
}
