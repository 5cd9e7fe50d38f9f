//! `cargo xtask release` as a person runs it: from a clean folder to a published index, and again, and elsewhere.

use crate::tools::{Ran, User, listing, program, run};
use image_store::check::{Depth, check};
use image_store::store::Pointer;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::{need, world};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// The index of the example, whoever makes it, wherever and whenever.
///
/// It changes with the example's programs and spec, and with the bytes that flate2 compresses to: when one of these
/// was changed on purpose, take the digest that `cargo xtask release` prints. If nothing was, the release is not
/// reproducible any more.
const EXAMPLE_DIGEST: &str = "sha256:6bdc79894c2ba158a5d5516d1b250a56b6fdf6136d71a544cf67efe2f01d3559";

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/multi-arch-example")
}

/// A user with the example as it is checked out, in a folder of this name.
fn user_with_example(folder: &str) -> User {
    let user = User::new();
    user.has_cargo_xtask();
    let to = user.path(folder);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(example()).unwrap() {
        let from = entry.unwrap().path();
        // Folders are what runs leave (dist) and Docker Hub's hooks.
        if from.is_file() {
            fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
    }
    user
}

fn digest_of(ran: &Ran) -> &str {
    ran.line().split_once('@').unwrap().1
}

/// A blob of a layout, read without any of our code.
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
        let said = entry.platform().as_ref().unwrap();
        let manifest = ImageManifest::from_reader(blob(layout, entry).as_slice()).unwrap();
        let config = blob(layout, manifest.config());
        let config = ImageConfiguration::from_reader(config.as_slice()).unwrap();
        assert_eq!((config.os(), config.architecture()), (said.os(), said.architecture()));
        assert_eq!(config.variant(), said.variant(), "{entry:?}");
        assert_eq!(config.rootfs().diff_ids().len(), manifest.layers().len());
        for layer in manifest.layers() {
            blob(layout, layer);
        }
        let variant = said.variant().as_ref().map_or(String::new(), |variant| format!("/{variant}"));
        found.push(format!("{}/{}{variant}", said.os(), said.architecture()));
    }
    found
}

#[test]
fn the_example_goes_from_nothing_to_a_checked_layout_and_a_second_run_has_nothing_to_do() {
    let user = user_with_example("example");
    let first = user.release(&["example/release.yaml", "--report", "report.json"]).exits(0);
    // An engine would be sent what lies beside a Dockerfile: builds are staged elsewhere.
    assert!(!user.path("example/.multiarch").exists());
    assert_eq!(first.line(), format!("oci:example/dist/multi-arch-example@{EXAMPLE_DIGEST}"));
    let layout = user.path("example/dist/multi-arch-example");
    let platforms = platforms_of(&layout);
    assert!(platforms.len() >= 8, "{platforms:?}");
    for platform in ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64", "linux/s390x"] {
        assert!(platforms.iter().any(|found| found == platform), "{platform} is not in {platforms:?}");
    }
    let store = OciLayout::open(&layout).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("latest".into()), Depth::Layers), []);
    let report = fs::read_to_string(user.path("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["report"], &report["digest"]), (&1.into(), &EXAMPLE_DIGEST.into()));
    assert_eq!(report["changed"], true);
    assert_eq!(report["platforms"].as_array().unwrap().len(), platforms.len());

    let before = listing(&layout);
    let second = user.release(&["example/release.yaml"]).exits(0).says("nothing to do in oci:");
    assert_eq!(digest_of(&second), EXAMPLE_DIGEST);
    assert!(listing(&layout) == before, "a second run touched the layout");
}

#[test]
fn every_program_of_the_example_runs_and_says_its_platform() {
    need!(world::require(&["qemu-arm-static"]));
    let user = user_with_example("example");
    let ran = user.release(&["example/release.yaml", "--format", "json"]).exits(0);
    for platform in ran.json()["platforms"].as_array().unwrap() {
        let smoke = &platform["smoke"];
        assert_eq!(smoke["result"], "passed", "{platform}");
        let said = smoke["output"].as_str().unwrap();
        let architecture = platform["platform"]["architecture"].as_str().unwrap();
        assert!(said.starts_with(&format!("linux/{architecture}")), "{platform}");
    }
}

/// Another folder, another day, another umask, another time zone, other languages, other times on the files.
#[test]
fn the_example_has_the_same_digest_elsewhere_and_another_day() {
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

/// Three images of one file each, published to `image`.
fn spec(image: &str) -> String {
    format!(
        "image: {image}\n\
         tags: [latest, \"1.0\"]\n\
         builder: rootfs\n\
         platforms:\n\
         \x20 linux/amd64:  {{ copy: {{ amd64: /app }}, cmd: [/app] }}\n\
         \x20 linux/arm/v7: {{ copy: {{ armv7: /app }}, cmd: [/app], tag: arm32v7 }}\n\
         \x20 linux/arm64:  {{ copy: {{ arm64: /app }}, cmd: [/app] }}\n"
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
fn a_dry_run_shows_the_plan_and_changes_nothing_anywhere() {
    let user = user_with_example("example");
    let everything = user.work().parent().unwrap().to_path_buf();
    let before = listing(&everything);
    let ran = user.release(&["example/release.yaml", "--dry-run"]).exits(0);
    assert_eq!(ran.stdout, "", "a dry run has no result");
    for line in [
        "prepare   cargo xtask example-programs",
        "build     linux/arm/v5  rootfs",
        "smoke     /hello",
        ":latest  new",
    ] {
        assert!(ran.stderr.contains(line), "{ran}");
    }
    assert!(listing(&everything) == before, "a dry run left something behind");

    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let before = listing(&user.work());
    user.release(&["app/release.yaml", "--dry-run"]).exits(0);
    assert!(listing(&user.work()) == before);
    assert!(registry.log().iter().all(|asked| asked.method == "HEAD"), "{:?}", registry.log());
}

#[test]
fn tags_of_members_and_of_the_index_are_moved_in_this_order() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let ran = user.release(&["app/release.yaml"]).exits(0);
    let put: Vec<String> = registry
        .log()
        .iter()
        .filter(|asked| asked.method == "PUT" && asked.path.contains("/manifests/"))
        .map(|asked| asked.path.rsplit('/').next().unwrap().to_string())
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

#[test]
fn only_one_platform_is_built_anew_and_the_others_stay() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let first = user.release(&["app/release.yaml"]).exits(0);
    // The same file again is the same index, though two of its images were not looked at.
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
        ran.stderr.contains("keep      linux/amd64") && !ran.stderr.contains("built linux/amd64"),
        "{ran}"
    );
    let (before, after) = (members(digest_of(&first)), members(digest_of(&ran)));
    for (was, now) in before.iter().zip(&after) {
        assert_eq!(was.0, now.0);
        assert_eq!(was.1 != now.1, was.0 == "arm64", "only arm64 is another: {before:?} {after:?}");
    }
    registry.closure_complete("team/app", digest_of(&ran)).unwrap();
    // The plan says what is there already.
    let shown = user.release(&["app/release.yaml", "--dry-run"]).exits(0);
    for (_, digest) in &after {
        assert!(shown.stderr.contains(&format!("now   published as {digest}")), "{shown}");
    }
    // Built whole, it is the same index again.
    let whole = user.release(&["app/release.yaml"]).exits(0);
    assert_eq!(digest_of(&whole), digest_of(&ran));
    user.release(&["app/release.yaml", "--only", "linux/s390x"])
        .exits(3)
        .says("it has linux/amd64, linux/arm/v7");
}

#[test]
fn only_keeps_what_the_spec_does_not_name_and_a_whole_release_says_that_it_goes() {
    let registry = FakeRegistry::start();
    let text = spec(&format!("{}/team/app", registry.host()));
    let user = user_with_spec(&text);
    user.release(&["app/release.yaml"]).exits(0);
    let architectures = || -> Vec<String> {
        let (_, bytes) = registry.manifest("team/app", "latest").unwrap();
        let index = ImageIndex::from_reader(bytes.as_slice()).unwrap();
        let said = |entry: &Descriptor| entry.platform().as_ref().unwrap().architecture().to_string();
        index.manifests().iter().map(said).collect()
    };
    let shorter: Vec<&str> = text.lines().filter(|line| !line.contains("linux/arm64")).collect();
    user.write("app/release.yaml", shorter.join("\n"));
    user.write("app/amd64", "a new program for amd64");
    let only = ["app/release.yaml", "--only", "linux/amd64"];
    user.release(&only).exits(0).says("keep      linux/arm64").says("keep      linux/arm/v7");
    assert_eq!(architectures(), ["amd64", "arm", "arm64"]);
    // Also where all that the spec has is built.
    let both = [&only[..], &["--only", "linux/arm/v7"]].concat();
    user.release(&both).exits(0).says("nothing to do");
    let goes = "linux/arm64 is published and not in the spec: it goes away";
    let dry = user.release(&["app/release.yaml", "--dry-run", "--format", "json"]).exits(0).says(goes);
    let plan = dry.json();
    assert_eq!(plan["going"][0]["architecture"], "arm64", "{plan}");
    assert_eq!(plan["platforms"][1]["builder"], "rootfs", "{plan}");
    assert_eq!(plan["tags"][1]["tag"], "latest", "{plan}");
    assert_eq!(plan["tags"][1]["was"].as_str(), registry.tag("team/app", "latest").as_deref());
    user.release(&["app/release.yaml"]).exits(0).says(goes);
    assert_eq!(architectures(), ["amd64", "arm"]);
}

/// The user's story: v1, v2, v2 again, elsewhere, and then v1 is wanted back.
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
    user.release(&release).exits(0).says("nothing to do");
    user.release(&release).exits(0).says("nothing to do");
    user.release(&[&release[..], &["--to", "oci:out"]].concat()).exits(0).says("report: w/report-");
    let rollback = |args: &[&str]| user.run("xtask", &[&["rollback", "w/report.json"], args].concat());

    // The last one to be looked at is somebody else's by now, and one more.
    let other = crate::samples::Image::new("linux/amd64", "another release");
    other.publish(&registry, "team/app", "other");
    for tag in ["arm32v7", "1.0"] {
        registry.set_tag("team/app", tag, other.digest());
    }
    let was = tags();
    for args in [&[][..], &["--dry-run"]] {
        let ran = rollback(args).exits(8).says("nothing was moved");
        for tag in ["arm32v7", "1.0"] {
            let told = format!("tag {tag} names {}; the release left it at sha256:", other.digest());
            assert!(ran.stderr.contains(&told), "{ran}");
        }
        assert_eq!(tags(), was);
    }
    let forced = rollback(&["--force", "--format", "json"]).exits(0).json();
    assert_eq!(forced["tags"].as_array().unwrap().len(), 3, "{forced}");
    assert!(first != second && tags() == first, "byte for byte");
    rollback(&[]).exits(0).prints_nothing();
}

#[test]
fn only_needs_something_that_was_published() {
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    let ran = user.release(&["app/release.yaml", "--only", "linux/arm64"]).exits(5);
    assert!(ran.stderr.contains("run without --only"), "{ran}");
    assert_eq!(registry.tags("team/app"), [""; 0]);
}

#[test]
fn it_goes_elsewhere_by_to_and_has_the_same_digest() {
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

/// `--to` names a place; which tags are set there, the spec says.
#[test]
fn a_tag_in_to_is_refused_and_not_forgotten() {
    let user = user_with_spec(&spec("oci:out"));
    for to in ["127.0.0.1:1/team/app:other", "oci:elsewhere:other"] {
        let ran = user.release(&["app/release.yaml", "--to", to]);
        assert!(matches!(ran.code, Some(2 | 3)), "{ran}");
        assert!(ran.stderr.contains("tag"), "{ran}");
        assert!(!user.path("elsewhere").exists());
    }
}

#[test]
fn a_wrong_spec_is_told_at_once_line_by_line_and_nothing_is_written() {
    let text = spec("oci:out")
        .replace("armv7: /app", "missing: /app")
        .replace("tags:", "tag:")
        .replace("linux/arm64:", "linux/arm:")
        .replace("builder: rootfs", "builder: rootfss");
    let user = user_with_spec(&text);
    let before = listing(&user.work());
    let ran = user.release(&["app/release.yaml"]).exits(3);
    for problem in [
        "app/release.yaml:2: release.yaml has no key \"tag\"; did you mean \"tags\"?",
        "app/release.yaml:3: there is no builder \"rootfss\"; did you mean rootfs?",
        "app/release.yaml:6: there is no \"app/missing\" to copy",
        "app/release.yaml:7: platform linux/arm is the same as linux/arm/v7 on line 6",
    ] {
        assert!(ran.stderr.contains(problem), "{problem}: {ran}");
    }
    let json = user.release(&["app/release.yaml", "--format", "json"]).exits(3).json();
    assert_eq!(json["error"]["exit"], 3);
    assert!(json["error"]["problems"].as_array().unwrap().len() >= 4, "{json}");
    assert!(listing(&user.work()) == before, "nothing is written");
    user.release(&["app/no.yaml"]).exits(5);
    user.release(&["app"]).exits(3);
}

#[test]
fn a_file_that_prepare_should_have_made_stops_the_release_before_anything_leaves() {
    let registry = FakeRegistry::start();
    let text = spec(&format!("{}/team/app", registry.host())) + "prepare: [[rm, armv7]]\n";
    let user = user_with_spec(&text);
    let ran = user.release(&["app/release.yaml"]).exits(5);
    assert!(ran.stderr.contains("armv7"), "{ran}");
    assert!(registry.log().iter().all(|asked| asked.method == "HEAD"), "{:?}", registry.log());
    let text = spec(&format!("{}/team/app", registry.host())) + "prepare: [[\"false\"]]\n";
    let user = user_with_spec(&text);
    user.release(&["app/release.yaml"]).exits(1).says("prepare with \"false\"").says("nothing was published");
    assert_eq!(registry.tags("team/app"), [""; 0]);
}

#[test]
fn of_two_releases_in_one_work_folder_one_wins_and_the_other_says_so() {
    let wait = "touch began; while ! test -e go; do sleep 0.02; done";
    let user = user_with_spec(&(spec("oci:out") + &format!("prepare: [[sh, -c, \"{wait}\"]]\n")));
    let first = world::Proc::spawn(user.command("xtask", &["release", "app/release.yaml"]));
    let until = Instant::now() + Duration::from_secs(20);
    while !user.path("app/began").exists() {
        assert!(Instant::now() < until, "{}", first.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    user.release(&["app/release.yaml"]).exits(8).says("another release is using it");
    user.write("app/go", "");
    let mut first = first;
    let status = first.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{}", first.stderr());
    user.release(&["app/release.yaml"]).exits(0).says("nothing to do");
}

#[test]
fn a_failed_smoke_test_stops_the_release_and_nothing_is_published() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let user = User::new();
    user.run("xtask", &["example-programs", "app/programs"]).exits(0);
    let text = |smoke: &str| {
        format!(
            "image: {image}\nsmoke: [{smoke}]\nplatforms:\n  linux/amd64: {{ copy: {{ programs/linux-amd64/hello: /hello }} }}\n"
        )
    };
    user.write("app/release.yaml", text("/absent"));
    let ran = user.release(&["app/release.yaml"]);
    if ran.stderr.contains("not run on this host") {
        world::Skip::because("no private namespaces on this host").report();
        return;
    }
    let ran = ran.exits(1);
    assert!(ran.stderr.contains("nothing was published"), "{ran}");
    assert!(ran.stderr.contains("linux/amd64: \"/absent\" is not in the image\n"), "{ran}");
    assert!(!ran.stderr.contains("exit status"), "of our own helper: {ran}");
    user.write("app/release.yaml", text("/tmp"));
    user.release(&["app/release.yaml"]).exits(1).says("linux/amd64: \"/tmp\" is not executable");
    assert!(registry.log().iter().all(|asked| asked.method == "HEAD"), "{:?}", registry.log());
    user.release(&["app/release.yaml", "--no-smoke", "--dry-run"]).exits(0);
    user.write("app/release.yaml", text("/hello"));
    user.release(&["app/release.yaml"]).exits(0).says("smoke linux/amd64: passed");
    // What was run is not run again; another command is.
    let again = user.release(&["app/release.yaml", "--verbose"]).exits(0);
    assert!(again.stderr.contains("smoke linux/amd64: passed, in an earlier run"), "{again}");
    assert!(again.stderr.contains("binaries linux/amd64: consistent, as an earlier run found"), "{again}");
    user.write("app/release.yaml", text("/hello, again"));
    user.release(&["app/release.yaml"]).exits(0).says("smoke linux/amd64: passed in");
    assert!(registry.tag("team/app", "latest").is_some());
}

/// The accident that emulation hides: the build for arm64 copied the program that was made for amd64.
#[test]
fn binaries_of_another_platform_stop_the_release_and_nothing_is_published() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let user = User::new();
    user.run("xtask", &["example-programs", "app/programs"]).exits(0);
    let text = |arm64: &str| {
        format!(
            "image: {image}\nplatforms:\n  linux/amd64: {{ copy: {{ programs/linux-amd64/hello: /hello }}, cmd: [/hello] }}\n  \
             linux/arm64: {{ copy: {{ programs/{arm64}/hello: /app/hello }}, cmd: [/app/hello] }}\n"
        )
    };
    user.write("app/release.yaml", text("linux-amd64"));
    let ran = user.release(&["app/release.yaml"]).exits(1);
    for named in
        ["linux/arm64: mislabelled", "/app/hello is for linux/amd64, layer sha256:", "nothing was published"]
    {
        assert!(ran.stderr.contains(named), "{named}: {ran}");
    }
    assert_eq!(ran.stdout, "");
    assert!(registry.log().iter().all(|asked| asked.method == "HEAD"), "{:?}", registry.log());
    user.write("app/release.yaml", text("linux-arm64"));
    let report = user.release(&["app/release.yaml", "--format", "json"]).exits(0).json();
    for platform in report["platforms"].as_array().unwrap() {
        assert_eq!(platform["evidence"]["verdict"], "consistent", "{platform}");
    }
}

#[test]
fn a_tag_that_somebody_else_moved_meanwhile_is_left_alone() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let other = crate::samples::Image::new("linux/amd64", "another release");
    other.publish(&registry, "team/app", "other");
    // Between plan and publication: while the images are made.
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
    assert!(said.contains("it named nothing when the release began"), "{said}");
    assert_eq!(registry.tag("team/app", "latest").as_deref(), Some(other.digest()));
    let (code, said) = release(&["--force"]);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(registry.tag("team/app", "latest").as_deref(), Some(other.digest()));
}
