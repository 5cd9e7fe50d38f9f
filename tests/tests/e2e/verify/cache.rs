//! The cache of layer facts: a second verification reads no layer, and the cache has nothing secret.

use super::made::{Layer, Made, gzip, image, probe, publish, verify};
use crate::tools::User;
use multiarch_tests::fake_registry::{Auth, FakeRegistry, Options};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn app(declared: &str) -> Made<'_> {
    let base = Layer::new().file("bin/sh", &probe("linux/arm64")).end();
    let own = Layer::new().file("app", &probe("linux/arm64")).end();
    Made { packed: gzip, ..image(declared, &["/app"], vec![base, own]) }
}

/// Everything that is kept.
fn kept(user: &User) -> Vec<PathBuf> {
    let dir = user.path("../home/.cache/multiarch/layers");
    fs::read_dir(dir).map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

fn layers_asked(registry: &FakeRegistry) -> usize {
    let log = registry.take_log();
    // A config is a blob, too: each run asks for it.
    log.iter().filter(|logged| logged.method == "GET" && logged.path.contains("/blobs/")).count() - 1
}

#[test]
fn a_second_look_asks_for_no_layer_and_says_the_same() {
    let user = User::new();
    let registry = FakeRegistry::start();
    publish(&registry, &app("linux/amd64"), "wrong");
    let name = format!("{}/app:wrong", registry.host());
    let look = |arguments: &[&str]| {
        let ran = verify(&user, &[&[name.as_str(), "--format", "json"], arguments].concat()).exits(1);
        let mut found = ran.json()["images"][0].clone();
        let kept = found["layersCached"].take();
        let bytes = found["bytesRead"].take();
        (found, kept.as_u64().unwrap(), bytes.as_u64().unwrap() > 0, layers_asked(&registry))
    };
    let first = look(&[]);
    assert_eq!((first.1, first.2, first.3), (0, true, 2));
    let second = look(&[]);
    assert_eq!((second.1, second.2, second.3), (2, false, 0));
    assert_eq!(second.0, first.0, "the same is said");
    assert!(verify(&user, &[&name, "--explain"]).exits(1).stdout.contains("2 from the cache"));
    registry.take_log();
    assert_eq!(look(&["--no-cache"]).3, 2);

    // Damaged, cut, another's: read anew, and well again.
    for damage in [&b""[..], b"damaged", &[0; 4096]] {
        for file in kept(&user) {
            fs::write(file, damage).unwrap();
        }
        let healed = look(&[]);
        assert_eq!((&healed.0, healed.3), (&first.0, 2));
        assert_eq!(look(&[]).3, 0);
    }
}

#[test]
fn runs_side_by_side_share_what_they_keep() {
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
    assert_eq!(layers_asked(&registry), 0);
    assert_eq!(kept(&user).len(), 3, "two layers and the key");
}

#[test]
fn nothing_secret_is_kept_and_nobody_else_can_read_it() {
    let user = User::new();
    let registry = FakeRegistry::start_with(Options {
        auth: Auth::Basic { user: "ann".into(), password: "s3cret".into() },
        ..Options::default()
    });
    publish(&registry, &app("linux/arm64"), "right");
    user.log_in(&registry.host(), "ann", "s3cret");
    verify(&user, &[&format!("{}/app:right", registry.host()), "--full"]).exits(0);
    let files = kept(&user);
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
fn where_nothing_can_be_kept_the_look_is_as_good() {
    let user = User::new();
    let name = app("linux/arm64").layout(&user, "image");
    user.write("../home/.cache", "a file in the folder's place");
    verify(&user, &[&name]).exits(0);
    verify(&user, &[&name, "--no-cache"]).exits(0);
}
