//! The tags that a release moves, their order, and rollbacks.

use super::{digest_of, spec, user_with_spec};
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::world;
use std::fs;
use std::time::Duration;

#[test]
fn tags_of_members_and_of_the_index_are_moved_in_this_order() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let ran = user.release(&["app/release.yaml"]).exits(0);
    let put: Vec<String> = registry
        .log()
        .iter()
        .filter(|requests| requests.method == "PUT" && requests.path.contains("/manifests/"))
        .map(|requests| requests.path.rsplit('/').next().unwrap().to_string())
        .collect();
    let (documents, tags) = put.split_at(put.len() - 3);
    assert_eq!(tags, ["arm32v7", "latest", "1.0"]);
    assert!(documents.iter().all(|document| document.starts_with("sha256:")), "{put:?}");
    for tag in ["latest", "1.0"] {
        assert_eq!(registry.tag("team/app", tag).as_deref(), Some(digest_of(&ran)));
    }
    registry.closure_complete("team/app", digest_of(&ran)).unwrap();
    assert_eq!(registry.violations(), [""; 0]);
}

/// v1, v2, v2 again, elsewhere, then a rollback to v1.
#[test]
fn a_rerun_keeps_what_a_rollback_needs_and_a_rollback_moves_all_tags_or_none() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let names = |tag: &str| registry.manifest("team/app", tag).unwrap().1;
    let tags = || ["latest", "1.0", "arm32v7"].map(names);
    let release = ["app/release.yaml", "--work-dir", "w"];
    let ran = user.release(&[&release[..], &["--summary", "new/summary.md"]].concat()).exits(0);
    assert!(ran.stderr.contains("write     linux/arm64  2 blobs, "), "{ran}");
    assert!(!ran.stderr.contains("copy from") && user.path("new/summary.md").is_file(), "{ran}");
    let first = tags();
    user.write("app/armv7", "a new program for armv7");
    user.release(&release).exits(0);
    let second = tags();
    user.release(&release).exits(0).assert_stderr_contains("nothing to do");
    user.release(&release).exits(0).assert_stderr_contains("nothing to do");
    user.release(&[&release[..], &["--to", "oci:out"]].concat())
        .exits(0)
        .assert_stderr_contains("report: w/report-");
    let rollback = |args: &[&str]| user.run("xtask", &[&["rollback", "w/report.json"], args].concat());

    // Another client has moved two tags, one of which is checked last.
    let other = crate::samples::Image::new("linux/amd64", "another release");
    other.publish(&registry, "team/app", "other");
    for tag in ["arm32v7", "1.0"] {
        registry.set_tag("team/app", tag, other.digest());
    }
    let was = tags();
    for args in [&[][..], &["--dry-run"]] {
        let ran = rollback(args).exits(8).assert_stderr_contains("no tag was moved");
        for tag in ["arm32v7", "1.0"] {
            let message = format!(":{tag}\" refers to {}, not to sha256:", other.digest());
            assert!(ran.stderr.contains(&message), "{ran}");
        }
        assert_eq!(tags(), was);
    }
    let forced = rollback(&["--force", "--format", "json"]).exits(0).json();
    assert_eq!(forced["tags"].as_array().unwrap().len(), 3, "{forced}");
    assert!(first != second && tags() == first, "byte for byte");
    rollback(&[]).exits(0).prints_nothing();
}

/// By the journal, by the report on another machine, and of a first release: one rollback.
#[test]
fn a_release_is_rolled_back_by_image_and_by_report() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let user = user_with_spec(&spec(&image));
    let tags = || ["latest", "1.0", "arm32v7"].map(|tag| registry.tag("team/app", tag).unwrap());
    let release = || user.release(&["app/release.yaml", "--work-dir", "w"]).exits(0);
    release();
    let first = tags();
    for name in ["xtask", "multiarch"] {
        let ran = user.run(name, &["rollback", "w/report.json"]).exits(3);
        ran.assert_stderr_contains("the push created the tag")
            .assert_stderr_contains("rollback does not delete tags");
    }
    user.run("multiarch", &["rollback", &image]).exits(3).assert_stderr_contains("the push created the tag");
    user.write("app/armv7", "a new program for armv7");
    release();
    let second = tags();
    assert_ne!(first, second);

    let dry = user.run("multiarch", &["rollback", &image, "--dry-run", "--format", "json"]).exits(0).json();
    assert_eq!((&dry["schemaVersion"], &dry["written"]), (&2.into(), &false.into()), "{dry}");
    assert_eq!((dry["tags"].as_array().unwrap().len(), tags()), (3, second.clone()));
    user.run("multiarch", &["rollback", &image]).exits(0);
    assert_eq!(tags(), first);
    // Rolled back by the journal, nothing is left for the report; and the other way round.
    user.run("xtask", &["rollback", "w/report.json"]).exits(0).prints_nothing();
    release();
    let other = user_with_spec("");
    let report = fs::read_to_string(user.path("w/report.json")).unwrap();
    other.write("report.json", &report);
    other.run("multiarch", &["rollback", "report.json"]).exits(0);
    assert_eq!(tags(), first);
    release();
    user.run("xtask", &["rollback", "w/report.json"]).exits(0);
    assert_eq!(tags(), first);
    user.run("multiarch", &["rollback", &image]).exits(3).assert_stderr_contains("the push created the tag");
    assert_eq!(tags(), first);
}

#[test]
fn a_tag_that_another_client_moved_during_the_release_is_not_overwritten() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let other = crate::samples::Image::new("linux/amd64", "another release");
    other.publish(&registry, "team/app", "other");
    // Between plan and publication, while the images are built.
    let wait = "touch began; while ! test -e go; do sleep 0.02; done";
    let user = user_with_spec(&(spec(&image) + &format!("prepare: [[sh, -c, \"{wait}\"]]\n")));
    let release = |args: &[&str]| {
        drop(fs::remove_file(user.path("app/began")));
        drop(fs::remove_file(user.path("app/go")));
        let mut release =
            world::Proc::spawn(user.command("xtask", &[&["release", "app/release.yaml"], args].concat()));
        assert!(release.wait_until(Duration::from_secs(20), |_| user.path("app/began").exists()));
        registry.set_tag("team/app", "latest", other.digest());
        user.write("app/go", "");
        let status = release.wait(Duration::from_secs(20)).unwrap();
        (status.code(), release.stderr())
    };
    let (code, said) = release(&[]);
    assert_eq!(code, Some(8), "{said}");
    assert!(said.contains("it was not there when the release began"), "{said}");
    assert_eq!(registry.tag("team/app", "latest").as_deref(), Some(other.digest()));
    let (code, said) = release(&["--force"]);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(registry.tag("team/app", "latest").as_deref(), Some(other.digest()));
}

#[test]
fn a_release_with_to_has_the_same_digest() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec("oci:out"));
    let here = user.release(&["app/release.yaml"]).exits(0);
    assert!(here.line().starts_with("oci:app/out@"), "an image's path is relative to the spec: {here}");
    let to = user.release(&["app/release.yaml", "--to", "oci:elsewhere"]).exits(0);
    assert!(to.line().starts_with("oci:elsewhere@"), "an argument's path is relative to the shell: {to}");
    let image = format!("{}/team/app", registry.host());
    let up = user.release(&["app/release.yaml", "--to", &image]).exits(0);
    assert_eq!((digest_of(&here), digest_of(&here)), (digest_of(&to), digest_of(&up)));
    assert_eq!(registry.tag("team/app", "1.0").as_deref(), Some(digest_of(&up)));
}

/// `--to` is a repository or layout; the tags are those of the spec.
#[test]
fn a_tag_in_to_is_refused() {
    let user = user_with_spec(&spec("oci:out"));
    for to in ["127.0.0.1:1/team/app:other", "oci:elsewhere:other"] {
        let ran = user.release(&["app/release.yaml", "--to", to]);
        assert!(matches!(ran.code, Some(2 | 3)), "{ran}");
        assert!(ran.stderr.contains("tag"), "{ran}");
        assert!(!user.path("elsewhere").exists());
    }
}
