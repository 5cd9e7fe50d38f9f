//! The machines that QEMU emulates in user mode: one table, one row per machine.
//!
//! The patterns that the kernel compares are computed from the rows. Lists of patterns that were copied by hand contain
//! mistakes (a byte order that is swapped for one machine, two machines with the same pattern).

pub mod file;
pub mod search;

use error::Error;
use error::text::nearest;

use crate::elf::{Class, Data, Ident};
use crate::platform::Platform;
use crate::probe_programs::{self as programs, Program};
use crate::rule::Pattern;

/// One row. Values of `e_machine` are from elf.h; the comment beside each is its `EM_*`.
#[derive(Debug)]
pub struct Machine {
    /// QEMU's name: the emulator and the entry are called `qemu-NAME`.
    pub name: &'static str,
    /// Other names: `uname -m`, Debian's port, GOARCH.
    pub aliases: &'static [&'static str],
    /// Word size, byte order and `e_machine`.
    pub ident: Ident,
    /// A bit of `e_flags` that distinguishes it from another machine with the same ident.
    pub flags: Option<FlagBit>,
    /// Whether `EI_ABIVERSION` may have any value.
    pub any_abi_version: bool,
    /// Name of the emulator without `qemu-`; differs from `name` if one emulator is for two machines.
    pub qemu: &'static str,
    /// OCI platforms, each with its probe program. Empty if OCI has no name for the machine.
    pub platform_programs: &'static [PlatformProgram],
    /// The probe program that any CPU of this machine runs.
    pub program: &'static Program,
}

/// An OCI platform and its probe program.
#[derive(Debug)]
pub struct PlatformProgram {
    /// `linux/arm/v7`.
    pub platform: &'static str,
    /// Uses instructions that the level below does not have.
    pub program: &'static Program,
}

/// A required bit of `e_flags`.
#[derive(Debug, Clone, Copy)]
pub struct FlagBit {
    /// The mask of the bit.
    pub bit: u32,
    /// Its value.
    pub set: bool,
}

/// EF_MIPS_ABI2: set for n32, not set for o32. Both are 32-bit ELF with EM_MIPS.
const N32: Option<FlagBit> = Some(FlagBit { bit: 0x20, set: true });
const O32: Option<FlagBit> = Some(FlagBit { bit: 0x20, set: false });

const fn ident(class: Class, data: Data, machine: u16) -> Ident {
    Ident { class, data, machine }
}

macro_rules! machines {
    ($( $name:literal $aliases:tt $class:ident $data:ident $em:literal $program:ident $platforms:tt { $($field:ident: $value:expr),* } )*) => {
        &[$( Machine {
            $($field: $value,)*
            ..row($name, &$aliases, ident(Class::$class, Data::$data, $em), &programs::$program, platform_programs!($platforms))
        } ),*]
    };
}

macro_rules! platform_programs {
    ([$($platform:literal = $program:ident),*]) => {
        const { &[$( PlatformProgram { platform: $platform, program: &programs::$program } ),*] }
    };
}

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    ident: Ident,
    program: &'static Program,
    platform_programs: &'static [PlatformProgram],
) -> Machine {
    Machine {
        name,
        aliases,
        ident,
        flags: None,
        any_abi_version: false,
        qemu: name,
        platform_programs,
        program,
    }
}

/// Columns: name, aliases, word size, byte order, e_machine, probe program, platforms, other fields.
#[rustfmt::skip]
pub static MACHINES: &[Machine] = machines! {
    "aarch64"      ["arm64", "arm64v8"]            Bits64 Little 183 ARM64        ["linux/arm64" = ARM64] {}              // EM_AARCH64
    "aarch64_be"   ["arm64be"]                     Bits64 Big    183 ARM64BE      ["linux/arm64be" = ARM64BE] {}
    "alpha"        []                              Bits64 Little 0x9026 ALPHA     [] {}                                   // EM_ALPHA
    "arm"          ["armhf", "armel", "armv5l", "armv6l", "armv7l", "arm32v5", "arm32v6", "arm32v7"]
                                                   Bits32 Little 40  ARM          ["linux/arm/v5" = ARM_V5, "linux/arm/v6" = ARM_V6,
                                                                                   "linux/arm/v7" = ARM_V7, "linux/arm/v8" = ARM_V8] {}  // EM_ARM
    "armeb"        ["armbe"]                       Bits32 Big    40  ARMBE        ["linux/armbe" = ARMBE] {}
    "cris"         []                              Bits32 Little 76  CRIS         [] {}                                   // EM_CRIS, in QEMU until 9.0
    "hexagon"      []                              Bits32 Little 164 HEXAGON      [] {}                                   // EM_QDSP6
    "hppa"         ["parisc"]                      Bits32 Big    15  HPPA         [] {}                                   // EM_PARISC
    "i386"         ["386", "i686", "x86"]          Bits32 Little 3   I386         ["linux/386" = I386] {}                 // EM_386
    "loongarch64"  ["loong64"]                     Bits64 Little 258 LOONG64      ["linux/loong64" = LOONG64] { any_abi_version: true } // EM_LOONGARCH; old-world binaries have their ABI version there
    "m68k"         []                              Bits32 Big    4   M68K         [] {}                                   // EM_68K
    "microblaze"   []                              Bits32 Big    189 MICROBLAZE   [] {}                                   // EM_MICROBLAZE
    "microblazeel" []                              Bits32 Little 189 MICROBLAZEEL [] {}
    "microblaze-old"   []                          Bits32 Big    0xbaab MICROBLAZE   [] { qemu: "microblaze" }            // EM_MICROBLAZE_OLD, which tools wrote before 189 was assigned
    "microblazeel-old" []                          Bits32 Little 0xbaab MICROBLAZEEL [] { qemu: "microblazeel" }
    "mips"         []                              Bits32 Big    8   MIPS         ["linux/mips" = MIPS] { flags: O32, any_abi_version: true }       // EM_MIPS; ABI version 1 is PIC calls
    "mipsel"       ["mipsle"]                      Bits32 Little 8   MIPSLE       ["linux/mipsle" = MIPSLE] { flags: O32, any_abi_version: true }
    "mipsn32"      ["mips64p32"]                   Bits32 Big    8   MIPSN32      ["linux/mips64p32" = MIPSN32] { flags: N32, any_abi_version: true }
    "mipsn32el"    ["mips64p32le"]                 Bits32 Little 8   MIPSN32LE    ["linux/mips64p32le" = MIPSN32LE] { flags: N32, any_abi_version: true }
    "mips64"       []                              Bits64 Big    8   MIPS64       ["linux/mips64" = MIPS64] { any_abi_version: true }
    "mips64el"     ["mips64le"]                    Bits64 Little 8   MIPS64LE     ["linux/mips64le" = MIPS64LE] { any_abi_version: true }
    "nios2"        []                              Bits32 Little 113 NIOS2        [] {}                                   // EM_ALTERA_NIOS2, in QEMU until 9.0
    "or1k"         ["openrisc"]                    Bits32 Big    92  OR1K         [] {}                                   // EM_OPENRISC
    "ppc"          ["powerpc"]                     Bits32 Big    20  PPC          ["linux/ppc" = PPC] {}                  // EM_PPC
    "ppc64"        ["powerpc64"]                   Bits64 Big    21  PPC64        ["linux/ppc64" = PPC64] {}              // EM_PPC64
    "ppc64le"      ["ppc64el", "powerpc64le"]      Bits64 Little 21  PPC64LE      ["linux/ppc64le" = PPC64LE] {}
    "riscv32"      ["riscv"]                       Bits32 Little 243 RISCV32      ["linux/riscv" = RISCV32] {}            // EM_RISCV
    "riscv64"      []                              Bits64 Little 243 RISCV64      ["linux/riscv64" = RISCV64] {}
    "s390x"        []                              Bits64 Big    22  S390X        ["linux/s390x" = S390X] {}              // EM_S390
    "sh4"          []                              Bits32 Little 42  SH4          [] {}                                   // EM_SH
    "sh4eb"        []                              Bits32 Big    42  SH4EB        [] {}
    "sparc"        []                              Bits32 Big    2   SPARC        ["linux/sparc" = SPARC] {}              // EM_SPARC
    "sparc32plus"  []                              Bits32 Big    18  SPARC32PLUS  [] {}                                   // EM_SPARC32PLUS
    "sparc64"      []                              Bits64 Big    43  SPARC64      ["linux/sparc64" = SPARC64] {}          // EM_SPARCV9
    "x86_64"       ["amd64", "x86-64"]             Bits64 Little 62  AMD64        ["linux/amd64" = AMD64, "linux/amd64/v2" = AMD64_V2,
                                                                                   "linux/amd64/v3" = AMD64_V3, "linux/amd64/v4" = AMD64_V4] {}  // EM_X86_64
    "xtensa"       []                              Bits32 Little 94  XTENSA       [] {}                                   // EM_XTENSA
    "xtensaeb"     []                              Bits32 Big    94  XTENSAEB     [] {}
};

/// Offset of `e_flags` in a 32-bit ELF header, the only one where a pattern compares it.
const FLAGS_AT: usize = 36;

impl Machine {
    /// Finds a machine by its name or an alias.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        MACHINES.iter().find(|machine| machine.name == name || machine.aliases.contains(&name))
    }

    /// The name of the entry: the one that QEMU, Debian and Docker's image use as well, so that a machine has one entry
    /// regardless of the program that registers it.
    pub fn entry_name(&self) -> String {
        format!("qemu-{}", self.name)
    }

    /// The pattern that matches programs of this machine.
    ///
    /// Compared: magic number, word size, byte order, version, padding, e_machine, and e_type with its lowest bit
    /// ignored (2 is ET_EXEC, 3 is ET_DYN). Not compared: EI_OSABI, which is 3 (GNU) in
    /// static programs of glibc, and e_version. The pattern contains e_version with an empty mask as a signature: no other
    /// program writes that, so [`Pattern::is_signed`] recognizes the entries of this program.
    pub fn pattern(&self) -> Pattern {
        let Ident { class, data, machine } = self.ident;
        let mut magic = b"\x7fELF".to_vec();
        let mut mask = vec![0xff; 4];
        let mut compare = |bytes: &[u8], by: &[u8]| {
            magic.extend(bytes);
            mask.extend(by);
        };
        compare(&[class as u8, data as u8, 1], &[0xff; 3]);
        compare(&[0], &[0]); // EI_OSABI
        compare(&[0], if self.any_abi_version { &[0] } else { &[0xff] });
        compare(&[0; 7], &[0xff; 7]);
        compare(&data.u16(2), &data.u16(0xfffe)); // e_type
        compare(&data.u16(machine), &[0xff; 2]);
        compare(&data.u32(1), &[0; 4]); // e_version: the signature
        if let Some(FlagBit { bit, set }) = self.flags {
            compare(&[0; FLAGS_AT - 24], &[0; FLAGS_AT - 24]);
            compare(&data.u32(if set { bit } else { 0 }), &data.u32(bit));
        }
        Pattern { offset: 0, magic, mask }
    }

    /// The probe program of this machine, as an ELF executable.
    pub fn probe(&self) -> Vec<u8> {
        programs::elf(self.program, self.ident)
    }

    /// The OCI platforms of this machine.
    pub fn platforms(&self) -> impl Iterator<Item = &'static str> {
        self.platform_programs.iter().map(|one| one.platform)
    }
}

/// A platform (one level of a machine) or a machine, as given on the command line.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// `linux/arm/v7`, or the name of the machine.
    pub name: &'static str,
    /// The machine.
    pub machine: &'static Machine,
    /// The probe program.
    pub program: &'static Program,
    /// Whether it was given as a platform, for which no emulator is required if the CPU runs it.
    pub as_platform: bool,
}

impl Target {
    /// Parses a platform, or the name or an alias of a machine.
    ///
    /// # Errors
    /// `BadInput` if it is unknown or malformed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(machine) = Machine::by_name(text) {
            return Ok(Self::of_machine(machine));
        }
        if !text.contains('/') {
            return Err(unknown(text));
        }
        let platform = text.parse::<Platform>()?.to_string();
        Self::platforms().find(|target| target.name == platform).ok_or_else(|| unknown(text))
    }

    /// The target for a machine as such: any of its CPUs.
    pub fn of_machine(machine: &'static Machine) -> Self {
        Self { name: machine.name, machine, program: machine.program, as_platform: false }
    }

    /// All platforms.
    pub fn platforms() -> impl Iterator<Item = Self> {
        MACHINES.iter().flat_map(|machine| {
            machine.platform_programs.iter().map(move |one| Self {
                name: one.platform,
                machine,
                program: one.program,
                as_platform: true,
            })
        })
    }

    /// All platforms, and all machines without one.
    pub fn all() -> impl Iterator<Item = Self> {
        let without_platform = MACHINES.iter().filter(|machine| machine.platform_programs.is_empty());
        Self::platforms().chain(without_platform.map(Self::of_machine))
    }

    /// The probe program as an ELF executable.
    pub fn file(&self) -> Vec<u8> {
        programs::elf(self.program, self.machine.ident)
    }
}

fn unknown(text: &str) -> Error {
    let names = MACHINES.iter().flat_map(|machine| std::iter::once(&machine.name).chain(machine.aliases));
    let known: Vec<&str> = Target::platforms().map(|target| target.name).chain(names.copied()).collect();
    let hint = match nearest(text, &known) {
        Some(name) => format!("did you mean {name}?"),
        None => "to list all platforms, run: binfmt-setup probe".to_owned(),
    };
    Error::bad_input(format!("parse platform \"{text}\""), "unknown platform or machine").hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_platforms_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for machine in MACHINES {
            for name in std::iter::once(&machine.name).chain(machine.aliases) {
                assert!(seen.insert(name.to_string()), "{name} twice");
            }
            for platform in machine.platforms() {
                assert!(seen.insert(platform.to_string()), "{platform} twice");
                assert_eq!(platform.parse::<Platform>().unwrap().to_string(), platform, "not in normal form");
            }
        }
    }

    #[test]
    fn each_probe_program_matches_the_pattern_of_its_machine_only() {
        for target in Target::all() {
            let file = target.file();
            for machine in MACHINES {
                let own = std::ptr::eq(machine, target.machine);
                assert_eq!(machine.pattern().matches(&file), own, "{} by {}", target.name, machine.name);
            }
        }
    }

    #[test]
    fn no_pattern_matches_a_script_or_an_empty_file() {
        for machine in MACHINES {
            for head in [&b"#!/bin/sh\n#########################################"[..], b"", &[0; 64]] {
                assert!(!machine.pattern().matches(head));
            }
            assert!(machine.pattern().is_signed());
        }
    }

    #[test]
    fn patterns_match_static_glibc_programs_and_shared_objects() {
        for machine in MACHINES {
            let mut file = machine.probe();
            file[7] = 3; // ELFOSABI_GNU
            assert!(machine.pattern().matches(&file), "{}", machine.name);
            let low_byte = if machine.ident.data == Data::Little { 16 } else { 17 };
            file[low_byte] = 3; // ET_DYN
            assert!(machine.pattern().matches(&file), "{}", machine.name);
            file[low_byte] = 4; // ET_CORE
            assert!(!machine.pattern().matches(&file), "{}", machine.name);
        }
    }

    #[test]
    fn platforms_and_aliases_are_parsed() {
        for (text, name, machine) in [
            ("linux/arm64", "linux/arm64", "aarch64"),
            ("arm64", "aarch64", "aarch64"),
            ("aarch64", "aarch64", "aarch64"),
            ("armhf", "arm", "arm"),
            ("linux/arm64/v8", "linux/arm64", "aarch64"),
            ("linux/arm/v6", "linux/arm/v6", "arm"),
            ("linux/arm", "linux/arm/v7", "arm"),
            ("mips64le", "mips64el", "mips64el"),
            ("linux/386", "linux/386", "i386"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.name, target.machine.name), (name, machine), "{text}");
        }
        for text in ["*", "-1", "status", "qemu-arm", "WSLInterop", "linux/arm/v9", "linux/pdp11", ""] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
