//! `config-patcher fix --in-place`: overwrites the changed members of an archive.

use crate::samples::{Image, Index};
use crate::tools::{User, listing};
use image_store::archive::{DockerArchive, OciArchive};
use image_store::check::{CheckDepth, check};
use image_store::store::Pointer;
use multiarch_tests::need;
use multiarch_tests::world::{self, Engine};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn mislabeled() -> Image {
    Image::new("linux/amd64", "arm's own")
}

#[test]
fn members_of_a_docker_archive_are_overwritten() {
    let user = User::new();
    let path = user.write("app.tar", mislabeled().classic_archive("app:1"));
    let before = fs::metadata(&path).unwrap();
    let fix = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--in-place"];
    let planned = user
        .config_patcher(&[&fix[..], &["--dry-run"]].concat())
        .exits(0)
        .assert_stderr_contains("in place  2 members");
    assert_eq!(fs::read(&path).unwrap(), mislabeled().classic_archive("app:1"));
    let done = user.config_patcher(&fix).exits(0);
    assert_eq!(planned.stdout, done.stdout);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.ino(), before.len(), before.mtime()), (after.ino(), after.len(), after.mtime()));
    let store = DockerArchive::open(&path, None).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("app:1".into()), CheckDepth::Layers), []);
    user.config_patcher(&fix).exits(0).assert_stderr_contains("all platforms are correct");
    assert_eq!(listing(&user.work()).len(), 1);
}

#[test]
fn members_of_an_index_are_overwritten_in_both_kinds_of_archive() {
    let user = User::new();
    let index = Index::of(&[
        ("linux/amd64", &Image::new("linux/amd64", "amd64's own")),
        ("linux/arm/v7", &mislabeled()),
    ]);
    for (archive, tag) in [("oci-archive:oci.tar", "1"), ("docker-archive:docker.tar", "app:1")] {
        let path = user.path(archive.split_once(':').unwrap().1);
        match tag {
            "1" => index.store(&OciArchive::open_or_create(&path).unwrap(), tag),
            _ => index.store(&DockerArchive::open_or_create(&path).unwrap(), tag),
        }
        let before = fs::metadata(&path).unwrap();
        let fixed = user.config_patcher(&["fix", archive, "--from-index", "--in-place"]).exits(0);
        assert!(fixed.stderr.contains("in place"), "{fixed}");
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
        user.config_patcher(&["fix", archive, "--from-index", "--check"]).exits(0);
    }
    let store = OciArchive::open(&user.path("oci.tar"), None).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("1".into()), CheckDepth::Layers), []);
}

#[test]
fn a_config_that_does_not_fit_is_written_to_a_new_archive_with_a_message() {
    let user = User::new();
    let image = mislabeled();
    let room = image.config.len().next_multiple_of(512) - image.config.len();
    let full = image
        .with_config(image.config.replace("\"Cmd\"", &format!("\"A\":\"{}\",\"Cmd\"", "x".repeat(room - 7))));
    assert_eq!(full.config.len() % 512, 0);
    let path = user.write("app.tar", full.classic_archive("app:1"));
    let before = fs::metadata(&path).unwrap();
    user.config_patcher(&["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--in-place"])
        .exits(0)
        .assert_stderr_contains("a new archive is written");
    assert_ne!(fs::metadata(&path).unwrap().ino(), before.ino());
    let store = DockerArchive::open(&path, None).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("app:1".into()), CheckDepth::Layers), []);
}

#[test]
fn in_place_is_refused_for_a_layout() {
    let user = User::new();
    mislabeled()
        .store(&image_store::store::oci_layout::OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    user.config_patcher(&["fix", "oci:in:1", "--set-platform", "linux/arm/v7", "--in-place"])
        .exits(2)
        .assert_stderr_contains("omit --in-place");
}

#[test]
fn docker_and_skopeo_read_an_overwritten_archive() {
    need!(world::require(&["skopeo"]));
    let engine = need!(Engine::start());
    let user = User::new();
    let image = mislabeled();
    let image = image.with_config(image.config.replace("1.50", "15"));
    let first = user.write("app.tar", image.classic_archive("app:1"));
    let docker = |args: &[&str]| {
        let done = engine.docker(args);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_string()
    };
    docker(&["load", "-i", &first.display().to_string()]);
    let saved = user.path("saved.tar");
    docker(&["save", "-o", &saved.display().to_string(), "app:1"]);
    user.config_patcher(&["fix", "docker-archive:saved.tar", "--set-platform", "linux/arm/v7", "--in-place"])
        .exits(0)
        .assert_stderr_contains("in place  2 members");
    docker(&["rmi", "-f", "app:1"]);
    docker(&["load", "-i", &saved.display().to_string()]);
    let shown = docker(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}/{{.Variant}}", "app:1"]);
    assert_eq!(shown, "linux/arm/v7");
    let mut skopeo = Command::new(world::program("skopeo").unwrap());
    skopeo.args(["copy", "-q", &format!("docker-archive:{}", saved.display())]);
    let copied = skopeo.arg(format!("dir:{}", user.path("copied").display())).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}
