//! Isolation of a program from an image, for smoke tests.
//!
//! Guarantees, for root and for ordinary users:
//!
//! - The program sees no file, process, socket, key or network of the host: it has user, mount, PID, network, IPC, UTS and
//!   cgroup namespaces, and the host's file systems are detached from its root directory, which is read-only.
//! - It cannot change the host: it has no capabilities outside its user namespace, no set-user-id program raises its
//!   privileges, and `/proc` and `/dev` have no file that acts on the host. As root it does not run with the host's root id,
//!   unless the process has no other id, as in some containers.
//! - It ends when the caller ends, with all processes that it started.
//! - Processes, memory, open files, file sizes, `/tmp` and core dumps are limited. The caller watches the memory of all
//!   processes together with [`memory_of`]; shared memory and files of memfd_create(2) are limited one by one only.
//! - System calls are filtered with an allow list like that of container engines.
//!
//! Not guaranteed: protection from bugs of the kernel or of QEMU. Where the kernel does not allow to mount
//! `/proc`, as in containers, `/proc` is the image's own, usually empty directory. A kernel that does not allow the namespaces
//! or the filter is reported ([`SandboxEvent::Refused`]); there is no weaker sandbox.
//!
//! Three processes take part. The *supervisor* ([`supervise`]) runs in the namespace of `binfmt-setup run`, where the
//! emulators are registered. It creates the namespaces and writes their id maps. *init* is the first process in them. It waits
//! for the *command*, which is process 1 of a PID namespace of its own, as in a container. All of them report to the caller
//! through one pipe ([`SandboxEvent`]), which the command cannot reach.
//!
//! The caller writes a [`Sandbox`] to the supervisor's stdin and reads events from its stdout:
//!
//! ```
//! use sandbox::{Sandbox, SandboxEvent, SandboxIds, SandboxUser};
//!
//! let sandbox = Sandbox {
//!     root: "/work/root".into(),
//!     ids: SandboxIds::of_process(),
//!     user: SandboxUser::default(),
//!     command: vec!["/app".into(), "--version".into()],
//!     env: vec!["LANG=C".into()],
//!     working_dir: "/".into(),
//!     caller: std::process::id().cast_signed(),
//! };
//! let stdin = serde_json::to_string(&sandbox)?;
//! assert!(stdin.contains("--version"));
//!
//! // What the supervisor wrote to stdout.
//! assert_eq!(SandboxEvent::parse(r#"{"ended":{"status":0}}"#), Some(SandboxEvent::Ended { status: 0 }));
//! # Ok::<(), serde_json::Error>(())
//! ```

#![warn(missing_docs)]

mod init;
mod limits;
mod mounts;
mod namespaces;
mod seccomp;
mod supervisor;
mod user;

use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

pub use supervisor::{memory_of, supervise};
pub use user::SandboxUser;

/// A command and its root directory.
///
/// It is passed as JSON on stdin, so that environment variables and arguments of an image are never options of our own
/// programs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sandbox {
    /// The unpacked root file system. It must have directories `proc`, `dev` and `tmp`.
    pub root: PathBuf,
    /// The ids of the sandbox.
    pub ids: SandboxIds,
    /// The user of the command. If the sandbox has one id only, it is this one inside.
    pub user: SandboxUser,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The environment as `NAME=VALUE`. Without PATH, the default of container engines is used, without HOME that of the user.
    pub env: Vec<String>,
    /// The working directory in the image.
    pub working_dir: PathBuf,
    /// The id of the process that waits for the result, which must be the parent of the supervisor. When it ends, the sandbox
    /// ends.
    pub caller: i32,
}

/// The user and group ids of the sandbox: `count` ids of the supervisor's namespace, which are ids 0 to `count - 1` inside. A
/// single id is that of the command's user inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxIds {
    uid: u32,
    gid: u32,
    count: u32,
}

/// First of the ids that systemd's table of uid ranges (UIDS-GIDS) leaves unused.
const UNUSED_IDS: u64 = 0x7000_0000;
/// The whole of that range, so that every user of an image has an id.
const IDS_MAX: u64 = 0x7ffe_0000 - UNUSED_IDS;

impl SandboxIds {
    /// Ids for a supervisor in the user namespace of this process. They never include root, unless this process can use no
    /// other id. An ordinary user has only one id.
    pub fn of_process() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let unprivileged = if uid.is_root() { unprivileged(&map) } else { None };
        unprivileged.unwrap_or(Self { uid: uid.as_raw(), gid: gid.as_raw(), count: 1 })
    }

    /// Ids for a supervisor in the namespace of `binfmt-setup run`, which maps an ordinary user to root, and for root all ids to
    /// themselves.
    pub fn in_private_namespace() -> Self {
        let ids = Self::of_process();
        if ids.is_own() { Self { uid: 0, gid: 0, ..ids } } else { ids }
    }

    /// Returns whether the sandbox has only the id of the supervisor itself.
    pub fn is_own(self) -> bool {
        self.count == 1
    }

    /// The ids in the supervisor's namespace of a file with these owners inside. Owners that the sandbox does not have become
    /// its root.
    pub fn outside(self, uid: u64, gid: u64) -> (u32, u32) {
        let outside = |first: u32, inside: u64| match u32::try_from(inside) {
            Ok(inside) if inside < self.count => first + inside,
            _ => first,
        };
        (outside(self.uid, uid), outside(self.gid, gid))
    }
}

/// The unused range if the id map (lines of `INSIDE OUTSIDE COUNT`) has it, else the highest ids that it has.
fn unprivileged(map: &str) -> Option<SandboxIds> {
    let extent = |line: &str| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().ok());
        let (inside, _outside, count) = (fields.next()??, fields.next()??, fields.next()??);
        Some((inside, inside + count))
    };
    let extents: Vec<(u64, u64)> = map.lines().filter_map(extent).collect();
    let unused = extents.iter().find(|(start, end)| (*start..*end).contains(&UNUSED_IDS));
    let (first, end) = match unused {
        Some((_, end)) => (UNUSED_IDS, (UNUSED_IDS + IDS_MAX).min(*end)),
        None => {
            let (start, end) = *extents.iter().max_by_key(|(_, end)| *end)?;
            // Id 0 is root of the host, or of the container that this runs in.
            (end.saturating_sub(IDS_MAX).max(start).max(1), end)
        }
    };
    let (first, count) = (u32::try_from(first).ok()?, u32::try_from(end.checked_sub(first)?).ok()?);
    (count > 1).then_some(SandboxIds { uid: first, gid: first, count })
}

/// An event of a sandbox. The processes write one JSON object per line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SandboxEvent {
    /// This host does not allow the sandbox; nothing of the image has run.
    Refused {
        /// The failed operation, a verb phrase such as `mount /proc`.
        step: String,
        /// The error of the kernel.
        error: String,
    },
    /// The sandbox is complete. The image is responsible for everything that follows.
    Began,
    /// The command could not be executed.
    NotExecuted {
        /// The reason, for people.
        why: String,
    },
    /// The command ended.
    Ended {
        /// The wait status, wait(2).
        status: i32,
    },
}

impl SandboxEvent {
    /// Writes the event. An error is ignored: if the pipe is closed, the caller has ended.
    fn send(&self, to: &mut impl Write) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let _ = to.write_all(&line);
        }
    }

    /// The event on this line. `None`: the line is not an event.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// A step of the setup that the kernel refused.
struct Refusal {
    step: &'static str,
    error: io::Error,
}

trait Step<T> {
    /// Names the step that failed.
    fn step(self, step: &'static str) -> Result<T, Refusal>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, Refusal> {
        self.map_err(|error| Refusal { step, error: error.into() })
    }
}

impl From<Refusal> for SandboxEvent {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { step: refusal.step.to_string(), error: error::io_reason(&refusal.error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unused_ones_where_the_map_has_them_and_never_root() {
        let check = |map: &str, expected: Option<(u32, u32)>| {
            assert_eq!(unprivileged(map).map(|ids| (ids.uid, ids.count)), expected, "{map}");
        };
        check("         0          0 4294967295\n", Some((0x7000_0000, 0x0ffe_0000)));
        // A rootless container of Podman, one with few ids, and one with root alone.
        check("0 1000 1\n1 100000 65536\n", Some((1, 65_536)));
        check("0 100000 65536\n", Some((1, 65_535)));
        check("0 1000 1\n", None);
        check("", None);
    }

    #[test]
    fn ids_beyond_the_range_become_root_inside() {
        let ids = SandboxIds { uid: 1000, gid: 2000, count: 10 };
        assert_eq!(ids.outside(0, 9), (1000, 2009));
        assert_eq!(ids.outside(10, u64::MAX), (1000, 2000));
    }

    #[test]
    fn a_refusal_has_the_error_without_its_number() {
        let error = io::Error::from_raw_os_error(nix::libc::EPERM);
        let event = SandboxEvent::from(Refusal { step: "mount /proc", error });
        let error = "operation not permitted".to_string();
        assert_eq!(event, SandboxEvent::Refused { step: "mount /proc".into(), error });
    }

    #[test]
    fn events_survive_the_pipe() {
        for event in [
            SandboxEvent::Refused { step: "mount /proc".into(), error: "no".into() },
            SandboxEvent::Began,
            SandboxEvent::NotExecuted { why: "\"x\"\n".into() },
            SandboxEvent::Ended { status: 256 },
        ] {
            let mut pipe = Vec::new();
            event.send(&mut pipe);
            assert_eq!(pipe.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(SandboxEvent::parse(std::str::from_utf8(&pipe).unwrap()), Some(event));
        }
    }
}
