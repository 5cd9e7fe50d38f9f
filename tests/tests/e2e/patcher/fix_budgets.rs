//! The number of requests, and of sequential round trips, of a fix in a registry.

use crate::registry::rounds::{Rounds, Seen};
use crate::samples::{Image, Index};
use crate::tools::{Ran, User};
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::{FakeRegistry, Options};
use multiarch_tests::need;
use multiarch_tests::world::{Registry, Skip, program, require};

const REPOSITORY: &str = "team/app";

/// Eight members that all declare amd64.
fn eight() -> Index {
    let images: Vec<(String, Image)> = (1..=8)
        .map(|i| (format!("linux/arm/v{i}"), Image::new("linux/amd64", &format!("member {i}"))))
        .collect();
    let members: Vec<(&str, &Image)> = images.iter().map(|(platform, image)| (&**platform, image)).collect();
    Index::of(&members)
}

fn wrong() -> Image {
    Image::new("linux/amd64", "arm's own")
}

fn fix(user: &User, host: &str, tag: &str, args: &[&str]) -> Ran {
    user.config_patcher(&[&["fix", &format!("{host}/{REPOSITORY}:{tag}")], args].concat())
}

const ARM: [&str; 2] = ["--set-platform", "linux/arm/v7"];

#[test]
fn round_trips_do_not_grow_with_members_or_concurrent_lookups() {
    for referrers in [false, true] {
        let registry = FakeRegistry::start_with(Options { referrers, ..Options::default() });
        let user = User::new();
        wrong().publish(&registry, REPOSITORY, "one");
        eight().publish(&registry, REPOSITORY, "eight");
        let rounds = Rounds::of(&registry);
        fix(&user, &registry.host(), "one", &ARM).exits(0);
        // Manifest; config and start of an upload; upload; HEAD, PUT and GET of the tag.
        assert_eq!((rounds.taken(), registry.take_log().len()), (6, 9));
        fix(&user, &registry.host(), "one", &ARM)
            .exits(0)
            .assert_stderr_contains("all platforms are correct");
        // Manifest; config; the upload is canceled.
        assert_eq!((rounds.taken(), registry.take_log().len()), (3, 4));
        fix(&user, &registry.host(), "eight", &["--from-index"]).exits(0);
        // Index; manifests; configs; starts of uploads; uploads; manifests and HEAD of the tag; PUT; GET.
        // A registry without referrers API is asked for it once, not for each member.
        let looks = if referrers { 1 + 9 } else { 1 + 1 };
        assert_eq!((rounds.taken(), registry.take_log().len()), (8, 1 + 8 * 5 + 3 + looks));
        fix(&user, &registry.host(), "eight", &["--from-index"])
            .exits(0)
            .assert_stderr_contains("all platforms are correct");
        assert_eq!((rounds.taken(), registry.take_log().len()), (3, 1 + 8 * 2));
        assert_eq!(registry.violations(), [""; 0]);
    }
}

/// By the access log of docker-registry: without authentication, and with a token server whose scopes it enforces.
#[test]
fn docker_registry_gets_no_more_requests_than_the_budget() {
    need!(against_docker_registry());
}

fn against_docker_registry() -> Result<(), Skip> {
    require(&["skopeo"])?;
    let user = User::new();
    let layout = OciLayout::open_or_create(&user.path("seed")).unwrap();
    wrong().store(&layout, "one");
    eight().store(&layout, "eight");
    let seed = |host: &str| {
        for tag in ["one", "eight"] {
            let to = format!("{host}/{REPOSITORY}:{tag}");
            user.manifest_push(&["copy", &format!("oci:seed:{tag}"), &to]).exits(0);
        }
    };
    let registry = Registry::start()?;
    seed(registry.host());
    let seen = Seen::new(&registry);
    seen.requests();
    fix(&user, registry.host(), "one", &ARM).exits(0);
    let one = "1 GET blob, 2 GET manifest, 1 GET referrers, 1 GET tags, 1 HEAD manifest, 1 POST blob, 1 PUT blob, 1 PUT manifest";
    assert_eq!(seen.requests(), one);
    fix(&user, registry.host(), "eight", &["--from-index"]).exits(0);
    let eight = "8 GET blob, 10 GET manifest, 1 GET referrers, 1 GET tags, 1 HEAD manifest, 8 POST blob, 8 PUT blob, 9 PUT manifest";
    assert_eq!(seen.requests(), eight);
    fix(&user, registry.host(), "one", &[&ARM[..], &["--check"]].concat()).exits(0);
    fix(&user, registry.host(), "eight", &["--from-index"])
        .exits(0)
        .assert_stderr_contains("all platforms are correct");
    assert_eq!(seen.requests(), "9 GET blob, 10 GET manifest");

    assert_copied_by_skopeo(&user, registry.host());

    let (registry, tokens) = Registry::start_with_tokens()?;
    user.log_in(registry.host(), "ann", "s3cret");
    seed(registry.host());
    let seen = Seen::new(&registry);
    seen.requests();
    let before = tokens.requests().len();
    fix(&user, registry.host(), "one", &ARM).exits(0);
    // One more than without tokens: the first one is rejected with 401.
    assert_eq!(seen.requests(), one.replace("2 GET manifest", "3 GET manifest"));
    assert_eq!(tokens.requests()[before..], ["repository:team/app:pull,push"], "one token, requested once");
    fix(&user, registry.host(), "eight", &["--from-index"]).exits(0);
    assert_eq!(seen.requests(), eight.replace("10 GET manifest", "11 GET manifest"));

    // A user with read access can check, and gets exit code 4 for a write.
    let other = User::new();
    other.log_in(registry.host(), "eve", "guess");
    let back = ["--set-platform", "linux/arm64"];
    fix(&other, registry.host(), "one", &back).exits(4);
    fix(&other, registry.host(), "one", &[&back[..], &["--check"]].concat()).exits(1);
    Ok(())
}

/// skopeo verifies all digests when it copies. The copies have the new platforms.
fn assert_copied_by_skopeo(user: &User, host: &str) {
    let skopeo = |args: &[&str]| {
        let mut command = std::process::Command::new(program("skopeo").unwrap());
        let done = command.args(args).current_dir(user.work()).output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    for (tag, variant) in [("one", "v7"), ("eight", "v3")] {
        let (from, to) = (format!("docker://{host}/{REPOSITORY}:{tag}"), format!("oci:copied:{tag}"));
        skopeo(&["copy", "-q", "--all", "--src-tls-verify=false", &from, &to]);
        let config =
            skopeo(&["--override-arch", "arm", "--override-variant", variant, "inspect", "--config", &to]);
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!((&config["architecture"], &config["variant"]), (&"arm".into(), &variant.into()));
    }
}
