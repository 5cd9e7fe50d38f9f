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
    /// A WebAssembly module or component, which some container runtimes execute; no kernel does.
    WebAssembly(Platform),
    /// The file was not read, only the layer's table of contents.
    Unread,
    /// An executable file that is none of these. Other data has no facts.
    Data(DataKind),
}

/// The kind of a file that the kernel cannot execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// It has no bytes.
    Empty,
    /// Text without a `#!` line.
    Text,
    /// A `#!` line after a byte order mark.
    ByteOrderMark,
    /// A `#!` line without an interpreter.
    NoInterpreter,
    /// A Java class file.
    JavaClass,
    /// A zip archive, such as a jar.
    Zip,
    /// A program of DOS, or one of Windows without machine code.
    Dos,
    /// An ELF file that ends in its header.
    TruncatedElf,
    /// Anything else.
    Other,
}

impl DataKind {
    /// The kind in words, after "it is".
    pub fn text(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Text => "text without a #! line",
            Self::ByteOrderMark => "a script with a byte order mark before #!",
            Self::NoInterpreter => "a script with an empty #! line",
            Self::JavaClass => "a Java class",
            Self::Zip => "a zip archive",
            Self::Dos => "a program for DOS or .NET",
            Self::TruncatedElf => "a truncated ELF file",
            Self::Other => "data",
        }
    }
}

/// The kind of a file of which [`classify`] returned `None`. `None`: the kernel, or the runtime of another kind of
/// container, may execute it.
pub fn data_kind(sample: &Sample<'_>) -> Option<DataKind> {
    let head = sample.head;
    Some(match head {
        [] => DataKind::Empty,
        [0x7f, b'E', b'L', b'F', rest @ ..] => match rest {
            // The kernel ignores word size and byte order. The number of program headers is near the end of the header.
            [1, 1 | 2, ..] if head.len() < 46 => DataKind::TruncatedElf,
            [2, 1 | 2, ..] if head.len() < 58 => DataKind::TruncatedElf,
            _ if head.len() < 16 => DataKind::TruncatedElf,
            _ => return None,
        },
        [b'#', b'!', ..] => DataKind::NoInterpreter,
        [0xef, 0xbb, 0xbf, b'#', b'!', ..] => DataKind::ByteOrderMark,
        [b'M', b'Z', ..] => DataKind::Dos,
        [b'P', b'K', 3, 4, ..] => DataKind::Zip,
        [0xca, 0xfe, 0xba, 0xbe, ..] => DataKind::JavaClass,
        _ if head.iter().all(|byte| matches!(byte, 9..=13 | 27 | 32..)) => DataKind::Text,
        _ => DataKind::Other,
    })
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
    /// The words that a shell script puts before arguments that begin with an option.
    pub option_arguments: Option<shell::ShellCommand>,
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
        [b'M', b'Z', b'q', b'F', b'p', b'D', b'=', ..] => Some(FileFacts::Script(portable())),
        [0, b'a', b's', b'm', ..] => Some(FileFacts::WebAssembly(Platform::new("wasi", "wasm", None))),
        [b'M', b'Z', ..] => pe(head).map(FileFacts::Foreign),
        _ => mach_o(head).map(FileFacts::Foreign),
    }
}

fn script(head: &[u8]) -> Option<Script> {
    let line = &head[2..head.len().min(SHEBANG_MAX)];
    let line = line.split(|b| matches!(b, b'\n' | 0)).next()?;
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = line.iter().position(|b| !is_blank(b))?;
    let end = line.iter().rposition(|b| !is_blank(b))? + 1;
    let line = line.get(start..end)?;
    let cut = line.iter().position(is_blank).unwrap_or(line.len());
    let (interpreter, rest) = line.split_at(cut);
    let argument = rest.iter().position(|b| !is_blank(b)).map(|at| rest[at..].to_vec());
    let words = argument.iter().flat_map(|argument| argument.split(u8::is_ascii_whitespace));
    let is_shell = shell::is_shell(interpreter.trim_ascii_end()) || words.into_iter().any(shell::is_shell);
    // The sample does not have the end of a longer script.
    let is_known = is_shell && head.len() < sampler::HEAD;
    let last_command = if is_known { shell::last_command(head) } else { None };
    let runs_arguments = !is_shell || (is_known && shell::runs_arguments(head));
    let option_arguments = if is_known { shell::option_arguments(head) } else { None };
    let interpreter = interpreter.to_vec();
    Some(Script { interpreter, argument, last_command, option_arguments, runs_arguments })
}

/// An actually portable executable: a shell script that starts the program for the host's machine, in a file that is a
/// Windows program too. Source: cosmopolitan's ape/specification.md, "MZqFpD".
fn portable() -> Script {
    Script {
        interpreter: b"/bin/sh".to_vec(),
        argument: None,
        last_command: None,
        option_arguments: None,
        runs_arguments: false,
    }
}

/// Returns whether a PE file has no machine code: a .NET assembly in intermediate language, which every machine runs.
/// Source: ECMA-335, II.25.2.3.3 "CLI header", II.25.3.3.1 "Runtime flags"; a ReadyToRun image has no ILONLY flag.
fn is_managed(head: &[u8], header: u64) -> Option<bool> {
    const N: NumberFormat = NumberFormat { is_64: false, is_big: false };
    const CLI_HEADER: u64 = 14;
    let (sections, optional_size) = (N.u16(head, header + 6)?, N.u16(head, header + 20)?);
    let optional = header + 24;
    let directories = optional + if N.u16(head, optional)? == 0x20b { 112 } else { 96 };
    if u64::from(N.u32(head, directories - 4)?) <= CLI_HEADER {
        return Some(false);
    }
    let address = N.u32(head, directories + 8 * CLI_HEADER)?;
    let flags = (0..u64::from(sections)).find_map(|number| {
        let section = optional + u64::from(optional_size) + 40 * number;
        let offset = address.checked_sub(N.u32(head, section + 12)?)?;
        let is_inside = offset < N.u32(head, section + 16)?;
        let start = u64::from(N.u32(head, section + 20)?) + u64::from(offset);
        if is_inside { N.u32(head, start + 16) } else { None }
    })?;
    let has = |flag: u32| flags & flag != 0;
    let (il_only, requires_32_bit, prefers_32_bit) = (has(1), has(2), has(0x2_0000));
    Some(il_only && (prefers_32_bit || !requires_32_bit))
}

/// Source: the PE format, "MS-DOS Stub" and "Machine Types".
fn pe(head: &[u8]) -> Option<Platform> {
    const N: NumberFormat = NumberFormat { is_64: false, is_big: false };
    let header = u64::from(N.u32(head, 0x3c)?);
    if N.u32(head, header)?.to_le_bytes() != *b"PE\0\0" {
        return None;
    }
    if is_managed(head, header) == Some(true) {
        return None;
    }
    let architecture = match N.u16(head, header.checked_add(4)?)? {
        0x014c => "386",
        0x8664 => "amd64",
        // ARM64, ARM64EC, ARM64X. Linked ARM64EC programs have the number of amd64, with a mark far behind the head.
        0xaa64 | 0xa641 | 0xa64e => "arm64",
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
                option_arguments: None,
                runs_arguments: !line.contains("/bin/sh"),
            };
            assert_eq!(of(line.as_bytes()), Some(FileFacts::Script(script)), "{line}");
        };
        check("#!/bin/sh\n", "/bin/sh", None);
        check("#! /bin/sh -e\necho x", "/bin/sh", Some("-e"));
        check("#!/usr/bin/env -S python3 -u\n", "/usr/bin/env", Some("-S python3 -u"));
        // To the kernel, a carriage return is a part of the name.
        check("#!/bin/sh\r\n", "/bin/sh\r", None);
        check("#!/bin/sh -e\r\n", "/bin/sh", Some("-e\r"));
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
        assert_eq!(of(b"#! \t\n/bin/sh"), None);
    }

    #[test]
    fn data_that_the_kernel_refuses_has_a_kind() {
        let check = |head: &[u8], kind: Option<DataKind>| {
            assert_eq!(of(head), None, "{head:?}");
            assert_eq!(data_kind(&Sample { head, ..Sample::default() }), kind, "{head:?}");
        };
        check(b"", Some(DataKind::Empty));
        check(b"echo hello\r\n", Some(DataKind::Text));
        check("# gr\u{fc}n\n".as_bytes(), Some(DataKind::Text));
        check(b"\xef\xbb\xbf#!/bin/sh\n", Some(DataKind::ByteOrderMark));
        check(b"#! \n", Some(DataKind::NoInterpreter));
        check(b"\xca\xfe\xba\xbe\0\0\0\x34", Some(DataKind::JavaClass));
        check(b"PK\x03\x04\x14", Some(DataKind::Zip));
        check(b"MZ\0", Some(DataKind::Dos));
        check(b"\x7fELF\x02\x01\x01", Some(DataKind::TruncatedElf));
        check(b"\0\x01\x02", Some(DataKind::Other));
        assert!(matches!(of(b"\0asm\x01\0\0\0"), Some(FileFacts::WebAssembly(_))));
        // A kernel does not look at the word size.
        check(&[b"\x7fELF\x09\x01".as_slice(), &[0; 60]].concat(), None);
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

    #[test]
    fn a_portable_executable_is_a_script_for_the_shell() {
        let mut file = b"MZqFpD='\n".to_vec();
        file.resize(0x48, 0);
        file[0x3c] = 0x40;
        file[0x40..0x46].copy_from_slice(b"PE\0\0\x64\x86");
        assert_eq!(of(&file), Some(FileFacts::Script(portable())));
    }

    /// Returns a PE file with one section and this CLI header flags, at file offset 0x208 as compilers write it.
    fn assembly(machine: u16, flags: u32) -> Vec<u8> {
        let (is_64, mut file) = (machine != 0x14c, vec![0; 0x300]);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[0x80]);
        put(0x80, b"PE\0\0");
        put(0x84, &machine.to_le_bytes());
        put(0x86, &[1]);
        let (size, directories) = if is_64 { (240_u16, 112) } else { (224, 96) };
        put(0x94, &size.to_le_bytes());
        put(0x98, if is_64 { &[0x0b, 2] } else { &[0x0b, 1] });
        put(0x98 + directories - 4, &[16]);
        put(0x98 + directories + 8 * 14, &[0x08, 0x20, 0, 0, 72]);
        let section = 0x98 + usize::from(size);
        put(section + 12, &[0, 0x20]);
        put(section + 16, &[0, 2]);
        put(section + 20, &[0, 2]);
        put(0x208 + 16, &flags.to_le_bytes());
        file
    }

    #[test]
    fn net_assemblies_in_intermediate_language_have_no_machine() {
        let check = |machine: u16, flags: u32, found: Option<&str>| {
            let platform = found.map(|name| FileFacts::Foreign(Platform::new("windows", name, None)));
            assert_eq!(of(&assembly(machine, flags)), platform, "{machine:#x} {flags:#x}");
        };
        check(0x14c, 1, None);
        check(0x8664, 9, None);
        check(0x14c, 0x2_0003, None);
        check(0x14c, 3, Some("386"));
        // ReadyToRun has machine code.
        check(0x8664, 4, Some("amd64"));
        check(0xaa64, 0, Some("arm64"));
        let mut native = assembly(0x14c, 1);
        native[0x98 + 96 + 8 * 14] = 0;
        native[0x98 + 96 + 8 * 14 + 1] = 0;
        assert!(of(&native).is_some());
        let whole = assembly(0x14c, 1);
        for end in 0..whole.len() {
            of(&whole[..end]);
        }
    }
}
