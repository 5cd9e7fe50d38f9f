//! A fix undone by `copy REPO@OLD REPO:TAG`, as in the documentation of config-patcher.

use super::*;

/// Fixes `latest`. Returns its previous digest.
fn fix_latest(rig: &Rig, label: &[&str]) -> String {
    let old = rig.digest_of_tag("latest").unwrap();
    rig.user.config_patcher(&[&["fix", &rig.name("latest")], label].concat()).exits(0);
    assert_ne!(rig.digest_of_tag("latest").unwrap(), old);
    old
}

/// The fixed image is for another platform than the old one, and that must be named.
fn copy_back(rig: &Rig, old: &str) -> Ran {
    let latest = rig.name("latest");
    let repository = latest.strip_suffix(":latest").unwrap();
    rig.registry.take_log();
    rig.user.manifest_push(&["copy", &format!("{repository}@{old}"), &latest, "--drop", "linux/arm/v7"])
}

#[test]
fn a_fix_of_an_image_and_of_an_index_is_undone_by_copy() {
    let rig = Rig::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    let index = Index::of(&[("linux/amd64", &rig.images[0]), ("linux/arm/v7", &wrong)]);
    for (publish, label) in [
        (
            &(|| wrong.publish(&rig.registry, REPOSITORY, "latest")) as &dyn Fn(),
            &["--set-platform", "linux/arm/v7"][..],
        ),
        (&|| index.publish(&rig.registry, REPOSITORY, "latest"), &["--from-index"]),
    ] {
        publish();
        let old = fix_latest(&rig, label);
        let fix_latest = rig.digest_of_tag("latest").unwrap();
        copy_back(&rig, &old).exits(0).prints(&old).assert_stderr_contains(&format!("was {fix_latest}"));
        assert_eq!(rig.digest_of_tag("latest").as_ref(), Some(&old));
        rig.assert_sound();
        // The only PUT is that of the tag.
        let log = rig.registry.log();
        let written: Vec<_> = log.iter().filter(|l| !matches!(l.method.as_str(), "GET" | "HEAD")).collect();
        assert_eq!(written.len(), 1, "{written:?}");
        copy_back(&rig, &old).exits(0).assert_stderr_contains("nothing to do in");
        // This copy is recorded in the journal as well: a rollback restores the fix.
        rig.user.manifest_push(&["rollback", &rig.name("latest")]).exits(0);
        assert_eq!(rig.digest_of_tag("latest"), Some(fix_latest));
    }
}

#[test]
fn an_image_and_an_index_do_not_replace_each_other() {
    let rig = Rig::new();
    let index = Index::of(&[("linux/amd64", &rig.images[0]), ("linux/arm/v7", &rig.images[2])]);
    let image = rig.images[0].digest();
    index.publish(&rig.registry, REPOSITORY, "latest");
    copy_back(&rig, image)
        .exits(3)
        .assert_stderr_contains("the tag refers to an index of several platforms")
        .assert_stderr_contains("--force");
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(index.digest()));
    let one = rig.name("amd64");
    rig.user
        .manifest_push(&["copy", &rig.name("latest"), &one])
        .exits(3)
        .assert_stderr_contains("the tag refers to a single image");
    assert_eq!(rig.digest_of_tag("amd64").as_deref(), Some(image));
    rig.user
        .manifest_push(&["copy", "--force", &rig.name("latest"), &one])
        .exits(0)
        .assert_stderr_contains("warning:");
    assert_eq!(rig.digest_of_tag("amd64").as_deref(), Some(index.digest()));
}
