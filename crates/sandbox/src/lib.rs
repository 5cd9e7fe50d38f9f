//! Isolation of an image's program from the host.
//!
//! The program gets user, mount, PID, network, IPC, UTS and cgroup namespaces, a root directory with nothing of the
//! host above or below it, a `/proc` and a `/dev` of its own, no capabilities outside, and limits. It ends when its
//! parent ends, with every process that it started.
//!
//! Three processes take part. The *supervisor* ([`supervise`]) runs in the namespace of `binfmt-setup run`, where the
//! emulators are registered; it creates the namespaces and writes their id maps. *init* is PID 1 of the new PID
//! namespace; it builds the root directory and waits. The *command* is its child. All of them report to the caller
//! through one pipe ([`SandboxEvent`]), which the command cannot reach.

mod init;
mod limits;
mod mounts;
mod supervisor;

use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

pub use supervisor::supervise;

/// What to run, and in which root directory. Travels as JSON on stdin: environment variables and arguments of an
/// image must not be read as options of a program of ours.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sandbox {
    /// The unpacked root file system. It must have directories `proc`, `dev` and `tmp`.
    pub root: PathBuf,
    pub ids: SandboxIds,
    pub command: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    pub working_dir: PathBuf,
    /// The process that waits for the result. When it ends, the sandbox ends.
    pub caller: i32,
}

/// The user and group ids of the supervisor's namespace that are ids 0 to `count - 1` inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxIds {
    uid: u32,
    gid: u32,
    count: u32,
}

/// First of the ids that systemd's table of uid ranges (UIDS-GIDS) leaves unused.
const UNUSED_IDS: u64 = 0x7000_0000;
/// As many ids as a container usually has.
const IDS_MAX: u64 = 65_536;

impl SandboxIds {
    /// SandboxIds for a sandbox whose supervisor is a child of this process. Root is never among them unless no other id is
    /// allowed: an ordinary user can give away her own id only.
    pub fn of_process() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let unprivileged = if uid.is_root() { unprivileged(&map) } else { None };
        unprivileged.unwrap_or(Self { uid: uid.as_raw(), gid: gid.as_raw(), count: 1 })
    }

    /// The same for a supervisor in the namespace of `binfmt-setup run`: it maps an ordinary user to root, and the ids
    /// of root to themselves.
    pub fn in_private_namespace() -> Self {
        let ids = Self::of_process();
        if ids.is_own() { Self { uid: 0, gid: 0, ..ids } } else { ids }
    }

    /// The supervisor has no other id to give.
    pub fn is_own(self) -> bool {
        self.count == 1
    }

    /// User and group of a file that belongs to these ids inside; ids that the sandbox does not have become its root.
    pub fn outside(self, uid: u64, gid: u64) -> (u32, u32) {
        let outside = |first: u32, inside: u64| match u32::try_from(inside) {
            Ok(inside) if inside < self.count => first + inside,
            _ => first,
        };
        (outside(self.uid, uid), outside(self.gid, gid))
    }
}

/// The unused range where the map (`INSIDE OUTSIDE COUNT` lines) has it, else the highest ids that it has.
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

/// What the processes of a sandbox report, one JSON object a line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SandboxEvent {
    /// This host does not allow the sandbox; nothing of the image has run.
    Refused { step: String, error: String },
    /// Everything is in place; what happens from here on is the image's doing.
    Began,
    /// The command could not be executed.
    NotExecuted { why: String },
    /// The command ended, with this wait status (wait(2)).
    Ended { status: i32 },
}

impl SandboxEvent {
    /// Nobody is left to be told when the pipe is closed.
    fn send(&self, to: &mut impl Write) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            let _ = to.write_all(&line);
        }
    }

    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

/// A step of the set-up that the kernel refused.
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
        Self::Refused { step: refusal.step.to_string(), error: refusal.error.to_string() }
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
        check("         0          0 4294967295\n", Some((0x7000_0000, 65_536)));
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
