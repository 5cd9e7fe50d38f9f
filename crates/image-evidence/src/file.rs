//! The kind of one file: ELF, a script, a program of another operating system, or data.

use super::elf::sampler::{self, Sample};
use super::elf::{self, Elf, NumberFormat};
use super::shell;
use image_model::platform::Platform;
use serde::{Deserialize, Serialize};

/// Facts from a file that show its platform, or what it executes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileFacts {
    /// An ELF file.
    Elf(Elf),
    /// A script with a `#!` line.
    Script(Script),
    /// A program of Windows or macOS.
    Foreign(Platform),
    /// The file was not read, only the layer's table of contents.
    Unread,
}

/// A script that starts with `#!INTERPRETER [ARGUMENT]`. The kernel passes everything after the interpreter as one
/// argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Script {
    /// The path of the interpreter, as written.
    pub interpreter: Vec<u8>,
    /// The argument of the interpreter.
    pub argument: Option<Vec<u8>>,
    /// The command that a shell script executes at its end, if that is certain.
    pub last_command: Option<shell::ShellCommand>,
    /// Whether it executes its arguments, as `exec "$@"` does. Assumed of scripts for other interpreters than a shell.
    pub runs_arguments: bool,
}

/// BINPRM_BUF_SIZE: the kernel reads no more of a `#!` line.
const SHEBANG_MAX: usize = 256;

/// The facts from the sample of a file. `None`: it is data.
pub fn classify(sample: &Sample<'_>) -> Option<FileFacts> {
    let head = sample.head;
    match head {
        [0x7f, b'E', b'L', b'F', ..] => elf::read(sample).map(FileFacts::Elf),
        [b'#', b'!', ..] => script(head).map(FileFacts::Script),
        [b'M', b'Z', ..] => pe(head).map(FileFacts::Foreign),
        _ => mach_o(head).map(FileFacts::Foreign),
    }
}

fn script(head: &[u8]) -> Option<Script> {
    let line = &head[2..head.len().min(SHEBANG_MAX)];
    let line = line.split(|b| matches!(b, b'\n' | 0)).next()?;
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r');
    let start = line.iter().position(|b| !is_blank(b))?;
    let end = line.iter().rposition(|b| !is_blank(b))? + 1;
    let line = line.get(start..end)?;
    let cut = line.iter().position(is_blank).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at(cut);
    let argument = rest.iter().position(|b| !is_blank(b)).map(|at| rest[at..].to_vec());
    let words = argument.iter().flat_map(|argument| argument.split(u8::is_ascii_whitespace));
    let is_shell = shell::is_shell(interpreter) || words.into_iter().any(shell::is_shell);
    // The sample does not have the end of a longer script.
    let is_known = is_shell && head.len() < sampler::HEAD;
    let last_command = if is_known { shell::last_command(head) } else { None };
    let runs_arguments = !is_shell || (is_known && shell::runs_arguments(head));
    Some(Script { interpreter: interpreter.to_vec(), argument, last_command, runs_arguments })
}

/// Source: the PE format, "MS-DOS Stub" and "Machine Types".
fn pe(head: &[u8]) -> Option<Platform> {
    const N: NumberFormat = NumberFormat { is_64: false, is_big: false };
    let header = u64::from(N.u32(head, 0x3c)?);
    if N.u32(head, header)?.to_le_bytes() != *b"PE\0\0" {
        return None;
    }
    let architecture = match N.u16(head, header.checked_add(4)?)? {
        0x014c => "386",
        0x8664 => "amd64",
        0xaa64 => "arm64",
        0x01c0 | 0x01c2 | 0x01c4 => "arm",
        _ => return None,
    };
    Some(Platform::new("windows", architecture, None))
}

/// Source: mach-o/loader.h and fat.h. Of a file for several architectures, the first one counts.
fn mach_o(head: &[u8]) -> Option<Platform> {
    const LITTLE: NumberFormat = NumberFormat { is_64: false, is_big: false };
    const BIG: NumberFormat = NumberFormat { is_64: false, is_big: true };
    let cpu = match LITTLE.u32(head, 0)? {
        0xfeed_face | 0xfeed_facf => LITTLE.u32(head, 4)?,
        // A universal file, which is big-endian. Java classes have the same magic; where a universal file has the number
        // of architectures they have their version, which is 45 or more.
        0xbeba_feca if matches!(BIG.u32(head, 4)?, 1..=20) => BIG.u32(head, 8)?,
        _ => return None,
    };
    let architecture = match cpu {
        7 => "386",
        0x0100_0007 => "amd64",
        12 => "arm",
        0x0100_000c => "arm64",
        _ => return None,
    };
    Some(Platform::new("darwin", architecture, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &[u8]) -> Option<FileFacts> {
        classify(&Sample { head, ..Sample::default() })
    }

    #[test]
    fn interpreters_of_scripts_are_parsed_as_the_kernel_does() {
        let check = |line: &str, interpreter: &str, argument: Option<&str>| {
            let argument = argument.map(|a| a.as_bytes().to_vec());
            let script = Script {
                interpreter: interpreter.into(),
                argument,
                last_command: None,
                runs_arguments: !line.contains("/bin/sh"),
            };
            assert_eq!(of(line.as_bytes()), Some(FileFacts::Script(script)), "{line}");
        };
        check("#!/bin/sh\n", "/bin/sh", None);
        check("#! /bin/sh -e\necho x", "/bin/sh", Some("-e"));
        check("#!/usr/bin/env -S python3 -u\n", "/usr/bin/env", Some("-S python3 -u"));
        check("#!/bin/sh\r\n", "/bin/sh", None);
        check("#!/bin/sh", "/bin/sh", None);
        let last = |text: &str| match of(text.as_bytes()) {
            Some(FileFacts::Script(script)) => {
                script.last_command.map(|words| String::from_utf8(words.join(&b' ')).unwrap())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(last("#!/bin/bash\nexec /app -v").as_deref(), Some("/app -v"));
        assert_eq!(last("#!/usr/bin/env -S bash -e\nexec /app").as_deref(), Some("/app"));
        assert_eq!(last("#!/usr/bin/python3\n/app"), None);
        assert_eq!(last(&format!("#!/bin/sh\n#{}\n/app", "x".repeat(sampler::HEAD))), None);
        assert_eq!(of(b"#!\n"), None);
        assert_eq!(of(b"#!"), None);
    }

    #[test]
    fn programs_of_other_systems_are_detected_and_java_classes_are_not_programs() {
        let alien = |head: &[u8]| match of(head) {
            Some(FileFacts::Foreign(platform)) => platform.to_string(),
            other => format!("{other:?}"),
        };
        let mut pe = vec![0; 0x48];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x40;
        pe[0x40..0x46].copy_from_slice(b"PE\0\0\x64\x86");
        assert_eq!(alien(&pe), "windows/amd64");
        assert_eq!(alien(&pe[..0x45]), "None");
        assert_eq!(alien(b"\xcf\xfa\xed\xfe\x0c\0\0\x01"), "darwin/arm64");
        assert_eq!(alien(b"\xca\xfe\xba\xbe\0\0\0\x02\x01\0\0\x07"), "darwin/amd64");
        assert_eq!(alien(b"\xca\xfe\xba\xbe\0\0\0\x34\x01\0\0\x07"), "None");
        assert_eq!(alien(b"MZ"), "None");
        assert_eq!(alien(b""), "None");
    }
}
