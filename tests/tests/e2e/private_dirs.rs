//! Directories that outlive a run (cache, state, work directory) if other users own them, can write in them, or put links
//! and pipes in them; and layouts with links and pipes.

use crate::samples::Image;
use crate::tools::{Ran, User, listing, run};
use crate::verify::made;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::{need, world};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// A user ID that does not exist on the host.
const OTHER: u32 = 12_345;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pipe(path: &Path) {
    mkfifo(path, Mode::S_IRWXU).unwrap();
}

fn home(user: &User, path: &str) -> PathBuf {
    user.work().with_file_name("home").join(path)
}

/// A user with a spec of one image, and a directory for temporary files.
fn with_spec() -> User {
    let user = User::new();
    user.write("app", "the program");
    user.write("release.yaml", "image: oci:out\nplatforms:\n  linux/amd64: { copy: { app: /app } }\n");
    fs::create_dir(user.path("tmp")).unwrap();
    user
}

fn release(user: &User, args: &[&str]) -> Ran {
    let mut command = user.command("multiarch", &[&["release", "release.yaml"], args].concat());
    command.env("TMPDIR", user.path("tmp"));
    run(command)
}

/// What releases left in the directory for temporary files.
fn temporary(user: &User) -> Vec<String> {
    let paths = listing(&user.path("tmp")).into_keys();
    let shown = |path: PathBuf| path.strip_prefix(user.path("tmp")).unwrap().display().to_string();
    paths.filter(|path| path.is_file()).map(shown).collect()
}

/// The release is published and can be rolled back with the journal, from nothing but a temporary work directory.
fn releases_with_a_temporary_work_directory(user: &User, why: &str) {
    let cache = home(user, ".cache");
    let before = listing(&cache);
    let warning = "warning: cannot use the work directory";
    let ran = release(user, &[]).exits(0).assert_stderr_contains(warning).assert_stderr_contains(why);
    let report = ran.stderr.lines().find_map(|line| line.strip_prefix("report: ")).unwrap().to_string();
    assert!(report.starts_with(user.path("tmp").to_str().unwrap()), "{ran}");
    let [left] = temporary(user).try_into().unwrap();
    assert!(report.ends_with(&left), "the report alone is kept: {left}");

    user.write("app", "another program");
    release(user, &["--report", "report.json", "--dry-run"]).exits(0).assert_stderr_contains(warning);
    let second = release(user, &["--report", "report.json"]).exits(0).assert_stderr_contains(warning);
    assert_eq!(temporary(user), [left], "nothing refers to the second one");
    assert!(!second.stderr.contains("report: /"), "{second}");
    let (first, second) = (ran.line().to_string(), second.line().to_string());
    assert_ne!(first, second);
    let restored = user.run("multiarch", &["rollback", "oci:out:latest"]).exits(0);
    assert_eq!(restored.line().split_once('@').unwrap().1, first.split_once('@').unwrap().1);
    assert!(listing(&cache) == before, "the cache was changed");
}

#[test]
fn a_default_work_directory_that_others_can_write_is_replaced_by_a_temporary_one() {
    let user = with_spec();
    let ours = home(&user, ".cache/multiarch");
    fs::create_dir_all(&ours).unwrap();
    set_mode(&ours, 0o777);
    releases_with_a_temporary_work_directory(&user, "other users can write in it (mode 0777)");
    // The advice works as printed.
    let mut chmod = std::process::Command::new("chmod");
    chmod.args(["-R", "go-w"]).arg(&ours);
    run(chmod).exits(0);
    let ran = release(&user, &[]).exits(0);
    assert!(!ran.stderr.contains("warning"), "{ran}");
}

#[test]
fn a_default_work_directory_of_another_user_or_behind_a_link_is_replaced_by_a_temporary_one() {
    let user = with_spec();
    let ours = home(&user, ".cache/multiarch");
    fs::create_dir_all(ours.parent().unwrap()).unwrap();
    fs::create_dir(user.path("precious")).unwrap();
    set_mode(&user.path("precious"), 0o755);
    symlink(user.path("precious"), &ours).unwrap();
    releases_with_a_temporary_work_directory(&user, "it is a link or a file, not a directory");
    assert_eq!((mode(&user.path("precious")), listing(&user.path("precious")).len()), (0o755, 0));

    need!(world::require_root());
    let user = with_spec();
    let ours = home(&user, ".cache/multiarch");
    fs::create_dir_all(&ours).unwrap();
    chown(&ours, Some(OTHER), None).unwrap();
    releases_with_a_temporary_work_directory(&user, "it belongs to user 12345");
}

/// The error of a failed build refers to its log.
#[test]
fn a_log_in_a_temporary_work_directory_is_kept_if_the_report_refers_to_it() {
    let user = with_spec();
    let ours = home(&user, ".cache/multiarch");
    fs::create_dir_all(&ours).unwrap();
    set_mode(&ours, 0o777);
    user.script("buildah", "case $1 in info) echo vfs;; *) seq 100; exit 1;; esac");
    user.write("Dockerfile", "FROM scratch\nCOPY app /\n");
    user.write(
        "release.yaml",
        "image: oci:out\nplatforms:\n  linux/amd64: { dockerfile: Dockerfile, builder: buildah }\n",
    );
    let ran = release(&user, &["--report", "report.json"]).exits(10);
    let [log] = temporary(&user).try_into().unwrap();
    let log = user.path("tmp").join(log);
    let report = fs::read_to_string(user.path("report.json")).unwrap();
    assert!(log.ends_with("logs/linux-amd64.log") && report.contains(log.to_str().unwrap()), "{ran}");
}

#[test]
fn a_named_work_directory_that_is_a_link_is_refused() {
    let user = with_spec();
    fs::create_dir(user.path("real")).unwrap();
    symlink("real", user.path("w")).unwrap();
    release(&user, &["--work-dir", "w"]).exits(3).assert_stderr_contains("w\": it is a link");
    assert!(listing(&user.path("real")).is_empty());
    fs::remove_file(user.path("w")).unwrap();
    fs::create_dir(user.path("w")).unwrap();
    symlink(user.path("real"), user.path("w/records")).unwrap();
    release(&user, &["--work-dir", "w"]).exits(3).assert_stderr_contains("records\": it is a link");
    assert!(listing(&user.path("real")).is_empty() && !user.path("out").exists());
}

/// Returns whether a release uses the verdict of an earlier run.
fn uses_records(user: &User) -> bool {
    let ran = release(user, &["--work-dir", "w", "--verbose"]).exits(0);
    ran.stderr.contains("verify linux/amd64: ") && ran.stderr.contains(", from an earlier run")
}

fn records(user: &User, dir: &str) -> Vec<PathBuf> {
    fs::read_dir(user.path(dir).join("records")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn records_that_this_user_did_not_write_are_ignored() {
    let user = with_spec();
    assert!(!uses_records(&user));
    assert!(uses_records(&user));
    let change = |change: &dyn Fn(&Path)| {
        records(&user, "w").iter().for_each(|path| change(path));
        assert!(!uses_records(&user));
        assert!(uses_records(&user), "they are replaced");
    };
    // A record is not bound to its name alone: its content counts.
    change(&|path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.trim_end_matches('}').to_string() + " }").unwrap();
    });
    change(&|path| fs::write(path, fs::read_to_string(path).unwrap().split_once('\n').unwrap().1).unwrap());
    change(&|path| {
        let moved = user.path("elsewhere").join(path.file_name().unwrap());
        fs::create_dir_all(user.path("elsewhere")).unwrap();
        fs::rename(path, &moved).unwrap();
        symlink(moved, path).unwrap();
    });
    change(&|path| {
        fs::remove_file(path).unwrap();
        pipe(path);
    });

    // The records of another user, who has another key.
    let mut other = user.command("multiarch", &["release", "release.yaml", "--work-dir", "other"]);
    other.env("XDG_CACHE_HOME", user.path("cache"));
    run(other).exits(0);
    let copy = || {
        for path in records(&user, "other") {
            fs::copy(&path, user.path("w/records").join(path.file_name().unwrap())).unwrap();
        }
    };
    copy();
    assert!(!uses_records(&user));
    // A key that is not a key is replaced, at once.
    let key = home(&user, ".cache/multiarch/key");
    for plant in [&pipe as &dyn Fn(&Path), &|path| symlink("/dev/zero", path).unwrap()] {
        fs::remove_file(&key).unwrap();
        plant(&key);
        assert!(!uses_records(&user));
        assert!(uses_records(&user) && mode(&key) == 0o600);
    }
}

/// An image whose verdict needs its layers, as a layout.
fn layered(user: &User) -> String {
    let layer = made::Layer::new().file("app", &made::probe("linux/arm64")).end();
    made::image("linux/arm64", &["/app"], vec![layer]).layout(user, "image")
}

fn verify(user: &User, image: &str) -> Ran {
    user.config_patcher(&["verify", image, "--full", "--explain", "--verbose"]).exits(0)
}

#[test]
fn a_cache_of_others_is_not_used() {
    let user = User::new();
    let image = layered(&user);
    let ours = home(&user, ".cache/multiarch");
    verify(&user, &image);
    assert!(verify(&user, &image).stdout.contains("1 from the cache"));
    let is_refused = |why: &str| {
        let before = listing(&ours);
        let ran =
            verify(&user, &image).assert_stderr_contains("no cache is used").assert_stderr_contains(why);
        assert!(!ran.stdout.contains("from the cache"), "{ran}");
        assert!(listing(&ours) == before);
        let quiet = user.config_patcher(&["verify", &image, "--full"]).exits(0);
        assert!(!quiet.stderr.contains("cache"), "{quiet}");
    };
    for dir in [ours.clone(), ours.join("layers")] {
        let old = mode(&dir);
        // Others can reach what is in an open directory only.
        set_mode(&ours, 0o755);
        set_mode(&dir, 0o775);
        is_refused("other users can write in it (mode 0775)");
        set_mode(&dir, old);
        if nix::unistd::geteuid().is_root() {
            chown(&dir, Some(OTHER), None).unwrap();
            is_refused("it belongs to user 12345");
            chown(&dir, Some(0), None).unwrap();
        }
    }
    let moved = user.path("moved");
    fs::rename(&ours, &moved).unwrap();
    symlink(&moved, &ours).unwrap();
    set_mode(&moved, 0o755);
    is_refused("it is a link");
    assert_eq!(mode(&moved), 0o755);
}

#[test]
fn a_key_or_a_cached_layer_that_is_a_pipe_or_a_link_is_replaced_at_once() {
    let user = User::new();
    let image = layered(&user);
    verify(&user, &image);
    let layers = home(&user, ".cache/multiarch/layers");
    let precious = user.write("precious", [7; 32]);
    let plants: [&dyn Fn(&Path); 3] =
        [&pipe, &|path| symlink("/dev/zero", path).unwrap(), &|path| symlink(&precious, path).unwrap()];
    for name in ["key", "layer"] {
        for plant in plants {
            let mut files = listing(&layers).into_keys();
            let path = files.find(|path| path.ends_with("key") == (name == "key")).unwrap();
            fs::remove_file(&path).unwrap();
            plant(&path);
            let begun = std::time::Instant::now();
            assert!(!verify(&user, &image).stdout.contains("from the cache"));
            assert!(begun.elapsed().as_secs() < 10);
            assert!(verify(&user, &image).stdout.contains("1 from the cache"), "{name} is replaced");
            assert!(
                fs::symlink_metadata(&path).unwrap().is_file() && fs::read(&precious).unwrap() == [7; 32]
            );
        }
    }
}

const FIX: [&str; 4] = ["fix", "oci:in:1", "--set-platform", "linux/arm/v7"];

fn with_layout() -> User {
    let user = User::new();
    let image = Image::new("linux/amd64", "arm's own");
    image.store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let _ = fs::remove_file(user.path("in/.lock"));
    user
}

#[test]
fn a_lock_of_a_layout_that_is_a_pipe_or_a_link_is_refused() {
    let user = with_layout();
    let lock = user.path("in/.lock");
    let index = fs::read(user.path("in/index.json")).unwrap();
    let target = user.path("target");
    let precious = user.write("precious", "mine");
    let plants: [&dyn Fn(&Path); 3] =
        [&pipe, &|path| symlink(&target, path).unwrap(), &|path| symlink(&precious, path).unwrap()];
    for plant in plants {
        plant(&lock);
        user.config_patcher(&FIX).exits(3).assert_stderr_contains(".lock\": it is a ");
        assert!(!target.exists() && fs::read_to_string(&precious).unwrap() == "mine");
        assert_eq!(fs::read(user.path("in/index.json")).unwrap(), index);
        fs::remove_file(&lock).unwrap();
    }
    user.config_patcher(&FIX).exits(0);
}

#[test]
fn a_layout_with_linked_directories_is_read_and_not_written() {
    for part in ["blobs", "blobs/sha256"] {
        let user = with_layout();
        fs::create_dir(user.path("elsewhere")).unwrap();
        let moved = user.path("elsewhere/moved");
        fs::rename(user.path("in").join(part), &moved).unwrap();
        symlink(&moved, user.path("in").join(part)).unwrap();
        let before = (listing(&user.path("elsewhere")), fs::read(user.path("in/index.json")).unwrap());
        user.config_patcher(&["inspect", "oci:in:1"]).exits(0);
        user.manifest_push(&["copy", "oci:in:1", "oci:copy:1"]).exits(0);
        user.config_patcher(&FIX)
            .exits(3)
            .assert_stderr_contains(&format!("in/{part}\": it is a link"))
            .assert_stderr_contains("copy the image to a new layout");
        user.manifest_push(&["copy", "oci:copy:1", "oci:in:2"]).exits(0);
        let now = (listing(&user.path("elsewhere")), fs::read(user.path("in/index.json")).unwrap());
        assert!(now.0 == before.0 && now.1 != before.1, "only a tag was written");
        // The way out.
        user.manifest_push(&["copy", "oci:in:1", "oci:new:1"]).exits(0);
        user.config_patcher(&["fix", "oci:new:1", "--set-platform", "linux/arm/v7"]).exits(0);
    }
    // The directory that the user names may be a link.
    let user = with_layout();
    symlink("in", user.path("link")).unwrap();
    user.config_patcher(&["fix", "oci:link:1", "--set-platform", "linux/arm/v7"]).exits(0);
    assert!(user.path("in/.lock").is_file());
}

/// A push, which is recorded in the journal before its tag moves.
fn push(user: &User, registry: &FakeRegistry, tag: &str) -> Ran {
    user.manifest_push(&["copy", "oci:in:1", &format!("{}/app:{tag}", registry.host())])
}

#[test]
fn a_push_fails_before_it_writes_if_others_can_change_the_journal() {
    let user = with_layout();
    let registry = FakeRegistry::start();
    let state = home(&user, ".local/state/multiarch");
    let journal = state.join("journal.jsonl");
    fs::create_dir_all(&state).unwrap();
    let precious = user.write("precious", "mine\n");
    let fails = |code: u8, why: &str| {
        let ran = push(&user, &registry, "2").exits(code);
        let ran = ran.assert_stderr_contains(why).assert_stderr_contains("nothing was published");
        let written = registry.take_log().into_iter().filter(|one| !["GET", "HEAD"].contains(&&*one.method));
        assert_eq!(written.count(), 0, "{ran}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine\n");
    };
    for target in [precious.as_path(), Path::new("nowhere"), Path::new("/dev/zero")] {
        symlink(target, &journal).unwrap();
        fails(9, "it is a symbolic link");
        user.run("multiarch", &["rollback"]).exits(3).assert_stderr_contains("it is a symbolic link");
        fs::remove_file(&journal).unwrap();
    }
    assert!(!state.join("nowhere").exists());
    pipe(&journal);
    fails(9, "not a regular file");
    fs::remove_file(&journal).unwrap();

    set_mode(&state, 0o777);
    fails(4, "chmod -R go-w");
    user.run("multiarch", &["rollback"]).exits(4).assert_stderr_contains("other users can write in it");
    set_mode(&state, 0o755);
    fs::write(&journal, "").unwrap();
    set_mode(&journal, 0o666);
    fails(4, "chmod go-w");
    set_mode(&state, 0o755);
    set_mode(&journal, 0o644);
    push(&user, &registry, "1").exits(0);
    assert_eq!((mode(&state), mode(&journal)), (0o700, 0o600), "closed to others");

    need!(world::require_root());
    registry.take_log();
    chown(&journal, Some(OTHER), None).unwrap();
    fails(4, "it belongs to user 12345");
    chown(&state, Some(OTHER), None).unwrap();
    fails(4, "set XDG_STATE_HOME to a directory of this user");
    let mut elsewhere = user.command("manifest-push", &["copy", "oci:in:1", "oci:copy:1"]);
    elsewhere.env("XDG_STATE_HOME", user.path("state"));
    run(elsewhere).exits(0);
}

/// A release finds out before it builds.
#[test]
fn a_release_without_a_journal_of_this_user_builds_nothing() {
    let user = with_spec();
    let state = home(&user, ".local/state/multiarch");
    fs::create_dir_all(&state).unwrap();
    set_mode(&state, 0o777);
    let ran = release(&user, &["--work-dir", "w"]).exits(4);
    let ran = ran.assert_stderr_contains("nothing was published");
    assert!(!user.path("out").exists() && !user.path("w/staging").exists(), "{ran}");
}

#[test]
fn drafts_that_are_links_or_pipes_are_not_followed() {
    let user = User::new();
    let registry = FakeRegistry::start();
    Image::new("linux/amd64", "app").publish(&registry, "app", "amd64");
    let (list, image) = (format!("{}/app:latest", registry.host()), format!("{}/app:amd64", registry.host()));
    let create = || user.manifest_push(&["create", "--amend", &list, &image]);
    create().exits(0);
    let drafts = home(&user, ".local/state/multiarch/drafts");
    let host = drafts.join(registry.host());
    let draft = host.join("app:latest.yaml");
    assert_eq!((mode(&drafts), mode(&host), mode(&draft)), (0o700, 0o700, 0o600));

    let precious = user.write("precious", fs::read(&draft).unwrap());
    let text = fs::read(&precious).unwrap();
    fs::remove_file(&draft).unwrap();
    for plant in [&pipe as &dyn Fn(&Path), &|path| symlink(&precious, path).unwrap()] {
        plant(&draft);
        create().exits(3).assert_stderr_contains("not a regular file");
        user.manifest_push(&["push", &list]).exits(3);
        user.manifest_push(&["rm", &list]).exits(0);
    }
    fs::remove_file(drafts.join(".lock")).unwrap();
    symlink(&precious, drafts.join(".lock")).unwrap();
    create().exits(3).assert_stderr_contains(".lock\": it is a symbolic link");
    fs::remove_file(drafts.join(".lock")).unwrap();
    for dir in [&host, &drafts] {
        let moved = user.path("moved");
        fs::rename(dir, &moved).unwrap();
        symlink(&moved, dir).unwrap();
        let before = listing(&moved);
        create().exits(3).assert_stderr_contains("it is a link");
        assert!(listing(&moved) == before);
        fs::remove_file(dir).unwrap();
        fs::rename(&moved, dir).unwrap();
    }
    assert!(fs::read(&precious).unwrap() == text && registry.tag("app", "latest").is_none());
    create().exits(0);
    user.manifest_push(&["push", &list]).exits(0);
}

/// A job whose container has a home directory of another user, and a cache that was restored with common modes.
#[test]
fn a_container_job_as_root_in_the_home_of_another_user_keeps_its_directories() {
    need!(world::require_root());
    let user = with_spec();
    for dir in ["", ".cache", ".local", ".local/state"] {
        fs::create_dir_all(home(&user, dir)).unwrap();
        chown(home(&user, dir), Some(1001), Some(1001)).unwrap();
    }
    let verbose = || release(&user, &["--verbose"]).exits(0);
    let first = verbose();
    assert!(!first.stderr.contains("warning"), "{first}");
    let cache = home(&user, ".cache/multiarch");
    // `tar` and actions/cache restore with these modes.
    for path in listing(&cache).into_keys().chain([cache.clone()]) {
        set_mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
    }
    let second = verbose();
    assert!(!second.stderr.contains("warning"), "{second}");
    assert!(second.stderr.contains(", from an earlier run"), "{second}");
    let journal = home(&user, ".local/state/multiarch/journal.jsonl");
    assert_eq!((mode(&cache), mode(&journal), fs::metadata(&journal).unwrap().uid()), (0o700, 0o600, 0));
}
