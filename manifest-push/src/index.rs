//! Serializes an index exactly as manifest-tool or docker does, so that its digest is the same.
//!
//! manifest-tool marshals Go structs with two spaces of indent. The field order is that of distribution's
//! `manifestlist.ManifestDescriptor` for Docker's list, and of the image-spec's `Descriptor` for OCI's index. docker
//! takes distribution's for both, and three spaces.

use image_model::manifest::{Descriptor, Document, DocumentError, media_type};
use image_model::platform::Platform;
use serde::Serialize;
use std::collections::BTreeMap;

/// The kind of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IndexKind {
    /// Docker's manifest list
    Docker,
    /// OCI's image index
    Oci,
}

/// The program whose bytes are reproduced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexStyle {
    #[default]
    ManifestTool,
    Docker,
}

impl IndexStyle {
    /// The kind of an index over these members, if none is requested.
    pub fn kind_of(self, members: &[Descriptor]) -> IndexKind {
        match self {
            Self::ManifestTool => IndexKind::of(members),
            // docker decides by the first member.
            Self::Docker => IndexKind::of(members.get(..1).unwrap_or_default()),
        }
    }
}

impl IndexKind {
    /// Docker's list if all members are Docker manifests, otherwise an OCI index.
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

impl<'a> DockerEntry<'a> {
    fn of(member: &'a Descriptor) -> Self {
        Self {
            media_type: &member.media_type,
            size: member.size,
            digest: member.digest.as_str(),
            annotations: &member.annotations,
            platform: member.platform.as_ref(),
        }
    }
}

impl<'a> OciEntry<'a> {
    fn of(member: &'a Descriptor) -> Self {
        Self {
            media_type: &member.media_type,
            digest: member.digest.as_str(),
            size: member.size,
            annotations: &member.annotations,
            platform: member.platform.as_ref(),
            artifact_type: member.artifact_type.as_deref(),
        }
    }
}

/// One entry, on one line, or on several that begin with `indent`.
pub fn entry_text(kind: IndexKind, member: &Descriptor, indent: Option<&str>) -> serde_json::Result<String> {
    let mut out = Vec::new();
    match indent {
        // The entry is two levels deep.
        Some(indent) => {
            let unit = indent.get(..indent.len() / 2).unwrap_or_default().as_bytes();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(unit);
            write_entry(kind, member, &mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
        }
        None => write_entry(kind, member, &mut serde_json::Serializer::new(&mut out))?,
    }
    let text = escape(String::from_utf8_lossy(&out).into_owned());
    Ok(text.replace('\n', &format!("\n{}", indent.unwrap_or_default())))
}

fn write_entry<F: serde_json::ser::Formatter>(
    kind: IndexKind,
    member: &Descriptor,
    serializer: &mut serde_json::Serializer<&mut Vec<u8>, F>,
) -> serde_json::Result<()> {
    match kind {
        IndexKind::Docker => DockerEntry::of(member).serialize(serializer),
        IndexKind::Oci => OciEntry::of(member).serialize(serializer),
    }
}

/// Builds an index over these members, in this order.
pub fn build_index(
    kind: IndexKind,
    style: IndexStyle,
    members: &[Descriptor],
    annotations: &BTreeMap<String, String>,
) -> Result<Document, DocumentError> {
    if kind == IndexKind::Docker && !annotations.is_empty() {
        let why = "a Docker manifest list has no annotations; use an OCI index: --type oci";
        return Err(DocumentError::Shape(why.into()));
    }
    let media_type = match kind {
        IndexKind::Docker => media_type::DOCKER_LIST,
        IndexKind::Oci => media_type::OCI_INDEX,
    };
    let text = match (kind, style) {
        (IndexKind::Docker, _) | (IndexKind::Oci, IndexStyle::Docker) => {
            let manifests = members.iter().map(DockerEntry::of).collect();
            marshal(&List { schema_version: 2, media_type, manifests, annotations }, style)
        }
        (IndexKind::Oci, IndexStyle::ManifestTool) => {
            let manifests = members.iter().map(OciEntry::of).collect();
            marshal(&List { schema_version: 2, media_type, manifests, annotations }, style)
        }
    };
    Document::new(text.map_err(|e| DocumentError::Shape(e.to_string()))?.into_bytes(), None)
}

/// Serializes as Go's `json.MarshalIndent`, which escapes `<`, `>`, `&` and the line separators.
fn marshal(value: &impl Serialize, style: IndexStyle) -> serde_json::Result<String> {
    let indent: &[u8] = match style {
        IndexStyle::ManifestTool => b"  ",
        IndexStyle::Docker => b"   ",
    };
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(escape(String::from_utf8_lossy(&out).into_owned()))
}

/// Escapes the characters that Go's `json` escapes in strings.
pub fn escape(text: String) -> String {
    // In JSON, these characters occur only inside strings.
    let escapes = [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ];
    escapes.iter().fold(text, |text, (from, to)| text.replace(*from, to))
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
    fn a_docker_list_has_the_bytes_of_manifest_tool() {
        let members = [member(media_type::DOCKER_MANIFEST, "linux/arm/v7")];
        let list = build_index(IndexKind::of(&members), IndexStyle::ManifestTool, &members, &BTreeMap::new())
            .unwrap();
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
        let index =
            build_index(IndexKind::of(&members), IndexStyle::ManifestTool, &members, &annotations).unwrap();
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
        assert_eq!(IndexKind::of(std::slice::from_ref(&docker)), IndexKind::Docker);
        assert_eq!(IndexKind::of(&[docker.clone(), oci]), IndexKind::Oci);
        let annotations = BTreeMap::from([("a".to_string(), "b".to_string())]);
        assert!(build_index(IndexKind::Docker, IndexStyle::Docker, &[docker], &annotations).is_err());
    }
}
