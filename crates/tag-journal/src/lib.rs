//! The journal of tag moves: which digest a tag referred to before a command moved it.
//!
//! A line is on disk before its tag moves, so that every move can be rolled back, whenever the run is interrupted.

#![warn(clippy::missing_errors_doc, missing_docs)]

mod lock;

pub use lock::TagLocks;

use error::{Error, Exit};
use image_model::digest::Digest;
use image_model::reference::Reference;
use image_store::plan::{MovedTag, Plan, Progress, TagGuard, TagStep, apply, apply_content, apply_tags};
use image_store::private_dir::{PrivateDir, STATE};
use image_store::store::ImageStore;
use registry_client::meter::Meter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const FILE: &str = "journal.jsonl";
/// Bytes of the journal that are read, the newest ones. A line has about 300.
const READ_MAX: u64 = 64 << 20;

/// One move of one tag, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Seconds since 1970.
    pub time: u64,
    /// Identifies the run: the same in all its entries.
    pub publish: String,
    /// HOST/REPOSITORY, or a local store with its absolute path. See [`store_name`].
    pub image: String,
    /// The tag.
    pub tag: String,
    /// `None`: the tag did not exist.
    pub old: Option<Digest>,
    /// The digest to which it was moved.
    pub new: Digest,
    /// The run whose move this one undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
    /// The release that the run belongs to. Until it is finished, its next run continues this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

/// A run that came to its end, as a line of JSON. Only releases have it.
#[derive(Serialize, Deserialize)]
struct Finished {
    time: u64,
    finished: String,
}

/// One run, which may move several tags.
#[derive(Clone, Debug)]
pub struct JournalRun {
    /// Identifies the run; see [`JournalEntry::publish`].
    pub publish: String,
    release: Option<String>,
}

impl JournalRun {
    /// A run that is no release.
    pub fn new() -> Self {
        let since = since_1970();
        let publish = format!("{}.{:09}-{}", since.as_secs(), since.subsec_nanos(), std::process::id());
        Self { publish, release: None }
    }

    /// A run of a release. It continues the release's last run if that was interrupted: both are then rolled back as
    /// one.
    pub fn of_release(release: &str, history: &History) -> Self {
        let publish = history.interrupted_run(release).map_or(Self::new().publish, str::to_string);
        Self { publish, release: Some(release.into()) }
    }

    /// The entry of one move of this run, made now.
    pub fn entry(&self, image: &Reference, tag: &str, old: Option<&Digest>, new: &Digest) -> JournalEntry {
        JournalEntry {
            time: since_1970().as_secs(),
            publish: self.publish.clone(),
            image: store_name(image),
            tag: tag.into(),
            old: old.cloned(),
            new: new.clone(),
            undoes: None,
            release: self.release.clone(),
        }
    }
}

impl Default for JournalRun {
    fn default() -> Self {
        Self::new()
    }
}

fn since_1970() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The name of a store that is valid in every directory: without a tag, with an absolute path.
pub fn store_name(image: &Reference) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    let store = match image {
        Reference::Registry(image) => return image.name(),
        Reference::OciLayout { dir, .. } => {
            Reference::OciLayout { dir: absolute(dir), tag: None, digest: None }
        }
        Reference::OciArchive { file, .. } => {
            Reference::OciArchive { file: absolute(file), tag: None, digest: None }
        }
        Reference::DockerArchive { file, .. } => {
            Reference::DockerArchive { file: absolute(file), name: None }
        }
        Reference::DockerDaemon { .. } | Reference::Stdin => image.clone(),
    };
    store.to_string()
}

/// The journal of a user, a file with one JSON object per line. Other users can neither read nor write it: a rollback
/// moves tags to the digests in it.
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// `$XDG_STATE_HOME/multiarch/journal.jsonl`, which may not exist yet.
    ///
    /// # Errors
    /// `Local` if neither `XDG_STATE_HOME` nor `HOME` is set.
    pub fn of_user() -> Result<Self, Error> {
        Ok(Self { dir: STATE.path()? })
    }

    /// The path of the file.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Checks that moves can be recorded. Called before anything is published.
    ///
    /// # Errors
    /// `NotPermitted` if another user can write the journal, `Local` if this one cannot.
    pub fn check(&self) -> Result<(), Error> {
        let opened = PrivateDir::create(&self.dir, STATE.purpose).and_then(|dir| match dir.open_file(FILE) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        });
        opened.map_err(|error| self.not_recorded(error, "nothing was published"))
    }

    /// `Ok` means that the entry is on disk.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn append(&self, entry: &JournalEntry) -> Result<(), Error> {
        self.append_line(entry).map_err(|error| self.not_recorded(error, "the tag was not moved"))
    }

    /// Records that a release came to its end: its next run is not a continuation.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn finish(&self, release: &str) -> Result<(), Error> {
        let history = self.read()?;
        let Some(run) = history.interrupted_run(release) else { return Ok(()) };
        let line = Finished { time: since_1970().as_secs(), finished: run.to_string() };
        self.append_line(&line).map_err(|error| self.not_recorded(error, "the release is complete"))
    }

    fn append_line(&self, value: &impl Serialize) -> Result<(), Error> {
        let dir = PrivateDir::create(&self.dir, STATE.purpose)?;
        let append = || {
            let line = serde_json::to_string(value)?;
            let mut file = dir.append_to_file(FILE)?;
            file.lock()?;
            let is_new = file.metadata()?.len() == 0;
            // A run that was killed may have left half a line. It must not spoil this one.
            let gap = if is_new || ends_with_newline(&mut file)? { "" } else { "\n" };
            file.write_all(format!("{gap}{line}\n").as_bytes())?;
            file.sync_all()?;
            // A new file survives a power cut only if its directory is synced, too.
            if is_new { dir.dir().sync() } else { Ok(()) }
        };
        append().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::from_io(format!("use \"{}\"", self.path().display()), error)
    }

    /// The error of a push whose move cannot be recorded. `state` is what was done.
    fn not_recorded(&self, error: Error, state: &str) -> Error {
        let kind = if error.kind == Exit::NotPermitted { error.kind } else { Exit::Local };
        let hint = error.hint.unwrap_or_else(|| "set XDG_STATE_HOME to a writable directory".into());
        Error::new(kind, format!("record the push in \"{}\"", self.path().display()), error.reason)
            .hint(format!("{state}; {hint}"))
    }

    /// Everything in the journal. Lines that cannot be read are skipped: a run that was killed leaves half a line.
    ///
    /// # Errors
    /// `NotPermitted` if another user can write it; the kind of the I/O error. A journal that does not exist is empty.
    pub fn read(&self) -> Result<History, Error> {
        let dir = PrivateDir::open(&self.dir, STATE.purpose)?;
        let text =
            dir.map_or(Ok(Vec::new()), |dir| newest_bytes(&dir)).map_err(|error| self.failed(error))?;
        let mut history = History::default();
        for line in text.split(|byte| *byte == b'\n') {
            if let Ok(entry) = serde_json::from_slice(line) {
                history.entries.push(entry);
            } else if let Ok(Finished { finished, .. }) = serde_json::from_slice(line) {
                history.finished.insert(finished);
            }
        }
        Ok(history)
    }
}

fn newest_bytes(dir: &PrivateDir) -> std::io::Result<Vec<u8>> {
    let mut file = match dir.open_file(FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(READ_MAX)))?;
    file.take(READ_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Applies a plan, as [`apply`] does. Moves of tags in registries and layouts are recorded in the
/// user's journal; archives and the Docker Engine do not keep the previous image.
///
/// # Errors
/// As [`apply`], and [`Journal::check`].
pub fn apply_recorded(
    plan: &Plan,
    store: &dyn ImageStore,
    reference: &Reference,
    moved: MovedTag,
    meter: &Meter,
    report: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(), Error> {
    let keeps_previous = matches!(reference, Reference::Registry(_) | Reference::OciLayout { .. });
    if plan.tags.is_empty() || !keeps_previous {
        return apply(plan, store, moved, meter, report);
    }
    let journal = Journal::of_user()?;
    journal.check()?;
    let _locks = journal.lock_tags(&[(plan, reference)], &|| ())?;
    let looked = apply_content(plan, store, meter, report)?;
    let run = JournalRun::new();
    let before = |step: &TagStep, now: Option<&Digest>| {
        journal.append(&run.entry(reference, &step.tag, now, step.document.digest()))
    };
    apply_tags(plan, store, TagGuard { moved, before: &before }, looked, report)
}

fn ends_with_newline(file: &mut File) -> std::io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Selects entries by image and tag; `None` selects all.
#[derive(Clone, Debug, Default)]
pub struct JournalFilter {
    /// As [`store_name`] returns it.
    pub image: Option<String>,
    /// The tag.
    pub tag: Option<String>,
}

impl JournalFilter {
    fn matches(&self, entry: &JournalEntry) -> bool {
        self.image.as_ref().is_none_or(|image| entry.image == *image)
            && self.tag.as_ref().is_none_or(|tag| entry.tag == *tag)
    }
}

/// The entries of a journal, oldest first.
#[derive(Debug, Default)]
pub struct History {
    /// The moves of tags.
    pub entries: Vec<JournalEntry>,
    /// Runs of releases that came to their end.
    finished: BTreeSet<String>,
}

impl History {
    /// The entries of the newest run, whether it is a push or a rollback.
    pub fn newest_run(&self, filter: &JournalFilter) -> Vec<JournalEntry> {
        let Some(newest) = self.entries.iter().rev().find(|entry| filter.matches(entry)) else {
            return Vec::new();
        };
        let is_selected = |entry: &&JournalEntry| entry.publish == newest.publish && filter.matches(entry);
        self.entries.iter().filter(is_selected).cloned().collect()
    }

    /// The moves of the last run that were not rolled back yet: one per tag, the last first.
    pub fn last_push(&self, filter: &JournalFilter) -> Vec<JournalEntry> {
        self.last_push_with(filter, &|_| true)
    }

    /// As [`Self::last_push`], of the last run that moved a tag which existed before.
    pub fn last_restorable_push(&self, filter: &JournalFilter) -> Vec<JournalEntry> {
        self.last_push_with(filter, &|entry| entry.old.is_some())
    }

    fn last_push_with(
        &self,
        filter: &JournalFilter,
        more: &dyn Fn(&JournalEntry) -> bool,
    ) -> Vec<JournalEntry> {
        let is_selected =
            |entry: &&JournalEntry| filter.matches(entry) && entry.undoes.is_none() && !self.is_undone(entry);
        let Some(newest) = self.entries.iter().rev().find(|entry| is_selected(entry) && more(entry)) else {
            return Vec::new();
        };
        merge_moves(self.entries.iter().filter(|entry| entry.publish == newest.publish && is_selected(entry)))
    }

    fn is_undone(&self, entry: &JournalEntry) -> bool {
        // New tags cannot be rolled back: they count as undone as soon as another tag of their run is.
        let is_same_tag = |other: &JournalEntry| {
            entry.old.is_none() || (&other.image, &other.tag) == (&entry.image, &entry.tag)
        };
        let undoes = |other: &JournalEntry| other.undoes.as_deref() == Some(entry.publish.as_str());
        self.entries.iter().any(|other| undoes(other) && is_same_tag(other))
    }

    /// The last move of a tag, if it was not rolled back and the tag was moved to `now`.
    pub fn last_move(&self, image: &str, tag: &str, now: &Digest) -> Option<JournalEntry> {
        let filter = JournalFilter { image: Some(image.into()), tag: Some(tag.into()) };
        self.last_push(&filter).into_iter().next().filter(|entry| entry.new == *now)
    }

    /// The last run of a release, if it neither came to its end nor was rolled back.
    fn interrupted_run(&self, release: &str) -> Option<&str> {
        let is_of = |entry: &&JournalEntry| entry.release.as_deref() == Some(release);
        let run = self.entries.iter().rev().find(is_of)?.publish.as_str();
        let is_undone = self.entries.iter().any(|entry| entry.undoes.as_deref() == Some(run));
        (!is_undone && !self.finished.contains(run)).then_some(run)
    }
}

/// One move per tag, the last first. A tag may have several entries in one run: of an interrupted release, and of the
/// run that continued it.
fn merge_moves<'a>(entries: impl Iterator<Item = &'a JournalEntry>) -> Vec<JournalEntry> {
    let mut merged: Vec<JournalEntry> = Vec::new();
    for entry in entries {
        let at = merged.iter().position(|one| (&one.image, &one.tag) == (&entry.image, &entry.tag));
        let before = at.map(|at| merged.remove(at));
        let is_continued = |before: &JournalEntry| entry.old.as_ref() == Some(&before.new);
        let old = match before.filter(is_continued) {
            Some(before) => before.old,
            None => entry.old.clone(),
        };
        merged.push(JournalEntry { old, ..entry.clone() });
    }
    merged.reverse();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(publish: &str, image: &str, tag: &str, undoes: Option<&str>) -> JournalEntry {
        let undoes = undoes.map(str::to_string);
        let (publish, image, tag) = (publish.to_string(), image.to_string(), tag.to_string());
        let (old, new) = (Some(Digest::of(b"old")), Digest::of(b"x"));
        JournalEntry { time: 1, publish, image, tag, old, new, undoes, release: None }
    }

    fn history(entries: &[JournalEntry]) -> History {
        History { entries: entries.to_vec(), finished: BTreeSet::new() }
    }

    fn shown(moves: &[JournalEntry]) -> String {
        moves.iter().map(|e| format!("{}{}", e.publish, e.tag)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_are_appended_and_a_damaged_one_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal { dir: dir.path().join("deep") };
        assert_eq!(journal.read().unwrap().entries, []);
        journal.append(&entry("1", "a", "x", None)).unwrap();
        let mut file = File::options().append(true).open(journal.path()).unwrap();
        file.write_all(b"\xff\xfe{\"garbage\n{\"time\":1,\"publi").unwrap();
        journal.append(&entry("2", "a", "x", None)).unwrap();
        let expected = [entry("1", "a", "x", None), entry("2", "a", "x", None)];
        assert_eq!(journal.read().unwrap().entries, expected);
    }

    #[test]
    fn a_journal_of_0_1_0_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal { dir: dir.path().into() };
        let digest = Digest::of(b"x");
        let line = format!(
            r#"{{"time":1,"publish":"1.0-7","image":"a","tag":"x","old":null,"new":"{digest}","undoes":"0"}}"#
        );
        std::fs::write(journal.path(), line).unwrap();
        let expected = JournalEntry { old: None, ..entry("1.0-7", "a", "x", Some("0")) };
        assert_eq!(journal.read().unwrap().entries, [expected]);
    }

    #[test]
    fn the_last_push_is_found_and_what_was_rolled_back_is_skipped() {
        let found = |entries: &[JournalEntry], image: Option<&str>, tag: Option<&str>| {
            let filter = JournalFilter { image: image.map(Into::into), tag: tag.map(Into::into) };
            shown(&history(entries).last_push(&filter))
        };
        let mut entries = vec![
            entry("1", "a", "x", None),
            entry("1", "a", "y", None),
            entry("2", "b", "x", None),
            entry("3", "a", "x", None),
        ];
        assert_eq!(found(&entries, None, None), "3x");
        assert_eq!(found(&entries, Some("b"), None), "2x");
        assert_eq!(found(&entries, Some("a"), Some("y")), "1y");
        assert_eq!(found(&entries, Some("c"), None), "");
        entries.push(entry("4", "a", "x", Some("3")));
        assert_eq!(found(&entries, None, None), "2x");
        assert_eq!(found(&entries, Some("a"), None), "1y 1x");
        // Of a run that was rolled back halfway, the rest can still be rolled back.
        entries.push(entry("5", "a", "y", Some("1")));
        assert_eq!(found(&entries, Some("a"), None), "1x");
        let newest = history(&entries).newest_run(&JournalFilter::default());
        assert_eq!(newest, [entry("5", "a", "y", Some("1"))]);
    }

    #[test]
    fn new_tags_are_skipped_once_the_other_tags_of_their_run_are_rolled_back() {
        let new = |publish: &str, tag: &str| JournalEntry { old: None, ..entry(publish, "a", tag, None) };
        let moved = |publish: &str, undoes: Option<&str>| entry(publish, "a", "latest", undoes);
        let any = JournalFilter::default();
        let last = |entries: &[JournalEntry]| shown(&history(entries).last_push(&any));
        let mut entries = vec![moved("1", None), moved("2", None), new("2", "1.0")];
        assert_eq!(last(&entries), "21.0 2latest");
        entries.push(moved("3", Some("2")));
        assert_eq!(last(&entries), "1latest");
        entries.push(new("4", "2.0"));
        assert_eq!(last(&entries), "42.0");
        assert_eq!(shown(&history(&entries).last_restorable_push(&any)), "1latest");
    }

    #[test]
    fn a_release_continues_its_interrupted_run_and_both_are_rolled_back_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal { dir: dir.path().into() };
        let image: Reference = "127.0.0.1:5000/a/b".parse().unwrap();
        let digest = |text: &str| Digest::of(text.as_bytes());
        let append = |run: &JournalRun, tag: &str, old: Option<&str>, new: &str| {
            let old = old.map(digest);
            journal.append(&run.entry(&image, tag, old.as_ref(), &digest(new))).unwrap();
        };
        let read = || journal.read().unwrap();
        let first = JournalRun::of_release("r", &read());
        append(&first, "latest", Some("old"), "new");
        append(&first, "1.0", None, "new");
        // Recorded, and the run was killed before the tag moved.
        append(&first, "stable", Some("old"), "new");
        assert_ne!(JournalRun::of_release("other", &read()).publish, first.publish);
        let second = JournalRun::of_release("r", &read());
        assert_eq!(second.publish, first.publish);
        append(&second, "stable", Some("old"), "newer");
        append(&second, "latest", Some("new"), "newer");

        let moves = read().last_push(&JournalFilter::default());
        let rows: Vec<_> = moves.iter().map(|one| (one.tag.as_str(), &one.old, &one.new)).collect();
        let (old, new, newer) = (Some(digest("old")), digest("new"), digest("newer"));
        assert_eq!(rows, [("latest", &old, &newer), ("stable", &old, &newer), ("1.0", &None, &new)]);
        let last = |tag: &str, now: &str| read().last_move("127.0.0.1:5000/a/b", tag, &digest(now));
        assert_eq!(last("latest", "newer").unwrap().old, old);
        assert_eq!(last("latest", "of another client"), None);

        let undo = JournalRun::new().entry(&image, "latest", Some(&newer), &digest("old"));
        let undone = History { entries: read().entries, finished: BTreeSet::new() };
        let undo = JournalEntry { undoes: Some(first.publish.clone()), ..undo };
        let undone = History { entries: [undone.entries, vec![undo]].concat(), ..undone };
        assert_ne!(JournalRun::of_release("r", &undone).publish, first.publish);
        journal.finish("r").unwrap();
        assert_ne!(JournalRun::of_release("r", &read()).publish, first.publish);
    }
}
