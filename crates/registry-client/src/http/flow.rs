//! Upload reader that verifies length and digest; download reader with a minimum rate.

use error::Error;
use image_model::digest::{Digest, Verified};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Reads exactly `size` bytes of a blob, and returns the last byte only after the digest was verified: a server never
/// accepts a request that is shorter than its Content-Length.
pub struct VerifiedUpload<'a> {
    source: Verified<Box<dyn Read + Send + 'a>>,
    left: u64,
    /// The error of the source, if it failed.
    pub failed: Option<Error>,
}

impl<'a> VerifiedUpload<'a> {
    pub fn new(source: Box<dyn Read + Send + 'a>, digest: &Digest, size: u64) -> Self {
        Self { source: Verified::new(source, digest, size, "blob"), left: size, failed: None }
    }

    /// Skips bytes that the registry has already. They are hashed, because the digest is of the whole blob.
    pub fn skip(&mut self, bytes: u64) {
        let skipped = io::copy(&mut (&mut *self).take(bytes), &mut io::sink());
        // An error is kept in `failed`, where the caller finds it.
        drop(skipped);
    }

    fn read_source(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(Error::from_io("read a blob to upload it", error));
                    return Err(io::Error::other("cannot read the blob to upload"));
                }
                read => return read,
            }
        }
    }
}

impl Read for VerifiedUpload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.read_source(&mut buffer[..most])?;
        self.left -= count as u64;
        if self.left == 0 {
            // The source reports a wrong digest when its end is read.
            self.read_source(&mut [0])?;
        }
        Ok(count)
    }
}

/// A reader that fails when data arrives too slowly. A time limit per read does not notice a server that sends one byte
/// per second.
pub struct MinRateReader<R> {
    inner: R,
    window: Duration,
    /// Time spent waiting for the server; the time between reads does not count.
    waited: Duration,
    bytes: u64,
    /// The time by which a small document must be complete.
    end: Option<Instant>,
}

/// The length of the window in which the rate is measured: curl's default of --speed-time.
pub const WINDOW: Duration = Duration::from_secs(30);
/// Minimum rate in bytes per second.
pub const RATE_MIN: u64 = 64;

impl<R: Read> MinRateReader<R> {
    pub fn new(inner: R, window: Duration) -> Self {
        Self { inner, window, waited: Duration::ZERO, bytes: 0, end: None }
    }

    pub fn with_deadline(self, end: Instant) -> Self {
        Self { end: Some(end), ..self }
    }
}

impl<R: Read> Read for MinRateReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let late = |reason: String| Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        let began = Instant::now();
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        self.waited += began.elapsed();
        // The end of the body is never late.
        if count == 0 {
            return Ok(0);
        }
        if self.end.is_some_and(|end| Instant::now() >= end) {
            return late("the response took too long".into());
        }
        if self.waited >= self.window {
            if self.bytes < RATE_MIN * self.window.as_secs() {
                return late(format!("only {} bytes arrived in {} s", self.bytes, self.waited.as_secs()));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_is_returned_only_if_the_digest_matches() {
        let digest = Digest::of(b"abc");
        let check = |source: &'static [u8], given: usize, whole: bool| {
            let mut upload = VerifiedUpload::new(Box::new(source), &digest, 3);
            let mut out = Vec::new();
            let mut one = [0];
            while let Ok(1) = upload.read(&mut one) {
                out.push(one[0]);
            }
            assert_eq!((out.len(), upload.failed.is_none()), (given, whole), "{source:?}");
        };
        check(b"abc", 3, true);
        check(b"abd", 2, false);
        check(b"ab", 2, false);
        check(b"abcd", 2, false);
        check(b"", 0, false);
    }

    #[test]
    fn a_slow_consumer_does_not_count_as_a_slow_server() {
        struct Slow(u32);
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.saturating_sub(1);
                buffer[0] = 0;
                Ok(self.0.min(1) as usize)
            }
        }
        let window = Duration::from_secs(2);
        let mut reader = MinRateReader::new(Slow(9), window);
        reader.waited = window;
        let error = reader.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut reader = MinRateReader::new(Slow(9), window).with_deadline(Instant::now());
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut reader = MinRateReader::new(Slow(9), window).with_deadline(Instant::now() + WINDOW);
        (reader.waited, reader.bytes) = (window, 2 * RATE_MIN);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 8);
    }
}
