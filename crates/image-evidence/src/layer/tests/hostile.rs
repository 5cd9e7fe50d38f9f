//! Hostile headers, names and compression.

use super::*;

/// Returns a tar archive with a changed first header and a correct checksum.
fn damaged(change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut tar = Tar::default().file("bin/app", &elf(183)).file("x", b"y").end();
    change(&mut tar[..512]);
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

fn size(field: &[u8]) -> Vec<u8> {
    damaged(|header| header[124..124 + field.len()].copy_from_slice(field))
}

#[test]
fn sizes_are_read_as_go_reads_them_or_refused() {
    let length = elf(183).len() as u64;
    let base256 = [&[0x80][..], &[0; 3], &length.to_be_bytes()].concat();
    assert!(node(&facts(&size(&base256)).unwrap(), "bin/app").is_some());
    let refused = |field: &[u8]| {
        let error = facts(&size(field)).unwrap_err();
        assert_eq!(error.kind, Exit::BadInput, "{field:?}: {error}");
    };
    refused(&[0xff; 12]);
    refused(b"-0000000001\0");
    refused(b"0000x000001\0");
    refused(b"9999999999 \0");
    // 8 GiB in a file of 3 KiB, and the largest number.
    refused(b"100000000000");
    refused(&[&[0x80][..], &[0; 3], &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat());
}

#[test]
fn a_wrong_checksum_is_refused_and_a_signed_one_is_accepted() {
    // Some old tar programs add signed bytes; Go accepts both.
    let mut tar = damaged(|header| header[0] = 0xe9);
    assert!(facts(&tar).is_ok());
    tar[0] ^= 1;
    assert!(facts(&tar).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn the_longest_path_and_names_that_are_not_utf8_are_accepted() {
    let long = format!("{}app", "d/".repeat(2046));
    assert_eq!(long.len(), 4095);
    let with = |name: &[u8]| {
        let mut tar = Tar::default().member(b'L', "x", "", &[name, b"\0"].concat());
        tar = tar.file("short", &elf(183));
        facts(&tar.end())
    };
    let layer = with(long.as_bytes()).unwrap();
    assert!(node(&layer, &long).is_some() && layer.programs().next().unwrap().0 == long.as_bytes());
    let raw = b"bin/\xff\xfe\x80";
    let layer = with(raw).unwrap();
    assert!(matches!(layer.entry(raw), Some(LayerEntry::File { facts: Some(FileFacts::Elf(_)), .. })));
    assert!(with(&[b'n'; 4097]).is_err());
}

#[test]
fn zstd_windows_up_to_32_mib_are_read_and_larger_ones_are_skipped() {
    let plain = sample();
    let stored = |window: u32| {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let frame = |descriptor: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd][..], descriptor, &[1, 0, 0]].concat();
    let skipped = |stored: &[u8]| match read_bytes(stored, &plain).unwrap() {
        LayerOutcome::Read(_) => String::new(),
        LayerOutcome::Skipped(why) => why,
    };
    for window in [23, 25] {
        assert_eq!(skipped(&stored(window)), "", "2^{window}");
    }
    // As `zstd --long` writes it; and by RFC 8878, 3.1.1.1, a window of 2^28 bytes (exponent 18, mantissa 0).
    let first = zstd::encode_all(&plain[..512], 1).unwrap();
    for stored in [stored(26), stored(27), frame(&[0x00, 18 << 3]), [first, stored(27)].concat()] {
        assert_eq!(skipped(&stored), "its zstd window is larger than 32 MiB");
    }
    // Dictionary 7.
    let error = read_bytes(&frame(&[0x01, 0x00, 7]), &plain).unwrap_err();
    assert_eq!(error.kind, Exit::BadInput, "{error}");
}

#[test]
fn a_decompression_bomb_in_several_gzip_members_is_refused() {
    // The maximum ratio of gzip is 1032; real layers are far below.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 32 << 20]).unwrap();
    let zeros = encoder.finish().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    let stored = [gzip(header.as_bytes()), zeros.repeat(32)].concat();
    let error = read_bytes(&stored, b"").unwrap_err();
    assert_eq!(error.kind, Exit::BadInput, "{error}");
    assert!(error.to_string().contains("unpack to more than"), "{error}");
}
