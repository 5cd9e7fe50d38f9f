//! `config-patcher verify`: images of every kind, with right and wrong platforms, in every kind of store.

mod cache;
mod corpus;
mod deep;
mod hostile;
mod incomplete;
mod levels;
pub mod made;
mod page;
mod questions;
mod reports;
mod sound;
mod tar_kinds;
mod toc;
mod unusual;
mod why;
mod windows;
mod world_builders;
mod would_not_start;
mod wrong_build;

use crate::tools::{Ran, User};
use binfmt_setup::emulators::Target;
use image_model::manifest::Document;
use image_model::platform::Platform;
use image_store::archive::{DockerArchive, OciArchive};
use image_store::check::{CheckDepth, check};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};
use made::{Layer, TestImage, exe, gzip, image, index, plain, probe, publish, put, verdict_of, verify, zstd};
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::need;
use multiarch_tests::world::{FOREIGN, foreign_busybox, rootfs_tar, run_with_rusage};
use std::path::Path;

#[test]
fn every_platform_of_the_emulator_table_is_verified() {
    let user = User::new();
    for (number, target) in Target::platforms().enumerate() {
        let layer = || vec![Layer::new().file("app", &target.file()).end()];
        let right = image(target.name, &["/app"], layer()).layout(&user, &format!("right{number}"));
        let (verdict, ..) = verdict_of(&user, &right);
        assert_eq!(verdict, "consistent", "{}", target.name);
        let declared = if target.machine.name == "aarch64" { "linux/s390x" } else { "linux/arm64" };
        let wrong = image(declared, &["/app"], layer()).layout(&user, &format!("wrong{number}"));
        let (verdict, binaries, fix) = verdict_of(&user, &wrong);
        let architecture = |platform: &str| platform.split('/').nth(1).unwrap().to_string();
        assert_eq!(
            (verdict.as_str(), architecture(&binaries)),
            ("mislabeled", architecture(target.name)),
            "{}",
            target.name
        );
        assert_eq!(fix.unwrap(), format!("config-patcher fix {wrong} --set-platform {binaries}"));
    }
}

#[test]
fn busybox_of_every_debian_architecture_is_verified_and_fixed() {
    let user = User::new();
    for foreign in &FOREIGN {
        let layer = || vec![rootfs_tar(&foreign_busybox(foreign.debian).unwrap())];
        need!(foreign_busybox(foreign.debian));
        for packed in [plain, gzip, zstd] {
            let made = TestImage { packed, ..image(foreign.platform, &["sh"], layer()) };
            let name = format!("{}{}", foreign.debian, packed(b"").len());
            assert_eq!(verdict_of(&user, &made.layout(&user, &name)).0, "consistent", "{foreign:?}");
        }
        // A builder on amd64 declares amd64 whatever the binaries are.
        let wrong =
            image("linux/amd64", &["sh"], layer()).layout(&user, &format!("{}-amd64", foreign.debian));
        let (verdict, binaries, fix) = verdict_of(&user, &wrong);
        let found: Platform = binaries.parse().unwrap();
        assert_eq!(verdict, "mislabeled");
        assert!(found.matches(&foreign.platform.parse().unwrap()), "{binaries} for {}", foreign.platform);
        // The printed command fixes the image.
        let words: Vec<String> = fix.unwrap().split(' ').map(str::to_string).collect();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        user.config_patcher(&words).exits(0);
        assert_eq!(verdict_of(&user, &wrong).0, "consistent");
    }
}

#[test]
fn armel_and_armhf_are_different_levels() {
    let user = User::new();
    let check = |debian: &str, declared: &str, verdict: &str| {
        let layer = rootfs_tar(&foreign_busybox(debian).unwrap());
        let name = format!("{debian}-{}", declared.replace('/', "-"));
        assert_eq!(
            verdict_of(&user, &image(declared, &["sh"], vec![layer]).layout(&user, &name)).0,
            verdict,
            "{debian} {declared}"
        );
    };
    need!(foreign_busybox("armhf"));
    need!(foreign_busybox("armel"));
    check("armhf", "linux/arm/v7", "consistent");
    check("armhf", "linux/arm/v6", "mislabeled");
    check("armhf", "linux/arm/v5", "mislabeled");
    check("armel", "linux/arm/v5", "consistent");
    check("armel", "linux/arm/v7", "consistent");
    check("armel", "linux/arm64", "mislabeled");
}

#[test]
fn mixed_images_are_distinguished() {
    let user = User::new();
    let (amd64, arm64) = (probe("linux/amd64"), probe("linux/arm64"));
    let script = b"#!/bin/sh -e\nexec \"$@\"\n";
    let check = |name: &str, declared: &str, command: &[&str], layers: Vec<Layer>, verdict: &str| {
        let layers = layers.into_iter().map(Layer::end).collect();
        let found = verdict_of(&user, &image(declared, command, layers).layout(&user, name));
        assert_eq!(found.0, verdict, "{name}");
    };
    let base = || {
        Layer::new()
            .file("usr/bin/busybox", &arm64)
            .symlink("usr/bin/sh", "busybox")
            .symlink("bin", "usr/bin")
    };
    check("merged-usr", "linux/arm64", &["sh"], vec![base()], "consistent");
    check(
        "emulator",
        "linux/arm64",
        &["sh"],
        vec![Layer::new().file("usr/bin/qemu-x", &amd64), base()],
        "foreign-payload",
    );
    let behind = ["/usr/bin/qemu-aarch64-static", "/bin/sh"];
    check(
        "behind-emulator",
        "linux/arm64",
        &behind,
        vec![Layer::new().file("usr/bin/qemu-aarch64-static", &amd64), base()],
        "foreign-payload",
    );
    check("app", "linux/arm64", &["/app"], vec![base(), Layer::new().file("app", &amd64)], "mixed");
    let hidden = vec![
        Layer::new().file("app", &amd64),
        base(),
        Layer::new().file(".wh.app", b""),
        Layer::new().file("app", &arm64),
    ];
    check("whiteout", "linux/arm64", &["/app"], hidden, "consistent");
    let opaque = vec![
        Layer::new().file("opt/app", &amd64),
        base(),
        Layer::new().file("opt/.wh..wh..opq", b"").file("opt/app", &arm64),
    ];
    check("opaque", "linux/arm64", &["/opt/app"], opaque, "consistent");
    let links = Layer::new().file("real", &amd64).hard_link("hard", "real").symlink("soft", "hard");
    check("links", "linux/arm64", &["/soft"], vec![links], "mislabeled");
    check(
        "script",
        "linux/arm64",
        &["/run", "sh"],
        vec![base(), Layer::new().file("run", script)],
        "consistent",
    );
    let script_only = || vec![Layer::new().file("run", script)];
    check("script-only", "linux/arm64", &["/run"], script_only(), "would-not-start");
    check("no-command", "linux/arm64", &[], script_only(), "undetermined");
    check("empty", "linux/arm64", &["/run"], vec![], "would-not-start");
    check("distroless", "linux/amd64", &["/app"], vec![Layer::new().file("app", &arm64)], "mislabeled");
    let overlay = Layer::new().file("init", script).file("command/s6-svscan", &amd64);
    check("s6", "linux/arm64", &["/init"], vec![base(), overlay], "mixed");
    let wheel = Layer::new().file("usr/lib/t64.exe", &exe());
    check("wheel", "linux/arm64", &["sh"], vec![base(), wheel], "foreign-payload");
    let multilib = Layer::new().file("app", &amd64).file("lib/ld-linux.so.2", &probe("linux/386"));
    check("multilib", "linux/amd64", &["/app"], vec![multilib], "consistent");
    let testdata = Layer::new().file("usr/local/go/src/debug/elf/testdata/x", &probe("linux/s390x"));
    check("testdata", "linux/arm64", &["sh"], vec![base(), testdata], "foreign-payload");
}

#[test]
fn strict_turns_notes_into_failures() {
    let user = User::new();
    let layer = Layer::new().file("app", &probe("linux/arm64")).file("x", &probe("linux/amd64")).end();
    let note = image("linux/arm64", &["/app"], vec![layer]).layout(&user, "note");
    verify(&user, &[&note]).exits(0);
    verify(&user, &[&note, "--strict"]).exits(1);
    let script = image("linux/arm64", &[], vec![Layer::new().file("run", b"#!/bin/sh\n").end()]);
    let script = script.layout(&user, "script");
    verify(&user, &[&script]).exits(0);
    verify(&user, &[&script, "--strict"]).exits(1);
}

#[test]
fn an_index_has_three_columns_and_is_fixed_from_its_binaries() {
    let user = User::new();
    let dir = user.path("index");
    put(index(), &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let name = format!("oci:{}:v1", dir.display());
    let ran = verify(&user, &[&name]).exits(1);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("DECLARED") && lines[0].contains("INDEX"), "{ran}");
    assert!(lines[1].ends_with("consistent"), "{ran}");
    let words: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(words[..4], ["linux/amd64", "linux/arm64", "linux/arm64", "mislabeled,"], "{ran}");
    assert!(ran.stdout.contains("/app (command, layer 1) is for linux/arm64"), "{ran}");
    user.config_patcher(&["fix", &name, "--from-binaries", "--check"]).exits(1);
    user.config_patcher(&["fix", &name, "--from-binaries"]).exits(0);
    verify(&user, &[&name]).exits(0);
    user.config_patcher(&["fix", &name, "--from-binaries", "--check"]).exits(0);
}

#[test]
fn a_nested_index_is_fixed_from_its_binaries_by_the_command_that_verify_prints() {
    let user = User::new();
    let store = index();
    let inner = store.read_document(&Pointer::Tag("x".into())).unwrap();
    let beside = image("linux/s390x", &["/app"], vec![Layer::new().file("app", &probe("linux/s390x")).end()]);
    let mut right = beside.add_to(&store).descriptor();
    right.platform = Some("linux/s390x".parse().unwrap());
    let outer = serde_json::json!({"schemaVersion": 2, "manifests": [right, inner.descriptor()]});
    store.write_tag("x", &Document::new(outer.to_string().into_bytes(), None).unwrap()).unwrap();
    let dir = user.path("nested");
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let name = format!("oci:{}:v1", dir.display());
    let report = verify(&user, &[&name]).exits(1).stdout;
    let (_, advice) = report.split_once("config-patcher fix ").unwrap();
    let advice: Vec<&str> = advice.lines().next().unwrap().split(' ').collect();
    let ran = user.config_patcher(&[&["fix"], &advice[..], &["--dry-run"]].concat()).exits(0);
    user.config_patcher(&["fix", &name, "--from-binaries", "--check"]).exits(1);
    user.config_patcher(&["fix", &name, "--from-binaries"]).exits(0).prints(ran.line());
    user.config_patcher(&["fix", &name, "--from-binaries", "--check"]).exits(0);
    let tag = Pointer::Tag("v1".into());
    assert_eq!(check(&OciLayout::open(&dir).unwrap(), &tag, CheckDepth::Layers), []);
    // Every member is right now; some readers still cannot pull from a nested index.
    let ran = verify(&user, &[&name]).exits(1);
    let flatten = format!("manifest-push edit {name} --flatten");
    assert!(ran.stdout.contains(&format!("to fix it, run: {flatten}\n")), "{ran}");
    user.run("manifest-push", &flatten.split(' ').skip(1).collect::<Vec<_>>()).exits(0);
    assert_eq!(verify(&user, &[&name]).exits(0).stdout.lines().count(), 4);
    assert_eq!(check(&OciLayout::open(&dir).unwrap(), &tag, CheckDepth::Layers), []);
}

#[test]
fn fix_from_binaries_refuses_mixed_images() {
    let user = User::new();
    let mixed = Layer::new().file("app", &probe("linux/amd64")).file("bin/sh", &probe("linux/arm64")).end();
    let mixed = image("linux/amd64", &["/app"], vec![mixed]).layout(&user, "mixed");
    user.config_patcher(&["fix", &mixed, "--from-binaries"])
        .exits(1)
        .assert_stderr_contains("for several platforms");
    let absent = image("linux/amd64", &["/app"], vec![]).layout(&user, "absent");
    user.config_patcher(&["fix", &absent, "--from-binaries"])
        .exits(1)
        .assert_stderr_contains("it would not start; add /app in a layer");
    let nothing = image("linux/amd64", &[], vec![]).layout(&user, "nothing");
    user.config_patcher(&["fix", &nothing, "--from-binaries"])
        .exits(3)
        .assert_stderr_contains("use --set-platform");
    let right = Layer::new().file("app", &probe("linux/amd64")).end();
    let right = image("linux/amd64", &["/app"], vec![right]).layout(&user, "right");
    user.config_patcher(&["fix", &right, "--from-binaries"])
        .exits(0)
        .assert_stderr_contains("all platforms are correct");
}

#[test]
fn archives_and_registries_are_verified() {
    let user = User::new();
    let layers = || {
        vec![
            Layer::new().file("etc/base", b"x").end(),
            Layer::new().file("app", &probe("linux/arm/v7")).end(),
        ]
    };
    let archive = user.path("image.tar");
    let wrong = || image("linux/amd64", &["/app"], layers());
    wrong().store(&DockerArchive::open_or_create(&archive).unwrap(), "app:1");
    let name = format!("docker-archive:{}", archive.display());
    // The probes have no attributes from which a version follows.
    assert_eq!(verdict_of(&user, &name).1, "linux/arm");

    let archive = user.path("oci.tar");
    wrong().store(&OciArchive::open_or_create(&archive).unwrap(), "1");
    let name = format!("oci-archive:{}", archive.display());
    assert_eq!(verdict_of(&user, &name).1, "linux/arm");
    assert!(verify(&user, &["--all-tags", &name]).exits(1).stdout.contains(&format!("{name}:1")));

    let registry = FakeRegistry::start();
    let host = registry.host();
    publish(&registry, &wrong(), "wrong");
    let right = TestImage { packed: gzip, ..image("linux/arm/v7", &["/app"], layers()) };
    publish(&registry, &right, "right");
    assert_eq!(verdict_of(&user, &format!("{host}/app:wrong")).1, "linux/arm");

    // For a registry, --quick is the default: the lower layer of a correct image is not read.
    let read = |arguments: &[&str]| {
        let ran = verify(&user, &[arguments, &["--format", "json"]].concat());
        ran.json()["images"][0]["layersRead"].as_u64().unwrap()
    };
    let right = format!("{host}/app:right");
    assert_eq!((read(&[&right]), read(&[&right, "--full"])), (1, 2));

    let all = verify(&user, &["--all-tags", &format!("{host}/app")]).exits(1);
    assert!(all.stdout.contains("app:right") && all.stdout.contains("app:wrong"), "{all}");
    let several = verify(&user, &[&right, &format!("{host}/app:none")]).exits(5);
    assert!(several.stdout.contains("consistent"), "{several}");
    assert_eq!(registry.violations(), [""; 0]);
}

#[test]
fn damaged_layers_are_reported_and_control_characters_in_names_are_escaped() {
    let user = User::new();
    let layer = Layer::new()
        .file("bin/a\u{1b}[31m\u{202e}b", &probe("linux/amd64"))
        .file("app", &probe("linux/arm64"));
    let name = image("linux/arm64", &["/app"], vec![layer.end()]).layout(&user, "names");
    for arguments in [&["--explain"][..], &["--format", "json"]] {
        let ran = verify(&user, &[&[name.as_str()], arguments].concat()).exits(0);
        let is_control = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        let all = ran.stdout.chars().chain(ran.stderr.chars());
        assert!(!all.into_iter().any(is_control), "{ran}");
    }
    let dir = user.path("names");
    damage_largest_blob(&dir.join("blobs/sha256"));
    verify(&user, &[&name, "--no-cache"]).exits(7);
}

fn damage_largest_blob(dir: &Path) {
    let blobs = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let largest = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let last = bytes.len() - 1;
    // In the padding after the end marker, so that only the digest is wrong.
    bytes[last] ^= 0xff;
    std::fs::write(largest, bytes).unwrap();
}

#[test]
fn a_layer_of_a_million_members_is_verified_in_64_mib() {
    let user = User::new();
    let mut layer = Vec::with_capacity(520 << 20);
    let mut header = Layer::header(tar::EntryType::Regular, 0);
    for i in 0..1_000_000 {
        header.set_path(format!("usr/share/directory-{}/file-{i}", i % 1000)).unwrap();
        header.set_cksum();
        layer.extend_from_slice(header.as_bytes());
    }
    layer.extend(Layer::new().file("app", &probe("linux/arm64")).end());
    let name =
        TestImage { packed: zstd, ..image("linux/arm64", &["/app"], vec![layer]) }.layout(&user, "million");
    let (done, peak) = run_with_rusage(user.command("config-patcher", &["verify", &name]));
    let ran = Ran::of("verify".into(), done).exits(0);
    assert!(ran.stdout.contains("consistent"), "{ran}");
    eprintln!("peak {peak} KiB");
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn images_with_500_layers_and_layouts_with_a_thousand_tags_are_verified() {
    let user = User::new();
    let own = |i: usize| Layer::new().file(&format!("etc/{i}"), b"x").end();
    let layers = (0..500).map(own).chain([Layer::new().file("app", &probe("linux/arm64")).end()]).collect();
    let deep = image("linux/arm64", &["/app"], layers).layout(&user, "deep");
    verify(&user, &[&deep]).exits(0);

    let store = MemoryStore::new();
    let base = Layer::new().file("app", &probe("linux/s390x")).end();
    let dir = user.path("tags");
    let document = image("linux/s390x", &["/app"], vec![base]).add_to(&store);
    store.write_tag("x", &document).unwrap();
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "0");
    // Add a thousand tags with one write.
    let path = dir.join("index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let entry_with = |tag: usize| {
        let mut entry = index["manifests"][0].clone();
        entry["annotations"]["org.opencontainers.image.ref.name"] = tag.to_string().into();
        entry
    };
    index["manifests"] = (0..1000).map(entry_with).collect();
    std::fs::write(&path, index.to_string()).unwrap();
    let started = std::time::Instant::now();
    let ran = verify(&user, &["--all-tags", &format!("oci:{}", dir.display()), "--verbose"]).exits(0);
    verify(&user, &["--all-tags", &format!("oci:{}:7", dir.display())]).exits(2);
    assert_eq!(ran.stdout.lines().count(), 1001);
    assert_eq!(ran.stderr.matches("reading layer").count(), 1, "{}", ran.stderr);
    assert!(started.elapsed() < std::time::Duration::from_secs(60), "{:?}", started.elapsed());
}
