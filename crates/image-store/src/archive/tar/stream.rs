//! Reader of a tar in a pipe: every byte once, member by member.
//!
//! It checks what is needed to find the next member. Whether readers interpret the archive in the same way is checked by
//! [`super::TarFile`], once all headers are known.

use super::extension::{self, Extensions};
use super::header::{self, EntryKind, TarHeader};
use super::{
    BLOCK, MEMBERS_MAX, MemberKind, NAMES_MAX, TOO_MANY, TRAILER_MAX, TarError, padded, plain_name, refused,
};
use std::io::{self, Read};

/// A member whose content is next: `size` bytes, then padding.
pub struct StreamMember {
    /// Its type.
    pub kind: MemberKind,
    /// Without leading `./` and trailing `/`; empty for a global header.
    pub name: Vec<u8>,
    /// Bytes of content.
    pub size: u64,
    /// Offset of its first header.
    pub start: u64,
    /// Offset of its content.
    pub data_at: u64,
    /// All of its headers, unchanged.
    pub headers: Vec<u8>,
}

impl StreamMember {
    /// Bytes of content and padding.
    pub fn padded(&self) -> u64 {
        // Compared with the largest size when the header was read.
        padded(self.size).unwrap_or(self.size)
    }
}

/// Result of [`TarStream::next_member`].
pub enum StreamItem {
    /// A member.
    Member(StreamMember),
    /// The end marker and all zeros after it, in bytes.
    End(u64),
}

/// A tar in a pipe.
pub struct TarStream<R> {
    input: R,
    at: u64,
    members: usize,
    names: usize,
    first: [u8; 512],
}

impl<R: Read> TarStream<R> {
    /// Reads a tar from `input`.
    pub fn new(input: R) -> Self {
        Self { input, at: 0, members: 0, names: 0, first: [0; 512] }
    }

    /// Returns the number of bytes that were read.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Returns the first block, which identifies other formats than tar.
    pub fn first_block(&self) -> &[u8; 512] {
        &self.first
    }

    /// Reads the headers of the next member. The content and padding of the previous one must have been read.
    ///
    /// # Errors
    /// [`TarError::Refused`] if the stream is damaged or truncated.
    pub fn next_member(&mut self) -> Result<StreamItem, TarError> {
        let start = self.at;
        let mut headers = Vec::new();
        let mut extensions = Extensions::default();
        loop {
            let at = self.at;
            let block = self.block(at)?;
            if block == [0; 512] {
                return match headers.is_empty() {
                    true => self.end().map(StreamItem::End),
                    false => Err(refused(at, "the archive ends after an extension header")),
                };
            }
            headers.extend_from_slice(&block);
            let header =
                TarHeader::parse(&block).map_err(|why| refused(at, header::or_no_tar(at, &block, why)))?;
            let EntryKind::Extension(kind) = header.kind else {
                return self.member(start, at, headers, &header, extensions).map(StreamItem::Member);
            };
            if header.size > extension::EXTENSION_MAX {
                return Err(refused(at, format!("an extension header of {} bytes", header.size)));
            }
            if kind == extension::ExtensionKind::Global {
                if at != start {
                    return Err(refused(at, "a global header is between a member and its extension headers"));
                }
                let (kind, name) = (MemberKind::Global, Vec::new());
                return self.count(start, 0).map(|()| {
                    StreamItem::Member(StreamMember {
                        kind,
                        name,
                        size: header.size,
                        start,
                        data_at: self.at,
                        headers,
                    })
                });
            }
            let whole = padded(header.size).unwrap_or(header.size) as usize;
            let from = headers.len();
            headers.resize(from + whole, 0);
            self.read_exact(&mut headers[from..])?;
            extensions
                .add(kind, &headers[from..from + header.size as usize])
                .map_err(|why| refused(at, why))?;
        }
    }

    fn member(
        &mut self,
        start: u64,
        at: u64,
        headers: Vec<u8>,
        header: &TarHeader,
        extensions: Extensions,
    ) -> Result<StreamMember, TarError> {
        let size = extensions.size(header.size).map_err(|why| refused(at, why))?;
        let name = extensions.name.unwrap_or_else(|| header.name.clone());
        let name = plain_name(&name).map_err(|why| refused(at, why))?;
        let kind = MemberKind::of(header.kind, at)?;
        // Some readers skip such content, others do not.
        if kind != MemberKind::File && size != 0 {
            let why = format!("\"{}\" is not a file but has {size} bytes of content", super::show(&name));
            return Err(refused(at, why));
        }
        if padded(size).and_then(|size| self.at.checked_add(size)).is_none_or(|end| end > i64::MAX as u64) {
            return Err(refused(at, format!("a member of {size} bytes")));
        }
        self.count(start, name.len())?;
        Ok(StreamMember { kind, name, size, start, data_at: self.at, headers })
    }

    fn count(&mut self, at: u64, name: usize) -> Result<(), TarError> {
        self.members += 1;
        self.names += name;
        match (self.members > MEMBERS_MAX, self.names > NAMES_MAX) {
            (true, _) => Err(refused(at, format!("more than {MEMBERS_MAX} members; {TOO_MANY}"))),
            (_, true) => Err(refused(at, format!("more than {NAMES_MAX} bytes of names"))),
            _ => Ok(()),
        }
    }

    /// Reads content or padding; the caller knows the size.
    ///
    /// # Errors
    /// [`TarError::Refused`] if the stream ends, otherwise that of reading it.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.input.read(buffer) {
                Ok(0) => {
                    return Err(refused(
                        self.at,
                        "the stream ends within a member: its writer was interrupted",
                    ));
                }
                Ok(count) => {
                    self.at += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fills the buffer with content or padding.
    ///
    /// # Errors
    /// As [`Self::read_some`].
    pub(crate) fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            let count = self.read_some(buffer)?;
            buffer = &mut buffer[count..];
        }
        Ok(())
    }

    fn block(&mut self, at: u64) -> Result<[u8; 512], TarError> {
        let mut block = [0; 512];
        self.read_exact(&mut block).map_err(|error| match error {
            // A pipe whose writer died between two members looks like an archive without an end marker. That is accepted
            // in a file, but not here.
            TarError::Refused { .. } if at == 0 => {
                refused(0, "the stream is empty, or shorter than a header")
            }
            TarError::Refused { .. } => {
                refused(at, "the stream ends without an end marker: its writer was interrupted")
            }
            other => other,
        })?;
        if at == 0 {
            self.first = block;
        }
        Ok(block)
    }

    /// Two blocks of zeros end a tar, of which the first was read. Only zeros may follow.
    fn end(&mut self) -> Result<u64, TarError> {
        let begin = self.at - BLOCK;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match self.input.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                break;
            }
            if buffer[..count].iter().any(|b| *b != 0) {
                return Err(refused(self.at, "data after the end marker"));
            }
            self.at += count as u64;
            if self.at - begin > TRAILER_MAX {
                return Err(refused(begin, format!("more than {TRAILER_MAX} bytes after the end marker")));
            }
        }
        match (self.at - begin).is_multiple_of(BLOCK) {
            true => Ok(self.at - begin),
            false => Err(refused(begin, "the stream is cut off within its end marker")),
        }
    }
}
