//! Manifests, indexes and configs: read strictly, never written anew. Bytes and digest live in one value.

use crate::digest::Digest;
use crate::platform::Platform;
use crate::raw_json::{self, JsonError, JsonObject};
use error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types. Source: image-spec media-types.md, and distribution's manifest-v2-2.md for Docker's.
pub mod media_type {
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// The manifests and indexes that these tools read, as an `Accept` header lists them.
    pub const SUPPORTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }

    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Foreign layers lie where their URLs say, not in this registry.
    pub fn is_foreign_layer(media_type: &str) -> bool {
        media_type.contains("nondistributable") || media_type.contains("foreign")
    }
}

/// Largest manifest or index that is read. distribution refuses more than 4 MiB on push; some registries store more.
pub const DOCUMENT_MAX: u64 = 8 << 20;
/// Largest manifest or index that is pushed: distribution's limit.
pub const PUSH_MAX: u64 = 4 << 20;
/// Largest config that is read; containers/image has the same limit.
pub const CONFIG_MAX: u64 = 4 << 20;

/// How one piece of content names another: media type, digest, size, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub size: u64,
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub urls: Vec<String>,
    /// The content itself, base64; it changes with digest and size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

fn is_empty(map: &BTreeMap<String, String>) -> bool {
    map.is_empty()
}

/// Go writes `null` for an empty slice or map.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            size,
            digest,
            platform: None,
            annotations: BTreeMap::new(),
            artifact_type: None,
            urls: Vec::new(),
            data: None,
        }
    }

    /// Describes these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// BuildKit marks members that carry provenance and SBOMs: `vnd.docker.reference.type` and `.digest`.
    pub fn attested_digest(&self) -> Option<&str> {
        self.annotations.get("vnd.docker.reference.digest").map(String::as_str)
    }
}

/// A manifest or an index as it was read: its bytes, their digest, and the media type on which body, header and
/// descriptor agree.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    bytes: Vec<u8>,
    media_type: String,
    digest: Digest,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({} {}, {} bytes)", self.media_type, self.digest, self.bytes.len())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("{0}")]
    Shape(String),
    #[error("it says it is \"{body}\", but was announced as \"{declared}\"")]
    Confusion { body: String, declared: String },
    #[error(
        "it has both \"manifests\" and \"config\" or \"layers\": an index to one reader, an image to another"
    )]
    Ambiguous,
    #[error("it is a Docker schema 1 manifest, which has no config to label; rebuild or convert the image")]
    Schema1,
    #[error("media type \"{0}\" is neither an image manifest nor an index")]
    Unknown(String),
}

impl DocumentError {
    /// The same, as the failure of reading `what`.
    pub fn at(self, what: &str) -> Error {
        let doing = format!("read {what}");
        match self {
            Self::Confusion { .. } => Error::integrity(doing, self.to_string()),
            _ => Error::bad_input(doing, self.to_string()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
}

impl Document {
    /// Takes bytes for a manifest or index. `declared` is what a header or descriptor called them, if any did;
    /// parameters (`; charset=utf-8`) do not count.
    pub fn new(bytes: Vec<u8>, declared: Option<&str>) -> Result<Self, DocumentError> {
        let object = JsonObject::parse(&bytes)?;
        for key in ["schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "subject"] {
            object.unique(&bytes, key)?;
        }
        let has = |key: &str| object.members.iter().any(|member| member.key == key);
        let head: Head = serde_json::from_slice(&bytes).map_err(|e| DocumentError::Shape(e.to_string()))?;
        if has("fsLayers") || head.schema_version == Some(1) {
            return Err(DocumentError::Schema1);
        }
        if has("manifests") && (has("config") || has("layers")) {
            return Err(DocumentError::Ambiguous);
        }
        let declared = declared.map(|d| d.split(';').next().unwrap_or(d).trim()).filter(|d| !d.is_empty());
        let media_type = match (head.media_type.filter(|m| !m.is_empty()), declared) {
            (Some(body), Some(declared)) if body != declared => {
                return Err(DocumentError::Confusion { body, declared: declared.into() });
            }
            (Some(body), _) => body,
            (None, Some(declared)) if media_type::SUPPORTED.contains(&declared) => declared.to_string(),
            (None, None) if has("manifests") => media_type::OCI_INDEX.to_string(),
            (None, None) if has("config") => media_type::OCI_MANIFEST.to_string(),
            (None, declared) => return Err(DocumentError::Unknown(declared.unwrap_or("").into())),
        };
        let fits = (media_type::is_index(&media_type) && has("manifests"))
            || (media_type::is_manifest(&media_type) && has("config"));
        if !media_type::SUPPORTED.contains(&media_type.as_str()) {
            return Err(DocumentError::Unknown(media_type));
        }
        if !fits {
            let needs = if media_type::is_index(&media_type) { "manifests" } else { "config" };
            return Err(DocumentError::Shape(format!("it is \"{media_type}\" and has no \"{needs}\"")));
        }
        let digest = Digest::of(&bytes);
        Ok(Self { bytes, media_type, digest })
    }

    /// The same document under the digest by which it was asked for, which may be a sha512. `None` if the bytes
    /// do not have that digest.
    pub fn with_digest(mut self, asked: &Digest) -> Option<Self> {
        if !asked.matches(&self.bytes) {
            return None;
        }
        self.digest = asked.clone();
        Some(self)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn is_index(&self) -> bool {
        media_type::is_index(&self.media_type)
    }

    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest.clone(), self.bytes.len() as u64)
    }

    /// What the document holds. Members, layers and config are checked for keys that readers read differently.
    pub fn parse(&self) -> Result<ParsedDocument, DocumentError> {
        let object = JsonObject::parse(&self.bytes)?;
        let shape = |e: serde_json::Error| DocumentError::Shape(e.to_string());
        if self.is_index() {
            self.check_members(&object, "manifests")?;
            return Ok(ParsedDocument::Index(serde_json::from_slice(&self.bytes).map_err(shape)?));
        }
        self.check_members(&object, "layers")?;
        if let Some(config) = object.unique(&self.bytes, "config")? {
            self.check_descriptor(&JsonObject::parse_at(&self.bytes, &config.value_at, "config")?)?;
        }
        Ok(ParsedDocument::Manifest(serde_json::from_slice(&self.bytes).map_err(shape)?))
    }

    fn check_members(&self, object: &JsonObject, list: &str) -> Result<(), DocumentError> {
        let Some(member) = object.unique(&self.bytes, list)? else { return Ok(()) };
        if self.bytes.get(member.value_at.clone()) == Some(b"null") {
            return Ok(());
        }
        for at in raw_json::elements(&self.bytes, &member.value_at, list)? {
            self.check_descriptor(&JsonObject::parse_at(&self.bytes, &at, list)?)?;
        }
        Ok(())
    }

    fn check_descriptor(&self, object: &JsonObject) -> Result<(), DocumentError> {
        for key in ["mediaType", "digest", "size", "data", "annotations"] {
            object.unique(&self.bytes, key)?;
        }
        if let Some(platform) = object.unique(&self.bytes, "platform")? {
            let platform = JsonObject::parse_at(&self.bytes, &platform.value_at, "platform")?;
            for key in PLATFORM_KEYS {
                platform.unique(&self.bytes, key)?;
            }
        }
        Ok(())
    }
}

/// The keys that make a label, in a config and in an index entry alike.
pub const PLATFORM_KEYS: [&str; 5] = ["architecture", "os", "os.version", "os.features", "variant"];

/// What a document is.
#[expect(clippy::large_enum_variant, reason = "one lives at a time; a box would only cost every match")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedDocument {
    Manifest(Manifest),
    Index(Index),
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub config: Descriptor,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default)]
    pub artifact_type: Option<String>,
}

/// Several images under one name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What is read of an image's config: the label, and what a container would run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub platform: Platform,
    pub diff_ids: Vec<Digest>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
}

#[derive(Deserialize, Default)]
struct RawConfig {
    #[serde(default)]
    rootfs: Option<RawRootfs>,
    #[serde(default)]
    config: Option<RawRun>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_is_empty")]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    #[serde(default, deserialize_with = "null_is_empty")]
    entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    cmd: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    env: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    user: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    working_dir: String,
}

impl Config {
    /// Reads an image config. Label keys that readers read differently are refused; a label that is missing, or
    /// `null`, is empty here.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let object = JsonObject::parse(bytes)?;
        for key in ["rootfs", "config"] {
            object.unique(bytes, key)?;
        }
        let platform = read_platform(bytes, &object)?;
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|e| DocumentError::Shape(e.to_string()))?;
        let mut config = Self {
            platform,
            diff_ids: raw.rootfs.map(|r| r.diff_ids).unwrap_or_default(),
            ..Self::default()
        };
        if let Some(run) = raw.config {
            config.entrypoint = run.entrypoint;
            config.cmd = run.cmd;
            config.env = run.env;
            config.user = run.user;
            config.working_dir = run.working_dir;
        }
        Ok(config)
    }
}

/// The label in a config's, or an index entry's platform's, object.
pub fn read_platform(bytes: &[u8], object: &JsonObject) -> Result<Platform, DocumentError> {
    let text = |key: &str| -> Result<Option<String>, DocumentError> {
        let Some(member) = object.unique(bytes, key)? else { return Ok(None) };
        serde_json::from_slice::<Option<String>>(&bytes[member.value_at.clone()])
            .map_err(|_| DocumentError::Shape(format!("\"{key}\" is not a string")))
    };
    let features = match object.unique(bytes, "os.features")? {
        Some(member) => serde_json::from_slice::<Option<Vec<String>>>(&bytes[member.value_at.clone()])
            .map_err(|_| DocumentError::Shape("\"os.features\" is not a list of strings".into()))?
            .unwrap_or_default(),
        None => Vec::new(),
    };
    Ok(Platform {
        architecture: text("architecture")?.unwrap_or_default(),
        os: text("os")?.unwrap_or_default(),
        os_version: text("os.version")?.filter(|v| !v.is_empty()),
        os_features: features,
        variant: text("variant")?.filter(|v| !v.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#""config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;

    fn media_type(body: &str, declared: Option<&str>) -> Result<String, DocumentError> {
        Document::new(body.as_bytes().to_vec(), declared).map(|d| d.media_type().to_string())
    }

    #[test]
    fn body_header_and_shape_must_agree() {
        let manifest = format!("{{\"schemaVersion\":2,{CONFIG},\"layers\":[]}}");
        let typed = format!("{{\"mediaType\":\"{}\",{CONFIG}}}", media_type::DOCKER_MANIFEST);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let ok = |body: &str, declared: Option<&str>, found: &str| {
            assert_eq!(media_type(body, declared).unwrap(), found);
        };
        ok(&manifest, None, media_type::OCI_MANIFEST);
        ok(
            &manifest,
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
            media_type::OCI_MANIFEST,
        );
        ok(&typed, None, media_type::DOCKER_MANIFEST);
        ok(index, None, media_type::OCI_INDEX);
        ok(index, Some(media_type::DOCKER_LIST), media_type::DOCKER_LIST);
        let bad = |body: &str, declared: Option<&str>, why: &str| {
            let error = media_type_error(body, declared);
            assert!(error.contains(why), "{error}");
        };
        bad(&typed, Some(media_type::OCI_MANIFEST), "announced as");
        bad(&manifest, Some(media_type::OCI_INDEX), "has no \"manifests\"");
        bad(&format!("{{\"manifests\":[],{CONFIG}}}"), None, "both");
        bad(r#"{"manifests":[],"layers":[]}"#, None, "both");
        bad(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema 1");
        bad(&manifest, Some("text/html"), "neither");
        bad(r#"{"Manifests":[]}"#, None, "differs from");
        bad("<html>", None, "not JSON");
    }

    fn media_type_error(body: &str, declared: Option<&str>) -> String {
        media_type(body, declared).unwrap_err().to_string()
    }

    #[test]
    fn descriptors_are_read_strictly() {
        let parse = |body: &str| Document::new(body.as_bytes().to_vec(), None).and_then(|d| d.parse());
        let bad = |body: String, why: &str| {
            let error = parse(&body).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        bad(
            CONFIG.replacen("\"config\"", "{\"config\"", 1).replace("\"size\":2", "\"size\":-1") + "}",
            "invalid value",
        );
        bad("{".to_string() + &CONFIG.replace("sha256:", "sha256:../") + "}", "no digest");
        bad("{".to_string() + &CONFIG.replace("\"size\":2", "\"size\":2,\"size\":3") + "}", "more than once");
        bad("{".to_string() + &CONFIG.replace("\"size\":2", "\"size\":2,\"Digest\":3") + "}", "differs from");
        assert!(parse(&format!("{{{CONFIG},\"layers\":null}}")).is_ok());
    }

    #[test]
    fn a_label_is_read_with_its_dotted_keys() {
        let config = Config::parse(
            br#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["win32k"],"variant":"","rootfs":{"diff_ids":null},"config":{"Env":null,"Cmd":["x"]}}"#,
        )
        .unwrap();
        assert_eq!(config.platform.to_string(), "windows/amd64:10.0.1");
        assert_eq!(config.platform.os_features, ["win32k"]);
        assert_eq!((config.platform.variant, config.cmd), (None, vec!["x".to_string()]));
    }

    #[test]
    fn a_label_that_readers_read_differently_is_refused() {
        let check = |text: &str, why: &str| {
            let error = Config::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        check(r#"{"architecture":"a","Architecture":"b"}"#, "differs from");
        check(r#"{"architecture":"a","architecture":"b"}"#, "more than once");
        check(r#"{"architecture":7}"#, "not a string");
        check(r#"{"architecture":["a"]}"#, "not a string");
        check(r#"[]"#, "not a JSON object");
    }
}
