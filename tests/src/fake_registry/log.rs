//! The log of requests, and the secrets in them.

use super::auth::{Authorization, Credential};
use super::http::Listener;

/// One request.
#[derive(Clone, Debug)]
pub struct Logged {
    /// 1 for the first request of this registry; one count over all three listeners.
    pub number: usize,
    pub listener: Listener,
    /// Requests with the same number used one connection.
    pub connection: usize,
    pub method: String,
    /// Path and query, not decoded.
    pub path: String,
    pub repository: Option<String>,
    /// `None` while it is processed, and if a fault suppressed the response.
    pub status: Option<u16>,
    pub authorization: Authorization,
    /// Scopes of a token request.
    pub scopes: Vec<String>,
    /// Bytes of the body that arrived, without the framing of chunks.
    pub request_bytes: u64,
    /// Bytes of the body that were sent.
    pub response_bytes: u64,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Logged>,
    pub(super) credentials: Vec<Credential>,
}

impl Log {
    /// The entry of a request that is still being worked on, unless the test has taken it.
    pub(super) fn of(&mut self, number: usize) -> Option<&mut Logged> {
        self.entries.iter_mut().rev().find(|logged| logged.number == number)
    }
}
