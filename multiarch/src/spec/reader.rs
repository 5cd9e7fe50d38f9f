//! Reader of the values that occur in several places of a spec.

use super::BuilderChoice;
use error::text::nearest;
use image_model::reference::is_tag;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strict_yaml::{Entry, Node, Value, YamlReader};

/// Reads values of a spec, and collects the problems.
pub(super) struct Reader<'a> {
    pub dir: &'a Path,
    /// The spec has `prepare` commands, which may create files that are missing now.
    pub prepares: bool,
    pub yaml: YamlReader,
}

impl Reader<'_> {
    pub fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.yaml.problem(line, text);
    }

    /// A path of the spec, relative to the current directory.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        match self.dir == Path::new(".") {
            true => path.as_ref().to_path_buf(),
            false => self.dir.join(path),
        }
    }

    /// The entry of a key that must be there. `write` is the key with an example of its value.
    pub fn required<'e>(&mut self, line: usize, entries: &'e [Entry], write: &str) -> Option<&'e Entry> {
        let (key, _) = write.split_once(':').unwrap_or((write, ""));
        self.yaml.required(line, entries, key, format!("there is no \"{key}\"; write {write}"))
    }

    pub fn check_keys<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>, known: &[&str], of: &str) {
        self.yaml.check_keys(entries, known, "it has", |key| format!("{of} has no key \"{key}\""));
    }

    /// One value that is not empty.
    pub fn text(&mut self, entry: &Entry) -> Option<String> {
        let Entry { key, line, value } = entry;
        if matches!(&value.value, Value::Null) || matches!(&value.value, Value::Text(text) if text.is_empty())
        {
            self.problem(*line, format!("\"{key}\" has no value; write {key}: VALUE, or remove it"));
            return None;
        }
        let wrong = |kind: &str| format!("\"{key}\" is one value, not {kind}");
        self.yaml.text(*line, &value.value, wrong).map(str::to_string)
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
                Value::Null => self
                    .problem(node.line, format!("a word of \"{key}\" is empty; write \"\" if you mean that")),
                value => {
                    let wrong = |kind: &str| format!("a word of \"{key}\" is one value, not {kind}");
                    words.extend(self.yaml.text(node.line, value, wrong).map(str::to_string));
                }
            }
        }
        words
    }

    /// A list of commands.
    pub fn commands(&mut self, entry: &Entry) -> Vec<Vec<String>> {
        let key = &entry.key;
        let wrong =
            |_: &str| format!("\"{key}\" is a list of commands; write {key}: [[PROGRAM, ARGUMENT, ...]]");
        let mut commands = Vec::new();
        for node in self.yaml.list(entry.line, &entry.value.value, wrong).unwrap_or_default() {
            match &node.value {
                Value::List(words) if !words.is_empty() => commands.push(self.word_list(key, words)),
                _ => self.problem(
                    node.line,
                    format!("each command of \"{key}\" is a list of its own: [PROGRAM, ARGUMENT, ...]"),
                ),
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
        let key = &entry.key;
        let wrong = |kind: &str| format!("\"{key}\" is a map, not {kind}; write {key}: {{ NAME: VALUE }}");
        let mut texts = Vec::new();
        for Entry { key: name, line, value } in
            self.yaml.map(entry.line, &entry.value.value, wrong).unwrap_or_default()
        {
            match &value.value {
                _ if name.is_empty() => self.problem(*line, format!("a name in \"{key}\" is empty")),
                Value::Null => texts.push((name.clone(), *line, None)),
                value => {
                    let wrong = |kind: &str| format!("\"{name}\" in \"{key}\" is one value, not {kind}");
                    let text = self.yaml.text(*line, value, wrong);
                    texts.extend(text.map(|text| (name.clone(), *line, Some(text.to_string()))));
                }
            }
        }
        texts
    }

    pub fn tag(&mut self, node: &Node) -> Option<String> {
        let tag = self.yaml.text(node.line, &node.value, |kind| format!("a tag is one value, not {kind}"))?;
        if !is_tag(tag) {
            let rule = "at most 128 letters, digits, '_', '.', '-', not first '.' or '-'";
            self.problem(node.line, format!("\"{tag}\" is no tag: {rule}"));
            return None;
        }
        Some(tag.to_string())
    }

    pub fn builder(&mut self, entry: &Entry) -> Option<BuilderChoice> {
        let name = self.text(entry)?;
        if let Some(choice) = BuilderChoice::parse(&name) {
            return Some(choice);
        }
        let text = match nearest(&name, &BuilderChoice::NAMES) {
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
