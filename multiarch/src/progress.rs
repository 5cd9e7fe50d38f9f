//! The progress of each platform, shown as one line of a terminal or as occasional lines of a log.

use image_model::platform::Platform;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The current stage, and the platforms that it works on.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    doing: &'static str,
    of: usize,
    done: usize,
    running: Vec<(Platform, Instant)>,
}

/// Work on one platform. It ends when this is dropped.
pub struct Running {
    board: Board,
    platform: Platform,
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a stage over `of` platforms. With an empty `doing` nothing is shown.
    pub fn next(&self, doing: &'static str, of: usize) {
        *self.state() = State { doing, of, ..State::default() };
    }

    pub fn begin(&self, platform: &Platform) -> Running {
        self.state().running.push((platform.clone(), Instant::now()));
        Running { board: self.clone(), platform: platform.clone() }
    }

    pub fn line(&self) -> String {
        let state = self.state();
        let running: Vec<(String, Duration)> =
            state.running.iter().map(|(platform, since)| (platform.to_string(), since.elapsed())).collect();
        line(state.doing, state.done, state.of, &running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.board.state();
        state.running.retain(|(platform, _)| *platform != self.platform);
        state.done += 1;
    }
}

fn line(doing: &str, done: usize, of: usize, running: &[(String, Duration)]) -> String {
    if doing.is_empty() || running.is_empty() {
        return String::new();
    }
    let running: Vec<String> =
        running.iter().map(|(platform, since)| format!("{platform} {} s", since.as_secs())).collect();
    format!("{doing} {done} of {of} done: {}", running.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_lists_running_platforms_with_their_time() {
        let board = Board::default();
        assert_eq!(board.line(), "");
        board.next("build", 3);
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let first = board.begin(&platform("linux/amd64"));
        let second = board.begin(&platform("linux/arm/v7"));
        assert_eq!(board.line(), "build 0 of 3 done: linux/amd64 0 s, linux/arm/v7 0 s");
        drop(first);
        assert_eq!(board.line(), "build 1 of 3 done: linux/arm/v7 0 s");
        drop(second);
        assert_eq!(board.line(), "");
        let since = Duration::from_millis(61_900);
        assert_eq!(
            line("smoke", 0, 1, &[("linux/s390x".into(), since)]),
            "smoke 0 of 1 done: linux/s390x 61 s"
        );
    }
}
