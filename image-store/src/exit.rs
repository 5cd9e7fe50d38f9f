//! Exit codes, the same in every tool, so that a pipeline can tell what to retry.

/// What a run ended with. The number is the process's exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// A check found something wrong: label against binaries, members that do not fit, `--check` with work to do.
    Found = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Bad or ambiguous input.
    BadInput = 3,
    /// Not permitted: credentials, TLS, rights.
    NotPermitted = 4,
    /// Something named does not exist.
    NotFound = 5,
    /// Network or registry, retries used up.
    Network = 6,
    /// A digest or size differs from what was promised.
    Integrity = 7,
    /// The tag moved, a lock is held, a name is taken.
    Conflict = 8,
    /// Local I/O failed, or the kernel refused.
    Local = 9,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}
