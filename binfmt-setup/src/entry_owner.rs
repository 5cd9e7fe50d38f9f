//! The program that registered an entry, as far as files of this host show it.

use std::fmt;
use std::fs::read_to_string;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::rule::Rule;

/// The program that registered an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryOwner {
    /// This program, by its patterns.
    BinfmtSetup,
    /// systemd-binfmt, from a file in binfmt.d.
    Systemd,
    /// Debian's update-binfmts.
    BinfmtSupport,
    /// Windows Subsystem for Linux, for programs of Windows.
    Wsl,
    /// A container like tonistiigi/binfmt, because the emulator is not on this disk.
    Container,
    /// Any other program.
    Unknown,
}

impl fmt::Display for EntryOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BinfmtSetup => "binfmt-setup",
            Self::Systemd => "systemd",
            Self::BinfmtSupport => "binfmt-support",
            Self::Wsl => "wsl",
            Self::Container => "container",
            Self::Unknown => "-",
        })
    }
}

/// The directories that systemd-binfmt reads, binfmt.d(5).
pub const BINFMT_D: [&str; 4] =
    ["/etc/binfmt.d", "/run/binfmt.d", "/usr/local/lib/binfmt.d", "/usr/lib/binfmt.d"];
/// The directory in which update-binfmts records what it registers.
pub const BINFMT_SUPPORT: &str = "/var/lib/binfmts";

/// Returns the program that registered `rule`.
pub fn entry_owner(rule: &Rule) -> EntryOwner {
    if rule.name.as_bytes().starts_with(b"WSLInterop") {
        return EntryOwner::Wsl;
    }
    if rule.is_ours() {
        return EntryOwner::BinfmtSetup;
    }
    let Some(name) = rule.name.to_str().filter(|name| crate::rule::is_safe_name(name.as_ref())) else {
        return EntryOwner::Unknown;
    };
    let interpreter = rule.interpreter.to_string_lossy();
    if binfmt_d_lines(name).iter().any(|(_, line)| line.contains(&*interpreter)) {
        return EntryOwner::Systemd;
    }
    let record = read_to_string(Path::new(BINFMT_SUPPORT).join(name));
    if record.is_ok_and(|record| record.lines().any(|line| line == interpreter)) {
        return EntryOwner::BinfmtSupport;
    }
    if rule.flags.fix_binary && !rule.interpreter.exists() {
        EntryOwner::Container
    } else {
        EntryOwner::Unknown
    }
}

/// Returns the lines in binfmt.d that register `name`, each with its file.
pub fn binfmt_d_lines(name: &str) -> Vec<(PathBuf, String)> {
    let files = BINFMT_D.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
    let confs =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "conf"));
    let mut lines = vec![];
    for path in confs {
        let Ok(text) = read_to_string(&path) else { continue };
        let of_name = text.lines().filter(|line| registers(line, name));
        lines.extend(of_name.map(|line| (path.clone(), line.to_owned())));
    }
    lines
}

/// Whether it is a line `:NAME:...`. Comments begin with `#` or `;`, binfmt.d(5).
fn registers(line: &str, name: &str) -> bool {
    let mut characters = line.trim_start().chars();
    let Some(separator) = characters.next().filter(|first| !['#', ';'].contains(first)) else { return false };
    characters.as_str().split(separator).next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_other_names_in_binfmt_d_are_ignored() {
        assert!(registers(":qemu-arm:M::\\x7f::/q:F", "qemu-arm"));
        assert!(registers("|qemu-arm|M||\\x7f||/q|F", "qemu-arm"));
        for line in ["# :qemu-arm:M", ";qemu-arm;M", ":qemu-armeb:M", "", ":x:qemu-arm"] {
            assert!(!registers(line, "qemu-arm"), "{line}");
        }
    }
}
