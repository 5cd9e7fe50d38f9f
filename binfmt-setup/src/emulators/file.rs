//! One emulator file: what it is, and whether the kernel may be given it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Machine;
use crate::elf::{self, Header, Ident};
use crate::escape::escaped;
use crate::exit::Exit;
use crate::rule::Flags;

/// What is on disk; nothing is judged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorFile {
    /// As it was named: the kernel keeps this text.
    pub path: PathBuf,
    /// Where it really lies, behind all symbolic links.
    pub real_path: PathBuf,
    pub device: u64,
    pub inode: u64,
    pub content: Content,
    pub may_execute: bool,
    /// The file or a folder above it that somebody other than its owner can write.
    pub writable_by_others: Option<PathBuf>,
    /// The file or a folder above it that does not belong to root.
    pub not_of_root: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Elf(Header),
    Script,
    Empty,
    Other,
    NotAFile,
}

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "the emulator's path \"{0}\" is relative, and the kernel keeps the text: give it from the root on"
    )]
    Relative(String),
    #[error("no emulator at {0}: install qemu-user-static, or name the right place")]
    Missing(String),
    #[error("cannot read the emulator {path}: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{0} is not an executable file: chmod +x it, or name another emulator")]
    NotExecutable(String),
    #[error("{path} cannot be an emulator: it is {what}: name the QEMU binary itself")]
    NotAnEmulator { path: String, what: &'static str },
    #[error("{0} is built for another machine than this one: get the build for this CPU")]
    OtherMachine(String),
    #[error("{path} emulates {emulates}, not {wanted}: programs of {wanted} would not start")]
    OtherTarget { path: String, emulates: String, wanted: &'static str },
    #[error("{0} can be written by others, who could so run anything in everybody's name: chmod go-w it")]
    Writable(String),
    #[error(
        "flag C gives root's rights to the emulator, and {0} does not belong to root: chown it, or do without C"
    )]
    NotOfRoot(String),
}

impl FileError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Missing(_) => Exit::NotFound,
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::Unreadable { .. } => Exit::Io,
            Self::NotExecutable(_) | Self::Writable(_) | Self::NotOfRoot(_) => Exit::NotPermitted,
            Self::Relative(_)
            | Self::NotAnEmulator { .. }
            | Self::OtherMachine(_)
            | Self::OtherTarget { .. } => Exit::BadInput,
        }
    }
}

pub fn read(path: &Path) -> Result<EmulatorFile, FileError> {
    let shown = || escaped(path);
    if !path.is_absolute() {
        return Err(FileError::Relative(shown()));
    }
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing(shown()),
        _ => FileError::Unreadable { path: shown(), source },
    };
    let real_path = path.canonicalize().map_err(unreadable)?;
    let found = std::fs::metadata(&real_path).map_err(unreadable)?;
    let content = if found.is_file() { content(&real_path).map_err(unreadable)? } else { Content::NotAFile };
    Ok(EmulatorFile {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
        content,
        may_execute: found.permissions().mode() & 0o111 != 0,
        writable_by_others: first_above(&real_path, is_writable_by_others),
        not_of_root: first_above(&real_path, |found| found.uid() != 0),
        real_path,
    })
}

fn content(path: &Path) -> io::Result<Content> {
    let mut head = vec![];
    File::open(path)?.take(4096).read_to_end(&mut head)?;
    Ok(match elf::parse(&head) {
        Some(header) => Content::Elf(header),
        None if head.is_empty() => Content::Empty,
        None if head.starts_with(b"#!") => Content::Script,
        None => Content::Other,
    })
}

/// The path itself, or the lowest folder above it, of which `is` holds.
fn first_above(path: &Path, is: impl Fn(&std::fs::Metadata) -> bool) -> Option<PathBuf> {
    path.ancestors().find(|step| std::fs::metadata(step).is_ok_and(|found| is(&found))).map(Path::to_owned)
}

fn is_writable_by_others(found: &std::fs::Metadata) -> bool {
    let mode = found.permissions().mode();
    // In a folder like /tmp (sticky) only the owner can replace a file.
    let is_sticky_folder = found.is_dir() && mode & 0o1000 != 0;
    let by_anybody = mode & 0o002 != 0;
    // Group root is root's own; any other group is other people.
    let by_group = mode & 0o020 != 0 && found.gid() != 0 && found.gid() != found.uid();
    (by_anybody || by_group) && !is_sticky_folder
}

/// Refuses what the kernel would refuse with a bare number, and what it would take though it cannot work.
pub fn check(file: &EmulatorFile, own: Option<Ident>, credentials: bool) -> Result<(), FileError> {
    let path = escaped(&file.path);
    let no_emulator = |what| Err(FileError::NotAnEmulator { path: path.clone(), what });
    let header = match file.content {
        Content::NotAFile => return no_emulator("no file"),
        Content::Empty => return no_emulator("an empty file"),
        Content::Script => return no_emulator("a script, which itself needs an interpreter"),
        Content::Other => return no_emulator("no ELF program"),
        Content::Elf(header) => header,
    };
    if !file.may_execute {
        return Err(FileError::NotExecutable(path));
    }
    if own.is_some_and(|own| own != header.ident) {
        return Err(FileError::OtherMachine(path));
    }
    if let Some(writable) = &file.writable_by_others {
        return Err(FileError::Writable(escaped(writable)));
    }
    if let Some(not_of_root) = file.not_of_root.as_ref().filter(|_| credentials) {
        return Err(FileError::NotOfRoot(escaped(not_of_root)));
    }
    Ok(())
}

/// What the emulator says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `aarch64` of `qemu-aarch64 version 7.2.22 (Debian ...)`.
    pub emulates: String,
    pub number: (u32, u32),
}

impl Version {
    /// `None`: not QEMU, of which nothing is known then.
    pub fn parse(line: &str) -> Option<Self> {
        let (emulates, rest) = line.strip_prefix("qemu-")?.split_once(" version ")?;
        Some(Self { emulates: emulates.to_owned(), number: crate::facts::parse_version(rest)? })
    }
}

pub fn check_version(
    file: &EmulatorFile,
    version: &Version,
    machine: &'static Machine,
) -> Result<(), FileError> {
    if version.emulates == machine.qemu {
        return Ok(());
    }
    Err(FileError::OtherTarget {
        path: escaped(&file.path),
        emulates: escaped(&version.emulates),
        wanted: machine.name,
    })
}

/// F always: chroots and containers need it. P, where both sides understand it, so that programs see the `argv[0]` that
/// they were started with.
pub fn default_flags(file: &EmulatorFile, version: Option<&Version>, kernel: (u32, u32)) -> Flags {
    // Debian's builds under this name take one argument too many without P.
    let named_for_p = file.path.as_os_str().to_string_lossy().ends_with("-binfmt-P");
    // QEMU reads the flag from AT_FLAGS since 6.0, and Linux writes it there since 5.12.
    let understands_p = kernel >= (5, 12) && version.is_some_and(|version| version.number >= (6, 0));
    Flags { fix_binary: true, preserve_argv0: named_for_p || understands_p, ..Flags::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{Class, Data};

    const X86_64: Ident = Ident { class: Class::Bits64, data: Data::Little, machine: 62 };
    const ARM64: Ident = Ident { machine: 183, ..X86_64 };

    fn good() -> EmulatorFile {
        EmulatorFile {
            path: "/usr/bin/qemu-arm".into(),
            real_path: "/usr/bin/qemu-arm".into(),
            device: 1,
            inode: 2,
            content: Content::Elf(Header { ident: X86_64, dynamic: false }),
            may_execute: true,
            writable_by_others: None,
            not_of_root: None,
        }
    }

    #[test]
    fn each_way_to_be_no_emulator_is_told_apart() {
        let check = |file: EmulatorFile, credentials| {
            check(&file, Some(X86_64), credentials).map_err(|error| error.exit())
        };
        assert_eq!(check(good(), false), Ok(()));
        assert_eq!(check(good(), true), Ok(()));
        for content in [Content::NotAFile, Content::Empty, Content::Script, Content::Other] {
            assert_eq!(check(EmulatorFile { content, ..good() }, false), Err(Exit::BadInput), "{content:?}");
        }
        let foreign = Content::Elf(Header { ident: ARM64, dynamic: false });
        assert_eq!(check(EmulatorFile { content: foreign, ..good() }, false), Err(Exit::BadInput));
        assert_eq!(check(EmulatorFile { may_execute: false, ..good() }, false), Err(Exit::NotPermitted));
        let writable = EmulatorFile { writable_by_others: Some("/x".into()), ..good() };
        assert_eq!(check(writable, false), Err(Exit::NotPermitted));
        let of_somebody = EmulatorFile { not_of_root: Some("/home/x".into()), ..good() };
        assert_eq!(check(of_somebody.clone(), false), Ok(()));
        assert_eq!(check(of_somebody, true), Err(Exit::NotPermitted));
    }

    #[test]
    fn versions_are_read_as_qemu_prints_them() {
        let version = Version::parse("qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)").unwrap();
        assert_eq!(version, Version { emulates: "aarch64".into(), number: (7, 2) });
        assert_eq!(Version::parse("Box64 v0.3.2"), None);
    }

    #[test]
    fn p_is_set_where_kernel_and_emulator_agree_on_it() {
        let qemu = |number| Some(Version { emulates: "arm".into(), number });
        let debian = EmulatorFile { path: "/usr/libexec/qemu-binfmt/arm-binfmt-P".into(), ..good() };
        for (file, version, kernel, flags) in [
            (good(), qemu((7, 2)), (6, 18), "PF"),
            (good(), qemu((7, 2)), (5, 10), "F"),
            (good(), qemu((5, 2)), (6, 18), "F"),
            (good(), None, (6, 18), "F"),
            (debian, qemu((7, 2)), (5, 10), "PF"),
        ] {
            assert_eq!(default_flags(&file, version.as_ref(), kernel).to_string(), flags);
        }
    }
}
