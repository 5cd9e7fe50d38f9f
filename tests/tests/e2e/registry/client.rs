//! The registry store against a fake registry that fails on demand, and against Debian's docker-registry.

use error::Error;
use error::Exit;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::store::registry::RegistryStore;
use image_store::store::{ImageSource, ImageStore, Pointer};
use multiarch_tests::fake_registry::{FakeRegistry, Options};
use multiarch_tests::need;
use multiarch_tests::world::{Registry, Skip};
use registry_client::{Client, RegistryOptions, Reporting};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

mod auth;
mod bounds;
mod content;
mod endless;
mod faults;
mod proxies;
mod tls;
mod uploads;

/// A fake registry, and options of a client that does not read the user's credentials and retries almost at once.
struct Rig {
    registry: FakeRegistry,
    options: RegistryOptions,
    warnings: Arc<Mutex<Vec<String>>>,
    trace: Arc<Mutex<Vec<String>>>,
    home: tempfile::TempDir,
}

impl Rig {
    fn new(options: Options) -> Self {
        let (warnings, trace) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (all_warnings, all_lines) = (Arc::clone(&warnings), Arc::clone(&trace));
        let home = tempfile::tempdir().unwrap();
        let auth_file = home.path().join("auth.json");
        std::fs::write(&auth_file, "{}").unwrap();
        let options_of_client = RegistryOptions {
            auth_file: Some(auth_file),
            backoff: Duration::from_millis(1),
            reporting: Reporting {
                warn: Arc::new(move |text| all_warnings.lock().unwrap().push(text.into())),
                trace: Some(Arc::new(move |line| all_lines.lock().unwrap().push(line.into()))),
                ..Reporting::default()
            },
            ..RegistryOptions::default()
        };
        let registry = FakeRegistry::start_with(options);
        Self { registry, options: options_of_client, warnings, trace, home }
    }

    fn open() -> Self {
        Self::new(Options::default())
    }

    /// Writes the credentials file, readable by its owner only.
    fn auth_file(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let file = self.home.path().join("auth.json");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn client(&self) -> Client {
        Client::new(self.options.clone()).unwrap()
    }

    fn store(&self) -> RegistryStore {
        RegistryStore::writing(&self.client(), &self.registry.host(), "team/app").unwrap()
    }

    fn source(&self) -> RegistryStore {
        RegistryStore::reading(&self.client(), &self.registry.host(), "team/app").unwrap()
    }

    /// Returns `METHOD STATUS` of each request since the last call.
    fn requests(&self) -> Vec<String> {
        let log = self.registry.take_log();
        log.iter().map(|l| format!("{} {}", l.method, l.status.unwrap_or(0))).collect()
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().clone()
    }
}

const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
const LAYER: &[u8] = b"layer";

fn config() -> Descriptor {
    Descriptor::of(media_type::OCI_CONFIG, CONFIG)
}

fn layer() -> Descriptor {
    Descriptor::of(media_type::OCI_LAYER, LAYER)
}

fn image() -> Document {
    let (config, layer) =
        (serde_json::to_string(&config()).unwrap(), serde_json::to_string(&layer()).unwrap());
    let media_type = media_type::OCI_MANIFEST;
    let text =
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{layer}]}}"#);
    Document::new(text.into_bytes(), None).unwrap()
}

fn write(store: &dyn ImageStore, blob: &Descriptor, content: &[u8]) -> Result<(), Error> {
    store.write_blob(blob, &|| Ok(Box::new(content)))
}

/// Writes the image and its blobs, and tags it.
fn push(store: &RegistryStore, tag: &str) -> Result<(), Error> {
    write(store, &config(), CONFIG)?;
    write(store, &layer(), LAYER)?;
    store.write_document(&image())?;
    store.write_tag(tag, &image())
}

fn read(store: &dyn ImageSource, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    image_store::store::read_blob(store, blob, 1 << 30)
}

/// Stores the image in the fake registry without requests.
fn seed(registry: &FakeRegistry, repository: &str) {
    registry.put_blob(repository, CONFIG);
    registry.put_blob(repository, LAYER);
    registry.put_manifest(repository, "1", media_type::OCI_MANIFEST, image().bytes());
}

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

/// Writes and reads everything that a store can hold.
fn write_and_read_back(client: &Client, host: &str) {
    let store = RegistryStore::writing(client, host, "team/app").unwrap();
    assert_eq!(store.resolve(&tag("1")).unwrap(), None);
    assert_eq!(store.read_document(&tag("1")).unwrap_err().kind, Exit::NotFound);
    assert_eq!(store.open_blob(&config()).err().unwrap().kind, Exit::NotFound);
    assert!(!store.has_blob(&config()).unwrap());
    push(&store, "1").unwrap();
    assert!(store.has_blob(&config()).unwrap());
    assert!(!store.has_blob(&Descriptor { size: 1, ..config() }).unwrap());
    assert_eq!(store.read_document(&tag("1")).unwrap(), image());
    assert_eq!(store.read_document(&image().digest().into()).unwrap(), image());
    assert_eq!(store.resolve(&tag("1")).unwrap(), Some(image().descriptor()));
    assert_eq!(read(&store, &config()).unwrap(), CONFIG);
    assert_eq!(store.tags().unwrap(), ["1"]);
    // Writing again what is there already succeeds.
    push(&store, "1").unwrap();
    // Large enough for `Expect: 100-continue`.
    let long = vec![7; 3 << 20];
    let long_blob = Descriptor::of(media_type::OCI_LAYER, &long);
    write(&store, &long_blob, &long).unwrap();
    assert_eq!(read(&store, &long_blob).unwrap(), long);
    let empty = Descriptor::of(media_type::OCI_LAYER, b"");
    write(&store, &empty, b"").unwrap();
    assert_eq!(read(&store, &empty).unwrap(), b"");
    let other = RegistryStore::writing(client, host, "team/other").unwrap();
    assert!(other.mount_blob(&config(), host, "team/app").unwrap());
    assert_eq!(read(&other, &config()).unwrap(), CONFIG);
    assert!(!other.mount_blob(&config(), "elsewhere.example", "team/app").unwrap());
    assert_eq!(store.resolve(&tag("absent")).unwrap(), None);
}

#[test]
fn an_image_survives_a_round_trip_through_a_real_registry() {
    let rig = Rig::open();
    let registry = need!(Registry::start());
    write_and_read_back(&rig.client(), registry.host());
    // No request only checks whether the registry has the API.
    assert_eq!(registry.count("GET", |path| path == "/v2/"), 0);
    assert!(registry.requests().iter().all(|requests| requests.agent.starts_with("multiarch/")));
}

#[test]
fn an_image_is_pushed_to_a_real_registry_with_a_password() {
    let rig = Rig::open();
    let registry = need!(Registry::start_protected());
    rig.auth_file(&format!(
        r#"{{"auths":{{"{}":{{"username":"ann","password":"s3cret"}}}}}}"#,
        registry.host()
    ));
    write_and_read_back(&rig.client(), registry.host());
    let unauthorized = registry.requests().iter().filter(|requests| requests.status == 401).count();
    assert_eq!(unauthorized, 1, "credentials are sent after the first challenge");
    rig.auth_file("{}");
    let store = RegistryStore::reading(&rig.client(), registry.host(), "team/app").unwrap();
    let error = store.resolve(&tag("1")).unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted);
    assert!(error.to_string().contains("docker login"), "{error}");
}

#[test]
fn an_image_survives_a_round_trip_through_every_variant_of_the_fake_registry() {
    for options in [
        Options::default(),
        Options { relative_locations: true, ranges: false, single_post: false, ..Options::default() },
        Options {
            resumable: false,
            tag_page: 1,
            registry_address: [127, 0, 0, 5].into(),
            ..Options::default()
        },
    ] {
        let rig = Rig::new(options);
        write_and_read_back(&rig.client(), &rig.registry.host());
        assert_eq!(rig.registry.violations(), [""; 0]);
        assert_eq!(rig.registry.open_uploads(), 0);
    }
}

#[test]
fn no_request_is_redundant() {
    let rig = Rig::open();
    let store = rig.store();
    push(&store, "1").unwrap();
    assert_eq!(rig.requests(), ["POST 202", "PUT 201", "POST 202", "PUT 201", "PUT 201", "PUT 201"]);
    store.read_document(&tag("1")).unwrap();
    store.resolve(&tag("1")).unwrap();
    store.has_blob(&config()).unwrap();
    read(&store, &config()).unwrap();
    assert_eq!(rig.requests(), ["GET 200", "HEAD 200", "HEAD 200", "GET 200"]);
    assert_eq!(rig.registry.peak_connections(), 1);
}

#[test]
fn a_trace_has_a_line_for_each_request_and_no_upload_state() {
    let rig = Rig::open();
    push(&rig.store(), "1").unwrap();
    let trace = rig.trace.lock().unwrap().clone();
    assert_eq!(trace.len(), 6);
    assert!(trace[0].starts_with("POST http://127.0.0.1:") && trace[0].contains(" 202 "), "{}", trace[0]);
    assert!(trace.iter().all(|line| !line.contains("digest=")), "{trace:?}");
}

#[test]
fn an_invalid_repository_is_refused_before_any_request() {
    let rig = Rig::open();
    for (host, repository) in
        [("127.0.0.1:1", "../x"), ("127.0.0.1:1", "a?b"), ("ho st", "a"), ("h.example/x", "A")]
    {
        let error = RegistryStore::writing(&rig.client(), host, repository).err().unwrap();
        assert_eq!(error.kind, Exit::BadInput, "{error}");
    }
}

#[test]
fn a_gibibyte_is_transferred_in_little_memory() {
    // The peak is that of the process, which must run this test only.
    if std::env::var("NEXTEST_EXECUTION_MODE").as_deref() != Ok("process-per-test") {
        return Skip::because("memory is measured under cargo nextest, a process for each test").report();
    }
    let rig = Rig::open();
    let size = 1 << 30;
    let zeros = || std::io::Read::take(std::io::repeat(0), size);
    let mut hasher = image_model::digest::Hasher::sha256();
    let chunk = vec![0; 1 << 20];
    (0..size >> 20).for_each(|_| hasher.update(&chunk));
    let blob = Descriptor::new(media_type::OCI_LAYER, hasher.finish(), size);
    let store = rig.store();
    store.write_blob(&blob, &|| Ok(Box::new(zeros()))).unwrap();
    let mut reader = store.open_blob(&blob).unwrap();
    assert_eq!(std::io::copy(&mut reader, &mut std::io::sink()).unwrap(), size);
    let peak = peak_kib(Path::new("/proc/self/status"));
    assert!(peak < 64 << 10, "{peak} KiB at peak, client and registry together");
}

/// The largest resident set of a process so far (proc_pid_status(5)).
fn peak_kib(status: &Path) -> u64 {
    let text = std::fs::read_to_string(status).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
