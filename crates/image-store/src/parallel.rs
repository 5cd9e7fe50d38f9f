//! Parallel map with a limit, on scoped threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Default number of concurrent requests. More hardly shortens a job, and registries limit the rate of a client.
pub const REQUESTS: usize = 8;
/// Default number of concurrent small reads: manifests, configs, tag lookups. An index of 24 members is read in as many
/// round trips as one of two.
pub const LOOKUPS: usize = 24;

/// Calls `work` on each item, at most `limit` at once, and returns the results in the order of the items.
///
/// # Errors
/// The error of the first item in this order that failed. Items that have not started by then are skipped.
pub fn map<T, R, E>(items: &[T], limit: usize, work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E>
where
    T: Sync,
    R: Send,
    E: Send,
{
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
    fn an_error_is_returned_and_stops_the_rest() {
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
