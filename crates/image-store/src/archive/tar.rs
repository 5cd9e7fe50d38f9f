//! The table of members of a tar that lies in a file: names, places and sizes, read strictly and within bounds.
//!
//! Nothing is extracted and no content is read but the extension headers. What two readers read differently is
//! refused: two members of one name (`./x` is `x`), names that leave the archive, a file that others lie under,
//! sizes on which PAX and ustar disagree, bytes behind the end marker, a member that is cut off.

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

pub const BLOCK: u64 = 512;
/// More members than any image archive has: 127 layers of four members each, for hundreds of images. With
/// two such tables in memory, before and after a change, a tool stays below 64 MiB.
const MEMBERS_MAX: usize = 160_000;
/// What else has so many is a file system.
const TOO_MANY: &str =
    "an image has a few for each layer; what `docker export` writes is a file system and no image";
/// All names and link targets together, so that the table stays small whatever the archive says.
const NAMES_MAX: usize = 20 << 20;
/// Zeros behind the end marker. GNU tar pads to 10 KiB; `-b` can ask for more.
const TRAILER_MAX: u64 = 16 << 20;
/// As many links as Linux follows before it says ELOOP.
const LINKS_MAX: usize = 40;

/// Bytes and the offset in a file at which they are written.
pub type ByteWrite = (u64, Vec<u8>);

/// What stops the reading of a tar.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The archive is damaged, or means different things to different readers.
    #[error("at byte {at}: {why}")]
    Refused { at: u64, why: String },
    #[error("{0}")]
    Link(String),
}

impl TarError {
    pub fn at(self, doing: impl Into<String>) -> Error {
        match self {
            Self::Io(error) => Error::from_io(doing, error),
            other => Error::bad_input(doing, other.to_string()),
        }
    }
}

/// One member. Its bytes in the file are `start..end`: extension headers, header, content and padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarMember {
    pub kind: MemberKind,
    pub start: u64,
    pub header_at: u64,
    pub data_at: u64,
    pub size: u64,
    pub end: u64,
    name: Range<u32>,
    link: Range<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    File,
    HardLink,
    Symlink,
    Directory,
    /// A PAX header for all members that follow, such as the commit that `git archive` notes. It has no name.
    Global,
}

/// A tar file and where everything in it stands.
pub struct TarFile {
    bytes: PatchedFile,
    members: Vec<TarMember>,
    /// All names and link targets, one behind the other.
    text: Vec<u8>,
    /// Named members, sorted so that what lies under a name follows it.
    order: Vec<u32>,
    /// Where the last member ends; the end marker and padding follow.
    members_end: u64,
    length: u64,
}

impl TarFile {
    /// Reads the whole table. A file without an end marker passes if it ends exactly behind a member, as GNU tar
    /// and Go have it.
    pub fn read(file: Arc<File>) -> Result<Self, TarError> {
        Self::read_over(file, &[])
    }

    /// The same of what the file will be once these bytes are written over it, none of them behind its end.
    pub fn read_over(file: Arc<File>, writes: &[ByteWrite]) -> Result<Self, TarError> {
        let length = file.metadata()?.len();
        let mut tar = Self::bare(PatchedFile::new(file, writes), length);
        // All at once: a table that grows is copied, and takes the memory of two. What is not used is not touched.
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

    /// The file without its table.
    pub fn emptied(&self) -> Self {
        Self::bare(self.bytes.clone(), self.length)
    }

    /// From here on the file itself has what was to be written over it.
    pub fn set_written(&mut self) {
        self.bytes = PatchedFile::new(self.file().clone(), &[]);
    }

    pub fn file(&self) -> &Arc<File> {
        self.bytes.file()
    }

    pub fn members(&self) -> &[TarMember] {
        &self.members
    }

    pub fn members_end(&self) -> u64 {
        self.members_end
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// A member's name without `./` in front and `/` at the end.
    pub fn name(&self, member: &TarMember) -> &[u8] {
        &self.text[member.name.start as usize..member.name.end as usize]
    }

    /// Where a link points, as it is written.
    pub fn link(&self, member: &TarMember) -> &[u8] {
        &self.text[member.link.start as usize..member.link.end as usize]
    }

    /// The place in `members` of the member of this name, however the name is spelled: `./a//b` is `a/b`.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.find_plain(&plain_name(name).ok()?)
    }

    fn find_plain(&self, name: &[u8]) -> Option<usize> {
        let at = self.order.binary_search_by(|i| by_path(self.name(&self.members[*i as usize]), name));
        at.ok().map(|at| self.order[at] as usize)
    }

    /// The header of this member for content of `size` bytes under `name`. A name that differs only in its spelling
    /// is left as the archive spells it. `None` if the member is a link, or has or needs more than one header.
    pub fn header_for(&self, member: &TarMember, name: &str, size: u64) -> Result<Option<Vec<u8>>, TarError> {
        if member.start != member.header_at || member.kind != MemberKind::File {
            return Ok(None);
        }
        let old = self.block(member.header_at)?;
        let is_same = plain_name(name.as_bytes()).is_ok_and(|plain| plain == self.name(member));
        Ok(if is_same { write::header_resized(&old, size) } else { write::header_like(&old, name, size) })
    }

    /// Follows links from the member that this path names to a file, all within the archive. The last one in the list is
    /// the file, those before it are the links on the way.
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
                MemberKind::Directory | MemberKind::Global => return refuse("is a folder, not a file"),
                MemberKind::HardLink => plain_name(self.link(member)),
                MemberKind::Symlink => link_target(self.name(member), self.link(member)),
            };
            if members.len() > LINKS_MAX {
                return refuse("is a link that leads in a circle");
            }
            let Ok(target) = target else { return refuse("is a link that leaves the archive") };
            match self.find_plain(&target) {
                Some(next) => index = next,
                None => return refuse("is a link to something that is not in the archive"),
            }
        }
    }

    /// A file's content. `at` positions are read: many readers at once do not disturb each other.
    pub fn content(&self, member: &TarMember) -> FileSlice {
        FileSlice { bytes: self.bytes.clone(), at: member.data_at, end: member.data_at + member.size }
    }

    /// The bytes of a file that is small by nature.
    pub fn read_small(&self, member: &TarMember, limit: u64) -> Result<Vec<u8>, TarError> {
        if member.size > limit {
            let name = show(self.name(member));
            let why = format!("\"{name}\" has {} bytes; at most {limit} are read here", member.size);
            return Err(TarError::Refused { at: member.header_at, why });
        }
        let mut bytes = vec![0; member.size as usize];
        self.bytes.read_exact_at(&mut bytes, member.data_at)?;
        Ok(bytes)
    }

    pub fn block(&self, at: u64) -> Result<[u8; 512], TarError> {
        let mut block = [0; 512];
        if self.length - at < BLOCK {
            return Err(refused(at, "the archive is cut off within a block"));
        }
        self.bytes.read_exact_at(&mut block, at)?;
        Ok(block)
    }

    /// Reads the member whose first header stands at `start`; gives the place behind it.
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
                return Err(refused(at, "the archive ends behind an extension header"));
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
                    return Err(refused(at, "a global header stands between a member and its own headers"));
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
        let ends_as_folder = raw_name.ends_with(b"/") || raw_name.ends_with(b"/.");
        let kind = match header.kind {
            EntryKind::File => MemberKind::File,
            EntryKind::HardLink => MemberKind::HardLink,
            EntryKind::Symlink => MemberKind::Symlink,
            EntryKind::Directory => MemberKind::Directory,
            EntryKind::Extension(_) => return Err(refused(at, "an extension header in a member's place")),
        };
        // Old tars mark a folder by the slash alone; readers do not agree on when that counts.
        if kind != MemberKind::Directory && (ends_as_folder || name.is_empty()) {
            return Err(refused(at, format!("\"{}\" is named like a folder and is none", show(&raw_name))));
        }
        if kind != MemberKind::File && size != 0 {
            let why = format!("\"{}\" is no file and has {size} bytes of content", show(&name));
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

    /// Where a member ends whose header stands at `at`, padding included.
    fn padded_end(&self, at: u64, size: u64) -> Result<u64, TarError> {
        let end = padded(size).and_then(|size| at.checked_add(BLOCK)?.checked_add(size));
        match end {
            Some(end) if end <= self.length => Ok(end),
            _ => {
                let there = self.length - at - BLOCK;
                let why = format!("a member of {size} bytes is cut off: {there} bytes are there");
                Err(refused(at, why))
            }
        }
    }

    /// Two blocks of zeros end a tar. What stands behind them is seen by some readers and not by others.
    fn check_trailer(&self, at: u64) -> Result<(), TarError> {
        if self.length - at > TRAILER_MAX {
            let why = format!("{} bytes stand behind the end marker", self.length - at);
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
                return Err(refused(seen + i as u64, "data stands behind the end marker"));
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
            let both_folders = first.kind == MemberKind::Directory && second.kind == MemberKind::Directory;
            let (upper, lower) = (name(pair[0]), name(pair[1]));
            if upper == lower && !both_folders {
                let why =
                    format!("\"{}\" is there twice; readers do not agree which one counts", show(upper));
                return Err(refused(first.header_at.max(second.header_at), why));
            }
            let is_under = lower.strip_prefix(upper).is_some_and(|rest| rest.first() == Some(&b'/'));
            if is_under && first.kind != MemberKind::Directory {
                let why = format!("\"{}\" lies under \"{}\", which is no folder", show(lower), show(upper));
                return Err(refused(second.header_at, why));
            }
        }
        self.order = order;
        Ok(())
    }
}

/// Part of a file, read by position.
#[derive(Clone)]
pub struct FileSlice {
    bytes: PatchedFile,
    at: u64,
    end: u64,
}

impl FileSlice {
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
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut while it was read"));
        }
        self.at += count as u64;
        Ok(count)
    }
}

fn refused(at: u64, why: impl Into<String>) -> TarError {
    TarError::Refused { at, why: why.into() }
}

/// A size in whole blocks.
pub fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK)
}

/// Bytes of a name for a message; the message is escaped where it is shown.
pub fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned()
}

/// Orders names so that what lies under a folder follows it at once: `/` comes before every other byte.
fn by_path(a: &[u8], b: &[u8]) -> Ordering {
    let key = |b: &u8| if *b == b'/' { 0 } else { *b };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// A name as it is compared: no `.` parts, no doubled or trailing slash. The archive's own root is empty.
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

/// The name a symbolic link points to from where it lies.
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
pub mod sample;
#[cfg(test)]
mod tests;
