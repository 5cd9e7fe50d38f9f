//! Zip archives inside a layer (jar, war, ear, wheel): the platforms of the native programs and libraries in them.
//!
//! A layer is a stream, so the local headers are read one after the other, not the central directory at the end.

use crate::elf::ElfKind;
use crate::elf::sampler::Sampler;
use crate::file::{self, FileFacts};
use flate2::bufread::DeflateDecoder;
use image_model::platform::Platform;
use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

/// Unpacked bytes of all archives of a layer, 4 GiB.
const BYTES_MAX: u64 = 4 << 30;
/// Members of all archives of a layer.
const MEMBERS_MAX: u64 = 1_000_000;
/// Different platforms of one archive. Netty and JNA have twenty.
const PLATFORMS_MAX: usize = 64;

// Source: PKWARE's APPNOTE.TXT, 4.3 and 4.5.3.
const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
/// What follows the last member: an archive's central directory, or its end if there is no member.
const AFTER_MEMBERS: [[u8; 4]; 4] = [*b"PK\x01\x02", *b"PK\x05\x06", *b"PK\x06\x06", *b"PK\x06\x08"];
const ENCRYPTED: u16 = 1;
const HAS_DESCRIPTOR: u16 = 8;
const ZIP64: u16 = 1;

/// Returns whether a file is an archive by its name.
pub fn is_archive(name: &[u8]) -> bool {
    let is_suffix =
        |suffix: &[u8; 4]| name.last_chunk::<4>().is_some_and(|end| end.eq_ignore_ascii_case(suffix));
    [b".jar", b".war", b".ear", b".whl"].into_iter().any(is_suffix)
}

/// Reads the archives of one layer, within its bounds.
pub struct ArchiveReader {
    sampler: Sampler,
    bytes_left: u64,
    members_left: u64,
}

impl Default for ArchiveReader {
    fn default() -> Self {
        Self { sampler: Sampler::default(), bytes_left: BYTES_MAX, members_left: MEMBERS_MAX }
    }
}

/// A local header.
struct Member {
    flags: u16,
    method: u16,
    packed: u64,
    name: Vec<u8>,
}

impl ArchiveReader {
    /// The platforms of the programs and libraries in an archive and in the archives in it, and whether all of it was read.
    pub fn read(&mut self, content: &mut dyn Read) -> (BTreeSet<Platform>, bool) {
        let mut found = BTreeSet::new();
        let is_whole = self.members(content, true, &mut found).unwrap_or(false);
        (found, is_whole)
    }

    /// Reads the members, and those of archives among them if `is_outer`. `false`: some of them cannot be read.
    fn members(
        &mut self,
        content: &mut dyn Read,
        is_outer: bool,
        found: &mut BTreeSet<Platform>,
    ) -> io::Result<bool> {
        let mut input = BufReader::with_capacity(16 << 10, content);
        let mut is_whole = true;
        loop {
            let signature: [u8; 4] = array(&mut input)?;
            if AFTER_MEMBERS.contains(&signature) {
                return Ok(is_whole);
            }
            self.members_left = self.members_left.saturating_sub(1);
            if signature != LOCAL_HEADER || self.members_left == 0 {
                return Ok(false);
            }
            let member = Member::read(&mut input)?;
            let is_readable = member.flags & ENCRYPTED == 0 && matches!(member.method, 0 | 8);
            let nested = is_outer && is_archive(&member.name);
            if member.flags & HAS_DESCRIPTOR == 0 {
                let mut packed = input.by_ref().take(member.packed);
                is_whole &= match member.method {
                    _ if !is_readable => false,
                    0 => self.content(&mut packed, nested, found)?,
                    _ => self.content(&mut DeflateDecoder::new(&mut packed), nested, found)?,
                };
                io::copy(&mut packed, &mut io::sink())?;
                if packed.limit() > 0 {
                    return Ok(false);
                }
                continue;
            }
            // The end of other methods is not known.
            if !is_readable || member.method != 8 {
                return Ok(false);
            }
            let mut inflated = DeflateDecoder::new(&mut input);
            is_whole &= self.content(&mut inflated, nested, found)?;
            self.drain(&mut inflated)?;
            let sizes = (inflated.total_in(), inflated.total_out());
            skip_descriptor(&mut input, sizes)?;
        }
    }

    /// Reads the content of a member as far as it is needed. `false`: it is an archive that cannot be read.
    fn content(
        &mut self,
        content: &mut dyn Read,
        nested: bool,
        found: &mut BTreeSet<Platform>,
    ) -> io::Result<bool> {
        if nested {
            let mut bounded = Bounded { content, left: self.bytes_left };
            let whole = self.members(&mut bounded, false, found);
            self.bytes_left = self.bytes_left.min(bounded.left);
            // A damaged archive in the archive does not stop the others.
            return if self.bytes_left == 0 { whole } else { Ok(whole.unwrap_or(false)) };
        }
        self.sampler.restart();
        let mut buffer = [0; 8 << 10];
        while self.sampler.wants_more() {
            let count = content.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            self.sampler.push(&buffer[..count]);
            self.spend(count)?;
        }
        let platform = match file::classify(&self.sampler.finish()) {
            Some(FileFacts::Elf(elf)) if elf.kind != ElfKind::Other => elf.platform,
            Some(FileFacts::Foreign(platform)) => platform,
            _ => return Ok(true),
        };
        if found.len() < PLATFORMS_MAX {
            found.insert(platform);
        }
        Ok(true)
    }

    fn drain(&mut self, content: &mut dyn Read) -> io::Result<()> {
        let mut buffer = [0; 8 << 10];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(()),
                count => self.spend(count)?,
            }
        }
    }

    fn spend(&mut self, count: usize) -> io::Result<()> {
        self.bytes_left = self.bytes_left.saturating_sub(count as u64);
        if self.bytes_left == 0 { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }
}

impl Member {
    fn read(input: &mut impl Read) -> io::Result<Self> {
        let header: [u8; 26] = array(input)?;
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let long =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut name = vec![0; usize::from(short(22))];
        input.read_exact(&mut name)?;
        let mut extra = vec![0; usize::from(short(24))];
        input.read_exact(&mut extra)?;
        let (packed, unpacked) = (long(14), long(18));
        let packed = match packed {
            u32::MAX => zip64_packed(&extra, unpacked == u32::MAX).unwrap_or(u64::from(packed)),
            packed => u64::from(packed),
        };
        Ok(Self { flags: short(2), method: short(4), packed, name })
    }
}

/// The packed size in the extra field of a large member, behind the unpacked one if that is there as well.
fn zip64_packed(extra: &[u8], has_unpacked: bool) -> Option<u64> {
    let mut rest = extra;
    while let Some((head, behind)) = rest.split_at_checked(4) {
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let (field, behind) = behind.split_at_checked(length)?;
        if u16::from_le_bytes([head[0], head[1]]) == ZIP64 {
            let at = if has_unpacked { 8 } else { 0 };
            return field.get(at..at + 8).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        }
        rest = behind;
    }
    None
}

/// Skips the data descriptor: an optional signature, CRC32, packed and unpacked size of four bytes or, as ZIP64, of eight.
fn skip_descriptor(input: &mut impl BufRead, (packed, unpacked): (u64, u64)) -> io::Result<()> {
    let first: [u8; 4] = array(input)?;
    if first == DESCRIPTOR {
        array::<4>(input)?;
    }
    let sizes: [u8; 8] = array(input)?;
    // ZIP64 writes the packed size in all eight bytes. Where both forms are possible, both sizes are 0 or the second is.
    let is_short = sizes == [(packed as u32).to_le_bytes(), (unpacked as u32).to_le_bytes()].concat()[..];
    if !is_short || (sizes == packed.to_le_bytes() && input.fill_buf()?.first() != Some(&b'P')) {
        array::<8>(input)?;
    }
    Ok(())
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A reader that ends with an error beyond its limit.
struct Bounded<'a> {
    content: &'a mut dyn Read,
    left: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tests::elf;
    use std::io::Write;

    /// How a member is written.
    #[derive(Clone, Copy)]
    struct Form {
        method: u16,
        descriptor: bool,
        signature: bool,
        zip64: bool,
    }

    const STORED: Form = Form { method: 0, descriptor: false, signature: false, zip64: false };
    const DEFLATED: Form = Form { method: 8, ..STORED };
    const STREAMED: Form = Form { descriptor: true, signature: true, ..DEFLATED };

    fn member(name: &str, content: &[u8], form: Form) -> Vec<u8> {
        let packed = match form.method {
            8 => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(content).unwrap();
                encoder.finish().unwrap()
            }
            _ => content.to_vec(),
        };
        let sizes = [packed.len() as u64, content.len() as u64];
        let short: Vec<u8> = sizes.iter().flat_map(|size| (*size as u32).to_le_bytes()).collect();
        let long: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let mut out = LOCAL_HEADER.to_vec();
        let flags = if form.descriptor { HAS_DESCRIPTOR } else { 0 };
        for number in [20, flags, form.method, 0, 0] {
            out.extend(number.to_le_bytes());
        }
        out.extend([0; 4]);
        let extra = match form.zip64 && !form.descriptor {
            true => {
                out.extend([0xff; 8]);
                [&[1, 0, 16, 0][..], &sizes[1].to_le_bytes(), &sizes[0].to_le_bytes()].concat()
            }
            false => {
                out.extend(if form.descriptor { vec![0; 8] } else { short.clone() });
                Vec::new()
            }
        };
        out.extend((name.len() as u16).to_le_bytes());
        out.extend((extra.len() as u16).to_le_bytes());
        out.extend([name.as_bytes(), &extra, &packed].concat());
        if form.descriptor {
            out.extend(if form.signature { &DESCRIPTOR[..] } else { &[] });
            out.extend([0; 4]);
            out.extend(if form.zip64 { long } else { short });
        }
        out
    }

    fn archive(members: &[(&str, Vec<u8>)], form: Form) -> Vec<u8> {
        let members: Vec<u8> =
            members.iter().flat_map(|(name, content)| member(name, content, form)).collect();
        [members, b"PK\x05\x06".to_vec(), vec![0; 18]].concat()
    }

    fn read(bytes: &[u8]) -> (Vec<String>, bool) {
        let (found, is_whole) = ArchiveReader::default().read(&mut &bytes[..]);
        (found.iter().map(ToString::to_string).collect(), is_whole)
    }

    fn natives() -> Vec<(&'static str, Vec<u8>)> {
        let class = b"\xca\xfe\xba\xbe\0\0\0\x34".repeat(5000);
        vec![
            ("META-INF/", Vec::new()),
            ("A.class", class.clone()),
            ("META-INF/native/libnetty.so", elf(62)),
            ("B.class", class),
            ("native/arm64.so", elf(183)),
        ]
    }

    #[test]
    fn natives_are_found_in_every_form_of_a_member() {
        let forms = [
            STORED,
            DEFLATED,
            STREAMED,
            Form { zip64: true, ..STORED },
            Form { zip64: true, ..DEFLATED },
            Form { zip64: true, ..STREAMED },
            Form { signature: false, ..STREAMED },
            Form { signature: false, zip64: true, ..STREAMED },
        ];
        for (number, form) in forms.into_iter().enumerate() {
            let found = read(&archive(&natives(), form));
            assert_eq!(found, (vec!["linux/amd64".to_string(), "linux/arm64".into()], true), "form {number}");
        }
        assert_eq!(read(&archive(&[], STORED)), (Vec::new(), true));
    }

    #[test]
    fn archives_in_an_archive_are_read_one_level_deep() {
        let inner = archive(&[("x.so", elf(62))], STREAMED);
        for form in [STORED, DEFLATED, STREAMED] {
            let outer = archive(&[("WEB-INF/lib/netty.jar", inner.clone()), ("y.so", elf(183))], form);
            assert_eq!(read(&outer).0, ["linux/amd64", "linux/arm64"]);
            let third = archive(&[("app.war", outer)], form);
            assert_eq!(read(&third).0, ["linux/arm64"]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_whole_and_keeps_what_was_found() {
        let whole = archive(&natives(), STREAMED);
        for cut in (0..whole.len()).step_by(whole.len() / 200 + 1) {
            assert!(cut > whole.len() - 22 || !read(&whole[..cut]).1, "{cut}");
        }
        let mut encrypted = archive(&[("x.so", elf(62))], STORED);
        encrypted[6] |= 1;
        assert_eq!(read(&encrypted), (Vec::new(), false));
        let stored = Form { descriptor: true, ..STORED };
        assert_eq!(read(&archive(&[("x.so", elf(62))], stored)), (Vec::new(), false));
        assert_eq!(read(b"#!/bin/sh\n"), (Vec::new(), false));
    }

    #[test]
    fn bytes_and_members_of_the_archives_of_a_layer_are_bounded() {
        let bytes = archive(&natives(), STREAMED);
        let mut reader = ArchiveReader { bytes_left: 50_000, ..ArchiveReader::default() };
        assert!(!reader.read(&mut &bytes[..]).1);
        let mut reader = ArchiveReader { members_left: 3, ..ArchiveReader::default() };
        let (found, is_whole) = reader.read(&mut &bytes[..]);
        assert_eq!((found.len(), is_whole), (0, false));
        assert_eq!((BYTES_MAX, MEMBERS_MAX), (4 << 30, 1_000_000));
    }

    #[test]
    fn archives_are_known_by_their_names() {
        for (name, expected) in [
            ("a.jar", true),
            ("A.WAR", true),
            ("x.whl", true),
            ("a.ear", true),
            ("a.zip", false),
            ("jar", false),
        ] {
            assert_eq!(is_archive(name.as_bytes()), expected, "{name}");
        }
    }
}
