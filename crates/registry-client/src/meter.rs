//! Transfer counts for progress displays: bytes, blobs, requests.

use error::text;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counts what is transferred. Threads share it.
#[derive(Default)]
pub struct Meter {
    bytes: AtomicU64,
    bytes_wanted: AtomicU64,
    blobs: AtomicU64,
    blobs_wanted: AtomicU64,
    requests: AtomicU64,
}

/// The counts of a [`Meter`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Bytes transferred.
    pub bytes: u64,
    /// Bytes to transfer.
    pub bytes_wanted: u64,
    /// Blobs transferred.
    pub blobs: u64,
    /// Blobs to transfer.
    pub blobs_wanted: u64,
    /// HTTP requests sent.
    pub requests: u64,
}

impl Meter {
    /// Adds blobs and bytes that will be transferred.
    pub fn expect(&self, blobs: u64, bytes: u64) {
        self.blobs_wanted.fetch_add(blobs, Relaxed);
        self.bytes_wanted.fetch_add(bytes, Relaxed);
    }

    /// Counts one HTTP request.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Returns the current counts.
    pub fn counts(&self) -> TransferCounts {
        TransferCounts {
            bytes: self.bytes.load(Relaxed),
            bytes_wanted: self.bytes_wanted.load(Relaxed),
            blobs: self.blobs.load(Relaxed),
            blobs_wanted: self.blobs_wanted.load(Relaxed),
            requests: self.requests.load(Relaxed),
        }
    }
}

/// The progress of one blob. Its bytes count once, even if it is read again after a failure.
pub struct BlobProgress<'m> {
    meter: &'m Meter,
    size: u64,
    counted: AtomicU64,
}

impl<'m> BlobProgress<'m> {
    /// Starts the progress of a blob of `size` bytes.
    pub fn of(meter: &'m Meter, size: u64) -> Self {
        Self { meter, size, counted: AtomicU64::new(0) }
    }

    /// Wraps a reader of the blob's content. Bytes that were counted before are subtracted.
    pub fn read<'a>(&'a self, content: Box<dyn Read + Send + 'a>) -> CountedReader<'a> {
        let before = self.counted.swap(0, Relaxed);
        self.meter.bytes.fetch_sub(before, Relaxed);
        CountedReader { progress: self, content }
    }

    fn add(&self, bytes: u64) {
        self.counted.fetch_add(bytes, Relaxed);
        self.meter.bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts the blob as transferred, with all its bytes, even if it was mounted or skipped.
    pub fn done(&self) {
        self.add(self.size.saturating_sub(self.counted.load(Relaxed)));
        self.meter.blobs.fetch_add(1, Relaxed);
    }
}

/// A reader that counts its bytes in a [`BlobProgress`].
pub struct CountedReader<'a> {
    progress: &'a BlobProgress<'a>,
    content: Box<dyn Read + Send + 'a>,
}

impl Read for CountedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.progress.add(count as u64);
        Ok(count)
    }
}

/// Formats the counts in one line of at most 80 columns. `since` is the time since the start.
pub fn line(counts: &TransferCounts, since: Duration, with_bar: bool) -> String {
    const WIDTH: u64 = 20;
    let requests = match counts.requests {
        0 => String::new(),
        1 => "1 request".into(),
        several => format!("{several} requests"),
    };
    if counts.blobs_wanted == 0 {
        return requests;
    }
    let mut parts = Vec::new();
    if with_bar {
        let full = (counts.bytes.min(counts.bytes_wanted) * WIDTH).checked_div(counts.bytes_wanted);
        let full = usize::try_from(full.unwrap_or(WIDTH)).unwrap_or(0);
        parts.push(format!("[{:<20}]", "#".repeat(full)));
    }
    parts.push(format!(
        "{} of {}",
        text::format_bytes(counts.bytes),
        text::format_bytes(counts.bytes_wanted)
    ));
    let pace = counts.bytes as f64 / since.as_secs_f64().max(0.001);
    parts.push(format!("{}/s", text::format_bytes(pace as u64)));
    parts.push(format!("{} of {} blobs", counts.blobs, counts.blobs_wanted));
    parts.push(requests);
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_reads_count_once() {
        let meter = Meter::default();
        meter.expect(2, 10);
        let progress = BlobProgress::of(&meter, 7);
        io::copy(&mut progress.read(Box::new(&b"abc"[..])), &mut io::sink()).unwrap();
        assert_eq!(meter.counts().bytes, 3);
        io::copy(&mut progress.read(Box::new(&b"abcdefg"[..])), &mut io::sink()).unwrap();
        assert_eq!((meter.counts().bytes, meter.counts().blobs), (7, 0));
        progress.done();
        // Mounted: nothing was read of it.
        BlobProgress::of(&meter, 3).done();
        let all = TransferCounts { bytes: 10, bytes_wanted: 10, blobs: 2, blobs_wanted: 2, requests: 0 };
        assert_eq!(meter.counts(), all);
    }

    #[test]
    fn the_line_has_bytes_rate_blobs_and_requests() {
        let second = Duration::from_secs(1);
        let counts =
            TransferCounts { bytes: 3 << 20, bytes_wanted: 4 << 20, blobs: 1, blobs_wanted: 2, requests: 7 };
        assert_eq!(
            line(&counts, second, true),
            "[###############     ]  3.0 MiB of 4.0 MiB  3.0 MiB/s  1 of 2 blobs  7 requests"
        );
        assert_eq!(
            line(&TransferCounts { requests: 1, ..counts }, second, false),
            "3.0 MiB of 4.0 MiB  3.0 MiB/s  1 of 2 blobs  1 request"
        );
        assert_eq!(
            line(&TransferCounts { requests: 3, ..TransferCounts::default() }, second, true),
            "3 requests"
        );
        let nothing = TransferCounts { bytes_wanted: 0, blobs_wanted: 1, ..TransferCounts::default() };
        assert_eq!(line(&nothing, second, true), "[####################]  0 B of 0 B  0 B/s  0 of 1 blobs");
    }
}
