//! The journal of what was published: which tag named what before. A line is on disk before its tag moves.

use crate::state;
use error::Error;
use image_model::digest::Digest;
use image_model::reference::Reference;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One line: a tag that was about to move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970.
    pub time: u64,
    /// The same in all lines of one run.
    pub publish: String,
    /// HOST/REPOSITORY, or a local store by its whole path.
    pub image: String,
    pub tag: String,
    pub old: Option<Digest>,
    pub new: Digest,
    /// The run that this one takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
}

/// One run, which may move several tags.
pub struct Publish {
    time: u64,
    name: String,
    undoes: Option<String>,
}

impl Publish {
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}.{:09}-{}", since.as_secs(), since.subsec_nanos(), std::process::id());
        Self { time: since.as_secs(), name, undoes: None }
    }

    pub fn undoing(publish: &str) -> Self {
        Self { undoes: Some(publish.into()), ..Self::new() }
    }

    pub fn moving(&self, image: &Reference, tag: &str, old: Option<&Digest>, new: &Digest) -> Entry {
        Entry {
            time: self.time,
            publish: self.name.clone(),
            image: place_of(image),
            tag: tag.into(),
            old: old.cloned(),
            new: new.clone(),
            undoes: self.undoes.clone(),
        }
    }
}

impl Default for Publish {
    fn default() -> Self {
        Self::new()
    }
}

/// A store by a name that means the same from everywhere.
pub fn place_of(image: &Reference) -> String {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    let place = match image {
        Reference::Registry(image) => return image.name(),
        Reference::OciLayout { dir, .. } => Reference::OciLayout { dir: whole(dir), tag: None },
        Reference::OciArchive { file, .. } => Reference::OciArchive { file: whole(file), tag: None },
        Reference::DockerArchive { file, .. } => Reference::DockerArchive { file: whole(file), name: None },
        Reference::DockerDaemon { .. } | Reference::Stdin => image.clone(),
    };
    place.to_string()
}

pub struct Journal {
    path: PathBuf,
}

impl Journal {
    pub fn of_user() -> Result<Self, Error> {
        Ok(Self { path: state::folder("find the journal")?.join("journal.jsonl") })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `Ok` means that the line is on disk.
    pub fn append(&self, entry: &Entry) -> Result<(), Error> {
        let written =
            serde_json::to_string(entry).map_err(std::io::Error::other).and_then(|line| self.write(&line));
        written.map_err(|e| {
            Error::local(format!("record the push in \"{}\"", self.path.display()), e.to_string())
                .hint("the tag was not moved; set XDG_STATE_HOME to a writable directory")
        })
    }

    fn write(&self, line: &str) -> std::io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir)?;
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
        file.lock()?;
        // A line that broke off is ended, so that it spoils no other.
        let gap = if ends_in_a_line(&mut file)? { "" } else { "\n" };
        file.write_all(format!("{gap}{line}\n").as_bytes())?;
        file.sync_all()?;
        // A new file is there for good only when its folder is written.
        if is_new { File::open(dir)?.sync_all() } else { Ok(()) }
    }

    /// All entries, oldest first. What cannot be read is no entry: the line of a run that was killed.
    pub fn read(&self) -> Result<Vec<Entry>, Error> {
        match std::fs::read(&self.path) {
            Ok(text) => {
                let lines = text.split(|byte| *byte == b'\n');
                Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::from_io(format!("read \"{}\"", self.path.display()), e)),
        }
    }
}

fn ends_in_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// What a person wants to take back: a tag of an image, any tag of it, or whatever came last.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// As [`place_of`] names it.
    pub image: Option<String>,
    pub tag: Option<String>,
}

impl Wish {
    fn means(&self, entry: &Entry) -> bool {
        self.image.as_ref().is_none_or(|image| entry.image == *image)
            && self.tag.as_ref().is_none_or(|tag| entry.tag == *tag)
    }
}

/// The last run, whatever it did.
pub fn newest(entries: &[Entry], wish: &Wish) -> Vec<Entry> {
    let Some(newest) = entries.iter().rev().find(|entry| wish.means(entry)) else { return Vec::new() };
    entries.iter().filter(|entry| entry.publish == newest.publish && wish.means(entry)).cloned().collect()
}

/// What the last run did that nobody has taken back yet: its entries, the last first.
pub fn last<'a>(entries: &'a [Entry], wish: &Wish) -> Vec<&'a Entry> {
    last_of(entries, wish, &|_| true)
}

/// The same of the last run that moved a tag away from something: a new tag has nothing to go back to.
pub fn last_with_a_way_back<'a>(entries: &'a [Entry], wish: &Wish) -> Vec<&'a Entry> {
    last_of(entries, wish, &|entry| entry.old.is_some())
}

fn last_of<'a>(entries: &'a [Entry], wish: &Wish, more: &dyn Fn(&Entry) -> bool) -> Vec<&'a Entry> {
    let is_undone = |entry: &Entry| {
        // With the tags that moved, the new ones of their run are done with: they were left where they are.
        let is_it =
            |other: &Entry| entry.old.is_none() || (&other.image, &other.tag) == (&entry.image, &entry.tag);
        entries.iter().any(|other| other.undoes.as_deref() == Some(entry.publish.as_str()) && is_it(other))
    };
    let is_meant = |entry: &&Entry| entry.undoes.is_none() && wish.means(entry) && !is_undone(entry);
    let Some(newest) = entries.iter().rev().find(|entry| is_meant(entry) && more(entry)) else {
        return Vec::new();
    };
    entries.iter().rev().filter(|entry| entry.publish == newest.publish && is_meant(entry)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(publish: &str, image: &str, tag: &str, undoes: Option<&str>) -> Entry {
        let undoes = undoes.map(str::to_string);
        let (publish, image, tag) = (publish.to_string(), image.to_string(), tag.to_string());
        Entry { time: 1, publish, image, tag, old: Some(Digest::of(b"old")), new: Digest::of(b"x"), undoes }
    }

    #[test]
    fn lines_are_added_and_a_broken_one_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal { path: dir.path().join("deep/journal.jsonl") };
        assert_eq!(journal.read().unwrap(), []);
        journal.append(&entry("1", "a", "x", None)).unwrap();
        let mut file = OpenOptions::new().append(true).open(&journal.path).unwrap();
        file.write_all(b"\xff\xfe{\"garbage\n{\"time\":1,\"publi").unwrap();
        journal.append(&entry("2", "a", "x", None)).unwrap();
        assert_eq!(journal.read().unwrap(), [entry("1", "a", "x", None), entry("2", "a", "x", None)]);
    }

    #[test]
    fn the_last_run_is_found_and_what_was_taken_back_is_passed_over() {
        let found = |entries: &[Entry], image: Option<&str>, tag: Option<&str>| {
            let wish = Wish { image: image.map(Into::into), tag: tag.map(Into::into) };
            last(entries, &wish).iter().map(|e| format!("{}{}", e.publish, e.tag)).collect::<Vec<_>>()
        };
        let mut entries = vec![
            entry("1", "a", "x", None),
            entry("1", "a", "y", None),
            entry("2", "b", "x", None),
            entry("3", "a", "x", None),
        ];
        assert_eq!(found(&entries, None, None), ["3x"]);
        assert_eq!(found(&entries, Some("b"), None), ["2x"]);
        assert_eq!(found(&entries, Some("a"), Some("y")), ["1y"]);
        assert_eq!(found(&entries, Some("c"), None), [""; 0]);
        entries.push(entry("4", "a", "x", Some("3")));
        assert_eq!(found(&entries, None, None), ["2x"]);
        assert_eq!(found(&entries, Some("a"), None), ["1y", "1x"]);
        // Of a run that was taken back halfway, the rest is still to be taken back.
        entries.push(entry("5", "a", "y", Some("1")));
        assert_eq!(found(&entries, Some("a"), None), ["1x"]);
        assert_eq!(newest(&entries, &Wish::default()), [entry("5", "a", "y", Some("1"))]);
    }

    #[test]
    fn a_run_with_new_tags_is_taken_back_with_those_that_moved() {
        let new = |publish: &str, tag: &str| Entry { old: None, ..entry(publish, "a", tag, None) };
        let moved = |publish: &str, undoes: Option<&str>| entry(publish, "a", "latest", undoes);
        let found = |steps: Vec<&Entry>| {
            steps.iter().map(|e| format!("{}{}", e.publish, e.tag)).collect::<Vec<_>>().join(" ")
        };
        let any = Wish::default();
        let mut entries = vec![moved("1", None), moved("2", None), new("2", "1.0")];
        assert_eq!(found(last(&entries, &any)), "21.0 2latest");
        entries.push(moved("3", Some("2")));
        assert_eq!(found(last(&entries, &any)), "1latest", "its new tag is left, and done with");
        entries.push(new("4", "2.0"));
        assert_eq!(found(last(&entries, &any)), "42.0");
        assert_eq!(found(last_with_a_way_back(&entries, &any)), "1latest");
    }
}
