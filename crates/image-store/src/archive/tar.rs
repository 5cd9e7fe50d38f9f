//! Table of the members of a tar file: names, offsets and sizes, read strictly and within limits.
//!
//! Nothing is extracted, and no content is read except extension headers. What readers interpret differently is refused:
//! two members with the same name (`./x` is `x`), names outside the archive, a file with members below it, different sizes
//! in PAX and ustar headers, data after the end marker, truncated members.

use error::{Error, retry_interrupted};
use header::{EntryKind, TarHeader};
use patched_file::PatchedFile;
use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

pub mod extension;
pub mod header;
mod patched_file;
pub mod stream;
pub mod write;

/// Size of a tar block.
pub const BLOCK: u64 = 512;
/// More members than any image archive has: 127 layers of four members each, for hundreds of images. With
/// two such tables in memory, before and after a change, a tool stays below 64 MiB.
const MEMBERS_MAX: usize = 160_000;
/// A tar with more members is a file system.
const TOO_MANY: &str =
    "an image has a few for each layer; `docker export` writes a file system, not an image";
/// Largest total of names and link targets, so that the table stays small for any archive.
const NAMES_MAX: usize = 20 << 20;
/// Most zeros after the end marker. GNU tar pads to 10 KiB, or more with `-b`.
const TRAILER_MAX: u64 = 16 << 20;
/// Links that Linux follows before it returns ELOOP.
const LINKS_MAX: usize = 40;

/// Bytes and the offset in a file at which they are written.
pub type ByteWrite = (u64, Vec<u8>);

/// Error of reading a tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The archive is damaged, or readers would interpret it differently.
    #[error("at byte {at}: {why}")]
    Refused {
        /// Offset of the header.
        at: u64,
        /// The reason.
        why: String,
    },
    /// A link cannot be followed.
    #[error("{0}")]
    Link(String),
}

impl TarError {
    /// Converts it to an error of the action `doing`: `BadInput`, or that of the I/O error.
    pub fn at(self, doing: impl Into<String>) -> Error {
        match self {
            Self::Io(error) => Error::from_io(doing, error),
            other => Error::bad_input(doing, other.to_string()),
        }
    }
}

/// A member. Its bytes in the file are `start..end`: extension headers, header, content and padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarMember {
    /// Its type.
    pub kind: MemberKind,
    /// Offset of its first header.
    pub start: u64,
    /// Offset of its own header, after extension headers.
    pub header_at: u64,
    /// Offset of its content.
    pub data_at: u64,
    /// Bytes of content.
    pub size: u64,
    /// Offset after its padding.
    pub end: u64,
    name: Range<u32>,
    link: Range<u32>,
}

/// The type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A PAX header for all members after it, such as the commit that `git archive` writes. It has no name.
    Global,
}

impl MemberKind {
    /// The type of the member whose last header is at `at`.
    fn of(entry: EntryKind, at: u64) -> Result<Self, TarError> {
        match entry {
            EntryKind::File => Ok(Self::File),
            EntryKind::HardLink => Ok(Self::HardLink),
            EntryKind::Symlink => Ok(Self::Symlink),
            EntryKind::Directory => Ok(Self::Directory),
            EntryKind::Extension(_) => Err(refused(at, "an extension header in a member's place")),
        }
    }
}

/// A tar file and the table of its members.
pub struct TarFile {
    bytes: PatchedFile,
    members: Vec<TarMember>,
    /// All names and link targets, concatenated.
    text: Vec<u8>,
    /// Named members, sorted so that members of a directory follow it.
    order: Vec<u32>,
    /// Offset after the last member; the end marker and padding follow.
    members_end: u64,
    length: u64,
}

impl TarFile {
    /// Reads the table. A file without an end marker is accepted if it ends exactly after a member, as in GNU tar and Go.
    ///
    /// # Errors
    /// [`TarError::Refused`] if it is damaged or ambiguous.
    pub fn read(file: Arc<File>) -> Result<Self, TarError> {
        Self::read_over(file, &[])
    }

    /// Reads the table as if these bytes were written over the file. None of them is after its end.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_over(file: Arc<File>, writes: &[ByteWrite]) -> Result<Self, TarError> {
        let length = file.metadata()?.len();
        let mut tar = Self::bare(PatchedFile::new(file, writes), length);
        // Reserved at once: a growing table is copied and takes twice the memory. Unused pages are never touched.
        let most = |bytes: u64, limit: usize| usize::try_from(bytes).map_or(limit, |bytes| bytes.min(limit));
        tar.members.reserve_exact(most(length / BLOCK, MEMBERS_MAX));
        tar.text.reserve_exact(most(length, NAMES_MAX));
        let mut at = 0;
        while at < length {
            let block = tar.block(at)?;
            if block.iter().all(|b| *b == 0) {
                tar.check_trailer(at)?;
                break;
            }
            at = tar.add_member(at)?;
            tar.members_end = at;
        }
        tar.sort()?;
        Ok(tar)
    }

    fn bare(bytes: PatchedFile, length: u64) -> Self {
        Self { bytes, members: Vec::new(), text: Vec::new(), order: Vec::new(), members_end: 0, length }
    }

    /// Returns the file without its table.
    pub fn emptied(&self) -> Self {
        Self::bare(self.bytes.clone(), self.length)
    }

    /// Records that the bytes are written to the file.
    pub fn set_written(&mut self) {
        self.bytes = PatchedFile::new(self.file().clone(), &[]);
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        self.bytes.file()
    }

    /// All members in their order.
    pub fn members(&self) -> &[TarMember] {
        &self.members
    }

    /// Offset after the last member.
    pub fn members_end(&self) -> u64 {
        self.members_end
    }

    /// Length of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns a member's name without leading `./` and trailing `/`.
    pub fn name(&self, member: &TarMember) -> &[u8] {
        &self.text[member.name.start as usize..member.name.end as usize]
    }

    /// Returns a link's target as written.
    pub fn link(&self, member: &TarMember) -> &[u8] {
        &self.text[member.link.start as usize..member.link.end as usize]
    }

    /// Returns the index of the member with this name, however it is spelled: `./a//b` is `a/b`.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.find_plain(&plain_name(name).ok()?)
    }

    fn find_plain(&self, name: &[u8]) -> Option<usize> {
        let at = self.order.binary_search_by(|i| by_path(self.name(&self.members[*i as usize]), name));
        at.ok().map(|at| self.order[at] as usize)
    }

    /// Returns this member's header for `size` bytes of content under `name`. A name that differs only in spelling is left as
    /// it is. `None` if the member is a link, or has or needs more than one header.
    ///
    /// # Errors
    /// That of reading the old header.
    pub(crate) fn header_for(
        &self,
        member: &TarMember,
        name: &str,
        size: u64,
    ) -> Result<Option<Vec<u8>>, TarError> {
        if member.start != member.header_at || member.kind != MemberKind::File {
            return Ok(None);
        }
        let old = self.block(member.header_at)?;
        let is_same = plain_name(name.as_bytes()).is_ok_and(|plain| plain == self.name(member));
        Ok(if is_same { write::header_resized(&old, size) } else { write::header_like(&old, name, size) })
    }

    /// Follows links within the archive from this path to a file. Returns the indices of the links and, last, of the file.
    ///
    /// # Errors
    /// [`TarError::Link`] if a link is broken, circular or leaves the archive.
    pub fn resolve(&self, name: &[u8]) -> Result<Vec<usize>, TarError> {
        let refuse = |why: &str| Err(TarError::Link(format!("\"{}\" {why}", show(name))));
        let mut members = Vec::new();
        let plain = plain_name(name).map_err(TarError::Link)?;
        let Some(mut index) = self.find_plain(&plain) else { return refuse("is not in the archive") };
        loop {
            members.push(index);
            let member = &self.members[index];
            let target = match member.kind {
                MemberKind::File => return Ok(members),
                MemberKind::Directory | MemberKind::Global => return refuse("is a directory, not a file"),
                MemberKind::HardLink => plain_name(self.link(member)),
                MemberKind::Symlink => link_target(self.name(member), self.link(member)),
            };
            if members.len() > LINKS_MAX {
                return refuse("is a circular link");
            }
            let Ok(target) = target else { return refuse("is a link that leaves the archive") };
            match self.find_plain(&target) {
                Some(next) => index = next,
                None => return refuse("is a link to something that is not in the archive"),
            }
        }
    }

    /// Returns a reader of a file's content. It reads by offset, so that readers are independent.
    pub fn content(&self, member: &TarMember) -> FileSlice {
        FileSlice { bytes: self.bytes.clone(), at: member.data_at, end: member.data_at + member.size }
    }

    /// Returns the content of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`TarError::Refused`] if it is larger, otherwise that of reading the file.
    pub fn read_small(&self, member: &TarMember, limit: u64) -> Result<Vec<u8>, TarError> {
        if member.size > limit {
            let name = show(self.name(member));
            let why = format!("\"{name}\" has {} bytes; the limit is {limit}", member.size);
            return Err(TarError::Refused { at: member.header_at, why });
        }
        let mut bytes = vec![0; member.size as usize];
        self.bytes.read_exact_at(&mut bytes, member.data_at)?;
        Ok(bytes)
    }

    /// Returns the block at this offset.
    ///
    /// # Errors
    /// [`TarError::Refused`] if the file ends before the end of the block, otherwise that of reading it.
    pub(crate) fn block(&self, at: u64) -> Result<[u8; 512], TarError> {
        let mut block = [0; 512];
        if self.length - at < BLOCK {
            return Err(refused(at, "the archive is cut off within a block"));
        }
        self.bytes.read_exact_at(&mut block, at)?;
        Ok(block)
    }

    /// Reads the member whose first header is at `start`. Returns the offset after it.
    fn add_member(&mut self, start: u64) -> Result<u64, TarError> {
        if self.members.len() >= MEMBERS_MAX {
            return Err(refused(
                start,
                format!("the archive has more than {MEMBERS_MAX} members; {TOO_MANY}"),
            ));
        }
        let mut extensions = extension::Extensions::default();
        let mut at = start;
        loop {
            let block = if at < self.length { self.block(at)? } else { [0; 512] };
            if block == [0; 512] {
                return Err(refused(at, "the archive ends after an extension header"));
            }
            let header =
                TarHeader::parse(&block).map_err(|why| refused(at, header::or_no_tar(at, &block, why)))?;
            let data_at = at + BLOCK;
            let EntryKind::Extension(kind) = header.kind else {
                return self.add_named(start, at, header, extensions);
            };
            if header.size > extension::EXTENSION_MAX {
                return Err(refused(at, format!("an extension header of {} bytes", header.size)));
            }
            let end = self.padded_end(at, header.size)?;
            let mut content = vec![0; header.size as usize];
            self.bytes.read_exact_at(&mut content, data_at)?;
            if kind == extension::ExtensionKind::Global {
                extension::check_global(&content).map_err(|why| refused(at, why))?;
                if at != start {
                    return Err(refused(at, "a global header is between a member and its extension headers"));
                }
                self.members.push(TarMember {
                    kind: MemberKind::Global,
                    start,
                    header_at: at,
                    data_at,
                    size: header.size,
                    end,
                    name: 0..0,
                    link: 0..0,
                });
                return Ok(end);
            }
            extensions.add(kind, &content).map_err(|why| refused(at, why))?;
            at = end;
        }
    }

    fn add_named(
        &mut self,
        start: u64,
        at: u64,
        header: TarHeader,
        extensions: extension::Extensions,
    ) -> Result<u64, TarError> {
        let size = extensions.size(header.size).map_err(|why| refused(at, why))?;
        let raw_name = extensions.name.unwrap_or(header.name);
        let link = extensions.link.unwrap_or(header.link);
        let name = plain_name(&raw_name).map_err(|why| refused(at, why))?;
        let ends_as_directory = raw_name.ends_with(b"/") || raw_name.ends_with(b"/.");
        let kind = MemberKind::of(header.kind, at)?;
        // Old tars mark a directory by the slash alone; readers differ about when that counts.
        if kind != MemberKind::Directory && (ends_as_directory || name.is_empty()) {
            return Err(refused(
                at,
                format!("\"{}\" has the name of a directory but is none", show(&raw_name)),
            ));
        }
        if kind != MemberKind::File && size != 0 {
            let why = format!("\"{}\" is not a file but has {size} bytes of content", show(&name));
            return Err(refused(at, why));
        }
        let end = self.padded_end(at, size)?;
        if self.text.len() + name.len() + link.len() > NAMES_MAX {
            return Err(refused(at, format!("the names in the archive exceed {NAMES_MAX} bytes")));
        }
        let name = self.keep_text(&name);
        let link = self.keep_text(&link);
        self.members.push(TarMember {
            kind,
            start,
            header_at: at,
            data_at: at + BLOCK,
            size,
            end,
            name,
            link,
        });
        Ok(end)
    }

    fn keep_text(&mut self, bytes: &[u8]) -> Range<u32> {
        // NAMES_MAX is far below u32::MAX.
        let start = self.text.len() as u32;
        self.text.extend_from_slice(bytes);
        start..self.text.len() as u32
    }

    /// Returns the offset after a member with its header at `at`, padding included.
    fn padded_end(&self, at: u64, size: u64) -> Result<u64, TarError> {
        let end = padded(size).and_then(|size| at.checked_add(BLOCK)?.checked_add(size));
        match end {
            Some(end) if end <= self.length => Ok(end),
            _ => {
                let there = self.length - at - BLOCK;
                let why = format!("a member of {size} bytes is truncated: {there} bytes are present");
                Err(refused(at, why))
            }
        }
    }

    /// Two blocks of zeros end a tar. Some readers read on after them.
    fn check_trailer(&self, at: u64) -> Result<(), TarError> {
        if self.length - at > TRAILER_MAX {
            let why = format!("{} bytes are after the end marker", self.length - at);
            return Err(refused(at, why));
        }
        if !(self.length - at).is_multiple_of(BLOCK) {
            return Err(refused(at, "the archive is cut off within its end marker"));
        }
        let mut rest = FileSlice { bytes: self.bytes.clone(), at, end: self.length };
        let mut buffer = vec![0; 64 << 10];
        let mut seen = at;
        loop {
            let count = rest.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            if let Some(i) = buffer[..count].iter().position(|b| *b != 0) {
                return Err(refused(seen + i as u64, "data after the end marker"));
            }
            seen += count as u64;
        }
    }

    fn sort(&mut self) -> Result<(), TarError> {
        let named = |i: &u32| self.members[*i as usize].kind != MemberKind::Global;
        let mut order: Vec<u32> = (0..self.members.len() as u32).filter(named).collect();
        let name = |i: u32| self.name(&self.members[i as usize]);
        order.sort_by(|a, b| by_path(name(*a), name(*b)));
        for pair in order.windows(2) {
            let (first, second) = (&self.members[pair[0] as usize], &self.members[pair[1] as usize]);
            let both_directories =
                first.kind == MemberKind::Directory && second.kind == MemberKind::Directory;
            let (upper, lower) = (name(pair[0]), name(pair[1]));
            if upper == lower && !both_directories {
                let why = format!("\"{}\" is a member twice, so readers differ", show(upper));
                return Err(refused(first.header_at.max(second.header_at), why));
            }
            let is_under = lower.strip_prefix(upper).is_some_and(|rest| rest.first() == Some(&b'/'));
            if is_under && first.kind != MemberKind::Directory {
                let why = format!("\"{}\" is below \"{}\", which is no directory", show(lower), show(upper));
                return Err(refused(second.header_at, why));
            }
        }
        self.order = order;
        Ok(())
    }
}

/// Reader of a range of a file, by offset.
#[derive(Clone)]
pub struct FileSlice {
    bytes: PatchedFile,
    at: u64,
    end: u64,
}

impl FileSlice {
    /// Returns a reader of this range.
    pub fn new(file: Arc<File>, range: Range<u64>) -> Self {
        Self { bytes: PatchedFile::new(file, &[]), at: range.start, end: range.end }
    }
}

impl Read for FileSlice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let count = retry_interrupted(|| self.bytes.read_at(&mut buffer[..wanted], self.at))?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file was truncated while it was read",
            ));
        }
        self.at += count as u64;
        Ok(count)
    }
}

fn refused(at: u64, why: impl Into<String>) -> TarError {
    TarError::Refused { at, why: why.into() }
}

/// Returns a size rounded up to whole blocks; `None` on overflow.
pub fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}

/// Returns a name for a message, which is escaped when it is printed.
pub fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned()
}

/// Orders names so that the members of a directory follow it: `/` is before every other byte.
fn by_path(a: &[u8], b: &[u8]) -> Ordering {
    let key = |b: &u8| if *b == b'/' { 0 } else { *b };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Returns a name in the form in which names are compared: without `.`, duplicate and trailing slashes. The root is empty.
///
/// # Errors
/// The reason if the name is absolute, empty or leaves the archive.
pub fn plain_name(raw: &[u8]) -> Result<Vec<u8>, String> {
    if raw.starts_with(b"/") {
        return Err(format!("\"{}\" is an absolute path", show(raw)));
    }
    let mut parts = Vec::new();
    for part in raw.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(format!("\"{}\" leaves the archive", show(raw))),
            part => parts.push(part),
        }
    }
    if parts.is_empty() && raw.is_empty() {
        return Err("a member without a name".into());
    }
    Ok(parts.join(&b'/'))
}

/// Returns the member name to which a symbolic link points.
fn link_target(from: &[u8], link: &[u8]) -> Result<Vec<u8>, String> {
    let leaves = || format!("\"{}\" leaves the archive", show(link));
    if link.starts_with(b"/") {
        return Err(leaves());
    }
    let mut parts: Vec<&[u8]> = from.split(|b| *b == b'/').collect();
    parts.pop();
    for part in link.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(leaves)?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
