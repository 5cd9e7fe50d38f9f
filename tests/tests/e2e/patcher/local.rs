//! Fixes of OCI layouts and archives, and fixes with --output to another store.

use super::Rig;
use crate::samples::Image;
use crate::tools::{User, listing};
use image_store::archive::DockerArchive;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::read_tree;
use std::fs;

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

fn declared_platform(store: &dyn ImageSource, name: &str) -> String {
    let node = read_tree(store, &tag(name)).unwrap();
    node.images()[0].1.config.as_ref().unwrap().parsed.platform.to_string()
}

#[test]
fn a_layout_is_fixed_in_place_and_a_dry_run_changes_no_byte() {
    let user = User::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    let right = wrong.relabeled("arm", "v7");
    let layout = OciLayout::open_or_create(&user.path("images")).unwrap();
    wrong.store(&layout, "a");
    Image::new("linux/amd64", "another").store(&layout, "b");
    let before = listing(&user.work());
    let fix = |args: &[&str]| {
        user.config_patcher(&[&["fix", "oci:images:a", "--set-platform", "linux/arm/v7"], args].concat())
    };
    fix(&["--dry-run"]).exits(0).prints(right.digest());
    fix(&["--check"]).exits(1);
    assert!(listing(&user.work()) == before);
    user.config_patcher(&["fix", "oci:images", "--set-platform", "linux/arm/v7"])
        .exits(3)
        .assert_stderr_contains("a, b");
    fix(&[]).exits(0).prints(right.digest());
    assert_eq!(
        (declared_platform(&layout, "a"), declared_platform(&layout, "b")),
        ("linux/arm/v7".into(), "linux/amd64".into())
    );
    for name in ["a", "b"] {
        assert_eq!(check(&layout, &tag(name), CheckDepth::Layers), []);
    }
    let before = listing(&user.work());
    fix(&[]).exits(0).prints(right.digest()).assert_stderr_contains("all platforms are correct");
    assert!(listing(&user.work()) == before, "a second run touches nothing");
}

#[test]
fn a_docker_save_archive_is_fixed_in_place() {
    let user = User::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    let archive = user.write("app.tar", wrong.classic_archive("team/app:1"));
    let fix = |args: &[&str]| {
        user.config_patcher(
            &[&["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"], args].concat(),
        )
    };
    let before = listing(&user.work());
    let promised = fix(&["--dry-run"]).exits(0);
    fix(&["--check"]).exits(1);
    assert!(listing(&user.work()) == before, "a dry run leaves it byte for byte");
    let done = fix(&[]).exits(0);
    assert_eq!(done.line(), promised.line());
    let store = DockerArchive::open(&archive, Some("team/app:1")).unwrap();
    assert_eq!(declared_platform(&store, "team/app:1"), "linux/arm/v7");
    assert_eq!(check(&store, &tag("team/app:1"), CheckDepth::Layers), []);
    let text = fs::read(&archive).unwrap();
    let config = wrong.relabeled("arm", "v7").config;
    assert!(
        text.windows(config.len()).any(|window| window == config.as_bytes()),
        "the config, byte for byte"
    );
    let before = listing(&user.work());
    let again = fix(&[]).exits(0).assert_stderr_contains("all platforms are correct");
    assert_eq!(again.line(), done.line());
    fix(&["--check"]).exits(0);
    assert!(listing(&user.work()) == before);
    let digest_of_tag = ["fix", "docker-archive:app.tar:team/none:1", "--set-platform", "linux/arm/v7"];
    user.config_patcher(&digest_of_tag).exits(5).assert_stderr_contains("team/app:1");
}

#[test]
fn the_result_goes_to_another_store_and_the_source_is_only_read() {
    let rig = Rig::new();
    let (source, target) = (rig.image("arm32v7"), format!("{}/team/fixed:1", rig.registry.host()));
    // The manifest is copied unchanged, so the digest is the same in every store that has manifests.
    for to in ["oci:out:1", "docker-archive:out.tar:team/fixed:1", &target] {
        let ran = rig.fix(&["--output", to]).exits(0).prints(rig.right.digest());
        assert!(ran.stderr.contains("declared platform linux/amd64 -> linux/arm/v7"), "{ran}");
        rig.fix(&["--output", to])
            .exits(0)
            .prints(rig.right.digest())
            .assert_stderr_contains("nothing to do in");
        let json = rig.user.config_patcher(&["inspect", to, "--format", "json"]).exits(0).json();
        assert_eq!(
            (&json["digest"], &json["images"][0]["declaredPlatform"]["variant"]),
            (&rig.right.digest().into(), &"v7".into())
        );
        assert_eq!(rig.digest_of_tag("arm32v7").as_deref(), Some(rig.wrong.digest()));
    }
    let layout = OciLayout::open(&rig.user.path("out")).unwrap();
    assert_eq!(check(&layout, &tag("1"), CheckDepth::Layers), []);
    rig.registry.closure_complete("team/fixed", rig.right.digest()).unwrap();
    assert!(
        !rig.registry.has_blob("team/fixed", &rig.wrong.config_digest()),
        "the wrong config stays behind"
    );
    assert_eq!(rig.registry.count("PUT", |path| path.starts_with("/v2/team/app/")), 0);
    // Within one registry, layers are mounted, not uploaded.
    let sent: u64 =
        rig.registry.log().iter().filter(|l| l.path.contains("/blobs/")).map(|l| l.request_bytes).sum();
    assert_eq!(sent, rig.right.config.len() as u64);

    // An image of a classic archive, which has no manifest, to a registry and back.
    rig.user.write("app.tar", rig.wrong.classic_archive("team/app:1"));
    let to = format!("{}/team/saved:1", rig.registry.host());
    let args = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--output", &to];
    let ran = rig.user.config_patcher(&args).exits(0);
    assert_eq!(rig.registry.tag("team/saved", "1").as_deref(), Some(ran.line()));
    rig.registry.closure_complete("team/saved", ran.line()).unwrap();
    let args = ["fix", &source, "--set-platform", "linux/arm/v7", "--output", &to, "--tag", "x"];
    rig.user.config_patcher(&args).exits(2);
    rig.assert_sound();
}

/// A correct image keeps its digest: --output copies it unchanged.
#[test]
fn a_correct_image_is_copied_unchanged() {
    let rig = Rig::new();
    let args = ["fix", &rig.image("arm32v7"), "--set-platform", "linux/amd64", "--output", "oci:out:1"];
    rig.user.config_patcher(&args).exits(0).prints(rig.wrong.digest());
    let layout = OciLayout::open(&rig.user.path("out")).unwrap();
    assert_eq!(layout.read_document(&tag("1")).unwrap(), rig.wrong.document);
}
