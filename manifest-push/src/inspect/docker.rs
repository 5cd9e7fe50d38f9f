//! JSON as `docker manifest inspect` prints it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use error::Error;
use image_model::manifest::{Descriptor, media_type};
use image_model::platform::Platform;
use image_store::tree::{Image, TreeNode};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    r#ref: String,
    descriptor: ShownDescriptor<'a>,
    /// The manifest's bytes in base64. docker 20.10 does not print it; 28.2 does, as Go has bytes in JSON.
    raw: String,
    #[serde(rename = "SchemaV2Manifest", skip_serializing_if = "Option::is_none")]
    docker: Option<Box<RawValue>>,
    #[serde(rename = "OCIManifest", skip_serializing_if = "Option::is_none")]
    oci: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownDescriptor<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a Platform>,
}

/// `inspect -v`: each image with its platform and its manifest; a list of them for an index.
pub fn verbose(name: &str, node: &TreeNode) -> Result<String, Error> {
    let doing = || format!("show \"{name}\"");
    let images = node.images().into_iter().map(|(entry, image)| {
        let text = shown(name, entry, image).and_then(|one| serde_json::to_vec(&one));
        text.map_err(|e| Error::bad_input(doing(), e.to_string()))
    });
    let images = images.collect::<Result<Vec<_>, _>>()?;
    match (node, images.as_slice()) {
        (TreeNode::Image(_), [only]) => indented(only),
        _ => indented(&[b"[", images.join(&b","[..]).as_slice(), b"]"].concat()),
    }
}

fn shown<'a>(name: &str, entry: Option<&'a Descriptor>, image: &'a Image) -> serde_json::Result<Shown<'a>> {
    let document = &image.document;
    let declared = image.config.as_ref().map(|config| &config.parsed.platform);
    let manifest = RawValue::from_string(String::from_utf8_lossy(document.bytes()).into_owned())?;
    let is_docker = document.media_type() == media_type::DOCKER_MANIFEST;
    let (docker, oci) = if is_docker { (Some(manifest), None) } else { (None, Some(manifest)) };
    // An index' members are named by digest, since the index' name is not theirs.
    let plain = name.split_once('@').map_or(name, |(plain, _)| plain);
    Ok(Shown {
        r#ref: entry.map_or(name.to_string(), |entry| format!("{plain}@{}", entry.digest)),
        descriptor: ShownDescriptor {
            media_type: document.media_type(),
            digest: document.digest().as_str(),
            size: document.bytes().len() as u64,
            platform: entry.and_then(|entry| entry.platform.as_ref()).or(declared),
        },
        raw: STANDARD.encode(document.bytes()),
        docker,
        oci,
    })
}

/// The same JSON with tabs, as Go's `json.Indent` sets it.
pub fn indented(bytes: &[u8]) -> Result<String, Error> {
    image_model::raw_json::check_syntax(bytes)
        .map_err(|e| Error::bad_input("show a manifest", e.to_string()))?;
    let mut out = Vec::with_capacity(bytes.len() * 2);
    let mut depth = 0;
    let mut in_string = false;
    let mut escaped = false;
    let mut is_empty = false;
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b'\t', depth));
    };
    for &byte in bytes {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if is_empty && !matches!(byte, b'}' | b']') {
            line(&mut out, depth);
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                depth += 1;
                is_empty = true;
                continue;
            }
            b'}' | b']' => {
                depth -= 1;
                if !is_empty {
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte => {
                out.push(byte);
                in_string = byte == b'"';
            }
        }
        is_empty = false;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_format_of_go() {
        let check = |text: &str, set: &str| assert_eq!(indented(text.as_bytes()).unwrap(), set);
        check(
            r#"{"a": [1, {"b":"x\"{,"}],"c":{ },"d":[]}"#,
            "{\n\t\"a\": [\n\t\t1,\n\t\t{\n\t\t\t\"b\": \"x\\\"{,\"\n\t\t}\n\t],\n\t\"c\": {},\n\t\"d\": []\n}",
        );
        check("1.50", "1.50");
        assert!(indented(b"{").is_err());
    }
}
