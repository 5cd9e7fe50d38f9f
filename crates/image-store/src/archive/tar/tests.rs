use super::sample::{
    archive, directory, file, hard_link, header, member, on_disk, pax, set_checksum, symlink,
};
use super::*;
use crate::archive::tar::write::{END, file_headers, header_like, padding};
use std::os::unix::fs::FileExt;

fn read(bytes: &[u8]) -> Result<TarFile, String> {
    TarFile::read(on_disk(bytes)).map_err(|e| e.to_string())
}

/// Returns names and contents of files.
fn files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let tar = read(bytes).unwrap();
    let files = tar.members().iter().filter(|member| member.kind == MemberKind::File);
    files.map(|m| (show(tar.name(m)), tar.read_small(m, 1 << 20).unwrap())).collect()
}

fn refuse(bytes: &[u8], why: &str) {
    match read(bytes) {
        Err(error) => assert!(error.contains(why), "expected \"{why}\": {error}"),
        Ok(_) => panic!("accepted; expected: {why}"),
    }
}

#[test]
fn members_are_found_by_their_normalized_name() {
    let tar =
        read(&archive(&[directory("d/"), file("d/a", b"1"), file("./b", b""), file("d//c", b"x")])).unwrap();
    for name in ["d", "d/a", "b", "d/c"] {
        assert!(tar.find(name.as_bytes()).is_some(), "{name}");
    }
    for (spelled, plain) in [("./b", "b"), ("d//a", "d/a"), ("./d/./c", "d/c")] {
        assert_eq!(tar.find(spelled.as_bytes()), tar.find(plain.as_bytes()), "{spelled}");
    }
    assert_eq!((tar.find(b"../b"), tar.find(b"/b"), tar.find(b"a"), tar.find(b"")), (None, None, None, None));
}

#[test]
fn ambiguous_members_are_refused() {
    let twice = "is a member twice";
    refuse(&archive(&[file("a", b"1"), file("b", b""), file("a", b"2")]), twice);
    refuse(&archive(&[file("a", b"1"), file("./a", b"2")]), twice);
    refuse(&archive(&[file("a", b"1"), symlink("a", "b")]), twice);
    refuse(&archive(&[directory("a/"), file("a", b"1")]), twice);
    refuse(&archive(&[file("../a", b"1")]), "leaves the archive");
    refuse(&archive(&[file("a/../b", b"1")]), "leaves the archive");
    refuse(&archive(&[file("/etc/passwd", b"1")]), "absolute");
    refuse(&archive(&[file("", b"1")]), "without a name");
    refuse(&archive(&[file("a/", b"1")]), "the name of a directory but is none");
    refuse(&archive(&[file(".", b"1")]), "the name of a directory but is none");
    refuse(&archive(&[symlink("a", "b"), file("a/c", b"1")]), "is below");
    refuse(&archive(&[file("a/c", b"1"), file("a.b", b""), file("a", b"1")]), "is below");
    refuse(&archive(&[member("a", b'3', b"")]), "device or pipe");
    refuse(&archive(&[member("a", b'S', b"")]), "sparse");
    refuse(&archive(&[member("a", b'Q', b"")]), "unknown type");
    refuse(&archive(&[member("a", b'1', b"content")]), "not a file but has 7 bytes");
    refuse(&archive(&[member("a/", b'5', b"content")]), "not a file but has 7 bytes");
    // Duplicate directories are not ambiguous.
    assert!(read(&archive(&[directory("a/"), directory("./a/"), file("a/b", b"")])).is_ok());
}

#[test]
fn a_header_must_be_complete_with_a_correct_checksum() {
    let with = |change: fn(&mut [u8; 512])| {
        let mut block = header("a", b'0', 1, "");
        change(&mut block);
        archive(&[block.to_vec(), [b"1".as_slice(), padding(1)].concat()])
    };
    assert_eq!(files(&with(|_| {})), [("a".to_string(), b"1".to_vec())]);
    refuse(&with(|block| block[0] = b'b'), "checksum");
    refuse(&with(|block| block[148..156].fill(0)), "not a number");
    refuse(
        &with(|block| {
            block[124..136].copy_from_slice(b"-0000000001\0");
            set_checksum(block);
        }),
        "not a number",
    );
    refuse(
        &with(|block| {
            block[124..136].copy_from_slice(&[0xff; 12]);
            set_checksum(block);
        }),
        "negative or huge",
    );
    refuse(
        &with(|block| {
            block[257..265].copy_from_slice(b"ustarX00");
            set_checksum(block);
        }),
        "unknown format",
    );
    refuse(
        &with(|block| {
            block[257..265].copy_from_slice(b"ustar  \0");
            block[345..350].copy_from_slice(b"evil/");
            set_checksum(block);
        }),
        "half GNU",
    );
    refuse(
        &with(|block| {
            block[508..512].copy_from_slice(b"tar\0");
            set_checksum(block);
        }),
        "star",
    );
    // A member of 8 GiB in a file of 2 KiB.
    refuse(
        &with(|block| {
            block[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\x02\0\0\0\0");
            set_checksum(block);
        }),
        "truncated",
    );
}

#[test]
fn names_come_from_prefix_pax_or_gnu_headers() {
    let long = format!("{}/layer.tar", "d".repeat(200));
    let mut with_prefix = header("b", b'0', 1, "");
    with_prefix[345..348].copy_from_slice(b"p/q");
    set_checksum(&mut with_prefix);
    let bytes = archive(&[
        [&with_prefix[..], b"1", padding(1)].concat(),
        [pax(b'x', &[("path", &long), ("mtime", "1.5")]), file("x", b"2")].concat(),
        [member("././@LongLink", b'L', format!("{long}2\0").as_bytes()), file("y", b"3")].concat(),
        [pax(b'g', &[("comment", "1234")]), file("z", b"4")].concat(),
    ]);
    let names: Vec<String> = files(&bytes).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["p/q/b".to_string(), long.clone(), format!("{long}2"), "z".to_string()]);
    let long_link = archive(&[
        [member("././@LongLink", b'K', b"target\0"), symlink("l", "other")].concat(),
        file("target", b""),
    ]);
    assert_eq!(read(&long_link).unwrap().resolve(b"l").unwrap(), [0, 1]);
}

#[test]
fn contradictory_extension_headers_are_refused() {
    let after = |extension: Vec<u8>| archive(&[[extension, file("a", b"12345")].concat()]);
    assert!(read(&after(pax(b'x', &[("size", "5")]))).is_ok());
    refuse(&after(pax(b'x', &[("size", "4")])), "the member has 4 bytes in its PAX header");
    refuse(&after(pax(b'x', &[("size", "-5")])), "not a size");
    refuse(&after(pax(b'x', &[("size", "9223372036854775808")])), "not a size");
    refuse(&after(pax(b'x', &[("path", "b"), ("path", "c")])), "twice");
    refuse(&after(pax(b'x', &[("path", "")])), "empty");
    refuse(&after(pax(b'x', &[("path", "a\0b")])), "NUL");
    refuse(&after(pax(b'x', &[("path", "../b")])), "leaves the archive");
    refuse(&after(pax(b'x', &[("GNU.sparse.major", "1")])), "sparse");
    refuse(&after([pax(b'x', &[("a", "1")]), pax(b'x', &[("b", "1")])].concat()), "two PAX headers");
    refuse(&after(pax(b'g', &[("path", "b")])), "global header");
    refuse(&after(pax(b'g', &[("size", "1024")])), "global header");
    refuse(
        &after([member("L", b'L', b"n\0"), pax(b'x', &[("path", "m")])].concat()),
        "two extension headers",
    );
    refuse(&after([member("L", b'L', b"n\0"), member("L", b'L', b"m\0")].concat()), "two extension headers");
    refuse(&after(member("L", b'L', b"n\0hidden\0")), "NUL");
    refuse(&after(member("x", b'x', b"5 a=b")), "malformed");
    refuse(&after(member("x", b'x', b"99 a=b\n")), "malformed");
    refuse(&after(member("x", b'x', b"06 a=b\njunk")), "malformed");
    refuse(&archive(&[pax(b'x', &[("path", "a")])]), "extension header");
    let bomb = header("x", b'x', 4 << 30, "");
    refuse(&archive(&[bomb.to_vec()]), "extension header of 4294967296 bytes");
    let long_name = header("x", b'L', 2 << 20, "");
    refuse(&archive(&[long_name.to_vec()]), "extension header of 2097152 bytes");
}

#[test]
fn a_pax_size_is_used_if_the_header_cannot_hold_it() {
    // A sparse file: only headers and the end marker need disk space.
    let size: u64 = 9 << 30;
    let head = [pax(b'x', &[("size", &size.to_string())]), header("big", b'0', 0, "").to_vec()].concat();
    let file = on_disk(&head);
    let tail = file_headers("last", 0);
    file.write_all_at(&tail, head.len() as u64 + size).unwrap();
    file.write_all_at(&END, head.len() as u64 + size + 512).unwrap();
    let tar = TarFile::read(file).unwrap();
    let sizes: Vec<u64> = tar.members().iter().map(|member| member.size).collect();
    assert_eq!(sizes, [size, 0]);
}

#[test]
fn truncated_archives_and_data_after_the_end_are_refused() {
    let whole = archive(&[file("a", &[1; 700]), file("b", b"2")]);
    for cut in (0..whole.len()).filter(|cut| cut % 512 == 0 || cut % 512 == 511) {
        // Nothing, one member, both members, or one block of the end marker: readers accept these.
        let fine = [0, 1536, 2560, 3072].contains(&cut);
        assert_eq!(read(&whole[..cut]).is_ok(), fine, "cut at {cut}");
    }
    refuse(&[whole.clone(), whole.clone()].concat(), "after the end marker");
    let mut lone = archive(&[file("a", b"1")]);
    lone.splice(1024..1024, [0; 512]);
    lone.splice(1536..1536, file("b", b"2"));
    refuse(&lone, "after the end marker");
    assert!(read(&[whole.clone(), vec![0; 10 << 10]].concat()).is_ok());
    refuse(&[whole, vec![0; 17 << 20]].concat(), "after the end marker");
}

#[test]
fn links_are_followed_within_the_archive_only() {
    let tar = read(&archive(&[
        file("d/file", b"1"),
        symlink("e/up", "../d/file"),
        symlink("e/twice", "up"),
        hard_link("hard", "d/file"),
        symlink("round", "round2"),
        symlink("round2", "./round"),
        symlink("out", "../../etc/passwd"),
        symlink("root", "/etc/passwd"),
        symlink("nowhere", "x"),
        directory("f/"),
    ]))
    .unwrap();
    let ok = |name: &str, way: &[usize]| assert_eq!(tar.resolve(name.as_bytes()).unwrap(), way, "{name}");
    ok("d/file", &[0]);
    ok("./d/file", &[0]);
    ok("e/up", &[1, 0]);
    ok("e/twice", &[2, 1, 0]);
    ok("hard", &[3, 0]);
    let bad = |name: &str, why: &str| {
        let error = tar.resolve(name.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    };
    bad("round", "a circular link");
    bad("out", "leaves the archive");
    bad("root", "leaves the archive");
    bad("nowhere", "not in the archive");
    bad("f", "a directory");
    bad("../d/file", "leaves the archive");
    bad("/d/file", "absolute");
}

#[test]
fn new_members_are_read_back_and_deterministic() {
    let long = format!("blobs/sha512/{}", "a".repeat(128));
    let mut bytes = Vec::new();
    for name in ["short", &long] {
        assert_eq!(file_headers(name, 3), file_headers(name, 3));
        bytes.extend([&file_headers(name, 3)[..], b"abc", padding(3)].concat());
    }
    bytes.extend(END);
    assert_eq!(files(&bytes), [("short".to_string(), b"abc".to_vec()), (long, b"abc".to_vec())]);
    let huge = file_headers("huge", 10 << 30);
    let block: [u8; 512] = huge.try_into().unwrap();
    assert_eq!(header::TarHeader::parse(&block).unwrap().size, 10 << 30);
}

#[test]
fn a_replacement_header_keeps_owner_and_time() {
    let old = header("a-much-longer-name.json", b'0', 7, "");
    let new = header_like(&old, "b.json", 9).unwrap();
    let block: [u8; 512] = new.clone().try_into().unwrap();
    let parsed = header::TarHeader::parse(&block).unwrap();
    assert_eq!((parsed.name.as_slice(), parsed.size), (b"b.json".as_slice(), 9));
    assert_eq!(new[100..124], old[100..124]);
    assert_eq!(new[136..148], old[136..148]);
    assert_eq!(header_like(&old, &"x".repeat(101), 1), None);
}

#[test]
fn a_header_of_a_member_keeps_the_spelling_of_its_name() {
    let tar =
        read(&archive(&[file("./d//a", b"1"), pax(b'x', &[("mtime", "1.25")]), file("b", b"")])).unwrap();
    let name = |found: &str, name: &str| {
        let member = &tar.members()[tar.find(found.as_bytes()).unwrap()];
        let block: [u8; 512] = tar.header_for(member, name, 9).unwrap()?.try_into().unwrap();
        let parsed = header::TarHeader::parse(&block).unwrap();
        assert_eq!(parsed.size, 9);
        Some(String::from_utf8(parsed.name).unwrap())
    };
    assert_eq!(name("d/a", "d/a").as_deref(), Some("./d//a"));
    assert_eq!(name("d/a", "d/./a").as_deref(), Some("./d//a"));
    assert_eq!(name("d/a", "d/c").as_deref(), Some("d/c"));
    assert_eq!(name("b", "b"), None, "a member with two headers");
}

#[test]
fn names_links_and_extensions_of_an_archive_are_bounded() {
    let chain: Vec<Vec<u8>> = (0..42).map(|i| symlink(&format!("l{i}"), &format!("l{}", i + 1))).collect();
    let tar = read(&archive(&[chain, vec![file("l42", b"1")]].concat())).unwrap();
    assert_eq!(tar.resolve(b"l2").unwrap().len(), 41);
    assert!(tar.resolve(b"l1").unwrap_err().to_string().contains("a circular link"));

    let extended = |size: usize| member("x", b'x', &vec![b' '; size]);
    refuse(&archive(&[extended((1 << 20) + 1), file("a", b"")]), "extension header");
    refuse(&archive(&[member("L", b'L', &vec![b'n'; (64 << 10) + 1]), file("a", b"")]), "name");

    // 20 MiB of names: 320 of 64 KiB each, which is the longest.
    let long = |i: usize| {
        let mut name = format!("{i:09}/{}", "n/".repeat(32 << 10)).into_bytes();
        name.truncate((64 << 10) - 2);
        name.extend(b"n\0");
        [member("L", b'L', &name), file("a", b"")].concat()
    };
    let members = |count: usize| (0..count).map(long).collect::<Vec<_>>();
    assert!(read(&archive(&members(319))).is_ok());
    refuse(&archive(&members(321)), "the names in the archive exceed 20971520 bytes");
}

#[test]
fn a_hundred_thousand_members_are_read_quickly() {
    let mut bytes = Vec::new();
    for i in 0..100_000 {
        bytes.extend_from_slice(&header(&format!("{}/{i:06}", "d".repeat(60)), b'0', 0, ""));
    }
    bytes.extend(END);
    let tar = read(&bytes).unwrap();
    assert_eq!(tar.members().len(), 100_000);
    assert!(tar.find(format!("{}/099999", "d".repeat(60)).as_bytes()).is_some());
    assert!(tar.text.len() < 8 << 20);
}

#[test]
fn long_paths_and_names_that_are_not_utf8_are_kept_as_bytes() {
    let path = vec!["a"; 2048].join("/");
    let mut raw = header("x", b'0', 0, "");
    raw[0] = 0xff;
    set_checksum(&mut raw);
    let tar = read(&archive(&[
        [member("L", b'L', format!("{path}\0").as_bytes()), file("x", b"")].concat(),
        raw.to_vec(),
    ]))
    .unwrap();
    assert!(tar.find(path.as_bytes()).is_some());
    assert!(tar.find(b"\xff").is_some());
}

proptest::proptest! {
    /// No input makes the reader panic, and no member lies outside the file.
    #[test]
    fn any_bytes_are_read_or_refused(
        names in proptest::collection::vec("[ab./]{0,4}", 1..5),
        noise in proptest::collection::vec((0_usize..4096, proptest::prelude::any::<u8>()), 0..6),
    ) {
        let kinds = b"0125xgL";
        let members: Vec<Vec<u8>> =
            names.iter().enumerate().map(|(i, name)| member(name, kinds[(i + name.len()) % 7], name.as_bytes())).collect();
        let mut bytes = archive(&members);
        for (at, byte) in noise {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(tar) = read(&bytes) {
            for member in tar.members() {
                proptest::prop_assert!(member.end <= tar.length() && member.data_at + member.size <= member.end);
            }
        }
    }
}
