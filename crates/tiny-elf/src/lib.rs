//! Writes tiny static ELF executables: a header, one program header, and machine code.
//!
//! `binfmt-setup` probes emulators with such programs, and the example of a release contains them. Start at
//! [`TinyElf::to_bytes`].
//!
//! ```
//! use tiny_elf::TinyElf;
//!
//! // exit(0) for linux/amd64: mov eax, 60; xor edi, edi; syscall. 62 is EM_X86_64, elf.h.
//! let code = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
//! let program = TinyElf::new(true, false, 62, 0, &code).to_bytes();
//! assert_eq!(program.len(), 64 + 56 + code.len());
//! ```

#![warn(missing_docs)]

/// An executable for one machine. All of it is one segment that can be read and executed.
#[derive(Clone, Copy, Debug)]
pub struct TinyElf<'a> {
    is_64_bit: bool,
    is_big_endian: bool,
    machine: u16,
    flags: u32,
    code: &'a [u8],
    code_alignment: usize,
    arm_attributes: Option<&'a [u8]>,
}

/// Above mmap_min_addr everywhere, and far from the stack.
const BASE: u64 = 0x1000_0000;
/// The largest page size of any machine, 64 KiB.
const PAGE: u64 = 0x1_0000;
/// PF_R | PF_X, elf.h.
const READ_EXECUTE: u32 = 5;
const SECTION_NAMES: &[u8] = b"\0.ARM.attributes\0.shstrtab\0";
/// The null section, the attributes, the names.
const ARM_SECTIONS: u16 = 3;

impl<'a> TinyElf<'a> {
    /// An executable that starts at the first byte of `code`, which may be followed by data. `machine` and `flags` are
    /// e_machine and e_flags of elf.h and the processor supplements of the System V ABI.
    pub fn new(is_64_bit: bool, is_big_endian: bool, machine: u16, flags: u32, code: &'a [u8]) -> Self {
        Self { is_64_bit, is_big_endian, machine, flags, code, code_alignment: 1, arm_attributes: None }
    }

    /// Aligns the code to a multiple of this number of bytes in the file, which is its alignment in memory as well.
    pub fn code_alignment(self, code_alignment: usize) -> Self {
        Self { code_alignment, ..self }
    }

    /// Adds a section `.ARM.attributes` with this content. Only for 32-bit little-endian executables.
    pub fn arm_attributes(self, content: &'a [u8]) -> Self {
        Self { arm_attributes: Some(content), ..self }
    }

    /// The bytes of the file. The same values give the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (header, program_header, section_header): (usize, usize, u16) =
            if self.is_64_bit { (64, 56, 64) } else { (52, 32, 40) };
        let code_at = (header + program_header).next_multiple_of(self.code_alignment);
        let loaded_end = code_at + self.code.len();
        let attributes = self.arm_attributes.unwrap_or_default();
        let attributes_at = loaded_end.next_multiple_of(4);
        let names_at = attributes_at + attributes.len();
        let sections_at = (names_at + SECTION_NAMES.len()).next_multiple_of(8);
        let sections = if self.arm_attributes.is_some() { ARM_SECTIONS } else { 0 };

        let mut out =
            Writer { is_64_bit: self.is_64_bit, is_big_endian: self.is_big_endian, bytes: Vec::new() };
        // Elf_Ehdr, elf.h. First EI_CLASS, EI_DATA, EI_VERSION, EI_OSABI System V, then padding.
        out.raw(b"\x7fELF");
        out.raw(&[1 + u8::from(self.is_64_bit), 1 + u8::from(self.is_big_endian), 1, 0]);
        out.raw(&[0; 8]);
        out.half(2); // e_type ET_EXEC
        out.half(self.machine);
        out.word(1); // e_version
        out.address(BASE + code_at as u64); // e_entry
        out.address(header as u64); // e_phoff
        out.address(if sections == 0 { 0 } else { sections_at as u64 }); // e_shoff
        out.word(self.flags);
        for size in [header, program_header, 1] {
            out.half(size as u16); // e_ehsize, e_phentsize, e_phnum
        }
        out.half(section_header); // e_shentsize
        out.half(sections); // e_shnum
        out.half(sections.saturating_sub(1)); // e_shstrndx: the names are the last section

        // Elf_Phdr: p_flags has another place in each size.
        out.word(1); // p_type PT_LOAD
        if self.is_64_bit {
            out.word(READ_EXECUTE);
        }
        out.address(0); // p_offset
        out.address(BASE); // p_vaddr
        out.address(BASE); // p_paddr
        out.address(loaded_end as u64); // p_filesz
        out.address(loaded_end as u64); // p_memsz
        if !self.is_64_bit {
            out.word(READ_EXECUTE);
        }
        out.address(PAGE); // p_align
        out.bytes.resize(code_at, 0);
        out.raw(self.code);
        if sections == 0 {
            return out.bytes;
        }

        out.bytes.resize(attributes_at, 0);
        out.raw(attributes);
        out.raw(SECTION_NAMES);
        out.bytes.resize(sections_at, 0);
        // Elf32_Shdr: name, type, flags, addr, offset, size, link, info, addralign, entsize. First the null section.
        // SHT_ARM_ATTRIBUTES is 0x70000003, SHT_STRTAB 3; the names are at 1 and 17 of SECTION_NAMES.
        let attributes_row = [1, 0x7000_0003, 0, 0, attributes_at, attributes.len(), 0, 0, 1, 0];
        let names_row = [17, 3, 0, 0, names_at, SECTION_NAMES.len(), 0, 0, 1, 0];
        for value in [0; 10].into_iter().chain(attributes_row).chain(names_row) {
            out.word(value as u32);
        }
        out.bytes
    }
}

/// Writes numbers in the byte order and size of the machine.
struct Writer {
    is_64_bit: bool,
    is_big_endian: bool,
    bytes: Vec<u8>,
}

impl Writer {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn half(&mut self, value: u16) {
        self.raw(&if self.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn word(&mut self, value: u32) {
        self.raw(&if self.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    fn address(&mut self, value: u64) {
        match (self.is_64_bit, self.is_big_endian) {
            (false, _) => self.word(value as u32),
            (true, false) => self.raw(&value.to_le_bytes()),
            (true, true) => self.raw(&value.to_be_bytes()),
        }
    }
}
