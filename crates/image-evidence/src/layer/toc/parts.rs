//! The content of a file in the middle of a layer: parts that are compressed separately.

use super::Compression;
use crate::layer::decoder::zstd_decoder;
use error::Error;
use flate2::read::GzDecoder;
use image_model::manifest::Descriptor;
use image_store::store::ImageSource;
use std::io::{self, BufReader, Read};
use std::ops::Range;

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPart {
    /// Its bytes in the stored layer.
    pub stored: Range<u64>,
    /// The number of unpacked bytes before the content.
    pub before: u64,
    /// The number of bytes of the content.
    pub size: u64,
}

/// Groups of adjacent parts, each of which is read with one request.
pub fn runs(parts: &[BlobPart]) -> impl Iterator<Item = &[BlobPart]> {
    parts.chunk_by(|one, next| one.stored.end == next.stored.start)
}

/// Passes the content to `take`. `false`: it cannot be read or is damaged, or the connection was lost; the caller reads
/// the whole layer, which reports the error.
pub fn read(
    source: &dyn ImageSource,
    layer: &Descriptor,
    packer: Compression,
    parts: &[BlobPart],
    take: &mut dyn FnMut(&[u8]),
) -> Result<bool, Error> {
    for run in runs(parts) {
        let ([first, ..], [.., last]) = (run, run) else { continue };
        let Some(mut stored) = source.open_blob_range(layer, first.stored.start..last.stored.end)? else {
            return Ok(false);
        };
        for part in run {
            let mut packed = stored.by_ref().take(part.stored.end - part.stored.start);
            let read = match packer {
                Compression::Gzip => content(GzDecoder::new(&mut packed), part, take),
                Compression::Zstd => zstd_decoder(BufReader::new(&mut packed))
                    .and_then(|decoder| content(decoder.single_frame(), part, take)),
            };
            // Skip what the decoder left of this part.
            if read.and_then(|()| io::copy(&mut packed, &mut io::sink())).is_err() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn content(mut unpacked: impl Read, part: &BlobPart, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    io::copy(&mut unpacked.by_ref().take(part.before), &mut io::sink())?;
    let mut content = unpacked.take(part.size);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
