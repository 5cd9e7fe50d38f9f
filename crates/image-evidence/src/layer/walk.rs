//! A streaming reader of the entries of a layer's tar, as Go's archive/tar, which container engines use.

use super::decoder::{LayerDecoder, failed};
use super::paths::{PATH_MAX, Whiteout, normalize};
use super::sparse::{MAP_MAX, SparseMap};
use super::tar_header::{GoHeader, PaxRecords};
use super::zip::{ArchiveReader, is_archive};
use super::{LayerBuilder, LayerFacts, NameHasher, TooLarge};
use crate::elf::sampler::Sampler;
use crate::file::{self, FileFacts};
use error::Error;
use image_store::archive::tar::extension::{EXTENSION_MAX, until_nul};
use image_store::archive::tar::{BLOCK, padded};
use std::io::{self, Read};

/// Bytes of holes in the sparse files of a layer that are read as zeros. Most holes are in data, of which only the first
/// bytes are read.
const HOLES_MAX: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("at byte {at} of the unpacked layer: {why}")]
    Refused { at: u64, why: String },
    /// A valid tar that engines do not unpack, or that readers of tar understand differently.
    #[error("at byte {at} of the unpacked layer is {what}")]
    NotUnpacked { at: u64, what: String },
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl WalkError {
    pub fn at(self, doing: String) -> Error {
        match self {
            Self::Io(error) => failed(doing, error),
            other => Error::bad_input(doing, other.to_string()),
        }
    }
}

/// Reads the layer to its end, padding included.
pub fn walk(layer: &mut LayerDecoder<'_>, hasher: &NameHasher, deep: bool) -> Result<LayerFacts, WalkError> {
    let mut walk = Walk {
        layer,
        builder: LayerBuilder::new(hasher),
        sampler: Sampler::default(),
        buffer: vec![0; 64 << 10],
        header_at: 0,
        holes: 0,
        archives: deep.then(ArchiveReader::default),
    };
    while walk.member()? {}
    Ok(LayerFacts { is_deep: deep, ..walk.builder.finish() })
}

struct Walk<'a, 'b> {
    layer: &'a mut LayerDecoder<'b>,
    builder: LayerBuilder,
    sampler: Sampler,
    buffer: Vec<u8>,
    /// The offset of the last header.
    header_at: u64,
    /// Bytes of holes that were read.
    holes: u64,
    /// The reader of archives, if they are read.
    archives: Option<ArchiveReader>,
}

/// The content of a file, which is sampled as it is read.
struct Content<'a, 'b> {
    layer: &'a mut LayerDecoder<'b>,
    sampler: &'a mut Sampler,
    left: u64,
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        // The pieces of a slow network must not decide how much of a damaged archive is read.
        let mut count = 0;
        while count < most {
            match self.layer.read(&mut buffer[count..most]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.left -= count as u64;
        if self.sampler.wants_more() {
            self.sampler.push(&buffer[..count]);
        }
        Ok(count)
    }
}

/// The extension headers before a member. Of several with the same type, the last one counts.
#[derive(Default)]
struct Extensions {
    pax: PaxRecords,
    long_name: Vec<u8>,
    long_link: Vec<u8>,
}

impl Walk<'_, '_> {
    fn refuse<T>(&self, why: impl Into<String>) -> Result<T, WalkError> {
        Err(WalkError::Refused { at: self.layer.count(), why: why.into() })
    }

    fn not_unpacked<T>(&self, what: impl Into<String>) -> Result<T, WalkError> {
        Err(WalkError::NotUnpacked { at: self.header_at, what: what.into() })
    }

    /// Converts the result of a parser.
    fn parsed<T>(&self, result: Result<T, String>) -> Result<T, WalkError> {
        result.or_else(|why| self.refuse(why))
    }

    /// Reads one entry with its extension headers. `false`: the archive has ended.
    fn member(&mut self) -> Result<bool, WalkError> {
        let mut extensions = Extensions::default();
        loop {
            self.header_at = self.layer.count();
            let Some(block) = self.block()? else { return Ok(false) };
            if block == [0; 512] {
                self.end_marker()?;
                return Ok(false);
            }
            let header = self.parsed(GoHeader::parse(&block))?;
            if header.is_half_gnu {
                return self.not_unpacked(
                    "a header that is half GNU and half ustar, which readers name differently",
                );
            }
            if !matches!(header.type_flag, b'x' | b'g' | b'L' | b'K') {
                self.named(header, extensions)?;
                return Ok(true);
            }
            let content = self.extension(header.size)?;
            match header.type_flag {
                b'x' => extensions.pax = self.parsed(PaxRecords::parse(&content))?,
                b'L' => extensions.long_name = until_nul(&content).to_vec(),
                b'K' => extensions.long_link = until_nul(&content).to_vec(),
                // Engines ignore it, and headers before it.
                _ => {
                    let records = self.parsed(PaxRecords::parse(&content))?;
                    if records != PaxRecords::default() {
                        let what = "a global header that renames or resizes all later members";
                        return self
                            .not_unpacked(format!("{what}, which engines ignore and other readers do not"));
                    }
                    extensions = Extensions::default();
                }
            }
        }
    }

    fn named(&mut self, header: GoHeader, extensions: Extensions) -> Result<(), WalkError> {
        let Extensions { pax, long_name, long_link } = extensions;
        let choose = |long: Vec<u8>, pax: Option<Vec<u8>>, own| match (long.is_empty(), pax) {
            (false, _) => long,
            (true, Some(pax)) => pax,
            (true, None) => own,
        };
        let is_header_only = header.is_header_only();
        let type_flag = header.type_flag;
        let mut raw_name = choose(long_name, pax.name, header.name);
        let link = choose(long_link, pax.link, header.link);
        let size = pax.size.unwrap_or(header.size);
        let sparse = self.parsed(pax.sparse.file())?;
        if let Some(name) = sparse.as_ref().and_then(|sparse| sparse.name.clone()) {
            raw_name = name;
        }
        // Old tars mark a directory only by the slash.
        let is_directory = type_flag == b'5' || (type_flag == 0 && raw_name.ends_with(b"/"));
        let stored = match is_header_only || is_directory {
            true => 0,
            false => self.parsed(u64::try_from(size).map_err(|_| "a negative size".into()))?,
        };
        let name = normalize(&raw_name);
        if name.len() > PATH_MAX || link.len() > PATH_MAX {
            return self.refuse("a name of more than 4096 bytes");
        }
        if !matches!(type_flag, 0 | b'0'..=b'6') {
            let name = String::from_utf8_lossy(&name[..name.len().min(100)]).into_owned();
            let kind = type_flag.escape_ascii();
            return self
                .not_unpacked(format!("\"{name}\", a member of type '{kind}', which engines do not unpack"));
        }
        if let Some(whiteout) = Whiteout::parse(&name) {
            self.builder.whiteout(&whiteout)?;
            return self.skip(stored);
        }
        match type_flag {
            _ if is_directory && name.is_empty() => {}
            _ if is_directory => self.builder.directory(&name)?,
            _ if name.is_empty() => return self.refuse("a member without a name"),
            b'1' => self.builder.hard_link(&name, &normalize(&link))?,
            b'2' => self.builder.symlink(&name, &link)?,
            b'3' | b'4' | b'6' => self.builder.other(&name)?,
            _ => {
                self.sampler.restart();
                match sparse {
                    Some(sparse) => self.sparse(sparse.map, sparse.size.unwrap_or(size), stored)?,
                    None if is_archive(&name) => self.archive(&name, stored)?,
                    None => self.sample(stored)?,
                }
                self.skip_padding(stored)?;
                let sample = self.sampler.finish();
                let data = || file::data_kind(&sample).filter(|_| header.executable).map(FileFacts::Data);
                let facts = file::classify(&sample).or_else(data);
                self.builder.file(&name, facts, header.executable)?;
            }
        }
        Ok(())
    }

    /// Reads content as far as the sampler wants it, and skips the rest.
    fn sample(&mut self, size: u64) -> Result<(), WalkError> {
        let mut left = size;
        while left > 0 && self.sampler.wants_more() {
            let count = self.read_some(left)?;
            self.sampler.push(&self.buffer[..count]);
            left -= count as u64;
        }
        self.skip_exactly(left)
    }

    /// Reads an archive and samples it on the way.
    fn archive(&mut self, name: &[u8], size: u64) -> Result<(), WalkError> {
        let Some(reader) = &mut self.archives else { return self.sample(size) };
        let mut content = Content { layer: self.layer, sampler: &mut self.sampler, left: size };
        let (platforms, is_whole) = reader.read(&mut content);
        let left = content.left;
        self.builder.archive(name, platforms.into_iter().collect(), is_whole);
        self.sample(left)
    }

    /// Reads a sparse file of `size` bytes, of which the archive has `stored`, with its map where that is before the content.
    fn sparse(&mut self, map: Option<SparseMap>, size: i64, mut stored: u64) -> Result<(), WalkError> {
        let map = match map {
            Some(map) => map,
            None => {
                let (map, length) = self.sparse_map(stored)?;
                stored -= length;
                map
            }
        };
        let mut at = 0;
        for (offset, length) in self.parsed(map.parts(size, stored))? {
            self.hole(offset - at)?;
            self.sample(*length)?;
            at = offset + length;
        }
        self.hole(size.unsigned_abs() - at)
    }

    /// The map before the content of a sparse file, and its length.
    fn sparse_map(&mut self, stored: u64) -> Result<(SparseMap, u64), WalkError> {
        let (mut content, mut lines, mut wanted) = (Vec::new(), 0, 1);
        while lines < wanted {
            if content.len() >= MAP_MAX || content.len() as u64 + BLOCK > stored {
                return self.refuse("a sparse file whose map has no end");
            }
            let Some(block) = self.block()? else { return self.refuse("the layer is truncated in a member") };
            lines += block.iter().filter(|b| **b == b'\n').count();
            content.extend_from_slice(&block);
            if lines > 0 && wanted == 1 {
                wanted = self.parsed(SparseMap::lines(&content))?;
            }
        }
        Ok((self.parsed(SparseMap::of_content(&content))?, content.len() as u64))
    }

    /// Reads a hole as zeros, as far as the sampler wants it.
    fn hole(&mut self, mut left: u64) -> Result<(), WalkError> {
        while left > 0 && self.sampler.wants_more() {
            let zeros = [0; 4096];
            let count = left.min(zeros.len() as u64);
            self.sampler.push(&zeros[..count as usize]);
            left -= count;
            self.holes += count;
            if self.holes > HOLES_MAX {
                return self.not_unpacked(format!("a sparse file beyond {} GiB of holes", HOLES_MAX >> 30));
            }
        }
        Ok(())
    }

    /// The next block. `None`: the stream has ended, which GNU tar and Go accept without an end marker.
    fn block(&mut self) -> Result<Option<[u8; 512]>, WalkError> {
        let mut block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            match self.layer.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return self.refuse("the layer is truncated in a header"),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(block))
    }

    /// The content of an extension header.
    fn extension(&mut self, size: i64) -> Result<Vec<u8>, WalkError> {
        let Some(size) = u64::try_from(size).ok().filter(|size| *size <= EXTENSION_MAX) else {
            return self.refuse(format!("an extension header of {size} bytes"));
        };
        let mut content = Vec::new();
        self.layer.by_ref().take(size).read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return self.refuse("the layer is truncated in an extension header");
        }
        self.skip_padding(size)?;
        Ok(content)
    }

    /// Skips content and padding.
    fn skip(&mut self, size: u64) -> Result<(), WalkError> {
        self.skip_exactly(size)?;
        self.skip_padding(size)
    }

    fn skip_padding(&mut self, size: u64) -> Result<(), WalkError> {
        match padded(size) {
            Some(whole) => self.skip_exactly(whole - size),
            None => self.refuse("a member with an invalid size"),
        }
    }

    fn skip_exactly(&mut self, mut left: u64) -> Result<(), WalkError> {
        while left > 0 {
            left -= self.read_some(left)? as u64;
        }
        Ok(())
    }

    fn read_some(&mut self, most: u64) -> Result<usize, WalkError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.buffer.len());
        loop {
            match self.layer.read(&mut self.buffer[..most]) {
                Ok(0) => return self.refuse("the layer is truncated in a member"),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads to the end of the stream after a block of zeros. A second one ends the archive; as in Go, what follows is not
    /// part of it.
    fn end_marker(&mut self) -> Result<(), WalkError> {
        match self.block()? {
            Some(block) if block != [0; 512] => self.refuse("data follows a single block of zeros"),
            _ => Ok(io::copy(self.layer, &mut io::sink()).map(drop)?),
        }
    }
}
