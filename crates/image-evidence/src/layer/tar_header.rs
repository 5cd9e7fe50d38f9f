//! Tar headers and PAX records as Go's archive/tar reads them, which all container engines use.
//!
//! Engines unpack what Go reads, so Go decides where readers of tar differ: which of two names counts, how a number may be
//! written, where the archive ends.

use super::sparse::{SparseRecords, decimal};
use image_store::archive::tar::extension::until_nul;
use std::ops::Range;

// Offsets and lengths: archive/tar/format.go.
const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const VERSION: Range<usize> = 263..265;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
/// Owner, group and modification time.
const NUMBERS: [Range<usize>; 3] = [108..116, 116..124, 136..148];
/// The device numbers, which only formats with a magic have.
const DEVICE: [Range<usize>; 2] = [329..337, 337..345];
/// Access and change time.
const STAR_TIMES: [Range<usize>; 2] = [476..488, 488..500];
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];

/// The fields of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoHeader {
    pub type_flag: u8,
    /// The name, with its prefix.
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    /// The size as written, which may be negative where there is no content.
    pub size: i64,
    /// Whether any execute bit is set.
    pub executable: bool,
    /// Whether Go prefixes the name of a GNU header, where it finds no times. Other readers do not.
    pub is_half_gnu: bool,
}

impl GoHeader {
    /// Parses a header.
    ///
    /// # Errors
    /// The reason why Go refuses it.
    pub fn parse(block: &[u8; 512]) -> Result<Self, String> {
        check_sum(block)?;
        for field in NUMBERS {
            numeric(&block[field])?;
        }
        let mut name = until_nul(&block[NAME]).to_vec();
        let (prefix, is_gnu) = prefix(block)?;
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self {
            type_flag: block[TYPE],
            name,
            link: until_nul(&block[LINK]).to_vec(),
            size: numeric(&block[SIZE])?,
            executable: numeric(&block[MODE])? & 0o111 != 0,
            is_half_gnu: is_gnu && !prefix.is_empty(),
        })
    }

    /// Returns whether an entry of this type has no content, whatever its size field says.
    pub fn is_header_only(&self) -> bool {
        matches!(self.type_flag, b'1'..=b'6')
    }
}

/// The prefix of the name, and whether the header is GNU's. A header without a known magic is of the old format, which has
/// no prefix.
fn prefix(block: &[u8; 512]) -> Result<(&[u8], bool), String> {
    let is_gnu = &block[MAGIC] == b"ustar " && &block[VERSION] == b" \0";
    if !is_gnu && &block[MAGIC] != b"ustar\0" {
        return Ok((&[], false));
    }
    for field in DEVICE {
        numeric(&block[field])?;
    }
    let prefix = until_nul(&block[PREFIX]);
    if is_gnu {
        // Go before 1.8 wrote a prefix where GNU tar has the times.
        let is_time = |field: Range<usize>| block[field.start] == 0 || numeric(&block[field]).is_ok();
        let has_prefix = prefix.is_ascii() && !GNU_TIMES.into_iter().all(is_time);
        return Ok((if has_prefix { prefix } else { &[] }, true));
    }
    if &block[STAR_TRAILER] == b"tar\0" {
        for field in STAR_TIMES {
            numeric(&block[field])?;
        }
        return Ok((until_nul(&block[STAR_PREFIX]), false));
    }
    Ok((prefix, false))
}

/// Checks the sum of all bytes, with the checksum's own bytes as blanks. Historic tars add signed bytes.
fn check_sum(block: &[u8; 512]) -> Result<(), String> {
    let declared = octal(&block[CHECKSUM])?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (i, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&i) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    match declared == unsigned || declared == signed {
        true => Ok(()),
        false => Err(format!("the header's checksum is {declared}; the sum of its bytes is {unsigned}")),
    }
}

/// Parses octal digits with blanks and NULs around them, or GNU's base-256 form, which may be negative.
fn numeric(field: &[u8]) -> Result<i64, String> {
    let first = field[0];
    if first & 0x80 == 0 {
        return octal(field);
    }
    let inverted = if first & 0x40 != 0 { 0xff } else { 0 };
    let bytes = std::iter::once((first ^ inverted) & 0x7f).chain(field[1..].iter().map(|b| b ^ inverted));
    let value = bytes
        .into_iter()
        .try_fold(0_u64, |value, byte| (value >> 56 == 0).then_some(value << 8 | u64::from(byte)))
        .and_then(|value| i64::try_from(value).ok())
        .ok_or("a number of more than 63 bits")?;
    Ok(if inverted == 0 { value } else { !value })
}

/// Parses octal digits with blanks and NULs around them; nothing is 0.
fn octal(field: &[u8]) -> Result<i64, String> {
    let is_blank = |b: &u8| matches!(b, b' ' | 0);
    let Some(start) = field.iter().position(|b| !is_blank(b)) else { return Ok(0) };
    let end = field.iter().rposition(|b| !is_blank(b)).map_or(start, |last| last + 1);
    let digits = until_nul(&field[start..end]);
    if !digits.iter().all(|b| matches!(b, b'0'..=b'7')) {
        return Err(format!("\"{}\" is not a number", String::from_utf8_lossy(field).escape_debug()));
    }
    // At most twelve octal digits: 36 bits.
    Ok(digits.iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0')))
}

/// What the PAX records before a member set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PaxRecords {
    pub name: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<i64>,
    pub sparse: SparseRecords,
}

impl PaxRecords {
    /// Parses the content of a PAX header. Of a key that occurs twice, the last value counts; an empty value sets nothing.
    ///
    /// # Errors
    /// The reason why Go refuses it.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut rest = content;
        while !rest.is_empty() {
            let (key, value, behind) = record(rest).ok_or("a malformed PAX header")?;
            rest = behind;
            let set = || (!value.is_empty()).then(|| value.to_vec());
            match key {
                b"path" => found.name = set(),
                b"linkpath" => found.link = set(),
                b"size" => found.size = number_record(value)?,
                b"uid" | b"gid" => drop(number_record(value)?),
                _ => found.sparse.add(key, value)?,
            }
        }
        Ok(found)
    }
}

fn number_record(value: &[u8]) -> Result<Option<i64>, String> {
    let wrong = || format!("\"{}\" is not a number", String::from_utf8_lossy(value).escape_debug());
    if value.is_empty() { Ok(None) } else { decimal(value).map(Some).ok_or_else(wrong) }
}

/// The key, the value and what follows of `LENGTH KEY=VALUE\n`.
fn record(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = content.iter().take(21).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&content[..blank])?).ok()?;
    let (whole, behind) = content.split_at_checked(length)?;
    let text = whole.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    let (key, value) = (&text[..equals], &text[equals + 1..]);
    let checked = if matches!(key, b"path" | b"linkpath" | b"uname" | b"gname") { value } else { key };
    (!checked.contains(&0)).then_some((key, value, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_sum(edit: impl Fn(&mut [u8; 512])) -> [u8; 512] {
        let mut header = tar::Header::new_ustar();
        header.set_path("app").unwrap();
        header.set_size(0);
        let mut block = *header.as_bytes();
        edit(&mut block);
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn numbers_are_read_as_in_go() {
        let check = |field: &[u8], value: Option<i64>| assert_eq!(numeric(field).ok(), value, "{field:?}");
        check(b"00000001750\0", Some(1000));
        check(b"     1750 \0\0", Some(1000));
        check(b"\0\0\0\0\0\0\0\x001750", Some(1000));
        check(b"1750\0garbage", Some(1000));
        check(b"777777777777", Some((1 << 36) - 1));
        check(b"            ", Some(0));
        check(b"\0\0\0\0\0\0\0\0\0\0\0\0", Some(0));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1));
        check(b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None);
        check(b"0000000175x\0", None);
        check(b"-0000001750\0", None);
        check(b"00000018\0\0\0\0", None);
    }

    #[test]
    fn execute_bits_are_read_from_octal_and_binary_modes() {
        let check = |mode: &[u8; 8], may_run: bool| {
            let block = with_sum(|block| block[MODE].copy_from_slice(mode));
            assert_eq!(GoHeader::parse(&block).unwrap().executable, may_run, "{mode:?}");
        };
        check(b"0000755\0", true);
        check(b"0000644\0", false);
        check(&[0x80, 0, 0, 0, 0, 0, 0x01, 0xed], true);
        check(&[0x80, 0, 0, 0, 0, 0, 0x01, 0xa4], false);
    }

    #[test]
    fn names_have_the_prefix_of_their_format() {
        let check = |edit: fn(&mut [u8; 512]), name: Option<&str>| {
            let found =
                GoHeader::parse(&with_sum(edit)).ok().map(|header| String::from_utf8(header.name).unwrap());
            assert_eq!(found.as_deref(), name);
        };
        let usr = |block: &mut [u8; 512]| block[345..348].copy_from_slice(b"usr");
        check(usr, Some("usr/app"));
        check(|block| block[345..500].fill(b'p'), Some(&format!("{}/app", "p".repeat(155))));
        let star = |block: &mut [u8; 512]| {
            block[345..500].fill(b'p');
            block[476..500].fill(b'0');
            block[508..512].copy_from_slice(b"tar\0");
        };
        check(star, Some(&format!("{}/app", "p".repeat(131))));
        check(
            |block| {
                block[345..500].fill(b'p');
                block[508..512].copy_from_slice(b"tar\0");
            },
            None,
        );
        check(
            |block| {
                block[257..265].copy_from_slice(b"ustar  \0");
                block[345..369].copy_from_slice(b"15301147026\x0015301147026\0");
            },
            Some("app"),
        );
        check(
            |block| {
                block[257..265].copy_from_slice(b"ustar  \0");
                block[345..348].copy_from_slice(b"usr");
            },
            Some("usr/app"),
        );
        check(|block| block[263..265].copy_from_slice(b"99"), Some("app"));
        check(|block| block[257..260].copy_from_slice(b"UST"), Some("app"));
        check(|block| block[329] = b'x', None);
    }

    #[test]
    fn records_are_read_as_in_go() {
        let check = |content: &[u8], name: Option<&str>| {
            let found = PaxRecords::parse(content).map(|records| records.name);
            assert_eq!(
                found.as_ref().ok().and_then(Option::as_deref),
                name.map(str::as_bytes),
                "{content:?}"
            );
        };
        check(b"10 path=a\n", Some("a"));
        check(b"9 path=a\n", Some("a"));
        check(b"+11 path=a\n", Some("a"));
        check(b"8 path=a\n", None);
        check(b"11 path=a\n9 path=b\n", None);
        check(b"9 path=a\n9 path=b\n", Some("b"));
        check(b"9 path=a\n8 path=\n", None);
        check(b"9 path=\0\n", None);
        check(b"9 path=a\n7 x=\0y\n", Some("a"));
        check(b"9 path=a\n9 size=x\n", None);
        check(b"9 path=a\n5 =\n", None);
        check(b"99999999999999999999 path=a\n", None);
        check(b"-9 path=a\n", None);
        assert_eq!(PaxRecords::parse(b"12 size=-22\n").unwrap().size, Some(-22));
    }
}
