//! The supervisor of a sandbox, which creates the namespaces, writes their id maps and waits for init.

use crate::namespaces::{NAMESPACES, fork_into};
use crate::{Refusal, Sandbox, SandboxEvent, Step, init};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, SysconfVar, dup, getppid, setgroups, sysconf};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Runs the [`Sandbox`] on stdin. Events are written to stdout, the output of the command to stderr. The process must have only
/// one thread.
///
/// # Errors
/// If stdin is not a [`Sandbox`]. A failure of the sandbox is an event.
pub fn supervise() -> io::Result<()> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let sandbox: Sandbox = serde_json::from_slice(&text)?;
    // A duplicate, because the command has descriptors 0 to 2.
    let mut events = File::from(dup(io::stdout())?);
    if let Err(refusal) = run(&sandbox, &mut events) {
        SandboxEvent::from(refusal).send(&mut events);
    }
    Ok(())
}

fn run(sandbox: &Sandbox, events: &mut File) -> Result<(), Refusal> {
    prctl::set_pdeathsig(Signal::SIGKILL).step("end with the caller")?;
    if getppid().as_raw() != sandbox.caller {
        // The caller ended before this process asked for its death signal.
        return Ok(());
    }
    if !sandbox.ids.is_own() {
        setgroups(&[]).step("drop supplementary groups")?;
    }
    // If memory runs out, the kernel kills the sandbox first. Before the fork, because init is not dumpable and could not write
    // it. Some hosts do not allow it; nothing depends on it.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let (go, tell) = io::pipe().step("create a pipe")?;
    match fork_into(NAMESPACES).step("create namespaces")? {
        None => {
            drop(tell);
            init::run(sandbox, go, events)
        }
        Some(child) => {
            drop(go);
            let mapped = write_maps(child, sandbox).and_then(|()| (&tell).write_all(&[1]));
            if mapped.is_err() {
                drop(tell);
                let _ = waitpid(child, None);
                return mapped.step("map user ids");
            }
            // `tell` stays open as long as the supervisor is alive: init checks it once.
            let waited = waitpid(child, None);
            drop(tell);
            waited.map(drop).step("wait for the sandbox")
        }
    }
}

/// Writes the id maps of a new user namespace.
fn write_maps(child: Pid, Sandbox { ids, user, .. }: &Sandbox) -> io::Result<()> {
    let process = PathBuf::from(format!("/proc/{child}"));
    let map = |inside: u32, first: u32| {
        let inside = if ids.is_own() { inside } else { 0 };
        format!("{inside} {first} {}\n", ids.count)
    };
    if ids.is_own() {
        // The kernel requires this before it accepts a gid map from a process without CAP_SETGID.
        fs::write(process.join("setgroups"), "deny")?;
    }
    fs::write(process.join("uid_map"), map(user.uid, ids.uid))?;
    fs::write(process.join("gid_map"), map(user.gid, ids.gid))
}

/// Bytes of memory that a supervisor and all processes of its sandbox use: anonymous pages, without what they share. Processes
/// that end meanwhile count as zero.
pub fn memory_of(supervisor: u32) -> u64 {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
    let mut pages = 0u64;
    let mut left = vec![supervisor];
    while let Some(process) = left.pop() {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let fields: Vec<u64> = read("statm").split(' ').filter_map(|field| field.parse().ok()).collect();
        if let [_, resident, shared, ..] = fields[..] {
            pages += resident.saturating_sub(shared);
        }
        // An orphan becomes a child of init, so this finds all of them.
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten() {
            let children = read(&format!("task/{}/children", thread.file_name().display()));
            left.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    pages * page.unwrap_or(4096)
}
