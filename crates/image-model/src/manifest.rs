//! Manifests, indexes and configs, parsed strictly. Bytes and digest are kept in one value.

use crate::digest::Digest;
use crate::platform::{Platform, null_is_empty};
use crate::raw_json::{self, JsonError, JsonObject};
use error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types. Source: image-spec media-types.md, and distribution's manifest-v2-2.md for Docker's.
pub mod media_type {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, not compressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, not compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's manifest format before 2016.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// Docker's manifest format before 2016, signed.
    pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// The manifests and indexes that are supported, as an `Accept` header lists them.
    pub const SUPPORTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

    /// Returns whether it is an index or manifest list.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }

    /// Returns whether it is an image manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Returns whether it is a foreign layer, which is downloaded from its URLs and not from the registry.
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

/// A descriptor of the image-spec: media type, digest and size of other content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// One of [`media_type`], or another tool's.
    #[serde(default)]
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// The digest of the content.
    pub digest: Digest,
    /// The index platform, in entries of an index. One without an operating system or an architecture counts as absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "complete_platform")]
    pub platform: Option<Platform>,
    /// `annotations`; absent and `null` are empty.
    #[serde(default, skip_serializing_if = "is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `artifactType`, of artifacts that are no images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Download URLs of a foreign layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub urls: Vec<String>,
    /// The content itself, base64; it changes with digest and size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

fn is_empty(map: &BTreeMap<String, String>) -> bool {
    map.is_empty()
}

/// Clients choose by operating system and architecture, so a platform without one of them selects nothing.
fn complete_platform<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Platform>, D::Error> {
    let platform = Option::<Platform>::deserialize(d)?;
    Ok(platform.filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty()))
}

impl Descriptor {
    /// A descriptor without the optional keys.
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

    /// Returns the descriptor of these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Returns the digest of the image that this member attests, from BuildKit's annotation
    /// `vnd.docker.reference.digest`.
    pub fn attested_digest(&self) -> Option<&str> {
        self.annotations.get("vnd.docker.reference.digest").map(String::as_str)
    }
}

/// A manifest or index: its bytes, their digest, and the media type on which body, header and descriptor agree.
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

/// Why bytes are not a supported manifest, index or config.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or keys on which readers disagree.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A key is missing or has a value of another type.
    #[error("{0}")]
    Shape(String),
    /// The media type in the document differs from the one in the descriptor or header.
    #[error("its mediaType is \"{body}\", but its descriptor or header says \"{declared}\"")]
    Confusion {
        /// The media type in the document.
        body: String,
        /// The media type in the descriptor or header.
        declared: String,
    },
    /// An index to one reader, a manifest to another.
    #[error(
        "it has both \"manifests\" and \"config\" or \"layers\": an index to one reader, an image to another"
    )]
    Ambiguous,
    /// Docker's format before 2016.
    #[error("it is a Docker schema 1 manifest, which has no config; rebuild or convert the image")]
    Schema1,
    /// Another media type.
    #[error("media type \"{0}\" is neither an image manifest nor an index")]
    Unknown(String),
}

impl DocumentError {
    /// Returns the error of reading `what`: `Integrity` for [`Self::Confusion`], otherwise `BadInput`.
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
    /// Checks that the bytes are a manifest or index. `declared` is the media type in a header or descriptor, if any;
    /// parameters (`; charset=utf-8`) are ignored.
    ///
    /// # Errors
    /// [`DocumentError::Json`] or [`DocumentError::Shape`] if the bytes are damaged or readers may disagree about them,
    /// [`DocumentError::Schema1`] for the old format, [`DocumentError::Ambiguous`] or [`DocumentError::Confusion`] if they may be
    /// taken for another type, [`DocumentError::Unknown`] for any other media type.
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

    /// Returns the document with the digest by which it was requested, which may be a sha512. Returns `None` if the bytes
    /// do not match.
    pub fn with_digest(mut self, asked: &Digest) -> Option<Self> {
        if !asked.matches(&self.bytes) {
            return None;
        }
        self.digest = asked.clone();
        Some(self)
    }

    /// The bytes as they were read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns whether it is an index or manifest list.
    pub fn is_index(&self) -> bool {
        media_type::is_index(&self.media_type)
    }

    /// Returns a descriptor of the document, without optional keys.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest.clone(), self.bytes.len() as u64)
    }

    /// Parses the document.
    ///
    /// # Errors
    /// If a required key is missing, or readers disagree about a key of a member, a layer or the config.
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

    /// Returns the platform of each entry of an index as it is written: also one without an operating system or an
    /// architecture, which [`Descriptor::platform`] does not have. Empty for a manifest.
    pub fn written_platforms(&self) -> Vec<Option<Platform>> {
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            platform: Option<Platform>,
        }
        #[derive(Deserialize)]
        struct Entries {
            #[serde(default, deserialize_with = "null_is_empty")]
            manifests: Vec<Entry>,
        }
        let entries: Option<Entries> = serde_json::from_slice(&self.bytes).ok();
        entries.map_or(Vec::new(), |list| list.manifests.into_iter().map(|entry| entry.platform).collect())
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
        let is_null = |at: &std::ops::Range<usize>| self.bytes.get(at.clone()) == Some(b"null");
        let platform = object.unique(&self.bytes, "platform")?.filter(|member| !is_null(&member.value_at));
        if let Some(platform) = platform {
            let platform = JsonObject::parse_at(&self.bytes, &platform.value_at, "platform")?;
            for key in PLATFORM_KEYS {
                platform.unique(&self.bytes, key)?;
            }
        }
        Ok(())
    }
}

/// The keys of a platform, in a config and in an index entry.
pub const PLATFORM_KEYS: [&str; 5] = ["architecture", "os", "os.version", "os.features", "variant"];

/// The values of a [`Document`].
#[expect(clippy::large_enum_variant, reason = "one lives at a time; a box would only cost every match")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedDocument {
    /// An image manifest.
    Manifest(Manifest),
    /// An image index.
    Index(Index),
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Descriptor of the config.
    pub config: Descriptor,
    /// Descriptors of the layers, the lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// `annotations`; absent and `null` are empty.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The document that this one refers to.
    #[serde(default)]
    pub subject: Option<Descriptor>,
    /// `artifactType`, of artifacts that are no images.
    #[serde(default)]
    pub artifact_type: Option<String>,
}

/// An image index, or Docker's manifest list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Descriptors of the members.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    /// `annotations`; absent and `null` are empty.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The parts of an image config that are read: the declared platform, and what a container executes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The declared platform.
    pub platform: Platform,
    /// Digests of the uncompressed layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// `config.Entrypoint`
    pub entrypoint: Vec<String>,
    /// `config.Cmd`
    pub cmd: Vec<String>,
    /// `config.Env`: `NAME=VALUE`
    pub env: Vec<String>,
    /// `config.User`
    pub user: String,
    /// `config.WorkingDir`
    pub working_dir: String,
    /// The paths of `config.Volumes`; empty if it is not an object.
    pub volumes: Vec<String>,
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
    #[serde(default)]
    volumes: serde_json::Value,
}

impl Config {
    /// Parses an image config. Platform fields that are missing or `null` are empty.
    ///
    /// # Errors
    /// If readers disagree about a key of the platform.
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
            config.volumes =
                run.volumes.as_object().into_iter().flat_map(|all| all.keys().cloned()).collect();
        }
        Ok(config)
    }
}

/// Reads the platform from the object of a config or of an index entry's `platform`.
///
/// # Errors
/// [`DocumentError::Shape`] if a field has another type, [`DocumentError::Json`] if readers may disagree about a key.
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
        bad(&typed, Some(media_type::OCI_MANIFEST), "its descriptor or header says");
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
        bad("{".to_string() + &CONFIG.replace("sha256:", "sha256:../") + "}", "is not a digest");
        bad("{".to_string() + &CONFIG.replace("\"size\":2", "\"size\":2,\"size\":3") + "}", "more than once");
        bad("{".to_string() + &CONFIG.replace("\"size\":2", "\"size\":2,\"Digest\":3") + "}", "differs from");
        assert!(parse(&format!("{{{CONFIG},\"layers\":null}}")).is_ok());
    }

    #[test]
    fn a_platform_is_read_with_its_dotted_keys() {
        let config = Config::parse(
            br#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["win32k"],"variant":"","rootfs":{"diff_ids":null},"config":{"Env":null,"Cmd":["x"]}}"#,
        )
        .unwrap();
        assert_eq!(config.platform.to_string(), "windows/amd64:10.0.1");
        assert_eq!(config.platform.os_features, ["win32k"]);
        assert_eq!((config.platform.variant, config.cmd), (None, vec!["x".to_string()]));
    }

    #[test]
    fn platform_keys_on_which_readers_disagree_are_rejected() {
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
