//! A blob on its way down: a connection that breaks is taken up again where it broke.

use crate::api_error;
use crate::auth::{RegistryAuth, RequiredScopes};
use crate::client::{ApiRequest, Client};
use crate::http::transport::{HttpResponse, RequestBody, failure_of};
use crate::http::url::Url;
use crate::retry::{ATTEMPTS, RetryAfter, jitter};
use error::Error;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Who brought so much since the last break has all attempts anew: long downloads break more often.
const FORGIVEN_AFTER: u64 = 1 << 20;

pub struct Download {
    client: Client,
    auth: Arc<RegistryAuth>,
    required: RequiredScopes,
    doing: String,
    url: Url,
    size: u64,
    /// What is given away next, and where that ends.
    at: u64,
    end: u64,
    is_part: bool,
    body: Box<dyn Read + Send>,
    breaks: u32,
    last_break: u64,
    /// Since when nothing worth the name has come.
    since: Instant,
}

impl Download {
    pub fn open(
        client: &Client,
        auth: &Arc<RegistryAuth>,
        required: &RequiredScopes,
        doing: String,
        url: Url,
        size: u64,
    ) -> Result<Self, Error> {
        let mut download = Self::new(client, auth, required, doing, url, size);
        download.body = download.ask()?.unwrap_or_else(|| Box::new(io::empty()));
        Ok(download)
    }

    /// A part of the blob. `None`: the server knows no ranges, and sent the whole.
    pub fn part(mut self, part: Range<u64>) -> Result<Option<Self>, Error> {
        if part.start >= part.end || part.end > self.size {
            let why = format!(
                "bytes {} to {} are out of range: the blob has {} bytes",
                part.start, part.end, self.size
            );
            return Err(Error::bad_input(self.doing, why));
        }
        (self.at, self.end, self.is_part) = (part.start, part.end, true);
        self.last_break = self.at;
        let Some(body) = self.ask()? else { return Ok(None) };
        self.body = body;
        Ok(Some(self))
    }

    /// Nothing is asked yet.
    pub fn new(
        client: &Client,
        auth: &Arc<RegistryAuth>,
        required: &RequiredScopes,
        doing: String,
        url: Url,
        size: u64,
    ) -> Self {
        Self {
            client: client.clone(),
            auth: Arc::clone(auth),
            required: required.clone(),
            doing,
            url,
            size,
            at: 0,
            end: size,
            is_part: false,
            body: Box::new(io::empty()),
            breaks: 0,
            last_break: 0,
            since: Instant::now(),
        }
    }

    /// The rest from `at` on. `None`: a part was asked for and the whole came.
    fn ask(&self) -> Result<Option<Box<dyn Read + Send>>, Error> {
        let mut headers = vec![("Accept", "*/*".to_string())];
        if self.is_part {
            headers.push(("Range", format!("bytes={}-{}", self.at, self.end - 1)));
        } else if self.at > 0 {
            headers.push(("Range", format!("bytes={}-", self.at)));
        }
        let answer = self.client.send(&ApiRequest {
            doing: &self.doing,
            method: "GET",
            url: self.url.clone(),
            headers,
            body: RequestBody::Empty,
            required: &self.required,
            auth: &self.auth,
        })?;
        let wrong = |why: String| Error::integrity(&*self.doing, why);
        let skip = match answer.status {
            200 if self.is_part => return Ok(None),
            // A server that does not know ranges begins again.
            200 => self.at,
            206 if self.at > 0 || self.is_part => {
                check_range(&answer, self.at..self.end, self.size).map_err(wrong)?;
                0
            }
            416 => {
                return Err(wrong(format!("the blob ends before byte {} of {}", self.at, self.size)));
            }
            _ => return Err(api_error::from_response(&self.doing, answer)),
        };
        let promised = self.size - self.at + skip;
        if let Some(length) =
            answer.content_length().filter(|length| answer.status == 200 && *length != promised)
        {
            return Err(wrong(format!("the registry has {length} bytes of it, expected {promised}")));
        }
        let mut body = answer.into_reader();
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
        if skipped.map_or(true, |skipped| skipped < skip) {
            // It broke again on the way to where it broke; that counts like any other break.
            return Ok(Some(Box::new(io::empty())));
        }
        Ok(Some(Box::new(body)))
    }

    fn take_up_again(&mut self, error: Error) -> Result<(), Error> {
        if self.at - self.last_break >= FORGIVEN_AFTER {
            self.breaks = 0;
            self.since = Instant::now();
        }
        self.breaks += 1;
        self.last_break = self.at;
        let far = format!("byte {} of {}", self.at, self.end);
        let timeout = self.client.retry_policy().timeout;
        if self.since.elapsed() >= timeout {
            let seconds = timeout.as_secs();
            let why = format!("{} at {far} (gave up after {seconds} s, --timeout)", error.reason);
            return Err(Error { reason: why, ..error });
        }
        if self.breaks >= ATTEMPTS {
            return Err(Error {
                reason: format!("{} at {far} ({ATTEMPTS} attempts)", error.reason),
                ..error
            });
        }
        std::thread::sleep(jitter(self.client.retry_policy().backoff, self.breaks));
        // The whole in place of a part is no use here: an end that comes too early, and counts like one.
        self.body = self.ask()?.unwrap_or_else(|| Box::new(io::empty()));
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // Of a whole blob a byte more than promised is asked for: too long must fail, not be cut.
        let most = if self.is_part { self.end - self.at } else { u64::MAX };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        loop {
            let broken = match self.body.read(&mut buffer[..most]) {
                Ok(0) if self.at >= self.end => return Ok(0),
                Ok(0) => Error::network(&*self.doing, "the connection closed before the end of the blob"),
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // All of it is here; how the connection ended is of no matter.
                Err(_) if self.at >= self.end => return Ok(0),
                Err(error) => {
                    let failure = failure_of(&self.doing, &self.url, error.into());
                    if failure.retry == RetryAfter::Never {
                        return Err(failure.error.into_io());
                    }
                    failure.error
                }
            };
            self.take_up_again(broken).map_err(Error::into_io)?;
        }
    }
}

/// `Content-Range: bytes 7-9/10` must be the part that was asked for, of a blob of the right size.
fn check_range(answer: &HttpResponse, part: Range<u64>, size: u64) -> Result<(), String> {
    let value = answer.header("content-range").unwrap_or_default();
    match parse_range(value) {
        Some((found, total)) if found == part && total.is_none_or(|total| total == size) => Ok(()),
        _ => Err(format!(
            "requested bytes {} to {} of {size}, the response has \"{value}\"",
            part.start, part.end
        )),
    }
}

/// The part and, if known, the total.
fn parse_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_begins_and_ends() {
        let check = |value: &str, meant: Option<(Range<u64>, Option<u64>)>| {
            assert_eq!(parse_range(value), meant, "{value}")
        };
        check("bytes 7-9/10", Some((7..10, Some(10))));
        check("bytes 7-9/*", Some((7..10, None)));
        check("bytes */10", None);
        check("bytes 7-/10", None);
        check("bytes 7-18446744073709551615/10", None);
        check("items 7-9/10", None);
        check("", None);
    }
}
