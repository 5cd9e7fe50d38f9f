//! Counts of sequential round trips to a fake registry, and of requests to a real one.

use multiarch_tests::fake_registry::{FakeRegistry, When};
use multiarch_tests::world::Registry;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Answers requests in rounds: no request is answered until no further one has arrived for a while. A round is therefore a
/// round trip however slow the machine is, and requests that could be concurrent and are not add rounds.
pub struct Rounds {
    state: Mutex<Round>,
    ended: Condvar,
}

struct Round {
    number: usize,
    last: Instant,
}

const QUIET: Duration = Duration::from_millis(400);

impl Rounds {
    pub fn of(registry: &FakeRegistry) -> Arc<Self> {
        let state = Mutex::new(Round { number: 0, last: Instant::now() });
        let rounds = Arc::new(Self { state, ended: Condvar::new() });
        let shared = Arc::clone(&rounds);
        registry.on_request(move |_, when| {
            if when == When::Before {
                shared.wait();
            }
        });
        rounds
    }

    fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        state.last = Instant::now();
        let own = state.number;
        while state.number == own {
            let since = state.last.elapsed();
            if since >= QUIET {
                state.number += 1;
                self.ended.notify_all();
            } else {
                state = self.ended.wait_timeout(state, QUIET - since).unwrap().0;
            }
        }
    }

    pub fn taken(&self) -> usize {
        std::mem::take(&mut self.state.lock().unwrap().number)
    }
}

/// The requests to a registry since the last call.
pub struct Seen<'a> {
    registry: &'a Registry,
    count: std::cell::Cell<usize>,
}

impl<'a> Seen<'a> {
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, count: std::cell::Cell::new(0) }
    }

    pub fn requests(&self) -> String {
        let all = self.registry.requests();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for one in &all[self.count.replace(all.len())..] {
            let what = match &one.path {
                path if path.contains("/manifests/") => "manifest",
                path if path.contains("/referrers/") => "referrers",
                path if path.contains("/tags/") => "tags",
                _ => "blob",
            };
            *counts.entry(format!("{} {what}", one.method)).or_default() += 1;
        }
        counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }
}
