//! Exit codes, so that a pipeline can tell what to retry and what to repair.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// A check found something: a platform that was asked for does not run.
    Found = 1,
    /// The command line itself is wrong; clap uses the same number.
    Usage = 2,
    /// Input that makes no sense or is too dangerous to write.
    BadInput = 3,
    /// Rights, or a policy of this machine.
    NotPermitted = 4,
    NotFound = 5,
    /// Another entry has the name, or another process has the lock.
    Conflict = 8,
    /// The kernel or a file system refused; everything is as it was before.
    Io = 9,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
