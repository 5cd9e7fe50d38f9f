//! When a request is worth repeating, and how long to wait before.

use error::Error;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Most attempts for one request.
pub const ATTEMPTS: u32 = 5;
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The first wait; it doubles each time.
    pub backoff: Duration,
    /// Longest wait that a server may ask for; a job is better told to come back.
    pub retry_after_max: Duration,
    /// No new attempt begins so long after the first one.
    pub timeout: Duration,
}

/// A request that did not work out, and whether to try again.
#[derive(Debug)]
pub struct RequestFailure {
    pub error: Error,
    pub retry: RetryAfter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    Never,
    /// After a wait of our own choice.
    Backoff,
    /// After the wait that the server asked for.
    Delay(Duration),
}

impl RequestFailure {
    pub fn permanent(error: Error) -> Self {
        Self { error, retry: RetryAfter::Never }
    }

    pub fn transient(error: Error) -> Self {
        Self { error, retry: RetryAfter::Backoff }
    }
}

/// The statuses that a registry, or a proxy before it, gives while something is wrong that may pass. 499 and 522 are
/// nginx's and Cloudflare's words for a connection that broke behind them.
pub fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// AuthAttempts until it works, fails for good, or attempts or time are used up.
pub fn retry<T>(
    policy: RetryPolicy,
    mut attempt: impl FnMut() -> Result<T, RequestFailure>,
) -> Result<T, Error> {
    let began = Instant::now();
    let mut tried = 0;
    loop {
        let RequestFailure { mut error, retry: after } = match attempt() {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        tried += 1;
        let wait = match after {
            RetryAfter::Never => return Err(error),
            RetryAfter::Delay(wait) if wait > policy.retry_after_max => {
                let (asked, most) = (wait.as_secs(), policy.retry_after_max.as_secs());
                return Err(error.hint(format!(
                    "the server asked for a delay of {asked} s, and the limit is {most} s; retry later, or use \
                     --max-retry-after {asked}"
                )));
            }
            RetryAfter::Delay(wait) => wait,
            RetryAfter::Backoff => jitter(policy.backoff, tried),
        };
        if tried == ATTEMPTS {
            error.reason = format!("{} ({ATTEMPTS} attempts)", error.reason);
            return Err(error);
        }
        if began.elapsed() + wait > policy.timeout {
            let seconds = policy.timeout.as_secs();
            error.reason = format!("{} (gave up after {seconds} s, --timeout)", error.reason);
            return Err(error);
        }
        std::thread::sleep(wait);
    }
}

/// Somewhere between nothing and `base` doubled for each failure: clients that failed together must not come back
/// together.
pub fn jitter(base: Duration, failures: u32) -> Duration {
    let most = base.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(WAIT_MAX);
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    // The standard library seeds its hash maps with randomness; that is random enough here.
    let random = RandomState::new().build_hasher().finish();
    Duration::from_millis(random % (millis + 1))
}

/// What a `Retry-After` header asks for: seconds, or a date. Nonsense, and a time that is over, ask for nothing.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => http_date(value)?.duration_since(now).ok()?,
    };
    (wait > Duration::ZERO).then_some(wait)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers may send (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let sane =
        (1970..10_000).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if words.next() != Some("GMT") || words.next().is_some() || !sane {
        return None;
    }
    // Days since 1970 of a civil date: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100 + shifted_year / 400 + day_of_year;
    let seconds = days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;

    #[test]
    fn a_server_may_ask_for_a_wait_in_seconds_or_until_a_date() {
        // date -u -d '1994-11-06 08:49:37' +%s
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |value: &str, seconds: Option<u64>| {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        };
        check("1", Some(1));
        check(" 999999 ", Some(999_999));
        check("Sun, 06 Nov 1994 08:49:40 GMT", Some(3));
        check("Tue, 01 Mar 2016 00:00:00 GMT", Some(1_456_790_400 - 784_111_777));
        check("Sun, 06 Nov 1994 08:49:37 GMT", None);
        check("Sat, 05 Nov 1994 08:49:37 GMT", None);
        check("0", None);
        check("-1", None);
        check("abc", None);
        check("Sun, 06 Foo 1994 08:49:40 GMT", None);
        check("Sun, 06 Nov 1994 08:49:40 CET", None);
        check("Sun, 99 Nov 1994 08:49:40 GMT", None);
        check("", None);
    }

    const POLICY: RetryPolicy = RetryPolicy {
        backoff: Duration::from_millis(1),
        retry_after_max: Duration::from_secs(60),
        timeout: Duration::from_secs(600),
    };

    fn tried(again: RetryAfter, succeed_at: u32) -> (u32, Result<(), Error>) {
        tried_with(POLICY, again, succeed_at)
    }

    fn tried_with(policy: RetryPolicy, again: RetryAfter, succeed_at: u32) -> (u32, Result<(), Error>) {
        let mut count = 0;
        let result = retry(policy, || {
            count += 1;
            if count == succeed_at {
                return Ok(());
            }
            Err(RequestFailure { error: Error::network("read x", "503"), retry: again })
        });
        (count, result)
    }

    #[test]
    fn attempts_are_bounded_and_the_error_says_how_many() {
        assert_eq!(tried(RetryAfter::Backoff, 5).0, 5);
        let (count, result) = tried(RetryAfter::Backoff, 99);
        let error = result.unwrap_err();
        assert_eq!((count, error.kind), (5, Exit::Network));
        assert_eq!(error.to_string(), "read x: 503 (5 attempts)");
        assert_eq!(tried(RetryAfter::Never, 99).0, 1);
    }

    #[test]
    fn a_wait_beyond_the_cap_fails_at_once_with_the_figure() {
        let (count, result) = tried(RetryAfter::Delay(Duration::from_secs(999_999)), 99);
        assert_eq!(count, 1);
        assert!(result.unwrap_err().to_string().contains("999999 s"));
        assert_eq!(tried(RetryAfter::Delay(Duration::from_millis(1)), 3).0, 3);
    }

    #[test]
    fn a_person_may_have_more_patience_or_less() {
        let patient = RetryPolicy { retry_after_max: Duration::from_secs(1), ..POLICY };
        let after = RetryAfter::Delay(Duration::from_millis(1));
        assert_eq!(tried_with(patient, after, 3).0, 3);
        let (count, result) = tried_with(patient, RetryAfter::Delay(Duration::from_secs(2)), 99);
        assert_eq!(count, 1);
        assert!(result.unwrap_err().to_string().contains("--max-retry-after 2"));
        let hasty = RetryPolicy { timeout: Duration::from_millis(50), ..POLICY };
        let (count, result) = tried_with(hasty, RetryAfter::Delay(Duration::from_millis(40)), 99);
        assert_eq!(count, 2);
        assert!(result.unwrap_err().to_string().contains("--timeout"));
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        for failures in [1, 2, 5, 40] {
            let most = Duration::from_millis(200).saturating_mul(1 << (failures - 1).min(16)).min(WAIT_MAX);
            for _ in 0..50 {
                assert!(jitter(Duration::from_millis(200), failures) <= most);
            }
        }
        assert_eq!(jitter(Duration::ZERO, 3), Duration::ZERO);
    }
}
