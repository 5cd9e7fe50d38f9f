//! What a release was about to do to its tags, kept until its report is written: a run that is killed between the two
//! must not take along what the tags named before. The next run's report has it.

use crate::report::TagReport;
use crate::work_dir::paths::ReleasePaths;
use crate::work_dir::records;
use error::Error;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Unfinished {
    image: String,
    tags: Vec<TagReport>,
}

impl Unfinished {
    pub fn new(own: &ReleasePaths, tags: &[TagReport]) -> Self {
        Self { image: own.image.clone(), tags: tags.to_vec() }
    }

    /// What a run left that was killed. One that cannot be read is none.
    pub fn read(own: &ReleasePaths) -> Self {
        let found: Option<Self> =
            fs::read(own.unfinished()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        found.filter(|found| found.image == own.image).unwrap_or_default()
    }

    pub fn keep(&self, own: &ReleasePaths) -> Result<(), Error> {
        let keep = || records::write_durably(&own.unfinished(), &serde_json::to_vec(self)?, 0o600);
        keep().map_err(|e| Error::from_io("note what the tags name now", e))
    }

    pub fn forget(own: &ReleasePaths) -> Result<(), Error> {
        match fs::remove_file(own.unfinished()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::from_io("forget what the tags named", error))
            }
            _ => Ok(()),
        }
    }

    /// The tags as they were before the run that was killed moved them, where it did.
    pub fn amend(&self, tags: Vec<TagReport>) -> Vec<TagReport> {
        let amend = |tag: TagReport| {
            let moved =
                self.tags.iter().find(|left| left.tag == tag.tag && tag.was.as_ref() == Some(&left.now));
            match moved {
                Some(left) => TagReport { was: left.was.clone(), ..tag },
                None => tag,
            }
        };
        tags.into_iter().map(amend).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_model::digest::Digest;

    #[test]
    fn what_a_killed_run_moved_was_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let row = |tag: &str, was: Option<&str>, now: &str| TagReport {
            tag: tag.into(),
            was: was.map(digest),
            now: digest(now),
        };
        let left = [row("1.0", None, "new"), row("latest", Some("old"), "new")];
        let own = |image: &str| {
            let image = format!("127.0.0.1:5000/{image}");
            ReleasePaths::new(dir.path(), &dir.path().join("a.yaml"), &image.parse().unwrap(), &image)
        };
        Unfinished::new(&own("a/b"), &left).keep(&own("a/b")).unwrap();
        Unfinished::new(&own("a/d"), &[]).keep(&own("a/d")).unwrap();
        let check = |image: &str, now: TagReport, was: Option<&str>| {
            let amended = Unfinished::read(&own(image)).amend(vec![now]);
            assert_eq!(amended[0].was, was.map(digest), "{amended:?}");
        };
        check("a/b", row("latest", Some("new"), "new"), Some("old"));
        check("a/b", row("latest", Some("new"), "newer"), Some("old"));
        check("a/b", row("1.0", Some("new"), "new"), None);
        // It was not moved before the end, or somebody else has moved it.
        check("a/b", row("latest", Some("old"), "new"), Some("old"));
        check("a/b", row("latest", Some("else"), "new"), Some("else"));
        check("a/c", row("latest", Some("new"), "new"), Some("new"));
        Unfinished::forget(&own("a/b")).unwrap();
        Unfinished::forget(&own("a/b")).unwrap();
        check("a/b", row("latest", Some("new"), "new"), Some("new"));
    }
}
