//! Fixes of an image in a registry: writes, requests, output.

use super::{REPOSITORY, Rig};
use crate::samples::Index;
use crate::tools::run;

#[test]
fn an_image_in_a_registry_is_fixed_and_all_other_bytes_are_preserved() {
    let rig = Rig::new();
    rig.fix(&[])
        .exits(0)
        .prints(rig.right.digest())
        .assert_stderr_contains("declared platform linux/amd64 -> linux/arm/v7");
    assert_eq!(rig.digest_of_tag("arm32v7").as_deref(), Some(rig.right.digest()));
    let config = rig.registry.blob(REPOSITORY, &rig.right.config_digest()).unwrap();
    assert_eq!(String::from_utf8(config).unwrap(), rig.right.config);
    let (_, manifest) = rig.registry.manifest(REPOSITORY, "arm32v7").unwrap();
    assert_eq!(manifest, rig.right.document.bytes());
    rig.assert_sound();
}

/// Seven: manifest and config (2), upload of the new config (2), HEAD, PUT and GET of the tag (3). Two concurrent ones
/// look for referrers and signature tags of the old image.
#[test]
fn a_fix_in_a_registry_is_nine_requests_and_no_layer_moves() {
    let rig = Rig::new();
    rig.fix(&[]).exits(0);
    let mut requests = rig.requests();
    let (config, upload) = (place(&requests, "GET old config 200"), place(&requests, "POST upload 202"));
    assert_eq!(config.min(upload) + 1, config.max(upload), "concurrent: {requests:?}");
    for meanwhile in ["GET old manifest 404", "GET list 200", "GET old config 200", "POST upload 202"] {
        requests.remove(place(&requests, meanwhile));
    }
    let expected =
        ["GET arm32v7 200", "PUT upload 201", "HEAD arm32v7 200", "PUT arm32v7 201", "GET arm32v7 200"];
    assert_eq!(requests, expected);
    assert_eq!(rig.registry.open_uploads(), 0);
}

fn place(requests: &[String], request: &str) -> usize {
    requests.iter().position(|one| one == request).unwrap_or_else(|| panic!("no {request}: {requests:?}"))
}

#[test]
fn a_second_fix_has_nothing_to_do_and_cancels_its_upload() {
    let rig = Rig::new();
    rig.fix(&[]).exits(0);
    rig.registry.take_log();
    rig.fix(&[]).exits(0).prints(rig.right.digest()).assert_stderr_contains("all platforms are correct");
    let mut methods: Vec<String> = rig.registry.log().into_iter().map(|l| l.method).collect();
    methods.sort();
    assert_eq!(methods, ["DELETE", "GET", "GET", "POST"]);
    assert_eq!(rig.registry.open_uploads(), 0);
    for option in ["--check", "--dry-run"] {
        rig.registry.take_log();
        rig.fix(&[option]).exits(0);
        assert_eq!(rig.registry.log().iter().map(|l| l.method.as_str()).collect::<Vec<_>>(), ["GET", "GET"]);
    }
}

#[test]
fn check_sets_the_exit_code_and_writes_nothing() {
    let rig = Rig::new();
    let ran = rig.fix(&["--check"]).exits(1);
    assert_eq!(ran.stdout, "");
    let json = rig.fix(&["--check", "--format", "json"]).exits(1).json();
    assert_eq!((&json["changed"], &json["written"]), (&true.into(), &false.into()));
    assert_eq!(json["images"][0]["newPlatform"]["variant"], "v7");
    rig.assert_nothing_written();
    rig.fix(&[]).exits(0);
    rig.registry.take_log();
    rig.fix(&["--check"]).exits(0);
    assert!(rig.registry.log().iter().all(|l| l.method == "GET"));
}

#[test]
fn a_dry_run_prints_every_write_and_makes_none() {
    let rig = Rig::new();
    let ran = rig.fix(&["--dry-run"]).exits(0).prints(rig.right.digest());
    let said = format!("{}:arm32v7  was {}", rig.image("").trim_end_matches(':'), rig.wrong.digest());
    assert!(ran.stderr.contains(&said) && ran.stderr.contains(&rig.right.config_digest()), "{ran}");
    rig.assert_nothing_written();
    let json = rig.fix(&["--dry-run", "--format", "json"]).exits(0).json();
    assert_eq!((&json["changed"], &json["written"]), (&true.into(), &false.into()));
    rig.assert_nothing_written();
}

#[test]
fn json_has_old_and_new_digests() {
    let rig = Rig::new();
    let json = rig.fix(&["--format", "json"]).exits(0).json();
    let expected = serde_json::json!({
        "schemaVersion": 2, "changed": true, "written": true, "was": rig.wrong.digest(), "now": rig.right.digest(),
        "images": [{
            "indexPlatform": null,
            "declaredPlatform": {"architecture": "amd64", "os": "linux"},
            "newPlatform": {"architecture": "arm", "os": "linux", "variant": "v7"},
            "config": {"was": rig.wrong.config_digest(), "now": rig.right.config_digest()},
            "manifest": {"was": rig.wrong.digest(), "now": rig.right.digest()},
        }],
        "referrers": [], "signatureTags": [], "notes": [],
        "writes": {
            "blobs": [{"digest": rig.right.config_digest(), "size": rig.right.config.len()}],
            "manifests": [],
            "tags": [{
                "image": format!("{}/{REPOSITORY}", rig.registry.host()), "tag": "arm32v7",
                "was": rig.wrong.digest(), "now": rig.right.digest(),
            }],
            "bytes": rig.right.config.len() + rig.right.document.bytes().len(),
        },
    });
    assert_eq!(json, expected);
    let again = rig.fix(&["--format", "json"]).exits(0).json();
    assert_eq!((&again["changed"], &again["written"]), (&false.into(), &false.into()));
    assert_eq!((&again["was"], &again["now"]), (&rig.right.digest().into(), &rig.right.digest().into()));
    let json =
        rig.user.config_patcher(&["inspect", &rig.image("arm32v7"), "--format", "json"]).exits(0).json();
    assert_eq!(json["images"][0]["declaredPlatform"]["architecture"], "arm");
    assert_eq!(json["images"][0]["layers"][0]["digest"], rig.wrong.layer_digest());
    let json = rig.user.config_patcher(&["inspect", &rig.image("no"), "--format", "json"]).exits(5).json();
    assert_eq!(json["error"]["exit"], 5);
}

#[test]
fn other_tags_can_be_moved_instead() {
    let rig = Rig::new();
    rig.fix(&["--tag", "fixed", "--tag", "v7"]).exits(0).prints(rig.right.digest());
    assert_eq!(rig.digest_of_tag("arm32v7").as_deref(), Some(rig.wrong.digest()));
    for tag in ["fixed", "v7"] {
        assert_eq!(rig.digest_of_tag(tag).as_deref(), Some(rig.right.digest()));
    }
    rig.assert_sound();
}

#[test]
fn an_image_given_by_digest_is_fixed_without_a_tag() {
    let rig = Rig::new();
    let image = format!("{}/{REPOSITORY}@{}", rig.registry.host(), rig.wrong.digest());
    let ran = rig.user.config_patcher(&["fix", &image, "--set-platform", "linux/arm/v7"]).exits(0);
    assert_eq!(ran.line(), rig.right.digest());
    assert!(rig.registry.manifest(REPOSITORY, rig.right.digest()).is_some());
    assert_eq!(rig.registry.tags(REPOSITORY), ["arm32v7"]);
    assert_eq!(rig.digest_of_tag("arm32v7").as_deref(), Some(rig.wrong.digest()));
}

#[test]
fn every_kind_of_invalid_request_has_its_exit_code() {
    let rig = Rig::new();
    let index = Index::of(&[("linux/amd64", &rig.wrong), ("linux/arm/v7", &rig.right)]);
    index.publish(&rig.registry, REPOSITORY, "latest");
    let fix = |image: &str, args: &[&str]| rig.user.config_patcher(&[&["fix", image], args].concat());
    let platform = ["--set-platform", "linux/arm/v7"];
    fix(&rig.image("no"), &platform).exits(5);
    fix(&format!("{}/team/none:1", rig.registry.host()), &platform).exits(5);
    fix("Not/Valid", &platform).exits(2);
    fix(&rig.image("arm32v7"), &["--set-platform", "arm/v99"]).exits(2);
    fix(&rig.image("arm32v7"), &[]).exits(2);
    fix(&rig.image("arm32v7"), &["--from-index"]).exits(3).assert_stderr_contains("--set-platform");
    fix(&rig.image("latest"), &platform).exits(3).assert_stderr_contains("an index of 2 platforms");
    let member = ["--platform", "linux/s390x", "--set-platform", "linux/arm/v7"];
    fix(&rig.image("latest"), &member).exits(5).assert_stderr_contains("it has linux/amd64, linux/arm/v7");
    fix("oci:none:1", &platform).exits(5);
    fix("docker-archive:none.tar", &platform).exits(5);
    fix("oci-archive:none.tar", &platform).exits(5);
    let mut without_docker =
        rig.user.command("config-patcher", &["fix", "docker-daemon:none", "--set-platform", "linux/arm/v7"]);
    without_docker.env("MULTIARCH_DOCKER", "/no/such/docker");
    run(without_docker).exits(5).assert_stderr_contains("is not installed");
    fix("127.0.0.1:1/a/b:1", &platform).exits(6);
    rig.user.config_patcher(&["fix"]).exits(2);
    rig.assert_nothing_written();
}
