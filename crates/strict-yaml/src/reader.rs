//! Reader of a tree: values of an expected shape, with all problems collected.

use crate::tree::{Entry, Node, Problem, Value, parse};
use error::text::nearest;

/// The entry of a key. Keys are unique: [`YamlReader::parse`] reports duplicates and keeps the first.
pub fn find<'n>(entries: &'n [Entry], key: &str) -> Option<&'n Entry> {
    entries.iter().find(|entry| entry.key == key)
}

/// Takes values of an expected shape from a tree, and collects the problems.
///
/// A method that returns `None` has added a problem. Its text is made by the caller, from what the value is instead:
/// `a list`, `a map`, `one value` or `nothing`.
#[derive(Debug, Default)]
pub struct YamlReader {
    problems: Vec<Problem>,
}

impl YamlReader {
    /// Parses a document. Returns its tree, and a reader that has the problems which do not prevent reading, such as a
    /// duplicate key.
    ///
    /// # Errors
    /// The problem, if the text is not valid YAML, is more than one document, or has too many values.
    pub fn parse(text: &str) -> Result<(Node, Self), Problem> {
        let (root, problems) = parse(text)?;
        Ok((root, Self { problems }))
    }

    /// All problems, by line.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }

    /// Adds a problem.
    pub fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem::new(line, text));
    }

    /// The value of a result. The error is added as a problem on this line.
    pub fn accept<T>(&mut self, line: usize, result: Result<T, impl ToString>) -> Option<T> {
        result.map_err(|error| self.problem(line, error.to_string())).ok()
    }

    /// A scalar, as it is written. It may be empty.
    pub fn text<'n>(
        &mut self,
        line: usize,
        value: &'n Value,
        wrong: impl FnOnce(&str) -> String,
    ) -> Option<&'n str> {
        match value {
            Value::Text(text) => Some(text),
            other => self.wrong(line, other, wrong),
        }
    }

    /// The items of a list.
    pub fn list<'n>(
        &mut self,
        line: usize,
        value: &'n Value,
        wrong: impl FnOnce(&str) -> String,
    ) -> Option<&'n [Node]> {
        match value {
            Value::List(items) => Some(items),
            other => self.wrong(line, other, wrong),
        }
    }

    /// The entries of a map.
    pub fn map<'n>(
        &mut self,
        line: usize,
        value: &'n Value,
        wrong: impl FnOnce(&str) -> String,
    ) -> Option<&'n [Entry]> {
        match value {
            Value::Map(entries) => Some(entries),
            other => self.wrong(line, other, wrong),
        }
    }

    fn wrong<T>(&mut self, line: usize, value: &Value, text: impl FnOnce(&str) -> String) -> Option<T> {
        self.problem(line, text(value.kind()));
        None
    }

    /// The entry of a key that must be there. `line` is that of the map.
    pub fn required<'n>(
        &mut self,
        line: usize,
        entries: &'n [Entry],
        key: &str,
        missing: impl Into<String>,
    ) -> Option<&'n Entry> {
        let entry = find(entries, key);
        if entry.is_none() {
            self.problem(line, missing);
        }
        entry
    }

    /// Adds a problem for each key that is not known: the text of `unknown`, and the known key that is nearest, or all
    /// of them after the words `all`. Keys that begin with `x-` belong to the author of the file.
    pub fn check_keys<'n>(
        &mut self,
        entries: impl IntoIterator<Item = &'n Entry>,
        known: &[&str],
        all: &str,
        unknown: impl Fn(&str) -> String,
    ) {
        for Entry { key, line, .. } in entries {
            if known.contains(&key.as_str()) || key.starts_with("x-") {
                continue;
            }
            let hint = match nearest(key, known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("{all} {}", known.join(", ")),
            };
            self.problem(*line, format!("{}; {hint}", unknown(key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(reader: YamlReader) -> Vec<String> {
        reader.into_problems().iter().map(Problem::to_string).collect()
    }

    fn text_of<'n>(reader: &mut YamlReader, entry: &'n Entry) -> Option<&'n str> {
        reader.text(entry.line, &entry.value.value, |kind| format!("{} is {kind}", entry.key))
    }

    #[test]
    fn values_of_the_expected_shape_are_returned() {
        let (root, mut reader) = YamlReader::parse("a: 1.10\nb: [x, ~]\nc: ''\n").unwrap();
        let entries = reader.map(root.line, &root.value, str::to_string).unwrap();
        assert_eq!(text_of(&mut reader, find(entries, "a").unwrap()), Some("1.10"));
        assert_eq!(text_of(&mut reader, find(entries, "c").unwrap()), Some(""));
        let list = &find(entries, "b").unwrap().value;
        assert_eq!(reader.list(list.line, &list.value, str::to_string).map(<[Node]>::len), Some(2));
        assert_eq!(reader.accept(2, "7".parse::<u8>()), Some(7));
        assert!(reader.required(1, entries, "a", "missing").is_some());
        assert!(find(entries, "d").is_none());
        assert_eq!(problems(reader), [""; 0]);
    }

    #[test]
    fn every_problem_is_collected_and_sorted_by_line() {
        let (root, mut reader) = YamlReader::parse("a: [x]\nb: {c: 1}\nd:\nd: 1\n").unwrap();
        let entries = reader.map(root.line, &root.value, str::to_string).unwrap();
        assert_eq!(reader.accept(9, "x".parse::<u8>()), None);
        for entry in entries.iter().rev() {
            assert_eq!(text_of(&mut reader, entry), None);
        }
        assert!(reader.required(1, entries, "e", "there is no e").is_none());
        let value = &entries[2].value.value;
        assert!(reader.list(3, value, |kind| format!("no list, {kind}")).is_none());
        assert!(reader.map(3, &entries[0].value.value, |kind| format!("no map, {kind}")).is_none());
        assert_eq!(
            problems(reader),
            [
                "1: a is a list",
                "1: there is no e",
                "2: b is a map",
                "3: d is nothing",
                "3: no list, nothing",
                "3: no map, a list",
                "4: key \"d\" is there already, on line 3; remove one of them",
                "9: invalid digit found in string",
            ]
        );
        assert_eq!(YamlReader::parse("a: 1\n---\nb: 2").unwrap_err().line, 2);
    }

    #[test]
    fn an_unknown_key_has_a_suggestion() {
        let (root, mut reader) = YamlReader::parse("image: a\nimgae: b\nx-mine: c\npush: d\n").unwrap();
        let entries = reader.map(root.line, &root.value, str::to_string).unwrap();
        reader.check_keys(entries, &["image", "tags"], "known are", |key| format!("no \"{key}\""));
        assert_eq!(
            problems(reader),
            ["2: no \"imgae\"; did you mean \"image\"?", "4: no \"push\"; known are image, tags"]
        );
    }
}
