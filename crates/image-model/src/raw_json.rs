//! JSON edited by byte ranges, so that all other bytes are preserved.
//!
//! JSON libraries do not write what they read: numbers, escapes, spacing, key order and duplicates change. Therefore
//! `serde_json` checks the grammar of a document, [`JsonObject`] finds the byte ranges of values, and [`Splice`] replaces
//! byte ranges.

use serde::de::IgnoredAny;
use std::ops::Range;

/// Why a document cannot be read or edited.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("not JSON: {0}")]
    /// serde_json's reason.
    Syntax(String),
    #[error("{0} is not a JSON object")]
    /// Another kind of value; the text names it.
    NotAnObject(String),
    #[error("key \"{0}\" occurs more than once; readers disagree on which one counts")]
    /// A key that occurs twice.
    Duplicate(String),
    #[error(
        "key \"{found}\" differs from \"{wanted}\" only in case or escapes; Go reads it as \"{wanted}\", others do not"
    )]
    /// A key that only some readers take for another.
    CaseVariant {
        /// The key in the document.
        found: String,
        /// The key that Go reads.
        wanted: String,
    },
}

/// A member of an object, as byte ranges of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonMember {
    /// The key with its escapes resolved.
    pub key: String,
    /// The key's bytes, quotes included.
    pub key_at: Range<usize>,
    /// The value's bytes.
    pub value_at: Range<usize>,
}

/// A JSON object: its members in document order, duplicates included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonObject {
    /// The object's bytes, braces included.
    pub at: Range<usize>,
    /// In document order.
    pub members: Vec<JsonMember>,
}

/// Checks that the whole input is one JSON value and nothing else. A byte order mark is refused.
///
/// # Errors
/// [`JsonError::Syntax`].
pub fn check_syntax(input: &[u8]) -> Result<(), JsonError> {
    serde_json::from_slice::<IgnoredAny>(input).map(drop).map_err(|e| JsonError::Syntax(e.to_string()))
}

impl JsonObject {
    /// Parses a document that is an object.
    ///
    /// # Errors
    /// [`JsonError::Syntax`], or [`JsonError::NotAnObject`] for another value.
    pub fn parse(input: &[u8]) -> Result<Self, JsonError> {
        check_syntax(input)?;
        let start = skip_space(input, 0);
        Self::read(input, start).ok_or_else(|| JsonError::NotAnObject("the document".into()))
    }

    /// Parses an object inside a document that [`check_syntax`] accepted. `what` names it in the error.
    ///
    /// # Errors
    /// [`JsonError::NotAnObject`] for another value.
    pub fn parse_at(input: &[u8], value_at: &Range<usize>, what: &str) -> Result<Self, JsonError> {
        Self::read(input, value_at.start).ok_or_else(|| JsonError::NotAnObject(format!("\"{what}\"")))
    }

    /// Returns `None` if no object starts here. The input must be valid JSON.
    fn read(input: &[u8], start: usize) -> Option<Self> {
        if input.get(start) != Some(&b'{') {
            return None;
        }
        let mut members = Vec::new();
        let mut i = skip_space(input, start + 1);
        while input.get(i).is_some_and(|b| *b == b'"') {
            let key_end = value_end(input, i);
            let colon = skip_space(input, key_end);
            let value_start = skip_space(input, colon + 1);
            let end = value_end(input, value_start);
            let key = serde_json::from_slice(&input[i..key_end]).unwrap_or_else(|_| {
                // A lone surrogate: valid to the scanner, no string to Rust. Such a key is none we know.
                String::from_utf8_lossy(&input[i..key_end]).into_owned()
            });
            members.push(JsonMember { key, key_at: i..key_end, value_at: value_start..end });
            i = skip_space(input, end);
            if input.get(i) == Some(&b',') {
                i = skip_space(input, i + 1);
            }
        }
        Some(Self { at: start..i + 1, members })
    }

    /// Returns the member with this key, if there is one.
    ///
    /// # Errors
    /// If readers may disagree: the key occurs twice, in another case (Go's encoding/json folds case and lets the last
    /// one win), or is written with escapes.
    pub fn unique(&self, input: &[u8], key: &str) -> Result<Option<&JsonMember>, JsonError> {
        let mut found = None;
        for member in &self.members {
            if member.key != key {
                if folds_to(&member.key, key) {
                    return Err(JsonError::CaseVariant { found: member.key.clone(), wanted: key.into() });
                }
                continue;
            }
            if found.is_some() {
                return Err(JsonError::Duplicate(key.into()));
            }
            if input[member.key_at.start + 1..member.key_at.end - 1] != *key.as_bytes() {
                let found =
                    String::from_utf8_lossy(&input[member.key_at.clone()]).trim_matches('"').to_string();
                return Err(JsonError::CaseVariant { found, wanted: key.into() });
            }
            found = Some(member);
        }
        Ok(found)
    }

    /// Returns whether the keys are sorted, as Docker and `BuildKit` write configs.
    pub fn is_sorted(&self) -> bool {
        self.members.len() > 1 && self.members.is_sorted_by(|a, b| a.key < b.key)
    }
}

/// Returns whether Go's encoding/json reads `found` as `wanted`: it folds ASCII case, U+017F to s, and U+212A to k.
fn folds_to(found: &str, wanted: &str) -> bool {
    let fold = |text: &str| -> String {
        let plain = |c: char| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        };
        text.chars().map(plain).collect()
    };
    fold(found) == fold(wanted)
}

fn skip_space(input: &[u8], mut i: usize) -> usize {
    while input.get(i).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
        i += 1;
    }
    i
}

/// Returns the end of the value that starts at `i`. The input must be valid JSON.
fn value_end(input: &[u8], mut i: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(byte) = input.get(i) {
        match byte {
            b'"' => i = string_end(input, i),
            b'{' | b'[' => {
                depth += 1;
                i += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                i += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {
                i += 1;
                continue;
            }
            _ => {
                while input.get(i).is_some_and(|b| !b" \t\r\n,]}".contains(b)) {
                    i += 1;
                }
            }
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn string_end(input: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while let Some(byte) = input.get(i) {
        match byte {
            b'"' => return i + 1,
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    i
}

/// Returns the byte ranges of the elements of an array.
///
/// # Errors
/// [`JsonError::NotAnObject`] if the value is not an array.
pub fn elements(input: &[u8], value_at: &Range<usize>, what: &str) -> Result<Vec<Range<usize>>, JsonError> {
    if input.get(value_at.start) != Some(&b'[') {
        return Err(JsonError::NotAnObject(format!("\"{what}\"")));
    }
    let mut out = Vec::new();
    let mut i = skip_space(input, value_at.start + 1);
    while i + 1 < value_at.end {
        let end = value_end(input, i);
        out.push(i..end);
        i = skip_space(input, end);
        if input.get(i) == Some(&b',') {
            i = skip_space(input, i + 1);
        }
    }
    Ok(out)
}

/// Replacements of byte ranges, applied all at once. Ranges must not overlap; an empty range inserts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splice(Vec<(Range<usize>, Vec<u8>)>);

impl Splice {
    /// Replaces these bytes.
    pub fn replace(&mut self, at: Range<usize>, with: impl Into<Vec<u8>>) {
        self.0.push((at, with.into()));
    }

    /// Returns whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the value of `key` in `object`: replaces it, or inserts a member after the first existing key of `after`, or
    /// else as the first member. Spacing follows the neighbors.
    ///
    /// # Errors
    /// As [`JsonObject::unique`], for `key` and for the keys of `after`.
    pub fn set(
        &mut self,
        input: &[u8],
        object: &JsonObject,
        key: &str,
        value: &str,
        after: &[&str],
    ) -> Result<(), JsonError> {
        if let Some(member) = object.unique(input, key)? {
            self.replace(member.value_at.clone(), value);
            return Ok(());
        }
        let mut anchor = None;
        for name in after {
            anchor = anchor.or(object.unique(input, name)?);
        }
        self.insert(input, object, key, value, anchor)
    }

    /// Sets the value of `key` in an object whose keys are sorted, and keeps them sorted.
    ///
    /// # Errors
    /// As [`JsonObject::unique`].
    pub(crate) fn set_sorted(
        &mut self,
        input: &[u8],
        object: &JsonObject,
        key: &str,
        value: &str,
    ) -> Result<(), JsonError> {
        if let Some(member) = object.unique(input, key)? {
            self.replace(member.value_at.clone(), value);
            return Ok(());
        }
        let anchor = object.members.iter().rfind(|member| member.key.as_str() < key);
        self.insert(input, object, key, value, anchor)
    }

    fn insert(
        &mut self,
        input: &[u8],
        object: &JsonObject,
        key: &str,
        value: &str,
        anchor: Option<&JsonMember>,
    ) -> Result<(), JsonError> {
        let key = serde_json::to_string(key).map_err(|e| JsonError::Syntax(e.to_string()))?;
        let Some(first) = object.members.first() else {
            let inside = object.at.start + 1;
            let comma = if self.0.iter().any(|(at, _)| at.start == inside) { "," } else { "" };
            self.replace(inside..inside, format!("{comma}{key}:{value}"));
            return Ok(());
        };
        // The spacing of this document is that between "{" and the first key, and around its colon.
        let lead = String::from_utf8_lossy(&input[object.at.start + 1..first.key_at.start]).into_owned();
        let colon = String::from_utf8_lossy(&input[first.key_at.end..first.value_at.start]).into_owned();
        match anchor {
            Some(member) => {
                let at = member.value_at.end;
                self.replace(at..at, format!(",{lead}{key}{colon}{value}"));
            }
            None => {
                let at = object.at.start + 1;
                self.replace(at..at, format!("{lead}{key}{colon}{value},"));
            }
        }
        Ok(())
    }

    /// Takes the member `key` away, with one comma. Nothing happens if it is not there.
    ///
    /// # Errors
    /// As [`JsonObject::unique`].
    pub fn remove(&mut self, input: &[u8], object: &JsonObject, key: &str) -> Result<(), JsonError> {
        let Some(member) = object.unique(input, key)? else { return Ok(()) };
        let index = object.members.iter().position(|m| m.key_at == member.key_at).unwrap_or(0);
        let at = match (index.checked_sub(1).map(|i| &object.members[i]), object.members.get(index + 1)) {
            (Some(previous), _) => previous.value_at.end..member.value_at.end,
            (None, Some(next)) => member.key_at.start..next.key_at.start,
            (None, None) => member.key_at.start..member.value_at.end,
        };
        self.replace(at, Vec::new());
        Ok(())
    }

    /// The document with all replacements made.
    pub fn apply(mut self, input: &[u8]) -> Vec<u8> {
        // Stable: insertions at one place keep the order in which they were asked for.
        self.0.sort_by_key(|(at, _)| (at.start, at.end));
        let mut out = Vec::with_capacity(input.len() + 64);
        let mut done = 0;
        for (at, with) in self.0 {
            out.extend_from_slice(&input[done..at.start.max(done)]);
            out.extend_from_slice(&with);
            done = at.end.max(done);
        }
        out.extend_from_slice(&input[done..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(input: &str, key: &str, value: &str, after: &[&str]) -> Result<String, JsonError> {
        let object = JsonObject::parse(input.as_bytes())?;
        let mut splice = Splice::default();
        splice.set(input.as_bytes(), &object, key, value, after)?;
        Ok(String::from_utf8(splice.apply(input.as_bytes())).unwrap())
    }

    #[test]
    fn only_the_value_changes() {
        let check = |input: &str, output: &str| assert_eq!(set(input, "a", "\"X\"", &[]).unwrap(), output);
        check(r#"{"a":"b"}"#, r#"{"a":"X"}"#);
        check(
            r#" { "z" : 1.50 , "a" : "b" , "u" : "\u003c" } "#,
            r#" { "z" : 1.50 , "a" : "X" , "u" : "\u003c" } "#,
        );
        check(
            r#"{"n":12345678901234567890123,"a":{"b":["}",1]},"e":1E+2}"#,
            r#"{"n":12345678901234567890123,"a":"X","e":1E+2}"#,
        );
        check(r#"{"a":null}"#, r#"{"a":"X"}"#);
    }

    #[test]
    fn a_missing_key_is_inserted_with_the_spacing_of_its_neighbors() {
        let check =
            |input: &str, output: &str| assert_eq!(set(input, "v", "1", &["b", "a"]).unwrap(), output);
        check(r#"{"a":2}"#, r#"{"a":2,"v":1}"#);
        check(r#"{"b":1,"a":2}"#, r#"{"b":1,"v":1,"a":2}"#);
        check("{\n  \"a\": 2,\n  \"c\": 3\n}", "{\n  \"a\": 2,\n  \"v\": 1,\n  \"c\": 3\n}");
        check(r#"{"c":3}"#, r#"{"v":1,"c":3}"#);
        check("{}", r#"{"v":1}"#);
    }

    #[test]
    fn a_member_is_removed_with_its_comma() {
        let check = |input: &str, output: &str| {
            let object = JsonObject::parse(input.as_bytes()).unwrap();
            let mut splice = Splice::default();
            splice.remove(input.as_bytes(), &object, "v").unwrap();
            assert_eq!(String::from_utf8(splice.apply(input.as_bytes())).unwrap(), output);
        };
        check(r#"{"a":1,"v":2,"c":3}"#, r#"{"a":1,"c":3}"#);
        check(r#"{"v":2,"c":3}"#, r#"{"c":3}"#);
        check(r#"{"a":1,"v":2}"#, r#"{"a":1}"#);
        check(r#"{"v":2}"#, "{}");
        check(r#"{"a":1}"#, r#"{"a":1}"#);
    }

    #[test]
    fn ambiguous_keys_are_refused() {
        let check = |input: &str| set(input, "os", "1", &[]).unwrap_err().to_string();
        assert!(check(r#"{"os":1,"os":2}"#).contains("more than once"));
        assert!(check(r#"{"OS":1}"#).contains("differs from"));
        assert!(check(r#"{"o\u0073":1}"#).contains("differs from"));
        assert!(check("{\"o\u{17f}\":1}").contains("differs from"));
        assert!(check("[1]").contains("not a JSON object"));
        assert!(check("{\"a\":1} x").contains("not JSON"));
        assert!(check("\u{feff}{}").contains("not JSON"));
    }

    #[test]
    fn deep_nesting_is_refused_without_a_stack_overflow() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        // serde_json walks ignored values without recursion; either answer is fine, a crash is not.
        let _ = set(&deep, "b", "1", &[]);
    }

    proptest::proptest! {
        /// Every byte outside the value is preserved.
        #[test]
        fn bytes_outside_the_value_are_preserved(
            before in "( |\\n|\\t){0,3}", key in "[b-z]{1,4}", number in "-?[1-9][0-9]{0,30}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
            text in "[ -!#-\\[\\]-~é]{0,9}(\\\\u00[0-9a-f]{2})?", old in "\"[a-z0-9]{0,8}\"",
        ) {
            let head = format!("{{{before}\"{key}\":{before}{number},{before}\"t\":\"{text}\",\"a\":{before}");
            let tail = format!("{before},\"{key}2\":[{number},{{\"a\":\"{text}\"}}]}}");
            let done = set(&format!("{head}{old}{tail}"), "a", "\"new\"", &[]).unwrap();
            proptest::prop_assert_eq!(done, format!("{head}\"new\"{tail}"));
        }
    }
}
