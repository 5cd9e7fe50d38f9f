//! The retry policy: which failures are transient, and the delay before the next attempt.

use error::Error;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime};

/// Maximum number of attempts for one request.
pub const ATTEMPTS: u32 = 5;
/// Upper limit of the delay between two attempts, unless the server asks for more.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Limits of the retries of one request.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Upper limit of the first delay; it doubles with each attempt.
    pub backoff: Duration,
    /// The longest `Retry-After` delay that is waited for; a longer one fails the request.
    pub retry_after_max: Duration,
    /// No attempt starts later than this after the first one.
    pub timeout: Duration,
}

/// A failed attempt, and whether to retry it.
#[derive(Debug)]
pub struct RequestFailure {
    /// The error to return if there is no further attempt.
    pub error: Error,
    /// Whether to retry, and when.
    pub retry: RetryAfter,
}

/// When to retry a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// The failure is permanent.
    Never,
    /// After an exponential backoff with jitter.
    Backoff,
    /// After the delay that the server asked for.
    Delay(Duration),
}

impl RequestFailure {
    /// A failure that another attempt would not change.
    pub fn permanent(error: Error) -> Self {
        Self { error, retry: RetryAfter::Never }
    }

    /// A failure that is retried with backoff.
    pub fn transient(error: Error) -> Self {
        Self { error, retry: RetryAfter::Backoff }
    }
}

/// Returns whether a status is worth a retry. 499 (nginx) and 522 (Cloudflare) are not in RFC 9110: the proxy lost its
/// connection to the registry.
pub fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// Calls `attempt` until it succeeds, fails permanently, or the attempts or the time are used up.
///
/// # Errors
/// The error of the last attempt; its reason tells how many attempts there were.
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

/// Returns a random delay of at most `base` doubled for each failure ("full jitter"), so that clients that failed at the
/// same time do not retry at the same time.
pub fn jitter(base: Duration, failures: u32) -> Duration {
    let most = base.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(WAIT_MAX);
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    // The standard library seeds its hash maps randomly, which is random enough here.
    let random = RandomState::new().build_hasher().finish();
    Duration::from_millis(random % (millis + 1))
}

/// Returns the delay of a `Retry-After` header, which is a number of seconds or a date (RFC 9110, 10.2.3). `None` if the
/// value is invalid or the time is over.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?,
    };
    (wait > Duration::ZERO).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;
    use std::time::UNIX_EPOCH;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // date -u -d '1994-11-06 08:49:37' +%s
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |value: &str, seconds: Option<u64>| {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        };
        check("1", Some(1));
        check(" 999999 ", Some(999_999));
        check("Sun, 06 Nov 1994 08:49:40 GMT", Some(3));
        check("Sunday, 06-Nov-94 08:49:40 GMT", Some(3));
        check("Sun Nov  6 08:49:40 1994", Some(3));
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
    fn attempts_are_limited_and_the_error_has_their_number() {
        assert_eq!(tried(RetryAfter::Backoff, 5).0, 5);
        let (count, result) = tried(RetryAfter::Backoff, 99);
        let error = result.unwrap_err();
        assert_eq!((count, error.kind), (5, Exit::Network));
        assert_eq!(error.to_string(), "read x: 503 (5 attempts)");
        assert_eq!(tried(RetryAfter::Never, 99).0, 1);
    }

    #[test]
    fn a_delay_above_the_limit_fails_at_once() {
        let (count, result) = tried(RetryAfter::Delay(Duration::from_secs(999_999)), 99);
        assert_eq!(count, 1);
        assert!(result.unwrap_err().to_string().contains("999999 s"));
        assert_eq!(tried(RetryAfter::Delay(Duration::from_millis(1)), 3).0, 3);
    }

    #[test]
    fn the_limits_can_be_changed() {
        let short = RetryPolicy { retry_after_max: Duration::from_secs(1), ..POLICY };
        let after = RetryAfter::Delay(Duration::from_millis(1));
        assert_eq!(tried_with(short, after, 3).0, 3);
        let (count, result) = tried_with(short, RetryAfter::Delay(Duration::from_secs(2)), 99);
        assert_eq!(count, 1);
        assert!(result.unwrap_err().to_string().contains("--max-retry-after 2"));
        let hasty = RetryPolicy { timeout: Duration::from_millis(50), ..POLICY };
        let (count, result) = tried_with(hasty, RetryAfter::Delay(Duration::from_millis(40)), 99);
        assert_eq!(count, 2);
        assert!(result.unwrap_err().to_string().contains("--timeout"));
    }

    #[test]
    fn delays_grow_up_to_the_limit() {
        for failures in [1, 2, 5, 40] {
            let most = Duration::from_millis(200).saturating_mul(1 << (failures - 1).min(16)).min(WAIT_MAX);
            for _ in 0..50 {
                assert!(jitter(Duration::from_millis(200), failures) <= most);
            }
        }
        assert_eq!(jitter(Duration::ZERO, 3), Duration::ZERO);
    }
}
