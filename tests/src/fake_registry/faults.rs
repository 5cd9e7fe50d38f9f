//! Scripted faults, and the requests that they apply to.

use std::sync::Mutex;
use std::time::Duration;

use super::http::Request;

/// Effect of a [`Fault`] on a request. Several faults may apply to one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Respond with this only: the request is not processed, its body is read and dropped.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// RST before anything is processed.
    ResetBefore,
    /// An orderly end of the connection before anything is processed: what a load balancer does to idle peers.
    CloseBefore,
    /// RST after this number of bytes of the request body was read and stored.
    CutRequest(u64),
    /// The request is processed completely, then RST instead of the response.
    LostAnswer,
    /// Content-Length is that of the complete body; after this number of bytes the connection is closed in order.
    TruncateBody(u64),
    /// Like `TruncateBody`, with RST.
    ResetBody(u64),
    /// Processed; this header replaces the one of the response.
    SetHeader(String, String),
    /// Processed; the response lacks this header.
    DropHeader(String),
    /// Processed; the response has this body with its Content-Length, and the other headers are unchanged.
    SetBody(Vec<u8>),
    /// One bit of the byte at this offset of the response body is flipped; the length is unchanged.
    FlipBit(u64),
    /// Wait before processing.
    Delay(Duration),
    /// The response is sent byte by byte, with this pause in between.
    Trickle(Duration),
    /// Not processed: redirected to this URL; `{path}` in it is replaced by path and query.
    Redirect { status: u16, location: String },
}

impl Act {
    /// A status with an error body in the form of the spec.
    pub fn status(status: u16) -> Act {
        let body = br#"{"errors":[{"code":"SCRIPTED","message":"scripted fault"}]}"#.to_vec();
        Act::Answer { status, headers: vec![("Content-Type".into(), "application/json".into())], body }
    }

    /// A status with `Retry-After`, in seconds or as an HTTP date.
    pub fn retry_after(status: u16, value: &str) -> Act {
        let headers = vec![("Retry-After".to_owned(), value.to_owned())];
        Act::Answer { status, headers, body: Vec::new() }
    }

    /// `Docker-Content-Digest` does not match the bytes.
    pub fn wrong_digest() -> Act {
        Act::SetHeader("Docker-Content-Digest".into(), format!("sha256:{}", "0".repeat(64)))
    }
}

type Predicate = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// One scripted fault. It counts requests from the moment when it is given to the registry.
pub struct Fault {
    matches: Predicate,
    /// The number of matching requests before the first that it applies to.
    pass: usize,
    /// The number of requests that it applies to.
    times: usize,
    act: Act,
    seen: usize,
}

impl Fault {
    /// At the k-th request from now on; 1 is the first.
    pub fn at(k: usize, act: Act) -> Fault {
        Fault::when(|_| true, act).nth(k)
    }

    /// At the first request that matches.
    pub fn when(matches: impl Fn(&Request) -> bool + Send + Sync + 'static, act: Act) -> Fault {
        Fault { matches: Box::new(matches), pass: 0, times: 1, act, seen: 0 }
    }

    /// Not the first, but the k-th request that matches (1 is the first).
    pub fn nth(mut self, k: usize) -> Fault {
        assert!(k > 0, "requests are counted from 1");
        self.pass = k - 1;
        self
    }

    /// Applies to this number of successive requests instead of one.
    pub fn times(mut self, times: usize) -> Fault {
        self.times = times;
        self
    }

    pub fn forever(self) -> Fault {
        self.times(usize::MAX)
    }
}

#[derive(Default)]
pub(super) struct Script {
    faults: Mutex<Vec<Fault>>,
    fired: Mutex<usize>,
}

impl Script {
    pub(super) fn add(&self, fault: Fault) {
        super::lock(&self.faults).push(fault);
    }

    pub(super) fn clear(&self) {
        super::lock(&self.faults).clear();
    }

    /// The number of requests that faults applied to: a sweep over k ends when this does not grow anymore.
    pub(super) fn fired(&self) -> usize {
        *super::lock(&self.fired)
    }

    pub(super) fn met_by(&self, request: &Request) -> Vec<Act> {
        let mut acts = Vec::new();
        for fault in super::lock(&self.faults).iter_mut() {
            if !(fault.matches)(request) {
                continue;
            }
            fault.seen += 1;
            if fault.seen > fault.pass && fault.seen - fault.pass <= fault.times {
                acts.push(fault.act.clone());
            }
        }
        *super::lock(&self.fired) += acts.len();
        acts
    }
}
