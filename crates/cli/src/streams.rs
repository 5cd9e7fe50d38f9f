//! Writing to stdout and stderr, without damage to the progress line.

use error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether there is a progress line on the terminal, which must be erased before anything else is written there.
#[cfg(feature = "progress")]
static IS_DRAWN: std::sync::Mutex<bool> = std::sync::Mutex::new(false);

#[cfg(feature = "progress")]
pub(crate) fn is_drawn() -> std::sync::MutexGuard<'static, bool> {
    IS_DRAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Erases the progress line, if there is one, and calls `write`. The line is drawn again at the next interval.
#[cfg(feature = "progress")]
pub(crate) fn without_progress_line<T>(write: impl FnOnce() -> T) -> T {
    let mut drawn = is_drawn();
    if std::mem::take(&mut *drawn) {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
    }
    write()
}

/// Without the feature there is no progress line that must be erased.
#[cfg(not(feature = "progress"))]
fn without_progress_line<T>(write: impl FnOnce() -> T) -> T {
    write()
}

/// Prints a line on stderr with a single write: stderr has no buffer, so every formatted piece would be a write of
/// its own. Errors are ignored, because the work goes on if nobody reads the messages.
pub fn eprint_line(mut line: String) {
    line.push('\n');
    without_progress_line(|| {
        let _ = std::io::stderr().write_all(line.as_bytes());
    });
}

/// The first error of writing to stdout. A command whose result did not arrive must not exit with 0.
static STDOUT_ERROR: std::sync::OnceLock<std::io::Error> = std::sync::OnceLock::new();

/// Returns an error if anything printed on stdout could not be written.
pub(crate) fn check_stdout() -> Result<(), Error> {
    match STDOUT_ERROR.get() {
        Some(error) => Err(Error::local("print the result on stdout", error::io_reason(error))),
        None => Ok(()),
    }
}

/// Prints a line of the result on stdout. A closed pipe is no error, but a full disk is: see [`Output::finish`](crate::Output::finish).
pub fn print_line(line: &str) {
    print_text(&format!("{line}\n"));
}

/// Whether a JSON result is on stdout: an error object behind it would make both invalid.
static HAS_JSON: AtomicBool = AtomicBool::new(false);

/// Returns whether [`print_json`] was called.
pub(crate) fn has_json() -> bool {
    HAS_JSON.load(Ordering::Relaxed)
}

/// Prints a JSON result on stdout, with control characters escaped: it may contain text of images, and stdout may be a
/// terminal.
pub fn print_json(json: &str) {
    HAS_JSON.store(true, Ordering::Relaxed);
    print_line(&error::text::escape_json(json));
}

/// Prints text, which includes its line ends, on stdout.
pub fn print_text(text: &str) {
    match without_progress_line(|| std::io::stdout().write_all(text.as_bytes())) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => drop(STDOUT_ERROR.set(error)),
        _ => {}
    }
}
