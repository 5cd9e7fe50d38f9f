//! Smoke tests: a command of each image, run under its emulator before anything is published.
//!
//! No engine is needed. The verified layers are unpacked into a temporary directory; `binfmt-setup run` creates a
//! private namespace with the emulator in it, without root; in it, this program runs the command in a [sandbox].
//!
//! A missing feature of the host is [`SmokeResult::NotRun`]. Every problem that the image causes is [`SmokeResult::Failed`]: an image must not
//! be able to disable its own test.
//!
//! [sandbox]: sandbox

use crate::binfmt_setup::BinfmtSetup;
use crate::builders::runs_natively;
use crate::context::{ReleaseContext, Reporter};
use crate::report::{SmokeResult, Step};
use crate::request::Request;
use crate::stages::build::{Member, file_name};
use crate::unpack::{UnpackError, unpack};
use error::text::format_bytes;
use error::{Error, Exit};
use image_model::platform::Platform;
use image_store::parallel;
use image_store::store::ImageSource;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::Image;
use sandbox::{Sandbox, SandboxEvent, SandboxIds, SandboxUser};
use std::fs;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Emulation is slow; a program that hangs must not hang the release.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Memory of all processes of an image together.
const MEMORY_MAX: u64 = 4 << 30;
/// How often time and memory are compared with their limits.
const INTERVAL: Duration = Duration::from_millis(50);
/// The first bytes of the output are kept for the report.
const OUTPUT_MAX: usize = 4096;
const EVENTS_MAX: u64 = 64 << 10;

/// Runs the smoke command of the spec in each image that has not passed it in an earlier run. `None`: the spec has none.
///
/// # Errors
/// `CheckFailed` if the command fails in an image, with all images in which it does. An image that this host cannot run is
/// reported and does not stop the release.
pub fn smoke(
    ReleaseContext { request, records, binfmt, reporter, .. }: &ReleaseContext<'_>,
    members: &[Member],
    staging: &OciLayout,
) -> Result<Vec<Option<SmokeResult>>, Error> {
    let Reporter { output, board, state } = reporter;
    state.begin(Step::Smoke);
    let command = &request.spec.smoke;
    if command.is_empty() {
        return Ok(members.iter().map(|_| None).collect());
    }
    board.next("smoke", members.len());
    let results = parallel::map(members, request.jobs, |member| {
        let platform = &member.platform;
        let _running = board.begin(platform);
        let dir = request.work_dir.join("smoke").join(file_name(platform));
        let key = (member.image.document.digest(), platform, command);
        if let Some(passed) = records.get::<SmokeResult>("smoke", &key) {
            output.verbose_info(&format!("smoke {platform}: passed in an earlier run"));
            state.set_smoke(platform, &passed);
            return Ok(passed);
        }
        let result = run_command(staging, &member.image, platform, command, binfmt.as_ref(), &dir)?;
        state.set_smoke(platform, &result);
        if let SmokeResult::Passed { .. } = &result {
            records.keep("smoke", &key, &result)?;
        }
        output.info(&match &result {
            SmokeResult::Passed { milliseconds, output } => {
                let first_line = output.lines().next().unwrap_or_default();
                format!("smoke {platform}: passed in {milliseconds} ms: {first_line}")
            }
            SmokeResult::Failed { why, .. } => format!("smoke {platform}: FAILED: {why}"),
            SmokeResult::NotRun { why } => format!("smoke {platform}: not run on this host: {why}"),
        });
        Ok::<_, Error>(result)
    })?;
    stop_if_failed(request, members, &results)?;
    Ok(results.into_iter().map(Some).collect())
}

/// Stops the release if an image failed its test, or was not tested although that is required.
fn stop_if_failed(request: &Request, members: &[Member], results: &[SmokeResult]) -> Result<(), Error> {
    let doing = || format!("release {}", request.spec.image);
    let failed: Vec<String> = members
        .iter()
        .zip(results)
        .filter_map(|(member, result)| match result {
            SmokeResult::Failed { why, output } => {
                let output = if output.is_empty() { String::new() } else { format!(": {output}") };
                Some(format!("{}: {why}{output}", member.platform))
            }
            SmokeResult::Passed { .. } | SmokeResult::NotRun { .. } => None,
        })
        .collect();
    if !failed.is_empty() {
        let command = request.spec.smoke.join(" ");
        let why = format!("\"{command}\" failed in {} of {} images", failed.len(), members.len());
        return Err(Error::new(Exit::CheckFailed, doing(), why)
            .hint("nothing was published")
            .problems(failed));
    }
    let not_run = members.iter().zip(results).filter_map(|(member, result)| match result {
        SmokeResult::NotRun { why } => Some(format!("{}: not run on this host: {why}", member.platform)),
        _ => None,
    });
    let not_run: Vec<String> = not_run.collect();
    if request.require_smoke && !not_run.is_empty() {
        let why = format!("{} of {} smoke tests were not run", not_run.len(), members.len());
        let error = Error::new(Exit::CheckFailed, doing(), why).hint("nothing was published");
        return Err(error.problems(not_run));
    }
    Ok(())
}

/// Runs `command` in the image. `dir` is removed before and afterwards.
fn run_command(
    source: &dyn ImageSource,
    image: &Image,
    platform: &Platform,
    command: &[String],
    binfmt: Option<&BinfmtSetup>,
    dir: &Path,
) -> Result<SmokeResult, Error> {
    let local = |e: io::Error| Error::from_io(format!("run the smoke test of {platform}"), e);
    if binfmt.is_none() && !runs_natively(platform) {
        return Ok(SmokeResult::NotRun { why: "binfmt-setup is not installed".into() });
    }
    remove_tree(dir).map_err(local)?;
    let root = dir.join("root");
    fs::create_dir_all(&root).map_err(local)?;
    let config = image.config.as_ref().map(|config| &config.parsed);
    let ids = if binfmt.is_some() { SandboxIds::in_private_namespace() } else { SandboxIds::of_process() };
    let sandbox = Sandbox {
        ids,
        user: SandboxUser::default(),
        command: command.to_vec(),
        env: config.map(|config| config.env.clone()).unwrap_or_default(),
        working_dir: Path::new("/").join(config.map_or("", |config| config.working_dir.as_str())),
        caller: std::process::id().cast_signed(),
        root,
    };
    let result = match unpack(source, &image.manifest.layers, &sandbox.root, &sandbox.working_dir, ids) {
        Ok(()) => match SandboxUser::find(&sandbox.root, config.map_or("", |config| config.user.as_str())) {
            Ok(user) => run(&Sandbox { user, ..sandbox }, platform, binfmt, dir).map_err(local),
            Err(why) => Ok(SmokeResult::Failed { why, output: String::new() }),
        },
        Err(UnpackError::Image(why)) => Ok(SmokeResult::Failed { why, output: String::new() }),
        Err(UnpackError::Host(error)) => Err(error),
    };
    let removed = remove_tree(dir).map_err(local);
    result.and_then(|result| removed.map(|()| result))
}

/// Removes what an earlier run left, if anything.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn run(
    sandbox: &Sandbox,
    platform: &Platform,
    binfmt: Option<&BinfmtSetup>,
    dir: &Path,
) -> io::Result<SmokeResult> {
    let mut description = tempfile::tempfile_in(dir)?;
    serde_json::to_writer(&description, sandbox)?;
    description.rewind()?;
    let (events, events_end) = io::pipe()?;
    let (output, output_end) = io::pipe()?;
    let own = own_program(dir)?;
    let mut outer = match binfmt {
        Some(binfmt) => {
            let mut outer = Command::new(binfmt.program());
            outer.args(["run", "--quiet", "--platform", &platform.to_string(), "--"]).arg(own);
            outer
        }
        None => Command::new(own),
    };
    outer.arg("smoke-inside").process_group(0);
    outer.stdin(description).stdout(events_end).stderr(output_end);
    let begun = Instant::now();
    let mut child = outer.spawn()?;
    // Closes its ends of the pipes, which would keep them open.
    drop(outer);
    let (ended, wait) = mpsc::channel();
    let events = thread::spawn(move || {
        let mut text = String::new();
        let read = events.take(EVENTS_MAX).read_to_string(&mut text);
        // The pipe is closed when the last process of the sandbox has ended.
        let _ = ended.send(());
        read.map(|_| text)
    });
    let output = thread::spawn(move || first_bytes(output));
    let exceeded = watch(&wait, child.id(), TIME_LIMIT, MEMORY_MAX);
    if exceeded.is_some() {
        // The sandbox ends with the supervisor.
        child.kill()?;
    }
    child.wait()?;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let joined = |result: thread::Result<io::Result<String>>| {
        result.unwrap_or_else(|_| Err(io::Error::other("a thread failed")))
    };
    let (events, output) = (joined(events.join())?, joined(output.join())?);
    let events: Vec<SandboxEvent> = events.lines().filter_map(SandboxEvent::parse).collect();
    Ok(judge(&events, exceeded, milliseconds, output))
}

/// Waits until the sandbox ends or exceeds a limit, which is returned in words.
fn watch(ended: &mpsc::Receiver<()>, supervisor: u32, time: Duration, memory: u64) -> Option<String> {
    let begun = Instant::now();
    while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(INTERVAL) {
        if begun.elapsed() > time {
            return Some(format!("it took longer than {} s", time.as_secs()));
        }
        if sandbox::memory_of(supervisor) > memory {
            return Some(format!("its processes used more than {} of memory", format_bytes(memory)));
        }
    }
    None
}

/// Returns the first bytes of the output. All of it is read, so that the program never blocks.
fn first_bytes(mut pipe: impl Read) -> io::Result<String> {
    let mut kept = Vec::new();
    pipe.by_ref().take(OUTPUT_MAX as u64).read_to_end(&mut kept)?;
    io::copy(&mut pipe, &mut io::sink())?;
    Ok(String::from_utf8_lossy(&kept).trim().to_string())
}

fn judge(
    events: &[SandboxEvent],
    exceeded: Option<String>,
    milliseconds: u64,
    output: String,
) -> SmokeResult {
    // Once the image has run, it may have caused whatever follows.
    let mut has_begun = false;
    for event in events {
        match event {
            SandboxEvent::Began => has_begun = true,
            SandboxEvent::Refused { step, error } => {
                let why = format!("the sandbox cannot {step}: {error}");
                if has_begun {
                    return SmokeResult::Failed { why, output };
                }
                return SmokeResult::NotRun { why };
            }
            SandboxEvent::NotExecuted { why } => {
                return SmokeResult::Failed { why: why.clone(), output: String::new() };
            }
            SandboxEvent::Ended { status } if exceeded.is_none() => {
                let status = ExitStatus::from_raw(*status);
                return match status.success() {
                    true => SmokeResult::Passed { milliseconds, output },
                    false => SmokeResult::Failed { why: format!("it ended with {status}"), output },
                };
            }
            SandboxEvent::Ended { .. } => {}
        }
    }
    if !has_begun {
        // Nothing of the image has run: binfmt-setup could not create a namespace, or the platform has no emulator.
        return SmokeResult::NotRun { why: last_line(&output) };
    }
    let why = exceeded.unwrap_or_else(|| "its processes were killed".to_string());
    SmokeResult::Failed { why, output }
}

/// The file of this program. If `prepare` has rebuilt it, the running program is a deleted file, which is copied.
fn own_program(dir: &Path) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if program.exists() {
        return Ok(program);
    }
    let copy = dir.join("multiarch");
    fs::copy("/proc/self/exe", &copy)?;
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(copy)
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or("the private namespace could not be created").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sandbox_that_did_not_start_is_not_run() {
        let refused = || SandboxEvent::Refused { step: "mount /proc".into(), error: "no".into() };
        let not_executed = || SandboxEvent::NotExecuted { why: "\"/app\" is not in the image".into() };
        let check = |events: &[SandboxEvent], in_time: bool, expected: &str| {
            let exceeded = (!in_time).then(|| "it took longer than 120 s".to_string());
            let found = match judge(events, exceeded, 1, "first\nlast".into()) {
                SmokeResult::Passed { .. } => "passed".to_string(),
                SmokeResult::Failed { why, .. } => format!("failed: {why}"),
                SmokeResult::NotRun { why } => format!("not run: {why}"),
            };
            assert_eq!(found, expected, "{events:?}");
        };
        check(&[], true, "not run: last");
        check(&[refused()], true, "not run: the sandbox cannot mount /proc: no");
        check(&[SandboxEvent::Began, refused()], true, "failed: the sandbox cannot mount /proc: no");
        check(
            &[SandboxEvent::Began, not_executed(), SandboxEvent::Ended { status: 0x7f00 }],
            true,
            "failed: \"/app\" is not in the image",
        );
        check(&[SandboxEvent::Began, SandboxEvent::Ended { status: 0 }], true, "passed");
        check(
            &[SandboxEvent::Began, SandboxEvent::Ended { status: 0x700 }],
            true,
            "failed: it ended with exit status: 7",
        );
        check(
            &[SandboxEvent::Began, SandboxEvent::Ended { status: 9 }],
            true,
            "failed: it ended with signal: 9 (SIGKILL)",
        );
        check(&[SandboxEvent::Began], true, "failed: its processes were killed");
        check(&[SandboxEvent::Began], false, "failed: it took longer than 120 s");
    }

    #[test]
    fn time_and_memory_of_all_processes_are_limited() {
        let check = |script: &str, time: Duration, memory: u64, expected: Option<&str>| {
            let mut child = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
            let (ended, wait) = mpsc::channel();
            let process = child.id();
            let watched = thread::spawn(move || watch(&wait, process, time, memory));
            if expected.is_none() {
                child.wait().unwrap();
                ended.send(()).unwrap();
            }
            assert_eq!(watched.join().unwrap().as_deref(), expected, "{script}");
            let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            child.wait().unwrap();
        };
        let minute = Duration::from_secs(60);
        check("true", minute, MEMORY_MAX, None);
        check("sleep 3", Duration::ZERO, MEMORY_MAX, Some("it took longer than 0 s"));
        // The memory is that of a grandchild.
        let hungry = "python3 -c 'import time; kept = bytearray(10**8); time.sleep(9)' & sleep 9";
        check(hungry, minute, 64 << 20, Some("its processes used more than 64.0 MiB of memory"));
    }

    #[test]
    fn the_first_bytes_of_the_output_are_kept() {
        let text = first_bytes(io::repeat(b'x').take(1 << 20)).unwrap();
        assert_eq!(text.len(), OUTPUT_MAX);
    }
}
