//! Escaping of text from images, registries and file names, readable byte counts, and spelling suggestions.

use std::fmt::{self, Write};

/// Longest foreign text that is shown in full, in characters.
const MAX_SHOWN: usize = 2048;

/// Displays foreign text with all characters escaped that could control a terminal or forge a line: C0, DEL, C1, line and paragraph separators, and the bidirectional controls.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.chars().enumerate() {
            if i == MAX_SHOWN {
                return f.write_str("[...]");
            }
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_dangerous(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Returns whether it is a control character, or an invisible one that reorders or hides the text around it.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{061c}' | '\u{feff}')
}

/// Returns the same JSON value with all characters that could control a terminal written as `\uXXXX`. They occur in
/// strings only. All other bytes are unchanged.
pub fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // These are white space between values: JSON strings have no raw control character below U+0020.
        if is_dangerous(c) && !matches!(c, '\n' | '\r' | '\t') {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// Formats a count of bytes: `0 B`, `999 B`, `1.5 KiB`, `64.0 MiB`.
pub fn format_bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns the known word that was most likely meant: at most two edits away (Levenshtein distance).
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|k| (strsim::levenshtein(word, k), *k)).min()?;
    (near.0 <= 2 && near.0 < word.len()).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_keeps_its_value() {
        let check = |json: &str, expected: &str| {
            assert_eq!(escape_json(json), expected);
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(expected), value(json), "{expected}");
        };
        check("{\n\t\"a\": \"é\u{4e2d}\"\n}", "{\n\t\"a\": \"é\u{4e2d}\"\n}");
        check("\"\u{9b}31m\u{202e}x\u{7f}\u{2066}\"", "\"\\u009b31m\\u202ex\\u007f\\u2066\"");
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        let check = |text: &str, shown: &str| assert_eq!(Escaped(text).to_string(), shown);
        check("plain é", "plain é");
        check("a\x1b]0;x\x07b", "a\\u{1b}]0;x\\u{7}b");
        check("a\nb\r\t", "a\\nb\\r\\t");
        check("\u{202e}gnp.exe", "\\u{202e}gnp.exe");
        check("\u{85}\u{7f}", "\\u{85}\\u{7f}");
    }

    #[test]
    fn long_text_is_truncated() {
        assert!(Escaped(&"x".repeat(5000)).to_string().ends_with("x[...]"));
    }

    #[test]
    fn byte_counts_are_readable() {
        for (count, shown) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")] {
            assert_eq!(format_bytes(count), shown);
        }
    }
}
