//! Short writes: at a file size limit, on a nearly full disk, and to a pipe whose writer is stopped. Each change is made
//! completely, or not at all with one error message.

use crate::local_jobs::{
    CARRIED, Job, LAYOUT, NEW_FORM_IN_PLACE, NEW_LAYOUT, NEW_TAR, OCI_ARCHIVE, TAR, TAR_IN_PLACE, mislabeled,
};
use crate::samples::Image;
use crate::tools::{Ran, User, listing, program, run, shown};
use image_store::archive::DockerArchive;
use image_store::store::ImageSource;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::world::{Namespace, program as system};
use multiarch_tests::{need, world};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

const JOBS: [&Job; 8] =
    [&TAR, &TAR_IN_PLACE, &NEW_FORM_IN_PLACE, &OCI_ARCHIVE, &LAYOUT, &CARRIED, &NEW_LAYOUT, &NEW_TAR];

/// Offsets within headers, content and padding, at their ends, and after the end of all files.
const LIMITS: [u64; 12] = [0, 1, 100, 300, 511, 513, 1000, 4000, 5120, 8000, 10_239, 30_000];

/// Asserts exit code 9 and one error message that contains `why`.
fn assert_io_error(ran: &Ran, why: &str) {
    assert_eq!(ran.code, Some(9), "{ran}");
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("config-patcher: ")).collect();
    assert!(matches!(errors[..], [only] if only.contains(why)), "{ran}");
}

/// The write that would go beyond the limit is short, the next one fails (setrlimit(2), RLIMIT_FSIZE).
#[test]
fn a_file_size_limit_never_leaves_a_partly_changed_image() {
    need!(world::require(&["prlimit"]));
    for job in JOBS {
        let (mut done, mut refused) = (0, 0);
        for limit in LIMITS {
            let user = User::new();
            (job.prepare)(&user);
            let (old, before) = ((job.digest)(&user), listing(&user.work()));
            let plain = user.command("config-patcher", job.args);
            let mut command = Command::new(system("prlimit").unwrap());
            command.arg(format!("--fsize={limit}")).arg(plain.get_program()).args(plain.get_args());
            command
                .current_dir(user.work())
                .envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let ran = run(command);
            if ran.code == Some(0) {
                done += 1;
                assert_ne!((job.digest)(&user), old, "limit {limit}: {ran}");
                continue;
            }
            refused += 1;
            assert_io_error(&ran, "file too large");
            assert_eq!((job.digest)(&user), old, "limit {limit}: {ran}");
            // A layout may have a new lock file and new blobs without references.
            for (path, (mode, _, _, content)) in before.iter().filter(|(path, _)| path.is_file()) {
                let now = &listing(&user.work())[path];
                assert!((now.0, &now.3) == (*mode, content), "{}, limit {limit}: {ran}", path.display());
            }
            user.run("config-patcher", job.args).exits(0);
        }
        assert!(done > 0 && refused > 3, "{:?}: {done} done, {refused} refused", job.args);
    }
}

/// The output of a filter that reaches the limit is truncated at an offset where no archive ends.
#[test]
fn the_truncated_output_of_a_filter_is_not_an_archive() {
    need!(world::require(&["prlimit"]));
    let user = User::new();
    user.write("app.tar", mislabeled().classic_archive("app:1"));
    let mut refused = 0;
    for limit in LIMITS {
        let out = user.path("out.tar");
        let mut command = Command::new(system("prlimit").unwrap());
        command.arg(format!("--fsize={limit}")).arg(program("config-patcher"));
        command.args(["fix", "-", "--set-platform", "linux/arm/v7"]).current_dir(user.work());
        command.stdin(File::open(user.path("app.tar")).unwrap()).stdout(File::create(&out).unwrap());
        let ran = Ran::of(shown(&command), command.output().unwrap());
        if ran.code == Some(0) {
            DockerArchive::open(&out, None).unwrap();
            continue;
        }
        refused += 1;
        assert_io_error(&ran, "file too large");
        assert!(DockerArchive::open(&out, None).is_err(), "limit {limit}: {ran}");
    }
    assert!(refused > 8 && refused < LIMITS.len(), "{refused}");
}

/// On a tmpfs with a limited number of pages, a write that begins on the last page is short.
#[test]
fn a_nearly_full_disk_keeps_the_old_image() {
    let namespace = need!(Namespace::start());
    let large = Image::new("linux/amd64", &"x".repeat(30_000));
    let fix = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"];
    for more in
        [&[][..], &["--in-place"], &["--output", "oci:new:1"], &["--output", "docker-archive:new.tar:a:1"]]
    {
        let (mut done, mut refused) = (0, 0);
        let args = [&fix[..], more].concat();
        for pages in 1.. {
            let user = User::new();
            let archive = user.write("../app.tar", large.classic_archive("app:1"));
            let pages_of_archive = fs::metadata(&archive).unwrap().len().div_ceil(4096);
            // The root directory of a tmpfs needs one page.
            let size = (pages_of_archive + pages) * 4096;
            let script = format!(
                "mount -t tmpfs -o size={size} tmpfs . && cd . && cp '{0}' app.tar && \
                 {{ \"$0\" \"$@\"; code=$?; cmp -s app.tar '{0}' && echo same >&2; cp -a . ../left; exit $code; }}",
                archive.display()
            );
            let plain = user.command("config-patcher", &args);
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script]).arg(plain.get_program()).args(plain.get_args());
            command.current_dir(user.work());
            plain.get_envs().filter_map(|(key, value)| Some((key, value?))).for_each(|(key, value)| {
                command.env(key, value);
            });
            let ran = run(namespace.enter(&command));
            let left = user.path("../left");
            if ran.code == Some(0) {
                done += 1;
                if done == 3 {
                    break;
                }
                continue;
            }
            refused += 1;
            assert_io_error(&ran, "no space left");
            assert!(ran.stderr.lines().any(|line| line == "same"), "{pages} pages: {ran}");
            let names: Vec<_> = listing(&left).into_keys().collect();
            assert!(!names.iter().any(|name| name.to_string_lossy().ends_with("tmp")), "{ran}\n{names:?}");
            assert!(!left.join("new.tar").exists());
            if left.join("new/oci-layout").exists() {
                assert_eq!(OciLayout::open(&left.join("new")).unwrap().tags().unwrap(), [""; 0]);
            }
        }
        assert!(refused > 0, "{args:?}");
    }
}

/// A blocked write to a pipe that is stopped returns the number of bytes written so far (pipe(7), signal(7)).
#[test]
fn a_filter_that_is_stopped_and_continued_writes_every_byte() {
    need!(world::require(&["strace"]));
    let user = User::new();
    let image = Image::new("linux/amd64", &"x".repeat(6 << 20));
    user.write("app.tar", image.classic_archive("app:1"));
    let fix = ["fix", "-", "--set-platform", "linux/arm/v7"];
    let mut undisturbed = user.command("config-patcher", &fix);
    undisturbed.stdin(File::open(user.path("app.tar")).unwrap());
    let expected = undisturbed.output().unwrap().stdout;

    let mut command = Command::new(world::program("strace").unwrap());
    command.args(["-f", "-qq", "-s", "0", "-e", "trace=read,write", "-o"]).arg(user.path("trace"));
    command.arg(program("config-patcher")).args(fix);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = shown(&command);
    let mut strace = command.spawn().unwrap();
    let (mut stdin, mut stdout) = (strace.stdin.take().unwrap(), strace.stdout.take().unwrap());
    let archive = fs::read(user.path("app.tar")).unwrap();
    // Small pieces with delays, so that reads are short as well.
    let fed = std::thread::spawn(move || {
        archive.chunks(97_003).try_for_each(|piece| {
            std::thread::sleep(Duration::from_millis(2));
            stdin.write_all(piece)
        })
    });
    let mut passed = vec![0; 10];
    // From now on the filter runs and has enlarged its pipe.
    stdout.read_exact(&mut passed).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    let traced = fs::read_to_string(&children).unwrap();
    let mut piece = vec![0; 150_000];
    loop {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            // It may have exited; its last output is still in the pipe.
            if fs::read_to_string(&children).is_ok_and(|running| running == traced) {
                let _ = kill(Pid::from_raw(traced.trim().parse().unwrap()), signal);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        match stdout.read(&mut piece).unwrap() {
            0 => break,
            count => passed.extend(&piece[..count]),
        }
    }
    Ran::of(line, strace.wait_with_output().unwrap()).exits(0);
    fed.join().unwrap().unwrap();
    assert!(passed == expected, "{} of {} bytes", passed.len(), expected.len());
    let trace = fs::read_to_string(user.path("trace")).unwrap();
    for call in ["read(", "write("] {
        let short = trace.lines().filter(|line| line.contains(call) && is_short(line)).count();
        assert!(short > 0, "no {call} was short\n{trace}");
    }
    user.write("out.tar", passed);
    DockerArchive::open(&user.path("out.tar"), None).unwrap();
}

/// Parses a line such as `write(1, ""..., 262144) = 65536`. Small requests belong to other files.
fn is_short(line: &str) -> bool {
    let Some((call, result)) = line.rsplit_once(" = ") else { return false };
    let requests =
        call.trim_end().trim_end_matches(')').rsplit(", ").next().and_then(|count| count.parse().ok());
    matches!((requests, result.parse::<u64>()), (Some(requests), Ok(done)) if requests > 1 << 16 && (1..requests).contains(&done))
}
