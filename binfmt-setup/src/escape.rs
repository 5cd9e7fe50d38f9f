//! Text of strangers (entry names, paths, what an emulator prints) made safe for a terminal and a log.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Printable characters stay; control characters, the backslash and bytes that are not UTF-8 become `\xHH`.
pub fn escaped(text: impl AsRef<OsStr>) -> String {
    let mut safe = String::new();
    for chunk in text.as_ref().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() || is_invisible(c) {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().for_each(|byte| safe += &format!("\\x{byte:02x}"));
            } else {
                safe.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| safe += &format!("\\x{byte:02x}"));
    }
    safe
}

/// Characters that reorder or hide text: bidirectional controls, zero width, line and paragraph separators.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_move_a_cursor_is_shown_as_its_bytes() {
        for (raw, shown) in [
            (&b"qemu-arm"[..], "qemu-arm"),
            (b"a\nb", "a\\x0ab"),
            (b"\x1b[31mred", "\\x1b[31mred"),
            (b"a\\x0a", "a\\x5cx0a"),
            (b"\xff/bin", "\\xff/bin"),
            ("grün".as_bytes(), "grün"),
            ("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb"),
        ] {
            assert_eq!(escaped(OsStr::from_bytes(raw)), shown);
        }
    }
}
