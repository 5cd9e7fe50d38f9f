//! The line on a terminal that says how far the work is; elsewhere, a plain line now and then.

use crate::output::Output;
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
pub(crate) fn above<T>(write: impl FnOnce() -> T) -> T {
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
    /// `status` returns the line for the time since the start; true: for a terminal of 80 columns. Empty: no line.
    pub fn start(output: &Output, status: impl Fn(Duration, bool) -> String + Send + 'static) -> Self {
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

fn show(
    (stop, changed): &(Mutex<bool>, Condvar),
    is_terminal: bool,
    status: &dyn Fn(Duration, bool) -> String,
) {
    let began = Instant::now();
    let every = if is_terminal { REDRAW_EVERY } else { PLAIN_EVERY };
    let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stopped {
        let waited = changed.wait_timeout(stopped, every);
        stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
        let line = status(began.elapsed(), is_terminal);
        if *stopped || began.elapsed() < BEGIN_AFTER || line.is_empty() {
            continue;
        }
        if is_terminal {
            // A line that wraps could not be removed again.
            let line: String = line.chars().take(79).collect();
            let mut drawn = drawn();
            *drawn = true;
            let _ = std::io::stderr().write_all(format!("\r\x1b[K{line}").as_bytes());
        } else {
            crate::output::tell(line);
        }
    }
}
