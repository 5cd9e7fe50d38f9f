//! The one error of reading from and writing to stores: what could not be done, where, and the way out.

use crate::Exit;
use std::io;

/// `doing: why; hint`. The kind is the exit code that the failure earns.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing}: {why}{}", hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct Error {
    pub kind: Exit,
    /// What was tried, with the thing and the place: `read the manifest of "127.0.0.1:5000/app:1"`.
    pub doing: String,
    pub why: String,
    /// What the person can do about it.
    pub hint: Option<String>,
    /// Where there are several reasons, each on a line of its own: `release.yaml:7: unknown key ...`.
    pub problems: Vec<String>,
}

impl Error {
    pub fn new(kind: Exit, doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), why: why.into(), hint: None, problems: Vec::new() }
    }

    pub fn bad_input(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::BadInput, doing, why)
    }

    pub fn not_permitted(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::NotPermitted, doing, why)
    }

    pub fn not_found(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, doing, why)
    }

    pub fn network(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Network, doing, why)
    }

    pub fn integrity(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Integrity, doing, why)
    }

    pub fn conflict(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Conflict, doing, why)
    }

    pub fn local(doing: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Local, doing, why)
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Several reasons, all at once.
    #[must_use]
    pub fn problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    /// An I/O error on the way. A `Error` that travelled through a `Read` comes out as it went in.
    pub fn from_io(doing: impl Into<String>, error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
            if let Some(inner) = inner {
                return *inner;
            }
            return Self::local(doing, "the reader failed");
        }
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            // A file was named where a folder is meant, or the other way round.
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Exit::BadInput,
            _ => Exit::Local,
        };
        Self::new(kind, doing, error.to_string())
    }

    /// Wraps this error so that it can travel through a `Read`.
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// Makes a call again that a signal broke off, as std does in its own loops.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
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
    fn a_hint_stands_behind_the_reason() {
        let error = Error::conflict("move tag", "it moved").hint("use --force");
        assert_eq!(error.to_string(), "move tag: it moved; use --force");
    }
}
