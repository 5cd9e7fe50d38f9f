//! `oci-archive:` with the other programs that write and read it.

use crate::samples::{Image, Index};
use crate::tools::{User, run};
use image_store::archive::OciArchive;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::{need, world};
use std::process::Command;

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

fn skopeo(user: &User, arguments: &[&str]) -> String {
    let mut command = Command::new(world::program("skopeo").unwrap());
    command.args(arguments).current_dir(user.work());
    run(command).exits(0).stdout
}

#[test]
fn skopeo_reads_a_fixed_archive_of_skopeo() {
    need!(world::require(&["skopeo"]));
    let user = User::new();
    let mislabeled = Image::new("linux/amd64", "arm's own");
    // A number that skopeo cannot read.
    let mislabeled = mislabeled.with_config(mislabeled.config.replace("1.50", "15"));
    user.write("saved.tar", mislabeled.classic_archive("app:1"));
    skopeo(&user, &["copy", "-q", "docker-archive:saved.tar", "oci-archive:app.tar:1"]);
    let config = || skopeo(&user, &["inspect", "--config", "--raw", "oci-archive:app.tar:1"]);
    let expected = config().replace(r#""architecture":"amd64""#, r#""architecture":"arm","variant":"v7""#);
    user.config_patcher(&["fix", "oci-archive:app.tar", "--set-platform", "linux/arm/v7"]).exits(0);
    assert_eq!(config(), expected);
    // skopeo copy reads every layer.
    skopeo(&user, &["copy", "-q", "--preserve-digests", "oci-archive:app.tar:1", "oci:out:1"]);
    assert_eq!(check(&OciLayout::open(&user.path("out")).unwrap(), &tag("1"), CheckDepth::Layers), []);
    let again = std::fs::read(user.path("app.tar")).unwrap();
    user.config_patcher(&["fix", "oci-archive:app.tar:1", "--set-platform", "linux/arm/v7"])
        .exits(0)
        .assert_stderr_contains("all platforms are correct");
    assert_eq!(std::fs::read(user.path("app.tar")).unwrap(), again);
}

#[test]
fn an_index_is_copied_in_and_out_and_fixed_from_its_entries() {
    let user = User::new();
    let mislabeled = Image::new("linux/amd64", "arm's own");
    let index = Index::of(&[
        ("linux/amd64", &Image::new("linux/amd64", "amd64's own")),
        ("linux/arm/v7", &mislabeled),
    ]);
    index.store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    user.manifest_push(&["copy", "oci:in:1", "oci-archive:app.tar:1"]).exits(0);
    let digest_in = |path: &str| {
        let store = OciArchive::open(&user.path(path), Some("1")).unwrap();
        store.resolve(&tag("1")).unwrap().unwrap().digest.to_string()
    };
    assert_eq!(digest_in("app.tar"), index.digest());
    user.config_patcher(&["fix", "oci-archive:app.tar:1", "--from-index"]).exits(0);
    let store = OciArchive::open(&user.path("app.tar"), None).unwrap();
    assert_eq!(check(&store, &tag("1"), CheckDepth::Layers), []);
    user.config_patcher(&["fix", "oci-archive:app.tar:1", "--from-index", "--check"]).exits(0);
    user.manifest_push(&["copy", "oci-archive:app.tar:1", "oci:out:1"]).exits(0);
    assert_eq!(check(&OciLayout::open(&user.path("out")).unwrap(), &tag("1"), CheckDepth::Layers), []);
}
