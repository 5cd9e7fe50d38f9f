//! What goes wrong, and when: a script of faults over the requests that arrive.

use std::sync::Mutex;
use std::time::Duration;

use super::http::Request;

/// What happens to a request that a [`Fault`] meets. Several faults may meet one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answer so and do nothing else: the request is not processed, its body is read and dropped.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// RST before anything is processed.
    ResetBefore,
    /// An orderly end of the connection before anything is processed: what a load balancer does to idle peers.
    CloseBefore,
    /// RST after so many bytes of the request body were taken and kept.
    CutRequest(u64),
    /// The request is processed to its end, then RST instead of the answer.
    LostAnswer,
    /// The answer's head promises the whole body; after so many bytes the connection ends in order.
    TruncateBody(u64),
    /// The same, with RST.
    ResetBody(u64),
    /// Processed; then this header stands in the answer instead of its own.
    SetHeader(String, String),
    /// Processed; the answer lacks this header.
    DropHeader(String),
    /// Processed; the answer has this body, with its own Content-Length and the other headers as they were.
    SetBody(Vec<u8>),
    /// One bit of the byte at this place of the answer's body is wrong; its length is right.
    FlipBit(u64),
    /// Wait before processing.
    Delay(Duration),
    /// The answer leaves byte by byte, with this pause between two (a slow loris).
    Trickle(Duration),
    /// Not processed: sent to this URL; `{path}` in it stands for path and query.
    Redirect { status: u16, location: String },
}

impl Act {
    /// A bare status with an error body in the form of the spec.
    pub fn status(status: u16) -> Act {
        let body = br#"{"errors":[{"code":"SCRIPTED","message":"scripted fault"}]}"#.to_vec();
        Act::Answer { status, headers: vec![("Content-Type".into(), "application/json".into())], body }
    }

    /// A status with `Retry-After`, in seconds or as an HTTP date.
    pub fn retry_after(status: u16, value: &str) -> Act {
        let headers = vec![("Retry-After".to_owned(), value.to_owned())];
        Act::Answer { status, headers, body: Vec::new() }
    }

    /// `Docker-Content-Digest` says something else than the bytes.
    pub fn wrong_digest() -> Act {
        Act::SetHeader("Docker-Content-Digest".into(), format!("sha256:{}", "0".repeat(64)))
    }
}

type Predicate = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// One scripted fault. Its count of requests starts when it is handed to the registry.
pub struct Fault {
    matches: Predicate,
    /// Matching requests that pass first.
    pass: usize,
    /// How many it then meets.
    times: usize,
    act: Act,
    seen: usize,
}

impl Fault {
    /// At the k-th request from now on, the first being 1, whatever it is.
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

    /// So many requests in succession instead of one.
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

    /// How often any fault met a request: a sweep over k ends when nothing fires any more.
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
