//! One 512-byte tar header: POSIX ustar, GNU, and the old form without magic.

use super::extension::{self, until_nul};

/// Type, name, link and size of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarHeader {
    /// The type of the entry.
    pub kind: EntryKind,
    /// The name, with a ustar prefix.
    pub name: Vec<u8>,
    /// The link target.
    pub link: Vec<u8>,
    /// Bytes of content.
    pub size: u64,
}

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A hard link.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A header that extends the next one.
    Extension(extension::ExtensionKind),
}

// Offsets and lengths: pax(1), "ustar Interchange Format"; tar.h of GNU tar for its own.
const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;
/// GNU tar keeps access and change time where ustar has the prefix.
const GNU_TIMES: std::ops::Range<usize> = 345..369;
/// star, which has a shorter prefix, says so in the last four bytes.
const STAR_TRAILER: std::ops::Range<usize> = 508..512;

impl TarHeader {
    /// Parses the header of a member that an image archive may have.
    ///
    /// # Errors
    /// The reason why it is refused.
    pub fn parse(block: &[u8; 512]) -> Result<Self, String> {
        let HeaderFields { type_flag, name, link, size } = HeaderFields::parse(block)?;
        let kind = match type_flag {
            b'0' | b'7' | 0 => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'5' => EntryKind::Directory,
            b'x' => EntryKind::Extension(extension::ExtensionKind::Pax),
            b'g' => EntryKind::Extension(extension::ExtensionKind::Global),
            b'L' => EntryKind::Extension(extension::ExtensionKind::LongName),
            b'K' => EntryKind::Extension(extension::ExtensionKind::LongLink),
            b'S' => return Err("a sparse member; its holes are read differently by different tools".into()),
            b'3' | b'4' | b'6' => return Err("a device or pipe".into()),
            other => return Err(format!("a member of the unknown type 0x{other:02x}")),
        };
        Ok(Self { kind, name, link, size })
    }
}

/// Fields of a header of any type: layers have devices, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFields {
    /// The type flag.
    pub type_flag: u8,
    /// The name, with a ustar prefix.
    pub name: Vec<u8>,
    /// The link target.
    pub link: Vec<u8>,
    /// Bytes of content.
    pub size: u64,
}

impl HeaderFields {
    /// Parses and verifies a header.
    ///
    /// # Errors
    /// The reason why it is no valid header.
    pub fn parse(block: &[u8; 512]) -> Result<Self, String> {
        check_sum(block)?;
        let mut name = until_nul(&block[NAME]).to_vec();
        match &block[MAGIC] {
            b"ustar\x0000" => {
                if &block[STAR_TRAILER] == b"tar\0" {
                    return Err("a header in star's own format".into());
                }
                let prefix = until_nul(&block[PREFIX]);
                if !prefix.is_empty() {
                    name = [prefix, b"/", &name].concat();
                }
            }
            b"ustar  \0" => {
                let is_time = |b: &u8| matches!(b, 0 | b' ' | b'0'..=b'7') || *b >= 0x80;
                let binary = block[GNU_TIMES.start] >= 0x80;
                // Old Go versions wrote a ustar prefix under GNU's magic.
                if !binary && !block[GNU_TIMES].iter().all(is_time) {
                    return Err("a header that is half GNU, half ustar".into());
                }
            }
            [0, 0, 0, 0, 0, 0, 0, 0] => {}
            other => return Err(format!("the unknown format \"{}\"", super::show(other))),
        }
        let size = number(&block[SIZE])?;
        Ok(Self { type_flag: block[TYPE], name, link: until_nul(&block[LINK]).to_vec(), size })
    }
}

/// Returns the reason why a header is refused. A first block without the magic of tar is no tar at all.
pub fn or_no_tar(at: u64, block: &[u8; 512], why: String) -> String {
    let is_tar = at != 0 || block[MAGIC].starts_with(b"ustar") || check_sum(block).is_ok();
    if is_tar { why } else { "it is not a tar archive".into() }
}

/// Checks the sum of all bytes, with the checksum's own bytes as blanks. Historic tars add signed bytes.
fn check_sum(block: &[u8; 512]) -> Result<(), String> {
    let declared = number(&block[CHECKSUM])?;
    let (mut unsigned, mut signed) = (0_u64, 0_i64);
    for (i, byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&i) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    match declared == unsigned || i64::try_from(declared) == Ok(signed) {
        true => Ok(()),
        false => Err(format!("the header's checksum is {declared}; the sum of its bytes is {unsigned}")),
    }
}

/// Parses an octal number with blanks before it and a blank or NUL after it, or GNU's base-256 form.
fn number(field: &[u8]) -> Result<u64, String> {
    let wrong = || format!("\"{}\" is not a number", super::show(field));
    if field[0] & 0x80 != 0 {
        // 0xff begins a negative number; 0x80 is followed by big-endian bytes.
        if field[0] != 0x80 {
            return Err("a negative or huge number".into());
        }
        // The field of a checksum or an owner is shorter than eight bytes and one, that of a size longer.
        let mut value = 0_u64;
        for byte in &field[1..] {
            if value > i64::MAX as u64 >> 8 {
                return Err("a negative or huge number".into());
            }
            value = value << 8 | u64::from(*byte);
        }
        return Ok(value);
    }
    let start = field.iter().position(|b| *b != b' ').ok_or_else(wrong)?;
    let digits = field[start..].iter().take_while(|b| matches!(b, b'0'..=b'7')).count();
    let (digits, rest) = field[start..].split_at(digits);
    if digits.is_empty() || !rest.iter().all(|b| matches!(b, 0 | b' ')) {
        return Err(wrong());
    }
    // At most twelve octal digits: 36 bits.
    Ok(digits.iter().fold(0, |value, digit| value << 3 | u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_fields_may_be_binary() {
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Ok(258));
        assert_eq!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff"), Ok((1 << 56) - 1));
        assert!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn numbers_are_octal_or_binary_and_never_negative() {
        let check = |field: &[u8; 12], value: Option<u64>| assert_eq!(number(field).ok(), value, "{field:?}");
        check(b"00000001750\0", Some(1000));
        check(b"     1750 \0\0", Some(1000));
        check(b"777777777777", Some((1 << 36) - 1));
        check(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX as u64));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None);
        check(b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(1 << 33));
        check(b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None);
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None);
        check(b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None);
        check(b"0000000175x\0", None);
        check(b"00000\x001750\0\0", None);
        check(b"-0000001750\0", None);
        check(b"            ", None);
        check(b"\0\0\0\0\0\0\0\0\0\0\0\0", None);
    }
}
