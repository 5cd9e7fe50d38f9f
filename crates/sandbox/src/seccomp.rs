//! The system call filter of the sandbox: an allow list, compiled to classic BPF for seccomp(2).
//!
//! The list is that of container engines (moby's `profiles/seccomp/default.json`) for a process without CAP_SYS_ADMIN, without
//! io_uring and without access to the memory of other processes. The filter has a part for each ABI that the kernel of this
//! machine executes, because linux/386 programs run natively on amd64. The crate seccompiler kills programs of a second ABI and
//! has one errno only; libseccomp takes 30 ms.

use nix::errno::Errno;
use nix::libc;

/// System calls that are allowed with all arguments, in all ABIs that have them.
const ALLOWED: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind brk capget
    capset chdir chmod chown chown32 chroot clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat
    fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv
    futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
    getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32
    getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr
    lstat lstat64 madvise map_shadow_stack membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
    nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect
    poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr rename renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown
    sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend socketpair splice stat stat64
    statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Returns ENOSYS, so that programs use another call. The flags of clone3 and the arguments of socketcall are in memory, which a
/// filter cannot read.
const ABSENT: [&str; 2] = ["clone3", "socketcall"];

/// Address families of sockets. Others, such as AF_VSOCK, are not confined by a network namespace.
const FAMILIES: [u32; 4] = [1, 2, 10, 16]; // AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (socket.h)
/// All CLONE_NEW* flags of clone(2).
const NAMESPACES: u32 = 0x7e02_0000;
/// TIOCSTI and TIOCLINUX write into the input of a terminal (ioctls.h).
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];
/// Values of personality(2) as in moby's profile: PER_LINUX, PER_LINUX32, both with UNAME26, and the query of the value.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// The numbers of breakpoint, cacheflush and set_tls, which are outside the table of 32-bit ARM (arch/arm unistd.h).
const ARM_PRIVATE: [u32; 3] = [0xf_0001, 0xf_0002, 0xf_0005];

/// An ABI: its value in `seccomp_data.arch` (audit.h) and its system calls.
struct Abi {
    arch: u32,
    /// The name of the system call with this number.
    name: fn(usize) -> Option<&'static str>,
    /// One more than the highest known number.
    count: usize,
}

const ARM: u32 = 0x4000_0028;

macro_rules! abi {
    ($module:ident, $arch:expr) => {
        Abi {
            arch: $arch,
            name: |number| syscalls::$module::Sysno::new(number).map(|call| call.name()),
            count: syscalls::$module::Sysno::last().id() as usize + 1,
        }
    };
}

/// The ABIs that a kernel of this machine executes. The first is the one of this program.
const ABIS: &[Abi] = &[
    #[cfg(target_arch = "x86_64")]
    abi!(x86_64, 0xc000_003e),
    #[cfg(target_arch = "x86_64")]
    abi!(x86, 0x4000_0003),
    #[cfg(target_arch = "aarch64")]
    abi!(aarch64, 0xc000_00b7),
    #[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
    abi!(arm, ARM),
    #[cfg(target_arch = "riscv64")]
    abi!(riscv64, 0xc000_00f3),
];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const fn refuse(errno: Errno) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// Instructions of classic BPF (filter.h).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;

/// Offsets in `struct seccomp_data` (seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The low halves of the first and the second argument. The kernel ignores the high half of all arguments that are compared here.
const FIRST: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };
const SECOND: u32 = FIRST + 8;

/// Installs the filter for this process and its children. It must not be able to gain privileges.
///
/// # Errors
/// The kernel has no seccomp filters.
pub fn install() -> Result<(), Errno> {
    let filter = compile(ABIS);
    let len = u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    #[expect(unsafe_code, reason = "nix has no seccomp; the kernel copies the program during the call")]
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Errno::result(installed).map(drop)
}

/// The filter for these ABIs. Programs of others are killed.
fn compile(abis: &[Abi]) -> Vec<libc::sock_filter> {
    let allowed: Vec<&str> = ALLOWED.split_whitespace().collect();
    let mut filter = vec![load(ARCH)];
    for abi in abis {
        let part = compile_abi(abi, &allowed);
        // A conditional jump has 8 bits, which is less than a part.
        filter.push(jump(IF_EQUAL, abi.arch, 1, 0));
        filter.push(instruction(0x05, u32::try_from(part.len()).unwrap_or(u32::MAX)));
        filter.extend(part);
    }
    filter.push(exit(libc::SECCOMP_RET_KILL_PROCESS));
    filter
}

/// The part of one ABI. It ends with a return in all cases.
fn compile_abi(abi: &Abi, allowed: &[&str]) -> Vec<libc::sock_filter> {
    let mut part = vec![load(NUMBER)];
    if abi.arch == ARM {
        for number in ARM_PRIVATE {
            part.extend([jump(IF_EQUAL, number, 0, 1), exit(ALLOW)]);
        }
    }
    for number in 0..abi.count {
        let body = match (abi.name)(number) {
            Some("socket") => one_of(FIRST, &FAMILIES, ALLOW, refuse(Errno::EAFNOSUPPORT)),
            Some("personality") => one_of(FIRST, &PERSONALITIES, ALLOW, refuse(Errno::EPERM)),
            Some("ioctl") => one_of(SECOND, &TERMINAL_INPUT, refuse(Errno::EPERM), ALLOW),
            Some("clone") => {
                let mut body = one_of(FIRST, &[0], ALLOW, refuse(Errno::EPERM));
                body.insert(1, instruction(AND, NAMESPACES));
                body
            }
            _ => continue,
        };
        part.push(jump(IF_EQUAL, number_of(number), 0, u8::try_from(body.len()).unwrap_or(u8::MAX)));
        part.extend(body);
    }
    // From the highest number down. Equal results of adjacent numbers are one range. Numbers of x32 are above all of them.
    let result = |number: usize| match (abi.name)(number) {
        None => refuse(Errno::ENOSYS),
        Some(name) if ABSENT.contains(&name) => refuse(Errno::ENOSYS),
        Some(name) if allowed.contains(&name) => ALLOW,
        Some(_) => refuse(Errno::EPERM),
    };
    let mut above = refuse(Errno::ENOSYS);
    for number in (0..abi.count).rev() {
        if result(number) != above {
            part.push(jump(IF_AT_LEAST, number_of(number + 1), 0, 1));
            part.push(exit(above));
            above = result(number);
        }
    }
    part.push(exit(above));
    part
}

/// Compares the argument at this offset.
fn one_of(argument: u32, values: &[u32], found: u32, otherwise: u32) -> Vec<libc::sock_filter> {
    let mut body = vec![load(argument)];
    for value in values {
        body.push(jump(IF_EQUAL, *value, 0, 1));
        body.push(exit(found));
    }
    body.push(exit(otherwise));
    body
}

fn number_of(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn load(offset: u32) -> libc::sock_filter {
    instruction(LOAD, offset)
}

fn exit(result: u32) -> libc::sock_filter {
    instruction(RETURN, result)
}

fn instruction(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// Skips `jt` instructions if the comparison is true, else `jf`.
fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes the filter as the kernel does.
    fn result(filter: &[libc::sock_filter], arch: u32, number: u32, argument: (u32, u32)) -> u32 {
        let (mut at, mut register) = (0, 0);
        loop {
            let one = filter[at];
            at += 1;
            let mut branch = |condition: bool| at += usize::from(if condition { one.jt } else { one.jf });
            match one.code {
                LOAD => {
                    register = match one.k {
                        NUMBER => number,
                        ARCH => arch,
                        FIRST => argument.0,
                        SECOND => argument.1,
                        offset => panic!("load of {offset}"),
                    }
                }
                AND => register &= one.k,
                IF_EQUAL => branch(register == one.k),
                IF_AT_LEAST => branch(register >= one.k),
                0x05 => at += one.k as usize,
                RETURN => return one.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    const ALL: [Abi; 5] = [
        abi!(x86_64, 0xc000_003e),
        abi!(x86, 0x4000_0003),
        abi!(aarch64, 0xc000_00b7),
        abi!(arm, ARM),
        abi!(riscv64, 0xc000_00f3),
    ];

    fn by_name(abi: &Abi, name: &str) -> Option<u32> {
        (0..abi.count).find(|number| (abi.name)(*number) == Some(name)).map(number_of)
    }

    #[test]
    fn every_abi_has_the_same_rules() {
        let filter = compile(&ALL);
        let eperm = refuse(Errno::EPERM);
        for abi in &ALL {
            let check = |name: &str, argument: u32, expected: u32| {
                let argument = if name == "ioctl" { (0, argument) } else { (argument, 0) };
                if let Some(number) = by_name(abi, name) {
                    assert_eq!(result(&filter, abi.arch, number, argument), expected, "{name} {argument:?}");
                }
            };
            for name in ALLOWED.split_whitespace() {
                check(name, 0, ALLOW);
            }
            for name in [
                "mount",
                "umount2",
                "pivot_root",
                "unshare",
                "setns",
                "bpf",
                "perf_event_open",
                "ptrace",
                "keyctl",
                "add_key",
                "request_key",
                "userfaultfd",
                "io_uring_setup",
                "io_uring_enter",
                "init_module",
                "finit_module",
                "kexec_load",
                "open_by_handle_at",
                "process_vm_readv",
                "pidfd_getfd",
                "fsopen",
                "open_tree",
                "move_mount",
                "syslog",
                "swapon",
                "reboot",
                "settimeofday",
                "sethostname",
                "quotactl",
                "iopl",
                "ioperm",
                "kcmp",
                "acct",
                "mount_setattr",
                "memfd_secret",
            ] {
                check(name, 0, eperm);
            }
            for (name, argument, expected) in [
                ("clone3", 0, refuse(Errno::ENOSYS)),
                ("socketcall", 1, refuse(Errno::ENOSYS)),
                ("clone", 0x11, ALLOW),
                ("clone", 0x1000_0000, eperm),
                ("clone", 0x0002_0011, eperm),
                ("socket", 1, ALLOW),
                ("socket", 16, ALLOW),
                ("socket", 40, refuse(Errno::EAFNOSUPPORT)),
                ("ioctl", 0x5401, ALLOW),
                ("ioctl", 0x5412, eperm),
                ("personality", u32::MAX, ALLOW),
                ("personality", 0x40_0000, eperm),
            ] {
                check(name, argument, expected);
            }
            let highest = number_of(abi.count);
            for unknown in [highest, highest + 100, 0x4000_0000, u32::MAX] {
                assert_eq!(result(&filter, abi.arch, unknown, (0, 0)), refuse(Errno::ENOSYS));
            }
        }
        assert_eq!(result(&filter, ARM, 0xf_0005, (0, 0)), ALLOW);
        assert_eq!(result(&filter, 0x1234, 0, (0, 0)), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn every_name_in_the_list_is_a_system_call_of_some_abi() {
        for name in ALLOWED.split_whitespace().chain(ABSENT) {
            assert!(ALL.iter().any(|abi| by_name(abi, name).is_some()), "{name}");
        }
    }
}
