//! One emulator file: its properties, and checks before it is registered.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use error::{Error, Exit};

use super::Machine;
use crate::elf::{self, Header, Ident};
use crate::rule::Flags;
use crate::trusted_path;

/// Properties of the file, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorFile {
    /// As given: the kernel stores this text.
    pub path: PathBuf,
    /// With all symbolic links resolved.
    pub real_path: PathBuf,
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Result of reading the first bytes.
    pub content: Content,
    /// Whether any x bit is set.
    pub may_execute: bool,
    /// The file, or a directory or link on the way to it, that other users than its owner can write.
    pub writable_by_others: Option<PathBuf>,
    /// The file, or a directory or link on the way to it, that does not belong to root.
    pub not_of_root: Option<PathBuf>,
    /// The file, or a directory or link on the way to it, that belongs to neither root nor the caller, with its owner.
    pub of_another_user: Option<(PathBuf, u32)>,
}

/// Result of reading the first bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An ELF executable.
    Elf(Header),
    /// A script: it begins with `#!`.
    Script,
    /// An empty file.
    Empty,
    /// Any other file.
    Other,
    /// A directory, device, socket or pipe.
    NotAFile,
}

/// Inspects the file at `path`.
///
/// # Errors
/// `BadInput` for a relative path, `NotFound`, `NotPermitted`, or `Local`.
pub fn read(path: &Path) -> Result<EmulatorFile, Error> {
    if !path.is_absolute() {
        let why = "the path is relative, and the kernel stores it as it is";
        return Err(refused(path, Exit::BadInput, why, "use an absolute path"));
    }
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let hint = "install qemu-user-static, or use another path";
            refused(path, Exit::NotFound, "no such file", hint)
        }
        _ => Error::from_io(format!("read emulator {}", path.display()), error),
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
        writable_by_others: trusted_path::writable_by_others(path),
        not_of_root: trusted_path::not_of_root(path),
        of_another_user: trusted_path::of_another_user(path),
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

fn refused(path: &Path, kind: Exit, reason: impl Into<String>, hint: &str) -> Error {
    Error::new(kind, format!("use emulator {}", path.display()), reason).hint(hint)
}

/// Checks what the kernel would refuse with an error number only, and what it would accept although it cannot work.
/// `own` is the machine of this host. `for_everybody`: every user of the host will execute it.
///
/// # Errors
/// `BadInput` for a file that is not an emulator for this host; `NotPermitted` if it is not executable, if other users
/// can write it, with `for_everybody` if another user than root and the caller owns it, or with `credentials` if it does
/// not belong to root.
pub fn check(
    file: &EmulatorFile,
    own: Option<Ident>,
    for_everybody: bool,
    credentials: bool,
) -> Result<(), Error> {
    let path = &file.path;
    let not_an_emulator = |what: &str| {
        Err(refused(path, Exit::BadInput, format!("it is {what}"), "use the QEMU binary itself"))
    };
    let header = match file.content {
        Content::NotAFile => return not_an_emulator("not a regular file"),
        Content::Empty => return not_an_emulator("an empty file"),
        Content::Script => return not_an_emulator("a script, which requires an interpreter itself"),
        Content::Other => return not_an_emulator("not an ELF executable"),
        Content::Elf(header) => header,
    };
    if !file.may_execute {
        let hint = format!("run: chmod +x {}", path.display());
        return Err(refused(path, Exit::NotPermitted, "it is not executable", &hint));
    }
    if own.is_some_and(|own| own != header.ident) {
        let why = "it is built for another machine than this one";
        return Err(refused(path, Exit::BadInput, why, "use the build for this CPU"));
    }
    if let Some(writable) = &file.writable_by_others {
        let writable = writable.display();
        let why = format!("{writable} can be written by other users, who could run any code as every user");
        return Err(refused(path, Exit::NotPermitted, why, &format!("run: chmod go-w {writable}")));
    }
    if let Some((step, owner)) = file.of_another_user.as_ref().filter(|_| for_everybody) {
        let why = format!("{} belongs to user {owner}, who could run any code as every user", step.display());
        let hint = format!("run: install -m 755 {} /usr/local/bin/", path.display());
        return Err(refused(path, Exit::NotPermitted, why, &hint));
    }
    if let Some(not_of_root) = file.not_of_root.as_ref().filter(|_| credentials) {
        let not_of_root = not_of_root.display();
        let why = format!("with flag C it runs as root, and {not_of_root} does not belong to root");
        let hint = format!("run: chown root {not_of_root}, or omit --credentials");
        return Err(refused(path, Exit::NotPermitted, why, &hint));
    }
    Ok(())
}

/// Output of the emulator's `--version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `aarch64` in `qemu-aarch64 version 7.2.22 (Debian ...)`.
    pub emulates: String,
    /// Major and minor version.
    pub number: (u32, u32),
}

impl Version {
    /// Parses the first line of the output. Returns `None` for an emulator other than QEMU.
    pub fn parse(line: &str) -> Option<Self> {
        let (emulates, rest) = line.strip_prefix("qemu-")?.split_once(" version ")?;
        Some(Self { emulates: emulates.to_owned(), number: crate::host::parse_version(rest)? })
    }
}

/// Checks that the emulator emulates `machine`.
///
/// # Errors
/// `BadInput` if it does not.
pub fn check_version(file: &EmulatorFile, version: &Version, machine: &'static Machine) -> Result<(), Error> {
    if version.emulates == machine.qemu {
        return Ok(());
    }
    let why = format!("it emulates {}, not {}", version.emulates, machine.qemu);
    Err(refused(&file.path, Exit::BadInput, why, &format!("use qemu-{}", machine.qemu)))
}

/// Returns F, which chroots and containers require, and P if kernel and emulator support it, so that programs see the
/// `argv[0]` with which they were started.
pub fn default_flags(file: &EmulatorFile, version: Option<&Version>, kernel: (u32, u32)) -> Flags {
    // Debian's builds with this name always expect P and lose an argument without it.
    let named_for_p = file.path.as_os_str().to_string_lossy().ends_with("-binfmt-P");
    // QEMU reads the flag from AT_FLAGS since 6.0, and Linux writes it there since 5.12.
    let supports_p = kernel >= (5, 12) && version.is_some_and(|version| version.number >= (6, 0));
    Flags { fix_binary: true, preserve_argv0: named_for_p || supports_p, ..Flags::default() }
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
            of_another_user: None,
        }
    }

    #[test]
    fn files_that_are_not_usable_are_refused() {
        let check = |file: EmulatorFile, credentials| {
            super::check(&file, Some(X86_64), false, credentials).map_err(|error| error.kind)
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
        let of_another = EmulatorFile { of_another_user: Some(("/home/x".into(), 1000)), ..good() };
        assert_eq!(check(of_another.clone(), false), Ok(()));
        let error = super::check(&of_another, Some(X86_64), true, false).unwrap_err();
        assert_eq!(error.kind, Exit::NotPermitted);
        assert!(error.to_string().contains("/home/x belongs to user 1000"), "{error}");
    }

    #[test]
    fn the_output_of_qemu_is_parsed() {
        let version = Version::parse("qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)").unwrap();
        assert_eq!(version, Version { emulates: "aarch64".into(), number: (7, 2) });
        assert_eq!(Version::parse("Box64 v0.3.2"), None);
    }

    #[test]
    fn p_is_set_if_kernel_and_emulator_support_it() {
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
