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

impl Exit {
    /// All of them, as a person is told.
    pub const MEANINGS: [(Exit, &'static str); 10] = [
        (Exit::Done, "done, or nothing to do"),
        (Exit::Found, "a check found something wrong"),
        (Exit::Usage, "the command line is wrong"),
        (Exit::BadInput, "bad or ambiguous input"),
        (Exit::NotPermitted, "not permitted: credentials, TLS, rights"),
        (Exit::NotFound, "something named does not exist"),
        (Exit::Network, "network or registry, retries used up"),
        (Exit::Integrity, "a digest or size differs"),
        (Exit::Conflict, "conflict: the tag moved, locked, name taken"),
        (Exit::Local, "local I/O, or the kernel refused; all is as it was"),
    ];
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}
