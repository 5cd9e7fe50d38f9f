//! Bounded work on several things at once, results in the order of the things.

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Requests of one level that run at once. Registries answer in round trips; more hardly helps and annoys them.
pub const REQUESTS: usize = 8;
/// Small reads that run at once: manifests, configs, looks at tags. An index of two dozen members is read in as many
/// round trips as one of two.
pub const LOOKUPS: usize = 24;

/// What a person allows at most; 0 for nothing said. It is of the process: its registries do not ask which of its jobs
/// annoys them.
static AT_MOST: AtomicUsize = AtomicUsize::new(0);

/// From now on no more than this at once.
pub fn at_most(limit: NonZeroUsize) {
    AT_MOST.store(limit.get(), Ordering::Relaxed);
}

/// `work` on every item, at most `limit` at once. The first error stops what has not begun, and is returned.
pub fn map<T, R, E>(items: &[T], limit: usize, work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E>
where
    T: Sync,
    R: Send,
    E: Send,
{
    let limit = match AT_MOST.load(Ordering::Relaxed) {
        0 => limit,
        most => limit.min(most),
    };
    if items.len() < 2 || limit < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..limit.min(items.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    let result = work(item);
                    if result.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = map(&items, 8, |i| Ok::<_, ()>(i * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|i| i * 2).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_comes_through_and_stops_the_rest() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..10_000).collect();
        let result = map(&items, 4, |i| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *i == 3 { Err("three") } else { Ok(()) }
        });
        assert_eq!(result, Err("three"));
        assert!(begun.load(Ordering::Relaxed) < 10_000);
    }
}
