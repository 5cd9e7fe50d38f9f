//! Limits of the processes of a sandbox: capabilities, resources, descriptors, namespaces.

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
};
use std::fs;
use std::io;

const MIB: u64 = 1 << 20;

/// Limits per process. RLIMIT_NPROC counts all processes of the sandbox; QEMU has two tasks for each.
const LIMITS: [(Resource, u64); 7] = [
    (Resource::RLIMIT_NPROC, 512),
    (Resource::RLIMIT_NOFILE, 1024),
    (Resource::RLIMIT_FSIZE, 64 * MIB),
    // The address space cannot be limited: emulators of 32-bit machines reserve 4 GiB.
    (Resource::RLIMIT_DATA, 4096 * MIB),
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_MEMLOCK, MIB / 16),
    (Resource::RLIMIT_MSGQUEUE, 0),
];

/// The capabilities of the command: those that Docker gives to a container, without NET_RAW and MKNOD. They apply only to what
/// the sandbox owns: its user ids, its mounts, its network.
const CONTAINER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Sets the resource limits.
pub fn set_limits() -> Result<(), Errno> {
    for (resource, limit) in LIMITS {
        // Only root can raise a hard limit, and a lower one is stricter.
        let (_, hard) = nix::sys::resource::getrlimit(resource)?;
        let limit = limit.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Drops the capabilities that a container does not have.
pub fn keep_container_capabilities() -> io::Result<()> {
    keep_capabilities(CONTAINER)
}

/// Drops all capabilities.
pub fn drop_all_capabilities() -> io::Result<()> {
    keep_capabilities(CapabilitySet::empty())
}

/// Drops all capabilities but these from the effective, permitted, inheritable, ambient and bounding sets.
fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    clear_ambient_capability_set()?;
    // The kernel returns EINVAL after the last capability that it knows, which is 40 in Linux 6.18 (capability.h).
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Err(rustix::io::Errno::INVAL) => break,
            dropped => dropped?,
        }
    }
    // Locked, so that no process of the sandbox can raise ambient capabilities again.
    let locked =
        CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(locked)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Marks all descriptors from 3 on as close-on-exec. They are still open until then, for events.
pub fn close_descriptors() -> Result<(), Errno> {
    #[expect(unsafe_code, reason = "nix has no close_range; it takes numbers only")]
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(closed).map(drop)
}

/// Forbids further user namespaces, in which the command would have all capabilities. The file applies to the user namespace of
/// the process that writes it, so the host is not changed. Where /proc/sys is read-only, as in containers, this has no effect.
pub fn forbid_user_namespaces() {
    let _ = fs::write("/proc/sys/user/max_user_namespaces", "0");
}

/// Limits System V shared memory of the sandbox, in pages. As for user namespaces, nothing depends on it: older kernels allow it
/// to the host's root only.
pub fn limit_shared_memory() {
    let _ = fs::write("/proc/sys/kernel/shmall", "16384");
}

/// Brings up the loopback interface, as `docker run --network none` does. Nothing depends on it.
pub fn bring_up_loopback() {
    #[expect(unsafe_code, reason = "zeroes are a valid ifreq; the kernel reads it during the call")]
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return;
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        libc::close(socket);
    }
}

/// Replaces the session keyring, so that the keys of the caller's session are not visible. Without keyrings in the kernel, this
/// has no effect.
pub fn leave_the_keyring() {
    #[expect(unsafe_code, reason = "nix has no keyctl; the call takes a number and a null pointer")]
    unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>());
    }
}
