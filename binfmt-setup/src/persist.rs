//! Files in `/etc/binfmt.d`, from which systemd-binfmt (and OpenRC's binfmt) registers entries at every boot.
//!
//! A file there hides one of the same name that a package brought, which is how an administrator is meant to change
//! it. What update-binfmts registers at boot is left to update-binfmts.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::escape::escaped;
use crate::exit::Exit;
use crate::owner::{BINFMT_SUPPORT, binfmt_d_lines};
use crate::plan::Wanted;
use crate::rule::LineError;

const FOLDER: &str = "/etc/binfmt.d";
/// First line of each file of ours.
const MARK: &str = "# Made by binfmt-setup";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub write: Vec<(PathBuf, String)>,
    pub remove: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    #[error("{}", .0.join("; "))]
    Conflicts(Vec<String>),
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error(transparent)]
    Line(#[from] LineError),
}

impl PersistError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Conflicts(_) => Exit::Conflict,
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::File { .. } => Exit::Io,
            Self::Line(_) => Exit::BadInput,
        }
    }
}

/// What is on disk for one entry today.
#[derive(Debug, Default)]
pub struct OnDisk {
    /// Files in folders of binfmt.d that register the name, with the line.
    pub lines: Vec<(PathBuf, String)>,
    /// update-binfmts has it.
    pub by_binfmt_support: bool,
}

pub fn read(name: &str) -> OnDisk {
    let by_binfmt_support = Path::new(BINFMT_SUPPORT).join(name).exists();
    OnDisk { lines: binfmt_d_lines(name), by_binfmt_support }
}

/// `replace`: files of other people may be hidden or overwritten.
pub fn plan(wanted: &[(Wanted, OnDisk)], replace: bool) -> Result<Files, PersistError> {
    let (mut files, mut conflicts) = (Files::default(), vec![]);
    for (wanted, on_disk) in wanted {
        let name = escaped(&wanted.rule.name);
        let line = String::from_utf8_lossy(&wanted.rule.line()?).into_owned();
        if on_disk.by_binfmt_support {
            conflicts.push(format!(
                "update-binfmts registers {name} at every boot: update-binfmts --disable {name}, or leave it to it"
            ));
        } else if on_disk.lines.iter().any(|(_, there)| *there == line) {
            // It will be registered like this already.
        } else if let (Some((path, _)), false) =
            (on_disk.lines.iter().find(|(path, _)| !is_ours(path)), replace)
        {
            conflicts.push(format!(
                "{} registers {name} otherwise at every boot: --replace puts a file in {FOLDER} over it",
                escaped(path)
            ));
        } else {
            let text = format!("{MARK}; to remove it: binfmt-setup unregister --persist {name}\n{line}\n");
            files.write.push((path_for(&name, &on_disk.lines), text));
        }
    }
    if conflicts.is_empty() { Ok(files) } else { Err(PersistError::Conflicts(conflicts)) }
}

/// The name of the file that is to be hidden, if there is one: files of other names would all be read, and the last
/// one would win.
fn path_for(name: &str, lines: &[(PathBuf, String)]) -> PathBuf {
    let there = lines.first().and_then(|(path, _)| path.file_name());
    let file = there.map_or_else(|| format!("{name}.conf").into(), OsStr::to_owned);
    Path::new(FOLDER).join(file)
}

/// Our files of these entries.
pub fn plan_removal(names: &[String]) -> Files {
    let ours =
        names.iter().flat_map(|name| binfmt_d_lines(name)).map(|(path, _)| path).filter(|path| is_ours(path));
    Files { write: vec![], remove: ours.collect() }
}

/// Every file of ours, whatever it registers.
pub fn plan_removal_of_all() -> Files {
    let files = fs::read_dir(FOLDER).into_iter().flatten().flatten().map(|file| file.path());
    let mut remove: Vec<PathBuf> = files.filter(|path| is_ours(path)).collect();
    remove.sort();
    Files { write: vec![], remove }
}

fn is_ours(path: &Path) -> bool {
    path.starts_with(FOLDER) && fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

/// Whether anything on this machine reads the files when it boots.
pub fn is_read_at_boot() -> bool {
    let readers = ["/usr/lib/systemd/systemd-binfmt", "/lib/systemd/systemd-binfmt", "/etc/init.d/binfmt"];
    readers.iter().any(|reader| Path::new(reader).exists())
}

/// Files written in full beside their places; nothing is in its place yet.
#[derive(Debug)]
pub struct Staged {
    files: Files,
    temporary: Vec<PathBuf>,
}

pub fn stage(files: Files) -> Result<Staged, PersistError> {
    let mut staged = Staged { files, temporary: vec![] };
    if !staged.files.write.is_empty() {
        fs::create_dir_all(FOLDER).map_err(|source| file_error(Path::new(FOLDER), source))?;
    }
    for (path, text) in &staged.files.write {
        // systemd reads names that end in .conf only.
        let temporary = path.with_extension(format!("conf.{}.tmp", std::process::id()));
        staged.temporary.push(temporary.clone());
        write_durably(&temporary, text).map_err(|source| file_error(path, source))?;
    }
    Ok(staged)
}

fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

impl Staged {
    /// `Ok` means that a power cut from here on changes nothing.
    pub fn commit(mut self) -> Result<(), PersistError> {
        let temporary = std::mem::take(&mut self.temporary);
        for (from, (path, _)) in temporary.iter().zip(&self.files.write) {
            fs::rename(from, path).map_err(|source| file_error(path, source))?;
        }
        for path in &self.files.remove {
            fs::remove_file(path).map_err(|source| file_error(path, source))?;
        }
        if self.files.is_empty() {
            return Ok(());
        }
        File::open(FOLDER)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| file_error(Path::new(FOLDER), source))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for path in &self.temporary {
            // Nobody reads it; a file that stays is only untidy.
            let _ = fs::remove_file(path);
        }
    }
}

impl Files {
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.remove.is_empty()
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write.iter().try_for_each(|(path, _)| writeln!(f, "write    {}", escaped(path)))?;
        self.remove.iter().try_for_each(|path| writeln!(f, "delete   {}", escaped(path)))
    }
}

fn file_error(path: &Path, source: io::Error) -> PersistError {
    PersistError::File { path: escaped(path), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulators::Machine;
    use crate::rule::{Kind, Rule};

    fn wanted() -> Wanted {
        let machine = Machine::by_name("arm").unwrap();
        let rule = Rule {
            name: machine.entry_name().into(),
            kind: Kind::Magic(machine.pattern()),
            interpreter: "/usr/bin/qemu-arm".into(),
            flags: "F".parse().unwrap(),
        };
        Wanted { machine, rule, real_path: "/usr/bin/qemu-arm".into(), device: 1, inode: 2 }
    }

    #[test]
    fn what_others_register_at_boot_is_not_fought() {
        let line = String::from_utf8(wanted().rule.line().unwrap()).unwrap();
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
            let shown = format!("{on_disk:?}");
            let planned = plan(&[(wanted(), on_disk)], replace)
                .map_or("conflict".to_owned(), |files| files.to_string());
            assert_eq!(planned, outcome, "{shown}");
        }
    }

    #[test]
    fn no_line_reads_as_a_comment() {
        let rule = Rule { interpreter: "/a:b/qemu".into(), ..wanted().rule };
        let line = rule.line().unwrap();
        assert!(!b"#;".contains(&line[0]));
    }
}
