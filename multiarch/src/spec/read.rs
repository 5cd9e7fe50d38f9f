//! The walk through a spec's tree: each key is known or a problem, each value has its shape or is a problem.

use super::platform::read_platforms;
use super::{BuilderChoice, LabelPolicy, Spec};
use image_model::reference::{Reference, RegistryRef, is_tag};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strict_yaml::{self, Entry, Node, Problem, Value};

const KEYS: [&str; 8] =
    ["image", "tags", "builder", "platforms", "labels", "smoke", "annotations", "prepare"];

pub(super) fn spec(text: &str, dir: &Path) -> Result<Spec, Vec<Problem>> {
    let (root, problems) = strict_yaml::parse(text).map_err(|problem| vec![problem])?;
    let mut reader = Reader { dir, prepares: false, problems };
    let found = read_spec(&mut reader, &root);
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| problem.line);
    problems.dedup();
    match found {
        Some(spec) if problems.is_empty() => Ok(spec),
        _ => Err(problems),
    }
}

/// `None` comes with a problem that says why.
fn read_spec(reader: &mut Reader<'_>, root: &Node) -> Option<Spec> {
    let Value::Map(entries) = &root.value else {
        let text = format!("a spec is a map that begins with \"image:\", not {}", root.value.kind());
        reader.problem(root.line, text);
        return None;
    };
    reader.check_keys(entries, &KEYS, "release.yaml");
    let prepare = find(entries, "prepare").map(|entry| reader.commands(entry)).unwrap_or_default();
    reader.prepares = !prepare.is_empty();
    let image = match find(entries, "image") {
        Some(entry) => read_image(reader, entry),
        None => reader.missing(root.line, "image: HOST/REPOSITORY, or image: oci:FOLDER"),
    };
    let tags = match find(entries, "tags") {
        Some(entry) => read_tags(reader, entry),
        None => vec!["latest".to_string()],
    };
    let builder = match find(entries, "builder") {
        Some(entry) => reader.builder(entry),
        None => Some(BuilderChoice::Auto),
    };
    let labels = match find(entries, "labels") {
        Some(entry) => read_labels(reader, entry),
        None => Some(LabelPolicy::Fix),
    };
    let smoke = find(entries, "smoke").map(|entry| reader.words(entry)).unwrap_or_default();
    let annotations = find(entries, "annotations").map(|entry| reader.texts(entry)).unwrap_or_default();
    let platforms = match find(entries, "platforms") {
        // An unknown builder is a problem of its own; the platforms are read as if it were not there.
        Some(entry) => read_platforms(reader, entry, &builder.unwrap_or(BuilderChoice::Auto), &tags),
        None => {
            reader.missing::<()>(root.line, "platforms: { linux/amd64: { dockerfile: Dockerfile }, ... }");
            Vec::new()
        }
    };
    Some(Spec {
        dir: reader.dir.to_path_buf(),
        image: image?,
        tags,
        labels: labels?,
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
        Ok(Reference::OciLayout { dir, tag: None }) => {
            return Some(Reference::OciLayout { dir: reader.path(dir), tag: None });
        }
        Ok(Reference::Registry(image)) if image.digest.is_some() => {
            format!(
                "image \"{text}\" names a digest, which is not known before the image is built; remove it"
            )
        }
        Ok(Reference::Registry(_) | Reference::OciLayout { .. }) => {
            format!("image \"{text}\" names a tag; write it under \"tags:\"")
        }
        Ok(_) => {
            format!("image \"{text}\" is no place for several platforms; write HOST/REPOSITORY or oci:FOLDER")
        }
        Err(error) => format!("{error}; write HOST/REPOSITORY or oci:FOLDER"),
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
            true => reader.problem(node.line, format!("tag \"{tag}\" stands twice; remove one of them")),
            false => tags.push(tag),
        }
    }
    tags
}

fn read_labels(reader: &mut Reader<'_>, entry: &Entry) -> Option<LabelPolicy> {
    match reader.text(entry)?.as_str() {
        "fix" => Some(LabelPolicy::Fix),
        "check" => Some(LabelPolicy::Check),
        other => {
            let text =
                format!("labels: \"{other}\" is not known; write fix (put them right) or check (stop)");
            reader.problem(entry.value.line, text);
            None
        }
    }
}

/// The entry of a key. Keys are unique: the tree sees to that.
pub(super) fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key == key)
}

/// Reads values of a shape, and keeps what is wrong.
pub(super) struct Reader<'a> {
    pub dir: &'a Path,
    /// Commands run before the build: files that are missing now may be made by them.
    pub prepares: bool,
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    pub fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem::new(line, text));
    }

    /// A path of the spec, from where the command runs.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        match self.dir == Path::new(".") {
            true => path.as_ref().to_path_buf(),
            false => self.dir.join(path),
        }
    }

    pub fn missing<T>(&mut self, line: usize, write: &str) -> Option<T> {
        let (key, _) = write.split_once(':').unwrap_or((write, ""));
        self.problem(line, format!("there is no \"{key}\"; write {write}"));
        None
    }

    /// Keys that begin with `x-` are the writer's own.
    pub fn check_keys(&mut self, entries: &[Entry], known: &[&str], of: &str) {
        for entry in entries {
            if known.contains(&entry.key.as_str()) || entry.key.starts_with("x-") {
                continue;
            }
            let instead = match closest(&entry.key, known) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("it has {}", known.join(", ")),
            };
            self.problem(entry.line, format!("{of} has no key \"{}\"; {instead}", entry.key));
        }
    }

    /// One value that is not empty.
    pub fn text(&mut self, entry: &Entry) -> Option<String> {
        match &entry.value.value {
            Value::Text(text) if !text.is_empty() => Some(text.clone()),
            Value::Text(_) | Value::Null => {
                self.problem(
                    entry.line,
                    format!("\"{0}\" has no value; write {0}: VALUE, or remove it", entry.key),
                );
                None
            }
            other => {
                let text = format!("\"{}\" is one value, not {}", entry.key, other.kind());
                self.problem(entry.line, text);
                None
            }
        }
    }

    /// A command as a list of words. One text would need a shell to split it, and there is none.
    pub fn words(&mut self, entry: &Entry) -> Vec<String> {
        match &entry.value.value {
            Value::List(nodes) => self.word_list(&entry.key, nodes),
            other => {
                let example = match other {
                    Value::Text(text) => {
                        let words: Vec<String> =
                            text.split_whitespace().map(|w| format!("\"{w}\"")).collect();
                        words.join(", ")
                    }
                    _ => "\"WORD\", ...".to_string(),
                };
                let text = format!("\"{0}\" is a list of words; write {0}: [{example}]", entry.key);
                self.problem(entry.line, text);
                Vec::new()
            }
        }
    }

    fn word_list(&mut self, key: &str, nodes: &[Node]) -> Vec<String> {
        let mut words = Vec::new();
        for node in nodes {
            match &node.value {
                Value::Text(word) if word.contains('\0') => {
                    self.problem(
                        node.line,
                        format!("a word of \"{key}\" has a zero byte, which no command takes"),
                    );
                }
                Value::Text(word) => words.push(word.clone()),
                Value::Null => self
                    .problem(node.line, format!("a word of \"{key}\" is empty; write \"\" if you mean that")),
                other => {
                    self.problem(node.line, format!("a word of \"{key}\" is one value, not {}", other.kind()))
                }
            }
        }
        words
    }

    /// A list of commands.
    fn commands(&mut self, entry: &Entry) -> Vec<Vec<String>> {
        let Value::List(nodes) = &entry.value.value else {
            let text =
                format!("\"{0}\" is a list of commands; write {0}: [[PROGRAM, ARGUMENT, ...]]", entry.key);
            self.problem(entry.line, text);
            return Vec::new();
        };
        let mut commands = Vec::new();
        for node in nodes {
            match &node.value {
                Value::List(words) if !words.is_empty() => commands.push(self.word_list(&entry.key, words)),
                _ => {
                    let text = format!(
                        "each command of \"{}\" is a list of its own: [PROGRAM, ARGUMENT, ...]",
                        entry.key
                    );
                    self.problem(node.line, text);
                }
            }
        }
        commands
    }

    /// A map of names to texts.
    pub fn texts(&mut self, entry: &Entry) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for (name, line, value) in self.optional_texts(entry) {
            match value {
                Some(value) => {
                    texts.insert(name, value);
                }
                None => {
                    let text = format!("\"{name}\" has no value; write {name}: VALUE, or {name}: \"\"");
                    self.problem(line, text);
                }
            }
        }
        texts
    }

    /// A map of names to texts, some of which have none: name, line, text.
    pub fn optional_texts(&mut self, entry: &Entry) -> Vec<(String, usize, Option<String>)> {
        let Value::Map(entries) = &entry.value.value else {
            let kind = entry.value.value.kind();
            let text = format!("\"{0}\" is a map, not {kind}; write {0}: {{ NAME: VALUE }}", entry.key);
            self.problem(entry.line, text);
            return Vec::new();
        };
        let mut texts = Vec::new();
        for pair in entries {
            match &pair.value.value {
                _ if pair.key.is_empty() => {
                    self.problem(pair.line, format!("a name in \"{}\" is empty", entry.key))
                }
                Value::Text(value) => texts.push((pair.key.clone(), pair.line, Some(value.clone()))),
                Value::Null => texts.push((pair.key.clone(), pair.line, None)),
                other => {
                    let text =
                        format!("\"{}\" in \"{}\" is one value, not {}", pair.key, entry.key, other.kind());
                    self.problem(pair.line, text);
                }
            }
        }
        texts
    }

    pub fn tag(&mut self, node: &Node) -> Option<String> {
        match &node.value {
            Value::Text(tag) if is_tag(tag) => Some(tag.clone()),
            Value::Text(tag) => {
                let rule = "at most 128 letters, digits, '_', '.', '-', not first '.' or '-'";
                self.problem(node.line, format!("\"{tag}\" is no tag: {rule}"));
                None
            }
            other => {
                self.problem(node.line, format!("a tag is one value, not {}", other.kind()));
                None
            }
        }
    }

    pub fn builder(&mut self, entry: &Entry) -> Option<BuilderChoice> {
        let name = self.text(entry)?;
        if let Some(choice) = BuilderChoice::parse(&name) {
            return Some(choice);
        }
        let text = match closest(&name, &BuilderChoice::NAMES) {
            Some(meant) => format!("there is no builder \"{name}\"; did you mean {meant}?"),
            None => {
                let names = BuilderChoice::NAMES.join(", ");
                format!("there is no builder \"{name}\"; write {names}, docker:CONTEXT or buildx:BUILDER")
            }
        };
        self.problem(entry.value.line, text);
        None
    }
}

/// The known word that was probably meant: the same but for case and `_` or `-`, or a slip or two away.
fn closest<'a>(said: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', '_'], "");
    let far = |word: &str| distance(&plain(said), &plain(word));
    let best = known.iter().min_by_key(|word| far(word))?;
    let allowed = if best.len() <= 4 { 1 } else { 2 };
    (far(best) <= allowed).then_some(*best)
}

/// Letters to put in, take out or change until one word is the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_that_was_meant() {
        let check = |said: &str, meant: Option<&str>| assert_eq!(closest(said, &KEYS), meant, "{said}");
        check("platfroms", Some("platforms"));
        check("platform", Some("platforms"));
        check("Image", Some("image"));
        check("annotation", Some("annotations"));
        check("tag", Some("tags"));
        check("push", None);
        check("", None);
        assert_eq!(closest("build_args", &["build-args", "builder"]), Some("build-args"));
    }
}
