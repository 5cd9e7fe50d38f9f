//! Reads the keys of a platform with a Dockerfile.

use super::reader::Reader;
use super::{BuildArgs, BuilderChoice, DockerfileRecipe, Secret, SecretSource};
use std::collections::BTreeMap;
use std::path::Path;
use strict_yaml::{Entry, Value, find};

pub(super) const DOCKERFILE_KEYS: [&str; 8] =
    ["dockerfile", "context", "target", "build-args", "secrets", "build-contexts", "cache-from", "cache-to"];

pub(super) fn read_dockerfile(
    reader: &mut Reader<'_>,
    line: usize,
    entries: &[Entry],
    builder: &BuilderChoice,
) -> Option<DockerfileRecipe> {
    let context = match find(entries, "context") {
        Some(entry) => {
            let text = reader.text(entry)?;
            let dir = reader.path(text);
            check_folder(reader, entry.value.line, &dir);
            dir
        }
        None => reader.dir.to_path_buf(),
    };
    let read = |key: &str| find(entries, key);
    let target = read("target").and_then(|entry| reader.text(entry));
    let build_args = read("build-args").map(|entry| read_build_args(reader, entry)).unwrap_or_default();
    let secrets = read("secrets").map(|entry| read_secrets(reader, entry)).unwrap_or_default();
    let build_contexts = read("build-contexts").map(|entry| read_contexts(reader, entry)).unwrap_or_default();
    let cache_from = read("cache-from").map(|entry| reader.words(entry)).unwrap_or_default();
    let cache_to = read("cache-to").map(|entry| reader.words(entry)).unwrap_or_default();
    let Some(entry) = read("dockerfile") else {
        let text = match builder {
            BuilderChoice::Auto => {
                "nothing says how to build this platform; write dockerfile: FILE, or copy: { FILE: /PATH }"
                    .to_string()
            }
            named => format!("builder {named} needs a Dockerfile; write dockerfile: FILE"),
        };
        reader.problem(line, text);
        return None;
    };
    let text = reader.text(entry)?;
    let dockerfile = reader.path(text);
    if !reader.prepares && !dockerfile.is_file() {
        reader.problem(entry.value.line, format!("there is no Dockerfile \"{}\"", dockerfile.display()));
    }
    Some(DockerfileRecipe {
        target,
        build_args,
        secrets,
        build_contexts,
        cache_from,
        cache_to,
        ..DockerfileRecipe::new(dockerfile, context)
    })
}

fn check_folder(reader: &mut Reader<'_>, line: usize, dir: &Path) {
    if !reader.prepares && !dir.is_dir() {
        let text = format!("there is no directory \"{}\" to be the build context", dir.display());
        reader.problem(line, text);
    }
}

fn read_build_args(reader: &mut Reader<'_>, entry: &Entry) -> BuildArgs {
    let args = reader.optional_texts(entry);
    for (name, line, _) in &args {
        if !is_variable(name) {
            let text = format!("\"{name}\" is no name for a build argument: letters, digits and '_'");
            reader.problem(*line, text);
        }
    }
    BuildArgs(args.into_iter().map(|(name, _, value)| (name, value)).collect())
}

/// `{ npm: { file: .npmrc }, token: { env: NPM_TOKEN } }`. A value written here would be no secret any more.
fn read_secrets(reader: &mut Reader<'_>, entry: &Entry) -> Vec<Secret> {
    const WRITE: &str = "write ID: { file: FILE }, or ID: { env: VARIABLE }";
    let wrong = |kind: &str| format!("\"secrets\" is a map, not {kind}; {WRITE}");
    let mut secrets = Vec::new();
    for id in reader.yaml.map(entry.line, &entry.value.value, wrong).unwrap_or_default() {
        // It becomes a part of a list with commas.
        if !is_id(&id.key) {
            let text = format!("\"{}\" is no id of a secret: letters, digits, '_', '.', '-'", id.key);
            reader.problem(id.line, text);
            continue;
        }
        let source = match &id.value.value {
            Value::Map(source) if source.len() == 1 => &source[0],
            _ => {
                reader.problem(id.line, format!("the spec says where a secret is, not what it is; {WRITE}"));
                continue;
            }
        };
        let Some(text) = reader.text(source) else { continue };
        let source = match source.key.as_str() {
            "file" => {
                let file = reader.path(&text);
                if file.to_string_lossy().contains([',', '"']) {
                    reader.problem(source.line, format!("engines take no ',' and '\"' in \"{text}\""));
                }
                if !reader.prepares && !file.is_file() {
                    reader.problem(
                        source.line,
                        format!("there is no file \"{}\" with the secret", file.display()),
                    );
                }
                SecretSource::File(file)
            }
            "env" if is_variable(&text) => SecretSource::Variable(text),
            "env" => {
                reader.problem(source.line, "the name of a variable has letters, digits and '_'");
                continue;
            }
            other => {
                reader.problem(source.line, format!("a secret has no \"{other}\"; {WRITE}"));
                continue;
            }
        };
        secrets.push(Secret { id: id.key.clone(), source });
    }
    secrets
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Folders are relative to the spec; `docker-image://`, `oci-layout://`, `https://` are for the engine.
fn read_contexts(reader: &mut Reader<'_>, entry: &Entry) -> BTreeMap<String, String> {
    let mut contexts = reader.texts(entry);
    for text in contexts.values_mut().filter(|text| !text.contains("://")) {
        let dir = reader.path(&*text);
        check_folder(reader, entry.line, &dir);
        *text = dir.display().to_string();
    }
    contexts
}

/// Returns whether a shell accepts this as the name of a variable.
fn is_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}
