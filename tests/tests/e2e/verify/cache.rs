//! The cache of layer facts: a second verification reads no layer, and the cache has nothing secret.

use super::made::{Layer, TestImage, gzip, image, probe, publish, verify};
use crate::tools::User;
use multiarch_tests::fake_registry::{Auth, FakeRegistry, Options};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn app(declared: &str) -> TestImage<'_> {
    let base = Layer::new().file("bin/sh", &probe("linux/arm64")).end();
    let own = Layer::new().file("app", &probe("linux/arm64")).end();
    TestImage { packed: gzip, ..image(declared, &["/app"], vec![base, own]) }
}

/// Returns the files in the cache.
fn cache_files(user: &User) -> Vec<PathBuf> {
    let dir = user.path("../home/.cache/multiarch/layers");
    fs::read_dir(dir).map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

fn layer_requests(registry: &FakeRegistry) -> usize {
    let log = registry.take_log();
    // The config is a blob as well, and every run requests it.
    log.iter().filter(|logged| logged.method == "GET" && logged.path.contains("/blobs/")).count() - 1
}

#[test]
fn a_second_verification_requests_no_layer_and_has_the_same_result() {
    let user = User::new();
    let registry = FakeRegistry::start();
    publish(&registry, &app("linux/amd64"), "wrong");
    let name = format!("{}/app:wrong", registry.host());
    let verify_json = |arguments: &[&str]| {
        let ran = verify(&user, &[&[name.as_str(), "--format", "json"], arguments].concat()).exits(1);
        let mut found = ran.json()["images"][0].clone();
        let cached = found["layersCached"].take();
        let bytes = found["bytesRead"].take();
        (found, cached.as_u64().unwrap(), bytes.as_u64().unwrap() > 0, layer_requests(&registry))
    };
    let first = verify_json(&[]);
    assert_eq!((first.1, first.2, first.3), (0, true, 2));
    let second = verify_json(&[]);
    assert_eq!((second.1, second.2, second.3), (2, false, 0));
    assert_eq!(second.0, first.0, "the results differ");
    assert!(verify(&user, &[&name, "--explain"]).exits(1).stdout.contains("2 from the cache"));
    registry.take_log();
    assert_eq!(verify_json(&["--no-cache"]).3, 2);

    // Layers with a damaged cache file are read again and the file is replaced.
    for damage in [&b""[..], b"damaged", &[0; 4096]] {
        for file in cache_files(&user) {
            fs::write(file, damage).unwrap();
        }
        let repaired = verify_json(&[]);
        assert_eq!((&repaired.0, repaired.3), (&first.0, 2));
        assert_eq!(verify_json(&[]).3, 0);
    }
}

#[test]
fn concurrent_runs_share_the_cache() {
    let user = User::new();
    let registry = FakeRegistry::start();
    publish(&registry, &app("linux/arm64"), "right");
    let name = format!("{}/app:right", registry.host());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| verify(&user, &[&name, "--full"]).exits(0));
        }
    });
    registry.take_log();
    verify(&user, &[&name, "--full"]).exits(0);
    assert_eq!(layer_requests(&registry), 0);
    assert_eq!(cache_files(&user).len(), 3, "two layers and the key");
}

#[test]
fn the_cache_has_no_secrets_and_is_readable_by_its_owner_only() {
    let user = User::new();
    let registry = FakeRegistry::start_with(Options {
        auth: Auth::Basic { user: "ann".into(), password: "s3cret".into() },
        ..Options::default()
    });
    publish(&registry, &app("linux/arm64"), "right");
    user.log_in(&registry.host(), "ann", "s3cret");
    verify(&user, &[&format!("{}/app:right", registry.host()), "--full"]).exits(0);
    let files = cache_files(&user);
    assert_eq!(files.len(), 3);
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", file.display());
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        for secret in ["s3cret", "ann:", "YW5uOnMzY3JldA", "127.0.0.1", "Basic"] {
            assert!(!text.contains(secret), "{secret} is in {}", file.display());
        }
    }
}

#[test]
fn verify_works_without_a_writable_cache() {
    let user = User::new();
    let name = app("linux/arm64").layout(&user, "image");
    user.write("../home/.cache", "a file instead of a directory");
    verify(&user, &[&name]).exits(0);
    verify(&user, &[&name, "--no-cache"]).exits(0);
}
