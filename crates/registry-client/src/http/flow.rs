//! Bytes on their way: up, all of them and the right ones; down, at some pace.

use error::Error;
use image_model::digest::{Digest, Verified};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Feeds a request with exactly `size` bytes, and gives the last of them away only when the source has ended well: a
/// request with less than its length is never taken for a whole one.
pub struct VerifiedUpload<'a> {
    source: Verified<Box<dyn Read + Send + 'a>>,
    left: u64,
    /// What went wrong at the source.
    pub failed: Option<Error>,
}

impl<'a> VerifiedUpload<'a> {
    pub fn new(source: Box<dyn Read + Send + 'a>, digest: &Digest, size: u64) -> Self {
        Self { source: Verified::new(source, digest, size, "blob"), left: size, failed: None }
    }

    /// Reads over what the other side has already. It is hashed all the same: what follows is for the whole.
    pub fn pass_over(&mut self, bytes: u64) {
        let passed = io::copy(&mut (&mut *self).take(bytes), &mut io::sink());
        // The failure is kept, and ends the request that follows.
        drop(passed);
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
            // The end of the source is where its reader says that the bytes were wrong.
            self.read_source(&mut [0])?;
        }
        Ok(count)
    }
}

/// A body that must come at some pace. The idle limit does not see a server that sends one byte a second.
pub struct MinRateReader<R> {
    inner: R,
    window: Duration,
    /// Time spent waiting for the server; what the reader does in between is its own affair.
    waited: Duration,
    bytes: u64,
    /// A small document must be here by then, at whatever pace.
    end: Option<Instant>,
}

/// In each window so many bytes must come for each second of it. curl's --speed-time has the same length where only
/// --speed-limit is said.
pub const WINDOW: Duration = Duration::from_secs(30);
const PACE: u64 = 64;

impl<R: Read> MinRateReader<R> {
    pub fn new(inner: R, window: Duration) -> Self {
        Self { inner, window, waited: Duration::ZERO, bytes: 0, end: None }
    }

    pub fn ends_by(self, end: Instant) -> Self {
        Self { end: Some(end), ..self }
    }
}

impl<R: Read> Read for MinRateReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let late = |why: String| Err(io::Error::new(io::ErrorKind::TimedOut, why));
        let began = Instant::now();
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        self.waited += began.elapsed();
        // What has come to its end is never late.
        if count == 0 {
            return Ok(0);
        }
        if self.end.is_some_and(|end| Instant::now() >= end) {
            return late("the response took too long".into());
        }
        if self.waited >= self.window {
            if self.bytes < PACE * self.window.as_secs() {
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
    fn the_last_byte_is_given_away_only_if_all_were_right() {
        let digest = Digest::of(b"abc");
        let check = |source: &'static [u8], given: usize, whole: bool| {
            let mut feed = VerifiedUpload::new(Box::new(source), &digest, 3);
            let mut out = Vec::new();
            let mut one = [0];
            while let Ok(1) = feed.read(&mut one) {
                out.push(one[0]);
            }
            assert_eq!((out.len(), feed.failed.is_none()), (given, whole), "{source:?}");
        };
        check(b"abc", 3, true);
        check(b"abd", 2, false);
        check(b"ab", 2, false);
        check(b"abcd", 2, false);
        check(b"", 0, false);
    }

    #[test]
    fn a_reader_that_does_not_hurry_its_server_is_given_all() {
        struct Slow(u32);
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.saturating_sub(1);
                buffer[0] = 0;
                Ok(self.0.min(1) as usize)
            }
        }
        let window = Duration::from_secs(2);
        let mut paced = MinRateReader::new(Slow(9), window);
        paced.waited = window;
        let error = paced.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut paced = MinRateReader::new(Slow(9), window).ends_by(Instant::now());
        assert_eq!(paced.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut paced = MinRateReader::new(Slow(9), window).ends_by(Instant::now() + WINDOW);
        (paced.waited, paced.bytes) = (window, 2 * PACE);
        assert_eq!(paced.read_to_end(&mut Vec::new()).unwrap(), 8);
    }
}
