//! The contract of `ImageSource` and `ImageStore`, tested for memory, layout, both archives and registry.

use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::archive::{DockerArchive, OciArchive};
use image_store::check::{CheckDepth, check};
use image_store::plan::{MovedTag, WantedImage, apply, plan};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::registry::RegistryStore;
use image_store::store::{ImageSource, ImageStore, Pointer, read_blob};
use image_store::tree::read_tree;
use multiarch_tests::fake_registry::FakeRegistry;
use registry_client::meter::Meter;
use registry_client::{Client, RegistryOptions};
use std::io::Read;
use std::sync::Arc;

/// A store under test, the value that keeps it alive, and two valid tags.
struct StoreUnderTest {
    store: Arc<dyn ImageStore>,
    /// Opens the same store again, as another process would.
    reopen: Box<dyn Fn() -> Arc<dyn ImageStore>>,
    tags: [&'static str; 2],
    /// A docker archive in the classic format stores no manifests: it derives them from its other content.
    stores_manifests: bool,
    _alive: Box<dyn std::any::Any>,
}

fn memory() -> StoreUnderTest {
    let store: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
    let same = store.clone();
    StoreUnderTest {
        store,
        reopen: Box::new(move || same.clone()),
        tags: ["a", "b"],
        stores_manifests: true,
        _alive: Box::new(()),
    }
}

fn layout() -> StoreUnderTest {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let reopen = move || Arc::new(OciLayout::open_or_create(&path).unwrap()) as Arc<dyn ImageStore>;
    StoreUnderTest {
        store: reopen(),
        reopen: Box::new(reopen),
        tags: ["a", "b"],
        stores_manifests: true,
        _alive: Box::new(dir),
    }
}

fn archive() -> StoreUnderTest {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.tar");
    let reopen = move || Arc::new(DockerArchive::open_or_create(&path).unwrap()) as Arc<dyn ImageStore>;
    let tags = ["app:a", "app:b"];
    StoreUnderTest {
        store: reopen(),
        reopen: Box::new(reopen),
        tags,
        stores_manifests: false,
        _alive: Box::new(dir),
    }
}

fn oci_archive() -> StoreUnderTest {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.tar");
    let reopen = move || Arc::new(OciArchive::open_or_create(&path).unwrap()) as Arc<dyn ImageStore>;
    let tags = ["a", "b"];
    StoreUnderTest {
        store: reopen(),
        reopen: Box::new(reopen),
        tags,
        stores_manifests: true,
        _alive: Box::new(dir),
    }
}

fn registry() -> StoreUnderTest {
    let server = FakeRegistry::start();
    let host = server.host();
    let reopen = move || {
        let client = Client::new(RegistryOptions::default()).unwrap();
        Arc::new(RegistryStore::writing(&client, &host, "team/app").unwrap()) as Arc<dyn ImageStore>
    };
    StoreUnderTest {
        store: reopen(),
        reopen: Box::new(reopen),
        tags: ["a", "b"],
        stores_manifests: true,
        _alive: Box::new(server),
    }
}

type Make = fn() -> StoreUnderTest;

const STORES: [(&str, Make); 5] = [
    ("memory", memory),
    ("layout", layout),
    ("archive", archive),
    ("oci_archive", oci_archive),
    ("registry", registry),
];

/// An image with one layer, in a memory store.
struct Sample {
    source: Arc<dyn ImageSource>,
    document: Document,
    layer: Descriptor,
    config: Descriptor,
}

fn sample(text: &str) -> Sample {
    let store = MemoryStore::new();
    let layer = store.add_blob(media_type::DOCKER_LAYER, &layer_tar(text));
    let config = serde_json::json!({
        "architecture": "arm64", "os": "linux", "note": text,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = store.add_blob(media_type::DOCKER_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST, "config": config, "layers": [layer],
    });
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    Sample { source: Arc::new(store), document, layer, config }
}

fn layer_tar(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, "file", text.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

/// Writes the blobs of the sample, then the tag.
fn put(store: &dyn ImageStore, sample: &Sample, tag: &str) {
    for blob in [&sample.layer, &sample.config] {
        store.write_blob(blob, &|| sample.source.open_blob(blob)).unwrap();
    }
    store.write_tag(tag, &sample.document).unwrap();
}

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

/// Runs a test for every store and prints the name of the store.
fn for_each_store(test: fn(&StoreUnderTest)) {
    for (name, make) in STORES {
        eprintln!("store: {name}");
        test(&make());
    }
}

#[test]
fn an_image_is_read_back_as_written() {
    for_each_store(|tested| {
        let sample = sample("one");
        put(&*tested.store, &sample, tested.tags[0]);
        for store in [tested.store.clone(), (tested.reopen)()] {
            let found = store.read_document(&tag(tested.tags[0])).unwrap();
            assert_eq!(store.resolve(&tag(tested.tags[0])).unwrap().unwrap().digest, *found.digest());
            if tested.stores_manifests {
                assert_eq!(found, sample.document);
            }
            assert_eq!(store.tags().unwrap(), [tested.tags[0]]);
            let config = read_blob(&*store, &sample.config, 4096).unwrap();
            assert!(sample.config.digest.matches(&config), "the bytes of the config changed");
            let mut layer = Vec::new();
            store.open_blob(&sample.layer).unwrap().read_to_end(&mut layer).unwrap();
            assert_eq!(layer, layer_tar("one"));
            assert_eq!(check(&*store, &tag(tested.tags[0]), CheckDepth::Layers), []);
        }
    });
}

#[test]
fn a_range_of_a_blob_is_exact_or_none() {
    for_each_store(|tested| {
        let sample = sample("one");
        put(&*tested.store, &sample, tested.tags[0]);
        let whole = layer_tar("one");
        let part = |start: u64, end: u64| {
            let mut bytes = Vec::new();
            let opened = tested.store.open_blob_range(&sample.layer, start..end)?;
            Ok::<_, error::Error>(opened.map(|mut content| {
                content.read_to_end(&mut bytes).unwrap();
                bytes
            }))
        };
        let size = whole.len() as u64;
        for (start, end) in [(0, 1), (512, 515), (size - 1, size), (0, size)] {
            let wanted = &whole[start as usize..end as usize];
            assert!(part(start, end).unwrap().is_none_or(|found| found == wanted), "{start}..{end}");
        }
        for (start, end) in [(0, size + 1), (size, size + 5), (5, 5)] {
            assert!(part(start, end).map_or(true, |found| found.is_none()), "{start}..{end}");
        }
    });
}

#[test]
fn absent_images_are_none_or_not_found() {
    for_each_store(|tested| {
        let absent = Descriptor::of("x", b"absent");
        assert!(!tested.store.has_blob(&absent).unwrap());
        assert_eq!(tested.store.resolve(&tag(tested.tags[0])).unwrap(), None);
        assert_eq!(tested.store.resolve(&Pointer::from(&absent.digest)).unwrap(), None);
        put(&*tested.store, &sample("one"), tested.tags[0]);
        assert_eq!(tested.store.resolve(&tag(tested.tags[1])).unwrap(), None);
        assert_eq!(tested.store.read_document(&tag(tested.tags[1])).unwrap_err().kind, Exit::NotFound);
        let opened = tested.store.open_blob(&absent);
        let error = opened.and_then(|mut content| {
            std::io::copy(&mut content, &mut std::io::sink()).map_err(|e| error::Error::from_io("read", e))
        });
        assert_eq!(error.unwrap_err().kind, Exit::NotFound);
    });
}

#[test]
fn a_blob_with_the_wrong_digest_or_size_is_refused_and_not_stored() {
    for_each_store(|tested| {
        let expected = Descriptor::of("x", b"promised");
        let wrong = |bytes: &'static [u8]| {
            let result = tested.store.write_blob(&expected, &|| Ok(Box::new(bytes)));
            result.map_err(|error| error.kind)
        };
        assert_eq!(wrong(b"PROMISED"), Err(Exit::Integrity));
        assert_eq!(wrong(b"promise"), Err(Exit::Integrity));
        assert_eq!(wrong(b"promised and more"), Err(Exit::Integrity));
        assert!(!(tested.reopen)().has_blob(&expected).unwrap());
        assert_eq!(wrong(b"promised"), Ok(()));
    });
}

#[test]
fn a_document_is_refused_before_the_blobs_that_it_references() {
    for_each_store(|tested| {
        let sample = sample("one");
        tested.store.write_blob(&sample.config, &|| sample.source.open_blob(&sample.config)).unwrap();
        assert!(tested.store.write_tag(tested.tags[0], &sample.document).is_err(), "its layer is missing");
        assert_eq!((tested.reopen)().resolve(&tag(tested.tags[0])).unwrap(), None);
    });
}

#[test]
fn moving_a_tag_does_not_change_other_tags() {
    for_each_store(|tested| {
        let (one, two) = (sample("one"), sample("two"));
        put(&*tested.store, &one, tested.tags[0]);
        put(&*tested.store, &one, tested.tags[1]);
        put(&*tested.store, &two, tested.tags[0]);
        let store = (tested.reopen)();
        let note = |name: &str| {
            let node = read_tree(&*store, &tag(name)).unwrap();
            let images = node.images();
            String::from_utf8(images[0].1.config.as_ref().unwrap().bytes.clone()).unwrap()
        };
        assert!(note(tested.tags[0]).contains("\"two\"") && note(tested.tags[1]).contains("\"one\""));
        assert_eq!(store.tags().unwrap(), tested.tags);
    });
}

#[test]
fn writing_the_same_image_again_succeeds() {
    for_each_store(|tested| {
        let sample = sample("one");
        put(&*tested.store, &sample, tested.tags[0]);
        put(&*tested.store, &sample, tested.tags[0]);
        put(&*(tested.reopen)(), &sample, tested.tags[0]);
        assert_eq!(check(&*(tested.reopen)(), &tag(tested.tags[0]), CheckDepth::Layers), []);
    });
}

#[test]
fn a_plan_is_applied_and_a_second_plan_is_empty() {
    for_each_store(|tested| {
        let sample = sample("one");
        let node = read_tree(&*sample.source, &tag("x")).unwrap();
        let wanted = || WantedImage::copy_of(&node, &sample.source).unwrap();
        let tags = [tested.tags[0].to_string()];
        let first = plan(wanted(), &*tested.store, &tags).unwrap();
        assert!(!first.is_nothing());
        // A classic archive returns the manifest that it derives, not the one that was written.
        if !tested.stores_manifests {
            return;
        }
        apply(&first, &*tested.store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
        assert!(plan(wanted(), &*(tested.reopen)(), &tags).unwrap().is_nothing());
    });
}

#[test]
fn an_index_is_stored_with_its_members() {
    for (name, make) in STORES {
        eprintln!("store: {name}");
        let tested = make();
        let (one, two) = (sample("one"), sample("two"));
        if tested.stores_manifests {
            let entries = [one.document.descriptor(), two.document.descriptor()];
            let text = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
            let index = Document::new(text.into_bytes(), None).unwrap();
            assert!(tested.store.write_tag(tested.tags[0], &index).is_err(), "its members are missing");
            for sample in [&one, &two] {
                for blob in [&sample.layer, &sample.config] {
                    tested.store.write_blob(blob, &|| sample.source.open_blob(blob)).unwrap();
                }
                tested.store.write_document(&sample.document).unwrap();
            }
            assert!(tested.store.tags().unwrap().is_empty(), "a document without a tag must not be listed");
            tested.store.write_tag(tested.tags[0], &index).unwrap();
            let reopened = (tested.reopen)();
            assert_eq!(reopened.read_document(&tag(tested.tags[0])).unwrap(), index);
            assert_eq!(check(&*reopened, &tag(tested.tags[0]), CheckDepth::Layers), []);
        }
    }
}

#[test]
fn digests_in_sha512_are_verified_by_their_own_algorithm() {
    for make in [layout, registry] {
        let tested = make();
        let sample = sample("one");
        put(&*tested.store, &sample, tested.tags[0]);
        // printf "" | sha512sum
        let empty = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
        let digest: Digest = empty.parse().unwrap();
        let blob = Descriptor::new("x", digest, 0);
        tested.store.write_blob(&blob, &|| Ok(Box::new(&b""[..]))).unwrap();
        assert!((tested.reopen)().has_blob(&blob).unwrap());
        let wrong = tested
            .store
            .write_blob(&Descriptor::new("x", empty.replace("cf83", "cf84").parse().unwrap(), 0), &|| {
                Ok(Box::new(&b""[..]))
            });
        assert!(wrong.is_err());
    }
}
