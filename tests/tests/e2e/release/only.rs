//! `--only`: builds one platform and retains the others as published.

use super::{digest_of, spec, user_with_spec};
use crate::tools::User;
use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use std::fs;

#[test]
fn only_one_platform_is_built_and_the_others_are_retained() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let first = user.release(&["app/release.yaml"]).exits(0);
    // The same file gives the same index, although two of its images were not built.
    fs::remove_file(user.path("app/amd64")).unwrap();
    user.write("app/amd64", "the program for amd64");
    let same = user.release(&["app/release.yaml", "--only", "linux/arm64", "--work-dir", "w"]).exits(0);
    assert_eq!(digest_of(&same), digest_of(&first));
    assert!(same.stderr.contains("nothing to do in"), "{same}");

    let members = |digest: &str| -> Vec<(String, String)> {
        let (_, bytes) = registry.manifest("team/app", digest).unwrap();
        let index = ImageIndex::from_reader(bytes.as_slice()).unwrap();
        let row = |entry: &Descriptor| {
            (entry.platform().as_ref().unwrap().architecture().to_string(), entry.digest().to_string())
        };
        index.manifests().iter().map(row).collect()
    };
    user.write("app/arm64", "a new program for arm64");
    let ran = user.release(&["app/release.yaml", "--only", "linux/arm64/v8"]).exits(0);
    assert!(
        ran.stderr.contains("retain    linux/amd64") && !ran.stderr.contains("built linux/amd64"),
        "{ran}"
    );
    let (before, after) = (members(digest_of(&first)), members(digest_of(&ran)));
    for (was, now) in before.iter().zip(&after) {
        assert_eq!(was.0, now.0);
        assert_eq!(was.1 != now.1, was.0 == "arm64", "only arm64 is another: {before:?} {after:?}");
    }
    registry.closure_complete("team/app", digest_of(&ran)).unwrap();
    // The plan lists the published images.
    let shown = user.release(&["app/release.yaml", "--dry-run", "--verbose"]).exits(0);
    for (_, digest) in &after {
        assert!(shown.stderr.contains(&format!("published as {digest}")), "{shown}");
    }
    // A release of all platforms gives the same index.
    let full = user.release(&["app/release.yaml"]).exits(0);
    assert_eq!(digest_of(&full), digest_of(&ran));
    user.release(&["app/release.yaml", "--only", "linux/s390x"])
        .exits(3)
        .assert_stderr_contains("it has linux/amd64, linux/arm/v7");
}

#[test]
fn only_retains_images_that_are_not_in_the_spec_and_a_full_release_removes_them() {
    let registry = FakeRegistry::start();
    let text = spec(&format!("{}/team/app", registry.host()));
    let user = user_with_spec(&text);
    user.release(&["app/release.yaml"]).exits(0);
    let architectures = || -> Vec<String> {
        let (_, bytes) = registry.manifest("team/app", "latest").unwrap();
        let index = ImageIndex::from_reader(bytes.as_slice()).unwrap();
        let architecture = |entry: &Descriptor| entry.platform().as_ref().unwrap().architecture().to_string();
        index.manifests().iter().map(architecture).collect()
    };
    let shorter: Vec<&str> = text.lines().filter(|line| !line.contains("linux/arm64")).collect();
    user.write("app/release.yaml", shorter.join("\n"));
    user.write("app/amd64", "a new program for amd64");
    let only = ["app/release.yaml", "--only", "linux/amd64"];
    user.release(&only)
        .exits(0)
        .assert_stderr_contains("retain    linux/arm64")
        .assert_stderr_contains("retain    linux/arm/v7");
    assert_eq!(architectures(), ["amd64", "arm", "arm64"]);
    // Also if all platforms of the spec are built.
    let both = [&only[..], &["--only", "linux/arm/v7"]].concat();
    user.release(&both).exits(0).assert_stderr_contains("nothing to do");
    let goes = "remove    linux/arm64: it is published, but it is not in the spec";
    let full = ["app/release.yaml", "--drop", "linux/arm64"];
    // Before anything is built.
    user.release(&full[..1])
        .exits(1)
        .assert_stderr_contains("it would lose linux/arm64")
        .assert_stderr_contains("--drop linux/arm64");
    let dry = user
        .release(&[&full[..], &["--dry-run", "--format", "json"]].concat())
        .exits(0)
        .assert_stderr_contains(goes);
    let plan = dry.json();
    assert_eq!(plan["removed"][0]["platform"]["architecture"], "arm64", "{plan}");
    assert_eq!(plan["platforms"][1]["builder"], "rootfs", "{plan}");
    assert_eq!(plan["tags"][1]["tag"], "latest", "{plan}");
    assert_eq!(plan["tags"][1]["was"].as_str(), registry.tag("team/app", "latest").as_deref());
    user.release(&full).exits(0).assert_stderr_contains(goes);
    assert_eq!(architectures(), ["amd64", "arm"]);
}

#[test]
fn only_requires_a_published_index() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let ran = user.release(&["app/release.yaml", "--only", "linux/arm64"]).exits(5);
    assert!(ran.stderr.contains("run without --only"), "{ran}");
    assert_eq!(registry.tags("team/app"), [""; 0]);
}

/// amd64 and arm64, each with its own program, in a registry.
fn published() -> (FakeRegistry, User, String) {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let user = User::new();
    user.run("xtask", &["example-binaries", "app/programs"]).exits(0);
    let rows = ["amd64", "arm64"].map(|machine| {
        format!("  linux/{machine}: {{ copy: {{ programs/linux-{machine}/hello: /hello }}, cmd: [/hello], tag: {machine} }}\n")
    });
    let text = format!("image: {image}\nbuilder: rootfs\nplatforms:\n{}", rows.concat());
    user.write("app/release.yaml", text);
    user.release(&["app/release.yaml", "--work-dir", "first"]).exits(0);
    (registry, user, image)
}

fn layer_of(registry: &FakeRegistry, tag: &str) -> String {
    let (_, bytes) = registry.manifest("team/app", tag).unwrap();
    ImageManifest::from_reader(bytes.as_slice()).unwrap().layers()[0].digest().to_string()
}

/// A retained image is verified once in a work directory.
#[test]
fn retained_images_are_verified_once() {
    let (registry, user, _) = published();
    let layer = layer_of(&registry, "amd64");
    let only = ["app/release.yaml", "--only", "linux/arm64", "--format", "json", "--work-dir"];
    let release = |work_dir: &str, planned: &str, quick: bool, is_read: bool| {
        let planned = format!("retain    linux/amd64 as published; its binaries {planned}");
        registry.take_log();
        let report =
            user.release(&[&only[..], &[work_dir]].concat()).exits(0).assert_stderr_contains(&planned).json();
        let log = registry.take_log();
        let read =
            log.iter().filter(|requests| requests.method == "GET" && requests.path.ends_with(&layer)).count();
        assert_eq!(read, usize::from(is_read), "{report}");
        let kept = report["platforms"].as_array().unwrap().last().unwrap();
        assert_eq!((&kept["builder"], &kept["platform"]["architecture"]), (&"".into(), &"amd64".into()));
        assert_eq!(
            (&kept["evidence"]["verdict"], &kept["evidence"]["quick"]),
            (&"consistent".into(), &quick.into())
        );
    };
    release("first", "were verified before", false, false);
    release("new", "are verified first", true, true);
    release("new", "were verified before", true, false);
}

/// A published image with binaries for another platform, an entry that differs from its config, a missing layer: a release of
/// another platform stops.
#[test]
fn a_retained_image_that_fails_verification_stops_the_release() {
    for (what, code, named) in [
        ("binaries", 1, "linux/arm64: /hello is for linux/amd64, layer sha256:"),
        ("config", 1, "linux/s390x: its config declares linux/arm64"),
        ("layer", 5, "sha256:"),
    ] {
        let (registry, user, image) = published();
        let tag = |tag: &str| format!("{image}:{tag}");
        match what {
            "binaries" => {
                let fix = ["fix", &tag("amd64"), "--set-platform", "linux/arm64", "--output", &tag("wrong")];
                user.config_patcher(&fix).exits(0);
                let replace = format!("linux/arm64={}", tag("wrong"));
                user.manifest_push(&["edit", &tag("latest"), "--replace", &replace]).exits(0);
            }
            "config" => {
                let (kind, bytes) = registry.manifest("team/app", "latest").unwrap();
                let text = String::from_utf8(bytes).unwrap().replace("arm64", "s390x");
                registry.put_manifest("team/app", "latest", &kind, text.as_bytes());
            }
            _ => {
                let layer = layer_of(&registry, "arm64");
                let gone = Fault::when(move |requests| requests.path.ends_with(&layer), Act::status(404));
                registry.fault(gone.forever());
            }
        }
        let was = registry.tag("team/app", "latest");
        let spec = fs::read_to_string(user.path("app/release.yaml")).unwrap();
        // Images that are not in the spec are retained as well.
        let rows: Vec<&str> = spec.lines().filter(|row| !row.contains("linux/arm64:")).collect();
        user.write("app/release.yaml", rows.join("\n").replace("cmd: [/hello]", "cmd: [/hello, again]"));
        let ran =
            user.release(&["app/release.yaml", "--only", "linux/amd64", "--work-dir", what]).exits(code);
        let ran =
            ran.assert_stderr_contains("nothing was published; build it too").assert_stderr_contains(named);
        assert_eq!(registry.tag("team/app", "latest"), was, "{ran}");
        let report = fs::read(user.path(&format!("{what}/report.json"))).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["failed"]["step"], "verify-retained", "{report}");
    }
}
