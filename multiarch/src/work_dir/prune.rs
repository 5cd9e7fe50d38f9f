//! What work folders hold is bounded, by age and by size. What goes costs time, never a result: images are built anew,
//! proven anew, run anew.
//!
//! Never taken: what this run has used, a folder that another release is using.
//! Reports stay as long as their folder. Whatever fails here is passed over.

use image_model::digest::Digest;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::Image;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);
/// What nobody has used for so long goes.
const UNUSED: Duration = DAY.saturating_mul(30);
/// A folder that no release has used for so long goes with its reports.
const FORGOTTEN: Duration = DAY.saturating_mul(365);
/// Staged content of one folder, apart from what its last run has used.
const STAGED_MAX: u64 = 8 << 30;
/// Records of one folder: a few hundred bytes each.
const RECORDS_MAX: u64 = 8 << 20;
/// All folders together.
const FOLDERS_MAX: u64 = 24 << 30;
/// How often other folders are looked at.
const BETWEEN: Duration = DAY;
/// What a release can make again.
const MADE_AGAIN: [&str; 5] = ["staging", "records", "build", "smoke", "logs"];

/// Marks staged images as used now.
pub fn mark_used<'a>(staging: &OciLayout, images: impl Iterator<Item = &'a Image>) {
    let mark = |digest: &Digest| {
        let path = staging.dir().join("blobs").join(digest.algorithm()).join(digest.hex());
        drop(File::open(path).and_then(|file| file.set_modified(SystemTime::now())));
    };
    for image in images {
        mark(image.document.digest());
        image.manifest.layers.iter().chain([&image.manifest.config]).for_each(|blob| mark(&blob.digest));
    }
}

/// Makes room in a work folder whose lock the caller has. `began`: what was used since then stays.
pub fn prune(work_dir: &Path, began: SystemTime) {
    let blobs = work_dir.join("staging").join("blobs");
    let blobs: Vec<Item> =
        ["sha256", "sha512"].iter().flat_map(|algorithm| files(&blobs.join(algorithm))).collect();
    sweep(blobs, STAGED_MAX, began);
    sweep(files(&work_dir.join("records")), RECORDS_MAX, began);
}

/// Makes room among the work folders beside this one, once a day.
pub fn prune_siblings(own: &Path) {
    let Some(home) = own.parent() else { return };
    let mark = home.join(".swept");
    let looked = fs::metadata(&mark).and_then(|meta| meta.modified());
    if looked.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < BETWEEN)) {
        return;
    }
    // First, so that of two releases one does it.
    if File::create(&mark).and_then(|file| file.set_modified(SystemTime::now())).is_err() {
        return;
    }
    let mut folders: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let used = fs::metadata(entry.path().join("lock")).and_then(|meta| meta.modified());
        if let (Ok(used), true) = (used, is_named_after_a_spec(&entry.file_name().to_string_lossy())) {
            folders.push((used, entry.path()));
        }
    }
    // The youngest first: what is over when there is no room any more goes.
    folders.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
    let mut total = 0;
    for (used, folder) in folders {
        let size = size_of(&folder);
        let age = used.elapsed().unwrap_or_default();
        if folder != own && (age > UNUSED || total + size > FOLDERS_MAX) && empty(&folder, age) {
            continue;
        }
        total += size;
    }
}

/// `NAME-0123456789ab`: nothing else is touched, whatever it holds.
fn is_named_after_a_spec(name: &str) -> bool {
    let key = name.rsplit_once('-').map_or("", |(_, key)| key);
    key.len() == 12 && key.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Takes what can be made again out of a folder, or the whole folder. False: it is in use.
fn empty(folder: &Path, age: Duration) -> bool {
    let Ok(lock) = File::options().write(true).open(folder.join("lock")) else { return false };
    if lock.try_lock().is_err() {
        return false;
    }
    if age > FORGOTTEN {
        // In one step out of the way of a release that begins now.
        let gone = folder.with_file_name(format!(".gone-{}", std::process::id()));
        return fs::rename(folder, &gone).is_ok() && fs::remove_dir_all(&gone).is_ok();
    }
    for name in MADE_AGAIN {
        drop(fs::remove_dir_all(folder.join(name)));
    }
    true
}

struct Item {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

/// Whole files alone: names that begin with a dot are being written.
fn files(dir: &Path) -> Vec<Item> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let is_whole = meta.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".");
        if let (true, Ok(used)) = (is_whole, meta.modified()) {
            found.push(Item { used, size: meta.size(), path: entry.path() });
        }
    }
    found
}

/// Takes away what is too old, and the longest unused until the rest is small enough.
fn sweep(items: Vec<Item>, max: u64, began: SystemTime) {
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

fn size_of(folder: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
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
    fn in_a_folder_the_old_and_the_longest_unused_go_and_never_what_this_run_has_used() {
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
    fn prune_siblings_the_unused_lose_what_can_be_made_again_and_the_forgotten_go() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let key = |name: &str| format!("{name}-{}", image_model::digest::Digest::of(name.as_bytes()).short());
        let place = |name: &str| home.join(if name == "other" { name.to_string() } else { key(name) });
        let folder = |name: &str, days: u32, size: u64| {
            file(&place(name).join("staging/blobs/sha256/a"), size, days);
            file(&place(name).join("report.json"), 1, days);
            file(&place(name).join("lock"), 0, days);
        };
        folder("own", 0, FOLDERS_MAX / 2);
        folder("young", 1, FOLDERS_MAX / 4);
        folder("too-much", 2, FOLDERS_MAX / 2);
        for name in ["unused", "busy", "other"] {
            folder(name, 31, 1);
        }
        folder("forgotten", 366, 1);
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
        folder("unused", 31, 1);
        prune_siblings(&place("own"));
        assert!(staged(&"unused"));
    }
}
