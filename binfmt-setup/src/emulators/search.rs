//! Where emulators lie, as Debian, Fedora, Alpine, Arch, Docker's images and a plain folder name them.

use std::path::{Path, PathBuf};

use super::Machine;
use super::file::{self, Content, EmulatorFile};
use crate::escape::escaped;

/// Searched in this order: what an administrator put there goes before the distribution's.
pub const FOLDERS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/libexec/qemu-binfmt"];

/// How an emulator of `qemu` may be called.
fn names(qemu: &str) -> [String; 5] {
    [
        format!("qemu-{qemu}-static"), // Debian until 12, Fedora, Arch, multiarch/qemu-user-static
        format!("qemu-{qemu}"),        // Debian since 13, Alpine, tonistiigi/binfmt, QEMU's own build
        format!("{qemu}-binfmt-P"),    // Debian's names for the kernel's table
        format!("qemu-{qemu}-binfmt-P"), // openSUSE's
        format!("buildkit-qemu-{qemu}"), // BuildKit's image
    ]
}

/// Either an emulator, or what was seen and passed over on the way.
#[derive(Debug)]
pub enum Found {
    Emulator(EmulatorFile),
    Nothing { passed_over: Vec<String> },
}

/// The first file by one of the names that could serve: a dynamically linked one is passed over, since it starts
/// outside of containers only.
pub fn search(machine: &Machine, folders: &[PathBuf]) -> Found {
    let mut passed_over = vec![];
    for path in folders.iter().flat_map(|folder| candidates(machine, folder)) {
        let Ok(found) = file::read(&path) else { continue };
        match found.content {
            Content::Elf(header) if !header.dynamic && found.may_execute => return Found::Emulator(found),
            Content::Elf(header) if header.dynamic => {
                passed_over.push(format!("{} is linked dynamically", escaped(&path)));
            }
            _ => passed_over.push(format!("{} is not an executable program", escaped(&path))),
        }
    }
    Found::Nothing { passed_over }
}

fn candidates(machine: &Machine, folder: &Path) -> impl Iterator<Item = PathBuf> {
    names(machine.qemu).into_iter().map(|name| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn put(folder: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(folder.join(name), bytes).unwrap();
        std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn each_distributions_name_is_found_and_earlier_folders_win() {
        let arm = Machine::by_name("arm").unwrap();
        // Any static ELF will do: the search does not run it.
        let program = Machine::by_name("x86_64").unwrap().probe();
        for name in names("arm") {
            let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            put(second.path(), &name, &program);
            let folders = [first.path().to_owned(), second.path().to_owned()];
            let Found::Emulator(found) = search(arm, &folders) else { panic!("{name} not found") };
            assert_eq!(found.path, second.path().join(&name));
            put(first.path(), "qemu-arm", &program);
            let Found::Emulator(found) = search(arm, &folders) else { panic!("{name} not found") };
            assert_eq!(found.path, first.path().join("qemu-arm"));
        }
    }

    #[test]
    fn what_cannot_serve_is_passed_over_and_named() {
        let arm = Machine::by_name("arm").unwrap();
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "qemu-arm-static", b"#!/bin/sh\n");
        let Found::Nothing { passed_over } = search(arm, &[folder.path().to_owned()]) else {
            panic!("found")
        };
        assert_eq!(passed_over.len(), 1);
        assert!(passed_over[0].contains("qemu-arm-static is not an executable program"));
    }
}
