//! Layer tars of every kind: what `verify` reads is what engines unpack, whose reader of tar is Go's.

use super::made::{Layer, image, probe, verify};
use crate::tools::User;
use image_evidence::file::FileFacts;
use image_evidence::layer::{LayerEntry, LayerOutcome, NameHasher, read_stream};
use multiarch_tests::need;
use multiarch_tests::world::{program, require};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Result of reading a layer.
enum Expected {
    /// It is read, and has this program.
    Read(&'static str),
    /// It is passed over, with a reason that contains this.
    PassedOver(&'static str),
    /// It is an error that contains this: no engine can unpack it.
    Refused(&'static str),
}

use Expected::{PassedOver, Read, Refused};

/// Changes a header before its checksum is computed.
type Edit = fn(&mut [u8; 512]);

const USTAR: Edit = |_| {};

fn header(name: &str, kind: u8, size: usize, edit: Edit) -> Vec<u8> {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000755\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"15301147026\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut out = content.to_vec();
    out.resize(content.len().next_multiple_of(512), 0);
    out
}

fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    [header(name, kind, content.len(), USTAR), padded(content)].concat()
}

/// `d/app`, with its header changed.
fn app(edit: Edit) -> Vec<u8> {
    let elf = probe("linux/arm64");
    [header("d/app", b'0', elf.len(), edit), padded(&elf)].concat()
}

fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
        content += &format!("{length}{rest}");
    }
    member("PaxHeaders/x", kind, content.as_bytes())
}

fn long_name(name: &str) -> Vec<u8> {
    member("././@LongLink", b'L', format!("{name}\0").as_bytes())
}

/// The stored parts of a sparse file: the program, a hole from 512 to 4096, and 512 other bytes.
fn parts() -> Vec<u8> {
    [padded(&probe("linux/arm64")), vec![7; 512]].concat()
}

const ZEROS: [u8; 1024] = [0; 1024];

/// Name, archive, what follows its members, and the result.
type Row = (&'static str, Vec<Vec<u8>>, Vec<u8>, Expected);

fn sparse_rows() -> Vec<Row> {
    let stored = || member("GNUSparseFile.0/app", b'0', &parts());
    let of_0_1 = |map| {
        let records = [("GNU.sparse.size", "4608"), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", map)];
        pax(b'x', &[&records[..], &[("GNU.sparse.name", "d/app")]].concat())
    };
    let of_0_0 = [
        ("GNU.sparse.size", "4608"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "512"),
        ("GNU.sparse.offset", "4096"),
        ("GNU.sparse.numbytes", "512"),
    ];
    let of_1_0 = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.realsize", "4608"),
        ("GNU.sparse.name", "d/app"),
    ];
    let mapped = |map: &[u8]| member("GNUSparseFile.0/app", b'0', &[padded(map), parts()].concat());
    let end = || ZEROS.to_vec();
    let old: Edit = |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[386..410].copy_from_slice(b"00000000000\x0000000001000\0");
        block[483..495].copy_from_slice(b"00000001000\0");
    };
    vec![
        ("sparse 0.0", vec![pax(b'x', &of_0_0), member("d/app", b'0', &parts())], end(), Read("d/app")),
        ("sparse 0.1", vec![of_0_1("0,512,4096,512"), stored()], end(), Read("d/app")),
        ("sparse 1.0", vec![pax(b'x', &of_1_0), mapped(b"2\n0\n512\n4096\n512\n")], end(), Read("d/app")),
        ("sparse, map too short", vec![of_0_1("0,512,4096,511"), stored()], end(), Refused("malformed map")),
        ("sparse, out of order", vec![of_0_1("4096,512,0,512"), stored()], end(), Refused("malformed map")),
        ("sparse 1.0 without end", vec![pax(b'x', &of_1_0), mapped(b"99\n0\n")], end(), Refused("no end")),
        ("old sparse", vec![header("d/app", b'S', 512, old), vec![7; 512]], end(), PassedOver("type 'S'")),
    ]
}

fn end_rows() -> Vec<Row> {
    let zeros = |count: usize| vec![0; count];
    let part = [ZEROS.as_slice(), b"garbage"].concat();
    let second = [ZEROS.to_vec(), member("d/late", b'0', b""), ZEROS.to_vec()].concat();
    let lone = [&ZEROS[..512], &member("d/late", b'0', b""), &ZEROS].concat();
    vec![
        ("no end", vec![app(USTAR)], Vec::new(), Read("d/app")),
        ("one block of zeros", vec![app(USTAR)], zeros(512), Read("d/app")),
        ("zeros of no whole block", vec![app(USTAR)], zeros(1124), Read("d/app")),
        ("garbage behind the end", vec![app(USTAR)], part, Read("d/app")),
        ("a second archive", vec![app(USTAR)], second, Read("d/app")),
        (
            "an extension without member",
            vec![app(USTAR), pax(b'x', &[("path", "x")])],
            Vec::new(),
            Read("d/app"),
        ),
        ("zeros cut in the end marker", vec![app(USTAR)], zeros(612), Refused("truncated")),
        ("data after one block of zeros", vec![app(USTAR)], lone, Refused("single block of zeros")),
        ("no whole header", vec![app(USTAR)], b"garbage".to_vec(), Refused("truncated")),
    ]
}

fn header_rows() -> Vec<Row> {
    let row = |name, edit: Edit, expected| (name, vec![app(edit)], ZEROS.to_vec(), expected);
    let mut damaged = app(USTAR);
    damaged[0] ^= 1;
    vec![
        row("ustar", USTAR, Read("d/app")),
        row("ustar with another version", |b| b[263..265].copy_from_slice(b"99"), Read("d/app")),
        row("ustar without version", |b| b[263..265].fill(0), Read("d/app")),
        row("another magic", |b| b[257..262].copy_from_slice(b"UsTaR"), Read("d/app")),
        row("no magic", |b| b[257..265].fill(0), Read("d/app")),
        row("gnu", |b| b[257..265].copy_from_slice(b"ustar  \0"), Read("d/app")),
        row("size with blanks", |b| b[124..132].fill(b' '), Read("d/app")),
        row("size behind NULs", |b| b[124..132].fill(0), Read("d/app")),
        row(
            "size without NUL",
            |b| {
                b.copy_within(124..135, 125);
                b[124] = b'0';
            },
            Read("d/app"),
        ),
        row(
            "binary size",
            |b| {
                b[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\0");
                b[135] = u8::try_from(probe("linux/arm64").len()).unwrap();
            },
            Read("d/app"),
        ),
        row("negative size", |b| b[124..136].fill(0xff), Refused("negative size")),
        row("no number", |b| b[124] = b'x', Refused("not a number")),
        row("no number as owner", |b| b[108..112].copy_from_slice(b"root"), Refused("not a number")),
        row("star", |b| b[508..512].copy_from_slice(b"tar\0"), Read("d/app")),
        row("star with prefix", star, Read("pre/d/app")),
        row(
            "gnu with a prefix",
            |b| {
                b[257..265].copy_from_slice(b"ustar  \0");
                b[345..348].copy_from_slice(b"usr");
            },
            PassedOver("half GNU"),
        ),
        ("wrong checksum", vec![damaged], ZEROS.to_vec(), Refused("checksum")),
    ]
}

fn star(block: &mut [u8; 512]) {
    block[345..348].copy_from_slice(b"pre");
    block[476..500].fill(b'0');
    block[508..512].copy_from_slice(b"tar\0");
}

fn extension_rows() -> Vec<Row> {
    let row = |name, members: &[Vec<u8>], expected| (name, members.to_vec(), ZEROS.to_vec(), expected);
    let one = || pax(b'x', &[("path", "d/one")]);
    let size = probe("linux/arm64").len().to_string();
    let content = || padded(&probe("linux/arm64"));
    let hidden = member("././@LongLink", b'L', b"d/long\0hidden");
    vec![
        row(
            "pax size of a header without one",
            &[pax(b'x', &[("size", &size)]), header("d/app", b'0', 0, USTAR), content()],
            Read("d/app"),
        ),
        row(
            "pax size and another",
            &[pax(b'x', &[("size", &size)]), header("d/app", b'0', 9999, USTAR), content()],
            Read("d/app"),
        ),
        row("pax size and the same", &[pax(b'x', &[("size", &size)]), app(USTAR)], Read("d/app")),
        row("negative pax size", &[pax(b'x', &[("size", "-1")]), app(USTAR)], Refused("negative size")),
        row("pax size of no number", &[pax(b'x', &[("size", "x")]), app(USTAR)], Refused("not a number")),
        row("two pax headers", &[one(), pax(b'x', &[("path", "d/two")]), app(USTAR)], Read("d/two")),
        row(
            "a later pax header without a name",
            &[one(), pax(b'x', &[("comment", "x")]), app(USTAR)],
            Read("d/app"),
        ),
        row("a key twice", &[pax(b'x', &[("path", "d/one"), ("path", "d/two")]), app(USTAR)], Read("d/two")),
        row("an empty name", &[pax(b'x', &[("path", "")]), app(USTAR)], Read("d/app")),
        row("pax, then a long name", &[one(), long_name("d/long"), app(USTAR)], Read("d/long")),
        row("a long name, then pax", &[long_name("d/long"), one(), app(USTAR)], Read("d/long")),
        row("two long names", &[long_name("d/one"), long_name("d/two"), app(USTAR)], Read("d/two")),
        row("a long name with a NUL", &[hidden, app(USTAR)], Read("d/long")),
        row("malformed pax", &[member("x", b'x', b"99 path=x\n"), app(USTAR)], Refused("malformed")),
        row("global", &[pax(b'g', &[("comment", "x")]), app(USTAR)], Read("d/app")),
        row(
            "global between pax and member",
            &[one(), pax(b'g', &[("comment", "x")]), app(USTAR)],
            Read("d/app"),
        ),
        row(
            "global that renames",
            &[pax(b'g', &[("path", "d/one")]), app(USTAR)],
            PassedOver("global header"),
        ),
    ]
}

fn type_rows() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        ("GNU 'D'", b'D', "type 'D'"),
        ("GNU 'V'", b'V', "type 'V'"),
        ("GNU 'M'", b'M', "type 'M'"),
        ("GNU 'N'", b'N', "type 'N'"),
        ("Solaris 'X'", b'X', "type 'X'"),
        ("Solaris 'A'", b'A', "type 'A'"),
        ("star 'I'", b'I', "type 'I'"),
        ("contiguous '7'", b'7', "type '7'"),
        ("unknown 'Z'", b'Z', "type 'Z'"),
        ("unknown 0xff", 0xff, "type '\\xff'"),
    ]
    .into_iter()
    .map(|(name, kind, why)| {
        (name, vec![member("d/other", kind, b"content"), app(USTAR)], ZEROS.to_vec(), PassedOver(why))
    })
    .collect();
    let link = header("d/link", b'2', 7, |block| block[157..160].copy_from_slice(b"app"));
    rows.push(("a link with a size", vec![link, app(USTAR)], ZEROS.to_vec(), Read("d/app")));
    rows.push((
        "an old directory",
        vec![header("e/", 0, 7, USTAR), app(USTAR)],
        ZEROS.to_vec(),
        Read("d/app"),
    ));
    rows
}

fn rows() -> Vec<(&'static str, Vec<u8>, Expected)> {
    let all = [header_rows(), end_rows(), sparse_rows(), extension_rows(), type_rows()].into_iter().flatten();
    all.map(|(name, members, end, expected)| {
        let directory = header("d/", b'5', 0, USTAR);
        (name, [directory, members.concat(), end].concat(), expected)
    })
    .collect()
}

#[test]
fn layer_tars_of_every_kind_are_read_as_engines_read_them_or_passed_over() {
    for (name, bytes, expected) in rows() {
        let read = read_stream(bytes.as_slice(), None, &NameHasher::random(), &|| "read".into());
        match (expected, read) {
            (Read(path), Ok(LayerOutcome::Read(facts))) => {
                let Some(LayerEntry::File { facts: Some(FileFacts::Elf(elf)), executable: true }) =
                    facts.entry(path.as_bytes())
                else {
                    panic!("{name}: no program {path}");
                };
                assert_eq!(elf.platform.architecture, "arm64", "{name}");
                assert_eq!(facts.programs().count(), 1, "{name}");
            }
            (PassedOver(word), Ok(LayerOutcome::Skipped(why))) => {
                assert!(why.contains(word), "{name}: {why}")
            }
            (Refused(word), Err(error)) => assert!(error.to_string().contains(word), "{name}: {error}"),
            (_, other) => panic!("{name}: {other:?}"),
        }
    }
}

/// All files below a directory, without the directory's path.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            found.insert(name);
        }
    }
    found
}

#[test]
fn umoci_which_reads_as_go_does_unpacks_what_verify_reads_and_nothing_else() {
    need!(require(&["umoci"]));
    let user = User::new();
    for (number, (name, bytes, expected)) in rows().into_iter().enumerate() {
        // umoci, unlike other engines, does not know global headers. Of half a GNU header, other readers than Go's read another name.
        if name.starts_with("global") || name == "gnu with a prefix" {
            continue;
        }
        let reference =
            image("linux/arm64", &["/d/app"], vec![bytes]).layout(&user, &format!("layout{number}"));
        let root = user.path(&format!("root{number}"));
        let mut umoci = Command::new(program("umoci").unwrap());
        umoci.args(["raw", "unpack", "--rootless", "--image"]).arg(reference.strip_prefix("oci:").unwrap());
        let done = umoci.arg(&root).output().unwrap();
        let stderr = String::from_utf8_lossy(&done.stderr);
        match expected {
            Read(path) => {
                assert!(done.status.success(), "{name}: {stderr}");
                let found = files(&root);
                assert!(found.contains(path), "{name}: {found:?}");
                assert!(found.iter().all(|found| found == path || found == "d/link"), "{name}: {found:?}");
            }
            PassedOver(_) | Refused(_) => assert!(!done.status.success(), "{name}: umoci unpacks it"),
        }
    }
}

#[test]
fn a_layer_that_engines_do_not_unpack_is_named_and_the_others_decide_if_they_can() {
    let user = User::new();
    let odd = || [member("d/other", b'D', b"content"), ZEROS.to_vec()].concat();
    let base = || Layer::new().file("app", &probe("linux/arm64")).end();
    let judged = |name: &str, layers: Vec<Vec<u8>>, verdict: &str| {
        let reference = image("linux/arm64", &["/app"], layers).layout(&user, name);
        let ran = verify(&user, &[&reference, "--full"]).exits(0);
        assert!(ran.stdout.contains(verdict) && ran.stdout.contains("a member of type 'D'"), "{ran}");
    };
    judged("below", vec![odd(), base()], "consistent");
    judged("above", vec![base(), odd()], "undetermined");
}
