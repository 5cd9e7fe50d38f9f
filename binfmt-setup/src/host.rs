//! Properties of this host, its kernel and this process.

use std::fs::read_to_string;
use std::path::Path;

use crate::elf::{self, Ident};

/// Major and minor version of the running kernel, or (0, 0) if it cannot be read.
pub fn kernel_version() -> (u32, u32) {
    read_to_string("/proc/sys/kernel/osrelease").ok().and_then(|text| parse_version(&text)).unwrap_or((0, 0))
}

/// Parses major and minor version: `6.18.2-foo` is (6, 18).
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The machine that this program was built for, which runs without an emulator.
pub fn own_ident() -> Option<Ident> {
    use std::io::Read;
    let mut head = [0; 64];
    std::fs::File::open("/proc/self/exe").ok()?.read_exact(&mut head).ok()?;
    elf::parse_ident(&head)
}

/// Whether this process is in the initial user namespace. Its number is fixed: PROC_USER_INIT_INO, linux/proc_ns.h.
pub fn in_initial_user_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/user").is_ok_and(|link| link == Path::new("user:[4026531837]"))
}

/// Whether the table on this device differs from that of process 1. `None` if the mounts of process 1 cannot be read.
pub fn is_private_table(device: u64) -> Option<bool> {
    if in_initial_user_namespace() {
        return Some(false);
    }
    let mounts = read_to_string("/proc/1/mountinfo").ok()?;
    let devices = binfmt_misc_devices(&mounts);
    Some(!devices.contains(&(nix::sys::stat::major(device), nix::sys::stat::minor(device))))
}

/// Devices of all mounts of binfmt_misc in a mountinfo (proc(5)): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS... - TYPE ...`.
fn binfmt_misc_devices(mountinfo: &str) -> Vec<(u64, u64)> {
    let device = |line: &str| {
        let (fields, rest) = line.split_once(" - ")?;
        let (major, minor) = fields.split(' ').nth(2)?.split_once(':')?;
        rest.starts_with("binfmt_misc ").then_some((major.parse().ok()?, minor.parse().ok()?))
    };
    mountinfo.lines().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_of_distributions_are_parsed() {
        for (text, version) in [
            ("6.18.2\n", Some((6, 18))),
            ("5.10.0-28-amd64", Some((5, 10))),
            ("6.7-rc1", Some((6, 7))),
            ("4.4.0-19041-Microsoft", Some((4, 4))),
            ("six", None),
        ] {
            assert_eq!(parse_version(text), version);
        }
    }

    #[test]
    fn only_mounts_of_binfmt_misc_are_returned() {
        let mounts = "35 23 0:31 / /sys rw - sysfs sysfs rw\n\
                      40 22 0:35 / /proc/sys/fs/binfmt_misc rw,relatime shared:9 - autofs systemd-1 rw\n\
                      41 40 0:36 / /proc/sys/fs/binfmt_misc rw,nosuid shared:10 - binfmt_misc binfmt_misc rw\n";
        assert_eq!(binfmt_misc_devices(mounts), [(0, 36)]);
    }
}
