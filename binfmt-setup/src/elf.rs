//! The fields of an ELF header that patterns and checks use.

/// Word size, `EI_CLASS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// 32-bit.
    Bits32 = 1,
    /// 64-bit.
    Bits64 = 2,
}

/// Byte order, `EI_DATA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Data {
    /// Little-endian.
    Little = 1,
    /// Big-endian.
    Big = 2,
}

impl Data {
    /// The bytes of a 16-bit number.
    pub fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// The bytes of a 32-bit number.
    pub fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn read(self, bytes: &[u8]) -> u64 {
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, fold),
            Self::Big => bytes.iter().fold(0, fold),
        }
    }
}

/// The machine that a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ident {
    /// Word size.
    pub class: Class,
    /// Byte order.
    pub data: Data,
    /// `e_machine`.
    pub machine: u16,
}

/// The header of an executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The machine.
    pub ident: Ident,
    /// Whether it has a program interpreter (PT_INTERP), and so requires `ld.so` and libraries where it runs.
    pub dynamic: bool,
}

/// Parses the first kilobytes of a file. Returns `None` if they are not an ELF header and all program headers.
pub fn parse(head: &[u8]) -> Option<Header> {
    let ident = parse_ident(head)?;
    // Offsets of e_phoff, e_phentsize, e_phnum: elf.h, Elf32_Ehdr and Elf64_Ehdr.
    let (phoff, phentsize, phnum) = match ident.class {
        Class::Bits32 => (28..32, 42..44, 44..46),
        Class::Bits64 => (32..40, 54..56, 56..58),
    };
    let field = |range| head.get(range).map(|bytes| ident.data.read(bytes));
    let (phoff, phentsize, phnum) = (field(phoff)?, field(phentsize)?, field(phnum)?);
    let mut dynamic = false;
    for i in 0..phnum {
        let at = usize::try_from(phoff.checked_add(i.checked_mul(phentsize)?)?).ok()?;
        let p_type = head.get(at..at.checked_add(4)?).map(|bytes| ident.data.read(bytes))?;
        dynamic |= p_type == 3; // PT_INTERP, elf.h
    }
    Some(Header { ident, dynamic })
}

/// Parses the first 20 bytes of a file. Returns `None` if they are not an ELF header.
pub fn parse_ident(head: &[u8]) -> Option<Ident> {
    let rest = head.strip_prefix(b"\x7fELF")?;
    let class = match rest.first()? {
        1 => Class::Bits32,
        2 => Class::Bits64,
        _ => return None,
    };
    let data = match rest.get(1)? {
        1 => Data::Little,
        2 => Data::Big,
        _ => return None,
    };
    let machine = u16::try_from(data.read(head.get(18..20)?)).ok()?;
    Some(Ident { class, data, machine })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_an_elf_executable() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let header = parse(&own[..4096]).unwrap();
        assert_eq!(header.ident.class, Class::Bits64);
        assert_eq!(header.dynamic, cfg!(not(target_feature = "crt-static")));
    }

    #[test]
    fn truncated_or_other_headers_are_not_elf() {
        for head in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x03\x01", b"\x7fELF\x02\x01\x01"] {
            assert_eq!(parse(head), None);
        }
    }
}
