//! Limits on the age and size of work directories. What is removed costs time only: images are built, verified and tested
//! again.
//!
//! Never removed: what this run has used, and a work directory that another release is using. Reports are removed with
//! their work directory. Errors are ignored.

use image_model::digest::Digest;
use image_store::directory::{Directory, open_regular};
use image_store::store::oci_layout::OciLayout;
use image_store::tree::Image;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);
/// Content that was not used for this long is removed.
const UNUSED: Duration = DAY.saturating_mul(30);
/// A work directory that no release has used for this long is removed with its reports.
const FORGOTTEN: Duration = DAY.saturating_mul(365);
/// Limit of staged content in one work directory, except what its last run has used.
const STAGED_MAX: u64 = 8 << 30;
/// Limit of records in one work directory, which have a few hundred bytes each.
const RECORDS_MAX: u64 = 8 << 20;
/// Limit of all work directories together.
const TOTAL_MAX: u64 = 24 << 30;
/// Minimum time between two checks of the other work directories.
const BETWEEN: Duration = DAY;
/// The file whose time is that of the last check.
const MARK: &str = ".swept";
/// Directories that a release can create again.
const REPRODUCIBLE: [&str; 5] = ["staging", "records", "build", "smoke", "logs"];

/// Marks staged images as used now.
pub fn mark_used<'a>(staging: &OciLayout, images: impl Iterator<Item = &'a Image>) {
    let mark = |digest: &Digest| {
        let path = staging.dir().join("blobs").join(digest.algorithm()).join(digest.hex());
        drop(open_regular(&path).and_then(|file| file.set_modified(SystemTime::now())));
    };
    for image in images {
        mark(image.document.digest());
        image.manifest.layers.iter().chain([&image.manifest.config]).for_each(|blob| mark(&blob.digest));
    }
}

/// Removes old content of a work directory whose lock the caller has. Content that was used since `began` stays.
pub fn prune(work_dir: &Path, began: SystemTime) {
    let blobs = work_dir.join("staging").join("blobs");
    let blobs: Vec<Item> =
        ["sha256", "sha512"].iter().flat_map(|algorithm| files(&blobs.join(algorithm))).collect();
    remove_old(blobs, STAGED_MAX, began);
    remove_old(files(&work_dir.join("records")), RECORDS_MAX, began);
}

/// Removes old content of the work directories beside this one, once a day.
pub fn prune_siblings(own: &Path) {
    let Some(home) = own.parent() else { return };
    let last = fs::symlink_metadata(home.join(MARK)).and_then(|meta| meta.modified());
    if last.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < BETWEEN)) {
        return;
    }
    // Written first, so that only one of two releases continues.
    let file = Directory::open(home).and_then(|home| home.open_lock(MARK, 0o600));
    if file.and_then(|file| file.set_modified(SystemTime::now())).is_err() {
        return;
    }
    let mut dirs: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let used = fs::symlink_metadata(entry.path().join("lock")).and_then(|meta| meta.modified());
        if let (Ok(used), true) = (used, is_default_name(&entry.file_name().to_string_lossy())) {
            dirs.push((used, entry.path()));
        }
    }
    // The last used first: the others are emptied when the limit is reached.
    dirs.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
    let mut total = 0;
    for (used, dir) in dirs {
        let size = size_of(&dir);
        let age = used.elapsed().unwrap_or_default();
        if dir != own && (age > UNUSED || total + size > TOTAL_MAX) && empty(&dir, age) {
            continue;
        }
        total += size;
    }
}

/// Returns whether this is the name of a default work directory: `NAME-0123456789ab`. Others are not touched.
fn is_default_name(name: &str) -> bool {
    let key = name.rsplit_once('-').map_or("", |(_, key)| key);
    key.len() == 12 && key.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Removes what can be created again, or all of a work directory that was not used for a year. Returns false if it is in
/// use.
fn empty(dir: &Path, age: Duration) -> bool {
    let lock = Directory::open_itself(dir).and_then(|dir| dir.open_lock("lock", 0o600));
    let Ok(lock) = lock else { return false };
    if lock.try_lock().is_err() {
        return false;
    }
    if age > FORGOTTEN {
        // Renamed first, so that a release that begins now does not use it.
        let gone = dir.with_file_name(format!(".gone-{}", std::process::id()));
        return fs::rename(dir, &gone).is_ok() && fs::remove_dir_all(&gone).is_ok();
    }
    for name in REPRODUCIBLE {
        drop(fs::remove_dir_all(dir.join(name)));
    }
    true
}

struct Item {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

/// Complete files: names of files that are being written begin with a dot.
fn files(dir: &Path) -> Vec<Item> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let is_complete = meta.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".");
        if let (true, Ok(used)) = (is_complete, meta.modified()) {
            found.push(Item { used, size: meta.size(), path: entry.path() });
        }
    }
    found
}

/// Removes what is too old, then the longest unused until the rest is below the limit.
fn remove_old(items: Vec<Item>, max: u64, began: SystemTime) {
    let mut idle: Vec<Item> = items.into_iter().filter(|item| item.used < began).collect();
    idle.sort_by_key(|item| std::cmp::Reverse(item.used));
    let mut total = 0;
    for item in idle {
        total += item.size;
        if total > max || item.used.elapsed().is_ok_and(|age| age > UNUSED) {
            drop(fs::remove_file(item.path));
        }
    }
}

fn size_of(dir: &Path) -> u64 {
    let mut total = 0;
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                Ok(meta) => total += meta.size(),
                Err(_) => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// A file without blocks on disk, last used so many days ago.
    fn file(path: &Path, size: u64, days: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(size).unwrap();
        file.set_modified(SystemTime::now() - DAY * days).unwrap();
    }

    fn left(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn old_and_least_recently_used_content_is_removed_except_that_of_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path();
        let blobs = work.join("staging/blobs/sha256");
        let began = SystemTime::now() - Duration::from_secs(60);
        file(&blobs.join("used"), STAGED_MAX * 2, 0);
        file(&blobs.join("younger"), STAGED_MAX / 2, 1);
        file(&blobs.join("older"), STAGED_MAX / 2 + 1, 2);
        file(&blobs.join("old"), 1, 31);
        file(&blobs.join(".writing"), 1, 31);
        file(&work.join("records/old"), 1, 31);
        file(&work.join("records/young"), 1, 1);
        file(&work.join("released/old.json"), 1, 300);
        prune(work, began);
        assert_eq!(left(&blobs), [".writing", "used", "younger"]);
        assert_eq!(left(&work.join("records")), ["young"]);
        assert_eq!(left(&work.join("released")), ["old.json"]);
    }

    #[test]
    fn unused_work_directories_are_emptied_and_later_removed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let key = |name: &str| format!("{name}-{}", image_model::digest::Digest::of(name.as_bytes()).short());
        let place = |name: &str| home.join(if name == "other" { name.to_string() } else { key(name) });
        let add = |name: &str, days: u32, size: u64| {
            file(&place(name).join("staging/blobs/sha256/a"), size, days);
            file(&place(name).join("report.json"), 1, days);
            file(&place(name).join("lock"), 0, days);
        };
        add("own", 0, TOTAL_MAX / 2);
        add("young", 1, TOTAL_MAX / 4);
        add("too-much", 2, TOTAL_MAX / 2);
        for name in ["unused", "busy", "other"] {
            add(name, 31, 1);
        }
        add("forgotten", 366, 1);
        let busy = File::options().write(true).open(place("busy").join("lock")).unwrap();
        busy.lock().unwrap();
        let staged = |name: &&str| place(name).join("staging").exists();
        prune_siblings(&place("own"));
        let stay = ["own", "young", "busy", "other"];
        assert!(stay.iter().all(staged), "{:?}", stay.map(|name| staged(&name)));
        assert!(!staged(&"too-much") && !staged(&"unused"));
        assert!(place("unused").join("report.json").exists(), "what a rollback needs stays");
        assert!(!place("forgotten").exists() && left(home).len() == 7, "{:?}", left(home));
        // Once a day is enough.
        add("unused", 31, 1);
        prune_siblings(&place("own"));
        assert!(staged(&"unused"));
    }
}
