//! Signals, interrupted system calls and file size limits, injected with strace and `ulimit`.

use crate::samples::Image;
use crate::stores::local_files::{FIX, mislabeled};
use crate::tools::{Ran, User, listing, program, shown};
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::{need, world};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// strace delays a system call; the signal arrives during the delay.
#[test]
fn a_terminated_program_leaves_the_old_file_and_no_temporary_files() {
    need!(world::require(&["strace"]));
    let layout = |user: &User| mislabeled().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let archive = |user: &User| drop(user.write("app.tar", mislabeled().classic_archive("app:1")));
    type Job<'a> = (&'a dyn Fn(&User), &'a str, &'a [&'a str], &'a str);
    let jobs: [Job<'_>; 3] = [
        (&archive, "app.tar", &FIX, "copy_file_range"),
        (&archive, "app.tar", &[&FIX[..], &["--in-place"]].concat(), "fsync"),
        (&layout, "in/index.json", &["fix", "oci:in:1", "--set-platform", "linux/arm/v7"], "fsync"),
    ];
    for (prepare, what, args, call) in jobs {
        for signal in [2, 15, 1] {
            let user = User::new();
            prepare(&user);
            let before = fs::read(user.path(what)).unwrap();
            let mut command = Command::new(world::program("strace").unwrap());
            let plain = user.command("config-patcher", args);
            command
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
                .args(["-e", &format!("inject={call}:delay_enter=600ms")])
                .arg(program("config-patcher"))
                .args(args)
                .current_dir(user.work())
                .env_clear()
                .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let line = shown(&command);
            let mut strace = command.spawn().unwrap();
            let temporary = || {
                let names = listing(&user.work()).into_keys();
                names.filter(|path| path.to_string_lossy().ends_with("tmp")).collect::<Vec<_>>()
            };
            let begun = Instant::now();
            while temporary().is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(10), "{line} writes nothing");
                std::thread::sleep(Duration::from_millis(2));
            }
            let children = format!("/proc/{0}/task/{0}/children", strace.id());
            let traced: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
            let number = nix::sys::signal::Signal::try_from(signal).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(traced), number).unwrap();
            // strace exits with the status of the traced program.
            let ended = strace.wait().unwrap();
            assert_eq!(ended.signal(), Some(signal), "{line}: {ended}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{line}");
            assert_eq!(temporary(), Vec::<std::path::PathBuf>::new(), "{line}, signal {signal}");
            assert!(fs::read(user.path(what)).unwrap() == before, "{line}, signal {signal}");
            user.config_patcher(args).exits(0);
        }
    }
}

/// Every system call is repeated after EINTR, and the result is the same.
#[test]
fn interrupted_calls_are_repeated() {
    need!(world::require(&["strace"]));
    let jobs: [&[&str]; 3] = [
        &FIX,
        &["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--in-place"],
        &["fix", "oci:in:1", "--set-platform", "linux/arm/v7"],
    ];
    let mut places = 0;
    for args in jobs {
        for calls in ["read,pread64", "write,pwrite64"] {
            for nth in (1..).step_by(3) {
                let user = User::new();
                user.write("app.tar", mislabeled().classic_archive("app:1"));
                mislabeled().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
                let trace = user.path("../trace");
                let mut command = Command::new(world::program("strace").unwrap());
                // Not the reads of the dynamic loader, which does not handle EINTR.
                for file in listing(&user.work()).into_keys().filter(|_| calls.starts_with("read")) {
                    command.arg("-P").arg(file);
                }
                command
                    .args(["-f", "-qq", "-o", &trace.display().to_string(), "-e", &format!("trace={calls}")])
                    .args(["-e", &format!("inject={calls}:error=EINTR:when={nth}")])
                    .arg(program("config-patcher"))
                    .args(args)
                    .current_dir(user.work());
                let ran = Ran::of(format!("{args:?}, EINTR at {nth} of {calls}"), command.output().unwrap());
                if !fs::read_to_string(trace).unwrap().contains("(INJECTED)") {
                    ran.exits(0);
                    break;
                }
                places += 1;
                ran.exits(0);
                user.config_patcher(
                    &[args, &["--check"][..]]
                        .concat()
                        .into_iter()
                        .filter(|arg| *arg != "--in-place")
                        .collect::<Vec<_>>(),
                )
                .exits(0);
            }
        }
    }
    assert!(places > 20, "{places}");
}

/// The unit of `ulimit -f` is 1 KiB; the archive is larger than the limit.
#[test]
fn a_file_size_limit_is_reported_and_the_old_file_is_kept() {
    let user = User::new();
    let text = Image::new("linux/amd64", &"x".repeat(64 << 10)).classic_archive("app:1");
    let path = user.write("app.tar", &text);
    let plain = user.command("config-patcher", &FIX);
    let mut command = Command::new("bash");
    let words = FIX.join(" ");
    command.arg("-c").arg(format!("ulimit -f 16; exec '{}' {words}", program("config-patcher").display()));
    command.current_dir(user.work()).envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    Ran::of("fix with ulimit -f".into(), command.output().unwrap())
        .exits(9)
        .assert_stderr_contains("file too large");
    assert!(fs::read(&path).unwrap() == text);
    assert_eq!(listing(&user.work()).len(), 1);
}
