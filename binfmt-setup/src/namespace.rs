//! A private user and mount namespace with its own binfmt_misc, for `run`. It does not require root and does not change the
//! host's table. It requires Linux 6.7, where each user namespace can have its own table.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use error::{Error, Exit, io_reason};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid, getpid};

use crate::host;
use crate::kernel::{Table, mount_table};

/// Moves this process, which must have one thread only, into new namespaces and mounts a table there. It is empty and
/// differs from that of the host.
///
/// # Errors
/// `NotPermitted`, with the setting of the host that forbids it, or `Local` if a system call fails.
pub fn enter(at: &Path) -> Result<Table, Error> {
    let device = |table: Option<Table>| table.and_then(|table| table.device().ok());
    let before = device(Table::open(at).unwrap_or_default());
    let (own_id, all_ids) = (Maps::own_id(), Maps::all_ids());
    let helper = all_ids.map(|maps| Helper::start(&maps)).transpose()?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| forbidden("create a user namespace", errno))?;
    // In some containers even root may not map all ids; then only its own id is mapped.
    let is_mapped = helper.is_some_and(|helper| helper.finish().is_ok());
    if !is_mapped {
        own_id.write(Path::new("/proc/self")).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw) {
                Some(errno @ (Errno::EPERM | Errno::EACCES)) => {
                    forbidden("get privileges in a new user namespace", errno)
                }
                _ => failed(ID_MAP, &error),
            }
        })?;
    }
    // Mounts from here on are not visible outside; mounts outside are still visible here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|errno| forbidden("mount in a new user namespace", errno))?;
    let table = mount_table(at).map_err(|error| match error.kind {
        Exit::NotPermitted => forbidden("mount a private binfmt_misc", Errno::EPERM),
        _ => error,
    })?;
    let device = table.device()?;
    if before == Some(device) || host::is_private_table(device) == Some(false) {
        let why = format!("the table at {} is still that of the host; nothing was registered", at.display());
        return Err(Error::local("mount a private binfmt_misc", why));
    }
    Ok(table)
}

const ID_MAP: &str = "write the id map of the new user namespace";

fn failed(action: &str, error: &io::Error) -> Error {
    Error::local(action, io_reason(error))
}

fn forbidden(action: &str, errno: Errno) -> Error {
    let (reason, hint) = explain(errno, &Policy::read());
    Error::not_permitted(action, reason).hint(hint)
}

/// The user and group ids of the new namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Maps {
    /// The id of this process is root there, and there is no other: all that an unprivileged process may write.
    Single { uid: u32, gid: u32 },
    /// Every id of the current namespace under its own number, so that container engines and apt work inside.
    Identity { uids: String, gids: String },
}

impl Maps {
    fn own_id() -> Self {
        Self::Single { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    /// `None` without the capabilities for it. Only a process outside of the namespace may write such a map.
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
                // The kernel requires this before it accepts a gid map from an unprivileged process.
                fs::write(process.join("setgroups"), "deny")?;
                (format!("0 {uid} 1\n"), format!("0 {gid} 1\n"))
            }
            Self::Identity { uids, gids } => (uids.clone(), gids.clone()),
        };
        fs::write(process.join("uid_map"), uids)?;
        fs::write(process.join("gid_map"), gids)
    }
}

/// Converts lines `INSIDE OUTSIDE COUNT` of the map of this process: its inside is the outside of the child.
///
/// A map of all ids is written in two lines. With the one line `0 0 4294967295`, runc and systemd assume the initial
/// namespace (they compare the text) and try operations that only its root may do.
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

/// Whether this process has CAP_SETGID, CAP_SETUID, and CAP_SETFCAP, which a map of root requires since Linux 5.12
/// (capability.h).
fn has_capabilities() -> bool {
    const REQUIRED: u64 = 1 << 6 | 1 << 7 | 1 << 31;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits & REQUIRED == REQUIRED)
}

/// A child process in the old namespace that writes the id maps of the new one on request.
struct Helper {
    child: Pid,
    go: io::PipeWriter,
}

impl Helper {
    fn start(maps: &Maps) -> Result<Self, Error> {
        let failed = |error: io::Error| failed("start a helper process", &error);
        let (mut wait, go) = io::pipe().map_err(failed)?;
        let process = Path::new("/proc").join(getpid().to_string());
        #[expect(unsafe_code, reason = "this process has one thread, so the child may call any function")]
        let forked = unsafe { fork() };
        match forked.map_err(|errno| failed(errno.into()))? {
            ForkResult::Parent { child } => Ok(Self { child, go }),
            ForkResult::Child => {
                drop(go);
                // Without the byte the parent failed or was killed, and there is nothing to do.
                let request = wait.read_exact(&mut [0]);
                let code = match request.and_then(|()| maps.write(&process)) {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(255),
                };
                std::process::exit(code)
            }
        }
    }

    fn finish(mut self) -> Result<(), Error> {
        let failed = |error: io::Error| failed(ID_MAP, &error);
        self.go.write_all(&[1]).map_err(failed)?;
        match waitpid(self.child, None).map_err(|errno| failed(errno.into()))? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, code) => Err(failed(io::Error::from_raw_os_error(code))),
            _ => Err(failed(io::Error::other("the helper process was killed"))),
        }
    }
}

/// Settings of the host that can forbid namespaces.
#[derive(Debug, Clone, Default)]
struct Policy {
    kernel: (u32, u32),
    max_user_namespaces: Option<u64>,
    /// kernel.unprivileged_userns_clone, which Debian's kernels have.
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
            kernel: host::kernel_version(),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            seccomp: seccomp.is_some_and(|mode| mode.trim() != "0"),
        }
    }
}

/// Returns what forbids a namespace on this host, and what to do.
fn explain(errno: Errno, policy: &Policy) -> (String, &'static str) {
    let (major, minor) = policy.kernel;
    if policy.kernel < (6, 7) {
        return (
            format!("this is Linux {major}.{minor}, and user namespaces have private handlers since 6.7"),
            "use a newer kernel, or register handlers for the whole host: sudo binfmt-setup register all",
        );
    }
    let (reason, hint) = if policy.max_user_namespaces == Some(0) {
        ("user.max_user_namespaces is 0", "run: sudo sysctl user.max_user_namespaces=10000")
    } else if errno == Errno::ENOSPC || errno == Errno::EUSERS {
        (
            "the limit of user or mount namespaces is reached",
            "raise user.max_user_namespaces and user.max_mnt_namespaces, or use fewer nested namespaces",
        )
    } else if policy.unprivileged_clone == Some(0) {
        ("kernel.unprivileged_userns_clone is 0", "run: sudo sysctl kernel.unprivileged_userns_clone=1")
    } else if policy.apparmor_restricts {
        (
            "AppArmor forbids user namespaces for programs without a profile",
            "run: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give binfmt-setup a profile with userns",
        )
    } else if policy.seccomp {
        (
            "a seccomp filter forbids it, like the default profile of container engines",
            "start the container with --security-opt seccomp=unconfined, or run outside of it",
        )
    } else {
        (
            "the kernel forbids it without a reason; inside a chroot no user namespace can be created",
            "run outside of the chroot",
        )
    };
    (reason.to_owned(), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_namespaces_is_reported() {
        let permissive = Policy {
            kernel: (6, 8),
            max_user_namespaces: Some(9),
            unprivileged_clone: Some(1),
            ..Policy::default()
        };
        for (errno, policy, word) in [
            (Errno::EPERM, Policy { kernel: (6, 1), ..permissive.clone() }, "since 6.7"),
            (
                Errno::ENOSPC,
                Policy { max_user_namespaces: Some(0), ..permissive.clone() },
                "max_user_namespaces is 0",
            ),
            (Errno::ENOSPC, permissive.clone(), "limit"),
            (
                Errno::EPERM,
                Policy { unprivileged_clone: Some(0), ..permissive.clone() },
                "unprivileged_userns_clone",
            ),
            (Errno::EPERM, Policy { apparmor_restricts: true, ..permissive.clone() }, "AppArmor"),
            (Errno::EPERM, Policy { seccomp: true, ..permissive.clone() }, "seccomp"),
            (Errno::EPERM, permissive, "chroot"),
        ] {
            assert!(explain(errno, &policy).0.contains(word), "{word}");
        }
    }

    #[test]
    fn an_identity_map_has_the_same_ranges() {
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 1\n1 1 4294967294\n");
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
