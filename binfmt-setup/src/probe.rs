//! Really executes a tiny program and says who ran it.
//!
//! Files in the kernel's table prove nothing: an entry may be shadowed, its emulator may be broken, or the table may
//! not apply to this process at all. So the program is run, alone in an empty root folder (where only an emulator
//! with flag F can be found). Its output goes to a pipe that is already full: while it waits there, the kernel
//! tells by `/proc/PID/exe` which file really runs it, even one that was deleted or lies in a container's image.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, chdir, chroot, execve, geteuid};

use crate::emulators::Target;
use crate::escape::escaped;
use crate::probe_programs::{EXIT_BASE, WRITTEN};

const FOLDER_PREFIX: &str = "binfmt-probe-";

/// How long a program of ten instructions may take on a loaded machine before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Outcome {
    pub verdict: Result<Ran, Failed>,
    pub took: Duration,
}

#[derive(Debug)]
pub enum Ran {
    /// By the CPU itself.
    Native,
    Emulated(Emulator),
}

/// The file that really ran the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// As the kernel names it, without its ` (deleted)`.
    pub path: PathBuf,
    pub deleted: bool,
    pub device: u64,
    pub inode: u64,
    /// First line of `--version`, from the very file that the kernel holds; where it was asked for.
    pub version: Option<String>,
    /// ``argv[0]`` arrived as given, not replaced by the path.
    pub kept_argv0: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("no binfmt_misc handler is registered for it")]
    NoEntry,
    #[error(
        "the emulator is not found from inside another root directory: flag F is missing, or it is linked dynamically"
    )]
    NotFound,
    #[error("the emulator's own machine is caught by an entry: every start ends in a loop")]
    Loop,
    #[error("the kernel may not execute it: {0}")]
    Denied(Errno),
    #[error(
        "killed by signal {signal}{said}: the CPU, or the CPU model of the emulator, is older than this platform"
    )]
    Illegal { signal: i32, said: String },
    #[error("killed by signal {signal}{said}: the emulator is broken")]
    Crashed { signal: i32, said: String },
    #[error("an argument was lost: the emulator expects flag P and the entry lacks it")]
    ShiftedArguments,
    #[error("ended with exit status {status} and the wrong output{said}")]
    Wrong { status: i32, said: String },
    #[error("did not end within {0} s, or wrote without end", PATIENCE.as_secs())]
    Hangs,
    #[error("cannot be tried: {0}")]
    Untried(String),
}

/// A folder with nothing in it but the program under test.
#[derive(Debug)]
pub struct Prober {
    folder: PathBuf,
    nonce: String,
    confinement: Cell<Confinement>,
    /// Held as long as the folder is in use, so that it can be told from one that a killed process left.
    _lock: File,
}

/// How a child gets into the empty folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confinement {
    /// As root.
    Chroot,
    /// As anybody, in a user namespace of its own, which inherits the table.
    UserNamespace,
    /// Not at all, where neither is allowed: then flag F is not proven.
    None,
}

/// What the child reports when it could not get into the folder: no exec fails with this number.
const NOT_CONFINED: Errno = Errno::ENOANO;

impl Prober {
    pub fn new() -> io::Result<Self> {
        let mut random = [0; WRITTEN / 2];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let above = executable_folder()?;
        sweep(&above);
        let folder = above.join(format!("{FOLDER_PREFIX}{nonce}"));
        std::fs::create_dir(&folder)?;
        let lock = File::open(&folder)?;
        lock.try_lock()?;
        // Whatever the umask: a child in a user namespace is nobody's friend.
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
        Ok(Self { folder, nonce, confinement: Cell::new(Confinement::Chroot), _lock: lock })
    }

    pub fn run(&self, target: Target) -> Outcome {
        self.run_with(target, |_| None)
    }

    /// Also asks the emulator for its version, which takes as long as the program.
    pub fn run_with_version(&self, target: Target) -> Outcome {
        self.run_with(target, version_of)
    }

    fn run_with(&self, target: Target, version: fn(&Path) -> Option<String>) -> Outcome {
        let begin = Instant::now();
        let verdict = self.try_run(&target.file(), version);
        Outcome { verdict, took: begin.elapsed() }
    }

    fn try_run(&self, program: &[u8], version: fn(&Path) -> Option<String>) -> Result<Ran, Failed> {
        let file = self.folder.join("probe");
        write_executable(&file, program).map_err(untried)?;
        let (mut reader, writer) = io::pipe().map_err(untried)?;
        let filled = fill(&writer).map_err(untried)?;
        let mut child = self.spawn(&file, writer)?;
        let found = executable_of(&child, &file, version);
        let (output, said, status) = drain(&mut child, &mut reader, filled)?;
        let kept_argv0 = judge(&output, said, status, &self.nonce)?;
        Ok(match found.map_err(untried)? {
            None => Ran::Native,
            Some(emulator) => Ran::Emulated(Emulator { kept_argv0, ..emulator }),
        })
    }

    fn spawn(&self, file: &Path, output: io::PipeWriter) -> Result<Child, Failed> {
        loop {
            let confinement = self.confinement.get();
            let output = output.try_clone().map_err(untried)?;
            let error = match self.spawn_in(confinement, file, output) {
                Ok(child) => return Ok(child),
                Err(error) => error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw),
            };
            let weaker = match confinement {
                Confinement::Chroot => Confinement::UserNamespace,
                Confinement::UserNamespace => Confinement::None,
                Confinement::None => return Err(why_not_executed(error)),
            };
            match error {
                NOT_CONFINED => self.confinement.set(weaker),
                // Another thread's child holds our file open for writing until its exec.
                Errno::ETXTBSY => std::thread::sleep(Duration::from_millis(1)),
                error => return Err(why_not_executed(error)),
            }
        }
    }

    fn spawn_in(&self, confinement: Confinement, file: &Path, output: io::PipeWriter) -> io::Result<Child> {
        let path = if confinement == Confinement::None { file } else { Path::new("/probe") };
        let path = CString::new(path.as_os_str().as_bytes())?;
        // One more argument: an emulator that eats one is found out.
        let arguments = [CString::new(self.nonce.as_str())?, c"one-more".to_owned()];
        // QEMU's CPU model is part of what is asked; nothing else of the environment is.
        let model = std::env::var_os("QEMU_CPU").map(|model| [b"QEMU_CPU=", model.as_bytes()].concat());
        let environment: Vec<CString> = model.map(CString::new).transpose()?.into_iter().collect();
        let folder = self.folder.clone();
        let execute = move || {
            if confinement == Confinement::UserNamespace {
                unshare(CloneFlags::CLONE_NEWUSER).map_err(|_| NOT_CONFINED)?;
            }
            if confinement != Confinement::None {
                chroot(&folder).map_err(|_| NOT_CONFINED)?;
                chdir("/")?;
            }
            // Not by Command itself: on ENOEXEC that would give the program to /bin/sh.
            match execve(&path, &arguments, &environment)? {}
        };
        let mut command = Command::new(file);
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
        #[expect(
            unsafe_code,
            reason = "between fork and exec the closure makes system calls and nothing else"
        )]
        unsafe {
            command.pre_exec(execute)
        };
        command.spawn()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // What is left behind is swept up by a later run.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Removes what processes that were killed have left behind.
fn sweep(above: &Path) {
    let is_old = |found: &std::fs::Metadata| {
        let age = found.modified().ok().and_then(|time| time.elapsed().ok());
        // A young one may be about to be locked.
        found.is_dir() && found.uid() == geteuid().as_raw() && age.is_some_and(|age| age.as_secs() > 60)
    };
    for file in std::fs::read_dir(above).into_iter().flatten().flatten() {
        let is_left = file.file_name().as_bytes().starts_with(FOLDER_PREFIX.as_bytes())
            && file.metadata().is_ok_and(|found| is_old(&found))
            && File::open(file.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        if is_left {
            // The next one will try again.
            let _ = std::fs::remove_dir_all(file.path());
        }
    }
}

/// The first temporary folder from which programs may be started.
fn executable_folder() -> io::Result<PathBuf> {
    let usable = |folder: &&Path| {
        let may_execute = statvfs(*folder).is_ok_and(|fs| !fs.flags().contains(FsFlags::ST_NOEXEC));
        may_execute && access(*folder, AccessFlags::W_OK).is_ok()
    };
    let asked = std::env::temp_dir();
    let folders =
        [asked.as_path(), "/tmp".as_ref(), "/var/tmp".as_ref(), "/run".as_ref(), "/dev/shm".as_ref()];
    let found = folders.into_iter().find(usable).map(Path::to_owned);
    found.ok_or_else(|| {
        io::Error::other("no temporary directory that is writable and not mounted noexec: set TMPDIR")
    })
}

fn write_executable(path: &Path, program: &[u8]) -> io::Result<()> {
    std::fs::write(path, program)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))
}

/// Fills the pipe to the brim, so that a write to it waits; returns the number of bytes.
fn fill(mut pipe: &io::PipeWriter) -> io::Result<usize> {
    // The smallest size there is: one page. If even that is refused, the default does as well.
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(4096));
    let size = usize::try_from(fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?).map_err(io::Error::other)?;
    pipe.write_all(&vec![0; size])?;
    Ok(size)
}

/// Which file runs the child, or `None` when it is the program itself. `version` is asked of that very file.
fn executable_of(
    child: &Child,
    program: &Path,
    version: fn(&Path) -> Option<String>,
) -> io::Result<Option<Emulator>> {
    let link = PathBuf::from(format!("/proc/{}/exe", child.id()));
    let (running, own) = (std::fs::metadata(&link)?, std::fs::metadata(program)?);
    if (running.dev(), running.ino()) == (own.dev(), own.ino()) {
        return Ok(None);
    }
    let path = std::fs::read_link(&link)?;
    let (path, deleted) = match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => (PathBuf::from(path), true),
        None => (path, false),
    };
    let version = version(&link);
    Ok(Some(Emulator {
        path,
        deleted,
        device: running.dev(),
        inode: running.ino(),
        version,
        kept_argv0: true,
    }))
}

/// First line that `FILE --version` prints, if it prints one.
pub fn version_of(file: &Path) -> Option<String> {
    let (mut reader, writer) = io::pipe().ok()?;
    let mut command = Command::new(file);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    // The command holds the pipe's other end as well.
    drop(command);
    let (output, status) = watch(&mut child, &mut reader, 1 << 16).ok().flatten()?;
    let text = String::from_utf8_lossy(&output);
    let line = text.lines().next()?.trim();
    (status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// Empties the pipe, waits for the end; gives what the program wrote, what the emulator said, and the exit status.
fn drain(
    child: &mut Child,
    pipe: &mut io::PipeReader,
    filled: usize,
) -> Result<(Vec<u8>, String, ExitStatus), Failed> {
    let watched = watch(child, pipe, filled + 4096).map_err(untried)?;
    let (mut output, status) = watched.ok_or(Failed::Hangs)?;
    let mut said = vec![];
    if let Some(stderr) = child.stderr.take() {
        stderr.take(400).read_to_end(&mut said).map_err(untried)?;
    }
    let said = String::from_utf8_lossy(&said);
    let said = said.lines().next().map(|line| format!(" ({})", escaped(line))).unwrap_or_default();
    Ok((output.split_off(filled.min(output.len())), said, status))
}

/// Reads until the child ends. `None`: it did not, or it wrote more than `most` bytes; it is gone all the same.
fn watch(
    child: &mut Child,
    pipe: &mut io::PipeReader,
    most: usize,
) -> io::Result<Option<(Vec<u8>, ExitStatus)>> {
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let begin = Instant::now();
    let mut output = vec![];
    loop {
        // Before reading: what it wrote before it ended is in the pipe by then.
        let ended = child.try_wait()?;
        let mut chunk = [0; 4096];
        // An end, or an empty pipe for now: both are no bytes.
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            output.extend(&chunk[..length]);
            if output.len() > most {
                break;
            }
        }
        let too_much = output.len() > most;
        if let (Some(status), false) = (ended, too_much) {
            return Ok(Some((output, status)));
        }
        if too_much || begin.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Whether `argv[0]` was kept, or what went wrong.
fn judge(output: &[u8], said: String, status: ExitStatus, nonce: &str) -> Result<bool, Failed> {
    // argv[0] and one more.
    const EXPECTED: i32 = EXIT_BASE + 2;
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        let is_illegal = signal == nix::sys::signal::Signal::SIGILL as i32;
        return Err(if is_illegal {
            Failed::Illegal { signal, said }
        } else {
            Failed::Crashed { signal, said }
        });
    };
    match code {
        EXPECTED if output == nonce.as_bytes() => Ok(true),
        EXPECTED if output.starts_with(b"/") => Ok(false),
        code if code == EXPECTED - 1 && output.len() == WRITTEN => Err(Failed::ShiftedArguments),
        code => Err(Failed::Wrong { status: code, said }),
    }
}

fn why_not_executed(errno: Errno) -> Failed {
    match errno {
        Errno::ENOEXEC => Failed::NoEntry,
        Errno::ENOENT => Failed::NotFound,
        Errno::ELOOP => Failed::Loop,
        Errno::EACCES | Errno::EPERM => Failed::Denied(errno),
        other => Failed::Untried(other.desc().to_owned()),
    }
}

fn untried(error: io::Error) -> Failed {
    Failed::Untried(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_writes_without_end_has_no_version() {
        let file = std::env::temp_dir().join(format!("writes-without-end-{}", std::process::id()));
        write_executable(&file, b"#!/bin/sh\nwhile :; do echo y; done\n").unwrap();
        assert_eq!(version_of(&file), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(version_of("/nonexistent".as_ref()), None);
        assert!(version_of("/usr/bin/env".as_ref()).unwrap().starts_with("env "));
    }

    #[test]
    fn the_answer_of_a_program_is_judged() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let judge = |output: &[u8], status| judge(output, String::new(), status, "0123456789abcdef");
        assert!(matches!(judge(b"0123456789abcdef", exit(42)), Ok(true)));
        assert!(matches!(judge(b"/probe\0one-more\0", exit(42)), Ok(false)));
        assert!(matches!(judge(b"one-more\0.......", exit(41)), Err(Failed::ShiftedArguments)));
        assert!(matches!(judge(b"0123456789abcdef", exit(0)), Err(Failed::Wrong { .. })));
        assert!(matches!(judge(b"", exit(255)), Err(Failed::Wrong { status: 255, .. })));
        assert!(matches!(judge(b"", ExitStatus::from_raw(4)), Err(Failed::Illegal { .. })));
        assert!(matches!(judge(b"", ExitStatus::from_raw(11)), Err(Failed::Crashed { signal: 11, .. })));
    }
}
