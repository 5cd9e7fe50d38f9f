//! Exit codes, the same in every program, so that a pipeline can decide what to retry.

/// How a run ended. The number is the exit status of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded, or there was nothing to do.
    Done = 0,
    /// A check failed: mislabeled image, smoke test, platform that would be lost, `--check` with work to do.
    CheckFailed = 1,
    /// The command line is invalid.
    Usage = 2,
    /// Invalid or ambiguous input.
    BadInput = 3,
    /// Not permitted: credentials, TLS, file permissions.
    NotPermitted = 4,
    /// An image, file or program does not exist.
    NotFound = 5,
    /// The network or the registry failed, and retries are exhausted.
    Network = 6,
    /// A digest or size differs from the expected one.
    Integrity = 7,
    /// Conflict: a tag moved, a lock is held, a name is taken.
    Conflict = 8,
    /// Local I/O failed, or the kernel refused an operation.
    Local = 9,
    /// A command of the user's (build, prepare, SBOM, sign) failed.
    CommandFailed = 10,
}

impl Exit {
    /// Every exit code with its meaning, as help texts and manual pages print it.
    pub const MEANINGS: [(Exit, &'static str); 11] = [
        (Exit::Done, "success, or nothing to do"),
        (Exit::CheckFailed, "a check failed"),
        (Exit::Usage, "invalid command line"),
        (Exit::BadInput, "invalid or ambiguous input"),
        (Exit::NotPermitted, "not permitted: credentials, TLS, file permissions"),
        (Exit::NotFound, "image, file or program not found"),
        (Exit::Network, "network or registry failed, retries exhausted"),
        (Exit::Integrity, "digest or size differs from the expected one"),
        (Exit::Conflict, "conflict: tag moved, lock held, or name taken"),
        (Exit::Local, "local I/O or kernel error; the message lists what was changed"),
        (Exit::CommandFailed, "a user-supplied command failed (release only)"),
    ];
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}
