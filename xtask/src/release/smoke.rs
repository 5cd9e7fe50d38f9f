//! The smoke test: an image's own program, run under its emulator before anything is published.
//!
//! No engine takes part. The verified layers are unpacked into a throw-away folder; `binfmt-setup run` makes a
//! private namespace with the emulator in it, without root; inside, this program makes the folder read-only, leaves
//! the network behind, and becomes the image's command.

use super::emulation::BinfmtSetup;
use super::unpack::unpack;
use image_store::error::StoreError;
use image_store::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::Image;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a smoke command may take. Emulation is slow; a hang is for ever.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How much of its output is kept for the report.
const OUTPUT_MAX: usize = 4096;

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Smoke {
    Passed {
        milliseconds: u64,
        output: String,
    },
    Failed {
        why: String,
        output: String,
    },
    /// This host cannot run it: no emulator, no user namespaces.
    NotRun {
        why: String,
    },
}

/// Runs `command` in the image. `dir` is emptied afterwards.
pub fn smoke(
    source: &dyn ImageSource,
    image: &Image,
    platform: &Platform,
    command: &[String],
    binfmt: &BinfmtSetup,
    dir: &Path,
) -> Result<Smoke, StoreError> {
    let doing = || format!("run the smoke test of {platform}");
    let local = |e: io::Error| StoreError::from_io(doing(), e);
    let _ = fs::remove_dir_all(dir);
    let root = dir.join("root");
    fs::create_dir_all(&root).map_err(local)?;
    if let Err(error) = unpack(source, &image.manifest.layers, &root) {
        let _ = fs::remove_dir_all(dir);
        return Ok(Smoke::NotRun { why: error.to_string() });
    }
    for folder in ["proc", "dev", "tmp"] {
        let _ = fs::create_dir(root.join(folder));
    }
    let result = run(image, platform, command, binfmt, dir, &root).map_err(local);
    let _ = fs::remove_dir_all(dir);
    result
}

fn run(
    image: &Image,
    platform: &Platform,
    command: &[String],
    binfmt: &BinfmtSetup,
    dir: &Path,
    root: &Path,
) -> io::Result<Smoke> {
    let started = dir.join("started");
    let output_file = dir.join("output");
    let output = File::create(&output_file)?;
    let mut outer = Command::new(binfmt.program());
    outer.args(["run", "--quiet", "--platform", &platform.to_string(), "--"]).arg(own_program(dir)?);
    outer.arg("smoke-inside").arg("--root").arg(root).arg("--started").arg(&started);
    let config = image.config.as_ref().map(|config| &config.parsed);
    if let Some(config) = config {
        for variable in &config.env {
            outer.arg("--env").arg(variable);
        }
        if !config.working_dir.is_empty() {
            outer.arg("--workdir").arg(&config.working_dir);
        }
    }
    outer.arg("--").args(command);
    outer.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let begun = Instant::now();
    let mut child = outer.spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begun.elapsed() > TIME_LIMIT {
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let said = fs::read(&output_file)?;
    let why_not = fs::read_to_string(&started).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[..said.len().min(OUTPUT_MAX)]).trim().to_string();
    Ok(match status {
        // Before the command began, what failed is this host, not the image.
        _ if !started.exists() => Smoke::NotRun { why: last_line(&said) },
        Some(_) if !why_not.is_empty() => Smoke::Failed { why: why_not, output: String::new() },
        Some(status) if status.success() => Smoke::Passed { milliseconds, output: said },
        Some(status) => Smoke::Failed { why: format!("it ended with {status}"), output: said },
        None => {
            Smoke::Failed { why: format!("it took longer than {} s", TIME_LIMIT.as_secs()), output: said }
        }
    })
}

/// This program's file. `prepare` may have rebuilt it meanwhile: what runs is then no file any more, but can be read.
fn own_program(dir: &Path) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if program.exists() {
        return Ok(program);
    }
    let copy = dir.join("xtask");
    fs::copy("/proc/self/exe", &copy)?;
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(copy)
}

/// Said from inside the image.
fn why_it_cannot_begin(program: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if program.contains('/') && Path::new(program).exists() => {
            format!("what \"{program}\" is run by (its interpreter) is not in the image")
        }
        io::ErrorKind::NotFound => format!("\"{program}\" is not in the image"),
        io::ErrorKind::PermissionDenied => format!("\"{program}\" is not executable"),
        _ => format!("\"{program}\" cannot be run: {error}"),
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or("the private namespace could not be made").to_string()
}

/// What runs inside the private namespace.
#[derive(clap::Args, Debug)]
pub struct Inside {
    #[arg(long)]
    root: PathBuf,
    /// Made just before the command begins; why it cannot begin is written to it
    #[arg(long)]
    started: PathBuf,
    #[arg(long)]
    env: Vec<String>,
    #[arg(long, default_value = "/")]
    workdir: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Becomes the image's command. Returns only if that failed.
pub fn run_inside(inside: &Inside) -> StoreError {
    match become_command(inside) {
        Ok(never) => match never {},
        Err((doing, error)) => StoreError::from_io(doing, error),
    }
}

fn become_command(inside: &Inside) -> Result<std::convert::Infallible, (String, io::Error)> {
    let root = &inside.root;
    let at = |doing: &str| {
        let doing = doing.to_string();
        move |e: nix::errno::Errno| (doing, io::Error::from(e))
    };
    let none: Option<&str> = None;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .map_err(at("leave the network"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(at("keep mounts private"))?;
    mount(Some(root), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(at("mount the image"))?;
    for (from, to) in [("/proc", "proc"), ("/dev", "dev")] {
        mount(Some(from), &root.join(to), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .map_err(at("mount /proc and /dev"))?;
    }
    mount(
        Some("tmpfs"),
        &root.join("tmp"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )
    .map_err(at("mount /tmp"))?;
    mount(none, root, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none)
        .map_err(at("make the image read-only"))?;
    let started = |e: io::Error| ("note that the test began".to_string(), e);
    let mut started = File::create(&inside.started).map_err(started)?;
    nix::unistd::chroot(root).map_err(at("enter the image"))?;
    std::env::set_current_dir(&inside.workdir)
        .map_err(|e| (format!("enter the image's folder \"{}\"", inside.workdir.display()), e))?;
    let (program, args) = inside.command.split_first().ok_or_else(|| {
        ("run the smoke command".to_string(), io::Error::new(io::ErrorKind::InvalidInput, "it is empty"))
    })?;
    let mut command = Command::new(program);
    command.args(args).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for variable in &inside.env {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    let error = command.exec();
    // Its file is out of sight by now, and still open.
    let _ = started.write_all(why_it_cannot_begin(program, &error).as_bytes());
    Err((format!("run \"{program}\" of the image"), error))
}
