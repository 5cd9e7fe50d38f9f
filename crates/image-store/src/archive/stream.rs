//! Filter that relabels a `docker save` stream in a pipe, in one pass and without storing layers.
//!
//! Whether the platform is wrong is known only when all configs and lists were read, and output cannot be revoked. So
//! everything is copied except the lists (`index.json`, `manifest.json`), which are held back until the stream ends,
//! together with the small members after them. Then new configs and manifests are written before the lists, which refer to
//! them. The old ones remain as members that are not listed. Programs that write such streams put the lists last, so a
//! stream without changes is copied byte for byte.
//!
//! An outline of the archive, with headers, small members, and holes for layers, is kept in an unnamed file. Before the end
//! of the output is written, the strict reader of archives reads this outline, and an outline of the output too. The
//! output lags behind by half a block: wherever it is cut off, by an error or by SIGKILL, it ends within a member, and no
//! reader accepts it as a complete archive.

use super::DockerArchive;
use super::expected::ExpectedNames;
use super::format::names::Naming;
use super::format::{INDEX_JSON, LIST_MAX, MANIFEST_JSON, layer_media_type};
use super::relabel::{Relabel, RelabeledFiles};
use super::snapshot::{LayerDigests, Snapshot};
use super::tar::stream::{StreamItem, StreamMember, TarStream};
use super::tar::{MemberKind, TarError, write};
use crate::tree::{TreeNode, read_tree};
use error::Error;
use error::Exit;
use image_model::digest::Hasher;
use image_model::manifest::{DOCUMENT_MAX, media_type};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Largest member after a list that is held back with it.
const HELD_MEMBER_MAX: u64 = 1 << 20;
/// Largest total of members that are held back; further ones are written before the lists.
const HELD_MAX: usize = 12 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// Bytes by which the output lags behind: half a block, so that it never ends where a member ends.
const LAG: usize = 256;

/// Decides what becomes of the image in the stream. `None` means that it stays as it is.
pub type RelabelStream<'a> = &'a mut dyn FnMut(&TreeNode) -> Result<Option<Relabel>, Error>;

/// Result of [`filter`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FilterSummary {
    /// `manifest.json` and `index.json` were moved to the end of the archive, behind a large member.
    pub lists_moved: bool,
}

/// Sets a pipe's buffer to the largest size without privileges (pipe-max-size in proc(5)), for fewer switches between the
/// programs at its ends. Does nothing for other files.
pub fn widen_pipe(end: impl AsFd) {
    let _ = nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
}

const DOING: &str = "filter the stream";

/// Copies the stream from `input` to `output`, with the image relabeled as `relabel` decides. After an error the output ends
/// where no archive can end.
///
/// # Errors
/// `BadInput` if it is no `docker save` stream of one image, or if the result would not be valid.
pub fn filter(
    input: impl Read,
    output: impl Write,
    relabel: RelabelStream<'_>,
) -> Result<FilterSummary, Error> {
    let outline = || {
        tempfile::tempfile()
            .map_err(|e| Error::from_io("create a file for the small parts of the stream", e))
            .map_err(|e| e.hint("set TMPDIR to a writable directory"))
    };
    let mut passing = StreamFilter {
        input: TarStream::new(input),
        output: DelayedOutput::new(output),
        outline: outline()?,
        layer_digests: LayerDigests::new(),
        result: outline()?,
        result_layer_digests: LayerDigests::new(),
        passes_at: None,
        held: Vec::new(),
        held_bytes: 0,
        passed: FilterSummary::default(),
    };
    let trailer = loop {
        let next = passing.input.next_member();
        match next.map_err(|e| compressed(passing.input.first_block()).unwrap_or_else(|| e.at(DOING)))? {
            StreamItem::Member(member) => passing.member(member)?,
            StreamItem::End(length) => break length,
        }
    };
    passing.finish(trailer, relabel)
}

/// A member that waits for the end of the stream.
struct HeldMember {
    coming: StreamMember,
    content: Vec<u8>,
}

struct StreamFilter<R, W> {
    input: TarStream<R>,
    output: DelayedOutput<W>,
    outline: File,
    layer_digests: LayerDigests,
    /// The outline of the output.
    result: File,
    result_layer_digests: LayerDigests,
    /// Offsets of the current member in input and output.
    passes_at: Option<(u64, u64)>,
    held: Vec<HeldMember>,
    held_bytes: usize,
    passed: FilterSummary,
}

impl<R: Read, W: Write> StreamFilter<R, W> {
    fn member(&mut self, coming: StreamMember) -> Result<(), Error> {
        self.passes_at = None;
        let is_held = self.is_held(&coming);
        if !is_held {
            self.passes_at = Some((coming.start, self.output.position()));
        }
        self.keep(&coming.headers, coming.start)?;
        if is_held {
            return self.hold(coming);
        }
        self.passed.lists_moved |= !self.held.is_empty();
        self.output.push(&coming.headers).map_err(failed)?;
        self.content(&coming)
    }

    fn is_held(&self, coming: &StreamMember) -> bool {
        let is_list = coming.kind == MemberKind::File
            && [INDEX_JSON, MANIFEST_JSON].iter().any(|list| coming.name == list.as_bytes());
        let limit = match (is_list, self.held.is_empty()) {
            (true, _) => LIST_MAX,
            (false, false) => HELD_MEMBER_MAX,
            (false, true) => return false,
        };
        coming.size <= limit && self.held_bytes + coming.headers.len() + coming.padded() as usize <= HELD_MAX
    }

    fn hold(&mut self, coming: StreamMember) -> Result<(), Error> {
        let content = self.whole(&coming)?;
        self.held_bytes += coming.headers.len() + content.len();
        self.held.push(HeldMember { coming, content });
        Ok(())
    }

    /// Returns the content of a small member with its padding, and adds it to the outline.
    fn whole(&mut self, coming: &StreamMember) -> Result<Vec<u8>, Error> {
        let mut content = vec![0; coming.padded() as usize];
        self.input.read_exact(&mut content).map_err(|e| e.at(DOING))?;
        self.keep(&content, coming.data_at)?;
        Ok(content)
    }

    /// Copies content. Documents and configs are added to the outline; of other content, only the first bytes.
    fn content(&mut self, coming: &StreamMember) -> Result<(), Error> {
        let mut left = coming.padded();
        let mut keeps = false;
        let mut hasher = None;
        while left > 0 {
            let at = self.input.position();
            // The first bytes are needed together, however slow the pipe is.
            let least = if at == coming.data_at { 512 } else { 1 };
            let count = self.output.fill(&mut self.input, least, left).map_err(|e| e.at(DOING))?;
            let fresh = self.output.last(count);
            if at == coming.data_at {
                let is_json = matches!(fresh.first(), Some(b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n'));
                keeps = is_json && coming.size <= DOCUMENT_MAX;
                if layer_media_type(fresh) != Ok(media_type::DOCKER_LAYER) && !is_blob(&coming.name) {
                    hasher = Some(Hasher::sha256());
                }
                if !keeps {
                    self.keep(&fresh[..fresh.len().min(512)], at)?;
                }
            }
            if keeps {
                self.keep(fresh, at)?;
            }
            if let Some(hasher) = &mut hasher {
                let content = (coming.data_at + coming.size).saturating_sub(at);
                hasher.update(&fresh[..fresh.len().min(content as usize)]);
            }
            left -= fresh.len() as u64;
            self.output.drain().map_err(failed)?;
        }
        if let Some(hasher) = hasher {
            let digest = hasher.finish();
            if let Some((from, to)) = self.passes_at {
                self.result_layer_digests.insert(coming.data_at - from + to, digest.clone());
            }
            self.layer_digests.insert(coming.data_at, digest);
        }
        Ok(())
    }

    /// Adds a part of the input to its outline, and to that of the output if it is copied.
    fn keep(&self, bytes: &[u8], at: u64) -> Result<(), Error> {
        keep(&self.outline, bytes, at)?;
        match self.passes_at {
            Some((from, to)) => keep(&self.result, bytes, at - from + to),
            None => Ok(()),
        }
    }

    /// Writes bytes that are not copied from the input.
    fn emit(&mut self, bytes: &[u8]) -> Result<(), Error> {
        keep(&self.result, bytes, self.output.position())?;
        self.output.push(bytes).map_err(failed)
    }

    /// Writes a member with other content.
    fn emit_member(&mut self, coming: &StreamMember, content: &[u8]) -> Result<(), Error> {
        let size = content.len() as u64;
        let name = String::from_utf8_lossy(&coming.name);
        let plain: Option<&[u8; 512]> = coming.headers.as_slice().try_into().ok();
        let headers = plain.and_then(|old| write::header_resized(old, size));
        self.emit(&headers.unwrap_or_else(|| write::file_headers(&name, size)))?;
        self.emit(content)?;
        self.emit(write::padding(size))
    }

    fn finish(mut self, trailer: u64, relabel: RelabelStream<'_>) -> Result<FilterSummary, Error> {
        let outline_doing = "read the small parts of the stream";
        self.outline.set_len(self.input.position()).map_err(|e| Error::from_io(outline_doing, e))?;
        let outline = self.outline.try_clone().map_err(|e| Error::from_io(outline_doing, e))?;
        let snapshot = Snapshot::read_known(outline, "-", Naming::Docker, &self.layer_digests)?;
        let archive = DockerArchive::new(Path::new("-"), "-".into(), snapshot, None);
        let only = archive.only_image().map_err(|error| match error.kind {
            // `-` cannot be followed by a name.
            Exit::BadInput => {
                error.hint("save one of them, or save all to a file and use docker-archive:FILE:NAME")
            }
            _ => error,
        })?;
        let image = read_tree(&archive, &only)?;
        let was = image.digest().clone();
        let mut root = was.clone();
        let changed = match relabel(&image)? {
            Some(rewrite) => {
                root = rewrite.wanted.root.digest().clone();
                RelabeledFiles::new(&archive.archive(), image.digest(), &rewrite)?
            }
            None => RelabeledFiles::default(),
        };
        let expected = ExpectedNames::after_relabel(&archive.archive(), &root);
        // Two tables of a large archive take too much memory.
        drop((archive, image));
        for (name, content) in &changed.added {
            self.emit(&write::file_headers(name, content.len() as u64))?;
            self.emit(content)?;
            self.emit(write::padding(content.len() as u64))?;
        }
        for HeldMember { coming, content } in std::mem::take(&mut self.held) {
            let list = match coming.name.as_slice() {
                name if name == INDEX_JSON.as_bytes() => &changed.index,
                name if name == MANIFEST_JSON.as_bytes() => &changed.list,
                _ => &None,
            };
            match list {
                Some(list) => self.emit_member(&coming, list)?,
                None => self.emit(&coming.headers).and_then(|()| self.emit(&content))?,
            }
        }
        let is_as_it_came = root == was && !self.passed.lists_moved;
        if !is_as_it_came {
            self.check(trailer, &expected)?;
        }
        self.output.finish(trailer).map_err(failed)?;
        Ok(self.passed)
    }

    /// Reads the outline of the output as any reader will. The end of the output is not written yet.
    fn check(&self, trailer: u64, expected: &ExpectedNames) -> Result<(), Error> {
        let failed = |e| Error::from_io("read the small parts of the stream", e);
        self.result.set_len(self.output.position() + trailer).map_err(failed)?;
        let result = self.result.try_clone().map_err(failed)?;
        let refuse = |why: &str| {
            Error::bad_input(DOING, format!("the result failed its check: {why}"))
                .hint("save to a file and use docker-archive:FILE")
        };
        let result = Snapshot::read_known(result, "-", Naming::Docker, &self.result_layer_digests)
            .map_err(|error| refuse(&error.reason))?;
        expected.check(&result).map_err(|why| refuse(&why))
    }
}

/// Returns the error for a compressed stream, since `docker save | gzip` is common, instead of "bad checksum".
fn compressed(first: &[u8; 512]) -> Option<Error> {
    match layer_media_type(first) {
        Ok(media_type::DOCKER_LAYER) => None,
        _ => Some(
            Error::bad_input(DOING, "the stream is compressed")
                .hint("decompress it first, for example with zcat"),
        ),
    }
}

fn keep(outline: &File, bytes: &[u8], at: u64) -> Result<(), Error> {
    outline.write_all_at(bytes, at).map_err(|e| Error::from_io("keep the small parts of the stream", e))
}

fn failed(error: std::io::Error) -> Error {
    Error::from_io("write the stream", error)
}

fn is_blob(name: &[u8]) -> bool {
    name.starts_with(b"blobs/")
}

/// Writer of a tar that never ends where a member ends until it is finished.
///
/// Each write ends in the middle of a block. A killed write to a pipe has written whole pages from its start, so it ends in
/// the middle of a block, too.
struct DelayedOutput<W> {
    out: W,
    buffer: Vec<u8>,
    filled: usize,
    written: u64,
}

impl<W: Write> DelayedOutput<W> {
    fn new(out: W) -> Self {
        Self { out, buffer: vec![0; LAG + 2 * CHUNK], filled: 0, written: 0 }
    }

    fn push(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.filled > LAG + CHUNK {
                self.drain()?;
            }
            let count = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Returns the bytes that were pushed, written or not.
    fn position(&self) -> u64 {
        self.written + self.filled as u64
    }

    /// Reads between `least` and `most` bytes from `input`, and returns the number.
    fn fill<R: Read>(
        &mut self,
        input: &mut TarStream<R>,
        least: usize,
        most: u64,
    ) -> Result<usize, TarError> {
        if self.filled > LAG + CHUNK {
            self.drain()?;
        }
        let room = (self.buffer.len() - self.filled).min(CHUNK);
        let room = usize::try_from(most).unwrap_or(room).min(room);
        let mut count = 0;
        while count < least {
            count += input.read_some(&mut self.buffer[self.filled + count..self.filled + room])?;
        }
        self.filled += count;
        Ok(count)
    }

    /// Returns the last `count` bytes.
    fn last(&self, count: usize) -> &[u8] {
        &self.buffer[self.filled - count..self.filled]
    }

    /// Writes up to the middle of the last block.
    fn drain(&mut self) -> std::io::Result<()> {
        let given = self.written + self.filled as u64;
        let until = (given / 512 * 512).saturating_sub(LAG as u64);
        if until <= self.written {
            return Ok(());
        }
        let count = (until - self.written) as usize;
        self.out.write_all(&self.buffer[..count])?;
        self.buffer.copy_within(count..self.filled, 0);
        self.filled -= count;
        self.written = until;
        Ok(())
    }

    /// Writes the end marker and the remaining bytes.
    fn finish(&mut self, trailer: u64) -> std::io::Result<()> {
        let zeros = [0; 512];
        for _ in 0..trailer / 512 {
            self.push(&zeros)?;
        }
        self.out.write_all(&self.buffer[..self.filled])?;
        self.filled = 0;
        self.out.flush()
    }
}
