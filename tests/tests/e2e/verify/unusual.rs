//! Images and indexes that are unusual, but read by engines: without a tag, with layers in other formats than tar, and with
//! half a platform in the index.

use super::made::{Layer, image, probe, put, verify};
use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Document, media_type};
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::need;
use multiarch_tests::world::{program, require};
use serde_json::{Value, json};
use std::process::Command;

/// Adds an image with these binaries that declares amd64, and returns its descriptor.
fn member(store: &MemoryStore, binaries: &str) -> Value {
    let layer = Layer::new().file("app", &probe(binaries)).end();
    serde_json::to_value(image("linux/amd64", &["/app"], vec![layer]).add_to(store).descriptor()).unwrap()
}

fn layout(user: &User, store: MemoryStore, root: &Value) -> String {
    let document = Document::new(root.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    let dir = user.path(&format!("layout-{}", &document.digest().hex()[..12]));
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    format!("oci:{}:v1", dir.display())
}

fn index(members: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": members})
}

#[test]
fn all_tags_of_a_layout_or_archive_include_images_without_a_tag() {
    let user = User::new();
    let dir = user.path("out");
    for (tag, binaries) in [("good", "linux/amd64"), ("bad", "linux/arm64")] {
        let layer = Layer::new().file("app", &probe(binaries)).end();
        image("linux/amd64", &["/app"], vec![layer]).store(&OciLayout::open_or_create(&dir).unwrap(), tag);
    }
    let path = dir.join("index.json");
    let mut list: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let entries = list["manifests"].as_array_mut().unwrap();
    let bad = entries.iter_mut().find(|entry| entry["annotations"].to_string().contains("bad")).unwrap();
    bad.as_object_mut().unwrap().remove("annotations");
    let digest = bad["digest"].as_str().unwrap().to_string();
    std::fs::write(&path, list.to_string()).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", &dir).unwrap();
    user.write("out.tar", archive.into_inner().unwrap());
    for store in [format!("oci:{}", dir.display()), format!("oci-archive:{}", user.path("out.tar").display())]
    {
        let found = verify(&user, &["--all-tags", &store, "--format", "json"]).exits(1).json();
        let found: Vec<(&Value, &Value)> =
            found["images"].as_array().unwrap().iter().map(|one| (&one["image"], &one["verdict"])).collect();
        let (good, bad) = (json!(format!("{store}:good")), json!(format!("{store}@{digest}")));
        assert_eq!(found, [(&good, &json!("consistent")), (&bad, &json!("mislabeled"))]);
    }
}

#[test]
fn layers_in_other_formats_than_tar_are_not_read_and_the_others_are_judged() {
    let user = User::new();
    let types = [
        "application/vnd.oci.image.layer.nydus.blob.v1",
        "application/vnd.erofs.layer.v1",
        "application/vnd.stacker.image.layer.squashfs+zstd+verity",
    ];
    for kind in types {
        let store = MemoryStore::new();
        let layer = store.add_blob(kind, b"no tar file");
        let config = json!({
            "os": "linux", "architecture": "amd64", "config": {"Cmd": ["/app"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"a file system")]},
        });
        let config = store.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
        store.write_document(&document).unwrap();
        let mut other = serde_json::to_value(document.descriptor()).unwrap();
        other["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let mut wrong = member(&store, "linux/arm64");
        wrong["platform"] = json!({"os": "linux", "architecture": "arm64"});
        let name = layout(&user, store, &index(&[other, wrong]));
        let found = verify(&user, &[&name, "--format", "json"]).exits(1).json();
        let images = &found["images"];
        assert_eq!(
            (&images[0]["verdict"], &images[1]["verdict"]),
            (&json!("undetermined"), &json!("mislabeled"))
        );
        let why = format!("it is no tar file, but \"{kind}\"");
        assert_eq!(images[0]["skipped"][0]["why"], why, "{found}");
    }
}

#[test]
fn half_a_platform_in_the_index_is_none() {
    let user = User::new();
    let platforms = [
        json!(null),
        json!({}),
        json!({"architecture": "arm64"}),
        json!({"os": null, "architecture": null}),
        json!({"os": "", "architecture": ""}),
        json!({"os": "linux", "architecture": "arm64", "os.features": null, "os.version": null, "variant": null}),
    ];
    for platform in platforms {
        let store = MemoryStore::new();
        let (mut right, mut wrong) = (member(&store, "linux/amd64"), member(&store, "linux/arm64"));
        right["platform"] = json!({"os": "linux", "architecture": "amd64"});
        wrong["platform"] = platform.clone();
        let name = layout(&user, store, &index(&[right, wrong]));
        let found = verify(&user, &[&name, "--format", "json"]).exits(1).json();
        let verdicts: Vec<&Value> =
            found["images"].as_array().unwrap().iter().map(|image| &image["verdict"]).collect();
        assert_eq!(verdicts, ["consistent", "mislabeled"], "{platform}");
        for program in ["config-patcher", "manifest-push"] {
            user.run(program, &["inspect", &name]).exits(0);
        }
    }
}

#[test]
fn layers_packed_by_xz_and_bzip2_are_read_and_those_of_xz_9_are_skipped() {
    need!(require(&["xz", "bzip2"]));
    let user = User::new();
    let tar = user.write("layer.tar", Layer::new().file("app", &probe("linux/arm64")).end());
    let packed = |name: &str, arguments: &[&str]| {
        let done = Command::new(program(name).unwrap()).args(arguments).arg("-c").arg(&tar).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        done.stdout
    };
    let judged = |stored: Vec<u8>, verdict: &str| {
        let store = MemoryStore::new();
        let layer = store.add_blob(media_type::OCI_LAYER, &stored);
        let config = json!({
            "os": "linux", "architecture": "arm64", "config": {"Cmd": ["/app"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&std::fs::read(&tar).unwrap())]},
        });
        let config = store.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let name = layout(&user, store, &manifest);
        let found = verify(&user, &[&name, "--format", "json"]).exits(0).json();
        assert_eq!(found["images"][0]["verdict"], verdict, "{found}");
        found["images"][0]["skipped"].to_string()
    };
    for arguments in [&["-6"][..], &["-8e"], &["--x86", "--lzma2=preset=1"], &["-0", "--check=sha256"]] {
        judged(packed("xz", arguments), "consistent");
    }
    judged(packed("bzip2", &["-1"]), "consistent");
    judged(packed("bzip2", &["-9"]), "consistent");
    assert!(judged(packed("xz", &["-9"]), "undetermined").contains("dictionary is larger than 32 MiB"));
}

#[test]
fn webassembly_is_judged_by_its_platform_and_may_run_anywhere_else() {
    let user = User::new();
    let module = b"\0asm\x01\0\0\0";
    let judged = |name: &str, declared: &str, command: &str, content: &[u8], code: u8| {
        let layer = Layer::new().file("app.wasm", content).file("assets/other.wasm", module).end();
        let reference = image(declared, &[command], vec![layer]).layout(&user, name);
        let found = verify(&user, &[&reference, "--format", "json"]).exits(code).json();
        found["images"][0]["verdict"].as_str().unwrap().to_string()
    };
    for (number, declared) in ["wasi/wasm", "wasip1/wasm", "js/wasm"].iter().enumerate() {
        for (form, command) in ["/app.wasm", "/app.wasm#main", "app.wasm"].iter().enumerate() {
            let name = format!("right{number}{form}");
            assert_eq!(judged(&name, declared, command, module, 0), "consistent", "{declared} {command}");
        }
    }
    let component = b"\0asm\x0d\0\x01\0";
    assert_eq!(judged("component", "wasi/wasm", "/app.wasm", component, 0), "consistent");
    assert_eq!(judged("linux", "linux/amd64", "/app.wasm", module, 0), "undetermined");
    assert_eq!(judged("elf", "wasi/wasm", "/app.wasm", &probe("linux/amd64"), 1), "mislabeled");
    // A module that is not executed, as web servers have it, is data.
    assert_eq!(judged("data", "linux/amd64", "/app.wasm", &probe("linux/amd64"), 0), "consistent");
}
