//! Execution of a tiny program, which shows whether the CPU or which emulator runs it.
//!
//! An entry in the kernel's table proves nothing: it may be shadowed, its emulator may be broken, or the table may not
//! apply to this process. So the program is executed, alone in an empty root directory, where only an emulator with flag
//! F is found. Its output goes to a pipe that is full: while it waits, `/proc/PID/exe` is the file that executes it, even
//! one that was deleted or is in the image of a container.

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

use error::{Error, io_reason};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access, chdir, chroot, execve, geteuid};

use crate::emulators::Target;
use crate::probe_programs::{EXIT_BASE, WRITTEN};

const DIRECTORY_PREFIX: &str = "binfmt-probe-";

/// Maximum run time of a program of ten instructions, on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Result of one probe.
#[derive(Debug)]
pub struct ProbeOutcome {
    /// The kernel or emulator that executed the program, or the reason why it did not run.
    pub result: Result<Execution, ProbeFailure>,
    /// From writing the program to its end.
    pub duration: Duration,
}

/// The kernel or emulator that executed a program.
#[derive(Debug)]
pub enum Execution {
    /// The CPU.
    Native,
    /// An emulator.
    Emulated(Emulator),
}

/// The file that executed the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// As the kernel shows it, without ` (deleted)`.
    pub path: PathBuf,
    /// Whether the file was deleted.
    pub deleted: bool,
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
    /// First line of `--version`, of the file that the kernel holds open; if it was requested.
    pub version: Option<String>,
    /// Whether the program got its original `argv[0]`, not the path.
    pub kept_argv0: bool,
}

/// Why a program did not run.
#[expect(missing_docs, reason = "the message of each variant says what it is")]
#[derive(Debug, thiserror::Error)]
pub enum ProbeFailure {
    #[error("no binfmt_misc handler is registered for it")]
    NoHandler,
    #[error(
        "the emulator is not found from inside another root directory: flag F is missing, or it is linked dynamically"
    )]
    EmulatorNotFound,
    #[error("a handler matches the emulator itself: every start ends in a loop")]
    Loop,
    #[error("the kernel refused to execute it: {}", io_reason(&(*.0).into()))]
    Denied(Errno),
    #[error(
        "killed by signal {signal}{message}: the CPU, or the CPU model of the emulator, is older than this platform"
    )]
    IllegalInstruction { signal: i32, message: String },
    #[error("killed by signal {signal}{message}: the emulator is broken")]
    Crashed { signal: i32, message: String },
    #[error("an argument was lost: the emulator requires flag P, which the handler does not have")]
    LostArgument,
    #[error("unexpected output or exit status {status}{message}")]
    WrongOutput { status: i32, message: String },
    #[error("did not end within {0} s, or wrote too much", TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot be probed: {0}")]
    NotProbed(String),
}

/// Executes programs in an empty directory, which is removed when the value is dropped.
#[derive(Debug)]
pub struct Prober {
    directory: PathBuf,
    nonce: String,
    confinement: Cell<Confinement>,
    /// Locked while the directory is in use, which distinguishes it from one that a killed process left.
    _lock: File,
}

/// How a child process enters the empty directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confinement {
    /// With chroot(2), as root.
    Chroot,
    /// With chroot(2) in a new user namespace, which inherits the table. Does not require root.
    UserNamespace,
    /// Not at all, if neither is allowed. This does not prove flag F.
    None,
}

/// The error of a child that could not enter the directory. exec(2) never fails with this number.
const NOT_CONFINED: Errno = Errno::ENOANO;

impl Prober {
    /// Creates the directory, and removes those that killed processes left.
    ///
    /// # Errors
    /// `Local` without a temporary directory from which programs can be executed.
    pub fn new() -> Result<Self, Error> {
        Self::try_new().map_err(|error| Error::local("prepare a directory for the probe", io_reason(&error)))
    }

    fn try_new() -> io::Result<Self> {
        let mut random = [0; WRITTEN / 2];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let nonce: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let parent = executable_directory()?;
        remove_stale_directories(&parent);
        let directory = parent.join(format!("{DIRECTORY_PREFIX}{nonce}"));
        std::fs::create_dir(&directory)?;
        let lock = File::open(&directory)?;
        lock.try_lock()?;
        // Whatever the umask: in its user namespace the child has no permissions as the owner.
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755))?;
        Ok(Self { directory, nonce, confinement: Cell::new(Confinement::Chroot), _lock: lock })
    }

    /// Executes the program of `target`.
    pub fn run(&self, target: Target) -> ProbeOutcome {
        self.run_with(target, |_| None)
    }

    /// Executes the program of `target` and determines the version of the emulator, which takes twice as long.
    pub fn run_with_version(&self, target: Target) -> ProbeOutcome {
        self.run_with(target, version_of)
    }

    fn run_with(&self, target: Target, version: fn(&Path) -> Option<String>) -> ProbeOutcome {
        let begin = Instant::now();
        let result = self.try_run(&target.file(), version);
        ProbeOutcome { result, duration: begin.elapsed() }
    }

    fn try_run(
        &self,
        program: &[u8],
        version: fn(&Path) -> Option<String>,
    ) -> Result<Execution, ProbeFailure> {
        let file = self.directory.join("probe");
        write_executable(&file, program).map_err(not_probed)?;
        let (mut reader, writer) = io::pipe().map_err(not_probed)?;
        let filled = fill(&writer).map_err(not_probed)?;
        let mut child = self.spawn(&file, writer)?;
        let found = executable_of(&child, &file, version);
        let (output, message, status) = drain(&mut child, &mut reader, filled)?;
        let kept_argv0 = check_output(&output, message, status, &self.nonce)?;
        Ok(match found.map_err(not_probed)? {
            None => Execution::Native,
            Some(emulator) => Execution::Emulated(Emulator { kept_argv0, ..emulator }),
        })
    }

    fn spawn(&self, file: &Path, output: io::PipeWriter) -> Result<Child, ProbeFailure> {
        loop {
            let confinement = self.confinement.get();
            let output = output.try_clone().map_err(not_probed)?;
            let error = match self.spawn_in(confinement, file, output) {
                Ok(child) => return Ok(child),
                Err(error) => error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw),
            };
            let weaker = match confinement {
                Confinement::Chroot => Confinement::UserNamespace,
                Confinement::UserNamespace => Confinement::None,
                Confinement::None => return Err(exec_failure(error)),
            };
            match error {
                NOT_CONFINED => self.confinement.set(weaker),
                // A child of another thread has the file open for writing until its exec.
                Errno::ETXTBSY => std::thread::sleep(Duration::from_millis(1)),
                error => return Err(exec_failure(error)),
            }
        }
    }

    fn spawn_in(&self, confinement: Confinement, file: &Path, output: io::PipeWriter) -> io::Result<Child> {
        let path = if confinement == Confinement::None { file } else { Path::new("/probe") };
        let path = CString::new(path.as_os_str().as_bytes())?;
        // One more argument, to detect an emulator that drops one.
        let arguments = [CString::new(self.nonce.as_str())?, c"one-more".to_owned()];
        // QEMU's CPU model is part of what is probed; the rest of the environment is not.
        let model = std::env::var_os("QEMU_CPU").map(|model| [b"QEMU_CPU=", model.as_bytes()].concat());
        let environment: Vec<CString> = model.map(CString::new).transpose()?.into_iter().collect();
        let directory = self.directory.clone();
        let execute = move || {
            if confinement == Confinement::UserNamespace {
                unshare(CloneFlags::CLONE_NEWUSER).map_err(|_| NOT_CONFINED)?;
            }
            if confinement != Confinement::None {
                chroot(&directory).map_err(|_| NOT_CONFINED)?;
                chdir("/")?;
            }
            // Not with Command, which passes the program to /bin/sh on ENOEXEC.
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
        // A directory that is left is removed by a later run.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Removes directories that killed processes left.
fn remove_stale_directories(parent: &Path) {
    let is_old = |found: &std::fs::Metadata| {
        let age = found.modified().ok().and_then(|time| time.elapsed().ok());
        // A new one may not be locked yet.
        found.is_dir() && found.uid() == geteuid().as_raw() && age.is_some_and(|age| age.as_secs() > 60)
    };
    for file in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_left = file.file_name().as_bytes().starts_with(DIRECTORY_PREFIX.as_bytes())
            && file.metadata().is_ok_and(|found| is_old(&found))
            && File::open(file.path()).is_ok_and(|directory| directory.try_lock().is_ok());
        if is_left {
            // The next run tries again.
            let _ = std::fs::remove_dir_all(file.path());
        }
    }
}

/// The first temporary directory from which programs can be executed.
fn executable_directory() -> io::Result<PathBuf> {
    let usable = |directory: &&Path| {
        let may_execute = statvfs(*directory).is_ok_and(|fs| !fs.flags().contains(FsFlags::ST_NOEXEC));
        may_execute && access(*directory, AccessFlags::W_OK).is_ok()
    };
    let preferred = std::env::temp_dir();
    let directories =
        [preferred.as_path(), "/tmp".as_ref(), "/var/tmp".as_ref(), "/run".as_ref(), "/dev/shm".as_ref()];
    let found = directories.into_iter().find(usable).map(Path::to_owned);
    found.ok_or_else(|| {
        io::Error::other("no temporary directory that is writable and not mounted noexec: set TMPDIR")
    })
}

fn write_executable(path: &Path, program: &[u8]) -> io::Result<()> {
    std::fs::write(path, program)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))
}

/// Fills the pipe, so that a write to it waits. Returns the number of bytes.
fn fill(mut pipe: &io::PipeWriter) -> io::Result<usize> {
    // The minimum size is one page. If that is refused, the default works as well.
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(4096));
    let size = usize::try_from(fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?).map_err(io::Error::other)?;
    pipe.write_all(&vec![0; size])?;
    Ok(size)
}

/// The file that executes the child, or `None` if it is the program itself. `version` is called with that file.
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

/// The first line that `FILE --version` prints, if any.
pub fn version_of(file: &Path) -> Option<String> {
    let (mut reader, writer) = io::pipe().ok()?;
    let mut command = Command::new(file);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    // The command has the other end of the pipe open as well.
    drop(command);
    let (output, status) = watch(&mut child, &mut reader, 1 << 16).ok().flatten()?;
    let text = String::from_utf8_lossy(&output);
    let line = text.lines().next()?.trim();
    (status.success() && !line.is_empty()).then(|| line.to_owned())
}

/// Empties the pipe and waits for the child. Returns its output, the first line on stderr in parentheses, and its status.
fn drain(
    child: &mut Child,
    pipe: &mut io::PipeReader,
    filled: usize,
) -> Result<(Vec<u8>, String, ExitStatus), ProbeFailure> {
    let watched = watch(child, pipe, filled + 4096).map_err(not_probed)?;
    let (mut output, status) = watched.ok_or(ProbeFailure::Timeout)?;
    let mut message = vec![];
    if let Some(stderr) = child.stderr.take() {
        stderr.take(400).read_to_end(&mut message).map_err(not_probed)?;
    }
    let message = String::from_utf8_lossy(&message);
    let message = message.lines().next().map(|line| format!(" ({line})")).unwrap_or_default();
    Ok((output.split_off(filled.min(output.len())), message, status))
}

/// Reads until the child ends. Returns `None` after killing it if it did not end or wrote more than `limit` bytes.
fn watch(
    child: &mut Child,
    pipe: &mut io::PipeReader,
    limit: usize,
) -> io::Result<Option<(Vec<u8>, ExitStatus)>> {
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let begin = Instant::now();
    let mut output = vec![];
    loop {
        // Before reading: everything that it wrote is in the pipe when it has ended.
        let ended = child.try_wait()?;
        let mut chunk = [0; 4096];
        // Both the end and an empty pipe return no bytes.
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            output.extend(&chunk[..length]);
            if output.len() > limit {
                break;
            }
        }
        let too_much = output.len() > limit;
        if let (Some(status), false) = (ended, too_much) {
            return Ok(Some((output, status)));
        }
        if too_much || begin.elapsed() > TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Returns whether `argv[0]` was kept, or the failure.
fn check_output(
    output: &[u8],
    message: String,
    status: ExitStatus,
    nonce: &str,
) -> Result<bool, ProbeFailure> {
    // argv[0] and one more.
    const EXPECTED: i32 = EXIT_BASE + 2;
    let Some(code) = status.code() else {
        let signal = status.signal().unwrap_or_default();
        let is_illegal = signal == nix::sys::signal::Signal::SIGILL as i32;
        return Err(if is_illegal {
            ProbeFailure::IllegalInstruction { signal, message }
        } else {
            ProbeFailure::Crashed { signal, message }
        });
    };
    match code {
        EXPECTED if output == nonce.as_bytes() => Ok(true),
        EXPECTED if output.starts_with(b"/") => Ok(false),
        code if code == EXPECTED - 1 && output.len() == WRITTEN => Err(ProbeFailure::LostArgument),
        code => Err(ProbeFailure::WrongOutput { status: code, message }),
    }
}

fn exec_failure(errno: Errno) -> ProbeFailure {
    match errno {
        Errno::ENOEXEC => ProbeFailure::NoHandler,
        Errno::ENOENT => ProbeFailure::EmulatorNotFound,
        Errno::ELOOP => ProbeFailure::Loop,
        Errno::EACCES | Errno::EPERM => ProbeFailure::Denied(errno),
        other => not_probed(other.into()),
    }
}

fn not_probed(error: io::Error) -> ProbeFailure {
    ProbeFailure::NotProbed(io_reason(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_writes_endlessly_has_no_version() {
        let file = std::env::temp_dir().join(format!("writes-without-end-{}", std::process::id()));
        write_executable(&file, b"#!/bin/sh\nwhile :; do echo y; done\n").unwrap();
        assert_eq!(version_of(&file), None);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(version_of("/nonexistent".as_ref()), None);
        assert!(version_of("/usr/bin/env".as_ref()).unwrap().starts_with("env "));
    }

    #[test]
    fn output_and_status_of_a_program_are_checked() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let check_output =
            |output: &[u8], status| check_output(output, String::new(), status, "0123456789abcdef");
        assert!(matches!(check_output(b"0123456789abcdef", exit(42)), Ok(true)));
        assert!(matches!(check_output(b"/probe\0one-more\0", exit(42)), Ok(false)));
        assert!(matches!(check_output(b"one-more\0.......", exit(41)), Err(ProbeFailure::LostArgument)));
        assert!(matches!(check_output(b"0123456789abcdef", exit(0)), Err(ProbeFailure::WrongOutput { .. })));
        assert!(matches!(check_output(b"", exit(255)), Err(ProbeFailure::WrongOutput { status: 255, .. })));
        assert!(matches!(
            check_output(b"", ExitStatus::from_raw(4)),
            Err(ProbeFailure::IllegalInstruction { .. })
        ));
        assert!(matches!(
            check_output(b"", ExitStatus::from_raw(11)),
            Err(ProbeFailure::Crashed { signal: 11, .. })
        ));
    }
}
