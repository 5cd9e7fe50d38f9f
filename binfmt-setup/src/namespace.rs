//! A user and mount namespace of our own, with a binfmt_misc of its own in it: no root needed, and the host's table
//! stays as it is. Needs Linux 6.7, which gave each user namespace its own table.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid, getpid};

use crate::exit::Exit;
use crate::facts;
use crate::kernel::{KernelError, Table, mount_table};

#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("{step}: {why}")]
    Forbidden { step: &'static str, why: String, source: Errno },
    #[error("{step} failed")]
    Failed { step: &'static str, source: io::Error },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("the table at {0} is still that of the host: nothing was registered")]
    StillTheHosts(String),
}

impl NamespaceError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Forbidden { .. } => Exit::NotPermitted,
            Self::Failed { .. } | Self::StillTheHosts(_) => Exit::Io,
            Self::Kernel(error) => error.exit(),
        }
    }
}

/// Moves this process, which must have one thread only, into new namespaces and mounts a table there. `Ok` means
/// that the table is another one than the host's, and empty.
pub fn enter(at: &Path) -> Result<Table, NamespaceError> {
    let before = Table::open(at).ok().and_then(|table| table.device().ok());
    let forbidden = |step, source: Errno| NamespaceError::Forbidden {
        step,
        why: explain(source, &Policy::read()),
        source,
    };
    let (own_id, all_ids) = (Maps::own_id(), Maps::all_ids());
    let helper = all_ids.map(|maps| Helper::start(&maps)).transpose()?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| forbidden("a user namespace of one's own is not allowed here", errno))?;
    // Where even root may not map all ids, as in some containers, its own alone must do.
    let mapped = helper.is_some_and(|helper| helper.finish().is_ok());
    if !mapped {
        own_id.write(Path::new("/proc/self")).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw) {
                Some(errno @ (Errno::EPERM | Errno::EACCES)) => {
                    forbidden("a new user namespace gives no rights here", errno)
                }
                _ => {
                    NamespaceError::Failed { step: "writing the id map of the new namespace", source: error }
                }
            }
        })?;
    }
    // Nothing that is mounted from here on shows outside; what is mounted outside still shows here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|errno| forbidden("mounting in a user namespace of one's own is not allowed here", errno))?;
    let table = match mount_table(at) {
        Err(KernelError::Mount { source: errno @ (Errno::EPERM | Errno::EACCES), .. }) => {
            return Err(forbidden("a table of one's own is not allowed here", errno));
        }
        mounted => mounted?,
    };
    let device = table.device()?;
    if before == Some(device) || facts::is_private(device) == Some(false) {
        return Err(NamespaceError::StillTheHosts(crate::escape::escaped(at)));
    }
    Ok(table)
}

/// Which ids the new namespace has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Maps {
    /// Our own id is root there, and there is no other: all that is allowed without rights.
    Single { uid: u32, gid: u32 },
    /// Every id of the present namespace under its own number, so that a container engine or apt works inside.
    Identity { uids: String, gids: String },
}

impl Maps {
    fn own_id() -> Self {
        Self::Single { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// `None` without the rights for it. Only a process that stays outside may write such a map.
    fn all_ids() -> Option<Self> {
        if !geteuid().is_root() || !has_capabilities() {
            return None;
        }
        let map = |file| fs::read_to_string(file).ok().map(|map| identity(&map));
        Some(Self::Identity { uids: map("/proc/self/uid_map")?, gids: map("/proc/self/gid_map")? })
    }

    fn write(&self, process: &Path) -> io::Result<()> {
        let (uids, gids) = match self {
            Self::Single { uid, gid } => {
                // The kernel asks for this before it accepts a gid map from somebody without rights.
                fs::write(process.join("setgroups"), "deny")?;
                (format!("0 {uid} 1\n"), format!("0 {gid} 1\n"))
            }
            Self::Identity { uids, gids } => (uids.clone(), gids.clone()),
        };
        fs::write(process.join("uid_map"), uids)?;
        fs::write(process.join("gid_map"), gids)
    }
}

/// `INSIDE OUTSIDE COUNT` of our own map: what is inside for us is outside for our child.
///
/// A map of all ids is written in two lines. In one, `0 0 4294967295`, runc and systemd take it for that of the initial
/// namespace (they compare the text) and try what only the real root may.
fn identity(map: &str) -> String {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (inside, count) = (fields.next()?, fields.nth(1)?);
        Some(match (inside, count) {
            ("0", "4294967295") => "0 0 1\n1 1 4294967294\n".to_string(),
            _ => format!("{inside} {inside} {count}\n"),
        })
    };
    map.lines().filter_map(line).collect()
}

/// CAP_SETGID, CAP_SETUID and CAP_SETFCAP (which a map of root needs since Linux 5.12), capability.h.
fn has_capabilities() -> bool {
    const NEEDED: u64 = 1 << 6 | 1 << 7 | 1 << 31;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits & NEEDED == NEEDED)
}

/// A child that stays in the old namespace and writes the id maps of the new one when told.
struct Helper {
    child: Pid,
    go: io::PipeWriter,
}

impl Helper {
    fn start(maps: &Maps) -> Result<Self, NamespaceError> {
        let failed = |source| NamespaceError::Failed { step: "starting a helper", source };
        let (mut wait, go) = io::pipe().map_err(failed)?;
        let process = Path::new("/proc").join(getpid().to_string());
        #[expect(
            unsafe_code,
            reason = "this process has one thread, so the child is a full copy that may do anything"
        )]
        let forked = unsafe { fork() };
        match forked.map_err(|errno| failed(errno.into()))? {
            ForkResult::Parent { child } => Ok(Self { child, go }),
            ForkResult::Child => {
                drop(go);
                // Without the byte the parent failed or died, and there is nothing to do.
                let told = wait.read_exact(&mut [0]);
                let code = match told.and_then(|()| maps.write(&process)) {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(255),
                };
                std::process::exit(code)
            }
        }
    }

    fn finish(mut self) -> Result<(), NamespaceError> {
        let failed =
            |source| NamespaceError::Failed { step: "writing the id map of the new namespace", source };
        self.go.write_all(&[1]).map_err(failed)?;
        match waitpid(self.child, None).map_err(|errno| failed(errno.into()))? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(failed(io::Error::from_raw_os_error(code))),
            other => Err(failed(io::Error::other(format!("{other:?}")))),
        }
    }
}

/// What may stand in the way of a namespace of one's own.
#[derive(Debug, Clone, Default)]
struct Policy {
    kernel: (u32, u32),
    most_user_namespaces: Option<u64>,
    /// Debian's own switch, kernel.unprivileged_userns_clone.
    unprivileged_clone: Option<u64>,
    apparmor_restricts: bool,
    seccomp: bool,
}

impl Policy {
    fn read() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            kernel: facts::kernel_version(),
            most_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            seccomp: seccomp.is_some_and(|mode| mode.trim() != "0"),
        }
    }
}

/// Which of the things that forbid it is the one here, and what to do.
fn explain(errno: Errno, policy: &Policy) -> String {
    let (major, minor) = policy.kernel;
    if policy.kernel < (6, 7) {
        return format!(
            "this is Linux {major}.{minor}, and a user namespace has a table of its own since 6.7: use a newer \
             kernel, or register for the whole machine: sudo binfmt-setup register"
        );
    }
    if policy.most_user_namespaces == Some(0) {
        return "user.max_user_namespaces is 0: sudo sysctl user.max_user_namespaces=10000".to_owned();
    }
    if errno == Errno::ENOSPC || errno == Errno::EUSERS {
        return "the limit of user or mount namespaces is reached: raise user.max_user_namespaces and \
                user.max_mnt_namespaces, or nest less deeply"
            .to_owned();
    }
    if policy.unprivileged_clone == Some(0) {
        return "kernel.unprivileged_userns_clone is 0: sudo sysctl kernel.unprivileged_userns_clone=1"
            .to_owned();
    }
    if policy.apparmor_restricts {
        return "AppArmor keeps user namespaces from programs without a profile: \
                sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give binfmt-setup a profile with userns"
            .to_owned();
    }
    if policy.seccomp {
        return "a seccomp filter forbids it, as the default profile of container engines does: start the container \
                with --security-opt seccomp=unconfined, or run outside of it"
            .to_owned();
    }
    "the kernel forbids it and does not say why; inside a chroot no user namespace can be made: run outside of it"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_obstacle_is_named() {
        let fine = Policy {
            kernel: (6, 8),
            most_user_namespaces: Some(9),
            unprivileged_clone: Some(1),
            ..Policy::default()
        };
        for (errno, policy, word) in [
            (Errno::EPERM, Policy { kernel: (6, 1), ..fine.clone() }, "since 6.7"),
            (
                Errno::ENOSPC,
                Policy { most_user_namespaces: Some(0), ..fine.clone() },
                "max_user_namespaces is 0",
            ),
            (Errno::ENOSPC, fine.clone(), "limit"),
            (
                Errno::EPERM,
                Policy { unprivileged_clone: Some(0), ..fine.clone() },
                "unprivileged_userns_clone",
            ),
            (Errno::EPERM, Policy { apparmor_restricts: true, ..fine.clone() }, "AppArmor"),
            (Errno::EPERM, Policy { seccomp: true, ..fine.clone() }, "seccomp"),
            (Errno::EPERM, fine, "chroot"),
        ] {
            assert!(explain(errno, &policy).contains(word), "{word}");
        }
    }

    #[test]
    fn an_identity_map_keeps_each_range() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 1\n1 1 4294967294\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
