//! How far a job is: bytes, things and requests, counted where they happen and shown by `cli`.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counts of this process: it has one job, and one line to show it on.
pub static METER: Meter = Meter::new();

pub struct Meter {
    bytes: AtomicU64,
    bytes_wanted: AtomicU64,
    blobs: AtomicU64,
    blobs_wanted: AtomicU64,
    requests: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub bytes: u64,
    pub bytes_wanted: u64,
    pub blobs: u64,
    pub blobs_wanted: u64,
    pub requests: u64,
}

impl Meter {
    const fn new() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            bytes_wanted: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
            blobs_wanted: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    /// So much more is to be done.
    pub fn expect(&self, blobs: u64, bytes: u64) {
        self.blobs_wanted.fetch_add(blobs, Relaxed);
        self.bytes_wanted.fetch_add(bytes, Relaxed);
    }

    pub fn asked(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub fn counts(&self) -> Counts {
        Counts {
            bytes: self.bytes.load(Relaxed),
            bytes_wanted: self.bytes_wanted.load(Relaxed),
            blobs: self.blobs.load(Relaxed),
            blobs_wanted: self.blobs_wanted.load(Relaxed),
            requests: self.requests.load(Relaxed),
        }
    }
}

/// One blob of the job. What is read of it counts once, however often it must be read again.
pub struct Share<'m> {
    meter: &'m Meter,
    size: u64,
    counted: AtomicU64,
}

impl<'m> Share<'m> {
    pub fn of(meter: &'m Meter, size: u64) -> Self {
        Self { meter, size, counted: AtomicU64::new(0) }
    }

    /// The blob's content, counted from its start.
    pub fn read<'a>(&'a self, content: Box<dyn Read + Send + 'a>) -> Counted<'a> {
        let before = self.counted.swap(0, Relaxed);
        self.meter.bytes.fetch_sub(before, Relaxed);
        Counted { share: self, content }
    }

    fn add(&self, bytes: u64) {
        self.counted.fetch_add(bytes, Relaxed);
        self.meter.bytes.fetch_add(bytes, Relaxed);
    }

    /// It is there, by whatever way.
    pub fn done(&self) {
        self.add(self.size.saturating_sub(self.counted.load(Relaxed)));
        self.meter.blobs.fetch_add(1, Relaxed);
    }
}

pub struct Counted<'a> {
    share: &'a Share<'a>,
    content: Box<dyn Read + Send + 'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.share.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_twice_counts_once() {
        let meter = Meter::new();
        meter.expect(2, 10);
        let share = Share::of(&meter, 7);
        io::copy(&mut share.read(Box::new(&b"abc"[..])), &mut io::sink()).unwrap();
        assert_eq!(meter.counts().bytes, 3);
        io::copy(&mut share.read(Box::new(&b"abcdefg"[..])), &mut io::sink()).unwrap();
        assert_eq!((meter.counts().bytes, meter.counts().blobs), (7, 0));
        share.done();
        // Mounted: nothing was read of it.
        Share::of(&meter, 3).done();
        let all = Counts { bytes: 10, bytes_wanted: 10, blobs: 2, blobs_wanted: 2, requests: 0 };
        assert_eq!(meter.counts(), all);
    }
}
