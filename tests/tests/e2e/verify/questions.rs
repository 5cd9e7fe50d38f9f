//! Questions that the manifests answer: required platforms, and compatibility with readers.

use super::made::{Layer, TestImage, image, plain, probe, put, verify, zstd};
use crate::registry::rounds::Rounds;
use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::registry::RegistryStore;
use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault, Request};
use registry_client::{Client, RegistryOptions};
use serde_json::{Value, json};

fn app(store: &MemoryStore, platform: &str, packed: fn(&[u8]) -> Vec<u8>) -> Descriptor {
    let layers = vec![Layer::new().file("app", &probe(platform)).end()];
    TestImage { packed, ..image(platform, &["/app"], layers) }.add_to(store).descriptor()
}

/// Adds an index with these platforms in its entries, and tags it as [`put`] expects.
fn index(store: &MemoryStore, kind: &str, entries: &[(&Descriptor, Value)]) -> Document {
    let entries: Vec<Value> = entries
        .iter()
        .map(|(member, platform)| {
            let mut entry = serde_json::to_value(member).unwrap();
            entry["platform"] = platform.clone();
            entry
        })
        .collect();
    let text = json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string();
    let document = Document::new(text.into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    document
}

fn linux(architecture: &str) -> Value {
    json!({"os": "linux", "architecture": architecture})
}

fn layout(user: &User, store: MemoryStore, name: &str) -> String {
    put(store, &OciLayout::open_or_create(&user.path(name)).unwrap(), "v1");
    format!("oci:{name}:v1")
}

/// Returns an index of linux/amd64, linux/arm64 and an attestation.
fn attested() -> MemoryStore {
    let store = MemoryStore::new();
    let [amd64, arm64] = ["linux/amd64", "linux/arm64"].map(|platform| app(&store, platform, plain));
    let mut attestation = image("unknown/unknown", &[], vec![b"{}".to_vec()]).add_to(&store).descriptor();
    attestation.annotations = [
        ("vnd.docker.reference.type".to_string(), "attestation-manifest".to_string()),
        ("vnd.docker.reference.digest".to_string(), amd64.digest.to_string()),
    ]
    .into();
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let arm64_v8 = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    let entries = [(&amd64, linux("amd64")), (&arm64, arm64_v8), (&attestation, unknown)];
    index(&store, media_type::OCI_INDEX, &entries);
    store
}

fn in_registry(store: MemoryStore, registry: &FakeRegistry, repository: &str) -> String {
    let client = Client::new(RegistryOptions::default()).unwrap();
    put(store, &RegistryStore::writing(&client, &registry.host(), repository).unwrap(), "v1");
    format!("{}/{repository}:v1", registry.host())
}

#[test]
fn required_platforms_are_compared_as_engines_do() {
    let user = User::new();
    let name = layout(&user, attested(), "app");
    for right in ["linux/amd64,linux/arm64", "arm64", "arm64/v8,amd64/v1", "aarch64"] {
        let ran = verify(&user, &[&name, "--require", right]).exits(0);
        assert!(!ran.stdout.contains("there is no image"), "{ran}");
    }
    let wrong = ["--require", "linux/amd64,linux/s390x", "--require", "arm/v7"];
    let ran = verify(&user, &[&[name.as_str()][..], &wrong].concat()).exits(1);
    let sentence = "there is no image for linux/s390x, linux/arm/v7; it has linux/amd64, linux/arm64/v8";
    assert!(ran.stdout.contains(&format!("{name}: {sentence}\n")), "{ran}");
    let reports = ["--format", "json", "--html", "r.html", "--sarif", "r.sarif", "--junit", "r.xml"];
    let json = verify(&user, &[&[name.as_str()][..], &wrong, &reports].concat()).exits(1).json();
    assert_eq!(
        json["platforms"][0]["missing"],
        json!([linux("s390x"), {"os": "linux", "architecture": "arm", "variant": "v7"}])
    );
    for report in ["r.html", "r.sarif", "r.xml"] {
        assert!(std::fs::read_to_string(user.path(report)).unwrap().contains(sentence), "{report}");
    }
    // --platform selects what is judged; the whole image must have the required ones.
    verify(&user, &[&name, "--platform", "linux/amd64", "--require", "linux/arm64"]).exits(0);
    verify(&user, &[&name, "--platform", "linux/amd64", "--require", "linux/s390x"]).exits(1);
    verify(&user, &[&name, "--require", "linux/"]).exits(2);
}

#[test]
fn an_image_has_at_least_the_platforms_of_another() {
    let user = User::new();
    let both = layout(&user, attested(), "both");
    let store = MemoryStore::new();
    let amd64 = app(&store, "linux/amd64", plain);
    index(&store, media_type::OCI_INDEX, &[(&amd64, linux("amd64"))]);
    let one = layout(&user, store, "one");
    let single = image("linux/arm64", &["/app"], vec![Layer::new().file("app", &probe("linux/arm64")).end()]);
    let single = single.layout(&user, "single");
    verify(&user, &[&both, "--like", &one]).exits(0);
    verify(&user, &[&both, "--like", &single]).exits(0);
    let ran = verify(&user, &[&one, "--like", &both]).exits(1);
    assert!(ran.stdout.contains("no image for linux/arm64/v8; it has linux/amd64\n"), "{ran}");
    let ran = verify(&user, &[&single, "--like", &both]).exits(1);
    assert!(ran.stdout.contains("no image for linux/amd64; it has linux/arm64\n"), "{ran}");
    verify(&user, &[&both, "--like", "oci:both:gone"]).exits(5);
}

#[test]
fn every_tag_is_asked_and_the_last_line_counts() {
    let user = User::new();
    layout(&user, attested(), "app");
    let store = MemoryStore::new();
    let wrong = image("linux/arm64", &["/app"], vec![Layer::new().file("app", &probe("linux/amd64")).end()]);
    let wrong = wrong.add_to(&store);
    store.write_tag("x", &wrong).unwrap();
    put(store, &OciLayout::open_or_create(&user.path("app")).unwrap(), "v2");
    let all = ["--all-tags", "oci:app"];
    let ran = verify(&user, &[&all[..], &["--require", "linux/amd64"]].concat()).exits(1);
    assert!(ran.stdout.contains("oci:app:v2: there is no image for linux/amd64"), "{ran}");
    assert_eq!(ran.stdout.matches("there is no image").count(), 1, "{ran}");
    let summary = "1 of 3 images needs attention; without a required platform: 1";
    assert_eq!(ran.stderr.trim_end(), summary, "{ran}");
    assert!(verify(&user, &[&all[..], &["--quiet"]].concat()).exits(1).stderr.is_empty());
    // One image needs no summary.
    assert!(verify(&user, &["oci:app:v1"]).exits(0).stderr.is_empty());
    let only = [&all[..], &["--only-problems", "--html", "r.html", "--format"]].concat();
    let text = verify(&user, &[&only[..], &["text"]].concat()).exits(1);
    let html = std::fs::read_to_string(user.path("r.html")).unwrap();
    assert!(text.stdout.contains("oci:app:v2") && !text.stdout.contains("oci:app:v1"), "{text}");
    assert!(
        html.contains("data-name=\"oci:app:v2\"") && !html.contains("data-name=\"oci:app:v1\""),
        "{html}"
    );
    let json = verify(&user, &[&only[..], &["json"]].concat()).exits(1).json();
    assert_eq!(json["images"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(
        json["summary"],
        json!({"images": 3, "needAttention": 1, "incompatible": 0, "lackPlatforms": 0})
    );
}

#[test]
fn the_answers_take_two_round_trips_and_no_layer() {
    let user = User::new();
    let registry = FakeRegistry::start();
    let name = in_registry(attested(), &registry, "app");
    let like = in_registry(attested(), &registry, "like");
    registry.take_log();
    let rounds = Rounds::of(&registry);
    let ran = verify(&user, &[&name, "--no-layers", "--require", "amd64,arm64", "--like", &like]).exits(0);
    assert_eq!(ran.stdout, format!("{name}: linux/amd64, linux/arm64/v8\n"));
    let paths: Vec<String> = registry.take_log().into_iter().map(|request| request.path).collect();
    // The index and its members, of both images.
    assert_eq!((rounds.taken(), paths.len()), (2, 8), "{paths:?}");
    assert!(paths.iter().all(|path| path.contains("/manifests/")), "{paths:?}");
    verify(&user, &[&name, "--no-layers", "--require", "s390x"]).exits(1);
    // With layers that are absent, the answer is there as well.
    let layer = Digest::of(&Layer::new().file("app", &probe("linux/amd64")).end()).to_string();
    let is_layer = move |request: &Request| request.path.contains(&layer);
    registry.fault(Fault::when(is_layer, Act::status(404)).forever());
    let ran = verify(&user, &[&name, "--no-cache", "--require", "s390x"]).exits(1);
    assert!(ran.stdout.contains("incomplete") && ran.stdout.contains("no image for linux/s390x"), "{ran}");
    verify(&user, &[&name, "--no-layers", "--strict"]).exits(2);
}

#[test]
fn each_problem_is_mended_by_the_printed_command() {
    let user = User::new();
    let store = MemoryStore::new();
    let [amd64, arm64, s390x] =
        ["linux/amd64", "linux/arm64", "linux/s390x"].map(|platform| app(&store, platform, plain));
    let inner = index(
        &store,
        media_type::OCI_INDEX,
        &[(&amd64, json!({"os": "Linux", "architecture": "x86_64"})), (&s390x, Value::Null)],
    );
    let twin = Layer::new().file("app", &probe("linux/arm64")).file("etc/other", b"").end();
    let twin = image("linux/arm64", &["/app"], vec![twin]).add_to(&store).descriptor();
    let entries = [
        (&arm64, linux("arm64")),
        (&inner.descriptor(), Value::Null),
        (&twin, json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
    ];
    index(&store, media_type::OCI_INDEX, &entries);
    let name = layout(&user, store, "app");
    let ran = verify(&user, &[&name]).exits(1);
    let (_, command) = ran.stdout.split_once("to fix it, run: manifest-push ").unwrap();
    let command: Vec<&str> = command.lines().next().unwrap().split(' ').collect();
    assert_eq!(command[2..], ["--flatten", "--normalize", "--remove", twin.digest.as_str()], "{ran}");
    user.run("manifest-push", &command).exits(0);
    let json = verify(&user, &[&name, "--format", "json"]).exits(0).json();
    assert_eq!(json["compatibility"], json!([]));
    let members: Vec<&str> =
        json["images"].as_array().unwrap().iter().map(|one| one["manifest"].as_str().unwrap()).collect();
    assert_eq!(members, [&arm64, &amd64, &s390x].map(|member| member.digest.as_str()));
    // Again: nothing to do.
    user.run("manifest-push", &command[..4]).exits(0);
}

#[test]
fn a_platform_is_not_filled_in_from_a_wrong_image() {
    let user = User::new();
    let store = MemoryStore::new();
    let amd64 = app(&store, "linux/amd64", plain);
    let wrong = Layer::new().file("app", &probe("linux/arm64")).end();
    let wrong = image("linux/s390x", &["/app"], vec![wrong]).add_to(&store).descriptor();
    index(&store, media_type::OCI_INDEX, &[(&amd64, linux("amd64")), (&wrong, Value::Null)]);
    let name = layout(&user, store, "app");
    let ran = verify(&user, &[&name]).exits(1);
    assert!(ran.stdout.contains("wrong build") && ran.stdout.contains("entry without a platform"), "{ran}");
    assert!(!ran.stdout.contains("--normalize"), "{ran}");
}

#[test]
fn notes_count_for_the_readers_that_are_named() {
    let user = User::new();
    let store = MemoryStore::new();
    let amd64 = app(&store, "linux/amd64", zstd);
    let arm64 = app(&store, "linux/arm64", plain);
    index(&store, media_type::DOCKER_LIST, &[(&amd64, linux("amd64")), (&arm64, linux("arm64"))]);
    let name = layout(&user, store, "app");
    let ran = verify(&user, &[&name]).exits(0);
    assert!(
        ran.stdout.contains("note: layers compressed with zstd (linux/amd64): Docker 20.10 cannot pull it"),
        "{ran}"
    );
    assert!(
        ran.stdout.contains("note: OCI manifests in a Docker manifest list (linux/amd64, linux/arm64)"),
        "{ran}"
    );
    verify(&user, &[&name, "--readers", "podman,containerd-1.6"]).exits(0);
    verify(&user, &[&name, "--readers", "podman", "--readers", "docker"]).exits(1);
    verify(&user, &[&name, "--readers", "docker-20.10", "--platform", "linux/arm64"]).exits(0);
    verify(&user, &[&name, "--readers", "kaniko"]).exits(2);
}
