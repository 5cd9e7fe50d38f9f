//! Tests with small generated ELF files and hostile input.

use super::sampler::Sampler;
use super::*;
use proptest::prelude::*;

/// Returns an ELF file with one loaded segment, an optional interpreter in it, and bytes after it.
pub struct Made {
    pub is_64: bool,
    pub is_big: bool,
    pub machine: u16,
    pub flags: u32,
    pub interpreter: Option<&'static str>,
    pub note: Vec<u8>,
    pub tail: Vec<u8>,
}

impl Made {
    pub fn new(is_64: bool, is_big: bool, machine: u16, flags: u32) -> Self {
        Self { is_64, is_big, machine, flags, interpreter: None, note: Vec::new(), tail: Vec::new() }
    }

    pub fn file(&self) -> Vec<u8> {
        let (header, row) = if self.is_64 { (64, 56) } else { (52, 32) };
        let interpreter: Vec<u8> =
            self.interpreter.map(|path| [path.as_bytes(), b"\0"].concat()).unwrap_or_default();
        let content_at = header + 3 * row;
        let note_at = content_at + interpreter.len().next_multiple_of(8);
        let end = note_at + self.note.len();
        let mut out = b"\x7fELF".to_vec();
        out.extend([1 + u8::from(self.is_64), 1 + u8::from(self.is_big), 1, 0]);
        out.resize(16, 0);
        let mut put = |width: usize, value: u64| {
            let big = value.to_be_bytes();
            match self.is_big {
                true => out.extend(&big[8 - width..]),
                false => out.extend(big[8 - width..].iter().rev()),
            }
        };
        let word = if self.is_64 { 8 } else { 4 };
        put(2, 2);
        put(2, u64::from(self.machine));
        put(4, 1);
        put(word, 0x1_0000);
        put(word, header as u64);
        put(word, 0);
        put(4, u64::from(self.flags));
        for value in [header, row, 3, 0, 0, 0] {
            put(2, value as u64);
        }
        let interpreter_kind = if interpreter.is_empty() { 0 } else { u64::from(PT_INTERP) };
        let note_kind = if self.note.is_empty() { 0 } else { u64::from(PT_GNU_PROPERTY) };
        for (kind, at, size) in [
            (u64::from(PT_LOAD), 0, end),
            (interpreter_kind, content_at, interpreter.len()),
            (note_kind, note_at, self.note.len()),
        ] {
            put(4, kind);
            if self.is_64 {
                put(4, 5);
            }
            for value in [at, 0x1_0000 + at, 0x1_0000 + at, size, size] {
                put(word, value as u64);
            }
            if !self.is_64 {
                put(4, 5);
            }
            put(word, 1);
        }
        out.extend(&interpreter);
        out.resize(note_at, 0);
        out.extend(&self.note);
        out.extend(&self.tail);
        out
    }
}

/// Returns `.ARM.attributes` with these tags and values.
pub fn arm_attributes(pairs: &[u8]) -> Vec<u8> {
    attributes(b"aeabi\0", pairs)
}

fn attributes(vendor: &[u8], pairs: &[u8]) -> Vec<u8> {
    let part = 5 + pairs.len() as u32;
    let whole = 4 + vendor.len() as u32 + part;
    [b"A", &whole.to_le_bytes()[..], vendor, &[1], &part.to_le_bytes(), pairs].concat()
}

pub fn sampled(file: &[u8]) -> Option<Elf> {
    let mut sampler = Sampler::default();
    // In pieces of an odd size, like the output of a decompressor.
    for piece in file.chunks(4093) {
        sampler.push(piece);
    }
    read(&sampler.finish())
}

#[track_caller]
fn check(made: &Made, platform: &str, details: &[&str]) {
    let found = sampled(&made.file()).expect("an ELF file");
    assert_eq!(
        (found.platform.to_string().as_str(), found.details),
        (platform, details.iter().map(|d| (*d).to_string()).collect())
    );
}

#[test]
fn every_machine_has_a_platform() {
    // Word size, byte order, e_machine and e_flags of programs of Debian and Go.
    for (is_64, is_big, machine, flags, platform, details) in [
        (true, false, 62, 0, "linux/amd64", &[][..]),
        (false, false, 62, 0, "linux/amd64", &["x32"]),
        (false, false, 3, 0, "linux/386", &[]),
        (false, false, 40, 0x0500_0400, "linux/arm/v6", &["hard float"]),
        (false, false, 40, 0x0500_0200, "linux/arm", &["soft float"]),
        (false, false, 40, 0x0500_0002, "linux/arm", &[]),
        (false, true, 40, 0x0500_0000, "linux/armbe", &[]),
        (true, false, 183, 0, "linux/arm64", &[]),
        (true, false, 243, 5, "linux/riscv64", &["double float", "compressed instructions"]),
        (true, false, 21, 2, "linux/ppc64le", &["ELFv2"]),
        (true, true, 21, 1, "linux/ppc64", &["ELFv1"]),
        (true, true, 22, 0, "linux/s390x", &[]),
        (false, true, 22, 0, "linux/s390", &[]),
        (true, false, 8, 0x8000_0007, "linux/mips64le", &["MIPS64r2"]),
        (true, false, 8, 0x2000_0004, "linux/mips64le", &["MIPS III"]),
        (false, false, 8, 0x7000_1007, "linux/mipsle", &["MIPS32r2"]),
        (false, true, 8, 0x6000_0020, "linux/mips64p32", &["MIPS64"]),
        (true, false, 258, 0x43, "linux/loong64", &["double float", "object ABI v1"]),
        (true, false, 258, 0x03, "linux/loong64", &["double float", "object ABI v0"]),
        (true, true, 43, 0, "linux/sparc64", &[]),
        (true, false, 0xffff, 0, "linux/elf-machine-65535", &[]),
    ] {
        check(&Made::new(is_64, is_big, machine, flags), platform, details);
    }
}

#[test]
fn attributes_determine_the_level_of_arm() {
    let with = |pairs: &[u8], flags| Made {
        tail: [b"GCC: (Debian)\0", arm_attributes(pairs).as_slice(), &[0; 300]].concat(),
        ..Made::new(false, false, 40, flags)
    };
    // Tag_CPU_name "x", Tag_CPU_arch, Tag_compatibility 1 "gnu", Tag_ABI_VFP_args.
    check(
        &with(b"\x05x\0\x06\x0a\x20\x01gnu\0\x1c\x01", 0x0500_0400),
        "linux/arm/v7",
        &["hard float", "Tag_CPU_arch v7"],
    );
    check(&with(&[6, 4], 0x0500_0200), "linux/arm/v5", &["soft float", "Tag_CPU_arch v5TE"]);
    check(&with(&[6, 7], 0x0500_0000), "linux/arm/v6", &["Tag_CPU_arch v6KZ"]);
    check(&with(&[6, 14], 0x0500_0000), "linux/arm/v8", &["Tag_CPU_arch v8 or later"]);
    // Hard float needs v6 in any case; the architecture of a microcontroller determines no level.
    check(&with(&[6, 4], 0x0500_0400), "linux/arm/v6", &["hard float", "Tag_CPU_arch v5TE"]);
    check(&with(&[6, 11], 0x0500_0000), "linux/arm", &[]);
    check(&with(&[6], 0x0500_0000), "linux/arm", &[]);
}

#[test]
fn attributes_of_riscv_are_shown() {
    let made =
        Made { tail: attributes(b"riscv\0", b"\x04\x10\x05rv64gc\0"), ..Made::new(true, false, 243, 4) };
    check(&made, "linux/riscv64", &["double float", "rv64gc"]);
}

#[test]
fn the_loader_of_hard_float_needs_v6() {
    for (path, platform) in [
        ("/lib/ld-linux-armhf.so.3", "linux/arm/v6"),
        ("/lib/ld-musl-armhf.so.1", "linux/arm/v6"),
        ("/lib/ld-linux.so.3", "linux/arm"),
    ] {
        let made = Made { interpreter: Some(path), ..Made::new(false, false, 40, 0x0500_0000) };
        check(&made, platform, &[]);
        assert_eq!(sampled(&made.file()).unwrap().interpreter, Some(path.as_bytes().to_vec()));
    }
}

#[test]
fn the_property_note_determines_the_level_of_amd64() {
    let note = |bits: u32| {
        let property = [0xc000_8002_u32, 4, bits, 0].map(u32::to_le_bytes).concat();
        let head = [4, property.len() as u32, 5].map(u32::to_le_bytes).concat();
        [head.as_slice(), b"GNU\0", &property].concat()
    };
    let with = |bits| Made { note: note(bits), ..Made::new(true, false, 62, 0) };
    check(&with(1), "linux/amd64", &[]);
    check(&with(3), "linux/amd64/v2", &["x86-64-v2 by its property note"]);
    check(&with(4), "linux/amd64/v3", &["x86-64-v3 by its property note"]);
    check(&with(15), "linux/amd64/v4", &["x86-64-v4 by its property note"]);
}

#[test]
fn build_settings_of_go_are_read() {
    let settings = "path\tx\nbuild\tGOARCH=arm\nbuild\tGOARM=6,softfloat\nbuild\tvcs=git\n";
    let mut info = b"\xff Go buildinf:\x04\x02".to_vec();
    info.resize(32, 0);
    info.extend(b"\x06go1.26");
    info.push(settings.len() as u8);
    info.extend(settings.as_bytes());
    let read = |info: &[u8], architecture: &'static str| {
        let (mut marks, mut details) = (MarkReader::new(architecture), Vec::new());
        golang::read(info, architecture, &mut marks, &mut details);
        (marks.finish().map(|mark| mark.level), details)
    };
    assert_eq!(read(&info, "arm"), (Some("v6".into()), vec!["GOARM=6,softfloat".to_string()]));
    for cut in 0..info.len() {
        read(&info[..cut], "arm");
    }
    // Aligned build settings are found for any size of pieces.
    for (at, found) in [(0, true), (16, true), (4096, true), (8, false)] {
        let mut segment = vec![7; at];
        segment.extend(&info);
        for piece in [1, 7, 16, 5000] {
            let mut hunt = golang::BuildInfoScanner::default();
            let mut place = 0x100;
            for chunk in segment.chunks(piece) {
                hunt.push(place, chunk, 1 << 20);
                place += chunk.len() as u64;
            }
            assert_eq!(hunt.found() == info, found, "{at} {piece}");
        }
    }
}

#[test]
fn invalid_numbers_are_ignored() {
    let made = Made { interpreter: Some("/lib/ld.so"), ..Made::new(true, false, 62, 0) };
    let file = made.file();
    // e_phentsize 0, e_phoff near the maximum, p_offset of the interpreter after the end.
    for (at, bytes) in [(54, &[0, 0][..]), (32, &[0xff; 8]), (64 + 56 + 8, &[0xff; 8])] {
        let mut wrong = file.clone();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        let found = sampled(&wrong).unwrap();
        assert_eq!((found.platform.to_string().as_str(), found.interpreter), ("linux/amd64", None));
    }
    let mut many = file.clone();
    many[56..58].copy_from_slice(&[0xff; 2]);
    assert_eq!(sampled(&many).unwrap().interpreter, Some(b"/lib/ld.so".to_vec()));
    for (at, byte) in [(4, 0), (4, 3), (5, 0), (5, 3)] {
        let mut wrong = file.clone();
        wrong[at] = byte;
        assert_eq!(sampled(&wrong), None);
    }
    // e_phnum is the last field that is read.
    for cut in 0..58 {
        assert_eq!(sampled(&file[..cut]), None, "{cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 2_000 } else { 100_000 }))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let file = [b"\x7fELF", bytes.as_slice()].concat();
        sampled(&file);
    }

    #[test]
    fn mutated_files_never_panic(
        edits in proptest::collection::vec((0_usize..700, prop_oneof![Just(0), Just(0xff), Just(0x7f), any::<u8>()]), 0..24),
        is_64: bool, is_big: bool, machine in prop_oneof![Just(40_u16), Just(62), Just(243), Just(8), any::<u16>()],
        cut in 0_usize..800,
    ) {
        let note = [4_u32, 16, 5].map(u32::to_le_bytes).concat();
        let note = [note.as_slice(), b"GNU\0", &[2, 0x80, 0, 0xc0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]].concat();
        let tail = [arm_attributes(&[6, 10]), attributes(b"riscv\0", b"\x05rv64\0")].concat();
        let made = Made { interpreter: Some("/lib/ld.so"), note, tail, ..Made::new(is_64, is_big, machine, 0) };
        let mut file = made.file();
        for (at, byte) in edits {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        file.truncate(cut);
        if let Some(found) = sampled(&file) {
            prop_assert!(!found.platform.architecture.is_empty());
        }
    }
}

#[test]
fn the_test_program_itself_is_parsed() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let found = sampled(&file).unwrap();
    let here = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => panic!("no row for {other}"),
    };
    assert_eq!((found.platform.to_string().as_str(), found.kind), (here, ElfKind::Program));
    assert!(found.interpreter.is_some());
}
