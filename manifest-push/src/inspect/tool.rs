//! JSON as `manifest-tool inspect --raw` prints it: Go structs with four spaces of indent.
//!
//! The keys are those of the image-spec's Go structs, in their order; what those do not know is not shown. Source:
//! v2/cmd/manifest-tool/inspect.go of manifest-tool, specs-go/v1 of image-spec.

use crate::index::escape;
use error::Error;
use image_model::manifest::{Descriptor, Document};
use image_store::tree::{Image, TreeNode};
use serde::{Deserialize, Serialize};
use serde_json::ser::PrettyFormatter;
use std::collections::BTreeMap;

/// Go writes `null` for a slice or map that is not there.
type Text = Option<String>;
type Texts = Option<BTreeMap<String, String>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownIndex<'a> {
    name: &'a str,
    digest: &'a str,
    schema_version: u64,
    #[serde(skip_serializing_if = "is_nothing")]
    media_type: Text,
    manifests: Option<Vec<Manifest>>,
    #[serde(skip_serializing_if = "are_none")]
    annotations: Texts,
}

#[derive(Serialize)]
struct ShownImage<'a> {
    name: &'a str,
    digest: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    os: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    architecture: &'a str,
    #[serde(flatten)]
    manifest: Manifest,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExpandedImage<'a> {
    schema_version: u64,
    name: &'a str,
    digest: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    os: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    architecture: &'a str,
    #[serde(skip_serializing_if = "is_nothing")]
    media_type: Text,
    config: ImageConfig,
    layers: Option<Vec<Blob>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Blob>,
    #[serde(skip_serializing_if = "are_none")]
    annotations: Texts,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    schema_version: u64,
    #[serde(default, skip_serializing_if = "is_nothing")]
    media_type: Text,
    #[serde(default, skip_serializing_if = "is_nothing")]
    artifact_type: Text,
    config: Blob,
    #[serde(default)]
    layers: Option<Vec<Blob>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Blob>,
    #[serde(default, skip_serializing_if = "are_none")]
    annotations: Texts,
}

/// A descriptor in the image-spec's order; ours is in distribution's.
struct Blob(Descriptor);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Ordered<'a> {
            media_type: &'a str,
            digest: &'a str,
            size: u64,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            urls: &'a [String],
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            annotations: &'a BTreeMap<String, String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            platform: Option<&'a image_model::platform::Platform>,
            #[serde(skip_serializing_if = "Option::is_none")]
            artifact_type: Option<&'a str>,
        }
        let Self(blob) = self;
        let ordered = Ordered {
            media_type: &blob.media_type,
            digest: blob.digest.as_str(),
            size: blob.size,
            urls: &blob.urls,
            annotations: &blob.annotations,
            data: blob.data.as_deref(),
            platform: blob.platform.as_ref(),
            artifact_type: blob.artifact_type.as_deref(),
        };
        ordered.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Descriptor::deserialize(deserializer).map(Self)
    }
}

#[derive(Serialize, Deserialize)]
struct ImageConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<Time>,
    #[serde(default, skip_serializing_if = "is_nothing")]
    author: Text,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "is_nothing")]
    os_version: Text,
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    os_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_nothing")]
    variant: Text,
    #[serde(default)]
    config: Run,
    #[serde(default)]
    rootfs: Rootfs,
    #[serde(default, skip_serializing_if = "is_none_or_empty")]
    history: Option<Vec<History>>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    #[serde(skip_serializing_if = "is_nothing")]
    user: Text,
    #[serde(skip_serializing_if = "are_none")]
    exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_none_or_empty")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "are_none")]
    volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "is_nothing")]
    working_dir: Text,
    #[serde(skip_serializing_if = "are_none")]
    labels: Texts,
    #[serde(skip_serializing_if = "is_nothing")]
    stop_signal: Text,
    #[serde(skip_serializing_if = "is_false")]
    args_escaped: Option<bool>,
}

#[derive(Serialize, Deserialize, Default)]
struct Empty {}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Rootfs {
    r#type: String,
    diff_ids: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<Time>,
    #[serde(default, skip_serializing_if = "is_nothing")]
    created_by: Text,
    #[serde(default, skip_serializing_if = "is_nothing")]
    author: Text,
    #[serde(default, skip_serializing_if = "is_nothing")]
    comment: Text,
    #[serde(default, skip_serializing_if = "is_false")]
    empty_layer: Option<bool>,
}

/// Go writes a time without the zeros at the end of its fraction.
#[derive(Deserialize)]
#[serde(transparent)]
struct Time(String);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((seconds, rest)) = self.0.split_once('.') else { return serializer.serialize_str(&self.0) };
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (fraction, zone) = rest.split_at(end);
        match fraction.trim_end_matches('0') {
            "" => serializer.serialize_str(&format!("{seconds}{zone}")),
            fraction => serializer.serialize_str(&format!("{seconds}.{fraction}{zone}")),
        }
    }
}

fn is_nothing(text: &Text) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

fn are_none<T>(map: &Option<BTreeMap<String, T>>) -> bool {
    map.as_ref().is_none_or(BTreeMap::is_empty)
}

fn is_none_or_empty<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn is_false(value: &Option<bool>) -> bool {
    *value != Some(true)
}

/// Returns the output for an image or index, without members that are absent. `name` is the reference as typed.
pub fn raw(name: &str, node: &TreeNode, expand_config: bool) -> Result<String, Error> {
    let failed = |e: serde_json::Error| Error::bad_input(format!("show \"{name}\""), e.to_string());
    match node {
        TreeNode::Image(image) => match expand_config {
            false => shown_image(name, image).and_then(|shown| marshal(&shown)).map_err(failed),
            true => expanded_image(name, image).and_then(|shown| marshal(&shown)).map_err(failed),
        },
        TreeNode::Unread(unread) => Err(unread.error.clone()),
        TreeNode::Index(index) => {
            let mut manifests = Vec::new();
            for member in &index.members {
                let document = match member {
                    TreeNode::Image(image) => &image.document,
                    TreeNode::Unread(unread) => match &unread.document {
                        Some(document) => document,
                        None => continue,
                    },
                    TreeNode::Index(_) => {
                        let why = format!("its member {} is an index", member.digest());
                        let error = Error::bad_input(format!("show \"{name}\""), why);
                        return Err(error.hint("omit --raw, or use --bytes"));
                    }
                };
                manifests.push(manifest(document).map_err(failed)?);
            }
            let head: Head = serde_json::from_slice(index.document.bytes()).map_err(failed)?;
            let annotations = Some(index.index.annotations.clone());
            let manifests = if manifests.is_empty() { None } else { Some(manifests) };
            let Head { schema_version, media_type } = head;
            let digest = index.document.digest().as_str();
            marshal(&ShownIndex { name, digest, schema_version, media_type, manifests, annotations })
                .map_err(failed)
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    media_type: Text,
}

fn manifest(document: &Document) -> serde_json::Result<Manifest> {
    serde_json::from_slice(document.bytes())
}

fn declared(image: &Image) -> (&str, &str) {
    let declared = image.config.as_ref().map(|config| &config.parsed.platform);
    declared.map_or(("", ""), |declared| (declared.os.as_str(), declared.architecture.as_str()))
}

fn shown_image<'a>(name: &'a str, image: &'a Image) -> serde_json::Result<ShownImage<'a>> {
    let (os, architecture) = declared(image);
    let digest = image.document.digest().as_str();
    Ok(ShownImage { name, digest, os, architecture, manifest: manifest(&image.document)? })
}

fn expanded_image<'a>(name: &'a str, image: &'a Image) -> serde_json::Result<ExpandedImage<'a>> {
    let (os, architecture) = declared(image);
    let Manifest { schema_version, media_type, layers, subject, annotations, .. } =
        manifest(&image.document)?;
    // An artifact has no config that could be expanded: all of it is empty then.
    let config = image.config.as_ref().map_or(&b"{}"[..], |config| &config.bytes);
    let config = serde_json::from_slice(config)?;
    let digest = image.document.digest().as_str();
    Ok(ExpandedImage {
        schema_version,
        name,
        digest,
        os,
        architecture,
        media_type,
        config,
        layers,
        subject,
        annotations,
    })
}

/// As Go's `json.MarshalIndent(v, "", "    ")`.
fn marshal(value: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer)?;
    Ok(escape(String::from_utf8_lossy(&out).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_format_of_go() {
        let check = |text: &str, meant: &str| {
            let time: Time = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(time).unwrap(), meant);
        };
        check("2020-01-01T00:00:00.120Z", "2020-01-01T00:00:00.12Z");
        check("2020-01-01T00:00:00.000+01:00", "2020-01-01T00:00:00+01:00");
        check("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z");
    }

    #[test]
    fn a_config_is_printed_with_the_keys_and_order_of_go() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"os":"linux","docker_version":"20.10","architecture":"arm","config":{"Cmd":["/a"],"StopTimeout":1.5,"ExposedPorts":{"80/tcp":{}},"Env":null},"rootfs":{"diff_ids":["sha256:a"],"type":"layers"},"history":[{"created_by":"<x>","empty_layer":true}]}"#,
        )
        .unwrap();
        let text = marshal(&config).unwrap();
        let plain: String = text.split_whitespace().collect();
        assert_eq!(
            plain,
            r#"{"architecture":"arm","os":"linux","config":{"ExposedPorts":{"80/tcp":{}},"Cmd":["/a"]},"rootfs":{"type":"layers","diff_ids":["sha256:a"]},"history":[{"created_by":"\u003cx\u003e","empty_layer":true}]}"#
        );
        assert!(text.starts_with("{\n    \"architecture\""), "{text}");
    }
}
