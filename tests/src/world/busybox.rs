//! Real foreign programs: Debian's static busybox of other architectures.

use std::fs;
use std::path::{Path, PathBuf};

use super::packages::debian_packages;
use super::{Skip, require};

/// One architecture that Debian builds busybox for.
#[derive(Debug)]
pub struct Foreign {
    /// Debian's name.
    pub debian: &'static str,
    /// The platform of an image with it.
    pub platform: &'static str,
    /// `uname -m` under QEMU on x86-64; i386 runs natively.
    pub machine: &'static str,
    /// e_machine of its ELF files.
    pub elf: u16,
    /// Debian releases that have it, to be tried in this order: riscv64 came with trixie, mips64el went with it.
    pub(super) suites: &'static [&'static str],
}

/// Debian's armel is ARMv5TE and its armhf ARMv7: two variants of `arm` that platform metadata often confuses.
pub const FOREIGN: [Foreign; 8] = [
    foreign("arm64", "linux/arm64/v8", "aarch64", 183, &["bookworm"]),
    foreign("armhf", "linux/arm/v7", "armv7l", 40, &["bookworm"]),
    foreign("armel", "linux/arm/v5", "armv7l", 40, &["bookworm"]),
    foreign("i386", "linux/386", "x86_64", 3, &["bookworm"]),
    foreign("s390x", "linux/s390x", "s390x", 22, &["bookworm"]),
    foreign("ppc64el", "linux/ppc64le", "ppc64le", 21, &["bookworm"]),
    foreign("mips64el", "linux/mips64le", "mips64", 8, &["bookworm"]),
    foreign("riscv64", "linux/riscv64", "riscv64", 243, &["trixie", "sid"]),
];

const fn foreign(
    debian: &'static str,
    platform: &'static str,
    machine: &'static str,
    elf: u16,
    suites: &'static [&'static str],
) -> Foreign {
    Foreign { debian, platform, machine, elf, suites }
}

/// The static busybox of a Debian architecture of [`FOREIGN`].
pub fn foreign_busybox(debian: &str) -> Result<PathBuf, Skip> {
    let root = debian_packages(debian)?.join("busybox-static");
    // busybox takes its file name for the name of an applet. trixie moved it to /usr/bin.
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place));
    places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or_else(|| Skip::because("busybox-static has no busybox"))
}

/// A root file system of one busybox and its usual names, as an uncompressed tar: what `ADD rootfs.tar /` takes.
///
/// The bytes are the same every time.
pub fn rootfs_tar(busybox: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        let mut directory = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut directory, name, std::io::empty()).expect("memory");
    }
    let program = fs::read(busybox).expect("a busybox");
    let mut file = header(tar::EntryType::Regular, 0o755, program.len());
    tar.append_data(&mut file, "bin/busybox", program.as_slice()).expect("memory");
    for applet in
        ["cat", "echo", "false", "id", "ls", "mkdir", "rm", "sh", "sleep", "test", "touch", "true", "uname"]
    {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("bin/{applet}"), "busybox").expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// The registrations of Debian's emulators, one line of /usr/lib/binfmt.d per entry.
pub(super) fn debian_rules() -> Result<Vec<String>, Skip> {
    require(&["qemu-arm-static"])?;
    let entries = fs::read_dir("/usr/lib/binfmt.d").map_err(|error| Skip::because(error.to_string()))?;
    let mut rules = Vec::new();
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("qemu-")) {
            let text = fs::read_to_string(&path).map_err(|error| Skip::because(error.to_string()))?;
            rules.extend(text.lines().filter(|line| line.starts_with(':')).map(str::to_owned));
        }
    }
    if rules.is_empty() {
        return Err(Skip::because("no qemu rules in /usr/lib/binfmt.d: apt-get install qemu-user-static"));
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_of_the_table_is_to_be_had() {
        for row in &FOREIGN {
            let path = crate::need!(foreign_busybox(row.debian));
            let head = fs::read(&path).unwrap()[..20].to_vec();
            let machine = [head[18], head[19]];
            // EI_DATA 2 is big-endian, elf.h.
            let machine =
                if head[5] == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
            assert_eq!((&head[..4], machine), (&b"\x7fELF"[..], row.elf), "{row:?}");
        }
    }

    #[test]
    fn the_tar_holds_the_program_and_its_names() {
        let busybox = crate::need!(foreign_busybox("armhf"));
        let bytes = rootfs_tar(&busybox);
        assert_eq!(bytes, rootfs_tar(&busybox));
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(
            names.contains(&"bin/busybox".to_owned()) && names.contains(&"bin/sh".to_owned()),
            "{names:?}"
        );
    }
}
