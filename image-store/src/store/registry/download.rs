//! A blob on its way down: a connection that breaks is taken up again where it broke.

use super::auth::{Guard, Need};
use super::client::{Ask, Client};
use super::flow::Paced;
use super::refusal;
use super::retry::{ATTEMPTS, Again, jitter};
use super::transport::{Answer, Upload, failure_of};
use super::url::Url;
use crate::error::StoreError;
use std::io::{self, Read};
use std::sync::Arc;

/// Who brought so much since the last break has all attempts anew: long downloads break more often.
const FORGIVEN_AFTER: u64 = 1 << 20;

pub struct Download {
    client: Client,
    guard: Arc<Guard>,
    need: Need,
    doing: String,
    url: Url,
    size: u64,
    /// Bytes given away.
    at: u64,
    body: Box<dyn Read + Send>,
    breaks: u32,
    last_break: u64,
}

impl Download {
    pub fn open(
        client: &Client,
        guard: &Arc<Guard>,
        need: &Need,
        doing: String,
        url: Url,
        size: u64,
    ) -> Result<Self, StoreError> {
        let mut download = Self {
            client: client.clone(),
            guard: Arc::clone(guard),
            need: need.clone(),
            doing,
            url,
            size,
            at: 0,
            body: Box::new(io::empty()),
            breaks: 0,
            last_break: 0,
        };
        download.body = download.ask()?;
        Ok(download)
    }

    /// The rest of the blob from `at` on.
    fn ask(&self) -> Result<Box<dyn Read + Send>, StoreError> {
        let mut headers = vec![("Accept", "*/*".to_string())];
        if self.at > 0 {
            headers.push(("Range", format!("bytes={}-", self.at)));
        }
        let answer = self.client.send(&Ask {
            doing: &self.doing,
            method: "GET",
            url: self.url.clone(),
            headers,
            body: Upload::Nothing,
            need: &self.need,
            guard: &self.guard,
        })?;
        let wrong = |why: String| StoreError::integrity(&*self.doing, why);
        let skip = match answer.status {
            // A server that does not know ranges begins again.
            200 => self.at,
            206 if self.at > 0 => {
                check_range(&answer, self.at, self.size).map_err(wrong)?;
                0
            }
            416 => {
                return Err(wrong(format!("it ends before byte {}; {} were promised", self.at, self.size)));
            }
            _ => return Err(refusal::refused(&self.doing, answer)),
        };
        let promised = self.size - self.at + skip;
        if let Some(length) =
            answer.content_length().filter(|length| answer.status == 200 && *length != promised)
        {
            return Err(wrong(format!("it is {length} bytes long there; {promised} were promised")));
        }
        let mut body = Paced::new(answer.into_reader());
        let skipped = io::copy(&mut (&mut body).take(skip), &mut io::sink());
        if skipped.map_or(true, |skipped| skipped < skip) {
            // It broke again on the way to where it broke; that counts like any other break.
            return Ok(Box::new(io::empty()));
        }
        Ok(Box::new(body))
    }

    fn take_up_again(&mut self, why: StoreError) -> Result<(), StoreError> {
        if self.at - self.last_break >= FORGIVEN_AFTER {
            self.breaks = 0;
        }
        self.breaks += 1;
        self.last_break = self.at;
        if self.breaks >= ATTEMPTS {
            let far = format!("byte {} of {}", self.at, self.size);
            return Err(StoreError { why: format!("{} at {far} ({ATTEMPTS} attempts)", why.why), ..why });
        }
        std::thread::sleep(jitter(self.client.patience().backoff, self.breaks));
        self.body = self.ask()?;
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let broken = match self.body.read(buffer) {
                Ok(0) if self.at >= self.size => return Ok(0),
                Ok(0) => StoreError::network(&*self.doing, "the blob broke off"),
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // All of it is here; how the connection ended is of no matter.
                Err(_) if self.at >= self.size => return Ok(0),
                Err(error) => {
                    let failure = failure_of(&self.doing, &self.url, error.into());
                    if failure.again == Again::Never {
                        return Err(failure.error.into_io());
                    }
                    failure.error
                }
            };
            self.take_up_again(broken).map_err(StoreError::into_io)?;
        }
    }
}

/// `Content-Range: bytes 7-9/10` must begin where we asked it to, in a blob of the right size.
fn check_range(answer: &Answer, at: u64, size: u64) -> Result<(), String> {
    let value = answer.header("content-range").unwrap_or_default();
    match parse_range(value) {
        Some((start, total)) if start == at && total.is_none_or(|total| total == size) => Ok(()),
        _ => Err(format!("asked for bytes from {at} on of {size}, it sent \"{value}\"")),
    }
}

/// Start and, if known, total.
fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    end.parse::<u64>().ok()?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_begins() {
        let check =
            |value: &str, meant: Option<(u64, Option<u64>)>| assert_eq!(parse_range(value), meant, "{value}");
        check("bytes 7-9/10", Some((7, Some(10))));
        check("bytes 7-9/*", Some((7, None)));
        check("bytes */10", None);
        check("bytes 7-/10", None);
        check("items 7-9/10", None);
        check("", None);
    }
}
