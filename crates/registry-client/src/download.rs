//! Blob download that resumes with a range request when the connection breaks.

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

/// The attempts are counted anew when this many bytes arrived since the last break: long downloads break more often.
const FORGIVEN_AFTER: u64 = 1 << 20;

/// A reader of a blob. It resumes broken connections, and does not verify the digest.
pub struct Download {
    client: Client,
    auth: Arc<RegistryAuth>,
    required: RequiredScopes,
    action: String,
    url: Url,
    size: u64,
    /// Offset of the next byte, and of the end.
    at: u64,
    end: u64,
    is_part: bool,
    body: Box<dyn Read + Send>,
    breaks: u32,
    last_break: u64,
    /// Start of the time limit for retries.
    since: Instant,
}

impl Download {
    /// Requests a blob of `size` bytes. The content must have exactly this size.
    ///
    /// # Errors
    /// `NotFound` if there is no such blob, `Integrity` if its size differs.
    pub fn open(
        client: &Client,
        auth: &Arc<RegistryAuth>,
        required: &RequiredScopes,
        action: String,
        url: Url,
        size: u64,
    ) -> Result<Self, Error> {
        let mut download = Self::new(client, auth, required, action, url, size);
        download.body = download.request()?.unwrap_or_else(|| Box::new(io::empty()));
        Ok(download)
    }

    /// Requests these bytes of the blob. `None` if the server does not support ranges and sent the whole blob.
    ///
    /// # Errors
    /// `BadInput` if the range is empty or exceeds the blob; else as [`Download::open`].
    pub fn part(mut self, part: Range<u64>) -> Result<Option<Self>, Error> {
        if part.start >= part.end || part.end > self.size {
            let reason = format!(
                "bytes {} to {} are out of range: the blob has {} bytes",
                part.start, part.end, self.size
            );
            return Err(Error::bad_input(self.action, reason));
        }
        (self.at, self.end, self.is_part) = (part.start, part.end, true);
        self.last_break = self.at;
        let Some(body) = self.request()? else { return Ok(None) };
        self.body = body;
        Ok(Some(self))
    }

    /// Prepares a download without a request.
    pub fn new(
        client: &Client,
        auth: &Arc<RegistryAuth>,
        required: &RequiredScopes,
        action: String,
        url: Url,
        size: u64,
    ) -> Self {
        Self {
            client: client.clone(),
            auth: Arc::clone(auth),
            required: required.clone(),
            action,
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

    /// Requests the rest, from `at` on. `None` if a range was requested and the whole blob was sent.
    fn request(&self) -> Result<Option<Box<dyn Read + Send>>, Error> {
        let mut headers = vec![("Accept", "*/*".to_string())];
        if self.is_part {
            headers.push(("Range", format!("bytes={}-{}", self.at, self.end - 1)));
        } else if self.at > 0 {
            headers.push(("Range", format!("bytes={}-", self.at)));
        }
        let response = self.client.send(&ApiRequest {
            action: &self.action,
            method: "GET",
            url: self.url.clone(),
            headers,
            body: RequestBody::Empty,
            response_size: self.size,
            required: &self.required,
            auth: &self.auth,
        })?;
        let wrong = |reason: String| Error::integrity(&*self.action, reason);
        let skip = match response.status {
            200 if self.is_part => return Ok(None),
            // A server without ranges starts again at byte 0.
            200 => self.at,
            206 if self.at > 0 || self.is_part => {
                check_range(&response, self.at..self.end, self.size).map_err(wrong)?;
                0
            }
            416 => {
                return Err(wrong(format!("the blob ends before byte {} of {}", self.at, self.size)));
            }
            _ => return Err(api_error::from_response(&self.action, response)),
        };
        let promised = self.size - self.at + skip;
        if let Some(length) =
            response.content_length().filter(|length| response.status == 200 && *length != promised)
        {
            return Err(wrong(format!("the registry has {length} bytes of it, expected {promised}")));
        }
        let mut body = response.into_reader();
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
        if skipped.map_or(true, |skipped| skipped < skip) {
            // The connection broke again before it reached the offset; that counts like any other break.
            return Ok(Some(Box::new(io::empty())));
        }
        Ok(Some(Box::new(body)))
    }

    fn resume(&mut self, error: Error) -> Result<(), Error> {
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
            let reason = format!("{} at {far} (gave up after {seconds} s, --timeout)", error.reason);
            return Err(Error { reason, ..error });
        }
        if self.breaks >= ATTEMPTS {
            return Err(Error {
                reason: format!("{} at {far} ({ATTEMPTS} attempts)", error.reason),
                ..error
            });
        }
        std::thread::sleep(jitter(self.client.retry_policy().backoff, self.breaks));
        // The whole blob in place of a range is of no use here; it counts like another break.
        self.body = self.request()?.unwrap_or_else(|| Box::new(io::empty()));
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // Of a whole blob, more than the expected size may be read: a longer blob must fail, not be cut.
        let most = if self.is_part { self.end - self.at } else { u64::MAX };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        loop {
            let broken = match self.body.read(&mut buffer[..most]) {
                Ok(0) if self.at >= self.end => return Ok(0),
                Ok(0) => Error::network(&*self.action, "the connection closed before the end of the blob"),
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // All bytes arrived; how the connection ended does not matter.
                Err(_) if self.at >= self.end => return Ok(0),
                Err(error) => {
                    let failure = failure_of(&self.action, &self.url, error.into());
                    if failure.retry == RetryAfter::Never {
                        return Err(failure.error.into_io());
                    }
                    failure.error
                }
            };
            self.resume(broken).map_err(Error::into_io)?;
        }
    }
}

/// Checks that `Content-Range: bytes 7-9/10` is the requested range, of a blob of the expected size.
fn check_range(response: &HttpResponse, part: Range<u64>, size: u64) -> Result<(), String> {
    let value = response.header("content-range").unwrap_or_default();
    match parse_range(value) {
        Some((found, total)) if found == part && total.is_none_or(|total| total == size) => Ok(()),
        _ => Err(format!(
            "requested bytes {} to {} of {size}, the response has \"{value}\"",
            part.start, part.end
        )),
    }
}

/// Parses a `Content-Range` into the range and, if known, the total size.
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
    fn content_ranges_are_parsed() {
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
