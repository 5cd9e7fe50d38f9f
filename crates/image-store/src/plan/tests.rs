//! Tests of plans and their application.

use super::*;
use crate::store::ImageStore;
use crate::store::memory::MemoryStore;
use crate::store::oci_layout::OciLayout;
use crate::tree::read_tree;
use error::Exit;
use image_model::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use registry_client::meter::Meter;

/// An index over two images that share a layer, in a store of its own.
fn source() -> (Arc<dyn ImageSource>, TreeNode) {
    let store = MemoryStore::new();
    let layer = store.add_blob(OCI_LAYER, b"layer");
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let config = format!("{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}");
        let config = store.add_blob(OCI_CONFIG, config.as_bytes());
        let manifest = serde_json::json!({"schemaVersion":2,"config":config,"layers":[layer]});
        let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
        store.write_document(&document).unwrap();
        entries.push(document.descriptor());
    }
    let index = serde_json::json!({"schemaVersion":2,"manifests":entries}).to_string();
    store.write_tag("v1", &Document::new(index.into_bytes(), None).unwrap()).unwrap();
    let node = read_tree(&store, &Pointer::Tag("v1".into())).unwrap();
    (Arc::new(store), node)
}

fn tags() -> Vec<String> {
    vec!["v1".into()]
}

#[test]
fn a_copy_is_complete_and_a_second_run_has_nothing_to_do() {
    let (source, node) = source();
    let target = MemoryStore::new();
    let first = plan(WantedImage::copy_of(&node, &source).unwrap(), &target, &tags()).unwrap();
    assert_eq!((first.blobs.len(), first.levels.len(), first.tags.len()), (3, 1, 1));
    apply(&first, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(read_tree(&target, &Pointer::Tag("v1".into())).unwrap().digest(), node.digest());
    let second = plan(WantedImage::copy_of(&node, &source).unwrap(), &target, &tags()).unwrap();
    assert!(second.is_nothing());
}

#[test]
fn references_of_present_documents_are_not_checked_again() {
    let (source, node) = source();
    let target = MemoryStore::new();
    let by_digest = plan(WantedImage::copy_of(&node, &source).unwrap(), &target, &[]).unwrap();
    apply(&by_digest, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert!(target.tags().unwrap().is_empty());
    let then = plan(WantedImage::copy_of(&node, &source).unwrap(), &target, &tags()).unwrap();
    assert_eq!((then.blobs.len(), then.levels.len(), then.tags.len()), (0, 0, 1));
}

#[test]
fn a_tag_that_another_client_moved_is_not_overwritten() {
    let (source, node) = source();
    let target = MemoryStore::new();
    let first = plan(WantedImage::copy_of(&node, &source).unwrap(), &target, &tags()).unwrap();
    let config = target.add_blob(OCI_CONFIG, b"{}");
    let other = serde_json::json!({"schemaVersion":2,"config":config,"layers":[]}).to_string();
    let other = Document::new(other.into_bytes(), None).unwrap();
    target.write_tag("v1", &other).unwrap();
    let error = apply(&first, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap_err();
    assert_eq!(error.kind, Exit::Conflict);
    assert_eq!(target.read_document(&Pointer::Tag("v1".into())).unwrap(), other);
    apply(&first, &target, MovedTag::Overwrite, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(target.read_document(&Pointer::Tag("v1".into())).unwrap().digest(), node.digest());
}

#[test]
fn a_tag_that_moves_just_before_the_write_is_not_overwritten() {
    let (source, node) = source();
    let directory = tempfile::tempdir().unwrap();
    let stores: [Box<dyn ImageStore>; 2] =
        [Box::new(MemoryStore::new()), Box::new(OciLayout::open_or_create(directory.path()).unwrap())];
    for target in &stores {
        let target = &**target;
        let other =
            serde_json::json!({"schemaVersion":2,"manifests":[],"annotations":{"by":"somebody else"}});
        let other = Document::new(other.to_string().into_bytes(), None).unwrap();
        let first = plan(WantedImage::copy_of(&node, &source).unwrap(), target, &tags()).unwrap();
        apply_content(&first, target, &Meter::default(), &|_| {}).unwrap();
        // The hook runs after the tag was resolved: another process may move the tag at that moment.
        let before = |_: &TagStep, now: Option<&Digest>| {
            assert_eq!(now, None);
            target.write_tag("v1", &other)
        };
        let guard = TagGuard { moved: MovedTag::Refuse, before: &before };
        let error = apply_tags(&first, target, guard, ResolvedTags::default(), &|_| {}).unwrap_err();
        assert_eq!(error.kind, Exit::Conflict, "{}", target.display_name());
        assert!(error.to_string().contains(&format!("refers to {} now", other.digest())), "{error}");
        assert_eq!(target.read_document(&Pointer::Tag("v1".into())).unwrap(), other);
    }
}

#[test]
fn a_plan_prints_every_write_with_old_and_new_digest() {
    let (source, node) = source();
    let shown = plan(WantedImage::copy_of(&node, &source).unwrap(), &MemoryStore::new(), &tags())
        .unwrap()
        .to_string();
    assert_eq!(shown.matches("  blob ").count(), 3);
    assert_eq!(shown.matches("  manifest ").count(), 2);
    assert!(shown.contains(&format!("  tag       {}", node.digest())), "{shown}");
    assert!(shown.contains("memory:v1  new"), "{shown}");
}

/// An image for a platform in the store; its digest names it in these tests.
fn image(store: &MemoryStore, platform: &str, text: &str) -> Document {
    let mut words = platform.split('/').skip(1);
    let mut config = serde_json::json!({"os": "linux", "architecture": words.next(), "author": text});
    if let Some(variant) = words.next() {
        config["variant"] = variant.into();
    }
    let config = store.add_blob(OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []});
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    document
}

/// An entry for this document; with `said` its platform.
fn entry(document: &Document, said: Option<&str>) -> serde_json::Value {
    let mut entry = document.descriptor();
    entry.platform = said.map(|said| said.parse().unwrap());
    serde_json::to_value(entry).unwrap()
}

fn index(store: &MemoryStore, entries: &[serde_json::Value]) -> Document {
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let index = Document::new(index.into_bytes(), None).unwrap();
    store.write_document(&index).unwrap();
    index
}

#[test]
fn a_platform_that_a_tag_would_lose_is_named_and_refused() {
    let store = Arc::new(MemoryStore::new());
    let [amd64, arm64, arm64_v8, s390x] =
        ["linux/amd64", "linux/arm64", "linux/arm64/v8", "linux/s390x"].map(|p| image(&store, p, "old"));
    let [new_amd64, new_arm64] = ["linux/amd64", "linux/arm64/v8"].map(|p| image(&store, p, "new"));
    let of = |document: &Document, platform: &'static str| entry(document, Some(platform));
    let plain = |document: &Document| entry(document, None);
    let mut attestation = of(&arm64, "unknown/unknown");
    attestation["annotations"] = serde_json::json!({"vnd.docker.reference.digest": amd64.digest()});
    let nested = index(&store, &[of(&arm64, "linux/arm64"), of(&s390x, "linux/s390x")]);
    let source: Arc<dyn ImageSource> = store.clone();
    let check = |old: &Document, new: &Document, expected: &[&str]| {
        store.write_tag("v1", old).unwrap();
        let node = read_tree(&*store, &Pointer::from(new.digest())).unwrap();
        let plan = plan(WantedImage::copy_of(&node, &source).unwrap(), &*store, &tags()).unwrap();
        let lost: Vec<String> = plan.drops.iter().map(|dropped| dropped.platform.to_string()).collect();
        assert_eq!(lost, expected, "{plan}");
        let refused = plan.refuse_drops(&[]);
        assert_eq!(refused.is_err(), !expected.is_empty());
        let named: Vec<Platform> = expected.iter().map(|platform| platform.parse().unwrap()).collect();
        plan.refuse_drops(&named).unwrap();
    };
    let both = index(&store, &[of(&amd64, "linux/amd64"), of(&arm64, "linux/arm64")]);
    let only = index(&store, &[of(&new_amd64, "linux/amd64")]);
    check(&both, &only, &["linux/arm64"]);
    check(&both, &new_amd64, &["linux/arm64"]);
    check(&both, &index(&store, &[of(&new_amd64, "linux/amd64"), of(&new_arm64, "linux/arm64/v8")]), &[]);
    // Without a platform in the entry, the config decides; on both sides.
    let without = index(&store, &[plain(&amd64), plain(&arm64_v8)]);
    check(&without, &only, &["linux/arm64/v8"]);
    check(&both, &index(&store, &[plain(&new_amd64), plain(&new_arm64)]), &[]);
    // A single image; the same image as a member of the new index.
    check(&arm64, &new_amd64, &["linux/arm64"]);
    check(&arm64, &new_arm64, &[]);
    check(&arm64, &both, &[]);
    // Attestations do not count.
    check(&index(&store, &[of(&amd64, "linux/amd64"), attestation]), &only, &[]);
    // Nested indexes, on both sides.
    let outer = index(&store, &[of(&amd64, "linux/amd64"), plain(&nested)]);
    check(&outer, &only, &["linux/arm64", "linux/s390x"]);
    check(&both, &outer, &[]);
    // An artifact has no platform.
    let empty = store.add_blob("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = serde_json::json!({"schemaVersion": 2, "config": empty, "layers": []}).to_string();
    let artifact = Document::new(artifact.into_bytes(), None).unwrap();
    check(&artifact, &only, &[]);
}
