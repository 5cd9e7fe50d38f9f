//! Tests with generated layers in every compression, truncated and damaged.

mod hostile;

use super::*;
use crate::elf::tests::Made;
use crate::file::DataKind;
use error::Exit;
use image_model::manifest::media_type::OCI_LAYER;
use image_store::store::memory::MemoryStore;
use std::io::{Read, Write};

/// The key of the hashes of all layers here, so that they can be put on top of each other.
pub const HASHER_KEY: [u8; 32] = [7; 32];

/// A tar archive under construction.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn member(self, kind: u8, name: &str, link: &str, content: &[u8]) -> Self {
        self.with_mode(0o755, kind, name, link, content)
    }

    fn with_mode(mut self, mode: u32, kind: u8, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(b'0', name, "", content)
    }

    /// A file without execute permission.
    pub fn data(self, name: &str, content: &[u8]) -> Self {
        self.with_mode(0o644, b'0', name, "", content)
    }

    pub fn directory(self, name: &str) -> Self {
        self.member(b'5', name, "", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(b'2', name, target, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.member(b'1', name, target, b"")
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub fn facts(self) -> LayerFacts {
        facts(&self.end()).unwrap()
    }
}

fn read_bytes(stored: &[u8], unpacked: &[u8]) -> Result<LayerOutcome, Error> {
    let store = MemoryStore::new();
    let blob = store.add_blob(OCI_LAYER, stored);
    read(&store, &blob, Some(&Digest::of(unpacked)), &NameHasher::new(HASHER_KEY))
}

fn facts(bytes: &[u8]) -> Result<LayerFacts, Error> {
    match read_bytes(bytes, bytes)? {
        LayerOutcome::Read(facts) => Ok(*facts),
        LayerOutcome::Skipped(why) => panic!("{why}"),
    }
}

pub fn elf(machine: u16) -> Vec<u8> {
    Made::new(machine != 40 && machine != 3, machine == 22, machine, 0).file()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sample() -> Vec<u8> {
    Tar::default()
        .directory("./bin/")
        .file("./bin/app", &elf(183))
        .symlink("bin/sh", "app")
        .hard_link("bin/ash", "./bin/app")
        .file("etc/passwd", b"root")
        .file("usr/.wh.gone", b"")
        .file("opt/.wh..wh..opq", b"")
        .member(b'3', "dev/null", "", b"")
        .end()
}

fn node<'a>(layer: &'a LayerFacts, name: &str) -> Option<LayerEntry<'a>> {
    layer.entry(name.as_bytes())
}

#[test]
fn members_are_found_by_name() {
    let layer = facts(&sample()).unwrap();
    assert!(matches!(
        node(&layer, "bin/app"),
        Some(LayerEntry::File { facts: Some(FileFacts::Elf(_)), executable: true })
    ));
    assert_eq!(node(&layer, "bin"), Some(LayerEntry::Directory));
    assert_eq!(node(&layer, "bin/sh"), Some(LayerEntry::Symlink(b"app")));
    assert_eq!(node(&layer, "bin/ash"), Some(LayerEntry::HardLink(b"bin/app")));
    assert_eq!(node(&layer, "etc"), Some(LayerEntry::Implied));
    let text = Some(&FileFacts::Data(DataKind::Text));
    assert_eq!(node(&layer, "etc/passwd"), Some(LayerEntry::File { facts: text, executable: true }));
    assert_eq!(node(&layer, "dev/null"), Some(LayerEntry::Other));
    assert_eq!((node(&layer, "usr/gone"), node(&layer, "etc/.wh.gone")), (None, None));
    let hash = |path: &[u8]| layer.hasher.hash(path);
    assert!(layer.is_whiteout(hash(b"usr/gone")) && layer.is_opaque(hash(b"opt")));
    assert_eq!(layer.programs().map(|(path, _)| path).collect::<Vec<_>>(), [b"bin/app"]);
}

#[test]
fn the_last_of_two_members_is_used_and_whiteouts_are_kept() {
    let layer = Tar::default()
        .symlink("x", "y")
        .directory("x")
        .file("x/.wh..wh..opq", b"")
        .file(".wh.x", b"")
        .file("a/b", b"")
        .symlink("a", "c")
        .file("a/d", b"")
        .facts();
    assert_eq!(
        (node(&layer, "x"), node(&layer, "a")),
        (Some(LayerEntry::Directory), Some(LayerEntry::Symlink(b"c")))
    );
    let x = layer.hasher.hash(b"x");
    assert!(layer.is_whiteout(x) && layer.is_opaque(x));
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[test]
fn every_compression_has_the_same_result() {
    let plain = sample();
    let (first, second) = plain.split_at(700);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&plain)].concat();
    let mut stored = vec![plain.clone(), skippable];
    for pack in [gzip, zstd, xz, bzip2] {
        stored.extend([
            pack(&plain),
            [pack(first), pack(second)].concat(),
            [pack(b""), pack(&plain)].concat(),
        ]);
    }
    // Padding between the streams, as xz(1) accepts it.
    stored.push([xz(first), vec![0; 4], xz(second)].concat());
    for stored in stored {
        let LayerOutcome::Read(layer) = read_bytes(&stored, &plain).unwrap() else { panic!() };
        assert!(node(&layer, "bin/app").is_some());
        assert_eq!((layer.stored, layer.unpacked), (stored.len() as u64, plain.len() as u64));
    }
}

/// The layer with a dictionary of 2^(`log`) bytes in the header of its first block.
fn xz_with_dictionary(log: u8) -> Vec<u8> {
    let mut bytes = xz(&sample());
    // Stream header: 12 bytes. Block header: size, flags, filter 0x21 with one byte of properties, padding, CRC32.
    assert_eq!(bytes[12..16], [2, 0, 0x21, 1]);
    bytes[16] = (log - 12) * 2;
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..20]);
    bytes[20..24].copy_from_slice(&crc.sum().to_le_bytes());
    bytes
}

#[test]
fn xz_dictionaries_up_to_32_mib_are_read_and_larger_ones_are_skipped() {
    let outcome = |log| read_bytes(&xz_with_dictionary(log), &sample()).unwrap();
    assert!(matches!(outcome(25), LayerOutcome::Read(_)));
    for log in [26, 31] {
        let LayerOutcome::Skipped(why) = outcome(log) else { panic!("2^{log} was read") };
        assert_eq!(why, "its xz dictionary is larger than 32 MiB");
    }
}

#[test]
fn unsupported_compression_is_skipped_with_a_reason() {
    let LayerOutcome::Skipped(why) = read_bytes(b"\x04\x22\x4d\x18\0\0\0\0", b"").unwrap() else { panic!() };
    assert!(why.contains("lz4"), "{why}");
}

#[test]
fn damaged_layers_are_rejected() {
    let plain = sample();
    let check = |stored: &[u8], kind: Exit, word: &str| {
        let error = read_bytes(stored, &plain).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    let mut wrong_sum = plain.clone();
    wrong_sum[0] ^= 1;
    check(&wrong_sum, Exit::BadInput, "checksum");
    let lone_zeros = [&plain[..plain.len() - 512], &sample()].concat();
    check(&lone_zeros, Exit::BadInput, "data follows a single block of zeros");
    let packed = gzip(&plain);
    check(&[packed.as_slice(), b"garbage"].concat(), Exit::BadInput, "");
    check(&packed[..packed.len() - 1], Exit::BadInput, "");
    let mut wrong_crc = packed.clone();
    let at = packed.len() - 6;
    wrong_crc[at] ^= 1;
    check(&wrong_crc, Exit::BadInput, "");
    check(&gzip(&Tar::default().file("x", b"y").end()), Exit::Integrity, "unpacks to");
    check(&[&[0x28, 0xb5, 0x2f, 0xfd][..], &[0xff; 40]].concat(), Exit::BadInput, "");
    for packed in [xz(&plain), bzip2(&plain), zstd(&plain)] {
        for cut in (8..packed.len()).step_by(packed.len() / 50 + 1) {
            check(&packed[..cut], Exit::BadInput, "");
        }
        let mut damaged = packed.clone();
        damaged[packed.len() / 2] ^= 0x55;
        assert!(read_bytes(&damaged, &plain).is_err());
    }
    check(b"not a tar at all", Exit::BadInput, "truncated in a header");
}

#[test]
fn truncation_is_detected_except_for_a_missing_end_marker() {
    let plain = sample();
    let members_end = plain.len() - 1024;
    for cut in (0..plain.len()).step_by(512).flat_map(|block| [block, block + 1, block + 511]) {
        let result = facts(&plain[..cut]);
        // Truncated exactly between members, which GNU tar and Go accept.
        let is_refused = result.is_err();
        if cut % 512 != 0 {
            assert!(is_refused, "{cut}");
        }
        if cut >= members_end && cut % 512 == 0 {
            assert!(!is_refused, "{cut}");
        }
    }
}

#[test]
fn extension_headers_are_bounded_and_must_agree() {
    let long = "d/".repeat(300) + "app";
    let pax = |text: &str| {
        let length = text.len() + 2;
        let length = length + (length + 1).to_string().len();
        format!("{length} {text}\n").into_bytes()
    };
    let named = |kind: u8, content: &[u8]| {
        Tar::default().member(kind, "x", "", content).file("short", &elf(62)).end()
    };
    for tar in [named(b'L', format!("{long}\0").as_bytes()), named(b'x', &pax(&format!("path={long}")))] {
        assert!(node(&facts(&tar).unwrap(), &long).is_some());
    }
    let refused = |tar: Vec<u8>, word: &str| {
        let error = facts(&tar).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    // A size in a PAX header counts, even if the header of the member has another one.
    let three_bytes = facts(&named(b'x', &pax("size=3"))).unwrap();
    assert!(three_bytes.programs().next().is_none() && node(&three_bytes, "short").is_some());
    let global = named(b'g', &pax("path=other"));
    let Ok(LayerOutcome::Skipped(why)) = read_bytes(&global, &global) else {
        panic!("engines ignore its name")
    };
    assert!(why.contains("a global header"), "{why}");
    refused(named(b'x', b"99 path=x\n"), "malformed");
    refused(named(b'L', format!("{}\0", "n".repeat(5000)).as_bytes()), "4096");
    let mut huge = tar::Header::new_gnu();
    huge.set_entry_type(tar::EntryType::new(b'x'));
    huge.set_size(8 << 30);
    huge.set_cksum();
    refused(huge.as_bytes().to_vec(), "an extension header of 8589934592 bytes");
}

#[test]
fn a_decompression_bomb_is_refused_early() {
    // 1 GiB of zeros in one member, which zstd compresses to some kilobytes.
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    let content = header.as_bytes().as_slice().chain(std::io::repeat(0).take(1 << 30));
    let stored = zstd::encode_all(content, 1).unwrap();
    // 45,000 zeros are a few bytes in bzip2: several of its streams unpack to the same.
    let piece = bzip2(&vec![0; 45 << 20]);
    let streams = std::iter::repeat_n(piece, 24).flatten().collect();
    let header_packed = bzip2(header.as_bytes());
    for stored in [stored, [header_packed, streams].concat()] {
        let error = read_bytes(&stored, b"").unwrap_err();
        assert_eq!(error.kind, Exit::BadInput);
        assert!(error.to_string().contains("unpack to more than"), "{error}");
    }
}

#[test]
fn holes_of_sparse_programs_are_read_up_to_a_limit() {
    let pax = |size: u64| {
        let map = format!("0,4096,{},0", size);
        let records = [("GNU.sparse.size", size.to_string()), ("GNU.sparse.numblocks", "2".into())];
        let mut text = String::new();
        for (key, value) in records.into_iter().chain([("GNU.sparse.map", map)]) {
            let rest = format!(" {key}={value}\n");
            text += &format!("{}{rest}", rest.len() + 2);
        }
        text.into_bytes()
    };
    let mut program = elf(183);
    program.resize(4096, 0);
    let layer =
        |content: &[u8], size| Tar::default().member(b'x', "x", "", &pax(size)).file("app", content).end();
    // Data: only its first bytes are read.
    assert!(node(&facts(&layer(&[0; 4096], 1 << 60)).unwrap(), "app").is_some());
    assert!(matches!(
        node(&facts(&layer(&program, 1 << 20)).unwrap(), "app"),
        Some(LayerEntry::File { facts: Some(FileFacts::Elf(_)), executable: true })
    ));
    let huge = layer(&program, 1 << 60);
    let Ok(LayerOutcome::Skipped(why)) = read_bytes(&huge, &huge) else { panic!("the hole was read") };
    assert!(why.contains("1 GiB of holes"), "{why}");
}

#[test]
fn a_layer_of_2_500_000_entries_is_refused() {
    let mut builder = LayerBuilder::new(&NameHasher::new(HASHER_KEY));
    for hash in 0..2_500_000 {
        builder.record(hash, DIRECTORY).unwrap();
    }
    let error = builder.directory(b"one more").unwrap_err();
    assert_eq!(error.to_string(), "it has more than 1250000 entries");
}

/// Repeated directories are counted, because a hostile layer repeats thousands of them in each entry.
#[test]
fn a_layer_that_names_more_than_50_000_000_directories_is_refused() {
    let mut builder = LayerBuilder::new(&NameHasher::new(HASHER_KEY));
    builder.recorded = 49_999_996;
    builder.directory(b"a/b/c").unwrap();
    assert_eq!(builder.recorded, 49_999_999);
    builder.directory(b"a/b/d").unwrap();
    let error = builder.directory(b"a/b/e").unwrap_err();
    assert_eq!(error.to_string(), "it names more than 50000000 files and directories");
}

#[test]
fn programs_above_the_limit_are_counted() {
    let mut builder = LayerBuilder::new(&NameHasher::new(HASHER_KEY));
    let elf = match facts(&sample()).unwrap().programs().next().unwrap().1 {
        FileFacts::Elf(elf) => elf.clone(),
        _ => panic!(),
    };
    for i in 0..(FACTS_MAX + 10) {
        let mut elf = elf.clone();
        elf.platform.architecture = format!("elf-machine-{i}");
        builder.file(format!("bin/{i}").as_bytes(), Some(FileFacts::Elf(elf)), true).unwrap();
    }
    let layer = builder.finish();
    assert_eq!((layer.unlisted, layer.facts.len()), (10, FACTS_MAX));
    assert!(matches!(
        node(&layer, &format!("bin/{}", FACTS_MAX + 1)),
        Some(LayerEntry::File { facts: None, .. })
    ));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

    #[test]
    fn damaged_layers_never_panic(edits in proptest::collection::vec((0_usize..6000, proptest::prelude::any::<u8>()), 0..20), cut in 0_usize..6000) {
        let mut bytes = sample();
        for (at, byte) in edits {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let _ = read_bytes(&bytes, &bytes);
        let _ = read_bytes(&gzip(&bytes), &bytes);
    }
}
