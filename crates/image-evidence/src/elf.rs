//! Facts from one ELF file: its platform, the lowest CPU level that it needs, its loader and its libraries.
//!
//! Only samples of the file are read, so that it can be streamed: its head, the dynamic section, what follows the last
//! loaded segment, and Go's build settings. The section table is not trusted, no number from the file decides how much is
//! allocated, and a part that is not at its usual place is unknown.
//!
//! The `object` crate is not used: it wants the whole file in memory or a seekable one, and has neither build
//! attributes nor Go's settings, which are most of this module.

use crate::cpu::{self, CpuMark, MarkReader};
use image_model::platform::Platform;
use serde::{Deserialize, Serialize};

mod attributes;
mod golang;
mod notes;
pub mod sampler;

use sampler::Sample;

/// Facts from an ELF file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Elf {
    /// Its platform, in the names of the OCI image-spec. The variant is the lowest that the file is known to need; `None`
    /// where that is unknown.
    pub platform: Platform,
    /// The CPU level that it records. `None`: it records none, which says nothing about what it needs.
    pub mark: Option<CpuMark>,
    /// Whether it can be executed.
    pub kind: ElfKind,
    /// The dynamic loader, an absolute path.
    pub interpreter: Option<Vec<u8>>,
    /// The libraries that the loader must find (DT_NEEDED), at most 64, as far as their names are in the sample.
    pub needed: Vec<Vec<u8>>,
    /// Further facts for people, such as `hard float` or `GOARM=6`.
    pub details: Vec<String>,
}

/// The kind of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ElfKind {
    /// An executable.
    Program,
    /// A shared library.
    Library,
    /// A relocatable object, a core dump or BPF code, which a container does not execute.
    Other,
}

/// The longest PT_INTERP that is read, which is a path.
pub const INTERPRETER_MAX: usize = 4096;
const NEEDED_MAX: usize = 64;
const SONAME_MAX: usize = 255;
/// Only so many program headers are read. Real files have about twelve.
const SEGMENTS_MAX: u16 = 128;

/// The word size and byte order of the numbers in a file. Reading beyond the end of the bytes gives `None`.
#[derive(Clone, Copy)]
pub struct NumberFormat {
    /// Whether addresses and offsets have 64 bits.
    pub is_64: bool,
    /// Whether numbers are big-endian.
    pub is_big: bool,
}

impl NumberFormat {
    fn bytes<const N: usize>(bytes: &[u8], at: u64) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    /// The 16-bit number at an offset.
    pub fn u16(self, bytes: &[u8], at: u64) -> Option<u16> {
        let raw = Self::bytes(bytes, at)?;
        Some(if self.is_big { u16::from_be_bytes(raw) } else { u16::from_le_bytes(raw) })
    }

    /// The 32-bit number at an offset.
    pub fn u32(self, bytes: &[u8], at: u64) -> Option<u32> {
        let raw = Self::bytes(bytes, at)?;
        Some(if self.is_big { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) })
    }

    fn u64(self, bytes: &[u8], at: u64) -> Option<u64> {
        let raw = Self::bytes(bytes, at)?;
        Some(if self.is_big { u64::from_be_bytes(raw) } else { u64::from_le_bytes(raw) })
    }

    /// The address or file offset at an offset.
    pub fn word(self, bytes: &[u8], at: u64) -> Option<u64> {
        if self.is_64 { self.u64(bytes, at) } else { self.u32(bytes, at).map(u64::from) }
    }
}

/// The fields of the ELF header that are used here. Offsets: elf.h, Elf32_Ehdr and Elf64_Ehdr.
#[derive(Clone, Copy)]
pub struct ElfHeader {
    /// The format of all numbers in the file.
    pub numbers: NumberFormat,
    os_abi: u8,
    file_type: u16,
    machine: u16,
    flags: u32,
    segments_at: u64,
    segment_size: u16,
    segments: u16,
}

/// One program header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_offset`, in bytes.
    pub offset: u64,
    /// `p_vaddr`.
    pub address: u64,
    /// `p_filesz`, in bytes.
    pub size: u64,
}

/// A loaded segment, elf.h.
pub const PT_LOAD: u32 = 1;
/// The dynamic section, elf.h.
pub const PT_DYNAMIC: u32 = 2;
/// The path of the loader, elf.h.
pub const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const PT_GNU_PROPERTY: u32 = 0x6474_e553;

/// The first bytes of every ELF file.
pub const MAGIC: &[u8] = b"\x7fELF";

impl ElfHeader {
    /// Parses the head of a file. `None`: it is not ELF, is truncated, or has an invalid word size or byte order.
    pub fn parse(head: &[u8]) -> Option<Self> {
        if !head.starts_with(MAGIC) {
            return None;
        }
        let is_64 = match head.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let is_big = match head.get(5)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let numbers = NumberFormat { is_64, is_big };
        let (segments_at, flags, size, count) = if is_64 { (32, 48, 54, 56) } else { (28, 36, 42, 44) };
        Some(Self {
            numbers,
            os_abi: *head.get(7)?,
            file_type: numbers.u16(head, 16)?,
            machine: numbers.u16(head, 18)?,
            flags: numbers.u32(head, flags)?,
            segments_at: numbers.word(head, segments_at)?,
            segment_size: numbers.u16(head, size)?,
            segments: numbers.u16(head, count)?,
        })
    }

    /// The program headers that are within the head of the file.
    pub fn segments<'a>(&'a self, head: &'a [u8]) -> impl Iterator<Item = Segment> + 'a {
        (0..self.segments.min(SEGMENTS_MAX)).map_while(move |i| self.segment(head, i))
    }

    fn segment(&self, head: &[u8], i: u16) -> Option<Segment> {
        let n = self.numbers;
        let least = if n.is_64 { 56 } else { 32 };
        if self.segment_size < least {
            return None;
        }
        let at = self.segments_at.checked_add(u64::from(i) * u64::from(self.segment_size))?;
        let field = |offset: u64| at.checked_add(offset);
        let [flags, offset, address, size] = if n.is_64 { [4, 8, 16, 32] } else { [24, 4, 8, 16] };
        Some(Segment {
            kind: n.u32(head, at)?,
            flags: n.u32(head, field(flags)?)?,
            offset: n.word(head, field(offset)?)?,
            address: n.word(head, field(address)?)?,
            size: n.word(head, field(size)?)?,
        })
    }
}

/// Reads the facts from the sample of a file. `None`: it has no valid ELF header.
pub fn read(sample: &Sample<'_>) -> Option<Elf> {
    let header = ElfHeader::parse(sample.head)?;
    let segments: Vec<Segment> = header.segments(sample.head).collect();
    let interpreter = interpreter(sample.interpreter);
    let needed = needed(sample, &header, &segments);
    let architecture = architecture(&header);
    let mut marks = MarkReader::new(architecture);
    let mut details = Vec::new();
    for segment in segments.iter().filter(|s| matches!(s.kind, PT_GNU_PROPERTY | PT_NOTE)) {
        if let Some(content) = sample.in_head(segment.offset, segment.size) {
            notes::read(content, header.numbers, &mut marks, &mut details);
        }
    }
    flags(&header, architecture, &mut marks, &mut details);
    attributes::read(sample.tail, header.machine, header.numbers, &mut marks, &mut details);
    golang::read(sample.go, architecture, &mut marks, &mut details);
    // The hard-float loaders of glibc and musl. Raspbian's, for v6, has the same name.
    if architecture == "arm"
        && interpreter
            .as_ref()
            .is_some_and(|path| path.ends_with(b"armhf.so.3") || path.ends_with(b"armhf.so.1"))
    {
        marks.add("v6", "a loader for hard float", true);
    }
    // The flags and the attributes both tell about floats.
    let mut seen = std::collections::BTreeSet::new();
    details.retain(|detail| seen.insert(detail.clone()));
    let mark = marks.finish();
    let variant = mark.as_ref().and_then(|mark| cpu::variant(architecture, &mark.level));
    let name = match architecture {
        "" => format!("elf-machine-{}", header.machine),
        known => known.to_string(),
    };
    let kind = match header.file_type {
        // The kernel refuses an executable without program headers.
        _ if header.machine == EM_BPF || header.segments == 0 => ElfKind::Other,
        2 => ElfKind::Program,                          // ET_EXEC
        3 if interpreter.is_some() => ElfKind::Program, // ET_DYN: position-independent
        3 => ElfKind::Library,
        _ => ElfKind::Other,
    };
    let platform = Platform::new(operating_system(&header), &name, variant);
    Some(Elf { platform, mark, kind, interpreter, needed, details })
}

const EM_BPF: u16 = 247;

/// Go's name of the architecture, which OCI uses, or Linux' where Go has none; empty for an unknown one. Numbers: EM_* of
/// elf.h.
fn architecture(header: &ElfHeader) -> &'static str {
    let NumberFormat { is_64, is_big } = header.numbers;
    // EF_MIPS_ABI2: n32, which has 64-bit registers and 32-bit pointers.
    let is_n32 = header.flags & 0x20 != 0;
    match (header.machine, is_64, is_big) {
        (3, ..) => "386",
        // A 32-bit file for EM_X86_64 is x32: the same processor.
        (62, ..) => "amd64",
        (40, _, false) => "arm",
        (40, _, true) => "armbe",
        (183, _, false) => "arm64",
        (183, _, true) => "arm64be",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv",
        (21, _, false) => "ppc64le",
        (21, _, true) => "ppc64",
        (20, ..) => "ppc",
        (22, true, _) => "s390x",
        (22, false, _) => "s390",
        (8, true, false) => "mips64le",
        (8, true, true) => "mips64",
        (8, false, false) if is_n32 => "mips64p32le",
        (8, false, true) if is_n32 => "mips64p32",
        (8, false, false) => "mipsle",
        (8, false, true) => "mips",
        (258, true, _) => "loong64",
        (258, false, _) => "loong32",
        (2 | 18, ..) => "sparc",
        (43, ..) => "sparc64",
        (50, ..) => "ia64",
        (4, ..) => "m68k",
        (15, ..) => "hppa",
        (42, ..) => "sh4",
        (92, ..) => "or1k",
        (93, ..) => "arc",
        (94, ..) => "xtensa",
        (113, ..) => "nios2",
        (164, ..) => "hexagon",
        (189, ..) => "microblaze",
        (0x9026, ..) => "alpha",
        (EM_BPF, ..) => "bpf",
        (83, ..) => "avr",
        (190, ..) => "cuda",
        (224, ..) => "amdgpu",
        _ => "",
    }
}

/// Takes a number in LEB128 (7 bits in a byte, the lowest first) from the front, as build attributes and Go write it.
fn uleb128(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The operating system of EI_OSABI. Linux programs have System V, GNU (static glibc) or an ABI of ARM's.
fn operating_system(header: &ElfHeader) -> &'static str {
    match header.os_abi {
        2 => "netbsd",
        6 => "solaris",
        9 => "freebsd",
        12 => "openbsd",
        _ => "linux",
    }
}

/// Facts from `e_flags`. Sources: the processor supplements; measured on Debian's binaries of ten machines.
fn flags(header: &ElfHeader, architecture: &str, marks: &mut MarkReader, details: &mut Vec<String>) {
    let flags = header.flags;
    let mut say = |text: &str| details.push(text.to_string());
    match architecture {
        "arm" if flags & 0x400 != 0 => {
            // The hard-float ABI passes numbers in VFP registers, which ARMv5 of Debian's kind lacks.
            marks.add("v6", "hard float", true);
            say("hard float");
        }
        "arm" if flags & 0x200 != 0 => say("soft float"),
        "amd64" if !header.numbers.is_64 => say("x32"),
        "riscv64" | "riscv" => {
            say(match flags & 6 {
                0 => "soft float",
                2 => "single float",
                4 => "double float",
                _ => "quad float",
            });
            if flags & 1 != 0 {
                say("compressed instructions");
            }
            if flags & 8 != 0 {
                say("RVE");
            }
        }
        "loong64" => {
            say(match flags & 7 {
                1 => "soft float",
                2 => "single float",
                3 => "double float",
                _ => "float ABI not said",
            });
            say(if flags & 0x40 == 0 { "object ABI v0" } else { "object ABI v1" });
        }
        "ppc64" | "ppc64le" => match flags & 3 {
            1 => say("ELFv1"),
            2 => say("ELFv2"),
            _ => {}
        },
        "mips" | "mipsle" | "mips64" | "mips64le" | "mips64p32" | "mips64p32le" => {
            const ISA: [&str; 11] = [
                "MIPS I", "MIPS II", "MIPS III", "MIPS IV", "MIPS V", "MIPS32", "MIPS64", "MIPS32r2",
                "MIPS64r2", "MIPS32r6", "MIPS64r6",
            ];
            if let Some(name) = ISA.get((flags >> 28) as usize) {
                say(name);
                if let Some(level) = mips_level(architecture, name) {
                    marks.add(level, name, false);
                }
            }
            if flags & 0x400 != 0 {
                say("NaN 2008");
            }
        }
        _ => {}
    }
}

/// The level of an ISA of `e_flags`.
fn mips_level(architecture: &str, isa: &str) -> Option<&'static str> {
    const ROMAN: [(&str, &str); 5] =
        [("I", "mips1"), ("II", "mips2"), ("III", "mips3"), ("IV", "mips4"), ("V", "mips5")];
    let old =
        ROMAN.iter().find(|(roman, _)| isa.strip_prefix("MIPS ") == Some(roman)).map(|(_, level)| *level);
    let name = old.map_or_else(|| isa.to_lowercase(), str::to_string);
    cpu::levels(architecture).iter().copied().find(|level| *level == name)
}

/// An absolute path that ends where the file says.
fn interpreter(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().position(|b| *b == 0)?;
    text.starts_with(b"/").then(|| text[..end].to_vec())
}

/// DT_NEEDED, where the string table lies in the head.
fn needed(sample: &Sample<'_>, header: &ElfHeader, segments: &[Segment]) -> Vec<Vec<u8>> {
    const DT_NULL: u64 = 0;
    const DT_NEEDED: u64 = 1;
    const DT_STRTAB: u64 = 5;
    let n = header.numbers;
    let width = if n.is_64 { 8 } else { 4 };
    let mut names_at = None;
    let mut wanted = Vec::new();
    for row in 0..(sample.dynamic.len() as u64 / (2 * width)) {
        let (Some(tag), Some(value)) =
            (n.word(sample.dynamic, row * 2 * width), n.word(sample.dynamic, row * 2 * width + width))
        else {
            break;
        };
        match tag {
            DT_NULL => break,
            DT_NEEDED if wanted.len() < NEEDED_MAX => wanted.push(value),
            DT_STRTAB => names_at = file_offset(segments, value),
            _ => {}
        }
    }
    let Some(names_at) = names_at else { return Vec::new() };
    let name = |offset: &u64| {
        let at = usize::try_from(names_at.checked_add(*offset)?).ok()?;
        let text = sample.head.get(at..)?;
        let end = text.iter().take(SONAME_MAX + 1).position(|b| *b == 0)?;
        (end > 0).then(|| text[..end].to_vec())
    };
    wanted.iter().filter_map(name).collect()
}

fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    segments.iter().filter(|s| s.kind == PT_LOAD).find_map(|s| {
        let distance = address.checked_sub(s.address)?;
        if distance < s.size { s.offset.checked_add(distance) } else { None }
    })
}

#[cfg(test)]
pub(crate) mod tests;
