//! System calls that fail or are the last one before a kill, for every call that changes a file: the old or the new image
//! is complete, and a rerun completes the job. `local.rs` kills copies as well; here calls also fail with errors of disks.

use crate::local_jobs::{
    Job, LAYOUT, NEW_FORM_IN_PLACE, OCI_ARCHIVE, TAR, TAR_IN_PLACE, checked_digest, mislabeled,
};
use crate::tools::{Ran, User, listing, program, run};
use image_store::store::ImageSource;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::{need, world};
use std::time::Instant;

/// System calls that change files. Each element is counted separately.
const CALLS: [&str; 10] = [
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "rename,renameat,renameat2,link,linkat",
    "unlink,unlinkat",
    "fchmod,fchown,utimensat",
    "flistxattr,fgetxattr,fsetxattr",
    "mkdir",
    "copy_file_range",
];

/// Errors of disks: full, defective, over quota, read-only after a defect, and a file that is too large.
const ERRORS: [&str; 5] = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "EFBIG"];

/// Runs the job with a fault at the n-th call of these kinds.
fn with_fault(user: &User, job: &Job, calls: &str, fault: &str, nth: usize) -> Ran {
    let mut command = std::process::Command::new(world::program("strace").unwrap());
    let plain = user.command("config-patcher", job.args);
    command
        .args([
            "-f",
            "-qq",
            "-o",
            &user.path("../trace").display().to_string(),
            "-e",
            &format!("trace={calls}"),
        ])
        .args(["-e", &format!("inject={calls}:{fault}:when={nth}")])
        .arg(program("config-patcher"))
        .args(job.args)
        .current_dir(user.work())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    run(command)
}

fn was_injected(user: &User) -> bool {
    let trace = std::fs::read_to_string(user.path("../trace")).unwrap();
    trace.contains("(INJECTED)") || trace.contains("killed by SIGKILL")
}

/// Returns whether the call may have failed after the replacement of the image: the directory's fsync, the read of the tag,
/// or the output.
fn is_after_the_change(calls: &str, ran: &Ran) -> bool {
    match calls {
        "fsync" => true,
        "openat" => ran.stderr.contains("cannot read "),
        "write" => ran.stderr.contains("cannot print the result on stdout"),
        _ => false,
    }
}

fn sweep(job: &Job) {
    need!(world::require(&["strace"]));
    let begun = Instant::now();
    let (before, after) = {
        let user = User::new();
        (job.prepare)(&user);
        let before = (job.digest)(&user);
        user.run("config-patcher", job.args).exits(0);
        (before, (job.digest)(&user))
    };
    assert_ne!(before, after);
    let (mut places, mut failed) = (0, 0);
    let kill = ["signal=SIGKILL".to_string()];
    let faults: Vec<String> = kill.into_iter().chain(ERRORS.map(|error| format!("error={error}"))).collect();
    for calls in CALLS {
        for fault in &faults {
            for nth in 1.. {
                let user = User::new();
                (job.prepare)(&user);
                let at = format!("{fault} at {nth} of {calls}");
                let ran = with_fault(&user, job, calls, fault, nth);
                if !was_injected(&user) {
                    assert_eq!(ran.code, Some(0), "{at}: {ran}");
                    break;
                }
                places += 1;
                let now = (job.digest)(&user);
                match ran.code {
                    // The call was optional.
                    Some(0) => assert_eq!(now, after, "{at}: {ran}"),
                    Some(code) => {
                        failed += 1;
                        assert!(code != 101, "{at}: {ran}");
                        let done = now == after && is_after_the_change(calls, &ran);
                        assert!(now == before || done, "{at}: the image changed despite the error: {ran}");
                    }
                    None => assert!(now == before || now == after, "{at}"),
                }
                let again = user.run("config-patcher", job.args);
                assert_eq!(
                    (again.code, (job.digest)(&user)),
                    (Some(0), after.clone()),
                    "{at}, then: {again}"
                );
                let left: Vec<_> = listing(&user.work())
                    .into_keys()
                    .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
                    .filter(|name| name.ends_with("tmp") || name.ends_with("journal"))
                    .collect();
                assert!(left.is_empty(), "{at}: temporary files: {left:?}");
            }
        }
    }
    eprintln!("{places} faults, {failed} errors, in {:?}", begun.elapsed());
    assert!(places > 40 && failed > 20, "{places} {failed}");
}

#[test]
fn a_rewritten_docker_archive() {
    sweep(&TAR);
}

#[test]
fn a_docker_archive_in_place() {
    sweep(&TAR_IN_PLACE);
}

#[test]
fn an_index_in_a_docker_archive_in_place() {
    sweep(&NEW_FORM_IN_PLACE);
}

#[test]
fn a_rewritten_oci_archive() {
    sweep(&OCI_ARCHIVE);
}

#[test]
fn a_layout() {
    sweep(&LAYOUT);
}

/// Ten concurrent copies to one layout, each with its own tag.
#[test]
fn ten_writers_leave_ten_tags() {
    let user = User::new();
    mislabeled().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let children: Vec<_> = (0..10)
        .map(|i| {
            let to = format!("oci:out:t{i}");
            user.command("manifest-push", &["copy", "oci:in:1", &to]).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let out = OciLayout::open(&user.path("out")).unwrap();
    assert_eq!(out.tags().unwrap().len(), 10);
    for tag in out.tags().unwrap() {
        assert_eq!(checked_digest(&out, &tag), mislabeled().digest());
    }
}

/// Ten concurrent fixes, each of which moves its own tag to the same new image.
#[test]
fn ten_fixes_of_one_layout_leave_ten_tags() {
    let user = User::new();
    mislabeled().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let tags: Vec<String> = (0..10).map(|i| format!("t{i}")).collect();
    let fix = |tag: &String| {
        let args = ["fix", "oci:in:1", "--set-platform", "linux/arm/v7", "--tag", tag];
        user.command("config-patcher", &args).spawn().unwrap()
    };
    let children: Vec<_> = tags.iter().map(fix).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let layout = OciLayout::open(&user.path("in")).unwrap();
    assert_eq!(layout.tags().unwrap(), [vec!["1".to_string()], tags.clone()].concat());
    for tag in tags {
        assert_eq!(checked_digest(&layout, &tag), mislabeled().relabeled("arm", "v7").digest());
    }
}
