//! A layer's bytes, unpacked: plain, gzip of several members, zstd of several frames; within bounds.

use error::Error;
use flate2::bufread::MultiGzDecoder;
use image_model::digest::{Digest, Hasher};
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

/// No layer unpacks to more: 64 GiB.
const UNPACKED_MAX: u64 = 64 << 30;
/// From here on, a layer that grows a thousandfold is refused. gzip cannot do more than 1:1032.
const RATIO_FROM: u64 = 64 << 20;
const RATIO_MAX: u64 = 1000;
/// zstd may ask for a window of gigabytes. 128 MiB is what `zstd -d` gives by default, too.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const BUFFER: usize = 64 << 10;

/// Unpacks, counts, and hashes what comes out.
pub struct LayerDecoder<'a> {
    inner: Box<dyn Read + 'a>,
    stored: Rc<Cell<u64>>,
    count: u64,
    diff_id: Option<(Digest, Hasher)>,
}

impl<'a> LayerDecoder<'a> {
    /// Looks at the first bytes, not at the media type: builders say gzip and mean zstd. `Err` names a packer that
    /// is known and not read.
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
            Compression::Unread(name) => return Ok(Err(name)),
        };
        let diff_id = diff_id.map(|id| (id.clone(), Hasher::like(id)));
        Ok(Ok(Self { inner, stored, count: 0, diff_id }))
    }

    /// How many bytes came out so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// At the end of the stream: was it what the config says?
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

pub fn zstd_decoder<R: BufRead>(buffered: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

impl Read for LayerDecoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        let refuse = |why: String| {
            Err(Error::bad_input("unpack a layer", why)
                .hint("no layer needs that; do not use the image")
                .into_io())
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
    Unread(&'static str),
}

impl Compression {
    fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable one in front of it: RFC 8878, 3.1.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Unread("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Self::Unread("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Unread("lz4"),
            _ => Self::None,
        }
    }
}

/// A failure while a layer was read. Errors of the store come through; a packer's complaint is about the input.
pub fn failed(doing: String, error: io::Error) -> Error {
    let from_store = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    match from_store || error.raw_os_error().is_some() {
        true => Error::from_io(doing, error),
        false => Error::bad_input(doing, error.to_string()),
    }
}
