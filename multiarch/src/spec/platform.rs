//! Reads one platform of a spec: its builder and its recipe.

use super::dockerfile::{DOCKERFILE_KEYS, read_dockerfile};
use super::reader::Reader;
use super::{BuilderChoice, FilesRecipe, PlatformSpec, Port, Recipe, RunConfig};
use image_model::platform::Platform;
use image_model::reference::Reference;
use std::path::PathBuf;
use strict_yaml::{Entry, Node, Value, find};

/// Keys that go with either recipe, and with files.
const COMMON_KEYS: [&str; 2] = ["builder", "tag"];
const FILES_KEYS: [&str; 9] =
    ["from", "copy", "entrypoint", "cmd", "env", "user", "workdir", "labels", "expose"];

/// Reads the platforms under `entry`. `builder` is the default builder, `taken` are the tags of the index.
pub(super) fn read_platforms(
    reader: &mut Reader<'_>,
    entry: &Entry,
    builder: &BuilderChoice,
    taken: &[String],
) -> Vec<PlatformSpec> {
    let entries = match &entry.value.value {
        Value::Map(entries) if !entries.is_empty() => entries,
        _ => {
            let example = "linux/amd64: { dockerfile: Dockerfile }";
            reader.problem(entry.line, format!("\"platforms\" is a map of at least one platform: {example}"));
            return Vec::new();
        }
    };
    let mut seen: Vec<(Platform, usize)> = Vec::new();
    let mut tags: Vec<(String, usize)> = Vec::new();
    let mut platforms = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.key.starts_with("x-")) {
        let platform = reader.yaml.accept(entry.line, Platform::parse_known(&entry.key));
        let Some(platform) = platform else { continue };
        if let Some((same, line)) = seen.iter().find(|(other, _)| other.matches(&platform)) {
            let text =
                format!("platform {} is the same as {same} on line {line}; remove one of them", entry.key);
            reader.problem(entry.line, text);
        }
        seen.push((platform.clone(), entry.line));
        let Some(found) = read_platform(reader, entry, platform, builder) else { continue };
        if let Some(tag) = &found.tag {
            let first =
                tags.iter().find(|(other, _)| other == tag).map(|(_, line)| format!("on line {line}"));
            let first = first.or_else(|| taken.contains(tag).then(|| "under \"tags\"".to_string()));
            if let Some(place) = first {
                let text =
                    format!("tag \"{tag}\" is taken already, {place}: one of the two images would be lost");
                reader.problem(entry.line, text);
            }
            tags.push((tag.clone(), entry.line));
        }
        platforms.push(found);
    }
    mark_shared(&mut platforms);
    platforms
}

fn mark_shared(platforms: &mut [PlatformSpec]) {
    let dockerfiles: Vec<PathBuf> = platforms
        .iter()
        .filter_map(|one| match &one.recipe {
            Recipe::Dockerfile(recipe) => Some(recipe.dockerfile.clone()),
            Recipe::Files(_) => None,
        })
        .collect();
    for one in platforms {
        if let Recipe::Dockerfile(recipe) = &mut one.recipe {
            recipe.is_shared = dockerfiles.iter().filter(|other| **other == recipe.dockerfile).count() > 1;
        }
    }
}

fn read_platform(
    reader: &mut Reader<'_>,
    entry: &Entry,
    platform: Platform,
    for_all: &BuilderChoice,
) -> Option<PlatformSpec> {
    let wrong = |kind: &str| format!("{} is a map, not {kind}; write {{ dockerfile: FILE }}", entry.key);
    let entries = match &entry.value.value {
        Value::Null => &[],
        value => reader.yaml.map(entry.line, value, wrong)?,
    };
    let known = [&COMMON_KEYS[..], &DOCKERFILE_KEYS, &FILES_KEYS].concat();
    reader.check_keys(entries, &known, "a platform");
    let builder = match find(entries, "builder") {
        Some(entry) => reader.builder(entry)?,
        None => for_all.clone(),
    };
    let tag = find(entries, "tag").and_then(|entry| reader.tag(&entry.value));
    let has = |keys: &[&str]| entries.iter().any(|entry| keys.contains(&entry.key.as_str()));
    let from_files = match builder {
        BuilderChoice::Rootfs => true,
        BuilderChoice::Docker(_)
        | BuilderChoice::Buildx(_)
        | BuilderChoice::Podman
        | BuilderChoice::Buildah => false,
        BuilderChoice::Auto => !has(&["dockerfile"]) && has(&["copy", "from"]),
    };
    for foreign in entries {
        let key = foreign.key.as_str();
        let text = if from_files && DOCKERFILE_KEYS.contains(&key) {
            format!("\"{key}\" goes with a Dockerfile, but this platform is made by rootfs; remove it")
        } else if !from_files && FILES_KEYS.contains(&key) {
            format!(
                "\"{key}\" goes with builder rootfs, but this platform has a Dockerfile; {}",
                in_dockerfile(key)
            )
        } else {
            continue;
        };
        reader.problem(foreign.line, text);
    }
    let recipe = match from_files {
        true => Recipe::Files(read_files(reader, entry.line, entries, &platform)?),
        false => Recipe::Dockerfile(read_dockerfile(reader, entry.line, entries, &builder)?),
    };
    Some(PlatformSpec { platform, tag, builder, recipe })
}

/// The way to say a key of the embedded builder where there is a Dockerfile.
fn in_dockerfile(key: &str) -> String {
    let instruction = match key {
        "labels" => "LABEL".to_string(),
        other => other.to_uppercase(),
    };
    format!("write {instruction} in that")
}

fn read_files(
    reader: &mut Reader<'_>,
    line: usize,
    entries: &[Entry],
    platform: &Platform,
) -> Option<FilesRecipe> {
    if platform.os == "windows" {
        // A layer for Windows has folders Files and Hives of its own.
        reader.problem(line, "builder rootfs makes no Windows images; use a Dockerfile");
    }
    if find(entries, "copy").or(find(entries, "from")).is_none() {
        reader.problem(
            line,
            "builder rootfs needs files or a base image; write copy: { FILE: /PATH }, or from: IMAGE",
        );
        return None;
    }
    let from = find(entries, "from").and_then(|entry| read_base(reader, entry));
    let copy = find(entries, "copy").map(|entry| read_copy(reader, entry)).unwrap_or_default();
    let words = |reader: &mut Reader<'_>, key: &str| find(entries, key).map(|entry| reader.words(entry));
    let run = RunConfig {
        entrypoint: words(reader, "entrypoint"),
        cmd: words(reader, "cmd"),
        env: find(entries, "env").map(|entry| reader.texts(entry)).unwrap_or_default(),
        user: find(entries, "user").and_then(|entry| reader.text(entry)),
        workdir: find(entries, "workdir").and_then(|entry| reader.text(entry)),
        labels: find(entries, "labels").map(|entry| reader.texts(entry)).unwrap_or_default(),
        expose: find(entries, "expose").map(|entry| read_ports(reader, entry)).unwrap_or_default(),
    };
    check_characters(reader, entries, &run);
    if let (Some(workdir), Some(entry)) = (&run.workdir, find(entries, "workdir"))
        && !workdir.starts_with('/')
    {
        reader.problem(entry.value.line, format!("workdir \"{workdir}\" does not begin with \"/\""));
    }
    if let Some(entry) = find(entries, "env") {
        for name in run.env.keys().filter(|name| name.contains('=')) {
            reader.problem(entry.line, format!("\"{name}\" in \"env\" has a '='; write NAME: VALUE"));
        }
    }
    Some(FilesRecipe { from, copy, run })
}

/// Refuses characters that no user name, path or variable can have: a line break in a user would add a line to what engines and
/// scripts read, and a zero byte ends a text for the kernel.
fn check_characters(reader: &mut Reader<'_>, entries: &[Entry], run: &RunConfig) {
    let is_control = |text: &str| text.chars().any(char::is_control);
    let has_zero = |text: &String| text.contains('\0');
    let user = |user: &String| is_control(user) || user.contains(char::is_whitespace);
    for (key, is_wrong) in [
        ("user", run.user.as_ref().is_some_and(user)),
        ("workdir", run.workdir.as_ref().is_some_and(|workdir| is_control(workdir))),
        ("env", run.env.keys().any(|name| is_control(name)) || run.env.values().any(has_zero)),
        ("labels", run.labels.keys().any(|name| is_control(name)) || run.labels.values().any(has_zero)),
    ] {
        if let (true, Some(entry)) = (is_wrong, find(entries, key)) {
            let text =
                format!("\"{key}\" contains a line break or another character that is not allowed there");
            reader.problem(entry.value.line, text);
        }
    }
}

/// A base image; paths are relative to the directory of the spec.
fn read_base(reader: &mut Reader<'_>, entry: &Entry) -> Option<Reference> {
    let text = reader.text(entry)?;
    match text.parse::<Reference>() {
        Ok(Reference::OciLayout { dir: path, tag, digest }) => {
            Some(Reference::OciLayout { dir: reader.path(path), tag, digest })
        }
        Ok(Reference::OciArchive { file, tag, digest }) => {
            Some(Reference::OciArchive { file: reader.path(file), tag, digest })
        }
        Ok(Reference::DockerArchive { file, name }) => {
            Some(Reference::DockerArchive { file: reader.path(file), name })
        }
        Ok(Reference::Stdin) => {
            reader.problem(entry.value.line, "a base image cannot come from standard input; name it");
            None
        }
        Ok(image @ (Reference::Registry(_) | Reference::DockerDaemon { .. })) => Some(image),
        Err(error) => {
            reader.problem(entry.value.line, error.to_string());
            None
        }
    }
}

fn read_copy(reader: &mut Reader<'_>, entry: &Entry) -> Vec<(PathBuf, String)> {
    let mut copies = Vec::new();
    for (source, line, to) in reader.optional_texts(entry) {
        let Some(to) = to else {
            reader.problem(line, format!("\"{source}\" has no destination; write \"{source}\": /PATH"));
            continue;
        };
        let from = reader.path(&source);
        if !to.starts_with('/') || to.split('/').any(|part| part == ".." || part == ".") || to.contains('\0')
        {
            let text =
                format!("destination \"{to}\" is no absolute path in the image; write /PATH, without \"..\"");
            reader.problem(line, text);
        }
        if !reader.prepares && !from.exists() {
            reader.problem(line, format!("there is no \"{}\" to copy", from.display()));
        }
        copies.push((from, to));
    }
    copies
}

fn read_ports(reader: &mut Reader<'_>, entry: &Entry) -> Vec<Port> {
    let wrong = |kind: &str| format!("\"expose\" is a list of ports, not {kind}; write expose: [8080]");
    let mut ports = Vec::new();
    for node in reader.yaml.list(entry.line, &entry.value.value, wrong).unwrap_or_default() {
        match read_port(node) {
            Some(port) => ports.push(port),
            None => reader.problem(
                node.line,
                "a port is a number from 1 to 65535, with /udp or /sctp where it is not tcp",
            ),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn read_port(node: &Node) -> Option<Port> {
    let Value::Text(text) = &node.value else { return None };
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = ["tcp", "udp", "sctp"].into_iter().find(|known| *known == protocol)?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse::<u16>().ok().filter(|number| digits && *number > 0)?;
    Some(Port { number, protocol })
}
