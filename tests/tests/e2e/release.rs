//! Releases from a clean directory to a published index, reruns, and releases elsewhere.

use crate::tools::{Ran, User, listing, program, run};
use image_store::check::{CheckDepth, check};
use image_store::store::Pointer;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::{need, world};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

mod bases;
mod disasters;
mod failed;
mod installed;
mod only;
mod refused;
mod sandbox;
mod tags;
mod work_dir;

/// The digest of the example, on every machine and at any time.
///
/// It changes with the example's programs and spec, and with the bytes that flate2 compresses to: when one of these
/// was changed on purpose, use the digest that `cargo xtask release` prints. Otherwise the release is no longer
/// reproducible.
const EXAMPLE_DIGEST: &str = "sha256:6bdc79894c2ba158a5d5516d1b250a56b6fdf6136d71a544cf67efe2f01d3559";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/multi-arch-example")
}

/// A user with a copy of the example in a directory of this name.
fn user_with_example(dir: &str) -> User {
    let user = User::new();
    user.has_cargo_xtask();
    let to = user.path(dir);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(example()).unwrap() {
        let from = entry.unwrap().path();
        // Directories are output (dist) and Docker Hub's hooks.
        if from.is_file() {
            fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
    }
    user
}

fn digest_of(ran: &Ran) -> &str {
    ran.line().split_once('@').unwrap().1
}

/// A blob of a layout, read without code of this project.
fn blob(layout: &Path, descriptor: &Descriptor) -> Vec<u8> {
    let (algorithm, hex) = descriptor.digest().as_ref().split_once(':').unwrap();
    let bytes = fs::read(layout.join("blobs").join(algorithm).join(hex)).unwrap();
    assert_eq!(bytes.len() as u64, descriptor.size());
    bytes
}

/// The index under `latest`, as the oci-spec crate reads it.
fn index_of(layout: &Path) -> ImageIndex {
    let top = ImageIndex::from_file(layout.join("index.json")).unwrap();
    let latest = |entry: &&Descriptor| {
        let annotations = entry.annotations().as_ref();
        annotations
            .is_some_and(|all| all.get("org.opencontainers.image.ref.name").is_some_and(|v| v == "latest"))
    };
    let entry = top.manifests().iter().find(latest).unwrap();
    ImageIndex::from_reader(blob(layout, entry).as_slice()).unwrap()
}

/// Platforms of the index as `OS/ARCHITECTURE[/VARIANT]`, each found in its config too.
fn platforms_of(layout: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in index_of(layout).manifests() {
        let platform = entry.platform().as_ref().unwrap();
        let manifest = ImageManifest::from_reader(blob(layout, entry).as_slice()).unwrap();
        let config = blob(layout, manifest.config());
        let config = ImageConfiguration::from_reader(config.as_slice()).unwrap();
        assert_eq!((config.os(), config.architecture()), (platform.os(), platform.architecture()));
        assert_eq!(config.variant(), platform.variant(), "{entry:?}");
        assert_eq!(config.rootfs().diff_ids().len(), manifest.layers().len());
        for layer in manifest.layers() {
            blob(layout, layer);
        }
        let variant = platform.variant().as_ref().map_or(String::new(), |variant| format!("/{variant}"));
        found.push(format!("{}/{}{variant}", platform.os(), platform.architecture()));
    }
    found
}

/// Three images of one file each, published to `image`. They have no command: their files are no programs.
fn spec(image: &str) -> String {
    format!(
        "image: {image}\n\
         tags: [latest, \"1.0\"]\n\
         builder: rootfs\n\
         platforms:\n\
         \x20 linux/amd64:  {{ copy: {{ amd64: /app }} }}\n\
         \x20 linux/arm/v7: {{ copy: {{ armv7: /app }}, tag: arm32v7 }}\n\
         \x20 linux/arm64:  {{ copy: {{ arm64: /app }} }}\n"
    )
}

fn user_with_spec(text: &str) -> User {
    let user = User::new();
    for file in ["amd64", "armv7", "arm64"] {
        user.write(&format!("app/{file}"), format!("the program for {file}"));
    }
    user.write("app/release.yaml", text);
    user
}

#[test]
fn the_example_is_published_to_a_valid_layout_and_a_rerun_has_nothing_to_do() {
    let user = user_with_example("example");
    let first = user.release(&["example/release.yaml", "--report", "report.json"]).exits(0);
    // Staged builds are outside of the build context.
    assert!(!user.path("example/.multiarch").exists());
    assert_eq!(first.line(), format!("oci:example/dist/multi-arch-example@{EXAMPLE_DIGEST}"));
    let layout = user.path("example/dist/multi-arch-example");
    let platforms = platforms_of(&layout);
    assert!(platforms.len() >= 8, "{platforms:?}");
    for platform in ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64", "linux/s390x"] {
        assert!(platforms.iter().any(|found| found == platform), "{platform} is not in {platforms:?}");
    }
    let store = OciLayout::open(&layout).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("latest".into()), CheckDepth::Layers), []);
    let report = fs::read_to_string(user.path("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["schemaVersion"], &report["digest"]), (&2.into(), &EXAMPLE_DIGEST.into()));
    assert_eq!(report["changed"], true);
    assert_eq!(report["platforms"].as_array().unwrap().len(), platforms.len());

    let before = listing(&layout);
    let second =
        user.release(&["example/release.yaml"]).exits(0).assert_stderr_contains("nothing to do in oci:");
    assert_eq!(digest_of(&second), EXAMPLE_DIGEST);
    assert!(listing(&layout) == before, "a second run touched the layout");
}

#[test]
fn every_program_of_the_example_runs_and_prints_its_platform() {
    need!(world::require(&["qemu-arm-static"]));
    let user = user_with_example("example");
    let ran = user.release(&["example/release.yaml", "--format", "json"]).exits(0);
    for platform in ran.json()["platforms"].as_array().unwrap() {
        let smoke = &platform["smoke"];
        assert_eq!(smoke["result"], "passed", "{platform}");
        let output = smoke["output"].as_str().unwrap();
        let architecture = platform["platform"]["architecture"].as_str().unwrap();
        assert!(output.starts_with(&format!("linux/{architecture}")), "{platform}");
    }
}

/// In another directory, with another umask, time zone, language and modification times.
#[test]
fn the_example_has_the_same_digest_elsewhere_and_at_another_time() {
    let user = user_with_example("somewhere else");
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 365);
    for entry in fs::read_dir(user.path("somewhere else")).unwrap() {
        fs::File::options().append(true).open(entry.unwrap().path()).unwrap().set_modified(epoch).unwrap();
    }
    let mut command = Command::new("sh");
    let plain = user.command("xtask", &[]);
    for (key, value) in plain.get_envs() {
        command.env(key, value.unwrap());
    }
    command
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(program("xtask"))
        .args(["release", "release.yaml", "--jobs", "7", "--work-dir", "../w"])
        .current_dir(user.path("somewhere else"))
        .envs([("TZ", "Asia/Kathmandu"), ("LANG", "tr_TR.UTF-8"), ("LC_ALL", "tr_TR.UTF-8")]);
    assert_eq!(digest_of(&run(command).exits(0)), EXAMPLE_DIGEST);
    assert!(user.path("w/report.json").is_file(), "--work-dir is used");
    assert!(!user.path("somewhere else/.multiarch").exists());
}

#[test]
fn skopeo_finds_each_platform_of_the_example() {
    need!(world::require(&["skopeo"]));
    let user = user_with_example("example");
    user.release(&["example/release.yaml", "--no-smoke"]).exits(0);
    let layout = user.path("example/dist/multi-arch-example");
    let skopeo = |args: &[&str]| {
        let mut command = Command::new(world::program("skopeo").unwrap());
        command.args(args).arg(format!("oci:{}:latest", layout.display())).env("HOME", user.work());
        run(command).exits(0).stdout
    };
    let raw = skopeo(&["inspect", "--raw"]);
    let index = ImageIndex::from_reader(raw.as_bytes()).unwrap();
    assert!(index.manifests().len() >= 8, "{raw}");
    for (architecture, variant) in [("arm", "v5"), ("arm", "v7"), ("arm64", ""), ("s390x", ""), ("386", "")] {
        let mut args = vec!["--override-os", "linux", "--override-arch", architecture];
        if !variant.is_empty() {
            args.extend(["--override-variant", variant]);
        }
        let config = skopeo(&[&args, &["inspect", "--config"][..]].concat());
        let config = ImageConfiguration::from_reader(config.as_bytes()).unwrap();
        assert_eq!(*config.architecture(), Arch::from(architecture));
        assert_eq!(config.variant().clone().unwrap_or_default(), variant);
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let user = user_with_example("example");
    let everything = user.work().parent().unwrap().to_path_buf();
    let before = listing(&everything);
    let ran = user.release(&["example/release.yaml", "--dry-run"]).exits(0);
    assert_eq!(ran.stdout, "", "a dry run has no result");
    for line in [
        "prepare   cargo xtask example-binaries",
        "build     12 images with the built-in builder rootfs",
        "linux/arm/v5    1 file to /hello  new",
        "smoke     /hello",
        ":latest  new",
    ] {
        assert!(ran.stderr.contains(line), "{ran}");
    }
    assert!(listing(&everything) == before, "a dry run changed files");

    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let before = listing(&user.work());
    user.release(&["app/release.yaml", "--dry-run"]).exits(0);
    assert!(listing(&user.work()) == before);
    assert!(registry.log().iter().all(|requests| requests.method == "HEAD"), "{:?}", registry.log());
}
