//! Hostile input of `verify`: layers that other tar readers understand differently, deep and wide indexes, and control
//! characters in names.

use super::made::{Layer, image, plain, probe, put, verify};
use crate::tools::User;
use image_evidence::layer::{self, LayerFacts, NameHasher};
use image_model::manifest::{Document, media_type};
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::need;
use multiarch_tests::world::{program, require};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Command;

/// Python script that prints, for each argument, the names of regular files as JSON, or `null` if tarfile fails.
const TARFILE: &str = "import json, sys, tarfile\n\
    for path in sys.argv[1:]:\n\
    \x20   try: print(json.dumps([m.name.encode('utf-8', 'surrogateescape').hex() for m in tarfile.open(path, 'r:') if m.isreg()]))\n\
    \x20   except Exception: print('null')\n";

/// Returns the tar seeds of the fuzz target, and copies with one changed byte in a header.
fn tars() -> Vec<Vec<u8>> {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/layer");
    let mut out = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let bytes = std::fs::read(path).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) || bytes.starts_with(&[0x28, 0xb5]) {
            continue;
        }
        for at in [0, 100, 107, 124, 135, 156, 157, 257, 263, 345, 482] {
            for block in (0..bytes.len()).step_by(512).take(12) {
                let mut damaged = bytes.clone();
                let Some(place) = damaged.get_mut(block + at) else { continue };
                *place = place.wrapping_add(1);
                // The checksum is corrected, because otherwise every change would be refused for it.
                damaged[block + 148..block + 156].fill(b' ');
                let sum: u32 = damaged[block..block + 512].iter().map(|byte| u32::from(*byte)).sum();
                damaged[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                out.push(damaged);
            }
        }
        out.push(bytes);
    }
    out
}

fn normal(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    parts.join(&b'/')
}

#[test]
fn verify_finds_the_same_programs_as_gnu_tar_and_python() {
    need!(require(&["python3"]));
    let user = User::new();
    let tars = tars();
    let mut accepted: Vec<(String, LayerFacts, Vec<u8>)> = Vec::new();
    for (number, bytes) in tars.iter().enumerate() {
        if let Ok(layer::LayerOutcome::Read(facts)) =
            layer::read_stream(bytes.as_slice(), None, &NameHasher::random(), &|| "read".into())
        {
            let path = user.write(&format!("{number}.tar"), bytes);
            accepted.push((path.display().to_string(), *facts, bytes.clone()));
        }
    }
    assert!(accepted.len() > 100 && accepted.len() < tars.len(), "{} of {}", accepted.len(), tars.len());
    let mut python = Command::new(program("python3").unwrap());
    let done = python.args(["-c", TARFILE]).args(accepted.iter().map(|(path, ..)| path)).output().unwrap();
    let lines = String::from_utf8(done.stdout).unwrap();
    let mut compared = 0;
    for ((path, facts, bytes), line) in accepted.iter().zip(lines.lines()) {
        let Ok(names) = serde_json::from_str::<Vec<String>>(line) else { continue };
        let unhex = |text: &String| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let theirs: BTreeSet<Vec<u8>> = names.iter().map(|name| normal(&unhex(name))).collect();
        let show = |name: &[u8]| format!("{} of {path}: {:?}", String::from_utf8_lossy(name), &bytes[..16]);
        for (name, _) in facts.programs() {
            assert!(theirs.contains(name), "only verify finds {}", show(name));
        }
        for name in &theirs {
            let is_whiteout = name.rsplit(|b| *b == b'/').next().unwrap().starts_with(b".wh.");
            let leaves_root = name.split(|b| *b == b'/').any(|part| part == b"..");
            assert!(
                is_whiteout || leaves_root || facts.entry(name).is_some(),
                "only Python finds {}",
                show(name)
            );
        }
        let mut tar = Command::new("tar");
        let listed = tar.args(["--quoting-style=literal", "-tf", path]).env("LC_ALL", "C").output().unwrap();
        if listed.status.success() {
            let gnu: BTreeSet<Vec<u8>> = listed.stdout.split(|b| *b == b'\n').map(normal).collect();
            for (name, _) in facts.programs().filter(|(name, _)| !name.contains(&b'\n')) {
                assert!(gnu.contains(name), "GNU tar does not find {}", show(name));
            }
        }
        compared += 1;
    }
    assert!(compared > 100, "{compared} were compared");
}

fn index_of(store: &MemoryStore, members: &[Document]) -> Document {
    let entries: Vec<_> = members.iter().map(Document::descriptor).collect();
    let text = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    let document = Document::new(text.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    document
}

#[test]
fn attestations_and_artifacts_are_skipped_and_duplicate_members_have_two_verdicts() {
    let user = User::new();
    let store = MemoryStore::new();
    let app = image("linux/arm64", &["/app"], vec![Layer::new().file("app", &probe("linux/arm64")).end()])
        .add_to(&store);
    let attestation = image("unknown/unknown", &[], vec![plain(b"{}")]).add_to(&store);
    let config = store.add_blob("application/vnd.example.config", b"{}");
    let text = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "application/vnd.example",
        "config": config, "layers": [],
    });
    let artifact = Document::new(text.to_string().into_bytes(), None).unwrap();
    store.write_document(&artifact).unwrap();
    let index = index_of(&store, &[app.clone(), attestation, artifact, app]);
    store.write_tag("x", &index).unwrap();
    let dir = user.path("index");
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let name = format!("oci:{}:v1", dir.display());
    let found = verify(&user, &[&name, "--format", "json"]).exits(1).json();
    let images = found["images"].as_array().unwrap().clone();
    assert_eq!(
        images.iter().map(|image| image["verdict"].as_str().unwrap()).collect::<Vec<_>>(),
        ["consistent"; 2]
    );
    let kinds: Vec<&str> =
        found["compatibility"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["no-platform"], "{found}");
}

#[test]
fn the_nesting_of_indexes_is_limited() {
    let user = User::new();
    let app = || image("linux/arm64", &["/app"], vec![Layer::new().file("app", &probe("linux/arm64")).end()]);
    let nested = |depth: usize| {
        let dir = user.path(&format!("nested-{depth}"));
        let layout = OciLayout::open_or_create(&dir).unwrap();
        let store = MemoryStore::new();
        let document = app().add_to(&store);
        store.write_tag("x", &document).unwrap();
        put(store, &layout, "v1");
        let memory = MemoryStore::new();
        app().add_to(&memory);
        let mut top = document;
        for _ in 0..depth {
            top = index_of(&memory, &[top]);
            layout.write_document(&top).unwrap();
        }
        layout.write_tag("v1", &top).unwrap();
        format!("oci:{}:v1", dir.display())
    };
    let ran = verify(&user, &[&nested(8)]).exits(1);
    assert!(ran.stdout.contains("linux/arm64  consistent") && ran.stdout.contains("nested index"), "{ran}");
    verify(&user, &[&nested(9)]).exits(3).assert_stderr_contains("nested deeper than 8");
    verify(&user, &[&nested(200)]).exits(3).assert_stderr_contains("nested deeper than 8");
}

#[test]
fn an_index_above_the_member_limit_is_refused_at_once() {
    let user = User::new();
    let dir = user.path("wide");
    let store = MemoryStore::new();
    let app = image("linux/arm64", &["/app"], vec![Layer::new().file("app", &probe("linux/arm64")).end()])
        .add_to(&store);
    store.write_tag("x", &app).unwrap();
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let layout = OciLayout::open(&dir).unwrap();
    let entries: Vec<_> = std::iter::repeat_n(app.descriptor(), 15_000).collect();
    let text = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    layout.write_tag("wide", &Document::new(text.to_string().into_bytes(), None).unwrap()).unwrap();
    let begun = std::time::Instant::now();
    verify(&user, &[&format!("oci:{}:wide", dir.display())])
        .exits(3)
        .assert_stderr_contains("the limit is 10000");
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn control_characters_and_markup_in_names_are_escaped_in_reports() {
    let user = User::new();
    let layer = Layer::new()
        .file("bin/a\u{1b}[31m\u{202e}b\u{85}<script>\"'&", &probe("linux/amd64"))
        .file("app", &probe("linux/arm64"));
    let name = image("linux/arm64", &["/app"], vec![layer.end()]).layout(&user, "names");
    let reports = ["--html", "r.html", "--sarif", "r.sarif", "--junit", "r.xml"];
    verify(&user, &[&[name.as_str(), "--strict"], &reports[..]].concat()).exits(1);
    for file in ["r.html", "r.sarif", "r.xml"] {
        let text = std::fs::read_to_string(user.path(file)).unwrap();
        let is_control = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.chars().any(is_control) && !text.contains("b<script>"), "{file}");
        assert!(text.contains("\\u{1b}") || text.contains("u{1b}"), "{file} does not have the name");
    }
}
