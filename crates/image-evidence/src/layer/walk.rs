//! A streaming reader of the entries of a layer's tar. It accepts what Go's archive/tar accepts, which container engines
//! use.

use super::decoder::{LayerDecoder, failed};
use super::paths::{PATH_MAX, Whiteout, normalize};
use super::{LayerBuilder, LayerFacts, NameHasher, TooLarge};
use crate::elf::sampler::Sampler;
use crate::file::{self, FileFacts};
use error::Error;
use image_store::archive::tar::extension::{self, EXTENSION_MAX, Extensions};
use image_store::archive::tar::header::HeaderFields;
use image_store::archive::tar::{BLOCK, padded};
use std::io::{self, Read};

/// The mode in the header, and its execute bits.
const MODE: std::ops::Range<usize> = 100..108;
const EXECUTE: u32 = 0o111;
/// Mode, owner, group and time. `Fields` checks the size.
const NUMBERS: [std::ops::Range<usize>; 4] = [MODE, 108..116, 116..124, 136..148];

#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("at byte {at} of the unpacked layer: {why}")]
    Refused { at: u64, why: String },
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
pub fn walk(layer: &mut LayerDecoder<'_>, hasher: &NameHasher) -> Result<LayerFacts, WalkError> {
    let mut walk = Walk {
        layer,
        builder: LayerBuilder::new(hasher),
        sampler: Sampler::default(),
        buffer: vec![0; 64 << 10],
    };
    while walk.member()? {}
    Ok(walk.builder.finish())
}

struct Walk<'a, 'b> {
    layer: &'a mut LayerDecoder<'b>,
    builder: LayerBuilder,
    sampler: Sampler,
    buffer: Vec<u8>,
}

impl Walk<'_, '_> {
    fn refuse<T>(&self, why: impl Into<String>) -> Result<T, WalkError> {
        Err(WalkError::Refused { at: self.layer.count(), why: why.into() })
    }

    /// Reads one entry with its extension headers. `false`: the archive has ended.
    fn member(&mut self) -> Result<bool, WalkError> {
        let mut extensions = Extensions::default();
        let mut is_extended = false;
        loop {
            let Some(block) = self.block()? else {
                return if is_extended {
                    self.refuse("the archive ends after an extension header")
                } else {
                    Ok(false)
                };
            };
            if block == [0; 512] {
                if is_extended {
                    return self.refuse("the archive ends after an extension header");
                }
                self.trailer()?;
                return Ok(false);
            }
            let fields = match HeaderFields::parse(&block) {
                Ok(fields) => fields,
                Err(why) => return self.refuse(why),
            };
            if !NUMBERS.iter().all(|range| is_number(&block[range.clone()])) {
                return self.refuse("a mode, owner or time that is not a number");
            }
            let kind = match fields.type_flag {
                b'x' => extension::ExtensionKind::Pax,
                b'g' => extension::ExtensionKind::Global,
                b'L' => extension::ExtensionKind::LongName,
                b'K' => extension::ExtensionKind::LongLink,
                _ => {
                    self.named(&block, fields, extensions)?;
                    return Ok(true);
                }
            };
            if fields.size > EXTENSION_MAX {
                return self.refuse(format!("an extension header of {} bytes", fields.size));
            }
            let content = self.small(fields.size)?;
            let added = match kind {
                extension::ExtensionKind::Global => extension::check_global(&content),
                kind => {
                    is_extended = true;
                    extensions.add(kind, &content)
                }
            };
            if let Err(why) = added {
                return self.refuse(why);
            }
        }
    }

    fn named(
        &mut self,
        block: &[u8; 512],
        fields: HeaderFields,
        extensions: Extensions,
    ) -> Result<(), WalkError> {
        let size = match extensions.size(fields.size) {
            Ok(size) => size,
            Err(why) => return self.refuse(why),
        };
        let raw_name = extensions.name.unwrap_or(fields.name);
        let link = extensions.link.unwrap_or(fields.link);
        let name = normalize(&raw_name);
        if name.len() > PATH_MAX || link.len() > PATH_MAX {
            return self.refuse("a name of more than 4096 bytes");
        }
        // Old tars mark a directory only by the slash.
        let is_directory =
            fields.type_flag == b'5' || (matches!(fields.type_flag, 0 | b'0') && raw_name.ends_with(b"/"));
        if let Some(whiteout) = Whiteout::parse(&name) {
            self.builder.whiteout(&whiteout)?;
            return self.skip(if is_directory { 0 } else { size });
        }
        match fields.type_flag {
            _ if is_directory && name.is_empty() => {}
            _ if is_directory => self.builder.directory(&name)?,
            _ if name.is_empty() => return self.refuse("a member without a name"),
            // As in Go, links and devices have no content, whatever their size field says.
            b'1' => self.builder.hard_link(&name, &normalize(&link))?,
            b'2' => self.builder.symlink(&name, &link)?,
            b'3' | b'4' | b'6' => self.builder.other(&name)?,
            b'S' => {
                self.sparse_map(block)?;
                self.skip(size)?;
                self.builder.file(&name, None, executable(block))?;
            }
            0 | b'0' | b'7' => self.file(&name, size, executable(block))?,
            other => return self.refuse(format!("a member of the unknown type 0x{other:02x}")),
        }
        Ok(())
    }

    fn file(&mut self, name: &[u8], size: u64, is_executable: bool) -> Result<(), WalkError> {
        self.sampler.restart();
        let mut left = size;
        while left > 0 && self.sampler.wants_more() {
            let count = self.read_some(left)?;
            self.sampler.push(&self.buffer[..count]);
            left -= count as u64;
        }
        self.skip_exactly(left)?;
        self.skip_padding(size)?;
        let sample = self.sampler.finish();
        let data = || if is_executable { file::data_kind(&sample).map(FileFacts::Data) } else { None };
        let facts = file::classify(&sample).or_else(data);
        self.builder.file(name, facts, is_executable)?;
        Ok(())
    }

    /// Skips the blocks of the map that old GNU tar writes after the header. The size in the header is that of the content in
    /// the archive, without holes.
    fn sparse_map(&mut self, header: &[u8; 512]) -> Result<(), WalkError> {
        // The field isextended of GNU tar's tar.h: another block follows.
        let mut goes_on = header[482] != 0;
        for _ in 0..1000 {
            if !goes_on {
                return Ok(());
            }
            let Some(block) = self.block()? else { break };
            goes_on = block[504] != 0;
        }
        self.refuse("a sparse member whose map has no end")
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
    fn small(&mut self, size: u64) -> Result<Vec<u8>, WalkError> {
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

    /// Reads to the end of the stream. Only zeros may follow the end marker, because some readers continue after it.
    fn trailer(&mut self) -> Result<(), WalkError> {
        let mut seen = BLOCK;
        loop {
            let count = match self.layer.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if self.buffer[..count].iter().any(|b| *b != 0) {
                return self.refuse("data follows the end marker");
            }
            seen += count as u64;
        }
        if !seen.is_multiple_of(BLOCK) {
            return self.refuse("the layer is truncated in its end marker");
        }
        Ok(())
    }
}

/// Returns whether Go accepts the field as a number (archive/tar, parseNumeric). Other readers accept more, and see entries that no
/// engine unpacks.
fn is_number(field: &[u8]) -> bool {
    if field[0] & 0x80 != 0 {
        return true;
    }
    let is_blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let end = field.iter().rposition(|b| !is_blank(b)).map_or(start, |last| last + 1);
    let digits = field[start..end].split(|b| *b == 0).next().unwrap_or_default();
    digits.iter().all(|b| matches!(b, b'0'..=b'7'))
}

/// Returns whether any execute bit is set.
fn executable(block: &[u8; 512]) -> bool {
    let field = &block[MODE];
    // GNU tar's binary numbers.
    if field[0] & 0x80 != 0 {
        return u32::from(field[field.len() - 1]) & EXECUTE != 0;
    }
    let digits = field.iter().filter(|b| matches!(b, b'0'..=b'7'));
    digits.fold(0_u32, |mode, digit| mode << 3 | u32::from(digit - b'0')) & EXECUTE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execute_bits_are_read_from_octal_and_binary_modes() {
        let check = |mode: &[u8; 8], may_run: bool| {
            let mut block = [0; 512];
            block[MODE].copy_from_slice(mode);
            assert_eq!(executable(&block), may_run, "{mode:?}");
        };
        check(b"0000755\0", true);
        check(b"0000644\0", false);
        check(&[0x80, 0, 0, 0, 0, 0, 0x01, 0xed], true);
        check(&[0x80, 0, 0, 0, 0, 0, 0x01, 0xa4], false);
    }
}
