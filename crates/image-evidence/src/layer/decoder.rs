//! The decoder of stored layers: plain, gzip, zstd, xz and bzip2, each with several members, frames or streams; within bounds.

use bzip2::bufread::MultiBzDecoder;
use error::Error;
use flate2::bufread::MultiGzDecoder;
use image_model::digest::{Digest, Hasher};
use lzma_rust2::XzReader;
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

/// The largest unpacked layer, 64 GiB.
const UNPACKED_MAX: u64 = 64 << 30;
/// From this size on, a layer with a higher compression ratio is rejected. gzip reaches at most 1:1032.
const RATIO_FROM: u64 = 64 << 20;
const RATIO_MAX: u64 = 1000;
/// The largest window of zstd, 32 MiB. BuildKit and Podman write no larger one (klauspost/compress, SpeedBestCompression);
/// engines read up to 512 MiB, so a layer with a larger one is not broken. The window is allocated for each layer.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// The largest dictionary of xz, 32 MiB, which is that of `xz -8`; it is allocated as well. In KiB, with what the decoder
/// counts for itself.
const XZ_MEMORY_MAX: u32 = (32 << 10) + 256;
const BUFFER: usize = 64 << 10;

/// A reader of the unpacked bytes of a layer, which counts and hashes them.
pub struct LayerDecoder<'a> {
    inner: Box<dyn Read + 'a>,
    kind: Compression,
    stored: Rc<Cell<u64>>,
    count: u64,
    diff_id: Option<(Digest, Hasher)>,
}

impl<'a> LayerDecoder<'a> {
    /// Detects the compression from the first bytes, because some builders write zstd layers with the media type for gzip.
    /// `Ok(Err(name))`: the compression is known, but not supported.
    ///
    /// # Errors
    /// That of reading the first bytes.
    pub fn new(mut blob: impl Read + 'a, diff_id: Option<&Digest>) -> io::Result<Result<Self, &'static str>> {
        let mut first = Vec::with_capacity(8);
        blob.by_ref().take(8).read_to_end(&mut first)?;
        let stored = Rc::new(Cell::new(0));
        let kind = Compression::of(&first);
        let counted = Counted { inner: Cursor::new(first).chain(blob), count: stored.clone() };
        let buffered = BufReader::with_capacity(BUFFER, counted);
        let inner: Box<dyn Read + 'a> = match kind {
            Compression::None => Box::new(buffered),
            Compression::Gzip => Box::new(MultiGzDecoder::new(buffered)),
            Compression::Zstd => Box::new(zstd_decoder(buffered)?),
            Compression::Xz => Box::new(XzReader::new_mem_limit(buffered, true, XZ_MEMORY_MAX)),
            Compression::Bzip2 => Box::new(MultiBzDecoder::new(buffered)),
            Compression::Unsupported(name) => return Ok(Err(name)),
        };
        let diff_id = diff_id.map(|id| (id.clone(), Hasher::like(id)));
        Ok(Ok(Self { inner, kind, stored, count: 0, diff_id }))
    }

    /// The number of unpacked bytes that were read.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Verifies the diff ID, at the end of the stream.
    ///
    /// # Errors
    /// `Integrity` if it differs.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some((expected, hasher)) = self.diff_id.take() else { return Ok(()) };
        let found = hasher.finish();
        if found == expected {
            return Ok(());
        }
        let why = format!("it unpacks to {found}");
        Err(Error::integrity(format!("read a layer of diff_id {expected}"), why).into_io())
    }
}

/// A compressed layer that engines may read, but this decoder does not.
#[derive(Debug, thiserror::Error)]
#[error("its {0}")]
pub struct NotDecoded(&'static str);

impl NotDecoded {
    /// Returns whether this is the reason of an error.
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// The errors of libzstd have no codes after their conversion. ZSTD_error_frameParameter_windowTooLarge is 16.
fn with_reason(kind: Compression, error: io::Error) -> io::Error {
    let reason = match (kind, error.kind()) {
        (Compression::Xz, io::ErrorKind::OutOfMemory) => "xz dictionary is larger than 32 MiB",
        (Compression::Xz, io::ErrorKind::Unsupported) => "xz filters are not supported",
        (Compression::Zstd, _)
            if error.to_string() == zstd::zstd_safe::get_error_name(16_usize.wrapping_neg()) =>
        {
            "zstd window is larger than 32 MiB"
        }
        _ => return error,
    };
    io::Error::new(io::ErrorKind::InvalidData, NotDecoded(reason))
}

/// A zstd decoder that rejects large windows.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn zstd_decoder<R: BufRead>(buffered: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

impl Read for LayerDecoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer).map_err(|error| with_reason(self.kind, error))?;
        self.count += count as u64;
        let refuse = |why: String| {
            Err(Error::bad_input("unpack a layer", why).hint("do not use this image").into_io())
        };
        if self.count > UNPACKED_MAX {
            return refuse(format!("it unpacks to more than {} GiB", UNPACKED_MAX >> 30));
        }
        if self.count > RATIO_FROM && self.count / RATIO_MAX > self.stored.get() {
            return refuse(format!("{} bytes unpack to more than {}", self.stored.get(), self.count));
        }
        if let Some((_, hasher)) = &mut self.diff_id {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    Unsupported(&'static str),
}

impl Compression {
    fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before it: RFC 8878, 3.1.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // The first block, or the end of an empty stream.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..] => Self::Bzip2,
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Unsupported("lz4"),
            _ => Self::None,
        }
    }
}

/// The error for a failed read of a layer. Errors of the store and the system keep their kind; others are `BadInput`,
/// because they come from the decoder.
pub fn failed(doing: String, error: io::Error) -> Error {
    let from_store = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    match from_store || error.raw_os_error().is_some() {
        true => Error::from_io(doing, error),
        false => Error::bad_input(doing, error.to_string()),
    }
}
