//! The line on a terminal that says how far the work is; elsewhere, a plain line now and then.

use super::Output;
use crate::progress::{Counts, METER};
use crate::text;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Work that is done sooner shows nothing.
const BEGIN_AFTER: Duration = Duration::from_millis(700);
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// A log is read afterwards: a line of it every so often shows that the work goes on.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// Is there a line on the terminal that must go before anything else is written there?
static DRAWN: Mutex<bool> = Mutex::new(false);

fn drawn() -> MutexGuard<'static, bool> {
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes in the place of the line, if there is one. It comes back with the next tick.
pub(super) fn above<T>(write: impl FnOnce() -> T) -> T {
    let mut drawn = drawn();
    if std::mem::take(&mut *drawn) {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
    write()
}

/// Shows the progress of this process until it is dropped.
pub struct Display {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    pub fn start(output: &Output) -> Self {
        Self::start_with(output, String::new)
    }

    /// The same with a line of the caller's own in the place of the counts, where it has one.
    pub fn start_with(output: &Output, status: impl Fn() -> String + Send + 'static) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        if output.quiet {
            return Self { stop, thread: None };
        }
        let is_terminal = std::io::stderr().is_terminal();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || show(&stopped, is_terminal, &status));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It draws and nothing else; what it drew goes.
            drop(thread.join());
        }
        above(|| ());
    }
}

fn show((stop, changed): &(Mutex<bool>, Condvar), is_terminal: bool, status: &dyn Fn() -> String) {
    let began = Instant::now();
    let every = if is_terminal { REDRAW_EVERY } else { PLAIN_EVERY };
    let mut last = Counts::default();
    let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stopped {
        let waited = changed.wait_timeout(stopped, every);
        stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
        let (counts, status) = (METER.counts(), status());
        if *stopped || began.elapsed() < BEGIN_AFTER || (counts == last && status.is_empty()) {
            continue;
        }
        last = counts;
        let line = match status.is_empty() {
            true => line(&counts, began.elapsed(), is_terminal),
            // One that wraps could not be taken away again.
            false if is_terminal => status.chars().take(79).collect(),
            false => status,
        };
        if is_terminal {
            let mut drawn = drawn();
            *drawn = true;
            let _ = std::io::stderr().write_all(format!("\r\x1b[K{line}").as_bytes());
        } else {
            super::tell(line);
        }
    }
}

/// Short enough for a terminal of 80 columns.
fn line(counts: &Counts, since: Duration, with_bar: bool) -> String {
    const WIDTH: u64 = 20;
    let requests = match counts.requests {
        0 => String::new(),
        1 => "1 request".into(),
        several => format!("{several} requests"),
    };
    if counts.blobs_wanted == 0 {
        return requests;
    }
    let mut parts = Vec::new();
    if with_bar {
        let full = (counts.bytes.min(counts.bytes_wanted) * WIDTH).checked_div(counts.bytes_wanted);
        let full = usize::try_from(full.unwrap_or(WIDTH)).unwrap_or(0);
        parts.push(format!("[{:<20}]", "#".repeat(full)));
    }
    parts.push(format!("{} of {}", text::bytes(counts.bytes), text::bytes(counts.bytes_wanted)));
    let pace = counts.bytes as f64 / since.as_secs_f64().max(0.001);
    parts.push(format!("{}/s", text::bytes(pace as u64)));
    parts.push(format!("{} of {} blobs", counts.blobs, counts.blobs_wanted));
    parts.push(requests);
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_the_work_is() {
        let second = Duration::from_secs(1);
        let counts = Counts { bytes: 3 << 20, bytes_wanted: 4 << 20, blobs: 1, blobs_wanted: 2, requests: 7 };
        assert_eq!(
            line(&counts, second, true),
            "[###############     ]  3.0 MiB of 4.0 MiB  3.0 MiB/s  1 of 2 blobs  7 requests"
        );
        assert_eq!(
            line(&Counts { requests: 1, ..counts }, second, false),
            "3.0 MiB of 4.0 MiB  3.0 MiB/s  1 of 2 blobs  1 request"
        );
        assert_eq!(line(&Counts { requests: 3, ..Counts::default() }, second, true), "3 requests");
        let nothing = Counts { bytes_wanted: 0, blobs_wanted: 1, ..Counts::default() };
        assert_eq!(line(&nothing, second, true), "[####################]  0 B of 0 B  0 B/s  0 of 1 blobs");
    }
}
