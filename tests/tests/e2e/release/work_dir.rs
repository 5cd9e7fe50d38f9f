//! Pruning of work directories.

use super::{digest_of, spec, user_with_spec};
use crate::tools::{User, listing};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn age(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * 86_400);
    fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

/// The default work directory of `DIR/release.yaml`.
fn work_dir(user: &User, dir: &str) -> PathBuf {
    let cache = user.work().with_file_name("home/.cache/multiarch");
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(dir);
    fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).find(named).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    listing(dir).into_keys().map(|path| dir.join(path)).filter(|path| path.is_file()).collect()
}

#[test]
fn content_that_was_not_used_for_a_month_is_removed_and_built_again() {
    let user = user_with_spec(&spec("oci:out"));
    let first = user.release(&["app/release.yaml"]).exits(0);
    // Another spec, which is not released again for a while.
    for file in files(&user.path("app")).iter().filter(|file| !file.starts_with(user.path("app/out"))) {
        let to = user.path("old").join(file.strip_prefix(user.path("app")).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    user.release(&["old/release.yaml"]).exits(0);
    let (app, old) = (work_dir(&user, "app-"), work_dir(&user, "old-"));
    let staged = files(&app.join("staging/blobs"));
    for file in files(&app).iter().chain(&files(&old)) {
        age(file, 31);
    }
    fs::remove_file(app.with_file_name(".swept")).unwrap();
    user.write("app/amd64", "a new program for amd64");
    user.release(&["app/release.yaml"]).exits(0);
    // Two images are the same as before; one has another layer, config and manifest.
    let now = files(&app.join("staging/blobs"));
    let gone = staged.iter().filter(|blob| !now.contains(blob)).count();
    assert_eq!((gone, now.len()), (3, staged.len()), "{now:?}");
    assert!(!old.join("staging").exists() && !old.join("records").exists());
    user.run("xtask", &["rollback", old.join("report.json").to_str().unwrap()])
        .exits(3)
        .assert_stderr_contains("the push created the tag");
    let again = user.release(&["old/release.yaml"]).exits(0).assert_stderr_contains("nothing to do");
    assert_eq!(digest_of(&again), digest_of(&first));

    // Directories beside one that was given with --work-dir are not touched.
    user.release(&["app/release.yaml", "--work-dir", "w/own-0123456789ab"]).exits(0);
    user.write("w/other-0123456789ab/lock", "");
    user.write("w/other-0123456789ab/build/precious", "");
    age(&user.path("w/other-0123456789ab/lock"), 400);
    user.release(&["app/release.yaml", "--work-dir", "w/own-0123456789ab"]).exits(0);
    assert!(user.path("w/other-0123456789ab/build/precious").exists() && !user.path("w/.swept").exists());
}
