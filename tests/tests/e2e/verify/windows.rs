//! Windows images: layers with `Files/` and `Hives/`, base layers outside the registry, programs for several machines.

use super::made::{Layer, exe, image, probe, verify};
use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Document, media_type};
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use serde_json::{Value, json};

/// A program for this machine.
fn program(machine: u16) -> Vec<u8> {
    let mut bytes = exe();
    bytes[0x44..0x46].copy_from_slice(&machine.to_le_bytes());
    bytes
}

const ARM64: u16 = 0xaa64;

fn base() -> Vec<u8> {
    Layer::new().file("Files/Windows/System32/cmd.exe", &exe()).file("Hives/System_Base", b"regf").end()
}

fn app(content: &[u8]) -> Vec<u8> {
    Layer::new().file("Files/App/Server.exe", content).file("Hives/System_Delta", b"regf").end()
}

fn judged(user: &User, name: &str, declared: &str, command: &[&str], layers: Vec<Vec<u8>>) -> Value {
    let reference = image(declared, command, layers).layout(user, name);
    verify(user, &[&reference, "--format", "json"]).json()["images"][0].clone()
}

#[test]
fn windows_images_are_judged_by_what_they_execute() {
    let user = User::new();
    let check = |name: &str,
                 declared: &str,
                 command: &[&str],
                 content: &[u8],
                 verdict: &str,
                 binaries: Value| {
        let found = judged(&user, name, declared, command, vec![base(), app(content)]);
        assert_eq!((&found["verdict"], &found["binaryPlatform"]), (&json!(verdict), &binaries), "{found}");
        found
    };
    let of = |os: &str, architecture: &str| json!({"os": os, "architecture": architecture});
    let (amd64, arm64) = (of("windows", "amd64"), of("windows", "arm64"));
    let direct = [r"C:\app\server.exe", "--port", "80"];
    check("right", "windows/amd64", &direct, &exe(), "consistent", amd64.clone());
    check(
        "shell",
        "windows/amd64",
        &["cmd", "/S", "/C", r"\app\server"],
        &exe(),
        "consistent",
        amd64.clone(),
    );
    check("wrong", "windows/arm64", &direct, &exe(), "mislabeled", amd64.clone());
    check("emulated", "windows/amd64", &direct, &program(ARM64), "mislabeled", arm64);
    let through_shell = [r"cmd /S /C \app\server.exe"];
    check("mixed", "windows/amd64", &through_shell, &program(ARM64), "mixed", Value::Null);
    check("386", "windows/amd64", &direct, &program(0x14c), "consistent", of("windows", "386"));
    check("linux", "linux/amd64", &direct, &exe(), "mislabeled", amd64);
    let found = check(
        "elf",
        "windows/amd64",
        &direct,
        &probe("linux/amd64"),
        "would-not-start",
        of("linux", "amd64"),
    );
    assert!(found["reasons"].to_string().contains("which no Windows kernel runs"), "{found}");
}

#[test]
fn a_removed_program_of_a_windows_image_is_not_found() {
    let user = User::new();
    let removed = Layer::new().file("Files/app/.wh.SERVER.EXE", b"").end();
    let layers = vec![base(), app(&exe()), removed];
    let found = judged(&user, "removed", "windows/amd64", &[r"C:\app\server.exe"], layers);
    assert!(found["gaps"].to_string().contains("is not in the layers"), "{found}");
}

#[test]
fn base_layers_of_windows_outside_the_registry_are_not_read_and_the_image_is_judged() {
    let user = User::new();
    let store = MemoryStore::new();
    let layer = app(&exe());
    let blob = store.add_blob(media_type::OCI_LAYER, &layer);
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "size": 1_500_000_000,
        "digest": Digest::of(b"nanoserver"), "urls": ["https://mcr.microsoft.com/v2/windows/nanoserver/blobs/sha256:x"],
    });
    let config = json!({
        "os": "windows", "architecture": "amd64", "os.version": "10.0.20348.1", "config": {"Entrypoint": ["cmd", "/c", "server.exe"], "WorkingDir": "C:\\app"},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"unpacked"), Digest::of(&layer)]},
    });
    let config = store.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [foreign, blob],
    });
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    store.write_tag("x", &document).unwrap();
    let dir = user.path("layout");
    super::made::put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let found = verify(&user, &[&format!("oci:{}:v1", dir.display()), "--format", "json"]).exits(0).json();
    let found = &found["images"][0];
    assert_eq!(found["verdict"], "consistent", "{found}");
    assert_eq!(found["skipped"][0]["why"], "it is stored outside the registry", "{found}");
}
