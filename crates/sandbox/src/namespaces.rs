//! New namespaces for a child process.

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

/// The namespaces of a sandbox.
pub const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// fork(2) with new namespaces for the child. `None` in the child.
pub fn fork_into(namespaces: CloneFlags) -> Result<Option<Pid>, Errno> {
    let flags = libc::c_long::from(namespaces.bits() | libc::SIGCHLD);
    #[expect(
        unsafe_code,
        reason = "without CLONE_VM and a stack this is fork; the process has one thread, so the child may do anything"
    )]
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match Errno::result(child)? {
        0 => Ok(None),
        child => Ok(Some(Pid::from_raw(i32::try_from(child).map_err(|_| Errno::EOVERFLOW)?))),
    }
}
