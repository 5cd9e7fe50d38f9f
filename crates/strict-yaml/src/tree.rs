//! YAML as a tree in which every key and value has its line. Scalars stay text as written: a tag of `1.10` is not a
//! number. Aliases and merge keys (`<<`) are resolved, up to a number of values.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use std::collections::HashMap;

/// An error in a file, with its line. Printed as `LINE: TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong, and the correction.
    pub text: String,
}

impl std::error::Error for Problem {}

impl Problem {
    /// A problem on a line.
    pub fn new(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

/// Maximum number of values. A spec has some dozens, but aliases can multiply them.
const NODES_MAX: usize = 10_000;

/// A value with the line on which it begins.
#[derive(Clone, Debug)]
pub struct Node {
    /// The number of the line, from 1.
    pub line: usize,
    /// The value.
    pub value: Value,
}

/// A YAML value without its line.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value, or `null`.
    Null,
    /// A scalar as written.
    Text(String),
    /// The items of a sequence.
    List(Vec<Node>),
    /// The entries of a mapping, with merge keys resolved. Keys are unique.
    Map(Vec<Entry>),
}

/// A key and its value in a map.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key as written; empty for `null`.
    pub key: String,
    /// The line of the key.
    pub line: usize,
    /// The value with its own line.
    pub value: Node,
}

impl Value {
    /// The kind of value as messages call it: `nothing`, `one value`, `a list` or `a map`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "one value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// The tree of a document, and the problems that do not prevent reading it, such as a duplicate key. `Err` if the text is
/// not valid YAML, or not one document.
pub(crate) fn parse(text: &str) -> Result<(Node, Vec<Problem>), Problem> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        problems: Vec::new(),
    };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) if root.is_some() => {
                return Err(Problem::new(
                    line(&span),
                    "a second document begins here; write one spec in a file",
                ));
            }
            Event::DocumentStart(..) => root = Some(builder.node()?),
            _ => {}
        }
    }
    let root = root.unwrap_or(Node { line: 1, value: Value::Null });
    Ok((root, builder.problems))
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.parser.next() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => {
                Err(Problem::new(error.marker().line(), format!("invalid YAML: {}", error.info())))
            }
            // Not reached: StreamEnd is the last event, and nothing is read after it.
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The node that begins with the next event.
    fn node(&mut self) -> Result<Node, Problem> {
        let (event, span) = self.next()?;
        self.node_of(event, &span)
    }

    fn node_of(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Problem> {
        let line = line(span);
        self.count(line, 1)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(line, tag.as_deref());
                let forced = tag.as_deref().is_some_and(|tag| tag.core_suffix() == Some("str"));
                let is_null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = match style == ScalarStyle::Plain && is_null && !forced {
                    true => Value::Null,
                    false => Value::Text(text.into_owned()),
                };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(line, tag.as_deref());
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node_of(event, &span)?),
                    }
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(line, tag.as_deref());
                (Value::Map(self.entries()?), anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Problem::new(line, "this alias stands inside the value that it names"));
                };
                self.count(line, size(&node))?;
                return Ok(node);
            }
            other => return Err(Problem::new(line, format!("a value should stand here, not {other:?}"))),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// The entries of a map up to its end. Of a duplicate key the first entry is kept; the second is a problem.
    fn entries(&mut self) -> Result<Vec<Entry>, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node_of(event, &span)?;
            let value = self.node()?;
            let name = match key.value {
                Value::Text(name) => name,
                Value::Null => String::new(),
                other => {
                    self.problem(key.line, format!("a key is one word, not {}", other.kind()));
                    continue;
                }
            };
            if name == "<<" {
                merged.push(value);
                continue;
            }
            match entries.iter().find(|entry| entry.key == name) {
                Some(first) => {
                    let text = format!(
                        "key \"{name}\" is there already, on line {}; remove one of them",
                        first.line
                    );
                    self.problem(key.line, text);
                }
                None => entries.push(Entry { key: name, line: key.line, value }),
            }
        }
        for node in merged {
            self.merge(&mut entries, node);
        }
        Ok(entries)
    }

    /// Adds the entries of a merged map, or of a list of them, whose keys are not there yet: own keys take precedence.
    fn merge(&mut self, entries: &mut Vec<Entry>, node: Node) {
        match node.value {
            Value::Map(more) => {
                for entry in more {
                    if !entries.iter().any(|have| have.key == entry.key) {
                        entries.push(entry);
                    }
                }
            }
            Value::List(nodes) => nodes.into_iter().for_each(|node| self.merge(entries, node)),
            other => {
                self.problem(node.line, format!("\"<<\" takes a map or a list of maps, not {}", other.kind()))
            }
        }
    }

    fn check_tag(&mut self, line: usize, tag: Option<&Tag>) {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix().is_none()) {
            self.problem(line, format!("the YAML tag \"{tag}\" means nothing here; remove it"));
        }
    }

    fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem::new(line, text));
    }

    fn count(&mut self, line: usize, more: usize) -> Result<(), Problem> {
        self.nodes += more;
        match self.nodes > NODES_MAX {
            true => Err(Problem::new(line, format!("the spec has more than {NODES_MAX} values"))),
            false => Ok(()),
        }
    }
}

fn line(span: &Span) -> usize {
    span.start.line()
}

/// The number of values in a node, itself included.
fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Text(_) => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| 1 + size(&entry.value)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in one line: `{key@line: value@line}`.
    fn shown(text: &str) -> String {
        fn show(node: &Node) -> String {
            let value = match &node.value {
                Value::Null => "~".to_string(),
                Value::Text(text) => format!("'{text}'"),
                Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
                Value::Map(entries) => {
                    let one = |entry: &Entry| format!("{}@{}: {}", entry.key, entry.line, show(&entry.value));
                    format!("{{{}}}", entries.iter().map(one).collect::<Vec<_>>().join(", "))
                }
            };
            format!("{value}@{}", node.line)
        }
        match parse(text) {
            Ok((node, problems)) => problems.iter().fold(show(&node), |out, p| format!("{out} !{p}")),
            Err(problem) => format!("!!{problem}"),
        }
    }

    #[test]
    fn every_key_and_value_knows_its_line_and_stays_text() {
        let check = |text: &str, tree: &str| assert_eq!(shown(text), tree, "{text}");
        check("a: 1.10\nb: [yes, 012]", "{a@1: '1.10'@1, b@2: ['yes'@2, '012'@2]@2}@1");
        check("a:\n  b: x\nc:", "{a@1: {b@2: 'x'@2}@2, c@3: ~@3}@1");
        check("a: \"\"\nb: ~\nc: 'null'", "{a@1: ''@1, b@2: ~@2, c@3: 'null'@3}@1");
        check("\u{feff}a: b", "{a@1: 'b'@1}@1");
        check("", "~@1");
        check("# only this", "~@1");
    }

    #[test]
    fn aliases_and_merge_keys_are_resolved_and_what_stands_nearer_holds() {
        let check = |text: &str, tree: &str| assert_eq!(shown(text), tree, "{text}");
        check("a: &x [1]\nb: *x", "{a@1: ['1'@1]@1, b@2: ['1'@1]@1}@1");
        check(
            "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3",
            "{a@1: {p@1: '1'@1, q@1: '2'@1}@1, b@2: {q@4: '3'@4, p@1: '1'@1}@3}@1",
        );
        check("a: {<<: [{p: 1}, {p: 2, r: 3}]}", "{a@1: {p@1: '1'@1, r@1: '3'@1}@1}@1");
    }

    #[test]
    fn what_is_wrong_names_its_line() {
        let check = |text: &str, wanted: &str| {
            let said = shown(text);
            assert!(said.contains(wanted), "{text}: {said}");
        };
        check("a: 1\nb: 2\na: 3", "!3: key \"a\" is there already, on line 1");
        check("a: 1\n---\nb: 2", "!!2: a second document");
        check("a:\n\t- 1", "!!2: invalid YAML");
        check("a: &x [*x]", "!!1: this alias stands inside");
        check("? [a]\n: b", "!1: a key is one word, not a list");
        check("a: {<<: 1}", "!1: \"<<\" takes a map");
        check("a: !secret b", "!1: the YAML tag");
        let bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_string()
            + &(1..9)
                .map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(9)))
                .collect::<String>();
        check(&bomb, "!!5: the spec has more than 10000 values");
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            check(&deep, "!!1: ");
        }
    }
}
