//! Layers with a table of contents: a quick verification reads single files, verifies their digests, and reads the whole layer
//! where the table cannot be used.

use super::made::{image, plain, probe, verify};
use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use multiarch_tests::fake_registry::{FakeRegistry, Options};
use multiarch_tests::need;
use multiarch_tests::world::{Registry, program, require, run_with_rusage};
use serde_json::{Value, json};
use std::io::Write;

/// A layer: compressed bytes, uncompressed bytes, and the annotations that describe its table of contents.
struct Chunked {
    stored: Vec<u8>,
    unpacked: Vec<u8>,
    media_type: &'static str,
    annotations: Value,
}

/// A member of the layer: a file with its content, or a link with its target.
enum Member {
    File(&'static str, Vec<u8>),
    Symlink(&'static str, &'static str),
    HardLink(&'static str, &'static str),
    /// A file with another digest in the table: name, content with that digest, content in the layer.
    WrongDigest(&'static str, Vec<u8>, Vec<u8>),
    /// A file with another name in the table: name in the table, name in the layer, content.
    Renamed(&'static str, &'static str, Vec<u8>),
    /// This number of files in the table only.
    Listed(u32),
}

use Member::{File, HardLink, Listed, Renamed, Symlink, WrongDigest};

/// Returns 2 MiB of incompressible data, because small layers are read completely.
fn ballast() -> Member {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    File("usr/share/ballast", (0..2 << 20).map(|_| next()).collect())
}

fn members(program: &str) -> Vec<Member> {
    vec![
        ballast(),
        File("usr/bin/app", probe(program)),
        File("usr/bin/busybox", probe(program)),
        HardLink("usr/bin/sh", "usr/bin/busybox"),
        Symlink("bin", "usr/bin"),
        File("run", b"#!/bin/sh\nexec app\n".to_vec()),
    ]
}

fn header(member: &Member) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    let (name, link, kind, size) = match member {
        File(name, content) | WrongDigest(name, _, content) | Renamed(_, name, content) => {
            (*name, "", tar::EntryType::Regular, content.len())
        }
        Symlink(name, target) => (*name, *target, tar::EntryType::Symlink, 0),
        HardLink(name, target) => (*name, *target, tar::EntryType::Link, 0),
        Listed(_) => panic!("the layer has no such member"),
    };
    header.set_path(name).unwrap();
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Compresses each file separately; files over 1 MiB have several chunks. Returns compressed bytes, uncompressed bytes and
/// the entries of the table.
fn chunked(members: &[Member], compress: fn(&[u8]) -> Vec<u8>) -> (Vec<u8>, Vec<u8>, Vec<Value>) {
    let (mut stored, mut unpacked, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for member in members {
        if let Listed(count) = member {
            entries.extend((0..*count).map(listed));
            continue;
        }
        let head = header(member);
        stored.extend(compress(&head));
        unpacked.extend(head);
        match member {
            Symlink(name, target) => {
                entries.push(json!({"type": "symlink", "name": name, "linkName": target}))
            }
            HardLink(name, target) => {
                entries.push(json!({"type": "hardlink", "name": name, "linkName": target}))
            }
            Listed(_) => {}
            File(name, content) | WrongDigest(name, _, content) | Renamed(name, _, content) => {
                let digested = if let WrongDigest(_, digested, _) = member { digested } else { content };
                let cut = if content.len() > 1 << 20 { 1 << 20 } else { content.len() };
                let mut entry = json!({
                    "type": "reg", "name": name, "size": content.len(), "mode": 0o755, "digest": Digest::of(digested),
                });
                let mut at = 0;
                for chunk in content.chunks(cut) {
                    entry["offset"] = stored.len().into();
                    entry["chunkSize"] = if chunk.len() == content.len() { 0 } else { chunk.len() }.into();
                    entry["chunkOffset"] = at.into();
                    entries.push(entry);
                    entry = json!({"type": "chunk", "name": name});
                    at += chunk.len();
                    let mut part = chunk.to_vec();
                    if at == content.len() {
                        part.resize(part.len().next_multiple_of(512), 0);
                    }
                    stored.extend(compress(&part));
                    unpacked.extend(part);
                }
            }
        }
    }
    (stored, unpacked, entries)
}

/// Returns a table entry of typical length.
fn listed(number: u32) -> Value {
    json!({
        "type": "reg", "name": format!("usr/share/doc/package-{}/file-{number}.txt", number / 50),
        "size": 10, "mode": 0o644, "modtime": "2026-01-01T00:00:00Z", "uid": 0, "gid": 0,
        "digest": Digest::of(&number.to_le_bytes()), "offset": number,
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Returns an eStargz layer. Source: stargz-snapshotter, docs/estargz.md.
fn estargz(members: &[Member]) -> Chunked {
    let (mut stored, mut unpacked, entries) = chunked(members, gzip);
    let table = json!({"version": 1, "entries": entries}).to_string().into_bytes();
    let at = stored.len();
    let mut tail = header(&File("stargz.index.json", table.clone()));
    tail.extend(&table);
    tail.resize(tail.len().next_multiple_of(512) + 1024, 0);
    stored.extend(gzip(&tail));
    unpacked.extend(tail);
    stored.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0]);
    stored.extend(format!("{at:016x}STARGZ").into_bytes());
    stored.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let annotations = json!({"containerd.io/snapshot/stargz/toc.digest": Digest::of(&table)});
    Chunked { stored, unpacked, media_type: media_type::OCI_LAYER_GZIP, annotations }
}

/// Returns a zstd:chunked layer. Source: containers/storage, pkg/chunked/internal/compression.go.
fn zstd_chunked(members: &[Member]) -> Chunked {
    let (mut stored, mut unpacked, mut entries) = chunked(members, zstd);
    let ends: Vec<usize> =
        entries.iter().skip(1).filter_map(|entry| entry["offset"].as_u64()).map(|at| at as usize).collect();
    let mut ends = ends.into_iter().chain([stored.len()]);
    for entry in entries.iter_mut().filter(|entry| entry["offset"].is_u64()) {
        entry["endOffset"] = ends.next().unwrap().into();
    }
    stored.extend(zstd(&[0; 1024]));
    unpacked.extend([0; 1024]);
    let table = json!({"version": 1, "entries": entries}).to_string().into_bytes();
    let packed = zstd(&table);
    stored.extend([0x50, 0x2a, 0x4d, 0x18]);
    stored.extend((packed.len() as u32).to_le_bytes());
    let position = format!("{}:{}:{}:1", stored.len(), packed.len(), table.len());
    stored.extend(&packed);
    let annotations = json!({
        "io.github.containers.zstd-chunked.manifest-checksum": Digest::of(&packed),
        "io.github.containers.zstd-chunked.manifest-position": position,
    });
    Chunked { stored, unpacked, media_type: media_type::OCI_LAYER_ZSTD, annotations }
}

fn publish(registry: &FakeRegistry, layer: &Chunked, tag: &str) {
    publish_running(registry, layer, tag, &["/run", "app"]);
}

fn publish_running(registry: &FakeRegistry, layer: &Chunked, tag: &str, command: &[&str]) {
    registry.put_blob("app", &layer.stored);
    let mut blob = serde_json::to_value(Descriptor::of(layer.media_type, &layer.stored)).unwrap();
    blob["annotations"] = layer.annotations.clone();
    let config = json!({
        "os": "linux", "architecture": "arm64", "config": {"Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer.unpacked)]},
    });
    let config = config.to_string().into_bytes();
    registry.put_blob("app", &config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": Descriptor::of(media_type::OCI_CONFIG, &config), "layers": [blob],
    });
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    registry.put_manifest("app", tag, document.media_type(), document.bytes());
}

/// Verifies with an empty cache. Returns the verdict, the number of bytes read, and whether a complete layer was requested.
fn verify_tag(registry: &FakeRegistry, tag: &str, arguments: &[&str]) -> (String, u64, bool) {
    verify_tag_as(&User::new(), registry, tag, arguments)
}

fn verify_tag_as(user: &User, registry: &FakeRegistry, tag: &str, arguments: &[&str]) -> (String, u64, bool) {
    registry.take_log();
    let name = format!("{}/app:{tag}", registry.host());
    let ran = verify(user, &[&[name.as_str(), "--format", "json"], arguments].concat());
    let found = &ran.json()["images"][0];
    (
        found["verdict"].as_str().unwrap_or_else(|| panic!("{ran}")).into(),
        found["bytesRead"].as_u64().unwrap(),
        read_whole(registry),
    )
}

/// Returns whether a complete layer was requested since the last call.
fn read_whole(registry: &FakeRegistry) -> bool {
    registry.take_log().iter().any(|logged| {
        logged.path.contains("/blobs/") && logged.status == Some(200) && logged.response_bytes > 1 << 20
    })
}

#[test]
fn a_quick_verification_reads_single_files_of_a_layer() {
    for make in [estargz, zstd_chunked] {
        let registry = FakeRegistry::start();
        publish(&registry, &make(&members("linux/arm64")), "right");
        let (verdict, bytes, whole) = verify_tag(&registry, "right", &[]);
        assert_eq!((verdict.as_str(), whole), ("consistent", false));
        assert!(bytes < 8 << 10, "{bytes} bytes");
        assert!(verify_tag(&registry, "right", &["--full"]).2);
        // A mismatch is reported after the complete layer was read.
        publish(&registry, &make(&members("linux/amd64")), "wrong");
        let (verdict, bytes, whole) = verify_tag(&registry, "wrong", &[]);
        assert_eq!((verdict.as_str(), whole), ("mislabeled", true));
        assert!(bytes > 2 << 20, "{bytes} bytes");
        assert_eq!(registry.violations(), [""; 0]);
    }
}

#[test]
fn facts_of_single_files_are_cached_for_each_image() {
    for make in [estargz, zstd_chunked] {
        let (user, registry) = (User::new(), FakeRegistry::start());
        let layer = make(&members("linux/arm64"));
        publish_running(&registry, &layer, "one", &["/usr/bin/busybox", "true"]);
        let first = verify_tag_as(&user, &registry, "one", &[]);
        assert!(first.1 > 0 && !first.2, "{first:?}");
        assert_eq!(verify_tag_as(&user, &registry, "one", &[]), ("consistent".into(), 0, false));
        // Another program of the same layer: the table is read again, but not the complete layer.
        publish_running(&registry, &layer, "two", &["/usr/bin/app"]);
        let other = verify_tag_as(&user, &registry, "two", &[]);
        assert!(other.0 == "consistent" && other.1 > 0 && !other.2, "{other:?}");
        // Cached facts of single files do not satisfy --full.
        assert!(verify_tag_as(&user, &registry, "one", &["--full"]).2);
    }
}

#[test]
fn a_file_of_several_chunks_is_verified() {
    for make in [estargz, zstd_chunked] {
        let mut program = probe("linux/arm64");
        program.resize(3 << 20, 0x5a);
        let registry = FakeRegistry::start();
        publish(
            &registry,
            &make(&[ballast(), File("bin/app", program), File("run", b"#!/bin/app\n".to_vec())]),
            "right",
        );
        let (verdict, _, whole) = verify_tag(&registry, "right", &[]);
        assert_eq!((verdict.as_str(), whole), ("consistent", false));
    }
}

#[test]
fn adjacent_chunks_are_read_with_one_request() {
    for make in [estargz, zstd_chunked] {
        let mut program = probe("linux/arm64");
        // Files over 1 MiB have several chunks.
        program.resize(20 << 20, 0x5a);
        let registry = FakeRegistry::start();
        let layer = make(&[ballast(), File("bin/app", program)]);
        publish_running(&registry, &layer, "right", &["/bin/app"]);
        let user = User::new();
        registry.take_log();
        verify(&user, &[&format!("{}/app:right", registry.host())]).exits(0);
        let parts = registry.take_log().iter().filter(|logged| logged.status == Some(206)).count();
        assert!(parts <= 3, "{parts} requests for footer, table and one file");
    }
}

#[test]
fn a_table_of_a_hundred_thousand_files_is_read_in_64_mib() {
    for make in [estargz, zstd_chunked] {
        let registry = FakeRegistry::start();
        let mut many = vec![Listed(100_000)];
        many.extend(members("linux/arm64"));
        publish(&registry, &make(&many), "many");
        let name = format!("{}/app:many", registry.host());
        let (output, peak) = run_with_rusage(User::new().command("config-patcher", &["verify", &name]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!read_whole(&registry), "the table was not used");
        assert!(peak <= 64 << 10, "{peak} KiB");
    }
}

#[test]
fn a_table_without_a_valid_digest_is_not_used() {
    for make in [estargz, zstd_chunked] {
        let registry = FakeRegistry::start();
        let tag = |name: &str, change: &dyn Fn(&mut Chunked)| {
            let mut layer = make(&members("linux/arm64"));
            change(&mut layer);
            publish(&registry, &layer, name);
            assert_eq!(
                verify_tag(&registry, name, &[]),
                ("consistent".into(), layer.stored.len() as u64, true),
                "{name}"
            );
        };
        tag("none", &|layer| layer.annotations = json!({}));
        tag("other-digest", &|layer| {
            for value in layer.annotations.as_object_mut().unwrap().values_mut() {
                if value.as_str().unwrap().starts_with("sha256:") {
                    *value = json!(Digest::of(b"other"));
                }
            }
        });
        tag("no-digest", &|layer| {
            layer.annotations.as_object_mut().unwrap().values_mut().for_each(|value| *value = "x".into());
        });
    }
}

/// The table has the names of two programs exchanged: by the table the image runs on arm64, by the layer it does not.
#[test]
fn a_table_that_contradicts_its_layer_is_not_used_with_strict() {
    for make in [estargz, zstd_chunked] {
        let registry = FakeRegistry::start();
        let layer = make(&[
            ballast(),
            Renamed("usr/share/other", "usr/bin/app", probe("linux/amd64")),
            Renamed("usr/bin/app", "usr/share/other", probe("linux/arm64")),
        ]);
        publish_running(&registry, &layer, "lie", &["/usr/bin/app"]);
        assert_eq!(verify_tag(&registry, "lie", &[]).0, "consistent");
        for arguments in [["--strict"].as_slice(), &["--full"], &["--quick", "--strict"]] {
            let (verdict, _, whole) = verify_tag(&registry, "lie", arguments);
            assert_eq!((verdict.as_str(), whole), ("mislabeled", true), "{arguments:?}");
        }
        let page = tempfile::tempdir().unwrap();
        let page = page.path().join("page.html");
        let name = format!("{}/app:lie", registry.host());
        let user = User::new();
        let ran = verify(&user, &[name.as_str(), "--html", page.to_str().unwrap()]);
        let says = "1 layer was verified by its table of contents";
        assert!(ran.stdout.contains(says), "{ran}");
        assert!(std::fs::read_to_string(&page).unwrap().contains(says));
        let ran = verify(&user, &[name.as_str(), "--format", "json"]);
        assert_eq!(ran.json()["images"][0]["layersByTable"], 1, "{ran}");
        // The facts that a table said are not used later either.
        let ran = verify(&user, &[name.as_str(), "--format", "json", "--strict"]);
        let found = &ran.json()["images"][0];
        assert_eq!((&found["verdict"], &found["layersByTable"]), (&json!("mislabeled"), &json!(0)), "{ran}");
    }
}

#[test]
fn a_file_with_a_wrong_digest_in_the_table_makes_the_layer_be_read() {
    for make in [estargz, zstd_chunked] {
        let registry = FakeRegistry::start();
        let mut members_with_wrong_digest = members("linux/arm64");
        members_with_wrong_digest[2] =
            WrongDigest("usr/bin/busybox", probe("linux/arm64"), probe("linux/riscv64"));
        publish_running(
            &registry,
            &make(&members_with_wrong_digest),
            "members_with_wrong_digest",
            &["/usr/bin/busybox", "true"],
        );
        assert_eq!(
            (
                verify_tag(&registry, "members_with_wrong_digest", &[]).0.as_str(),
                verify_tag(&registry, "members_with_wrong_digest", &[]).2
            ),
            ("mislabeled", true)
        );
    }
}

#[test]
fn a_registry_without_ranges_is_supported() {
    let registry = FakeRegistry::start_with(Options { ranges: false, ..Options::default() });
    publish(&registry, &estargz(&members("linux/arm64")), "app");
    let (verdict, bytes, whole) = verify_tag(&registry, "app", &[]);
    assert_eq!((verdict.as_str(), whole), ("consistent", true));
    assert!(bytes > 2 << 20, "{bytes} bytes");
}

#[test]
fn a_table_of_skopeo_is_used() {
    need!(require(&["skopeo"]));
    let registry = need!(Registry::start());
    let user = User::new();
    let mut layer = chunked(&members("linux/arm64"), plain).1;
    layer.extend([0; 1024]);
    let from = image("linux/arm64", &["/run", "app"], vec![layer]).layout(&user, "plain");
    let name = format!("{}/app:1", registry.host());
    let mut skopeo = std::process::Command::new(program("skopeo").unwrap());
    skopeo.args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-compress-format", "zstd:chunked"]);
    let done = skopeo.args([&from, &format!("docker://{name}")]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let verify_tag = |arguments: &[&str]| {
        let ran =
            verify(&user, &[&[name.as_str(), "--no-cache", "--format", "json"], arguments].concat()).exits(0);
        let found = ran.json()["images"][0].clone();
        (found["verdict"].as_str().unwrap().to_string(), found["bytesRead"].as_u64().unwrap())
    };
    let (quick, full) = (verify_tag(&[]), verify_tag(&["--full"]));
    assert_eq!((quick.0.as_str(), full.0.as_str()), ("consistent", "consistent"));
    assert!(quick.1 < 64 << 10 && full.1 > 2 << 20, "{} of {} bytes", quick.1, full.1);
}
