//! Properties that are true for any bytes, one function per target. A panic is a finding.

use error::Exit;
use image_evidence::chain;
use image_evidence::elf::sampler::Sampler;
use image_evidence::file::{self, FileFacts};
use image_evidence::layer::{LayerFacts, LayerOutcome, NameHasher, read_stream, read_stream_as};
use image_evidence::overlay::{OverlayTree, Resolved};
use image_model::digest::Digest;
use image_model::manifest::Config;
use image_model::raw_json::{self, JsonObject, Splice};
use image_store::archive::tar::write::{END, file_headers, padding};
use registry_client::parse_challenges;
use std::io::{Read, Write};

#[path = "properties/archive.rs"]
pub mod archive;
#[path = "properties/encoding.rs"]
pub mod encoding;
#[path = "properties/levels.rs"]
pub mod levels;
#[path = "properties/tar.rs"]
pub mod tar;
#[path = "properties/toc.rs"]
pub mod toc;

/// Panics if the property is false.
pub type Property = fn(&[u8]);

/// The targets; each name is also that of its directory of seeds.
pub const TARGETS: [(&str, Property); 13] = [
    ("elf", elf),
    ("levels", levels::levels),
    ("layer", layer),
    ("script", script),
    ("windows", windows),
    ("packed", packed),
    ("zip", zip),
    ("json", json),
    ("challenge", challenge),
    ("toc", toc::toc),
    ("encoding", encoding::encoding),
    ("tar", tar::tar),
    ("archive", archive::archive),
];

/// The facts of a file do not depend on how the stream is divided into pieces.
pub fn elf(bytes: &[u8]) {
    let (first, content) = bytes.split_first().unwrap_or((&0, &[]));
    let facts = |piece: usize| {
        let mut sampler = Sampler::default();
        // The samples of the previous file must be gone.
        sampler.push(b"\x7fELF\x02\x01 and more");
        sampler.restart();
        for piece in content.chunks(piece) {
            if sampler.wants_more() {
                sampler.push(piece);
            }
        }
        file::classify(&sampler.finish())
    };
    let whole = facts(usize::MAX);
    assert_eq!(facts(usize::from(*first) * 97 + 1), whole, "in pieces");
    if let Some(FileFacts::Elf(elf)) = whole {
        assert!(elf.interpreter.as_ref().is_none_or(|path| path.starts_with(b"/") && !path.contains(&0)));
        assert!(elf.needed.iter().all(|name| !name.is_empty() && !name.contains(&0)));
        assert!(!elf.platform.architecture.is_empty());
        levels::check_mark(&elf);
    }
}

/// Every program of a layer is found under its path, and a second read returns the same.
pub fn layer(bytes: &[u8]) {
    let whole = read(bytes);
    let trickled = read(Trickle { bytes, read_max: 1 + usize::from(bytes.first().copied().unwrap_or(0)) });
    assert_eq!(
        whole.as_ref().map(names).map_err(|e| e.kind),
        trickled.as_ref().map(names).map_err(|e| e.kind)
    );
    let Ok(LayerOutcome::Read(facts)) = whole else { return };
    let tree = OverlayTree::new(vec![Some(&facts), Some(&facts)]);
    for (path, ..) in tree.programs() {
        let found = tree.resolve(&[b"/", path].concat());
        assert!(!matches!(found, Resolved::Unread(_)), "all layers were read");
    }
    for path in ["/", "/bin/sh", "/a/../b//c", "/a/b/c/d"] {
        tree.resolve(path.as_bytes());
    }
    let config = Config { entrypoint: vec!["/a".into()], cmd: vec!["b".into()], ..Config::default() };
    chain::follow(&tree, &config);
}

/// Following scripts and wrappers ends. The input is scripts and words of the command, separated by NUL.
pub fn script(bytes: &[u8]) {
    let mut parts = bytes.split(|b| *b == 0);
    let mut tar = Vec::new();
    let contents = [parts.next(), parts.next(), Some(&b"#!/run"[..])];
    for (name, content) in ["run", "bin/sh", "bin/env"].iter().zip(contents) {
        let content = content.unwrap_or_default();
        tar.extend(file_headers(name, content.len() as u64));
        // As `chmod +x` does: only executable files are found in PATH.
        change(&mut tar, 104, b"755");
        tar.extend(content);
        tar.extend(padding(content.len() as u64));
    }
    tar.extend(END);
    let Ok(LayerOutcome::Read(facts)) = read(tar.as_slice()) else { panic!("this tar is valid") };
    let words = parts.map(|word| String::from_utf8_lossy(word).into_owned());
    let entrypoint = std::iter::once("/run".to_string()).chain(words).collect();
    let config = Config { entrypoint, ..Config::default() };
    let chain = chain::follow(&OverlayTree::new(vec![Some(&facts)]), &config);
    // STEPS_MAX, the shell, and the links of s6-overlay.
    assert!(chain.links.len() < 64, "{} links", chain.links.len());
    if let Some(failure) = &chain.failure {
        assert!(!failure.to_string().is_empty() && !failure.advice().is_empty(), "{failure:?}");
        assert!(!failure.to_string().chars().any(char::is_control), "{failure:?}");
    }
}

/// Following the command of a Windows image ends. The input is the words of the command, separated by NUL.
pub fn windows(bytes: &[u8]) {
    let mut tar = Vec::new();
    let exe = [&b"MZ"[..], &[0; 58], &[0x40, 0, 0, 0], b"PE\0\0\x64\x86"].concat();
    for name in ["Files/Windows/System32/cmd.exe", "Files/App/Server.exe", "Files/app/run.cmd", "Hives/x"] {
        tar.extend(file_headers(name, exe.len() as u64));
        tar.extend(if name.ends_with("exe") { exe.clone() } else { vec![b'x'; exe.len()] });
        tar.extend(padding(exe.len() as u64));
    }
    tar.extend(END);
    let Ok(LayerOutcome::Read(facts)) = read(tar.as_slice()) else { panic!("this tar is valid") };
    let entrypoint =
        bytes.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let config = Config { entrypoint, working_dir: r"C:\app".into(), ..Config::default() };
    let chain = chain::windows::follow(&OverlayTree::new(vec![Some(&facts)]), &config);
    // COMMANDS_MAX.
    assert!(chain.links.len() <= 100, "{} links", chain.links.len());
    assert!(!chain.is_reached || !chain.links.is_empty());
}

/// Compressed in several members, or damaged: the unpacked bytes are the original ones, or there is an error.
pub fn packed(bytes: &[u8]) {
    let (cut, content) = bytes.split_first().unwrap_or((&0, &[]));
    let damaged = read(Trickle { bytes: content, read_max: 1 + usize::from(*cut) });
    assert_eq!(
        read(content).map(|l| names(&l)).map_err(|e| e.kind),
        damaged.map(|l| names(&l)).map_err(|e| e.kind)
    );
    let (first, second) = content.split_at(usize::from(*cut).min(content.len()));
    let members = [gzip(first), gzip(second)].concat();
    let id = Digest::of(content);
    let unpacked = read_stream(members.as_slice(), Some(&id), &hasher(), &|| "read".into());
    if let Err(error) = unpacked {
        assert_ne!(error.kind, Exit::Integrity, "{error}");
    } else if let Ok(LayerOutcome::Read(facts)) = unpacked {
        assert_eq!(facts.unpacked, content.len() as u64);
    }
}

/// A layer with an archive has the same files whether the archive is read or not, and in pieces of any size.
pub fn zip(bytes: &[u8]) {
    let (first, content) = bytes.split_first().unwrap_or((&0, &[]));
    let mut tar = Vec::new();
    for name in ["a.jar", "b.so"] {
        tar.extend(file_headers(name, content.len() as u64));
        tar.extend(content);
        tar.extend(padding(content.len() as u64));
    }
    tar.extend(END);
    let deep = |bytes: Trickle<'_>| read_stream_as(bytes, None, &hasher(), true, &|| "read".into());
    let whole = deep(Trickle { bytes: &tar, read_max: tar.len() }).expect("this tar is valid");
    let trickled =
        deep(Trickle { bytes: &tar, read_max: 1 + usize::from(*first) }).expect("this tar is valid");
    let (LayerOutcome::Read(whole), LayerOutcome::Read(trickled), Ok(LayerOutcome::Read(plain))) =
        (whole, trickled, read(tar.as_slice()))
    else {
        panic!("this tar is read")
    };
    let archives = |facts: &LayerFacts| {
        let tree = OverlayTree::new(vec![Some(facts)]);
        let found: Vec<(Vec<u8>, Vec<_>)> =
            tree.archives().map(|(path, _, platforms)| (path.to_vec(), platforms.to_vec())).collect();
        (found, tree.archives_unread())
    };
    assert_eq!(archives(&whole), archives(&trickled));
    assert_eq!(whole.unpacked, plain.unpacked);
    for name in [&b"a.jar"[..], b"b.so"] {
        assert_eq!(whole.entry(name), plain.entry(name));
    }
}

/// A change to a document can be read back, and changes nothing else.
pub fn json(bytes: &[u8]) {
    let Ok(object) = JsonObject::parse(bytes) else { return };
    for member in &object.members {
        assert!(member.key_at.end <= member.value_at.start && member.value_at.end < object.at.end);
        raw_json::check_syntax(&bytes[member.value_at.clone()]).expect("a value is JSON by itself");
    }
    let mut splice = Splice::default();
    if splice.set(bytes, &object, "variant", "\"v7\"", &["architecture"]).is_err() {
        return;
    }
    let changed = splice.apply(bytes);
    let again = JsonObject::parse(&changed).expect("a change leaves JSON");
    let member = again.unique(&changed, "variant").expect("once").expect("there");
    assert_eq!(&changed[member.value_at.clone()], b"\"v7\"");
    let others = |input: &[u8], object: &JsonObject| -> Vec<Vec<u8>> {
        let members = object.members.iter().filter(|member| member.key != "variant");
        members.map(|member| input[member.key_at.start..member.value_at.end].to_vec()).collect()
    };
    assert_eq!(others(bytes, &object), others(&changed, &again));
}

/// Everything in a parsed challenge was in the header.
pub fn challenge(bytes: &[u8]) {
    let Ok(value) = std::str::from_utf8(bytes) else { return };
    for found in parse_challenges(value) {
        assert!(!found.scheme.is_empty() && value.to_ascii_lowercase().contains(&found.scheme));
        for key in ["realm", "service", "scope", "error"] {
            assert!(found.param(key).is_none_or(|param| param.len() <= value.len()));
        }
    }
}

fn read(bytes: impl Read) -> Result<LayerOutcome, error::Error> {
    read_stream(bytes, None, &hasher(), &|| "read".into())
}

/// A hasher that is the same in every run.
fn hasher() -> NameHasher {
    NameHasher::new([7; 32])
}

fn names(layer: &LayerOutcome) -> Vec<Vec<u8>> {
    let names = |facts: &LayerFacts| facts.programs().map(|(path, _)| path.to_vec()).collect();
    match layer {
        LayerOutcome::Read(facts) => names(facts),
        LayerOutcome::Skipped(why) => vec![why.clone().into_bytes()],
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// Changes the last header and its checksum.
fn change(tar: &mut [u8], at: usize, bytes: &[u8]) {
    let header: &mut [u8; 512] = tar.last_chunk_mut().expect("a header");
    header[at..at + bytes.len()].copy_from_slice(bytes);
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Replaces a mark and the digit after it by a value that a fuzzer cannot guess: `@0` by the digest of the first
/// content.
fn filled(text: &[u8], value: impl Fn(u8, usize) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let digit = after.first().filter(|digit| digit.is_ascii_digit());
        match digit.and_then(|digit| value(*byte, usize::from(digit - b'0'))) {
            Some(value) => {
                out.extend(value.into_bytes());
                rest = &after[1..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

/// Returns a few bytes per read, as a slow network does.
struct Trickle<'a> {
    bytes: &'a [u8],
    read_max: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.len().min(self.read_max).min(buffer.len());
        buffer[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}
