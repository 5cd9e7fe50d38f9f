use super::*;
use error::Exit;
use image_model::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use image_store::check::{CheckDepth, check};
use image_store::plan::{MovedTag, apply, plan};
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::read_tree;
use registry_client::meter::Meter;

fn add_image(store: &MemoryStore, label: &str) -> Document {
    let layer = store.add_blob(OCI_LAYER, b"layer");
    let label: Platform = label.parse().unwrap();
    let mut config = serde_json::to_value(&label).unwrap();
    config["rootfs"] = serde_json::json!({"type":"layers","diff_ids":[layer.digest]});
    let config = store.add_blob(OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion":2,"config":config,"layers":[layer]});
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    document
}

fn entry(document: &Document, platform: &str) -> Descriptor {
    let mut entry = document.descriptor();
    entry.platform = Some(platform.parse().unwrap());
    entry
}

/// An amd64 image, an arm/v7 image that declares amd64, and an attestation of the latter.
fn seed_index(store: &MemoryStore) -> TreeNode {
    let right = add_image(store, "linux/amd64");
    let wrong = add_image(store, "linux/amd64/v1");
    let attestation = add_image(store, "unknown/unknown");
    let mut attests = entry(&attestation, "unknown/unknown");
    attests.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    attests.annotations.insert("vnd.docker.reference.digest".into(), wrong.digest().to_string());
    let entries = [entry(&right, "linux/amd64"), entry(&wrong, "linux/arm/v7"), attests];
    let text = serde_json::json!({"schemaVersion":2,"manifests":entries}).to_string();
    store.write_tag("v1", &Document::new(text.into_bytes(), None).unwrap()).unwrap();
    read_tree(store, &Pointer::Tag("v1".into())).unwrap()
}

fn changes(node: &TreeNode, requested: &RequestedPlatforms) -> Changes {
    match relabel(node, requested, "memory:v1").unwrap() {
        Relabeled::Changed(changes) => changes,
        Relabeled::Unchanged => panic!("something must change"),
    }
}

#[test]
fn only_the_mislabeled_member_and_its_attestation_change() {
    let store = MemoryStore::new();
    let node = seed_index(&store);
    let found = changes(&node, &RequestedPlatforms::FromIndex);
    assert_eq!(found.images.len(), 1);
    assert_eq!(found.images[0].new.to_string(), "linux/arm/v7");
    assert_eq!(found.notes.len(), 1);
    let written = plan(found.new_parts(), &store, &["v1".into()]).unwrap();
    assert_eq!((written.blobs.len(), written.levels.len(), written.tags.len()), (1, 1, 1));
    apply(&written, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("v1".into()), CheckDepth::Layers), []);
    let now = read_tree(&store, &Pointer::Tag("v1".into())).unwrap();
    let (TreeNode::Index(now), TreeNode::Index(before)) = (&now, &node) else {
        panic!("an index stays an index")
    };
    assert_eq!(now.index.manifests[0], before.index.manifests[0]);
    assert_eq!(now.index.manifests[2].attested_digest(), Some(now.index.manifests[1].digest.as_str()));
}

#[test]
fn a_second_run_has_nothing_to_do() {
    let store = MemoryStore::new();
    let node = seed_index(&store);
    let found = changes(&node, &RequestedPlatforms::FromIndex);
    let written = plan(found.new_parts(), &store, &["v1".into()]).unwrap();
    apply(&written, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    let now = read_tree(&store, &Pointer::Tag("v1".into())).unwrap();
    assert!(matches!(relabel(&now, &RequestedPlatforms::FromIndex, "x").unwrap(), Relabeled::Unchanged));
}

#[test]
fn another_store_gets_the_complete_image_without_old_blobs() {
    let (store, target) = (MemoryStore::new(), MemoryStore::new());
    let node = seed_index(&store);
    let found = changes(&node, &RequestedPlatforms::FromIndex);
    let source: Arc<dyn ImageSource> = Arc::new(store);
    let written = plan(found.complete(&node, &source), &target, &["v1".into()]).unwrap();
    apply(&written, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&target, &Pointer::Tag("v1".into()), CheckDepth::Layers), []);
    assert!(
        target.read_document(&Pointer::from(&found.images[0].manifest.0)).is_err(),
        "the old one stays away"
    );
}

#[test]
fn a_member_is_selected_by_platform_or_digest_and_its_entry_follows() {
    let store = MemoryStore::new();
    let node = seed_index(&store);
    let platform: Platform = "linux/arm/v6".parse().unwrap();
    let member = MemberSelector::Platform("linux/arm/v7".parse().unwrap());
    let found = changes(&node, &RequestedPlatforms::Member { member, platform: platform.clone() });
    let written = plan(found.new_parts(), &store, &["v1".into()]).unwrap();
    apply(&written, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    let TreeNode::Index(now) = read_tree(&store, &Pointer::Tag("v1".into())).unwrap() else { panic!() };
    assert_eq!(now.index.manifests[1].platform.as_ref(), Some(&platform));
    assert_eq!(check(&store, &Pointer::Tag("v1".into()), CheckDepth::Documents), []);
}

#[test]
fn nested_indexes_are_fixed_up_to_the_root() {
    let store = MemoryStore::new();
    let TreeNode::Index(inner) = seed_index(&store) else { panic!() };
    let outer = serde_json::json!({"schemaVersion":2,"manifests":[inner.document.descriptor()]}).to_string();
    store.write_tag("v1", &Document::new(outer.into_bytes(), None).unwrap()).unwrap();
    let node = read_tree(&store, &Pointer::Tag("v1".into())).unwrap();
    let found = changes(&node, &RequestedPlatforms::FromIndex);
    let written = plan(found.new_parts(), &store, &["v1".into()]).unwrap();
    apply(&written, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("v1".into()), CheckDepth::Layers), []);
    let target = MemoryStore::new();
    let source: Arc<dyn ImageSource> = Arc::new(store);
    let written = plan(found.complete(&node, &source), &target, &["v1".into()]).unwrap();
    apply(&written, &target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    assert_eq!(check(&target, &Pointer::Tag("v1".into()), CheckDepth::Layers), []);
}

/// An index that contains this index and a correct image for s390x.
fn nest(store: &MemoryStore, inner: &Document) -> TreeNode {
    let beside = entry(&add_image(store, "linux/s390x"), "linux/s390x");
    let outer = serde_json::json!({"schemaVersion":2,"manifests":[beside, inner.descriptor()]}).to_string();
    let outer = Document::new(outer.into_bytes(), None).unwrap();
    store.write_document(inner).unwrap();
    store.write_tag("v1", &outer).unwrap();
    read_tree(store, &Pointer::Tag("v1".into())).unwrap()
}

#[test]
fn members_of_nested_indexes_are_found_by_platform_and_digest() {
    let arm: Platform = "linux/arm/v7".parse().unwrap();
    let by: [fn(&Digest, &Platform) -> RequestedPlatforms; 3] = [
        |_, arm| RequestedPlatforms::Member {
            member: MemberSelector::Platform(arm.clone()),
            platform: arm.clone(),
        },
        |digest, arm| RequestedPlatforms::Member {
            member: MemberSelector::Digest(digest.clone()),
            platform: arm.clone(),
        },
        |digest, arm| RequestedPlatforms::Members(vec![(digest.clone(), arm.clone())]),
    ];
    for (row, labels) in by.into_iter().enumerate() {
        let store = MemoryStore::new();
        let TreeNode::Index(seed) = seed_index(&store) else { panic!() };
        let TreeNode::Index(once) = nest(&store, &seed.document) else { panic!() };
        let node = nest(&store, &once.document);
        let wrong = &seed.index.manifests[1].digest;
        let found = changes(&node, &labels(wrong, &arm));
        assert_eq!(found.root, changes(&node, &RequestedPlatforms::FromIndex).root, "row {row}");
        assert_eq!((found.images.len(), found.notes.len()), (1, 1), "row {row}: {:?}", found.notes);
        let written = plan(found.new_parts(), &store, &["v1".into()]).unwrap();
        // The image, then the indexes above it, then the root with its tag.
        assert_eq!((written.blobs.len(), written.levels.len(), written.tags.len()), (1, 3, 1), "row {row}");
        apply(&written, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
        assert_eq!(check(&store, &Pointer::Tag("v1".into()), CheckDepth::Layers), [], "row {row}");
        let now = read_tree(&store, &Pointer::Tag("v1".into())).unwrap();
        let digest = &found.images[0].manifest.1;
        assert!(matches!(relabel(&now, &labels(digest, &arm), "x").unwrap(), Relabeled::Unchanged));
    }
}

#[test]
fn a_nested_index_is_not_an_image_and_its_duplicates_are_noted() {
    let store = MemoryStore::new();
    let inner = seed_index(&store);
    let node = nest(&store, inner.document().unwrap());
    let refused = |member: MemberSelector, kind: Exit, why: &str| {
        let platform = "linux/arm/v7".parse().unwrap();
        let error = relabel(&node, &RequestedPlatforms::Member { member, platform }, "x").unwrap_err();
        assert_eq!(error.kind, kind);
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(
        MemberSelector::Digest(inner.digest().clone()),
        Exit::BadInput,
        "an index itself; select one of its images",
    );
    let riscv = MemberSelector::Platform("linux/riscv64".parse().unwrap());
    refused(riscv, Exit::NotFound, "it has linux/s390x, linux/amd64, linux/arm/v7");
    let three = relabel(&node, &RequestedPlatforms::Image(Platform::default()), "x").unwrap_err();
    assert!(three.to_string().contains("an index of 3 platforms"), "{three}");
    let member = MemberSelector::Platform("linux/s390x".parse().unwrap());
    let found =
        changes(&node, &RequestedPlatforms::Member { member, platform: "linux/amd64".parse().unwrap() });
    assert!(
        found.notes.iter().any(|note| note.contains("another image for linux/amd64")),
        "{:?}",
        found.notes
    );
}

#[test]
fn an_ambiguous_request_is_refused_with_a_suggestion() {
    let store = MemoryStore::new();
    let node = seed_index(&store);
    let refused = |labels: RequestedPlatforms, kind: Exit, hint: &str| {
        let error = relabel(&node, &labels, "x").unwrap_err();
        assert_eq!(error.kind, kind);
        assert!(error.to_string().contains(hint), "{error}");
    };
    let platform: Platform = "linux/arm64".parse().unwrap();
    refused(
        RequestedPlatforms::Image(platform.clone()),
        Exit::BadInput,
        "an index of 2 platforms; use --from-index",
    );
    let member = MemberSelector::Platform("linux/s390x".parse().unwrap());
    refused(
        RequestedPlatforms::Member { member, platform },
        Exit::NotFound,
        "it has linux/amd64, linux/arm/v7",
    );
    let image = add_image(&store, "linux/amd64");
    let image = image_store::tree::read_tree_below(&store, image, 0).unwrap();
    assert_eq!(relabel(&image, &RequestedPlatforms::FromIndex, "x").unwrap_err().kind, Exit::BadInput);
}

#[test]
fn two_images_for_one_platform_are_noted() {
    let store = MemoryStore::new();
    let node = seed_index(&store);
    let check = |platform: &str, told: bool| {
        let member = MemberSelector::Platform("linux/arm/v7".parse().unwrap());
        let found =
            changes(&node, &RequestedPlatforms::Member { member, platform: platform.parse().unwrap() });
        let notes = found.notes.iter().filter(|note| note.contains("another image"));
        assert_eq!(notes.count(), usize::from(told), "{platform}: {:?}", found.notes);
        let lost: Vec<(String, bool)> =
            found.duplicates.iter().map(|one| (one.old.to_string(), one.is_lost)).collect();
        let wanted = if told { vec![("linux/arm/v7".to_string(), true)] } else { Vec::new() };
        assert_eq!(lost, wanted, "{platform}");
    };
    check("linux/amd64/v1", true);
    check("linux/arm/v7", false);
    check("linux/arm64", false);
}

/// An index entry may have an alias; neither the config nor the new entry gets it.
#[test]
fn aliases_of_index_entries_become_canonical_names() {
    let store = MemoryStore::new();
    let check = |declared: &str, alias: Platform, name: &str, images: usize| {
        let image = add_image(&store, declared);
        let mut wrong = image.descriptor();
        wrong.platform = Some(alias);
        let text = serde_json::json!({"schemaVersion":2,"manifests":[wrong]}).to_string();
        store.write_tag("alias", &Document::new(text.into_bytes(), None).unwrap()).unwrap();
        let node = read_tree(&store, &Pointer::Tag("alias".into())).unwrap();
        let found = changes(&node, &RequestedPlatforms::FromIndex);
        let names: Vec<String> = found.images.iter().map(|change| change.new.to_string()).collect();
        assert_eq!(names, vec![name; images]);
        let index: serde_json::Value = serde_json::from_slice(found.root.bytes()).unwrap();
        let written: Platform = serde_json::from_value(index["manifests"][0]["platform"].clone()).unwrap();
        assert_eq!(written.to_string(), name);
    };
    check("linux/amd64", Platform::new("linux", "x86_64", None), "linux/amd64", 0);
    check("linux/amd64", Platform::new("Linux", "AMD64", None), "linux/amd64", 0);
    check("linux/amd64", Platform::new("linux", "aarch64", None), "linux/arm64", 1);
    check("linux/arm64", Platform::new("linux", "arm64", Some("armv8")), "linux/arm64/v8", 0);
    check("linux/amd64", Platform::new("linux", "armhf", None), "linux/arm/v7", 1);
}
