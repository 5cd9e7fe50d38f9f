//! A private user, mount and network namespace with a binfmt_misc of its own.
//!
//! All of this was tested with dockerd 20.10, podman 4.3, buildah 1.28 and runc 1.1 on Linux 6.18:
//! - All ids are mapped to themselves, so that files keep their owners and 0 stays 0. The map has **two lines**, since runc,
//!   containerd and dockerd take a single line `0 0 4294967295` for the initial namespace; runc then writes device cgroups
//!   (`devices.deny: operation not permitted`) and overlay2 uses trusted xattrs, which fail in here.
//! - The map is written from outside in one write: from inside only one id could be mapped.
//! - The network namespace belongs to the user namespace, so that dockerd may create its bridge and runc may mount sysfs.
//!   Loopback in it is another one: [`Relay`](super::Relay) leads out of it.
//! - `/run` is a tmpfs: containerd, runc, podman and CNI leave sockets and state there.
//! - `/sys/fs/cgroup` stays the host's; root in here may make cgroups in it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use super::busybox::debian_rules;
use super::process::{Proc, pid};
use super::{Skip, program, require, require_root};

const BINFMT: &str = "proc/sys/fs/binfmt_misc";

/// Reports that it has started, waits for its id map, and becomes root: an exec without a map drops all capabilities.
const ENTER: &str = r#"echo in; read -r go; exec setpriv --reuid 0 --regid 0 --clear-groups sh -c "$1""#;

/// Then prepares the namespace and runs until our end of its stdin is closed, also when this process ends.
const STAY: &str = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && mount -t tmpfs tmpfs /run \
                    && ip link set lo up && echo ready && exec cat";

/// The namespaces, held open by one process in them. Dropping ends every process that is in them.
pub struct Namespace {
    holder: Proc,
}

impl Namespace {
    /// With the rules of Debian's qemu-user-static, as that package writes them.
    pub fn with_debian_emulators() -> Result<Namespace, Skip> {
        let rules = debian_rules()?;
        let namespace = Self::start()?;
        for rule in rules {
            namespace.register(&rule);
        }
        Ok(namespace)
    }

    /// Without handlers: for tests that register their own.
    pub fn start() -> Result<Namespace, Skip> {
        require_root()?;
        require(&["unshare", "nsenter", "setpriv", "mount", "ip"])?;
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--net", "--propagation", "private"]);
        command.args(["sh", "-c", ENTER, "sh", STAY]);
        let mut holder = Proc::spawn(command);
        if !holder.wait_until(Duration::from_secs(10), |holder| holder.stdout().starts_with("in")) {
            return Err(Skip::because(format!("no user namespace: {}", holder.stderr().trim())));
        }
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", holder.id());
            fs::write(&path, "0 0 1\n1 1 4294967294\n")
                .map_err(|error| Skip::because(format!("{path}: {error}")))?;
        }
        let started = holder.stdin().map(|stdin| stdin.write_all(b"go\n"));
        if !matches!(started, Some(Ok(())))
            || !holder.wait_until(Duration::from_secs(10), |holder| holder.stdout().contains("ready"))
        {
            // Linux before 6.7 has no binfmt_misc in user namespaces.
            return Err(Skip::because(format!("no private binfmt_misc: {}", holder.stderr().trim())));
        }
        Ok(Namespace { holder })
    }

    /// A process in the namespaces.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// The binfmt_misc of the namespace, as a path outside.
    ///
    /// # Panics
    /// If it is the host's: nothing may be written there.
    pub fn binfmt(&self) -> PathBuf {
        let own = Path::new(&format!("/proc/{}/root", self.id())).join(BINFMT);
        let device =
            |path: &Path| fs::metadata(path).map(|found| found.dev()).expect("a mounted binfmt_misc");
        assert_ne!(device(&own), device(&Path::new("/").join(BINFMT)), "this is the host's binfmt_misc");
        own
    }

    /// One rule in the kernel's form, `:NAME:M:...`.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn register(&self, rule: &str) {
        let register = OpenOptions::new().write(true).open(self.binfmt().join("register"));
        // The kernel takes a rule in one write or not at all.
        let wrote = register.and_then(|mut register: File| register.write(rule.as_bytes()));
        assert_eq!(wrote.ok(), Some(rule.len()), "the kernel refused {rule}");
    }

    /// The same program with the same arguments, environment and directory, run inside as root, on the host's network.
    ///
    /// Set stdin, stdout and stderr on the returned command.
    pub fn enter(&self, command: &Command) -> Command {
        self.enter_with(&[], command)
    }

    /// The same, on the namespace's own network.
    pub fn enter_with_network(&self, command: &Command) -> Command {
        self.enter_with(&["--net"], command)
    }

    fn enter_with(&self, more: &[&str], command: &Command) -> Command {
        let mut inside = Command::new(program("nsenter").expect("required at the start"));
        inside.arg(format!("--target={}", self.id())).args(["--user", "--mount"]).args(more);
        // Without it nsenter calls setgroups and setuid; root is 0 on both sides already.
        inside.arg("--preserve-credentials");
        // nsenter goes to the root of the mount namespace; --wdns is too new for Debian 11.
        let here = command.get_current_dir().map_or_else(
            || std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            Path::to_path_buf,
        );
        inside.args(["sh", "-c", r#"cd "$0" && exec "$@""#]).arg(here);
        inside.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside
    }

    /// Ids of all processes in the user namespace, the holder among them.
    fn members(&self) -> Vec<u32> {
        let Ok(own) = fs::read_link(format!("/proc/{}/ns/user", self.id())) else { return Vec::new() };
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        // Skips processes that have ended and wait for their parent.
        let runs = |id: &u32| {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
        };
        let ids = ids.filter(runs);
        ids.filter(|id| fs::read_link(format!("/proc/{id}/ns/user")).is_ok_and(|theirs| theirs == own))
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(10);
        // Children of killed processes may appear late; the holder is killed last, because the namespace is found by its id.
        loop {
            let others: Vec<u32> = self.members().into_iter().filter(|id| *id != self.id()).collect();
            if others.is_empty() || Instant::now() > until {
                break;
            }
            for id in others {
                // Fails only for a process that has ended.
                let _ = kill(pid(id), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{FOREIGN, foreign_busybox};

    #[test]
    fn foreign_programs_run_inside_and_not_outside() {
        let namespace = crate::need!(Namespace::with_debian_emulators());
        for row in &FOREIGN {
            let busybox = crate::need!(foreign_busybox(row.debian));
            let mut command = Command::new(&busybox);
            command.args(["uname", "-m"]);
            let inside = namespace.enter(&command).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&inside.stdout).trim(), row.machine, "{row:?}: {inside:?}");
            assert!(row.debian == "i386" || command.output().is_err(), "{row:?} runs on the host");
        }
    }

    #[test]
    fn inside_is_root_in_the_same_directory_with_the_same_environment() {
        let namespace = crate::need!(Namespace::start());
        let mut command = Command::new("sh");
        command.args(["-c", "id -u; pwd; echo $CANARY; stat -c %u /etc/passwd /tmp"]);
        command.current_dir("/usr/lib").env("CANARY", "sings");
        let output = namespace.enter(&command).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n/usr/lib\nsings\n0\n0\n", "{output:?}");
    }

    #[test]
    fn dropping_ends_what_was_left_inside() {
        let namespace = crate::need!(Namespace::start());
        let mut left = namespace.enter(Command::new("sleep").arg("1000")).spawn().unwrap();
        while namespace.members().len() < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        drop(namespace);
        assert!(!left.wait().unwrap().success());
    }
}
