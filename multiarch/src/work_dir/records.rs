//! Records of verdicts, smoke tests and layers, so that an image is not verified and tested twice.
//!
//! The name of a record is a digest of all its inputs: image, command and build of this program. So a record is never out
//! of date. It is authenticated with a secret of this user, which is not in the work directory: a record that somebody
//! else wrote or changed is ignored.

use error::Error;
use image_evidence::secret::SecretKey;
use image_model::digest::Digest;
use image_store::atomic_file::TempFiles;
use image_store::private_dir::{CACHE, PrivateDir};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
#[cfg(test)]
use std::path::Path;
use std::time::SystemTime;

const DIRECTORY: &str = "records";
/// Bytes of a record, which has a few hundred.
const RECORD_MAX: u64 = 1 << 20;

/// The records of one work directory.
#[derive(Clone, Debug)]
pub struct Records {
    /// `None`: there is no work directory yet.
    work_dir: Option<PrivateDir>,
    /// Identifies this build of the program.
    program: String,
    key: SecretKey,
    temp_files: TempFiles,
}

impl Records {
    /// The records of a work directory. A dry run creates no key.
    ///
    /// # Errors
    /// `Local` if the kernel provides no random bytes.
    pub fn new(work_dir: Option<PrivateDir>, dry_run: bool, temp_files: &TempFiles) -> Result<Self, Error> {
        // /proc, since a build may have replaced the file.
        let program = fs::metadata("/proc/self/exe");
        let program = program.map_or_else(
            |_| env!("CARGO_PKG_VERSION").to_string(),
            |meta| format!("{}-{}-{}", meta.len(), meta.mtime(), meta.mtime_nsec()),
        );
        let known = match dry_run {
            true => CACHE.open().ok().flatten().and_then(|cache| SecretKey::existing(&cache)),
            false => CACHE.create().ok().and_then(|cache| SecretKey::create(&cache, temp_files).ok()),
        };
        // Without a cache, records are used in this run only.
        let key = known.map_or_else(SecretKey::random, Ok);
        let key = key.map_err(|error| Error::from_io("create a secret key", error))?;
        Ok(Self { work_dir, program, key, temp_files: temp_files.clone() })
    }

    /// The records of a test.
    #[cfg(test)]
    pub fn in_dir(dir: &Path) -> Self {
        let work_dir = PrivateDir::create(dir, crate::work_dir::WORK).unwrap();
        let key = SecretKey::random().unwrap();
        Self { work_dir: Some(work_dir), program: "this".into(), key, temp_files: TempFiles::default() }
    }

    /// Gives all records of a test this content.
    #[cfg(test)]
    pub fn overwrite_all(&self, content: &impl Serialize) {
        let content = serde_json::to_vec(content).unwrap();
        let dir = self.work_dir.as_ref().unwrap().path().join(DIRECTORY);
        for file in fs::read_dir(dir).unwrap().flatten() {
            let seal = self.seal(&file.file_name().to_string_lossy(), &content);
            fs::write(file.path(), [seal.hex().as_bytes(), b"\n", &content].concat()).unwrap();
        }
    }

    /// The record for the same inputs. `None` if there is none of this user.
    pub fn get<T: DeserializeOwned>(&self, kind: &str, inputs: &impl Serialize) -> Option<T> {
        let name = self.name(kind, inputs).ok()?;
        let found = serde_json::from_slice(&self.read(&name)?).ok()?;
        // `prune` removes records by the time of their last use.
        let file = self.work_dir.as_ref()?.open_file(format!("{DIRECTORY}/{name}"));
        drop(file.and_then(|file| file.set_modified(SystemTime::now())));
        Some(found)
    }

    /// Returns whether there is a record. This does not count as a use.
    pub fn has(&self, kind: &str, inputs: &impl Serialize) -> bool {
        self.name(kind, inputs).is_ok_and(|name| self.read(&name).is_some())
    }

    pub fn keep(&self, kind: &str, inputs: &impl Serialize, found: &impl Serialize) -> Result<(), Error> {
        let Some(work_dir) = &self.work_dir else { return Ok(()) };
        let dir = work_dir.create_subdir(DIRECTORY)?;
        let write = || {
            let (name, content) = (self.name(kind, inputs)?, serde_json::to_vec(found)?);
            // It may be lost in a power cut: a record can be written again.
            let mut file = self.temp_files.create(dir.dir(), OsStr::new(".tmp"), "", 0o600)?;
            let seal = self.seal(&name, &content);
            file.as_file_mut().write_all(&[seal.hex().as_bytes(), b"\n", &content].concat())?;
            file.persist_in(dir.dir(), OsStr::new(&name)).map(drop)
        };
        let doing = || format!("write a record to \"{}\"", dir.path().display());
        write().map_err(|e: io::Error| Error::from_io(doing(), e))
    }

    /// The content of a record that this user wrote under this name.
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = self.work_dir.as_ref()?.read_small(format!("{DIRECTORY}/{name}"), RECORD_MAX).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (seal, content) = (&bytes[..end], &bytes[end + 1..]);
        (seal == self.seal(name, content).hex().as_bytes()).then(|| content.to_vec())
    }

    fn seal(&self, name: &str, content: &[u8]) -> Digest {
        self.key.digest(&[name.as_bytes(), b"\n", content].concat())
    }

    fn name(&self, kind: &str, inputs: &impl Serialize) -> io::Result<String> {
        let key = serde_json::to_vec(&(&self.program, kind, inputs))?;
        Ok(format!("{}-{}.json", kind.replace(' ', "-"), Digest::of(&key).hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_for_the_same_inputs_if_this_user_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::in_dir(dir.path());
        let get = |kind: &str, inputs: &str| records.get::<u32>(kind, &inputs);
        assert_eq!(get("smoke", "a"), None);
        records.keep("smoke", &"a", &1).unwrap();
        assert_eq!((get("smoke", "a"), get("smoke", "b"), get("other", "a")), (Some(1), None, None));
        let other_build = Records { program: "another".into(), ..records.clone() };
        assert_eq!(other_build.get::<u32>("smoke", &"a"), None);
        let other_user = Records { key: SecretKey::random().unwrap(), ..records.clone() };
        assert_eq!(other_user.get::<u32>("smoke", &"a"), None);
        assert!(records.has("smoke", &"a") && !other_user.has("smoke", &"a"));

        let path = |inputs: &str| dir.path().join("records").join(records.name("smoke", &inputs).unwrap());
        let text = fs::read_to_string(path("a")).unwrap();
        fs::write(path("b"), &text).unwrap();
        assert_eq!(get("smoke", "b"), None, "a record for other inputs");
        for changed in [text.replace("\n1", "\n2"), "1".into(), "{".into(), String::new()] {
            fs::write(path("a"), &changed).unwrap();
            assert_eq!(get("smoke", "a"), None, "{changed:?}");
        }
    }
}
