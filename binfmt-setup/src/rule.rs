//! One binfmt_misc entry, in the format that the kernel reads and in the one that it prints.
//!
//! An entry is registered by one line in one `write(2)`: `:name:M:offset:magic:mask:interpreter:flags`, where the first
//! byte is the separator of the fields. It is read from one small file per entry. Source of both formats: the kernel's
//! `fs/binfmt_misc.c`, and Documentation/admin-guide/binfmt-misc.rst.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use error::Error;

/// Maximum length of a line in bytes, MAX_REGISTER_LENGTH.
pub const LINE_MAX: usize = 1920;
/// The kernel compares this many bytes at the start of a program, BINPRM_BUF_SIZE since Linux 5.1.
pub const WINDOW: usize = 256;

/// What an entry matches and which emulator it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The name of the entry.
    pub name: OsString,
    /// What it matches.
    pub kind: Kind,
    /// The path of the emulator.
    pub interpreter: PathBuf,
    /// Its flags.
    pub flags: Flags,
}

/// What an entry matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Matches the first bytes of the program.
    Magic(Pattern),
    /// Matches the extension of its name, without the dot.
    Extension(OsString),
}

/// Bytes at the start of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Offset of the first compared byte.
    pub offset: usize,
    /// The bytes to compare.
    pub magic: Vec<u8>,
    /// The bits to compare; as long as `magic`.
    pub mask: Vec<u8>,
}

impl Pattern {
    /// Whether the kernel matches a program that begins with `head`; it reads zeros after the end of a short file.
    pub fn matches(&self, head: &[u8]) -> bool {
        (self.magic.iter().zip(&self.mask).enumerate()).all(|(i, (magic, mask))| {
            let byte = head.get(self.offset + i).copied().unwrap_or(0);
            (byte ^ magic) & mask == 0
        })
    }

    /// Whether this program wrote the pattern: see [`crate::emulators::Machine::pattern`].
    pub fn is_signed(&self) -> bool {
        self.offset == 0
            && self.magic.starts_with(b"\x7fELF")
            && matches!(self.magic.get(20..24), Some([1, 0, 0, 0] | [0, 0, 0, 1]))
            && self.mask.get(20..24) == Some(&[0; 4])
    }
}

impl Rule {
    /// Whether this program registered it.
    pub fn is_ours(&self) -> bool {
        self.name.as_bytes().starts_with(b"qemu-")
            && matches!(&self.kind, Kind::Magic(pattern) if pattern.is_signed())
    }
}

/// P: the emulator gets the original `argv[0]`. O: the emulator gets the program as an open file. C: credentials are
/// those of the program (implies O). F: the kernel opens the emulator at registration, so that it is found in chroots and
/// containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// P.
    pub preserve_argv0: bool,
    /// O.
    pub open_binary: bool,
    /// C.
    pub credentials: bool,
    /// F.
    pub fix_binary: bool,
}

impl FromStr for Flags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = Self::default();
        for letter in text.chars() {
            match letter {
                'P' => flags.preserve_argv0 = true,
                'O' => flags.open_binary = true,
                // The kernel sets O with C.
                'C' => (flags.credentials, flags.open_binary) = (true, true),
                'F' => flags.fix_binary = true,
                _ => return Err(format!("unknown flag \"{letter}\": use letters of POCF")),
            }
        }
        Ok(flags)
    }
}

/// In the order in which the kernel shows them.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            ("P", self.preserve_argv0),
            ("O", self.open_binary),
            ("C", self.credentials),
            ("F", self.fix_binary),
        ];
        letters.into_iter().filter(|(_, on)| *on).try_for_each(|(letter, _)| f.write_str(letter))
    }
}

impl Rule {
    /// The line that registers this rule. Each byte of magic and mask is written as `\xHH`: a raw zero byte would end
    /// the pattern there, and the rest of it would match the host's own programs.
    ///
    /// # Errors
    /// `BadInput` for a rule that the kernel would refuse with EINVAL only, or accept with another meaning.
    pub fn line(&self) -> Result<Vec<u8>, Error> {
        let path = self.interpreter.display();
        let refused = |reason: String, hint: &str| {
            Error::bad_input(format!("register {}", self.name.display()), reason).hint(hint)
        };
        if !is_safe_name(&self.name) {
            return Err(refused(
                "invalid name".into(),
                "use 1 to 255 characters, no \"/\" and no control character, and neither \".\", \"..\", \"register\" nor \
                 \"status\"",
            ));
        }
        let interpreter = self.interpreter.as_os_str().as_bytes();
        if !self.interpreter.is_absolute() {
            return Err(refused(
                format!("the emulator's path \"{path}\" is relative"),
                "use an absolute path",
            ));
        }
        if interpreter.iter().any(u8::is_ascii_control) {
            let why =
                format!("the emulator's path \"{path}\" has a control character, which would forge lines");
            return Err(refused(why, "move the emulator"));
        }
        let [kind, offset, magic, mask] = self.kind.fields().ok_or_else(|| {
            refused(
                "invalid pattern".into(),
                "use a mask of the same length that is not zero, and end before byte 256",
            )
        })?;
        let flags = self.flags.to_string();
        let fields: [&[u8]; 7] =
            [self.name.as_bytes(), &kind, &offset, &magic, &mask, interpreter, flags.as_bytes()];
        // Not the backslash, nor anything that the offset, the flags or an escape are written with; and neither "#"
        // nor ";", with which a line of binfmt.d(5) would be a comment.
        let separator = b":|,!@%^~=+?&*$"
            .iter()
            .find(|separator| fields.iter().all(|field| !field.contains(separator)))
            .ok_or_else(|| {
                refused(
                    format!("no separator is left: all occur in the name or in \"{path}\""),
                    "move the emulator",
                )
            })?;
        let mut line = vec![];
        for field in fields {
            line.push(*separator);
            line.extend(field);
        }
        if line.len() > LINE_MAX {
            let why = format!("the line has {} bytes, and the kernel accepts {LINE_MAX}", line.len());
            return Err(refused(why, "use a shorter path for the emulator"));
        }
        Ok(line)
    }
}

impl Kind {
    /// The fields type, offset, magic and mask, or `None` if the kernel would refuse them.
    fn fields(&self) -> Option<[Vec<u8>; 4]> {
        match self {
            Self::Magic(Pattern { offset, magic, mask }) => {
                let fits = offset.checked_add(magic.len()).is_some_and(|end| end <= WINDOW);
                let is_empty = mask.iter().all(|byte| *byte == 0);
                if !fits || magic.len() != mask.len() || is_empty {
                    return None;
                }
                // No mask is a full mask; with one written out, a pattern of 256 bytes would not fit into a line.
                let is_full = mask.iter().all(|byte| *byte == 0xff);
                let mask = if is_full { vec![] } else { hex(mask) };
                Some([b"M".to_vec(), offset.to_string().into_bytes(), hex(magic), mask])
            }
            Self::Extension(extension) => {
                let bytes = extension.as_bytes();
                let is_valid =
                    !bytes.is_empty() && !bytes.iter().any(|byte| byte.is_ascii_control() || *byte == b'/');
                is_valid.then(|| [b"E".to_vec(), vec![], bytes.to_vec(), vec![]])
            }
        }
    }
}

/// Whether an entry can have this name, and a file of the table is meant by it.
pub fn is_safe_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    (1..=255).contains(&bytes.len())
        && !bytes.iter().any(|byte| *byte == b'/' || byte.is_ascii_control())
        && ![&b"."[..], b"..", b"register", b"status"].contains(&bytes)
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("\\x{byte:02x}").into_bytes()).collect()
}

/// An entry of the table, as its file shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it matches and starts.
    pub rule: Rule,
    /// Whether it is enabled.
    pub enabled: bool,
}

impl Entry {
    /// Reads `enabled|disabled`, `interpreter PATH`, `flags: POCF`, then `extension .EXT`, or `offset N`, `magic HEX`
    /// and perhaps `mask HEX`.
    ///
    /// The kernel prints a path as it was given, line breaks included. So the lines after the path are found from the
    /// end, where the kernel's own words are; everything before is the path, forged lines included.
    ///
    /// # Errors
    /// `Local` for any other text.
    pub fn parse(name: &OsStr, text: &[u8]) -> Result<Self, Error> {
        let doing = || format!("read handler {}", name.display());
        Self::try_parse(name, text)
            .ok_or_else(|| Error::local(doing(), "the kernel shows it in an unknown form"))
    }

    fn try_parse(name: &OsStr, text: &[u8]) -> Option<Self> {
        let (enabled, rest) = match text.strip_prefix(b"enabled\n") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix(b"disabled\n")?),
        };
        let rest = rest.strip_prefix(b"interpreter ")?.strip_suffix(b"\n")?;
        let (rest, kind) = parse_magic(rest).or_else(|| parse_extension(rest))?;
        let (rest, flags) = split_last_line(rest)?;
        let flags = std::str::from_utf8(flags.strip_prefix(b"flags: ")?).ok()?.parse().ok()?;
        let interpreter = PathBuf::from(OsString::from_vec(rest.to_vec()));
        Some(Self { rule: Rule { name: name.to_owned(), kind, interpreter, flags }, enabled })
    }

    /// Whether the entry matches a program that begins with `head`, apart from being enabled.
    pub fn matches(&self, head: &[u8]) -> bool {
        matches!(&self.rule.kind, Kind::Magic(pattern) if pattern.matches(head))
    }
}

/// The entry that the kernel uses for a program that begins with `head`. `entries` are in the kernel's order.
pub fn first_match<'a>(entries: &'a [Entry], head: &[u8]) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.enabled && entry.matches(head))
}

fn parse_magic(text: &[u8]) -> Option<(&[u8], Kind)> {
    let (mut rest, mut line) = split_last_line(text)?;
    let mask = match line.strip_prefix(b"mask ") {
        Some(mask) => {
            (rest, line) = split_last_line(rest)?;
            Some(unhex(mask)?)
        }
        None => None,
    };
    let magic = unhex(line.strip_prefix(b"magic ")?)?;
    let (rest, line) = split_last_line(rest)?;
    let offset = std::str::from_utf8(line.strip_prefix(b"offset ")?).ok()?.parse().ok()?;
    let mask = mask.unwrap_or_else(|| vec![0xff; magic.len()]);
    (magic.len() == mask.len()).then_some((rest, Kind::Magic(Pattern { offset, magic, mask })))
}

fn parse_extension(text: &[u8]) -> Option<(&[u8], Kind)> {
    const WORD: &[u8] = b"\nextension .";
    let at = text.windows(WORD.len()).rposition(|window| window == WORD)?;
    let extension = OsString::from_vec(text[at + WORD.len()..].to_vec());
    Some((&text[..at], Kind::Extension(extension)))
}

/// The text before and after the last line break.
fn split_last_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().rposition(|byte| *byte == b'\n')?;
    Some((&text[..at], &text[at + 1..]))
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(digits).ok()?;
    let pairs = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;

    fn rule(name: &str, interpreter: &str) -> Rule {
        let pattern = Pattern { offset: 0, magic: vec![0x7f, 0], mask: vec![0xff, 0xfe] };
        Rule {
            name: name.into(),
            kind: Kind::Magic(pattern),
            interpreter: interpreter.into(),
            flags: "F".parse().unwrap(),
        }
    }

    #[track_caller]
    fn assert_refused(line: Result<Vec<u8>, Error>, reason: &str) {
        let error = line.unwrap_err();
        assert_eq!(error.kind, Exit::BadInput, "{error}");
        assert!(error.reason.contains(reason), "{error}");
    }

    #[test]
    fn a_line_has_seven_fields_and_escapes_every_byte() {
        let line = rule("qemu-arm", "/usr/bin/qemu-arm").line().unwrap();
        let wanted = r":qemu-arm:M:0:\x7f\x00:\xff\xfe:/usr/bin/qemu-arm:F";
        assert_eq!(String::from_utf8(line).unwrap(), wanted);
    }

    #[test]
    fn a_colon_in_the_path_changes_the_separator() {
        let line = rule("q", "/tmp/a:b|c/qemu").line().unwrap();
        assert!(line.starts_with(b",q,M,"), "{}", String::from_utf8_lossy(&line));
        assert_refused(rule("q", "/:|,!@%^~=+?&*$").line(), "no separator is left");
    }

    #[test]
    fn names_and_paths_that_could_forge_lines_are_refused() {
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "register", "status", "a\nb", "a\0b", "\x1b[2J", &long] {
            assert_refused(rule(name, "/q").line(), "invalid name");
        }
        assert!(rule(&"x".repeat(255), "/q").line().is_ok());
        assert_refused(rule("q", "/x\nflags: F").line(), "control character");
        assert_refused(rule("q", "bin/qemu").line(), "is relative");
        let path = format!("/{}", "p".repeat(LINE_MAX));
        assert_refused(rule("q", &path).line(), "and the kernel accepts 1920");
    }

    #[test]
    fn patterns_that_the_kernel_refuses_or_that_match_everything_are_refused() {
        let with = |offset, magic: &[u8], mask: &[u8]| {
            let pattern = Pattern { offset, magic: magic.to_vec(), mask: mask.to_vec() };
            Rule { kind: Kind::Magic(pattern), ..rule("q", "/q") }.line()
        };
        assert!(with(0, &[1; 256], &[255; 256]).is_ok());
        assert!(with(252, &[1; 4], &[255; 4]).is_ok());
        for (offset, magic, mask) in [
            (0, &[1u8; 257][..], &[255u8; 257][..]),
            (253, &[1; 4], &[255; 4]),
            (usize::MAX, &[1], &[255]),
            (0, &[1, 2], &[255]),
            (0, &[1, 2], &[0, 0]),
            (0, &[], &[]),
        ] {
            assert_refused(with(offset, magic, mask), "invalid pattern");
        }
    }

    fn parse(text: &str) -> Result<Entry, Error> {
        Entry::parse("x".as_ref(), text.as_bytes())
    }

    #[test]
    fn what_the_kernel_shows_is_read_back() {
        let entry = parse("enabled\ninterpreter /q\nflags: POCF\noffset 0\nmagic 7f00\nmask fffe\n").unwrap();
        assert_eq!(entry.rule, Rule { flags: "POCF".parse().unwrap(), ..rule("x", "/q") });
        assert!(entry.enabled);

        let entry = parse("disabled\ninterpreter /usr/bin/jar\nflags: \nextension .jar\n").unwrap();
        assert_eq!(entry.rule.kind, Kind::Extension("jar".into()));
        assert!(!entry.enabled);

        let entry = parse("enabled\ninterpreter /q\nflags: \noffset 4\nmagic 41\n").unwrap();
        assert_eq!(entry.rule.kind, Kind::Magic(Pattern { offset: 4, magic: vec![0x41], mask: vec![0xff] }));
    }

    #[test]
    fn forged_lines_in_a_path_stay_in_the_path() {
        let entry =
            parse("enabled\ninterpreter /x\nflags: F\noffset 0\nmagic 00\nflags: \noffset 0\nmagic 7f\n")
                .unwrap();
        assert_eq!(entry.rule.interpreter.to_str(), Some("/x\nflags: F\noffset 0\nmagic 00"));
        assert!(!entry.rule.flags.fix_binary);
    }

    #[test]
    fn other_texts_are_not_entries() {
        for text in [
            "",
            "enabled\n",
            "enabled\ninterpreter /q\n",
            "on\ninterpreter /q\nflags: \nmagic 7f\n",
            "enabled\ninterpreter /q\nflags: Z\noffset 0\nmagic 7f\n",
            "enabled\ninterpreter /q\nflags: \noffset 0\nmagic 7\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn flags_are_shown_in_the_kernels_order() {
        for (typed, shown) in
            [("F", "F"), ("FP", "PF"), ("C", "OC"), ("", ""), ("FFF", "F"), ("FCOP", "POCF")]
        {
            assert_eq!(typed.parse::<Flags>().unwrap().to_string(), shown);
        }
        for typed in ["f", "X", "F ", "F:"] {
            assert!(typed.parse::<Flags>().is_err());
        }
    }

    #[test]
    fn a_pattern_is_compared_as_the_kernel_compares() {
        let pattern = Pattern { offset: 1, magic: vec![0xab, 2], mask: vec![0xff, 0xfe] };
        assert!(pattern.matches(&[0, 0xab, 3]));
        assert!(!pattern.matches(&[0xab, 3, 0]));
        assert!(!pattern.matches(&[0, 0xab, 4]));
        // After the end of a short file the kernel reads zeros.
        assert!(!pattern.matches(&[0, 0xab]));
    }
}
