//! `edit`: members of a published index are added, replaced and removed.

use super::*;

impl Rig {
    fn published(&self) -> String {
        let (_, bytes) = self.registry.manifest(REPOSITORY, "latest").unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn change(&self, args: &[&str]) -> Ran {
        self.user.manifest_push(&[&["edit", &self.name("latest")], args].concat())
    }
}

/// Publishes an index with an attestation of the second member and unusual white space.
fn attested() -> (Rig, Index) {
    let rig = Rig::new();
    let members = [("linux/amd64", &rig.images[0]), ("linux/arm/v7", &rig.images[2])];
    let index = Index::attested(&members, Some(1));
    index.publish(&rig.registry, REPOSITORY, "latest");
    (rig, index)
}

#[test]
fn a_member_is_added_replaced_and_removed_and_other_bytes_are_preserved() {
    let (rig, index) = attested();
    let before = rig.published();
    let add = ["--add", &rig.name("arm64v8")];
    let dry = rig.change(&[&add[..], &["--dry-run"]].concat()).exits(0);
    assert_eq!(rig.published(), before);
    rig.change(&add).exits(0).prints(dry.line());
    let added = rig.published();
    assert!(added.contains(rig.images[3].digest()));
    assert!(added.starts_with(before.trim_end_matches("]}")), "{added}\n{before}");
    rig.assert_sound();
    rig.change(&add)
        .exits(3)
        .assert_stderr_contains("would be a duplicate")
        .assert_stderr_contains("--replace");

    let new = Image::new("linux/arm64", "built anew");
    new.publish(&rig.registry, "team/other", "1");
    let other = format!("linux/arm64={}/team/other:1", rig.registry.host());
    rig.change(&["--replace", &other]).exits(0);
    let replaced = rig.published();
    assert!(replaced.starts_with(before.trim_end_matches("]}")), "{replaced}");
    assert!(replaced.contains(new.digest()) && !replaced.contains(rig.images[3].digest()));
    rig.assert_sound();

    rig.change(&["--remove", "linux/arm64"]).exits(0).prints(index.digest());
    assert_eq!(rig.published(), before, "the index must have its original bytes");
    rig.change(&["--remove", "linux/arm/v7"]).exits(0);
    assert!(!rig.published().contains("attestation-manifest"), "its attestation must be removed as well");
    rig.assert_sound();
    rig.change(&["--remove", "linux/arm/v7"]).exits(5).assert_stderr_contains("it has linux/amd64");
    rig.change(&["--remove", "linux/amd64"]).exits(3).assert_stderr_contains("no image would be left");
    rig.change(&[]).exits(2);
}

#[test]
fn an_image_is_added_with_its_attestation() {
    let (rig, _) = attested();
    let built = Image::new("linux/riscv64", "by BuildKit");
    Index::attested(&[("linux/riscv64", &built)], Some(0)).publish(&rig.registry, "team/riscv", "1");
    rig.change(&["--add", &format!("{}/team/riscv:1", rig.registry.host())]).exits(0);
    rig.assert_sound();
    let list: serde_json::Value = serde_json::from_str(&rig.published()).unwrap();
    let last = list["manifests"].as_array().unwrap().last().unwrap();
    assert_eq!(last["annotations"]["vnd.docker.reference.digest"], built.digest());
}

#[test]
fn an_edit_is_published_under_another_tag_with_annotations() {
    let (rig, index) = attested();
    rig.change(&["--annotation", "a=b", "--tag", "next"]).exits(0);
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(index.digest()));
    let (_, bytes) = rig.registry.manifest(REPOSITORY, "next").unwrap();
    assert!(String::from_utf8(bytes).unwrap().ends_with(r#""annotations":{"a":"b"}}"#));
    let wrong = Image::new("linux/amd64", "s390x' own");
    wrong.publish(&rig.registry, REPOSITORY, "wrong");
    let add = format!("linux/s390x={}", rig.name("wrong"));
    rig.change(&["--add", &add]).exits(3).assert_stderr_contains("--relabel");
    rig.change(&["--relabel", "--add", &add]).exits(0);
    rig.assert_sound();
    rig.user
        .manifest_push(&["edit", &rig.name("amd64"), "--add", &add])
        .exits(3)
        .assert_stderr_contains("single image");
    rig.user.manifest_push(&["edit", &rig.name("none"), "--add", &add]).exits(5);
}

/// The same commands work in a layout.
#[test]
fn an_edit_of_a_layout_can_be_rolled_back() {
    let (rig, index) = attested();
    let (latest, layout) = (rig.name("latest"), "oci:dir:1");
    rig.user.manifest_push(&["copy", &latest, layout]).exits(0);
    let ran = rig.user.manifest_push(&["edit", layout, "--add", &rig.name("arm64v8")]).exits(0);
    let open = || OciLayout::open(&rig.user.path("dir")).unwrap();
    let current = || open().read_document(&Pointer::Tag("1".into())).unwrap().digest().to_string();
    assert_eq!(check(&open(), &Pointer::Tag("1".into()), CheckDepth::Layers), []);
    assert_eq!(current(), ran.line());
    rig.user.manifest_push(&["rollback", layout]).exits(0);
    assert_eq!(current(), index.digest());
    rig.user.manifest_push(&["rollback", layout]).exits(3).assert_stderr_contains("the push created the tag");
}

/// Publishes an index with an amd64 image and a nested index of arm/v7 and arm64, the latter with an attestation.
fn nested() -> (Rig, Index) {
    let rig = Rig::new();
    let members = [("linux/arm/v7", &rig.images[2]), ("linux/arm64", &rig.images[3])];
    let inner = Index::attested(&members, Some(1));
    inner.publish(&rig.registry, REPOSITORY, "inner");
    let outer = inner.within(&[("linux/amd64", &rig.images[0])]);
    rig.registry.put_manifest(REPOSITORY, "latest", outer.media_type(), outer.bytes());
    (rig, inner)
}

#[test]
fn images_of_a_nested_index_are_considered_and_not_changed() {
    let (rig, inner) = nested();
    let before = rig.published();
    let again = rig.name("arm64v8");
    let replaced = format!("linux/amd64={again}");
    let twice = "linux/arm64/v8 would be a duplicate";
    let rows = [
        (["--add", &again], twice),
        (["--add", &rig.name("inner")], "specify one of them"),
        (["--replace", &replaced], "declares"),
        (["--replace", &format!("linux/arm64={again}")], "the image for linux/arm64 is in"),
        (["--remove", "linux/arm64"], "the image for linux/arm64 is in"),
    ];
    for (args, why) in rows {
        let ran = rig.change(&args).exits(3).assert_stderr_contains(why);
        if why.contains("linux/arm64") {
            ran.assert_stderr_contains(inner.digest())
                .assert_stderr_contains("(in a registry) by its digest");
        }
        assert_eq!(rig.published(), before, "{args:?}");
    }
    let held = format!("linux/arm64={}", rig.name("latest"));
    rig.change(&["--add", &held]).exits(3).assert_stderr_contains(twice);
    rig.change(&["--remove", "linux/s390x"])
        .exits(5)
        .assert_stderr_contains("it has linux/amd64, linux/arm/v7, linux/arm64");
    // The command from the message works.
    let name = format!("{}@{}", rig.name("latest").rsplit_once(':').unwrap().0, inner.digest());
    rig.user.manifest_push(&["edit", &name, "--remove", "linux/arm64", "--tag", "next"]).exits(0);
    rig.change(&["--add", &rig.name("arm32v5")]).exits(0);
    rig.assert_sound();
}

/// A platform selects an entry that has it, even a nested index, before an image in a nested index.
#[test]
fn a_nested_index_with_a_platform_is_selected_by_it() {
    let (rig, inner) = nested();
    let with = rig.published().replace(inner.digest(), "DIGEST");
    let entry = r#""digest":"DIGEST","platform":{"architecture":"arm64","os":"linux"}"#;
    let outer = with.replace(r#""digest":"DIGEST""#, entry).replace("DIGEST", inner.digest());
    rig.registry.put_manifest(REPOSITORY, "latest", inner.document.media_type(), outer.as_bytes());
    let copy = ["copy", "--platform", "linux/arm64", &rig.name("latest"), &rig.name("out")];
    rig.user.manifest_push(&copy).exits(0).prints(inner.digest());
    rig.change(&["--remove", "linux/arm64"]).exits(0);
    assert!(!rig.published().contains(inner.digest()) && rig.published().contains(rig.images[0].digest()));
    rig.assert_sound();
}

#[test]
fn an_image_of_a_nested_index_is_copied_with_its_attestation() {
    let (rig, inner) = nested();
    let copy = |platform: &str, to: &str| {
        rig.user.manifest_push(&["copy", "--platform", platform, &rig.name("latest"), &rig.name(to)])
    };
    copy("linux/arm64", "out").exits(0).prints(rig.images[3].digest());
    copy("linux/amd64", "out2").exits(0).prints(rig.images[0].digest());
    copy("linux/s390x", "out3")
        .exits(5)
        .assert_stderr_contains("it has linux/amd64, linux/arm/v7, linux/arm64");
    Index::of(&[("linux/amd64", &rig.images[0])]).publish(&rig.registry, REPOSITORY, "flat");
    let add = format!("linux/arm64={}", rig.name("latest"));
    rig.user.manifest_push(&["edit", &rig.name("flat"), "--add", &add]).exits(0);
    let (_, flat) = rig.registry.manifest(REPOSITORY, "flat").unwrap();
    let flat: serde_json::Value = serde_json::from_slice(&flat).unwrap();
    let digests: Vec<&str> = (0..3).map(|i| flat["manifests"][i]["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, [rig.images[0].digest(), rig.images[3].digest(), inner.members[2].digest()]);
    rig.assert_sound();
}

/// The new index is based on the index that was read, so a concurrent change must be a conflict.
#[test]
fn an_edit_does_not_undo_a_concurrent_change() {
    for expects in [false, true] {
        let (rig, index) = attested();
        let theirs = Index::of(&[("linux/amd64", &rig.images[0])]);
        theirs.publish(&rig.registry, REPOSITORY, "theirs");
        let (registry, digest) = (Arc::downgrade(&rig.registry), theirs.digest().to_string());
        rig.registry.on_request(move |request, when| {
            if request.method == "GET" && request.path.ends_with("/latest") && when == When::After {
                registry.upgrade().unwrap().set_tag(REPOSITORY, "latest", &digest);
            }
        });
        let expect = ["--expect", index.digest()];
        let more: &[&str] = if expects { &expect } else { &[] };
        rig.change(&[&["--annotation", "a=b"], more].concat())
            .exits(8)
            .assert_stderr_contains(theirs.digest());
        assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(theirs.digest()));
    }
}

#[test]
fn of_two_edits_of_one_tag_of_a_layout_none_is_lost_silently() {
    let (rig, index) = attested();
    for round in 0..8 {
        let name = format!("oci:dir:{round}");
        rig.user.manifest_push(&["copy", "-q", &rig.name("latest"), &name]).exits(0);
        let ran = std::thread::scope(|scope| {
            let edit = |key: &str| {
                let (name, user, digest) = (&name, &rig.user, index.digest());
                let note = format!("{key}=done");
                scope.spawn(move || {
                    user.manifest_push(&["edit", name, "--annotation", &note, "--expect", digest])
                })
            };
            ["one", "two"].map(edit).map(|ran| ran.join().unwrap())
        });
        let tag = Pointer::Tag(round.to_string());
        let layout = OciLayout::open(&rig.user.path("dir")).unwrap();
        let now = String::from_utf8(layout.read_document(&tag).unwrap().bytes().to_vec()).unwrap();
        let done = ["one", "two"].map(|key| now.contains(&format!(r#""{key}":"done""#)));
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "round {round}: {} {}", ran[0], ran[1]);
        for (done, ran) in done.iter().zip(&ran) {
            assert_eq!(ran.code, Some(if *done { 0 } else { 8 }), "round {round}: {ran}");
        }
    }
}

/// JSON may be printed on a terminal as well.
#[test]
fn control_characters_in_annotations_are_escaped_in_json() {
    let rig = Rig::new();
    let evil = "x\u{9b}31m\u{202e}y";
    let index = Index::attested(&[("linux/amd64", &rig.images[0]), ("linux/arm/v7", &rig.images[2])], None);
    index.publish(&rig.registry, REPOSITORY, "latest");
    rig.change(&["--annotation", &format!("note={evil}")]).exits(0);
    assert!(rig.published().contains(evil));
    let name = rig.name("latest");
    for args in
        [&["inspect", "--raw", &name][..], &["inspect", "-v", &name], &["--format", "json", "inspect", &name]]
    {
        let ran = rig.user.manifest_push(args).exits(0);
        assert!(!ran.stdout.contains(['\u{9b}', '\u{202e}']), "{args:?}: {ran}");
        assert!(serde_json::from_str::<serde_json::Value>(&ran.stdout).is_ok(), "{args:?}: {ran}");
    }
}
