//! The directory of a distribution. It is written beside its destination and replaces it in one step, so that a run that is
//! killed leaves the old one.

use super::sums;
use error::Error;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct OutDirectory {
    place: PathBuf,
    /// The directory that is written: `.NAME.new`.
    new: PathBuf,
    _lock: File,
}

impl OutDirectory {
    pub fn begin(place: &Path) -> Result<Self, Error> {
        let doing = || format!("write a distribution to \"{}\"", place.display());
        let Some(name) = place.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            return Err(Error::bad_input(doing(), "it has no name").hint("name a directory"));
        };
        let parent = place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if is_foreign(place) {
            let why = format!("it exists and has no {}", sums::NAME);
            return Err(Error::conflict(doing(), why).hint("name another directory, or move it away"));
        }
        let begin = || {
            fs::create_dir_all(parent)?;
            let lock = File::create(parent.join(format!(".{name}.lock")))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(Err("another run is writing it")),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
            let new = parent.join(format!(".{name}.new"));
            // Left by a run that was killed: a part of the new one, or the old one.
            remove(&new)?;
            fs::create_dir(&new)?;
            fs::set_permissions(&new, Permissions::from_mode(0o755))?;
            Ok(Ok(Self { place: place.to_path_buf(), new, _lock: lock }))
        };
        match begin() {
            Ok(Ok(out)) => Ok(out),
            Ok(Err(why)) => Err(Error::conflict(doing(), why).hint("wait for it")),
            Err(error) => Err(Error::from_io(doing(), error)),
        }
    }

    /// The directory that is written.
    pub fn path(&self) -> &Path {
        &self.new
    }

    pub fn add(&self, name: &str, mode: u32, content: &[u8]) -> Result<(), Error> {
        let path = self.new.join(name);
        let add = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.new))?;
            fs::write(&path, content)?;
            // Independent of the umask.
            fs::set_permissions(&path, Permissions::from_mode(mode))
        };
        add().map_err(|e| Error::from_io(format!("write \"{}\"", path.display()), e))
    }

    /// Writes the sums and replaces the destination.
    pub fn finish(self) -> Result<(), Error> {
        let doing = || format!("replace \"{}\"", self.place.display());
        let finish = || {
            sums::write(&self.new)?;
            set_modes(&self.new)?;
            if self.place.exists() {
                // In one step, so that the destination always exists.
                renameat2(AT_FDCWD, &self.new, AT_FDCWD, &self.place, RenameFlags::RENAME_EXCHANGE)?;
                return remove(&self.new);
            }
            fs::rename(&self.new, &self.place)
        };
        finish().map_err(|e| Error::from_io(doing(), e))
    }
}

impl Drop for OutDirectory {
    fn drop(&mut self) {
        // After a failure. After a success it does not exist.
        let _ = remove(&self.new);
    }
}

/// Makes all files readable by everybody, independent of the umask.
fn set_modes(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            set_modes(&path)?;
        } else if meta.permissions().mode() & 0o111 == 0 {
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

fn is_foreign(place: &Path) -> bool {
    let is_empty = fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
    place.exists() && !is_empty && !place.join(sums::NAME).is_file()
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_old_one_stays_until_the_new_one_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("dist");
        let out = OutDirectory::begin(&place).unwrap();
        out.add("bin/a", 0o755, b"1").unwrap();
        assert!(!place.exists());
        let second = OutDirectory::begin(&place).unwrap_err();
        assert_eq!(second.kind, Exit::Conflict);
        out.finish().unwrap();
        assert_eq!(fs::metadata(place.join("bin/a")).unwrap().permissions().mode() & 0o777, 0o755);

        // A run that fails, and a run that was killed.
        let out = OutDirectory::begin(&place).unwrap();
        out.add("bin/b", 0o755, b"2").unwrap();
        drop(out);
        fs::create_dir_all(dir.path().join(".dist.new/half")).unwrap();
        sums::verify(&place).unwrap();
        assert_eq!(names(&place), ["SHA256SUMS", "bin"]);

        let out = OutDirectory::begin(&place).unwrap();
        out.add("c", 0o644, b"3").unwrap();
        out.finish().unwrap();
        assert_eq!(names(&place), ["SHA256SUMS", "c"]);
        assert_eq!(names(dir.path()), [".dist.lock", "dist"]);
    }

    #[test]
    fn a_directory_that_is_not_a_distribution_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "mine").unwrap();
        assert_eq!(OutDirectory::begin(dir.path()).unwrap_err().kind, Exit::Conflict);
        fs::remove_file(dir.path().join("precious")).unwrap();
        let out = OutDirectory::begin(dir.path()).unwrap();
        drop(out);
        assert!(dir.path().exists());
    }
}
