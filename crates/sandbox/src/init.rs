//! The first process of a sandbox, which starts the command in a PID namespace of its own and waits for it.

use crate::namespaces::fork_into;
use crate::{Refusal, Sandbox, SandboxEvent, Step, limits, mounts, seccomp};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{
    Gid, Uid, chdir, close, dup2_stderr, dup2_stdin, dup2_stdout, execve, setgroups, sethostname, setresgid,
    setresuid, setsid,
};
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Does not return: the process ends when the command ends, and with it the PID namespace.
pub fn run(sandbox: &Sandbox, go: PipeReader, events: &mut File) -> ! {
    let output = io::stderr();
    if !may_begin(&go) {
        // The supervisor has ended, or reports itself why it could not write the id maps.
        std::process::exit(1)
    }
    match prepare(sandbox, go).and_then(|()| start(sandbox, events, &output)) {
        Ok(command) => {
            // So that the output ends when the processes of the command have closed it.
            let _ = [0, 1, 2].map(close);
            SandboxEvent::Ended { status: wait_for(command) }.send(events);
            std::process::exit(0)
        }
        Err(refusal) => {
            SandboxEvent::from(refusal).send(events);
            std::process::exit(1)
        }
    }
}

/// Waits for the byte that the supervisor sends after it has written the id maps.
fn may_begin(mut go: &PipeReader) -> bool {
    go.read_exact(&mut [0]).is_ok()
}

/// Prepares the namespaces. The order matters, for the reasons at the steps.
fn prepare(sandbox: &Sandbox, go: PipeReader) -> Result<(), Refusal> {
    // Before the change of ids, because directories above the tree may be accessible only to the id of the caller.
    mounts::enter_tree(&sandbox.root)?;
    let (uid, gid) = if sandbox.ids.is_own() { (sandbox.user.uid, sandbox.user.gid) } else { (0, 0) };
    become_user(uid, gid)?;
    // After the change of ids, which clears both.
    prctl::set_pdeathsig(Signal::SIGKILL).step("end with the supervisor")?;
    prctl::set_dumpable(false).step("hide this process from the command")?;
    if is_closed(&go) {
        return Err(Refusal { step: "find the supervisor alive", error: Errno::ESRCH.into() });
    }
    drop(go);
    sethostname("sandbox").step("set the host name")?;
    limits::bring_up_loopback();
    limits::leave_the_keyring();
    setsid().step("leave the session").map(drop)
}

fn become_user(uid: u32, gid: u32) -> Result<(), Refusal> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid).step("take the group id of the sandbox")?;
    setresuid(uid, uid, uid).step("take the user id of the sandbox")
}

/// Returns whether the other end of the pipe is closed. No further byte is sent through it.
fn is_closed(pipe: &PipeReader) -> bool {
    let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Forks the command. This process gives up its privileges.
fn start(sandbox: &Sandbox, events: &mut File, output: &impl AsFd) -> Result<libc::pid_t, Refusal> {
    match fork_into(CloneFlags::CLONE_NEWPID).step("start a process")? {
        Some(child) => {
            limits::drop_all_capabilities().step("drop capabilities")?;
            restrict_system_calls()?;
            Ok(child.as_raw())
        }
        None => {
            if let Err(refusal) = replace_root().and_then(|()| confine(sandbox, output)) {
                SandboxEvent::from(refusal).send(events);
                std::process::exit(1)
            }
            SandboxEvent::Began.send(events);
            let why = match execute(sandbox) {
                Ok(never) => match never {},
                Err(why) => why,
            };
            SandboxEvent::NotExecuted { why }.send(events);
            std::process::exit(127)
        }
    }
}

/// Replaces the root directory of the mount namespace, also for init. `/proc` shows the PID namespace of this process.
fn replace_root() -> Result<(), Refusal> {
    // While the host's /proc is still mounted: the first two write to it, and the third can mount a /proc only then.
    limits::forbid_user_namespaces();
    limits::limit_shared_memory();
    mounts::mount_all()?;
    mounts::leave_the_host()
}

/// Takes everything from this process that the command must not have.
fn confine(sandbox: &Sandbox, output: &impl AsFd) -> Result<(), Refusal> {
    setsid().step("leave the session")?;
    let null = File::options().read(true).open("/dev/null").step("open /dev/null")?;
    dup2_stdin(&null).step("close the input")?;
    dup2_stdout(output).step("open the output")?;
    dup2_stderr(output).step("open the output")?;
    #[expect(unsafe_code, reason = "the default action is not a function of this program")]
    // Rust ignores SIGPIPE when a program starts, and execve(2) keeps that.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.step("reset SIGPIPE")?;
    SigSet::empty().thread_set_mask().step("unblock signals")?;
    limits::close_descriptors().step("close descriptors")?;
    limits::set_limits().step("set limits")?;
    limits::keep_container_capabilities().step("drop capabilities")?;
    if !sandbox.ids.is_own() {
        // A user other than root loses the capabilities with this.
        let groups: Vec<Gid> = sandbox.user.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).step("set the groups of the image's user")?;
        become_user(sandbox.user.uid, sandbox.user.gid)?;
    }
    // Last, so that nothing before depends on it.
    restrict_system_calls()
}

fn restrict_system_calls() -> Result<(), Refusal> {
    prctl::set_no_new_privs().step("forbid new privileges")?;
    seccomp::install().step("install a system call filter")
}

/// Waits for the command and returns its wait status. When it ends, so do all processes of its PID namespace.
fn wait_for(command: libc::pid_t) -> i32 {
    loop {
        let mut status = 0;
        #[expect(unsafe_code, reason = "nix does not give the status as the kernel does")]
        let pid = unsafe { libc::waitpid(command, &raw mut status, 0) };
        match Errno::result(pid) {
            Ok(_) => return status,
            Err(Errno::EINTR) => {}
            // Not reached: the command is a child of this process.
            Err(_) => return 0x7f00,
        }
    }
}

/// Executes the command. `Err`: the reason why it cannot be executed, for people.
fn execute(sandbox: &Sandbox) -> Result<Infallible, String> {
    let Some(program) = sandbox.command.first() else { return Err("the command is empty".into()) };
    chdir(&sandbox.working_dir).map_err(|error| {
        format!("working directory \"{}\": {}", sandbox.working_dir.display(), error.desc())
    })?;
    let c_string = |text: &str| {
        CString::new(text).map_err(|_| format!("\"{}\" contains a zero byte", text.replace('\0', "\\0")))
    };
    let arguments = sandbox.command.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let mut env = sandbox.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        let home = Some(sandbox.user.home.as_str()).filter(|home| !home.is_empty());
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    let env_c = env.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    let mut found = Errno::ENOENT;
    for path in candidates(program, &env) {
        let path_c = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        let Err(errno) = execve(&path_c, &arguments, &env_c);
        match errno {
            // Continue with the next directory of PATH.
            Errno::ENOENT | Errno::ENOTDIR if !path.exists() => {}
            Errno::EACCES if path.is_dir() => {}
            _ => return Err(explain(&path, errno)),
        }
        found = errno;
    }
    Err(explain(Path::new(program), found))
}

/// The files that execvp(3) tries.
fn candidates(program: &str, env: &[String]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![program.into()];
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    std::env::split_paths(OsStr::new(path)).map(|dir| dir.join(program)).collect()
}

/// The reason why `program` was not executed.
fn explain(program: &Path, errno: Errno) -> String {
    let shown = program.display();
    match errno {
        Errno::ENOENT if program.exists() => format!("the interpreter of \"{shown}\" is not in the image"),
        Errno::ENOENT | Errno::ENOTDIR => format!("\"{shown}\" is not in the image"),
        Errno::EACCES => format!("\"{shown}\" is not executable"),
        Errno::ENOEXEC => format!("\"{shown}\" has a format that the kernel does not execute"),
        errno => format!("\"{shown}\" cannot be executed: {}", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn programs_are_searched_in_the_path_of_the_image() {
        let check = |program: &str, env: &[&str], expected: &[&str]| {
            let env: Vec<String> = env.iter().map(ToString::to_string).collect();
            let found = candidates(program, &env);
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{program} {env:?}");
        };
        check("/app", &["PATH=/bin"], &["/app"]);
        check("./app", &["PATH=/bin"], &["./app"]);
        check("app", &["A=1", "PATH=/opt:/bin"], &["/opt/app", "/bin/app"]);
        assert_eq!(candidates("app", &[]).len(), 6);
    }

    #[test]
    fn a_program_that_is_not_executed_has_a_reason() {
        let check = |program: &str, errno: Errno, expected: &str| {
            assert_eq!(explain(Path::new(program), errno), expected);
        };
        check("/absent", Errno::ENOENT, "\"/absent\" is not in the image");
        check("/dev/null/x", Errno::ENOTDIR, "\"/dev/null/x\" is not in the image");
        // It exists, so what is absent is its loader or the interpreter of its first line.
        check("/dev/null", Errno::ENOENT, "the interpreter of \"/dev/null\" is not in the image");
        check("/dev/null", Errno::EACCES, "\"/dev/null\" is not executable");
        check("/x", Errno::ENOEXEC, "\"/x\" has a format that the kernel does not execute");
        check("/x", Errno::E2BIG, "\"/x\" cannot be executed: Argument list too long");
    }

    #[test]
    fn nothing_begins_without_the_supervisor() {
        let (go, tell) = io::pipe().unwrap();
        (&tell).write_all(&[1]).unwrap();
        assert!(may_begin(&go) && !is_closed(&go));
        drop(tell);
        assert!(is_closed(&go) && !may_begin(&go));
    }
}
