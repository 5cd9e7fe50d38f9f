//! Programs that are killed at any system call that changes a file: layouts and archives have a complete image, a rerun
//! completes the job, and no temporary file remains.

use crate::samples::{Image, Index};
use crate::tools::{User, listing, program, run};
use image_store::archive::DockerArchive;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::{need, world};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// System calls that change files. Each element is counted separately.
const CALLS: [&str; 7] = [
    "openat",
    "write",
    "fsync",
    "rename,renameat,renameat2,link,linkat",
    "fchmod",
    "mkdir",
    "copy_file_range",
];

struct Job {
    /// Writes the input files to the user's working directory.
    prepare: fn(&User),
    program: &'static str,
    args: &'static [&'static str],
    /// Checks the result. Returns false if it is still the old one.
    is_done: fn(&User) -> bool,
}

fn sweep(job: &Job) {
    need!(world::require(&["strace"]));
    let begun = Instant::now();
    let (mut undone, mut done) = (0, 0);
    for calls in CALLS {
        for nth in 1.. {
            match killed_at(job, calls, nth) {
                None => break,
                Some(false) => undone += 1,
                Some(true) => done += 1,
            }
        }
    }
    eprintln!("killed at {} places, {done} with the work done, in {:?}", undone + done, begun.elapsed());
    assert!(undone > 20 && done > 0, "{undone} before, {done} after");
}

/// Kills the job at its n-th call of these kinds and runs it again. Returns whether the job was done at the kill, or `None`
/// if it has fewer calls.
fn killed_at(job: &Job, calls: &str, nth: usize) -> Option<bool> {
    let at = format!("{} of {calls}", nth);
    let user = User::new();
    (job.prepare)(&user);
    let mut command = Command::new(world::program("strace").unwrap());
    let plain = user.command(job.program, job.args);
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:signal=SIGKILL:when={nth}")])
        .arg(program(job.program))
        .args(job.args)
        .current_dir(user.work())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    // strace exits with the status of the traced program.
    let killed = run(command);
    if killed.code.is_some() {
        killed.exits(0);
        return None;
    }
    let was_done = (job.is_done)(&user);
    let again = user.run(job.program, job.args);
    assert_eq!(again.code, Some(0), "killed at {at}, then: {again}");
    assert!((job.is_done)(&user), "killed at {at}, then: {again}");
    let left: Vec<_> = listing(&user.work())
        .into_keys()
        .filter(|path| path.file_name().unwrap().to_string_lossy().ends_with("tmp"))
        .collect();
    assert!(left.is_empty(), "killed at {at}, temporary files: {left:?}");
    Some(was_done)
}

fn mislabeled() -> Image {
    Image::new("linux/amd64", "arm's own")
}

fn index() -> Index {
    Index::of(&[("linux/amd64", &Image::new("linux/amd64", "amd64's own")), ("linux/arm/v7", &mislabeled())])
}

fn index_in_a_layout(user: &User) {
    index().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
}

/// Checks the image with this tag. Returns its digest.
fn checked_digest(store: &dyn ImageSource, tag: &str) -> Option<String> {
    let tag = Pointer::Tag(tag.into());
    let found = store.resolve(&tag).unwrap()?;
    let problems: Vec<_> = check(store, &tag, CheckDepth::Layers)
        .into_iter()
        // The mismatch that the job fixes.
        .filter(|problem| !problem.what.contains("the config declares linux/amd64"))
        .collect();
    assert_eq!(problems, []);
    Some(found.digest.to_string())
}

fn is_layout(dir: &Path) -> bool {
    dir.join("oci-layout").exists()
}

#[test]
fn a_copy_into_a_new_layout() {
    sweep(&Job {
        prepare: index_in_a_layout,
        program: "manifest-push",
        args: &["copy", "oci:in:1", "oci:out:1"],
        is_done: |user| {
            let dir = user.path("out");
            let digest =
                is_layout(&dir).then(|| checked_digest(&OciLayout::open(&dir).unwrap(), "1")).flatten();
            digest.inspect(|digest| assert_eq!(digest, index().digest())).is_some()
        },
    });
}

#[test]
fn a_fix_in_a_layout() {
    sweep(&Job {
        prepare: index_in_a_layout,
        program: "config-patcher",
        args: &["fix", "oci:in:1", "--from-index"],
        is_done: |user| {
            let digest = checked_digest(&OciLayout::open(&user.path("in")).unwrap(), "1").unwrap();
            if digest == index().digest() {
                return false;
            }
            user.config_patcher(&["fix", "oci:in:1", "--from-index", "--check"]).exits(0);
            true
        },
    });
}

#[test]
fn a_fix_in_a_docker_save_archive() {
    sweep(&Job {
        prepare: |user| drop(user.write("app.tar", mislabeled().classic_archive("app:1"))),
        program: "config-patcher",
        args: &["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"],
        is_done: |user| {
            let now = fs::read(user.path("app.tar")).unwrap();
            if now == mislabeled().classic_archive("app:1") {
                return false;
            }
            let store = DockerArchive::open(&user.path("app.tar"), None).unwrap();
            checked_digest(&store, "app:1").unwrap();
            user.config_patcher(&[
                "fix",
                "docker-archive:app.tar",
                "--set-platform",
                "linux/arm/v7",
                "--check",
            ])
            .exits(0);
            true
        },
    });
}

#[test]
fn a_copy_into_a_new_archive() {
    sweep(&Job {
        prepare: index_in_a_layout,
        program: "manifest-push",
        args: &["copy", "oci:in:1", "docker-archive:out.tar:app:1"],
        is_done: |user| {
            let path = user.path("out.tar");
            if !path.exists() {
                return false;
            }
            assert_eq!(
                checked_digest(&DockerArchive::open(&path, None).unwrap(), "app:1").as_deref(),
                Some(index().digest())
            );
            true
        },
    });
}
