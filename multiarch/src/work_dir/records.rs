//! Records of verdicts, smoke tests and layers, so that an image is not verified and tested twice.
//!
//! The name of a record is a digest of all its inputs: image, command and build of this program. So a record is never out
//! of date.

use error::Error;
use image_model::digest::Digest;
use image_store::atomic_file::TempFiles;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The records of one work directory.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
    /// Identifies this build of the program.
    program: String,
    temp_files: TempFiles,
}

impl Records {
    pub fn new(work_dir: &Path, temp_files: &TempFiles) -> Self {
        // /proc, since a build may have replaced the file.
        let program = fs::metadata("/proc/self/exe");
        let program = program.map_or_else(
            |_| env!("CARGO_PKG_VERSION").to_string(),
            |meta| format!("{}-{}-{}", meta.len(), meta.mtime(), meta.mtime_nsec()),
        );
        Self { dir: work_dir.join("records"), program, temp_files: temp_files.clone() }
    }

    /// The record for the same inputs. `None` if it cannot be read.
    pub fn get<T: DeserializeOwned>(&self, kind: &str, inputs: &impl Serialize) -> Option<T> {
        let path = self.path(kind, inputs).ok()?;
        let found = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        // `prune` removes records by the time of their last use.
        drop(File::open(&path).and_then(|file| file.set_modified(SystemTime::now())));
        Some(found)
    }

    /// Returns whether there is a record. This does not count as a use.
    pub fn has(&self, kind: &str, inputs: &impl Serialize) -> bool {
        self.path(kind, inputs).is_ok_and(|path| path.is_file())
    }

    pub fn keep(&self, kind: &str, inputs: &impl Serialize, found: &impl Serialize) -> Result<(), Error> {
        let doing = || format!("write a record to \"{}\"", self.dir.display());
        // It may be lost in a power cut: a record can be written again.
        let write = || self.temp_files.write(&self.path(kind, inputs)?, &serde_json::to_vec(found)?, 0o600);
        write().map_err(|e| Error::from_io(doing(), e))
    }

    fn path(&self, kind: &str, inputs: &impl Serialize) -> io::Result<PathBuf> {
        let key = serde_json::to_vec(&(&self.program, kind, inputs))?;
        Ok(self.dir.join(format!("{}-{}.json", kind.replace(' ', "-"), Digest::of(&key).hex())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_for_the_same_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path(), &TempFiles::default());
        let get = |kind: &str, inputs: &str| records.get::<u32>(kind, &inputs);
        assert_eq!(get("smoke", "a"), None);
        records.keep("smoke", &"a", &1).unwrap();
        assert_eq!((get("smoke", "a"), get("smoke", "b"), get("other", "a")), (Some(1), None, None));
        let other_build = Records { program: "another".into(), ..records.clone() };
        assert_eq!(other_build.get::<u32>("smoke", &"a"), None);
        for file in fs::read_dir(dir.path().join("records")).unwrap() {
            fs::write(file.unwrap().path(), "{").unwrap();
        }
        assert_eq!(get("smoke", "a"), None, "a record that cannot be read is ignored");
    }
}
