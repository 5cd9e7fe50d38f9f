//! Owners and permissions of everything that decides which file a path names.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::host::in_initial_user_namespace;

/// As many links as Linux follows, path_resolution(7).
const LINKS_MAX: usize = 40;

/// Returns the first step on the way to the file that other users than its owner can write.
pub fn writable_by_others(path: &Path) -> Option<PathBuf> {
    first_step(path, is_writable_by_others).map(|(step, _)| step)
}

/// Returns the first step on the way to the file that does not belong to root.
pub fn not_of_root(path: &Path) -> Option<PathBuf> {
    first_step(path, |found| found.uid() != 0).map(|(step, _)| step)
}

/// Returns the first step on the way to the file that belongs to another user than root and the caller, with that user's
/// id. In a user namespace, files of users without an id there count as those of root: most of them are.
pub fn of_another_user(path: &Path) -> Option<(PathBuf, u32)> {
    let overflow = (!in_initial_user_namespace()).then(overflow_uid);
    let caller = geteuid().as_raw();
    let is_trusted = |uid: u32| uid == 0 || uid == caller || Some(uid) == overflow;
    first_step(path, |found| !is_trusted(found.uid())).map(|(step, found)| (step, found.uid()))
}

/// The id that stands for users without an id in this namespace, proc_sys_kernel(5).
fn overflow_uid() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(65534)
}

/// The first step for which `is` returns true: the file itself, its parent directories from the closest one on, and the
/// same for each symbolic link on the way.
fn first_step(path: &Path, is: impl Fn(&Metadata) -> bool) -> Option<(PathBuf, Metadata)> {
    let mut pending = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = pending.pop() {
        for step in path.ancestors().filter(|step| !step.as_os_str().is_empty()) {
            let Ok(found) = fs::symlink_metadata(step) else { continue };
            if found.is_symlink() && links < LINKS_MAX {
                links += 1;
                let target = fs::read_link(step).unwrap_or_default();
                pending.push(step.parent().unwrap_or(Path::new("/")).join(target));
            }
            if is(&found) {
                return Some((step.to_owned(), found));
            }
        }
    }
    None
}

fn is_writable_by_others(found: &Metadata) -> bool {
    let mode = found.permissions().mode();
    // In a sticky directory like /tmp only the owner can replace a file.
    let is_sticky_directory = found.is_dir() && mode & 0o1000 != 0;
    let by_anybody = mode & 0o002 != 0;
    // Only root is in group root, and only the user in a group of the same number.
    let by_group = mode & 0o020 != 0 && found.gid() != 0 && found.gid() != found.uid();
    // The mode of a link has no meaning.
    (by_anybody || by_group) && !is_sticky_directory && !found.is_symlink()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_of_each_link_on_the_way_count() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let at = |name: &str| dir.join(name);
        fs::create_dir_all(at("open/inner")).unwrap();
        fs::create_dir(at("closed")).unwrap();
        fs::write(at("open/inner/file"), "").unwrap();
        symlink("../open/inner", at("closed/link")).unwrap();
        symlink("link/file", at("closed/file")).unwrap();
        symlink("circle", at("closed/circle")).unwrap();
        let mode = |name: &str, mode| fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(writable_by_others(&at("closed/file")), None);
        for (bits, found) in [(0o777, true), (0o1777, false), (0o755, false)] {
            mode("open", bits);
            for name in ["closed/file", "closed/link/file", "open/inner/file"] {
                let expected = found.then(|| at("open"));
                let step = writable_by_others(&at(name)).map(|step| step.canonicalize().unwrap());
                assert_eq!(step, expected, "{name} {bits:o}");
            }
        }
        mode("open/inner/file", 0o666);
        assert!(writable_by_others(&at("closed/file")).is_some());
        assert_eq!(writable_by_others(&at("closed/circle")), None);
        assert_eq!(of_another_user(&at("closed/file")), None);
    }
}
