//! What was shown of an image by an earlier run: an image that was proven and run is not proven and run again.
//!
//! A record is found by a digest over all that it depends on, so that it is never out of date: another image, another
//! command, another build of this program is another record.

use error::Error;
use image_model::digest::Digest;
use image_store::atomic_file;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The records of one work folder.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
    /// Stands for how this build of the program looks at images.
    program: String,
}

impl Records {
    pub fn new(work_dir: &Path) -> Self {
        // /proc: the file may have been replaced by a build meanwhile.
        let program = fs::metadata("/proc/self/exe");
        let program = program.map_or_else(
            |_| env!("CARGO_PKG_VERSION").to_string(),
            |meta| format!("{}-{}-{}", meta.len(), meta.mtime(), meta.mtime_nsec()),
        );
        Self { dir: work_dir.join("records"), program }
    }

    /// What an earlier run kept for the same inputs. One that cannot be read is none.
    pub fn get<T: DeserializeOwned>(&self, kind: &str, inputs: &impl Serialize) -> Option<T> {
        let path = self.path(kind, inputs).ok()?;
        let found = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        // The time of the last use decides what goes first.
        drop(File::open(&path).and_then(|file| file.set_modified(SystemTime::now())));
        Some(found)
    }

    /// Is there one? Nothing is written, not even that it was used.
    pub fn has(&self, kind: &str, inputs: &impl Serialize) -> bool {
        self.path(kind, inputs).is_ok_and(|path| path.is_file())
    }

    pub fn keep(&self, kind: &str, inputs: &impl Serialize, found: &impl Serialize) -> Result<(), Error> {
        let doing = || format!("keep what was found of an image in \"{}\"", self.dir.display());
        // A power cut may take it away: a record can be made again.
        let kept = || atomic_file::write(&self.path(kind, inputs)?, &serde_json::to_vec(found)?, 0o600);
        kept().map_err(|e| Error::from_io(doing(), e))
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
    fn what_was_kept_is_found_for_the_same_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        let get = |kind: &str, inputs: &str| records.get::<u32>(kind, &inputs);
        assert_eq!(get("smoke", "a"), None);
        records.keep("smoke", &"a", &1).unwrap();
        assert_eq!((get("smoke", "a"), get("smoke", "b"), get("other", "a")), (Some(1), None, None));
        let of_another_build = Records { program: "another".into(), ..records.clone() };
        assert_eq!(of_another_build.get::<u32>("smoke", &"a"), None);
        for file in fs::read_dir(dir.path().join("records")).unwrap() {
            fs::write(file.unwrap().path(), "{").unwrap();
        }
        assert_eq!(get("smoke", "a"), None, "one that cannot be read is none");
    }
}
