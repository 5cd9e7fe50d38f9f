//! An index in a registry: fixes of its members and their attestations, and `inspect`.

use super::{REPOSITORY, Rig};
use crate::samples::{Image, Index};

#[test]
fn every_member_gets_its_index_platform_and_attestations_refer_to_the_new_image() {
    let rig = Rig::new();
    let amd64 = Image::new("linux/amd64", "amd64's own");
    let index = Index::attested(&[("linux/amd64", &amd64), ("linux/arm/v7", &rig.wrong)], Some(1));
    index.publish(&rig.registry, REPOSITORY, "latest");
    let image = rig.image("latest");
    let ran = rig.user.config_patcher(&["fix", &image, "--from-index"]).exits(0);
    assert!(ran.stderr.contains("note: attestation"), "{ran}");
    // Digest and size of one entry and one annotation differ, nothing else.
    let old = std::str::from_utf8(index.document.bytes()).unwrap();
    let size = |image: &Image| {
        format!(r#""size":{},"platform":{{"architecture":"arm""#, image.document.bytes().len())
    };
    let expected =
        old.replace(rig.wrong.digest(), rig.right.digest()).replace(&size(&rig.wrong), &size(&rig.right));
    let (_, now) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    assert_eq!(String::from_utf8(now).unwrap(), expected);
    assert_eq!(Some(ran.line()), rig.digest_of_tag("latest").as_deref());
    assert_eq!(rig.registry.count("PUT", |path| path.contains("/manifests/")), 2);
    rig.assert_sound();
    let again = rig
        .user
        .config_patcher(&["fix", &image, "--from-index"])
        .exits(0)
        .assert_stderr_contains("all platforms are correct");
    assert_eq!(again.line(), ran.line());
}

#[test]
fn one_member_is_selected_by_platform_or_digest_and_its_entry_follows() {
    let rig = Rig::new();
    let index = Index::of(&[("linux/amd64", &rig.wrong), ("linux/arm64", &Image::new("linux/arm64", "x"))]);
    for (tag, member) in [("a", "linux/amd64"), ("b", rig.wrong.digest())] {
        index.publish(&rig.registry, REPOSITORY, tag);
        let args = ["fix", &rig.image(tag), "--platform", member, "--set-platform", "linux/arm/v7"];
        rig.user.config_patcher(&args).exits(0);
        let (_, now) = rig.registry.manifest(REPOSITORY, tag).unwrap();
        let now: serde_json::Value = serde_json::from_slice(&now).unwrap();
        let platform = serde_json::json!({"architecture": "arm", "variant": "v7", "os": "linux"});
        assert_eq!(now["manifests"][0]["platform"], platform);
        assert_eq!(now["manifests"][0]["digest"], rig.right.digest());
        assert_eq!(now["manifests"][1]["platform"]["architecture"], "arm64");
    }
    rig.assert_sound();
}

#[test]
fn the_options_of_0_1_keep_their_meaning_and_print_a_warning() {
    let rig = Rig::new();
    let index = Index::of(&[("linux/amd64", &rig.wrong), ("linux/arm64", &Image::new("linux/arm64", "x"))]);
    index.publish(&rig.registry, REPOSITORY, "a");
    let fix = |args: &[&str]| rig.user.config_patcher(&[&["fix", &rig.image("a"), "--check"], args].concat());
    let old = fix(&["--member", "linux/amd64", "--platform", "linux/arm/v7", "--format", "json"]).exits(1);
    let options = "--set-platform linux/arm/v7 --platform linux/amd64 --check\n";
    let advice = format!("write: config-patcher fix {} {options}", rig.image("a"));
    assert!(old.stderr.contains("warning: ") && old.stderr.contains(&advice), "{old}");
    let new = fix(&["--set-platform", "linux/arm/v7", "--platform", "linux/amd64", "--format", "json"]);
    assert!(!new.stderr.contains("warning: "), "{new}");
    assert_eq!(old.json(), new.json());
    let quiet = fix(&["-q", "--member", "linux/amd64", "--platform", "linux/arm/v7"]).exits(1);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn inspect_prints_declared_and_index_platform_and_escapes_foreign_text() {
    let rig = Rig::new();
    let index = Index::attested(&[("linux/arm/v7", &rig.wrong)], Some(0));
    index.publish(&rig.registry, REPOSITORY, "latest");
    let ran = rig.user.config_patcher(&["inspect", &rig.image("latest")]).exits(0);
    assert!(
        ran.stdout.contains("declared platform differs from the index") && ran.stdout.contains("attests"),
        "{ran}"
    );
    let evil = rig.wrong.with_config(rig.wrong.config.replace("\"os\":\"linux\"", r#""os":"\u001b[31mred""#));
    evil.publish(&rig.registry, REPOSITORY, "evil");
    let ran = rig.user.config_patcher(&["inspect", &rig.image("evil")]);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
    let ran =
        rig.user.config_patcher(&["fix", &rig.image("evil"), "--set-platform", "linux/arm/v7", "--dry-run"]);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
}

#[test]
fn an_index_of_images_without_programs_is_not_fixed_by_its_binaries() {
    let rig = Rig::new();
    let data = rig.wrong.with_config(rig.wrong.config.replace(r#""Cmd":["/app"]"#, r#""Cmd":null"#));
    Index::of(&[("linux/arm/v7", &data)]).publish(&rig.registry, REPOSITORY, "a");
    let (image, digest) = (rig.image("a"), data.digest());
    rig.user
        .config_patcher(&["fix", &image, "--from-binaries"])
        .exits(3)
        .assert_stderr_contains(&format!("use --set-platform PLATFORM --platform {digest}, or --from-index"))
        .assert_stderr_contains(&format!("{digest} (linux/amd64) of \""))
        .assert_stderr_contains("\": it contains no programs");
    let fix = ["fix", &image, "--set-platform", "linux/arm/v7", "--platform", digest];
    rig.user.config_patcher(&fix).exits(0);
}
