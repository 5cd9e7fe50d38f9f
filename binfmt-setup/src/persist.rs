//! Files in `/etc/binfmt.d`, from which systemd-binfmt and OpenRC's binfmt register entries at boot.
//!
//! A file there overrides the one of the same name that a package installed, binfmt.d(5). Entries of update-binfmts are
//! not changed.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use error::Error;
use error::text::Escaped;

use crate::entry_owner::{BINFMT_SUPPORT, binfmt_d_lines};
use crate::plan::{HandlerRequest, check_conflicts};
use crate::trusted_path;

const DIRECTORY: &str = "/etc/binfmt.d";
/// The first line of every file that this program writes.
const MARK: &str = "# Made by binfmt-setup";

/// The changes in `/etc/binfmt.d`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Files to write, with their content.
    pub write: Vec<(PathBuf, String)>,
    /// Files to delete.
    pub remove: Vec<PathBuf>,
}

/// The file that registers an entry at boot so far.
#[derive(Debug, Default)]
pub struct OnDisk {
    /// Files in the directories of binfmt.d that register the name, with the line.
    pub lines: Vec<(PathBuf, String)>,
    /// Whether update-binfmts registers it.
    pub by_binfmt_support: bool,
}

/// Reads what registers the entry `name` at boot.
pub fn read(name: &str) -> OnDisk {
    let by_binfmt_support = Path::new(BINFMT_SUPPORT).join(name).exists();
    OnDisk { lines: binfmt_d_lines(name), by_binfmt_support }
}

/// Plans the files for `handlers`. With `replace`, files of other programs are overridden.
///
/// # Errors
/// `NotPermitted` if another user can change the files; `Conflict` if another program registers the same name at boot, `BadInput` for a rule that cannot be a line.
pub fn plan(handlers: &[(HandlerRequest, OnDisk)], replace: bool) -> Result<Files, Error> {
    let (mut files, mut conflicts) = (Files::default(), vec![]);
    for (handler, on_disk) in handlers {
        check_owners(on_disk)?;
        let name = handler.machine.entry_name();
        let line = String::from_utf8_lossy(&handler.rule.line()?).into_owned();
        let conflict = |why: String| Error::conflict(format!("persist {name}"), why);
        if on_disk.by_binfmt_support {
            let hint = format!("run: update-binfmts --disable {name}, or omit --persist");
            conflicts.push(conflict("update-binfmts registers it at boot".into()).hint(hint));
        } else if on_disk.lines.iter().any(|(_, present)| *present == line) {
            // It is registered at boot already.
        } else if let (Some((path, _)), false) =
            (on_disk.lines.iter().find(|(path, _)| !is_ours(path)), replace)
        {
            let why = format!("{} registers it differently at boot", path.display());
            let hint = format!("use --replace to override that file with one in {DIRECTORY}");
            conflicts.push(conflict(why).hint(hint));
        } else {
            let text = format!("{MARK}; to remove it: binfmt-setup unregister --persist {name}\n{line}\n");
            files.write.push((path_for(&name, &on_disk.lines), text));
        }
    }
    check_conflicts("persist handlers", conflicts).map(|()| files)
}

/// Checks that no other user can change what is registered at boot.
fn check_owners(on_disk: &OnDisk) -> Result<(), Error> {
    let paths = on_disk.lines.iter().map(|(path, _)| path.as_path()).chain([Path::new(DIRECTORY)]);
    for path in paths {
        let refused = |why: String, hint: String| {
            Err(Error::not_permitted(format!("write {DIRECTORY}"), why).hint(hint))
        };
        if let Some((step, owner)) = trusted_path::of_another_user(path) {
            let step = step.display();
            let why = format!("{step} belongs to user {owner}, who could run any code as every user at boot");
            return refused(why, format!("run: chown root {step}"));
        }
        if let Some(step) = trusted_path::writable_by_others(path) {
            let step = step.display();
            let why = format!("{step} can be written by other users, who could run any code at boot");
            return refused(why, format!("run: chmod go-w {step}"));
        }
    }
    Ok(())
}

/// The path with the name of the file to override, if there is one: files of other names would all be read, and the
/// last one would be used.
fn path_for(name: &str, lines: &[(PathBuf, String)]) -> PathBuf {
    let present = lines.first().and_then(|(path, _)| path.file_name());
    let file = present.map_or_else(|| format!("{name}.conf").into(), OsStr::to_owned);
    Path::new(DIRECTORY).join(file)
}

/// Plans the removal of the files that this program wrote for these entries.
pub fn plan_removal(names: &[String]) -> Files {
    let ours =
        names.iter().flat_map(|name| binfmt_d_lines(name)).map(|(path, _)| path).filter(|path| is_ours(path));
    Files { write: vec![], remove: ours.collect() }
}

/// Plans the removal of all files that this program wrote.
pub fn plan_removal_of_all() -> Files {
    let files = fs::read_dir(DIRECTORY).into_iter().flatten().flatten().map(|file| file.path());
    let mut remove: Vec<PathBuf> = files.filter(|path| is_ours(path)).collect();
    remove.sort();
    Files { write: vec![], remove }
}

fn is_ours(path: &Path) -> bool {
    path.starts_with(DIRECTORY) && fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

/// Whether a program of this host reads the files at boot.
pub fn is_read_at_boot() -> bool {
    let readers = ["/usr/lib/systemd/systemd-binfmt", "/lib/systemd/systemd-binfmt", "/etc/init.d/binfmt"];
    readers.iter().any(|reader| Path::new(reader).exists())
}

/// Files that are written under temporary names.
#[derive(Debug)]
pub struct Staged {
    files: Files,
    temporary: Vec<PathBuf>,
}

/// Writes the files under temporary names.
///
/// # Errors
/// `NotPermitted`, or `Local` if a file cannot be written.
pub fn stage(files: Files) -> Result<Staged, Error> {
    let mut staged = Staged { files, temporary: vec![] };
    if !staged.files.write.is_empty() {
        fs::create_dir_all(DIRECTORY).map_err(|error| file_error(Path::new(DIRECTORY), error))?;
    }
    for (path, text) in &staged.files.write {
        // systemd reads names that end in .conf only.
        let temporary = path.with_extension(format!("conf.{}.tmp", std::process::id()));
        staged.temporary.push(temporary.clone());
        write_durably(&temporary, text).map_err(|error| file_error(path, error))?;
    }
    Ok(staged)
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    // A file that a killed process with the same id left; never a link to another file.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(path)?;
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

impl Staged {
    /// Renames the files to their final names, durably.
    ///
    /// # Errors
    /// `NotPermitted`, or `Local` if a file cannot be renamed or deleted.
    pub fn commit(mut self) -> Result<(), Error> {
        let temporary = std::mem::take(&mut self.temporary);
        for (from, (path, _)) in temporary.iter().zip(&self.files.write) {
            fs::rename(from, path).map_err(|error| file_error(path, error))?;
        }
        for path in &self.files.remove {
            fs::remove_file(path).map_err(|error| file_error(path, error))?;
        }
        if self.files.is_empty() {
            return Ok(());
        }
        File::open(DIRECTORY)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| file_error(Path::new(DIRECTORY), error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for path in &self.temporary {
            // No program reads a file with this name, so an error is ignored.
            let _ = fs::remove_file(path);
        }
    }
}

impl Files {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.remove.is_empty()
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |path: &Path| Escaped(&path.to_string_lossy()).to_string();
        self.write.iter().try_for_each(|(path, _)| writeln!(f, "write    {}", text(path)))?;
        self.remove.iter().try_for_each(|path| writeln!(f, "delete   {}", text(path)))
    }
}

fn file_error(path: &Path, error: io::Error) -> Error {
    Error::from_io(format!("write {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulators::Machine;
    use crate::rule::{Kind, Rule};

    fn handler() -> HandlerRequest {
        let machine = Machine::by_name("arm").unwrap();
        let rule = Rule {
            name: machine.entry_name().into(),
            kind: Kind::Magic(machine.pattern()),
            interpreter: "/usr/bin/qemu-arm".into(),
            flags: "F".parse().unwrap(),
        };
        HandlerRequest { machine, rule, real_path: "/usr/bin/qemu-arm".into(), device: 1, inode: 2 }
    }

    #[test]
    fn entries_of_other_programs_are_overridden_with_replace_only() {
        let line = String::from_utf8(handler().rule.line().unwrap()).unwrap();
        let of_package =
            |line: &str| vec![(PathBuf::from("/usr/lib/binfmt.d/qemu-arm-static.conf"), line.to_owned())];
        for (on_disk, replace, outcome) in [
            (OnDisk::default(), false, "write    /etc/binfmt.d/qemu-arm.conf\n"),
            (OnDisk { lines: of_package(&line), ..OnDisk::default() }, false, ""),
            (OnDisk { lines: of_package(":qemu-arm:M::x::/q:"), ..OnDisk::default() }, false, "conflict"),
            (
                OnDisk { lines: of_package(":qemu-arm:M::x::/q:"), ..OnDisk::default() },
                true,
                "write    /etc/binfmt.d/qemu-arm-static.conf\n",
            ),
            (OnDisk { by_binfmt_support: true, ..OnDisk::default() }, true, "conflict"),
        ] {
            let case = format!("{on_disk:?}");
            let planned = plan(&[(handler(), on_disk)], replace)
                .map_or("conflict".to_owned(), |files| files.to_string());
            assert_eq!(planned, outcome, "{case}");
        }
    }

    #[test]
    fn a_line_is_never_a_comment() {
        let rule = Rule { interpreter: "/a:b/qemu".into(), ..handler().rule };
        let line = rule.line().unwrap();
        assert!(!b"#;".contains(&line[0]));
    }
}
