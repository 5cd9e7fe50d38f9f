//! Reads values of a shape from a spec's tree, and collects the problems.

use super::BuilderChoice;
use error::text::nearest;
use image_model::reference::is_tag;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strict_yaml::{Entry, Node, Problem, Value};

/// The entry of a key. Keys are unique: strict_yaml rejects duplicates.
pub(super) fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key == key)
}

/// Reads values of a shape, and collects the problems.
pub(super) struct Reader<'a> {
    pub dir: &'a Path,
    /// The spec has `prepare` commands, which may create files that are missing now.
    pub prepares: bool,
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    pub fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem::new(line, text));
    }

    /// A path of the spec, relative to the current directory.
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
    pub fn check_keys<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>, known: &[&str], of: &str) {
        for entry in entries {
            if known.contains(&entry.key.as_str()) || entry.key.starts_with("x-") {
                continue;
            }
            let instead = match nearest(&entry.key, known) {
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
    pub fn commands(&mut self, entry: &Entry) -> Vec<Vec<String>> {
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
