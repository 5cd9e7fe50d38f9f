//! The error type of all packages: what could not be done, why, and the way out.

use crate::Exit;
use std::io;

/// An error with its exit code. Displayed as `ACTION: REASON; HINT`; programs print `TOOL: cannot ` in front of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action}: {reason}{}", hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct Error {
    /// The exit code of a program that ends with this error.
    pub kind: Exit,
    /// What was tried, as a verb with the thing and the place: `read the manifest of "127.0.0.1:5000/app:1"`.
    pub action: String,
    /// Why it failed.
    pub reason: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// Single problems, one line each, if there are several: `release.yaml:7: unknown key ...`.
    pub problems: Vec<String>,
}

impl Error {
    /// An error without hint and problems.
    pub fn new(kind: Exit, action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { kind, action: action.into(), reason: reason.into(), hint: None, problems: Vec::new() }
    }

    /// Invalid or ambiguous input (exit code 3).
    pub fn bad_input(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::BadInput, action, reason)
    }

    /// Credentials, TLS or file permissions do not allow it (exit code 4).
    pub fn not_permitted(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::NotPermitted, action, reason)
    }

    /// An image, file or program does not exist (exit code 5).
    pub fn not_found(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, action, reason)
    }

    /// Network or registry failed (exit code 6).
    pub fn network(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::Network, action, reason)
    }

    /// A digest or size differs from the expected one (exit code 7).
    pub fn integrity(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::Integrity, action, reason)
    }

    /// A tag moved, a lock is held, a name is taken (exit code 8).
    pub fn conflict(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::Conflict, action, reason)
    }

    /// Local I/O or the kernel failed (exit code 9).
    pub fn local(action: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(Exit::Local, action, reason)
    }

    /// Sets what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the list of single problems.
    #[must_use]
    pub fn problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    /// Converts an I/O error; the kind follows from that of the I/O error. An `Error` that was wrapped by
    /// [`Error::into_io`] is returned unchanged.
    pub fn from_io(action: impl Into<String>, error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
            if let Some(inner) = inner {
                return *inner;
            }
            return Self::local(action, "the reader failed");
        }
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            // The user named a file where a directory is required, or the other way round.
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Exit::BadInput,
            _ => Exit::Local,
        };
        Self::new(kind, action, io_reason(&error))
    }

    /// Wraps this error in an I/O error, so that a `Read` can return it.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// The text of an I/O error in the style of messages: `permission denied`, without `(os error 13)`.
pub fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let Some((reason, _)) = error.raw_os_error().and_then(|_| text.split_once(" (os error ")) else {
        return text;
    };
    let mut letters = reason.chars();
    let first = letters.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

/// Calls `call` again for as long as a signal interrupts it, as std does in its own loops.
///
/// # Errors
/// Any other error of `call`.
pub fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_a_reader() {
        let error = Error::integrity("read blob", "digest differs").into_io();
        let back = Error::from_io("copy", error);
        assert_eq!((back.kind, back.to_string().as_str()), (Exit::Integrity, "read blob: digest differs"));
    }

    #[test]
    fn a_hint_follows_the_reason() {
        let error = Error::conflict("move tag", "it moved").hint("use --force");
        assert_eq!(error.to_string(), "move tag: it moved; use --force");
    }

    #[test]
    fn an_io_error_is_shown_without_its_number() {
        let error = Error::from_io("read \"x\"", io::Error::from_raw_os_error(13));
        assert_eq!(
            (error.kind, error.to_string().as_str()),
            (Exit::NotPermitted, "read \"x\": permission denied")
        );
        assert_eq!(io_reason(&io::Error::other("Text of its own")), "Text of its own");
    }
}
