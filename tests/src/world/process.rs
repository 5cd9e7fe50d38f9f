//! A child process: its output is collected while it runs, its peak memory is measured, and it is ended by its id.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs a program until stdin is closed, also because the writing process ended; then sends SIGTERM to the program.
const SERVER_SCRIPT: &str = r#""$@" & it=$!; cat; kill "$it"; wait "$it""#;

/// A running process. Dropping it ends it.
pub struct Proc {
    child: Child,
    is_server: bool,
    stdout: Collector,
    stderr: Collector,
}

impl Proc {
    /// Captures stdin, stdout and stderr; stdin stays open until [`Proc::close_stdin`] or the drop.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn spawn(mut command: Command) -> Proc {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let stdout = Collector::of(child.stdout.take());
        let stderr = Collector::of(child.stderr.take());
        Proc { child, is_server: false, stdout, stderr }
    }

    /// For servers: one that ends by SIGTERM when this test process is gone, even if that was killed and dropped nothing.
    ///
    /// [`Proc::id`] and [`Proc::signal`] then refer to the shell that watches it; the server has no stdin.
    pub fn spawn_server(command: &Command) -> Proc {
        let mut holder = Command::new("sh");
        holder.args(["-c", SERVER_SCRIPT, "sh"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => holder.env(key, value),
                None => holder.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            holder.current_dir(directory);
        }
        let mut process = Proc::spawn(holder);
        process.is_server = true;
        process
    }

    /// Ends a server that was started by [`Proc::spawn_server`]; kills the shell if that takes longer.
    pub fn stop_server(&mut self, most: Duration) {
        self.close_stdin();
        if self.wait(most).is_none() {
            self.end();
        }
    }

    fn end(&mut self) {
        if self.ended().is_none() {
            // Fails only if it has ended in between.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub fn stdin(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends a signal to this process. False if it has ended.
    pub fn signal(&mut self, signal: Signal) -> bool {
        // Not reaped yet, so the id cannot belong to another.
        self.ended().is_none() && kill(pid(self.child.id()), signal).is_ok()
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of this process")
    }

    /// `None` if it still runs after that time.
    pub fn wait(&mut self, most: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + most;
        loop {
            if let Some(status) = self.ended() {
                self.read_to_the_end();
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits shortly for output that is still in the pipes of an ended process. A child of it can keep them open.
    fn read_to_the_end(&self) {
        let until = Instant::now() + Duration::from_secs(2);
        while !(self.stdout.thread.is_finished() && self.stderr.thread.is_finished())
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the condition is true. Returns false if the process ended or the time elapsed before.
    pub fn wait_until(&mut self, most: Duration, mut holds: impl FnMut(&Proc) -> bool) -> bool {
        let until = Instant::now() + most;
        loop {
            if holds(self) {
                return true;
            }
            if self.ended().is_some() || Instant::now() >= until {
                return holds(self);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.is_server {
            // Killing the holder would leave the server behind.
            self.stop_server(Duration::from_secs(10));
        }
        self.end();
    }
}

/// Reads a pipe to its end on a thread, so that the child never blocks on it.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Collector {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Collector {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let thread = thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(got @ 1..) = pipe.read(&mut buffer) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..got]);
            }
        });
        Collector { bytes, thread }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn finish(self) -> Vec<u8> {
        drop(self.thread.join());
        std::mem::take(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a command; returns its output and the peak resident memory of the process in KiB.
///
/// Two sources, since each alone is wrong: `ru_maxrss` counts what this test process had when it forked, and the peak in
/// /proc disappears with the process, so the last millisecond may be missed. The first is used if it is larger than our own.
/// A program that ends at once, with less memory than ours, may show 0.
#[expect(clippy::zombie_processes, reason = "reaped by wait4")]
pub fn run_with_rusage(mut command: Command) -> (Output, u64) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let own = peak_of(std::process::id());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let stdout = Collector::of(child.stdout.take());
    let stderr = Collector::of(child.stderr.take());
    let mut sampled = 0;
    let (status, maxrss) = loop {
        // `spawn` returns after the exec: this is the memory of the program and not ours.
        sampled = sampled.max(peak_of(child.id()));
        if let Some(ended) = reap(child.id()) {
            break ended;
        }
        thread::sleep(Duration::from_millis(1));
    };
    let peak = if maxrss > own.max(peak_of(std::process::id())) { maxrss } else { sampled };
    (Output { status, stdout: stdout.finish(), stderr: stderr.finish() }, peak)
}

/// VmHWM in KiB; 0 for a process that has ended.
fn peak_of(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// Status and `ru_maxrss` in KiB, once the child has ended.
#[expect(unsafe_code, reason = "nix has no wait4, and only wait4 tells the memory of one child")]
fn reap(id: u32) -> Option<(ExitStatus, u64)> {
    use nix::libc;
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live values of the right type; an all-zero rusage is a valid one.
    let (ended, usage) = unsafe {
        let ended = libc::wait4(pid(id).as_raw(), &raw mut status, libc::WNOHANG, usage.as_mut_ptr());
        (ended, usage.assume_init())
    };
    assert!(ended >= 0, "wait4 of {id}: {}", std::io::Error::last_os_error());
    (ended != 0).then(|| (ExitStatus::from_raw(status), u64::try_from(usage.ru_maxrss).unwrap_or(0)))
}

pub(super) fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process ids are below 2^22"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_with_its_guard_and_not_before() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; read line; echo \"$line\" >&2; sleep 100"]);
        let mut process = Proc::spawn(command);
        assert!(process.wait_until(Duration::from_secs(5), |process| process.stdout().contains("begun")));
        std::io::Write::write_all(process.stdin().unwrap(), b"heard\n").unwrap();
        assert!(process.wait_until(Duration::from_secs(5), |process| process.stderr().contains("heard")));
        let id = process.id();
        assert!(process.ended().is_none());
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_server_on_a_leash_ends_when_its_holder_lets_go() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ $CANARY; exec sleep 1000"]).env("CANARY", "sings");
        let mut server = Proc::spawn_server(&command);
        assert!(server.wait_until(Duration::from_secs(5), |server| server.stdout().ends_with("sings\n")));
        let id = server.stdout().split(' ').next().unwrap().to_owned();
        assert!(std::path::Path::new(&format!("/proc/{id}")).exists());
        drop(server);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn peak_memory_is_that_of_the_child() {
        // 64 MiB that are written to, in this process, before the fork.
        let ballast = vec![1_u8; 64 << 20];
        let (small, little) = run_with_rusage(Command::new("true"));
        let mut command = Command::new("sh");
        command.args(["-c", "head -c 100000000 /dev/zero | tail -c 100000000 | wc -c"]);
        let (done, _) = run_with_rusage(command);
        assert!(small.status.success() && little < 32 << 10, "{little} KiB for true");
        assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "100000000");
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
        let (_, much) = run_with_rusage(command);
        assert!((190 << 10..260 << 10).contains(&much), "{much} KiB for a buffer of 200 MiB");
        drop(ballast);
    }
}
