//! The root directory of a sandbox: the tree of the image, read-only, with its own `/proc`, `/dev` and `/tmp`.
//!
//! From [`enter_tree`] on, the tree is the working directory, and all paths are relative to it.

use super::{Refusal, Step};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, pivot_root};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

const NONE: Option<&str> = None;

/// Mount points in the tree.
const MOUNT_POINTS: [&str; 3] = ["proc", "dev", "tmp"];
/// Files of /proc that show the host. The masked and read-only paths are those of runc (`maskedPaths` and `readonlyPaths` of its
/// default configuration).
const PROC_MASKED: [&str; 17] = [
    "config.gz",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "sched_debug",
    "slabinfo",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
];
const PROC_EMPTY: [&str; 3] = ["acpi", "asound", "scsi"];
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Makes mounts private and the tree the working directory.
pub fn enter_tree(root: &Path) -> Result<(), Refusal> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).step("make mounts private")?;
    mount(Some(root), root, NONE, MsFlags::MS_BIND, NONE).step("mount the image")?;
    chdir(root).step("enter the image")?;
    // A link could lead to a directory of the host, which is still reachable.
    for name in MOUNT_POINTS {
        let found = fs::symlink_metadata(name).step("find /proc, /dev and /tmp in the image")?;
        if !found.is_dir() {
            return Err(Refusal {
                step: "use /proc, /dev and /tmp of the image",
                error: Errno::ENOTDIR.into(),
            });
        }
    }
    Ok(())
}

/// Mounts everything below the root directory, and makes the image read-only.
pub fn mount_all() -> Result<(), Refusal> {
    // The command keeps this umask, the default of container engines, whatever the caller has.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    mount_proc()?;
    mount_dev()?;
    mount_tmpfs("tmp", "mode=1777,size=64m,nr_inodes=4096", MsFlags::empty()).step("mount /tmp")?;
    restrict(".", libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)
        .step("make the image read-only")
}

/// Makes the working directory the root, with nothing of the host left in this mount namespace.
pub fn leave_the_host() -> Result<(), Refusal> {
    pivot_root(".", ".").step("change the root directory")?;
    // pivot_root(2): the old root is now on top of the new one, so "." is the host's.
    umount2(".", MntFlags::MNT_DETACH).step("detach the host's file systems")?;
    chdir("/").step("enter the image")
}

/// Mounts the /proc of the new PID namespace. Where parts of the host's /proc are covered, as in containers, the kernel does not
/// allow it, and /proc stays as in the image.
fn mount_proc() -> Result<(), Refusal> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // With this option, init is invisible, because it is not dumpable. Its command line has paths of the host.
    match mount(Some("proc"), "proc", Some("proc"), flags, Some("hidepid=invisible")) {
        Err(Errno::EPERM) => return Ok(()),
        mounted => mounted.step("mount /proc")?,
    }
    let present = |names: &'static [&str]| {
        names.iter().map(|name| format!("proc/{name}")).filter(|path| Path::new(path).exists())
    };
    for path in present(&PROC_READ_ONLY) {
        bind(&path, &path, libc::MOUNT_ATTR_RDONLY).step("protect /proc")?;
    }
    for path in present(&PROC_MASKED) {
        bind("/dev/null", &path, 0).step("mask files of /proc")?;
    }
    for path in present(&PROC_EMPTY) {
        mount_tmpfs(&path, "size=0,nr_inodes=1", MsFlags::MS_RDONLY).step("mask directories of /proc")?;
    }
    Ok(())
}

/// Mounts a /dev with five devices of the host.
fn mount_dev() -> Result<(), Refusal> {
    mount_tmpfs("dev", "mode=755,size=64k,nr_inodes=64", MsFlags::MS_NOEXEC).step("mount /dev")?;
    for name in DEVICES {
        let (from, to) = (format!("/dev/{name}"), format!("dev/{name}"));
        File::create(&to).step("create device files")?;
        bind(&from, &to, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC).step("mount device files")?;
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, format!("dev/{name}")).step("create links in /dev")?;
    }
    fs::create_dir("dev/shm").step("create /dev/shm")?;
    mount_tmpfs("dev/shm", "mode=1777,size=16m,nr_inodes=1024", MsFlags::MS_NOEXEC).step("mount /dev/shm")?;
    restrict("dev", libc::MOUNT_ATTR_RDONLY).step("make /dev read-only")
}

fn mount_tmpfs(at: &str, options: &str, flags: MsFlags) -> Result<(), Errno> {
    let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
}

/// Bind-mounts a file or directory with these attributes.
fn bind(from: &str, to: &str, attributes: u64) -> Result<(), Errno> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE)?;
    if attributes == 0 { Ok(()) } else { restrict(to, attributes) }
}

/// Adds attributes to one mount and keeps the ones that it has. Needs Linux 5.12, mount_setattr(2).
fn restrict(at: &str, attributes: u64) -> Result<(), Errno> {
    let path = std::ffi::CString::new(at).map_err(|_| Errno::EINVAL)?;
    let set = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    #[expect(unsafe_code, reason = "nix has no mount_setattr; path and structure outlive the call")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            &raw const set,
            size_of_val(&set),
        )
    };
    Errno::result(result).map(drop)
}
