//! Locks of tags: of two processes of a user that move one tag, the second waits until the first has read the tag back.
//!
//! A registry has no such lock: it accepts a tag that another client has moved since it was resolved. Processes on other
//! hosts are noticed only by the look before and after the move.

use crate::{Journal, STATE, store_name};
use error::Error;
use image_model::digest::Digest;
use image_model::reference::Reference;
use image_store::plan::Plan;
use image_store::private_dir::PrivateDir;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};

/// The number of lock files. Tags that share one wait for each other without need, which is rare and harmless.
const FILES: u64 = 64;

/// Held while the tags of a plan are moved.
pub struct TagLocks {
    _files: Vec<File>,
}

impl Journal {
    /// Locks the tags of these plans, in an order that all processes keep. `on_wait` is called if another process has one
    /// of them.
    ///
    /// # Errors
    /// As [`Journal::check`].
    pub fn lock_tags(&self, plans: &[(&Plan, &Reference)], on_wait: &dyn Fn()) -> Result<TagLocks, Error> {
        let names = plans.iter().flat_map(|(plan, reference)| {
            let store = store_name(reference);
            plan.tags.iter().map(move |step| file_name(&store, &step.tag))
        });
        let names: BTreeSet<String> = names.collect();
        let dir = PrivateDir::create(&self.dir, STATE.purpose)?;
        let lock = |name: &String| {
            let file = dir.append_to_file(name)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    on_wait();
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(file)
        };
        let files = names.iter().map(lock).collect::<std::io::Result<Vec<File>>>();
        Ok(TagLocks { _files: files.map_err(|error| self.failed(error))? })
    }
}

fn file_name(store: &str, tag: &str) -> String {
    let digest = Digest::of(format!("{store}:{tag}").as_bytes());
    let number = u64::from_str_radix(&digest.hex()[..8], 16).unwrap_or(0) % FILES;
    format!("tags-{number:02}.lock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_model::manifest::Document;
    use image_store::plan::TagStep;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_second_process_waits_for_the_first_one() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal { dir: dir.path().join("state") };
        let reference: Reference = "127.0.0.1:5000/a".parse().unwrap();
        let document = Document::new(br#"{"schemaVersion":2,"manifests":[]}"#.to_vec(), None).unwrap();
        let plan = |tags: &[&str]| Plan {
            tags: tags
                .iter()
                .map(|tag| TagStep { tag: (*tag).into(), document: document.clone(), was: None })
                .collect(),
            ..Plan::default()
        };
        let (both, one) = (plan(&["x", "y"]), plan(&["y"]));
        let first = journal.lock_tags(&[(&both, &reference)], &|| panic!("nobody else has it")).unwrap();
        let has_waited = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                journal
                    .lock_tags(&[(&one, &reference)], &|| has_waited.store(true, Ordering::SeqCst))
                    .map(drop)
            });
            while !has_waited.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
        // Tags of nothing need no lock.
        journal.lock_tags(&[(&Plan::default(), &reference)], &|| panic!("nothing is locked")).unwrap();
    }
}
