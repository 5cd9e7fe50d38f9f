use super::*;
use image_model::manifest::Document;
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::read_sparse_tree;
use serde_json::{Value, json};

/// A store with images, which differ by a number.
struct Store(MemoryStore);

impl Store {
    fn image(&self, number: u8, layer_type: &str, media_type: &str) -> Value {
        let config = json!({"architecture": "amd64", "os": "linux", "n": number}).to_string();
        let config = self.0.add_blob(media_type::OCI_CONFIG, config.as_bytes());
        let layer = self.0.add_blob(layer_type, &[number]);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
        self.add(&manifest)
    }

    fn add(&self, document: &Value) -> Value {
        let document = Document::new(document.to_string().into_bytes(), None).unwrap();
        self.0.write_document(&document).unwrap();
        serde_json::to_value(document.descriptor()).unwrap()
    }

    fn index(&self, media_type: &str, entries: &[Value]) -> Value {
        self.add(&json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}))
    }

    #[track_caller]
    fn check(&self, root: &Value, wanted: &[&str]) {
        let digest: Digest = root["digest"].as_str().unwrap().parse().unwrap();
        let node = read_sparse_tree(&self.0, &Pointer::Digest(digest)).unwrap();
        let found: Vec<String> = compatibility(&node)
            .iter()
            .map(|finding| format!("{:?} {}", finding.form, finding.members.len()))
            .collect();
        assert_eq!(found, wanted);
    }
}

fn on(entry: &Value, platform: Value) -> Value {
    let mut entry = entry.clone();
    entry["platform"] = platform;
    entry
}

fn linux(architecture: &str) -> Value {
    json!({"os": "linux", "architecture": architecture})
}

#[test]
fn each_form_of_an_entry_is_found() {
    let store = Store(MemoryStore::new());
    let [a, b] =
        [1, 2].map(|number| store.image(number, media_type::OCI_LAYER_GZIP, media_type::OCI_MANIFEST));
    let check = |platform: Value, wanted: &[&str]| {
        let entries = [on(&a, platform), on(&b, linux("s390x"))];
        store.check(&store.index(media_type::OCI_INDEX, &entries), wanted);
    };
    check(linux("amd64"), &[]);
    check(Value::Null, &["NoPlatform 1"]);
    check(json!({}), &["EmptyPlatform 1"]);
    check(json!({"os": "", "architecture": ""}), &["EmptyPlatform 1"]);
    check(json!({"architecture": "amd64"}), &["NoOs 1"]);
    check(json!({"os": "linux"}), &["NoArchitecture 1"]);
    check(linux("aarch64"), &["ArchitectureAlias 1"]);
    check(linux("AMD64"), &["ArchitectureAlias 1"]);
    check(json!({"os": "Linux", "architecture": "amd64"}), &["OsAlias 1"]);
    check(json!({"os": "linux", "architecture": "arm64", "variant": "8"}), &["VariantAlias 1"]);
    check(json!({"os": "linux", "architecture": "arm64", "variant": "armv8"}), &["LongVariant 1"]);
    check(json!({"os": "linux", "architecture": "arm64", "variant": "v8"}), &[]);
    let list = [on(&a, Value::Null), on(&b, linux("s390x"))];
    let list = store.index(media_type::DOCKER_LIST, &list);
    store.check(&list, &["NoPlatformInDockerList 1", "OciInDockerList 2"]);
}

#[test]
fn a_nested_index_is_found_and_its_entries_count() {
    let store = Store(MemoryStore::new());
    let [a, b] =
        [1, 2].map(|number| store.image(number, media_type::OCI_LAYER_GZIP, media_type::OCI_MANIFEST));
    let inner = store.index(media_type::OCI_INDEX, &[on(&a, linux("x86_64")), on(&b, linux("s390x"))]);
    store.check(
        &store.index(media_type::OCI_INDEX, std::slice::from_ref(&inner)),
        &["NestedIndex 1", "ArchitectureAlias 1"],
    );
    let both = [on(&b, linux("amd64")), inner.clone()];
    let wanted = ["NestedIndex 1", "DuplicatePlatform 2", "ArchitectureAlias 1"];
    store.check(&store.index(media_type::OCI_INDEX, &both), &wanted);
}

#[test]
fn one_platform_twice_is_found_by_normalized_equality() {
    let store = Store(MemoryStore::new());
    let [a, b] =
        [1, 2].map(|number| store.image(number, media_type::OCI_LAYER_GZIP, media_type::OCI_MANIFEST));
    let check = |first: Value, second: Value, wanted: &[&str]| {
        store.check(&store.index(media_type::OCI_INDEX, &[on(&a, first), on(&b, second)]), wanted);
    };
    let twice = ["DuplicatePlatform 2"];
    check(linux("amd64"), linux("amd64"), &twice);
    check(linux("arm64"), json!({"os": "linux", "architecture": "arm64", "variant": "v8"}), &twice);
    check(linux("arm"), json!({"os": "linux", "architecture": "arm", "variant": "v7"}), &twice);
    check(linux("arm"), json!({"os": "linux", "architecture": "arm", "variant": "v6"}), &[]);
    let windows = |version: &str| json!({"os": "windows", "architecture": "amd64", "os.version": version});
    check(windows("10.0.17763.1"), windows("10.0.20348.1"), &[]);
    check(windows("10.0.17763.1"), windows("10.0.17763.1"), &twice);
    check(linux("amd64"), json!({"os": "linux", "architecture": "amd64", "os.features": ["nydus"]}), &[]);
    // The same image twice is one image.
    store.check(&store.index(media_type::OCI_INDEX, &[on(&a, linux("amd64")), on(&a, linux("amd64"))]), &[]);
}

#[test]
fn attestations_do_not_count_and_layers_do() {
    let store = Store(MemoryStore::new());
    let plain = store.image(1, media_type::OCI_LAYER_GZIP, media_type::OCI_MANIFEST);
    let zstd = store.image(2, media_type::OCI_LAYER_ZSTD, media_type::OCI_MANIFEST);
    let kind = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    let docker = store.image(3, kind, media_type::DOCKER_MANIFEST);
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let mut attestation = on(&zstd, unknown.clone());
    attestation["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": plain["digest"],
    });
    let entries = [on(&plain, linux("amd64")), attestation.clone(), on(&docker, unknown)];
    store.check(&store.index(media_type::OCI_INDEX, &entries), &[]);
    // An artifact is not pulled as an image, and needs no platform.
    let config = store.0.add_blob("application/vnd.example.config", b"{}");
    let artifact =
        json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": []});
    let artifact = store.add(&artifact);
    store.check(&store.index(media_type::OCI_INDEX, &[on(&plain, linux("amd64")), artifact]), &[]);
    let entries = [on(&plain, linux("amd64")), on(&zstd, linux("s390x")), on(&docker, linux("386"))];
    store.check(&store.index(media_type::OCI_INDEX, &entries), &["ZstdLayers 1", "DockerZstdLayers 1"]);
    store.check(&plain, &[]);
    store.check(&zstd, &["ZstdLayers 1"]);
    store.check(&docker, &["DockerZstdLayers 1"]);
}

#[test]
fn readers_are_selected_by_program_or_version() {
    let count = |text: &str| {
        let selector: ReaderSelector = text.parse().unwrap();
        READERS.iter().filter(|reader| selector.selects(reader)).count()
    };
    assert_eq!([count("docker"), count("docker-28.5"), count("docker-20.10"), count("podman")], [4, 2, 1, 1]);
    for wrong in ["", "pod", "docker-2", "docker-19.03", "kaniko"] {
        assert!(wrong.parse::<ReaderSelector>().unwrap_err().contains("podman-4.3"), "{wrong}");
    }
    for form in [
        Form::NestedIndex,
        Form::NoPlatform,
        Form::EmptyPlatform,
        Form::NoArchitecture,
        Form::DockerZstdLayers,
    ] {
        assert_eq!(form.readers().count(), form.failing().len(), "{form:?} names an unknown reader");
    }
    let zstd = CompatibilityFinding { form: Form::ZstdLayers, members: Vec::new() };
    let is_wrong = |text: &str| zstd.is_wrong(&[text.parse().unwrap()]);
    assert!(!zstd.is_wrong(&[]) && is_wrong("docker") && !is_wrong("containerd"));
}
