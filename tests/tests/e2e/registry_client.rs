//! Are we a good client? The registry store against a registry that fails on demand, and against Debian's.

use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::manifest::{Descriptor, Document, media_type};
use image_store::store::registry::{Client, Messages, RegistryOptions, RegistryStore};
use image_store::store::{ImageSource, ImageStore, Pointer};
use multiarch_tests::need;
use multiarch_tests::world::Registry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Options that do not look at the home of whoever runs the tests, and do not wait.
fn options(warnings: &Arc<Mutex<Vec<String>>>) -> RegistryOptions {
    let ear = Arc::clone(warnings);
    let trace: Option<Arc<dyn Fn(&str) + Send + Sync>> = RegistryOptions::default().messages.trace;
    RegistryOptions {
        auth_file: Some("/dev/null/none".into()),
        backoff: Duration::from_millis(1),
        messages: Messages { warn: Arc::new(move |text| ear.lock().unwrap().push(text.into())), trace },
        ..RegistryOptions::default()
    }
}

fn write(store: &dyn ImageStore, blob: &Descriptor, content: &[u8]) -> Result<(), StoreError> {
    store.write_blob(blob, &|| Ok(Box::new(content)))
}

const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// Writes an image of one config and one layer, and tags it.
fn push(store: &RegistryStore, tag: &str) -> Result<Document, StoreError> {
    let config = Descriptor::of(media_type::OCI_CONFIG, CONFIG);
    let layer = Descriptor::of(media_type::OCI_LAYER, b"layer");
    write(store, &config, CONFIG)?;
    write(store, &layer, b"layer")?;
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        serde_json::to_string(&config).unwrap(),
        serde_json::to_string(&layer).unwrap()
    );
    let document = Document::new(text.into_bytes(), None).unwrap();
    store.write_document(&document)?;
    store.write_tag(tag, &document)?;
    Ok(document)
}

fn read(store: &dyn ImageSource, blob: &Descriptor) -> Result<Vec<u8>, StoreError> {
    image_store::store::read_blob(store, blob, 1 << 30)
}

#[test]
fn an_image_goes_up_to_a_real_registry_and_comes_down_the_same() {
    let registry = need!(Registry::start());
    let options = RegistryOptions { auth_file: None, ..options(&Arc::default()) };
    let client = Client::new(options).unwrap();
    let store = RegistryStore::writing(&client, registry.host(), "team/app").unwrap();
    let tag = Pointer::Tag("1".into());
    assert_eq!(store.resolve(&tag).unwrap(), None);
    assert_eq!(store.read_document(&tag).unwrap_err().kind, Exit::NotFound);
    let config = Descriptor::of(media_type::OCI_CONFIG, CONFIG);
    assert!(!store.has_blob(&config).unwrap());
    let document = push(&store, "1").unwrap();
    assert!(store.has_blob(&config).unwrap());
    assert_eq!(store.read_document(&tag).unwrap(), document);
    assert_eq!(store.read_document(&document.digest().into()).unwrap(), document);
    assert_eq!(store.resolve(&tag).unwrap(), Some(document.descriptor()));
    assert_eq!(read(&store, &config).unwrap(), CONFIG);
    assert_eq!(store.tags().unwrap(), ["1"]);
    let other = RegistryStore::writing(&client, registry.host(), "team/other").unwrap();
    assert!(other.mount_blob(&config, registry.host(), "team/app").unwrap());
    assert_eq!(read(&other, &config).unwrap(), CONFIG);
    assert!(store.delete_manifest(document.digest()).unwrap());
    assert!(!store.delete_manifest(document.digest()).unwrap());
    assert_eq!(store.resolve(&tag).unwrap(), None);
}
