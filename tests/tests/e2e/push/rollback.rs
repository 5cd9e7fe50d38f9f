//! `--expect`, the journal and rollback.

use super::*;

const NOBODY: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

impl Rig {
    fn journal(&self) -> std::path::PathBuf {
        self.user.work().parent().unwrap().join("home/.local/state/multiarch/journal.jsonl")
    }

    pub fn entries(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.journal()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Publishes another build of one image, so that the next push has another digest.
    fn publish_other_build(&self, text: &str) {
        Image::new("linux/amd64", text).publish(&self.registry, REPOSITORY, "amd64");
    }
}

#[test]
fn a_tag_moves_only_from_where_it_is_expected() {
    let rig = Rig::new();
    rig.push(&["--expect", NOBODY])
        .exits(8)
        .assert_stderr_contains("it refers to nothing")
        .assert_stderr_contains("nothing was written");
    rig.assert_nothing_written();
    rig.push(&["--expect", "none"]).exits(0);
    let first = rig.digest_of_tag("latest").unwrap();
    rig.push(&["--expect", "none"]).exits(0).assert_stderr_contains("nothing to do in");
    rig.publish_other_build("second");
    rig.push(&["--expect", "none"]).exits(8).assert_stderr_contains(&first);
    rig.push(&["--expect", NOBODY]).exits(8).assert_stderr_contains(&first);
    assert_eq!(rig.digest_of_tag("latest"), Some(first.clone()));
    rig.push(&["--expect", &first]).exits(0);
    rig.push(&["--expect", "latest"]).exits(2);
    rig.push(&["--expect", &first, "--force"]).exits(2);
    rig.assert_sound();
}

#[test]
fn every_push_is_recorded_and_can_be_rolled_back() {
    let rig = Rig::new();
    rig.push(&["--dry-run"]).exits(0);
    assert!(!rig.journal().exists());
    let mut digest_of_tag = Vec::new();
    for text in ["first", "second", "third"] {
        rig.publish_other_build(text);
        rig.push(&[]).exits(0);
        digest_of_tag.push(rig.digest_of_tag("latest").unwrap());
    }
    rig.push(&[]).exits(0).assert_stderr_contains("nothing to do in");
    let entries = rig.entries();
    let noted: Vec<_> = entries.iter().map(|e| (e["old"].as_str(), e["new"].as_str().unwrap())).collect();
    let [first, second, third] =
        [&digest_of_tag[0], &digest_of_tag[1], &digest_of_tag[2]].map(String::as_str);
    assert_eq!(noted, [(None, first), (Some(first), second), (Some(second), third)]);

    let rollback = |args: &[&str]| rig.user.manifest_push(&[&["rollback"], args].concat());
    let place = |digest: &str| format!("{}@{digest}", rig.name("latest"));
    rollback(&["--dry-run"]).exits(0).prints(&place(second)).assert_stderr_contains(third);
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(third));
    rollback(&[&rig.name("latest")]).exits(0).prints(&place(second));
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(second));
    // The next rollback undoes the push before.
    rollback(&[]).exits(0).prints(&place(first));
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(first));
    rollback(&[]).exits(3).assert_stderr_contains("the push created the tag");
    let none = rig.name("none");
    let copy = format!("manifest-push copy {}@sha256:OLD {none}", none.trim_end_matches(":none"));
    rollback(&[&none])
        .exits(5)
        .assert_stderr_contains("journal.jsonl")
        .assert_stderr_contains("push, edit, copy, fix and release record there")
        .assert_stderr_contains(&copy);
    rig.assert_sound();
}

#[test]
fn a_tag_that_another_client_moved_is_not_rolled_back() {
    let rig = Rig::new();
    rig.push(&[]).exits(0);
    let first = rig.digest_of_tag("latest").unwrap();
    rig.publish_other_build("second");
    rig.push(&[]).exits(0);
    let theirs = Index::of(&[("linux/amd64", &rig.images[0])]);
    theirs.publish(&rig.registry, REPOSITORY, "latest");
    rig.user.manifest_push(&["rollback"]).exits(8).assert_stderr_contains(theirs.digest());
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(theirs.digest()));
    rig.user.manifest_push(&["rollback", "--force"]).exits(0);
    assert_eq!(rig.digest_of_tag("latest"), Some(first));
}

#[test]
fn several_tags_and_repositories_are_rolled_back_together() {
    let rig = Rig::new();
    let also = format!("{}/team/mirror:stable", rig.registry.host());
    let spec = rig.spec.replacen("manifests:", "tags: [\"1.0\"]\nmanifests:", 1);
    rig.user.write("spec.yaml", &spec);
    rig.push(&["--also", &also]).exits(0);
    let first = rig.digest_of_tag("latest").unwrap();
    rig.publish_other_build("second");
    rig.push(&["--also", &also]).exits(0);
    let second = rig.digest_of_tag("1.0").unwrap();
    assert_eq!(rig.registry.tag("team/mirror", "stable").as_deref(), Some(second.as_str()));
    assert_eq!(rig.registry.tag("team/mirror", "1.0").as_deref(), Some(second.as_str()));
    rig.registry.closure_complete("team/mirror", &second).unwrap();
    assert_eq!(rig.entries().len(), 8);
    rig.user.manifest_push(&["rollback"]).exits(0);
    for (repository, tag) in
        [(REPOSITORY, "latest"), (REPOSITORY, "1.0"), ("team/mirror", "stable"), ("team/mirror", "1.0")]
    {
        assert_eq!(rig.registry.tag(repository, tag).as_deref(), Some(first.as_str()), "{repository}:{tag}");
    }
    rig.assert_sound();
}

/// A push moves `latest` and creates a tag for its version.
#[test]
fn a_new_tag_does_not_prevent_a_rollback_of_the_others() {
    let mut rig = Rig::new();
    let rollback = |rig: &Rig, args: &[&str]| rig.user.manifest_push(&[&["rollback"], args].concat());
    rig.push(&[]).exits(0);
    let first = rig.digest_of_tag("latest").unwrap();
    rig.publish_other_build("second");
    rig.push(&[]).exits(0);
    let second = rig.digest_of_tag("latest").unwrap();
    rig.publish_other_build("third");
    rig.edit("manifests:", "tags: [\"1.0\"]\nmanifests:");
    rig.push(&[]).exits(0);
    let third = rig.digest_of_tag("1.0").unwrap();
    // A push that only created a tag is not skipped: the error has the command for the push before it.
    rig.user.manifest_push(&["copy", &rig.name("1.0"), &rig.name("other")]).exits(0);
    let way = format!("manifest-push rollback {}", rig.name("latest"));
    rollback(&rig, &[])
        .exits(3)
        .assert_stderr_contains(&format!("roll back \"{}\"", rig.name("other")))
        .assert_stderr_contains(&way);
    assert_eq!(rig.digest_of_tag("latest").as_ref(), Some(&third));
    let words: Vec<&str> = way.split(' ').skip(1).collect();
    rig.user.manifest_push(&words).exits(0);
    assert_eq!(rig.digest_of_tag("latest").as_ref(), Some(&second));
    rollback(&rig, &[&rig.name("latest")]).exits(0);
    assert_eq!(rig.digest_of_tag("latest").as_ref(), Some(&first));
    assert_eq!(rig.digest_of_tag("1.0").as_ref(), Some(&third));

    // The new tag is reported and stays.
    rig.publish_other_build("fourth");
    rig.edit("\"1.0\"", "\"1.1\"");
    rig.push(&[]).exits(0);
    let left = format!("unchanged: {} was created by this push", rig.name("1.1"));
    rollback(&rig, &[]).exits(0).assert_stderr_contains(&left);
    assert_eq!(rig.digest_of_tag("latest").as_ref(), Some(&first));
    assert!(rig.digest_of_tag("1.1").is_some());
    rollback(&rig, &[]).exits(3).assert_stderr_contains(&rig.name("other"));
    rig.assert_sound();
}

/// The journal is written before the tag moves: if it cannot be written, no tag moves.
#[test]
fn without_a_journal_no_tag_moves() {
    let rig = Rig::new();
    rig.user.write("file", "no folder");
    let mut command = rig.user.command("manifest-push", &["push", "from-spec", "spec.yaml"]);
    command.env("XDG_STATE_HOME", rig.user.path("file"));
    run(command).exits(9).assert_stderr_contains("XDG_STATE_HOME");
    assert_eq!(rig.digest_of_tag("latest"), None);
    let mut command = rig.user.command("manifest-push", &["push", "from-spec", "spec.yaml"]);
    command.env_remove("HOME").env("XDG_STATE_HOME", rig.user.path("state"));
    run(command).exits(0);
    assert!(rig.user.path("state/multiarch/journal.jsonl").exists());
}
