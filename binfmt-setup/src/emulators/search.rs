//! Search for emulators under the names of Debian, Fedora, Alpine, Arch, openSUSE and Docker's images.

use std::path::{Path, PathBuf};

use super::Machine;
use super::file::{self, Content, EmulatorFile};

/// Searched in this order: files of the administrator take precedence over those of the distribution.
pub const EMULATOR_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/libexec/qemu-binfmt"];

/// The possible file names of the emulator `qemu`.
fn names(qemu: &str) -> [String; 5] {
    [
        format!("qemu-{qemu}-static"), // Debian until 12, Fedora, Arch, multiarch/qemu-user-static
        format!("qemu-{qemu}"),        // Debian since 13, Alpine, tonistiigi/binfmt, QEMU's own build
        format!("{qemu}-binfmt-P"),    // Debian's names for the kernel's table
        format!("qemu-{qemu}-binfmt-P"), // openSUSE's
        format!("buildkit-qemu-{qemu}"), // BuildKit's image
    ]
}

/// Result of [`search`].
#[derive(Debug)]
pub enum Found {
    /// A usable emulator.
    Emulator(EmulatorFile),
    /// No usable emulator.
    Nothing {
        /// Why files were not usable.
        skipped: Vec<String>,
    },
}

/// Returns the first usable emulator. A dynamically linked one is skipped, because it does not start in containers.
pub fn search(machine: &Machine, directories: &[PathBuf]) -> Found {
    let mut skipped = vec![];
    for path in directories.iter().flat_map(|directory| candidates(machine, directory)) {
        let Ok(found) = file::read(&path) else { continue };
        match found.content {
            Content::Elf(header) if !header.dynamic && found.may_execute => return Found::Emulator(found),
            Content::Elf(header) if header.dynamic => {
                skipped.push(format!("{} is linked dynamically", path.display()));
            }
            _ => skipped.push(format!("{} is not an executable program", path.display())),
        }
    }
    Found::Nothing { skipped }
}

fn candidates(machine: &Machine, directory: &Path) -> impl Iterator<Item = PathBuf> {
    names(machine.qemu).into_iter().map(|name| directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn put(directory: &Path, name: &str, bytes: &[u8]) {
        std::fs::write(directory.join(name), bytes).unwrap();
        std::fs::set_permissions(directory.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_names_of_all_distributions_are_found_and_earlier_directories_take_precedence() {
        let arm = Machine::by_name("arm").unwrap();
        // Any static ELF is enough: the search does not run it.
        let program = Machine::by_name("x86_64").unwrap().probe();
        for name in names("arm") {
            let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            put(second.path(), &name, &program);
            let directories = [first.path().to_owned(), second.path().to_owned()];
            let Found::Emulator(found) = search(arm, &directories) else { panic!("{name} not found") };
            assert_eq!(found.path, second.path().join(&name));
            put(first.path(), "qemu-arm", &program);
            let Found::Emulator(found) = search(arm, &directories) else { panic!("{name} not found") };
            assert_eq!(found.path, first.path().join("qemu-arm"));
        }
    }

    #[test]
    fn files_that_are_not_usable_are_skipped_with_a_reason() {
        let arm = Machine::by_name("arm").unwrap();
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), "qemu-arm-static", b"#!/bin/sh\n");
        let Found::Nothing { skipped } = search(arm, &[directory.path().to_owned()]) else { panic!("found") };
        assert_eq!(skipped.len(), 1);
        assert!(skipped[0].contains("qemu-arm-static is not an executable program"));
    }
}
