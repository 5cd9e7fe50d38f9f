//! Tests of combining images into an index.

use super::*;
use image_model::manifest;
use image_model::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use image_store::check::{CheckDepth, check};
use image_store::plan::{MovedTag, apply, plan};
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::read_tree_below;
use registry_client::meter::Meter;

fn add_image(store: &MemoryStore, declared: &str) -> Document {
    let layer = store.add_blob(OCI_LAYER, declared.as_bytes());
    let mut config = serde_json::to_value(declared.parse::<Platform>().unwrap()).unwrap();
    config["rootfs"] = serde_json::json!({"type":"layers","diff_ids":[layer.digest]});
    let config = store.add_blob(OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion":2,"config":config,"layers":[layer]});
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    document
}

fn found(declared: &str, specified: &str) -> FetchedMember {
    let store = MemoryStore::new();
    let document = add_image(&store, declared);
    let node = read_tree_below(&store, document, 0).unwrap();
    let platform = if specified.is_empty() { Platform::default() } else { specified.parse().unwrap() };
    let member =
        Member { image: "q.io/a:1".parse().unwrap(), platform, annotations: BTreeMap::new(), line: 3 };
    FetchedMember { member, source: Arc::new(store), node }
}

fn combined(found: &[FetchedMember], options: &IndexOptions) -> String {
    match combine(found, options) {
        Err(problems) => problems.iter().map(|m| format!("{}: {}\n", m.line, m.text)).collect(),
        Ok(CombinedIndex { wanted, .. }) => {
            let manifest::ParsedDocument::Index(index) = wanted.root.parse().unwrap() else {
                panic!("an index")
            };
            let platforms =
                index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(ToString::to_string);
            platforms.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn members_from_several_stores_become_one_complete_image() {
    let found = [found("linux/amd64", "linux/amd64"), found("linux/arm/v7", "linux/arm/v7")];
    let wanted = combine(&found, &IndexOptions::default()).unwrap().wanted;
    let target = MemoryStore::new();
    let steps = plan(wanted, &target, &["latest".into()]).unwrap();
    apply(&steps, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&target, &Pointer::Tag("latest".into()), CheckDepth::Layers), []);
}

#[test]
fn the_platform_comes_from_the_spec_or_the_config() {
    let options = IndexOptions::default();
    assert_eq!(combined(&[found("linux/arm/v7", "")], &options), "linux/arm/v7");
    assert_eq!(combined(&[found("linux/arm64/v8", "linux/arm64")], &options), "linux/arm64/v8");
    assert_eq!(combined(&[found("windows/amd64:10.0.1", "windows/amd64")], &options), "windows/amd64:10.0.1");
}

#[test]
fn an_image_that_declares_another_platform_is_refused_with_a_suggestion() {
    let wrong = || [found("linux/amd64", "linux/arm/v7")];
    let text = combined(&wrong(), &IndexOptions::default());
    assert!(
        text.starts_with("3: ") && text.contains("config-patcher fix q.io/a:1 --set-platform linux/arm/v7"),
        "{text}"
    );
    assert_eq!(combined(&wrong(), &IndexOptions { force: true, ..IndexOptions::default() }), "linux/arm/v7");
}

#[test]
fn a_platform_may_be_specified_in_part() {
    let over = |declared: &str, specified: Platform| {
        let mut one = found(declared, "");
        one.member.platform = specified;
        self::combined(&[one], &IndexOptions { force: true, ..IndexOptions::default() })
    };
    let variant = Platform { variant: Some("v6".into()), ..Platform::default() };
    assert_eq!(over("linux/arm", variant), "linux/arm/v6");
    let architecture = Platform { architecture: "arm64".into(), ..Platform::default() };
    assert_eq!(over("linux/arm/v7", architecture), "linux/arm64");
    let version = Platform { os_version: Some("10.0.2".into()), ..Platform::default() };
    assert_eq!(over("windows/amd64:10.0.1", version), "windows/amd64:10.0.2");
}

#[test]
fn a_mislabeled_image_is_fixed_and_complete() {
    let options = IndexOptions { relabel: true, ..IndexOptions::default() };
    let found = [found("linux/amd64", "linux/amd64"), found("linux/amd64", "linux/arm/v7")];
    let combined = combine(&found, &options).unwrap();
    assert!(combined.notes[0].contains("platform set to linux/arm/v7"), "{:?}", combined.notes);
    assert_eq!(combined.notes.len(), 1, "the right one is left alone");
    let target = MemoryStore::new();
    let steps = plan(combined.wanted, &target, &["x".into()]).unwrap();
    apply(&steps, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&target, &Pointer::Tag("x".into()), CheckDepth::Layers), []);
    let again = combine(&found, &options).unwrap();
    assert!(plan(again.wanted, &target, &["x".into()]).unwrap().is_nothing());
}

#[test]
fn one_image_may_be_listed_for_two_platforms() {
    let options = IndexOptions { force: true, ..IndexOptions::default() };
    let both = [found("linux/arm/v6", "linux/arm/v6"), found("linux/arm/v6", "linux/arm/v7")];
    let wanted = combine(&both, &options).unwrap().wanted;
    assert_eq!(wanted.levels.iter().flatten().count(), 1);
    assert_eq!(combined(&both, &options), "linux/arm/v6 linux/arm/v7");
}

#[test]
fn a_duplicate_platform_by_config_is_a_problem() {
    let text = combined(&[found("linux/arm64", ""), found("linux/arm64/v8", "")], &IndexOptions::default());
    assert!(text.contains("duplicate platform"), "{text}");
}

/// Returns an index as BuildKit pushes it for one platform: an index over the image and its attestation (docker/buildx#1509).
#[test]
fn an_index_of_one_image_and_its_attestation_is_accepted() {
    let store = MemoryStore::new();
    let image = add_image(&store, "linux/arm64");
    let attestation = add_image(&store, "unknown/unknown");
    let mut entry = image.descriptor();
    entry.platform = Some("linux/arm64".parse().unwrap());
    let mut attests = attestation.descriptor();
    attests.platform = Some("unknown/unknown".parse().unwrap());
    attests.annotations.insert("vnd.docker.reference.digest".into(), image.digest().to_string());
    let text = serde_json::json!({"schemaVersion":2,"manifests":[entry, attests]}).to_string();
    let node = read_tree_below(&store, Document::new(text.into_bytes(), None).unwrap(), 0).unwrap();
    let member = Member {
        image: "q.io/a:1".parse().unwrap(),
        platform: Platform::default(),
        annotations: BTreeMap::new(),
        line: 1,
    };
    let index = FetchedMember { member, source: Arc::new(store), node };
    let both = [found("linux/amd64", ""), index];
    assert_eq!(combined(&both, &IndexOptions::default()), "linux/amd64 linux/arm64 unknown/unknown");
    let target = MemoryStore::new();
    let wanted = combine(&both, &IndexOptions::default()).unwrap().wanted;
    let steps = plan(wanted, &target, &["x".into()]).unwrap();
    apply(&steps, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&target, &Pointer::Tag("x".into()), CheckDepth::Layers), []);
}
