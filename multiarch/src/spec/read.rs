//! Reads the top level of a spec.

use super::platform::read_platforms;
use super::reader::Reader;
use super::{BuilderChoice, OnMismatch, Spec};
use image_model::reference::{Reference, RegistryRef};
use std::path::Path;
use strict_yaml::{Entry, Node, Problem, Value, YamlReader, find};

const KEYS: [&str; 8] =
    ["image", "tags", "builder", "platforms", "on-mismatch", "smoke", "annotations", "prepare"];

/// The name of `on-mismatch` in version 0.1.0, with the values fix and check.
const OLD_ON_MISMATCH: &str = "labels";

pub(super) fn spec(text: &str, dir: &Path) -> Result<Spec, Vec<Problem>> {
    let (root, yaml) = YamlReader::parse(text).map_err(|problem| vec![problem])?;
    let mut reader = Reader { dir, prepares: false, yaml };
    let found = read_spec(&mut reader, &root);
    let mut problems = reader.yaml.into_problems();
    problems.dedup();
    match found {
        Some(spec) if problems.is_empty() => Ok(spec),
        _ => Err(problems),
    }
}

/// Returns `None` after it has added a problem.
fn read_spec(reader: &mut Reader<'_>, root: &Node) -> Option<Spec> {
    let wrong = |kind: &str| format!("a spec is a map that begins with \"image:\", not {kind}");
    let entries = reader.yaml.map(root.line, &root.value, wrong)?;
    if let Some(entry) = find(entries, OLD_ON_MISMATCH) {
        let value = match &entry.value.value {
            Value::Text(text) if text == "check" => "fail",
            _ => "fix",
        };
        reader.problem(entry.line, format!("\"labels\" was renamed: write \"on-mismatch: {value}\""));
    }
    reader.check_keys(entries.iter().filter(|entry| entry.key != OLD_ON_MISMATCH), &KEYS, "release.yaml");
    let prepare = find(entries, "prepare").map(|entry| reader.commands(entry)).unwrap_or_default();
    reader.prepares = !prepare.is_empty();
    let image = reader.required(root.line, entries, "image: HOST/REPOSITORY, or image: oci:DIR");
    let image = image.and_then(|entry| read_image(reader, entry));
    let tags = match find(entries, "tags") {
        Some(entry) => read_tags(reader, entry),
        None => vec!["latest".to_string()],
    };
    let builder = match find(entries, "builder") {
        Some(entry) => reader.builder(entry),
        None => Some(BuilderChoice::Auto),
    };
    let on_mismatch = match find(entries, "on-mismatch") {
        Some(entry) => read_on_mismatch(reader, entry),
        None => Some(OnMismatch::Fix),
    };
    let smoke = find(entries, "smoke").map(|entry| reader.words(entry)).unwrap_or_default();
    let annotations = find(entries, "annotations").map(|entry| reader.texts(entry)).unwrap_or_default();
    let example = "platforms: { linux/amd64: { dockerfile: Dockerfile }, ... }";
    let platforms = reader.required(root.line, entries, example);
    // An unknown builder is one problem; the platforms are read as if it were absent.
    let builder = builder.unwrap_or(BuilderChoice::Auto);
    let platforms = platforms.map(|entry| read_platforms(reader, entry, &builder, &tags)).unwrap_or_default();
    Some(Spec {
        dir: reader.dir.to_path_buf(),
        image: image?,
        tags,
        on_mismatch: on_mismatch?,
        smoke,
        annotations,
        prepare,
        platforms,
    })
}

fn read_image(reader: &mut Reader<'_>, entry: &Entry) -> Option<Reference> {
    let text = reader.text(entry)?;
    let why = match text.parse::<Reference>() {
        Ok(Reference::Registry(RegistryRef { tag: None, digest: None, host, repository })) => {
            return Some(Reference::Registry(RegistryRef { host, repository, tag: None, digest: None }));
        }
        Ok(Reference::OciLayout { dir, tag: None, digest: None }) => {
            return Some(Reference::OciLayout { dir: reader.path(dir), tag: None, digest: None });
        }
        Ok(image) if image.digest().is_some() => {
            format!(
                "image \"{text}\" names a digest, which is not known before the image is built; remove it"
            )
        }
        Ok(Reference::Registry(_) | Reference::OciLayout { .. }) => {
            format!("image \"{text}\" names a tag; write it under \"tags:\"")
        }
        Ok(_) => {
            format!("image \"{text}\" cannot hold several platforms; write HOST/REPOSITORY or oci:DIR")
        }
        Err(error) => format!("{error}; write HOST/REPOSITORY or oci:DIR"),
    };
    reader.problem(entry.value.line, why);
    None
}

fn read_tags(reader: &mut Reader<'_>, entry: &Entry) -> Vec<String> {
    let nodes = match &entry.value.value {
        Value::List(nodes) if !nodes.is_empty() => nodes,
        _ => {
            reader.problem(entry.line, "\"tags\" is a list of at least one tag; write tags: [latest]");
            return Vec::new();
        }
    };
    let mut tags = Vec::new();
    for node in nodes {
        let Some(tag) = reader.tag(node) else { continue };
        match tags.contains(&tag) {
            true => reader.problem(node.line, format!("tag \"{tag}\" is listed twice; remove one of them")),
            false => tags.push(tag),
        }
    }
    tags
}

fn read_on_mismatch(reader: &mut Reader<'_>, entry: &Entry) -> Option<OnMismatch> {
    match reader.text(entry)?.as_str() {
        "fix" => Some(OnMismatch::Fix),
        "fail" => Some(OnMismatch::Fail),
        other => {
            let text = format!("on-mismatch: unknown value \"{other}\"; write fix or fail");
            reader.problem(entry.value.line, text);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::text::nearest;

    #[test]
    fn a_misspelled_key_has_a_suggestion() {
        let check = |said: &str, meant: Option<&str>| assert_eq!(nearest(said, &KEYS), meant, "{said}");
        check("platfroms", Some("platforms"));
        check("platform", Some("platforms"));
        check("Image", Some("image"));
        check("annotation", Some("annotations"));
        check("tag", Some("tags"));
        check("push", None);
        check("", None);
        assert_eq!(nearest("build_args", &["build-args", "builder"]), Some("build-args"));
    }
}
