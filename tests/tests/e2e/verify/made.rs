//! Images for these tests, with a declared platform, a command, and layers in every compression.

use crate::tools::{Ran, User};
use binfmt_setup::emulators::Target;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_model::platform::Platform;
use image_store::plan::{MovedTag, WantedImage, apply, plan};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};
use image_store::tree::read_tree;
use multiarch_tests::fake_registry::FakeRegistry;
use registry_client::meter::Meter;
use std::io::Write;
use std::sync::Arc;

/// A layer under construction.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn header(kind: tar::EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size as u64);
        header
    }

    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, content.len());
        self.0.append_data(&mut header, name, content).unwrap();
        self
    }

    /// A file without execute permission.
    pub fn data(mut self, name: &str, content: &[u8]) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, content.len());
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, content).unwrap();
        self
    }

    pub fn symlink(mut self, name: &str, target: &str) -> Self {
        self.0.append_link(&mut Self::header(tar::EntryType::Symlink, 0), name, target).unwrap();
        self
    }

    pub fn hard_link(mut self, name: &str, target: &str) -> Self {
        self.0.append_link(&mut Self::header(tar::EntryType::Link, 0), name, target).unwrap();
        self
    }

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An image under construction: declared platform, command, and uncompressed layers.
pub struct TestImage<'a> {
    pub declared: &'a str,
    pub command: &'a [&'a str],
    pub layers: Vec<Vec<u8>>,
    pub packed: fn(&[u8]) -> Vec<u8>,
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Two gzip members, as eStargz and pigz write them.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let pack = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    [pack(first), pack(second)].concat()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

impl TestImage<'_> {
    /// Writes the image to a memory store, without a tag.
    pub fn add_to(&self, store: &MemoryStore) -> Document {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| Digest::of(layer)).collect();
        let kind = match (self.packed)(b"")[..] {
            [0x1f, 0x8b, ..] => media_type::OCI_LAYER_GZIP,
            [0x28, 0xb5, ..] => media_type::OCI_LAYER_ZSTD,
            _ => media_type::OCI_LAYER,
        };
        let blobs: Vec<Descriptor> =
            self.layers.iter().map(|layer| store.add_blob(kind, &(self.packed)(layer))).collect();
        let declared: Platform = self.declared.parse().unwrap();
        let mut config = serde_json::to_value(&declared).unwrap();
        config["config"] = serde_json::json!({"Cmd": self.command});
        config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": diff_ids});
        let config = store.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": blobs,
        });
        let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
        store.write_document(&document).unwrap();
        document
    }

    pub fn store(&self, target: &dyn ImageStore, tag: &str) {
        let store = MemoryStore::new();
        let document = self.add_to(&store);
        store.write_tag("x", &document).unwrap();
        put(store, target, tag);
    }

    pub fn layout(&self, user: &User, name: &str) -> String {
        let dir = user.path(name);
        self.store(&OciLayout::open_or_create(&dir).unwrap(), "v1");
        format!("oci:{}:v1", dir.display())
    }
}

pub fn put(store: MemoryStore, target: &dyn ImageStore, tag: &str) {
    let node = read_tree(&store, &Pointer::Tag("x".into())).unwrap();
    let source: Arc<dyn ImageSource> = Arc::new(store);
    let steps = plan(WantedImage::copy_of(&node, &source).unwrap(), target, &[tag.to_string()]).unwrap();
    apply(&steps, target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
}

pub fn image<'a>(declared: &'a str, command: &'a [&'a str], layers: Vec<Vec<u8>>) -> TestImage<'a> {
    TestImage { declared, command, layers, packed: plain }
}

pub fn verify(user: &User, arguments: &[&str]) -> Ran {
    user.config_patcher(&[&["verify"], arguments].concat())
}

/// Verifies one image. Returns the verdict, the binary platform and the `fix` command.
#[track_caller]
pub fn verdict_of(user: &User, image: &str) -> (String, String, Option<String>) {
    let ran = verify(user, &[image, "--format", "json"]);
    let found = ran.json()["images"][0].clone();
    let word = |value: &serde_json::Value| value.as_str().map(str::to_string);
    let verdict = word(&found["verdict"]).unwrap_or_else(|| panic!("no verdict\n{ran}"));
    let fails = matches!(verdict.as_str(), "mislabeled" | "mixed" | "would-not-start");
    assert_eq!(ran.code, Some(i32::from(fails)), "{ran}");
    let platform = serde_json::from_value::<Option<Platform>>(found["binaryPlatform"].clone()).unwrap();
    (verdict, platform.map_or(String::new(), |platform| platform.to_string()), word(&found["fix"]))
}

/// Returns the probe of binfmt-setup for a platform, a tiny program.
pub fn probe(platform: &str) -> Vec<u8> {
    Target::parse(platform).unwrap().file()
}

/// Returns an index with a correct amd64 image and an arm64 image that declares amd64.
pub fn index() -> MemoryStore {
    let store = MemoryStore::new();
    let base = || Layer::new().file("etc/base", b"shared").end();
    let app = |platform: &str| Layer::new().file("app", &probe(platform)).end();
    let right = image("linux/amd64", &["/app"], vec![base(), app("linux/amd64")]).add_to(&store);
    let wrong = image("linux/amd64", &["/app"], vec![base(), app("linux/arm64")]).add_to(&store);
    let entries: Vec<serde_json::Value> = [(&right, "amd64"), (&wrong, "arm64")]
        .iter()
        .map(|(document, architecture)| {
            let mut entry = serde_json::to_value(document.descriptor()).unwrap();
            entry["platform"] = serde_json::json!({"architecture": architecture, "os": "linux"});
            entry
        })
        .collect();
    let text =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    store.write_tag("x", &Document::new(text.to_string().into_bytes(), None).unwrap()).unwrap();
    store
}

pub fn publish(registry: &FakeRegistry, made: &TestImage<'_>, tag: &str) {
    let store = MemoryStore::new();
    let document = made.add_to(&store);
    let image_store::tree::TreeNode::Image(image) =
        image_store::tree::read_tree_below(&store, document.clone(), 0).unwrap()
    else {
        panic!()
    };
    for layer in &image.manifest.layers {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut store.open_blob(layer).unwrap(), &mut bytes).unwrap();
        registry.put_blob("app", &bytes);
    }
    registry.put_blob("app", &image.config.as_ref().unwrap().bytes);
    registry.put_manifest("app", tag, document.media_type(), document.bytes());
}

pub fn exe() -> Vec<u8> {
    let mut bytes = vec![0; 0x80];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x40;
    bytes[0x40..0x46].copy_from_slice(b"PE\0\0\x64\x86");
    bytes
}
