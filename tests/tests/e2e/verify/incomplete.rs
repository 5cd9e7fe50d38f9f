//! Indexes with absent members, configs and layers: what is there is judged, fixed, copied and edited.

use super::made::{Layer, image, probe, put, verify};
use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::registry::RegistryStore;
use image_store::store::{ImageSource, ImageStore, Pointer};
use image_store::tree::{TreeNode, read_tree};
use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault};
use registry_client::{Client, RegistryOptions};
use std::fs::{read, remove_file};
use std::path::{Path, PathBuf};

/// Returns an index of a right amd64 image, an arm64 image that declares amd64, and an s390x image; and their digests.
fn index() -> (MemoryStore, Vec<Digest>) {
    let store = MemoryStore::new();
    let members = [("amd64", "amd64"), ("arm64", "amd64"), ("s390x", "s390x")];
    let entries: Vec<Descriptor> = members
        .iter()
        .map(|(listed, declared)| {
            let layer = Layer::new().file("app", &probe(&format!("linux/{listed}"))).end();
            let declared = format!("linux/{declared}");
            let mut entry = image(&declared, &["/app"], vec![layer]).add_to(&store).descriptor();
            entry.platform = Some(format!("linux/{listed}").parse().unwrap());
            entry
        })
        .collect();
    let text =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    let document = Document::new(text.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    (store, entries.into_iter().map(|entry| entry.digest).collect())
}

fn registry() -> (FakeRegistry, String, Vec<Digest>) {
    let registry = FakeRegistry::start();
    let (store, digests) = index();
    let name = format!("{}/app:v1", registry.host());
    let client = Client::new(RegistryOptions::default()).unwrap();
    put(store, &RegistryStore::writing(&client, &registry.host(), "app").unwrap(), "v1");
    (registry, name, digests)
}

fn layout(user: &User, name: &str) -> (PathBuf, Vec<Digest>) {
    let (store, digests) = index();
    put(store, &OciLayout::open_or_create(&user.path(name)).unwrap(), "v1");
    (user.path(name), digests)
}

fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// Returns the verdicts of `verify`, with the index platforms.
fn verdicts(user: &User, name: &str, exit: u8) -> Vec<(String, String)> {
    let found = verify(user, &[name, "--no-cache", "--format", "json"]).exits(exit).json();
    let images = found["images"].as_array().unwrap().iter();
    let text = |one: &serde_json::Value| one.as_str().unwrap_or("-").to_string();
    images.map(|one| (text(&one["indexPlatform"]["architecture"]), text(&one["verdict"]))).collect()
}

fn expected(amd64: &str, arm64: &str, s390x: &str) -> Vec<(String, String)> {
    let rows = [("amd64", amd64), ("arm64", arm64), ("s390x", s390x)];
    rows.iter().map(|(platform, verdict)| (platform.to_string(), verdict.to_string())).collect()
}

#[test]
fn an_absent_member_in_a_registry_does_not_stop_the_others() {
    let user = User::new();
    let (registry, name, digests) = registry();
    registry.delete_manifest("app", digests[2].as_str());
    assert_eq!(verdicts(&user, &name, 1), expected("consistent", "mislabeled", "incomplete"));
    let reports = ["--html", "r.html", "--sarif", "r.sarif", "--junit", "r.xml"];
    let ran = verify(&user, &[&[name.as_str()][..], &reports].concat()).exits(1);
    let advice = format!("manifest-push edit {name} --remove linux/s390x");
    for text in [format!("manifest {} is absent", digests[2]), advice.clone()] {
        assert!(ran.stdout.contains(&text), "{ran}");
        for report in [reports[1], reports[3], reports[5]] {
            let report = std::fs::read_to_string(user.path(report)).unwrap();
            assert!(report.contains(&text), "{report}");
        }
    }
    // A tag that is incomplete does not hide the others, nor another one that is complete.
    registry.set_tag("app", "v2", digests[0].as_str());
    let all = format!("{}/app", registry.host());
    let all = verify(&user, &["--all-tags", &all, "--format", "json"]).exits(1).json();
    assert_eq!(all["images"].as_array().unwrap().len(), 4, "{all}");
    for program in ["config-patcher", "manifest-push"] {
        let ran = user.run(program, &["inspect", &name]).exits(0);
        assert!(ran.stdout.contains(&format!("manifest {} is absent", digests[2])), "{ran}");
        let json = user.run(program, &["inspect", &name, "--format", "json"]).exits(0).json();
        let key = if program == "manifest-push" { "members" } else { "images" };
        assert!(json[key][2]["absent"].as_str().unwrap().contains(digests[2].as_str()), "{json}");
    }
    let raw = user.manifest_push(&["inspect", "--raw", &name]).exits(0);
    let members: serde_json::Value = serde_json::from_str(&raw.stdout).unwrap();
    assert_eq!(members["manifests"].as_array().unwrap().len(), 2, "{raw}");
    let (_, bytes) = registry.manifest("app", "v1").unwrap();
    assert_eq!(user.manifest_push(&["inspect", "--bytes", &name]).exits(0).stdout.as_bytes(), bytes);

    let copy = format!("{}/copy:v1", registry.host());
    let ran = user.manifest_push(&["copy", &name, &copy]).exits(5);
    assert!(ran.stderr.contains("--platform: linux/amd64, linux/arm64"), "{ran}");
    user.manifest_push(&["copy", &name, &copy, "--platform", "linux/s390x"]).exits(5);
    user.manifest_push(&["copy", &name, &copy, "--platform", "linux/amd64"]).exits(0);
    assert_eq!(registry.tag("copy", "v1").unwrap(), digests[0].as_str());

    // This registry refuses an index whose members it does not have; the way out works as printed.
    let ran = user.config_patcher(&["fix", &name, "--from-binaries"]).exits(3);
    assert!(ran.stderr.contains(&advice), "{ran}");
    let ran = user.manifest_push(&["edit", &name, "--type", "docker"]).exits(3);
    assert!(ran.stderr.contains("--remove linux/s390x"), "{ran}");
    assert_eq!(registry.manifest("app", "v1").unwrap().1, bytes);
    user.run("manifest-push", &advice.split(' ').skip(1).collect::<Vec<_>>()).exits(0);
    user.config_patcher(&["fix", &name, "--from-binaries"]).exits(0);
    let found = verdicts(&user, &name, 0);
    assert_eq!(found, expected("consistent", "consistent", "")[..2]);
}

#[test]
fn a_member_that_fails_otherwise_is_a_row_and_the_exit_code_is_its_own() {
    let user = User::new();
    let (registry, name, digests) = registry();
    let denied = digests[2].to_string();
    let is_denied = move |request: &multiarch_tests::fake_registry::Request| {
        request.is_manifest() && request.path.contains(&denied)
    };
    registry.fault(Fault::when(is_denied, Act::status(403)).forever());
    assert_eq!(verdicts(&user, &name, 4), expected("consistent", "mislabeled", "-"));
    for program in ["config-patcher", "manifest-push"] {
        let ran = user.run(program, &["inspect", &name]).exits(4);
        assert!(ran.stdout.contains("linux/s390x"), "{ran}");
    }
}

#[test]
fn absent_configs_and_layers_are_incomplete() {
    let user = User::new();
    let (dir, digests) = layout(&user, "out");
    let name = format!("oci:{}:v1", dir.display());
    let parts = |digest: &Digest| {
        let TreeNode::Image(image) =
            read_tree(&OciLayout::open(&dir).unwrap(), &Pointer::from(digest)).unwrap()
        else {
            panic!()
        };
        (image.manifest.config.digest.clone(), image.manifest.layers[0].digest.clone())
    };
    let ((_, layer), (config, _)) = (parts(&digests[0]), parts(&digests[2]));
    remove_file(blob(&dir, &layer)).unwrap();
    remove_file(blob(&dir, &config)).unwrap();
    assert_eq!(verdicts(&user, &name, 1), expected("incomplete", "mislabeled", "incomplete"));
    let ran = verify(&user, &[&name, "--no-cache"]).exits(1);
    assert!(ran.stdout.contains(&format!("layer {layer} is absent")), "{ran}");
    assert!(ran.stdout.contains(&format!("config {config} is absent")), "{ran}");
    // A single image: its manifest is there.
    let single = format!("oci:{}@{}", dir.display(), digests[2]);
    let ran = verify(&user, &[&single, "--no-cache"]).exits(1);
    assert!(ran.stdout.contains("incomplete"), "{ran}");
}

#[test]
fn a_sparse_layout_or_archive_is_fixed_and_edited() {
    let user = User::new();
    let (dir, digests) = layout(&user, "out");
    remove_file(blob(&dir, &digests[2])).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", &dir).unwrap();
    std::fs::write(user.path("saved.tar"), archive.into_inner().unwrap()).unwrap();
    let archive = format!("oci-archive:{}:v1", user.path("saved.tar").display());
    for name in [format!("oci:{}:v1", dir.display()), archive] {
        assert_eq!(verdicts(&user, &name, 1), expected("consistent", "mislabeled", "incomplete"));
        user.config_patcher(&["fix", &name, "--from-binaries", "--output", "oci:copy:v1"]).exits(5);
        let ran = user.config_patcher(&["fix", &name, "--from-binaries"]).exits(0);
        assert!(
            ran.stderr.contains(&format!("note: linux/s390x: manifest {} is absent", digests[2])),
            "{ran}"
        );
        assert_eq!(verdicts(&user, &name, 1), expected("consistent", "consistent", "incomplete"));
        user.manifest_push(&["edit", &name, "--remove", "linux/s390x"]).exits(0);
        assert_eq!(verdicts(&user, &name, 0).len(), 2);
    }
    assert!(read(user.path("copy/index.json")).is_err(), "an incomplete copy was written");
    // A member that no index of the layout lists may not be absent.
    let store = OciLayout::open(&dir).unwrap();
    let mut other = store.read_document(&Pointer::Tag("v1".into())).unwrap().descriptor();
    other.digest = Digest::of(b"absent");
    let text =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [other]});
    let document = Document::new(text.to_string().into_bytes(), None).unwrap();
    assert!(store.write_tag("other", &document).unwrap_err().to_string().contains("is absent"));
}

#[test]
fn an_image_without_one_of_its_layers_is_relabeled() {
    let user = User::new();
    let (dir, digests) = layout(&user, "out");
    let image = read_tree(&OciLayout::open(&dir).unwrap(), &Pointer::from(&digests[1])).unwrap();
    let TreeNode::Image(image) = image else { panic!() };
    let layer = image.manifest.layers[0].digest.clone();
    remove_file(blob(&dir, &layer)).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", &dir).unwrap();
    std::fs::write(user.path("saved.tar"), archive.into_inner().unwrap()).unwrap();
    let archive = format!("oci-archive:{}:v1", user.path("saved.tar").display());
    for name in [format!("oci:{}:v1", dir.display()), archive] {
        // Its binaries are unknown; the others are judged and right.
        let ran = user.config_patcher(&["fix", &name, "--from-binaries"]).exits(0);
        assert!(ran.stderr.contains(&format!("note: linux/arm64 ({}) was not read: ", digests[1])), "{ran}");
        assert!(ran.stderr.contains("all other platforms are correct"), "{ran}");
        let ran = user.config_patcher(&["fix", &name, "--from-binaries", "--check", "--format", "json"]);
        assert!(ran.exits(0).json()["notes"][0].as_str().unwrap().contains(digests[1].as_str()));
        let relabel = ["fix", &name, "--set-platform", "linux/arm64", "--platform", "linux/arm64"];
        user.config_patcher(&relabel).exits(0);
        user.config_patcher(&[&relabel[..], &["--check"]].concat()).exits(0);
        assert_eq!(verdicts(&user, &name, 1), expected("consistent", "incomplete", "consistent"));
    }
    // A layer that no image of the layout has may not be absent.
    let store = OciLayout::open(&dir).unwrap();
    let text = String::from_utf8(image.document.bytes().to_vec()).unwrap();
    let text = text.replace(layer.as_str(), Digest::of(b"absent").as_str());
    let document = Document::new(text.into_bytes(), None).unwrap();
    assert!(store.write_tag("other", &document).unwrap_err().to_string().contains("is absent"));
}

#[test]
fn a_member_whose_layers_are_not_read_does_not_stop_the_others() {
    let user = User::new();
    let store = MemoryStore::new();
    let layer = Layer::new().file("app", &probe("linux/arm64")).end();
    let wrong = image("linux/amd64", &["/app"], vec![layer]).add_to(&store).descriptor();
    let layer = store.add_blob("application/vnd.oci.image.layer.nydus.blob.v1", b"no tar");
    let config = serde_json::json!({
        "os": "linux", "architecture": "s390x", "config": {"Cmd": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = store.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    let nydus = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_document(&nydus).unwrap();
    let entries =
        [(nydus.descriptor(), "linux/s390x"), (wrong, "linux/arm64")].map(|(mut entry, platform)| {
            entry.platform = Some(platform.parse().unwrap());
            entry
        });
    let text =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    let document = Document::new(text.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    put(store, &OciLayout::open_or_create(&user.path("out")).unwrap(), "v1");
    let ran = user.config_patcher(&["fix", "oci:out:v1", "--from-binaries"]).exits(0);
    let note =
        format!("note: linux/s390x ({}) was not read: layer {}", nydus.digest(), Digest::of(b"no tar"));
    assert!(ran.stderr.contains(&note) && ran.stderr.contains("linux/amd64 -> linux/arm64"), "{ran}");
    // Alone, nothing is left to fix.
    let alone = format!("oci:out@{}", nydus.digest());
    user.config_patcher(&["fix", &alone, "--from-binaries", "--check"]).exits(3);
}

#[test]
fn a_sparse_index_is_a_source_for_the_images_that_it_has() {
    let user = User::new();
    let (registry, name, digests) = registry();
    registry.delete_manifest("app", digests[2].as_str());
    let list = format!("{}/app:list", registry.host());
    let spec = |platform: &str| {
        let (os, architecture) = platform.split_once('/').unwrap();
        let platform = format!("{{os: {os}, architecture: {architecture}}}");
        let text = format!("image: {list}\nmanifests:\n  - image: {name}\n    platform: {platform}\n");
        user.write("spec.yaml", text);
    };
    spec("linux/amd64");
    user.manifest_push(&["push", "from-spec", "spec.yaml"]).exits(0);
    let found = verify(&user, &[&list, "--no-layers", "--format", "json"]).exits(0).json();
    assert_eq!(found["platforms"][0]["present"].as_array().unwrap().len(), 1, "{found}");
    spec("linux/s390x");
    let ran = user.manifest_push(&["push", "from-spec", "spec.yaml"]).exits(5);
    let why = format!("linux/s390x of \"{name}\": manifest {} is absent", digests[2]);
    assert!(ran.stderr.contains(&why), "{ran}");
    assert!(ran.stderr.contains("these are there: linux/amd64, linux/arm64"), "{ran}");
    // As a member of a draft, and of an edit.
    let ran = user.manifest_push(&["create", &format!("{list}-2"), &name]);
    assert!(ran.code != Some(0) && ran.stderr.contains("linux/s390x, which is absent"), "{ran}");
    let edit = |platform: &str| {
        user.manifest_push(&["edit", &list, "--add", &format!("{platform}={name}"), "--force", "--dry-run"])
    };
    edit("linux/arm64").exits(0);
    let ran = edit("linux/s390x").exits(5);
    assert!(ran.stderr.contains(&why), "{ran}");
}

#[test]
fn all_tags_go_on_after_one_that_is_absent_or_damaged() {
    let user = User::new();
    let (registry, name, digests) = registry();
    registry.set_tag("app", "gone", digests[0].as_str());
    registry.set_tag("app", "right", digests[0].as_str());
    let is_gone =
        |request: &multiarch_tests::fake_registry::Request| request.path.ends_with("/manifests/gone");
    registry.fault(Fault::when(is_gone, Act::status(404)).forever());
    let all = name.trim_end_matches(":v1");
    let ran = verify(&user, &["--all-tags", all, "--sarif", "r.sarif"]).exits(1);
    assert!(ran.stdout.contains(&format!("{all}:gone: incomplete\n  cannot ")), "{ran}");
    assert!(ran.stdout.contains(&format!("{all}:right")) && ran.stdout.contains("mislabeled"), "{ran}");
    assert_eq!(ran.stderr.trim_end(), "2 of 5 images need attention", "{ran}");
    assert!(std::fs::read_to_string(user.path("r.sarif")).unwrap().contains("\"ruleId\":\"incomplete\""));
    // Named explicitly, it is not found.
    verify(&user, &[&format!("{all}:gone")]).exits(5);

    // A manifest that is damaged, in a layout and in both forms of its archive.
    let (dir, digests) = layout(&user, "out");
    let store = OciLayout::open(&dir).unwrap();
    store.write_tag("right", &store.read_document(&Pointer::from(&digests[0])).unwrap()).unwrap();
    let damaged = b"{\"schemaVersion\": 2, damaged";
    let entry = Descriptor::of(media_type::OCI_MANIFEST, damaged);
    std::fs::write(blob(&dir, &entry.digest), damaged).unwrap();
    let mut index: serde_json::Value =
        serde_json::from_slice(&read(dir.join("index.json")).unwrap()).unwrap();
    let mut entry = serde_json::to_value(&entry).unwrap();
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "bad"});
    index["manifests"].as_array_mut().unwrap().push(entry);
    std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", &dir).unwrap();
    let archive = archive.into_inner().unwrap();
    std::fs::write(user.path("saved.tar"), &archive).unwrap();
    for store in ["oci:out", "oci-archive:saved.tar", "docker-archive:saved.tar"] {
        let ran = verify(&user, &["--all-tags", store, "--format", "json"]).exits(3);
        let json = ran.json();
        assert_eq!(json["images"].as_array().unwrap().len(), 5, "{ran}");
        assert!(ran.stderr.contains("not JSON"), "{ran}");
    }
    verify(&user, &["oci-archive:saved.tar:right"]).exits(0);
    verify(&user, &["oci-archive:saved.tar:bad"]).exits(3);
    // The form of Docker before 25 has no manifests; a file of one image is absent.
    let config = |platform: &str, layer: &[u8]| {
        let diff_ids = [Digest::of(layer)];
        let text = serde_json::json!({
            "os": "linux", "architecture": platform, "config": {"Cmd": ["/app"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        text.to_string().into_bytes()
    };
    let layer = Layer::new().file("app", &probe("linux/amd64")).end();
    let list = serde_json::json!([
        {"Config": "bad.json", "RepoTags": ["app:bad"], "Layers": ["absent.tar"]},
        {"Config": "good.json", "RepoTags": ["app:good"], "Layers": ["good.tar"]},
    ]);
    let classic = Layer::new()
        .file("bad.json", &config("s390x", b"absent"))
        .file("good.json", &config("amd64", &layer))
        .file("good.tar", &layer)
        .file("manifest.json", list.to_string().as_bytes())
        .end();
    std::fs::write(user.path("classic.tar"), &classic).unwrap();
    let ran = verify(&user, &["--all-tags", "docker-archive:classic.tar"]).exits(3);
    assert!(ran.stdout.contains("docker-archive:classic.tar:app:good  linux/amd64"), "{ran}");
    assert!(ran.stderr.contains("\"absent.tar\" is not in the archive"), "{ran}");
    verify(&user, &["docker-archive:classic.tar:app:good"]).exits(0);
    let fix = ["fix", "docker-archive:classic.tar:app:good", "--set-platform", "linux/386"];
    user.config_patcher(&fix).exits(3);
    user.config_patcher(&[&fix[..], &["--in-place"]].concat()).exits(3);
    assert_eq!(read(user.path("classic.tar")).unwrap(), classic);
    // Nothing is written to an archive of which a part is unknown.
    let fix = ["fix", "oci-archive:saved.tar:right", "--set-platform", "linux/s390x"];
    user.config_patcher(&fix).exits(3).assert_stderr_contains("not JSON");
    user.config_patcher(&[&fix[..], &["--in-place"]].concat()).exits(3).assert_stderr_contains("not JSON");
    assert_eq!(read(user.path("saved.tar")).unwrap(), archive);
}
