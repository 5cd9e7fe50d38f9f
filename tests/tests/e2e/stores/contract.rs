//! Every store is a store: one list of promises, kept by memory, layout, both archives and registry alike.

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

/// A store to try, what keeps it alive, and the names it gives to images.
struct Tried {
    store: Arc<dyn ImageStore>,
    /// Opens the same store anew: what another process would see.
    again: Box<dyn Fn() -> Arc<dyn ImageStore>>,
    tags: [&'static str; 2],
    /// A Docker archive of the classic form keeps no manifests: it makes them, always the same, from what it has.
    keeps_documents: bool,
    _alive: Box<dyn std::any::Any>,
}

fn memory() -> Tried {
    let store: Arc<dyn ImageStore> = Arc::new(MemoryStore::new());
    let same = store.clone();
    Tried {
        store,
        again: Box::new(move || same.clone()),
        tags: ["a", "b"],
        keeps_documents: true,
        _alive: Box::new(()),
    }
}

fn layout() -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let again = move || Arc::new(OciLayout::open_or_create(&path).unwrap()) as Arc<dyn ImageStore>;
    Tried {
        store: again(),
        again: Box::new(again),
        tags: ["a", "b"],
        keeps_documents: true,
        _alive: Box::new(dir),
    }
}

fn archive() -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.tar");
    let again = move || Arc::new(DockerArchive::open_or_create(&path).unwrap()) as Arc<dyn ImageStore>;
    let tags = ["app:a", "app:b"];
    Tried { store: again(), again: Box::new(again), tags, keeps_documents: false, _alive: Box::new(dir) }
}

fn oci_archive() -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.tar");
    let again = move || Arc::new(OciArchive::open_or_create(&path).unwrap()) as Arc<dyn ImageStore>;
    let tags = ["a", "b"];
    Tried { store: again(), again: Box::new(again), tags, keeps_documents: true, _alive: Box::new(dir) }
}

fn registry() -> Tried {
    let server = FakeRegistry::start();
    let host = server.host();
    let again = move || {
        let client = Client::new(RegistryOptions::default()).unwrap();
        Arc::new(RegistryStore::writing(&client, &host, "team/app").unwrap()) as Arc<dyn ImageStore>
    };
    Tried {
        store: again(),
        again: Box::new(again),
        tags: ["a", "b"],
        keeps_documents: true,
        _alive: Box::new(server),
    }
}

type Make = fn() -> Tried;

const STORES: [(&str, Make); 5] = [
    ("memory", memory),
    ("layout", layout),
    ("archive", archive),
    ("oci_archive", oci_archive),
    ("registry", registry),
];

/// An image of one layer, with all its parts, in a store of its own.
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

/// Writes the sample's blobs and tag, as any caller would.
fn put(store: &dyn ImageStore, sample: &Sample, tag: &str) {
    for blob in [&sample.layer, &sample.config] {
        store.write_blob(blob, &|| sample.source.open_blob(blob)).unwrap();
    }
    store.write_tag(tag, &sample.document).unwrap();
}

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

/// Runs a promise against every store; the store's name is in the failure.
fn each(promise: fn(&Tried)) {
    for (name, make) in STORES {
        eprintln!("store: {name}");
        promise(&make());
    }
}

#[test]
fn what_was_written_is_read_back_whole() {
    each(|tried| {
        let sample = sample("one");
        put(&*tried.store, &sample, tried.tags[0]);
        for store in [tried.store.clone(), (tried.again)()] {
            let found = store.read_document(&tag(tried.tags[0])).unwrap();
            assert_eq!(store.resolve(&tag(tried.tags[0])).unwrap().unwrap().digest, *found.digest());
            if tried.keeps_documents {
                assert_eq!(found, sample.document);
            }
            assert_eq!(store.tags().unwrap(), [tried.tags[0]]);
            let config = read_blob(&*store, &sample.config, 4096).unwrap();
            assert!(sample.config.digest.matches(&config), "the config keeps its bytes");
            let mut layer = Vec::new();
            store.open_blob(&sample.layer).unwrap().read_to_end(&mut layer).unwrap();
            assert_eq!(layer, layer_tar("one"));
            assert_eq!(check(&*store, &tag(tried.tags[0]), CheckDepth::Layers), []);
        }
    });
}

#[test]
fn a_part_of_a_blob_is_that_part_or_not_to_be_had() {
    each(|tried| {
        let sample = sample("one");
        put(&*tried.store, &sample, tried.tags[0]);
        let whole = layer_tar("one");
        let part = |start: u64, end: u64| {
            let mut bytes = Vec::new();
            let opened = tried.store.open_blob_range(&sample.layer, start..end)?;
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
fn what_is_not_there_is_none_or_not_found() {
    each(|tried| {
        let absent = Descriptor::of("x", b"absent");
        assert!(!tried.store.has_blob(&absent).unwrap());
        assert_eq!(tried.store.resolve(&tag(tried.tags[0])).unwrap(), None);
        assert_eq!(tried.store.resolve(&Pointer::from(&absent.digest)).unwrap(), None);
        put(&*tried.store, &sample("one"), tried.tags[0]);
        assert_eq!(tried.store.resolve(&tag(tried.tags[1])).unwrap(), None);
        assert_eq!(tried.store.read_document(&tag(tried.tags[1])).unwrap_err().kind, Exit::NotFound);
        let opened = tried.store.open_blob(&absent);
        let error = opened.and_then(|mut content| {
            std::io::copy(&mut content, &mut std::io::sink()).map_err(|e| error::Error::from_io("read", e))
        });
        assert_eq!(error.unwrap_err().kind, Exit::NotFound);
    });
}

#[test]
fn a_blob_that_is_not_the_promised_one_is_refused_and_not_kept() {
    each(|tried| {
        let promised = Descriptor::of("x", b"promised");
        let wrong = |bytes: &'static [u8]| {
            let result = tried.store.write_blob(&promised, &|| Ok(Box::new(bytes)));
            result.map_err(|error| error.kind)
        };
        assert_eq!(wrong(b"PROMISED"), Err(Exit::Integrity));
        assert_eq!(wrong(b"promise"), Err(Exit::Integrity));
        assert_eq!(wrong(b"promised and more"), Err(Exit::Integrity));
        assert!(!(tried.again)().has_blob(&promised).unwrap());
        assert_eq!(wrong(b"promised"), Ok(()));
    });
}

#[test]
fn a_document_comes_after_all_that_it_names() {
    each(|tried| {
        let sample = sample("one");
        tried.store.write_blob(&sample.config, &|| sample.source.open_blob(&sample.config)).unwrap();
        assert!(tried.store.write_tag(tried.tags[0], &sample.document).is_err(), "its layer is missing");
        assert_eq!((tried.again)().resolve(&tag(tried.tags[0])).unwrap(), None);
    });
}

#[test]
fn a_tag_moves_and_leaves_others_alone() {
    each(|tried| {
        let (one, two) = (sample("one"), sample("two"));
        put(&*tried.store, &one, tried.tags[0]);
        put(&*tried.store, &one, tried.tags[1]);
        put(&*tried.store, &two, tried.tags[0]);
        let store = (tried.again)();
        let note = |name: &str| {
            let node = read_tree(&*store, &tag(name)).unwrap();
            let images = node.images();
            String::from_utf8(images[0].1.config.as_ref().unwrap().bytes.clone()).unwrap()
        };
        assert!(note(tried.tags[0]).contains("\"two\"") && note(tried.tags[1]).contains("\"one\""));
        assert_eq!(store.tags().unwrap(), tried.tags);
    });
}

#[test]
fn writing_again_what_is_there_is_no_error() {
    each(|tried| {
        let sample = sample("one");
        put(&*tried.store, &sample, tried.tags[0]);
        put(&*tried.store, &sample, tried.tags[0]);
        put(&*(tried.again)(), &sample, tried.tags[0]);
        assert_eq!(check(&*(tried.again)(), &tag(tried.tags[0]), CheckDepth::Layers), []);
    });
}

#[test]
fn a_plan_is_carried_out_and_a_second_one_is_empty() {
    each(|tried| {
        let sample = sample("one");
        let node = read_tree(&*sample.source, &tag("x")).unwrap();
        let wanted = || WantedImage::copy_of(&node, &sample.source);
        let tags = [tried.tags[0].to_string()];
        let first = plan(wanted(), &*tried.store, &tags).unwrap();
        assert!(!first.is_nothing());
        // The read-back of a classic archive finds the manifest that the archive makes, not the one it was given.
        if !tried.keeps_documents {
            return;
        }
        apply(&first, &*tried.store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
        assert!(plan(wanted(), &*(tried.again)(), &tags).unwrap().is_nothing());
    });
}

#[test]
fn an_index_is_kept_with_its_members() {
    for (name, make) in STORES {
        eprintln!("store: {name}");
        let tried = make();
        let (one, two) = (sample("one"), sample("two"));
        if tried.keeps_documents {
            let entries = [one.document.descriptor(), two.document.descriptor()];
            let text = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
            let index = Document::new(text.into_bytes(), None).unwrap();
            assert!(tried.store.write_tag(tried.tags[0], &index).is_err(), "its members are missing");
            for sample in [&one, &two] {
                for blob in [&sample.layer, &sample.config] {
                    tried.store.write_blob(blob, &|| sample.source.open_blob(blob)).unwrap();
                }
                tried.store.write_document(&sample.document).unwrap();
            }
            assert!(tried.store.tags().unwrap().is_empty(), "a document alone shows under no tag");
            tried.store.write_tag(tried.tags[0], &index).unwrap();
            let again = (tried.again)();
            assert_eq!(again.read_document(&tag(tried.tags[0])).unwrap(), index);
            assert_eq!(check(&*again, &tag(tried.tags[0]), CheckDepth::Layers), []);
        }
    }
}

#[test]
fn digests_in_sha512_are_verified_by_their_own_algorithm() {
    for make in [layout, registry] {
        let tried = make();
        let sample = sample("one");
        put(&*tried.store, &sample, tried.tags[0]);
        // printf "" | sha512sum
        let empty = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
        let digest: Digest = empty.parse().unwrap();
        let blob = Descriptor::new("x", digest, 0);
        tried.store.write_blob(&blob, &|| Ok(Box::new(&b""[..]))).unwrap();
        assert!((tried.again)().has_blob(&blob).unwrap());
        let wrong = tried
            .store
            .write_blob(&Descriptor::new("x", empty.replace("cf83", "cf84").parse().unwrap(), 0), &|| {
                Ok(Box::new(&b""[..]))
            });
        assert!(wrong.is_err());
    }
}
