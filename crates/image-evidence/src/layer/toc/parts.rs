//! A file's content out of the middle of a layer: parts that are packed each for itself.

use super::Compression;
use crate::layer::decoder::zstd_decoder;
use error::Error;
use flate2::read::GzDecoder;
use image_model::manifest::Descriptor;
use image_store::store::ImageSource;
use std::io::{self, BufReader, Read};
use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobPart {
    pub stored: Range<u64>,
    /// What stands before the content in what it unpacks to.
    pub before: u64,
    pub size: u64,
}

/// Parts that lie side by side come with one request.
pub fn runs(parts: &[BlobPart]) -> impl Iterator<Item = &[BlobPart]> {
    parts.chunk_by(|one, next| one.stored.end == next.stored.start)
}

/// Gives all content to `take`. `false`: it cannot be had, is damaged, or the connection is gone; reading the layer
/// whole tells which.
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
            // What the packer left of this part stands before the next one.
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
