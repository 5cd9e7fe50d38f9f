//! Who registered an entry, as far as the machine shows it.

use std::fmt;
use std::fs::read_to_string;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::rule::Rule;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// This tool: its patterns are recognisable.
    BinfmtSetup,
    /// systemd-binfmt, from a file in binfmt.d.
    Systemd,
    /// Debian's update-binfmts.
    BinfmtSupport,
    /// Windows Subsystem for Linux, for programs of Windows.
    Wsl,
    /// Something whose emulator is not on this disk, as images like tonistiigi/binfmt leave it.
    Container,
    Unknown,
}

impl fmt::Display for Owner {
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

/// Where systemd-binfmt reads, binfmt.d(5).
pub const BINFMT_D: [&str; 4] =
    ["/etc/binfmt.d", "/run/binfmt.d", "/usr/local/lib/binfmt.d", "/usr/lib/binfmt.d"];
/// Where update-binfmts keeps what it has installed.
pub const BINFMT_SUPPORT: &str = "/var/lib/binfmts";

pub fn owner(rule: &Rule) -> Owner {
    if rule.name.as_bytes().starts_with(b"WSLInterop") {
        return Owner::Wsl;
    }
    if rule.is_ours() {
        return Owner::BinfmtSetup;
    }
    let Some(name) = rule.name.to_str().filter(|name| crate::rule::is_safe_name(name.as_ref())) else {
        return Owner::Unknown;
    };
    let interpreter = rule.interpreter.to_string_lossy();
    if binfmt_d_lines(name).iter().any(|(_, line)| line.contains(&*interpreter)) {
        return Owner::Systemd;
    }
    let record = read_to_string(Path::new(BINFMT_SUPPORT).join(name));
    if record.is_ok_and(|record| record.lines().any(|line| line == interpreter)) {
        return Owner::BinfmtSupport;
    }
    if rule.flags.fix_binary && !rule.interpreter.exists() { Owner::Container } else { Owner::Unknown }
}

/// Lines in binfmt.d that register `name`, each with its file.
pub fn binfmt_d_lines(name: &str) -> Vec<(PathBuf, String)> {
    let files = BINFMT_D.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
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

/// `:NAME:...`; comments begin with `#` or `;`, binfmt.d(5).
fn registers(line: &str, name: &str) -> bool {
    let mut characters = line.trim_start().chars();
    let Some(separator) = characters.next().filter(|first| !['#', ';'].contains(first)) else { return false };
    characters.as_str().split(separator).next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_binfmt_d_are_told_from_comments() {
        assert!(registers(":qemu-arm:M::\\x7f::/q:F", "qemu-arm"));
        assert!(registers("|qemu-arm|M||\\x7f||/q|F", "qemu-arm"));
        for line in ["# :qemu-arm:M", ";qemu-arm;M", ":qemu-armeb:M", "", ":x:qemu-arm"] {
            assert!(!registers(line, "qemu-arm"), "{line}");
        }
    }
}
