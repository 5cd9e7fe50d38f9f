//! The progress line on a terminal; elsewhere, a plain line from time to time.

use crate::output::Output;
use crate::streams::{eprint_line, is_drawn, without_progress_line};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shorter work shows no progress.
const SHOW_AFTER: Duration = Duration::from_millis(700);
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// In a log, a line from time to time shows that the work goes on.
const LOG_INTERVAL: Duration = Duration::from_secs(15);

/// Shows the progress of this process until it is dropped.
pub struct ProgressDisplay {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressDisplay {
    /// Starts a thread that shows what `status` returns for the time since the start. The second argument of `status`
    /// is whether the line is for a terminal of 80 columns; an empty line is not shown. With `--quiet` nothing is shown.
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

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread concerns the progress line only, so it is ignored.
            drop(thread.join());
        }
        without_progress_line(|| ());
    }
}

fn show(
    (stop, changed): &(Mutex<bool>, Condvar),
    is_terminal: bool,
    status: &dyn Fn(Duration, bool) -> String,
) {
    let start = Instant::now();
    let interval = if is_terminal { REDRAW_INTERVAL } else { LOG_INTERVAL };
    let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stopped {
        let waited = changed.wait_timeout(stopped, interval);
        stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
        let line = status(start.elapsed(), is_terminal);
        if *stopped || start.elapsed() < SHOW_AFTER || line.is_empty() {
            continue;
        }
        if is_terminal {
            // A line that wraps could not be erased.
            let line: String = line.chars().take(79).collect();
            let mut drawn = is_drawn();
            *drawn = true;
            let _ = std::io::stderr().write_all(format!("\r\x1b[K{line}").as_bytes());
        } else {
            eprint_line(line);
        }
    }
}
