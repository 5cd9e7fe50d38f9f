//! Indexes made by BuildKit (fixtures/buildkit), mislabeled as by older versions, and fixed.

use crate::tools::User;
use image_model::digest::Digest;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::fake_registry::{FakeRegistry, Options};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Attestation manifests of the old kind, and those that name a subject.
const TAGS: [&str; 2] = ["2", "3"];

fn fixture() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/buildkit"))
}

fn tag(tag: &str) -> Pointer {
    Pointer::Tag(tag.into())
}

/// Every blob of the layout by its digest.
fn blobs(layout: &Path) -> BTreeMap<String, Vec<u8>> {
    let folder = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    folder
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

/// Copies the layout and lets all images declare amd64. Digests and sizes in manifests and indexes follow; index
/// platforms are not changed.
fn mislabeled(from: &Path, to: &Path) {
    let mut all = blobs(from);
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    let is_config = |bytes: &[u8]| bytes.starts_with(br#"{"architecture":"arm"#);
    let configs: Vec<String> =
        all.iter().filter(|(_, bytes)| is_config(bytes)).map(|(hex, _)| hex.clone()).collect();
    assert_eq!(configs.len(), 2);
    let mut sizes = Vec::new();
    for hex in configs {
        let old = String::from_utf8(all.remove(&hex).unwrap()).unwrap();
        let new = old.replace(r#","variant":"v7""#, "");
        let new = new.replacen(r#""architecture":"arm64""#, r#""architecture":"amd64""#, 1);
        let new = new.replacen(r#""architecture":"arm""#, r#""architecture":"amd64""#, 1);
        assert_ne!(old, new);
        sizes.push((hex.clone(), old.len(), new.len()));
        renamed.insert(hex, Digest::of(new.as_bytes()).hex().to_string());
        all.insert(Digest::of(new.as_bytes()).hex().to_string(), new.into_bytes());
    }
    // Manifests refer to configs, attestations and indexes to manifests: one round per level.
    for _ in 0..4 {
        for (hex, bytes) in all.clone() {
            let Ok(old) = String::from_utf8(bytes) else { continue };
            if old.contains("in-toto.io/Statement") || !old.starts_with("{\n") {
                continue;
            }
            let mut new = old.clone();
            for (was, before, after) in &sizes {
                let entry = |hex: &str, size: &usize| format!("{hex}\",\n    \"size\": {size}");
                new = new.replace(&entry(was, before), &entry(&renamed[was], after));
            }
            for (was, is) in &renamed {
                new = new.replace(was, is);
            }
            if new != old {
                assert_eq!(new.len(), old.len(), "sizes of manifests stay");
                let is = Digest::of(new.as_bytes()).hex().to_string();
                all.remove(&hex);
                renamed.insert(hex, is.clone());
                all.insert(is, new.into_bytes());
            }
        }
    }
    fs::create_dir_all(to.join("blobs/sha256")).unwrap();
    for (hex, bytes) in &all {
        fs::write(to.join("blobs/sha256").join(hex), bytes).unwrap();
    }
    let mut index = fs::read_to_string(from.join("index.json")).unwrap();
    while let Some((was, is)) = renamed.iter().find(|(was, _)| index.contains(*was)) {
        index = index.replace(was, is);
    }
    fs::write(to.join("index.json"), index).unwrap();
    fs::copy(from.join("oci-layout"), to.join("oci-layout")).unwrap();
}

/// Not an equivalent index, but the same bytes.
#[test]
fn a_mislabeled_index_becomes_the_index_that_buildkit_made() {
    let user = User::new();
    let layout = user.path("images");
    mislabeled(fixture(), &layout);
    let made = OciLayout::open(fixture()).unwrap();
    let store = OciLayout::open(&layout).unwrap();
    for name in TAGS {
        let image = format!("oci:images:{name}");
        let problems = check(&store, &tag(name), CheckDepth::Layers);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().all(|problem| problem.what.contains("the config declares linux/amd64")));
        assert_ne!(store.read_document(&tag(name)).unwrap(), made.read_document(&tag(name)).unwrap());
        let told = user.config_patcher(&["verify", &image]).exits(1);
        assert_eq!(told.stdout.matches("mislabeled").count(), 4, "{told}");
        let ran = user.config_patcher(&["fix", &image, "--from-index"]).exits(0);
        assert_eq!(ran.stderr.matches(": declared platform linux/amd64 -> ").count(), 2, "{ran}");
        assert_eq!(ran.line(), made.read_document(&tag(name)).unwrap().digest().as_str(), "{ran}");
        user.config_patcher(&["verify", &image, "--strict"]).exits(0);
        assert_eq!(check(&store, &tag(name), CheckDepth::Layers), []);
    }
    let now = blobs(&layout);
    assert!(blobs(fixture()).iter().all(|(hex, bytes)| now.get(hex) == Some(bytes)));
}

#[test]
fn in_a_registry_from_binaries_has_the_result_of_from_index() {
    let user = User::new();
    mislabeled(fixture(), &user.path("images"));
    let registry = FakeRegistry::start_with(Options { referrers: true, ..Options::default() });
    let made = OciLayout::open(fixture()).unwrap();
    for name in TAGS {
        let image = format!("{}/team/app:{name}", registry.host());
        user.manifest_push(&["copy", &format!("oci:images:{name}"), &image]).exits(0);
        user.config_patcher(&["verify", &image]).exits(1);
        let ran = user.config_patcher(&["fix", &image, "--from-binaries"]).exits(0);
        assert_eq!(ran.line(), made.read_document(&tag(name)).unwrap().digest().as_str(), "{ran}");
        registry.closure_complete("team/app", ran.line()).unwrap();
        user.config_patcher(&["fix", &image, "--from-binaries", "--check"]).exits(0);
    }
    assert_eq!(registry.violations(), [""; 0]);
}
