//! No platform disappears from a tag unless the command line names it (`--drop`).

use super::*;

/// A registry whose tag `latest` has four platforms, and a tag `three` without arm64.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.push(&[]).exits(0);
    let members = MEMBERS[..3].iter().map(|(_, platform)| *platform).zip(&rig.images);
    let members: Vec<(&str, &Image)> = members.collect();
    Index::of(&members).publish(&rig.registry, REPOSITORY, "three");
    rig
}

/// Runs a command that would lose linux/arm64 from `latest`: it is refused and changes nothing; with `--drop` it succeeds.
#[track_caller]
fn check(rig: &Rig, name: &str, run: impl Fn(&[&str]) -> Ran) {
    let before = rig.digest_of_tag("latest").unwrap();
    let arm64 = rig.images[3].digest().to_string();
    let writes = || {
        let log = rig.registry.take_log();
        log.iter().filter(|line| !matches!(line.method.as_str(), "GET" | "HEAD")).count()
    };
    writes();
    for options in [&[][..], &["--force"], &["--dry-run"], &["--drop", "linux/s390x"]] {
        let refused = run(options).exits(1);
        assert_eq!(
            (rig.digest_of_tag("latest").unwrap(), writes()),
            (before.clone(), 0),
            "{name} {options:?}"
        );
        refused.assert_stderr_contains(&format!("drops   linux/arm64/v8 ({arm64})")).assert_stderr_contains(
            &format!("would lose linux/arm64/v8 ({arm64}); if that is intended, add --drop linux/arm64/v8"),
        );
    }
    // `arm64` and `arm64/v8` are one platform.
    let done = run(&["--drop", "linux/arm64", "--format", "json"]).exits(0).json();
    assert_eq!(done["tags"][0]["drops"][0]["manifest"], arm64.as_str(), "{name}: {done}");
    assert_ne!(rig.digest_of_tag("latest").unwrap(), before, "{name}");
    // Afterwards nothing is lost, so nothing must be named.
    run(&["--drop", "linux/arm64"]).exits(0);
    run(&[]).exits(0);
}

#[test]
fn push_from_spec_and_from_arguments_name_the_platform() {
    let rig = Rig::new();
    rig.push(&[]).exits(0);
    let spec = rig.spec.split("  - image: ").take(4).collect::<Vec<_>>().join("  - image: ");
    rig.user.write("three.yaml", spec);
    check(&rig, "from-spec", |more| {
        rig.user.manifest_push(&[&["push", "from-spec", "three.yaml"], more].concat())
    });
    rig.push(&[]).exits(0);
    let template = format!("{}/{REPOSITORY}:ARCHVARIANT", rig.registry.host());
    for (arch, image) in [("amd64", 0), ("armv5", 1), ("armv7", 2)] {
        rig.images[image].publish(&rig.registry, REPOSITORY, arch);
    }
    let target = rig.name("latest");
    check(&rig, "from-args", |more| {
        let platforms = "linux/amd64,linux/arm/v5,linux/arm/v7";
        let words =
            ["push", "from-args", "--platforms", platforms, "--template", &template, "--target", &target];
        rig.user.manifest_push(&[&words[..], more].concat())
    });
}

#[test]
fn drafts_copies_and_edits_name_the_platform() {
    let rig = rig();
    let (latest, three) = (rig.name("latest"), rig.name("three"));
    let members: Vec<String> = MEMBERS[..3].iter().map(|(tag, _)| rig.name(tag)).collect();
    let create: Vec<&str> =
        ["create", &latest].into_iter().chain(members.iter().map(String::as_str)).collect();
    rig.user.manifest_push(&create).exits(0);
    check(&rig, "push of a draft", |more| rig.user.manifest_push(&[&["push", &latest], more].concat()));

    let four: Vec<(&str, &Image)> = MEMBERS.iter().map(|(_, platform)| *platform).zip(&rig.images).collect();
    Index::of(&four).publish(&rig.registry, REPOSITORY, "latest");
    check(&rig, "copy", |more| rig.user.manifest_push(&[&["copy", &three, &latest], more].concat()));

    // An edit names the platforms that it removes.
    Index::of(&four).publish(&rig.registry, REPOSITORY, "latest");
    let s390x = Image::new("linux/s390x", "another");
    s390x.publish(&rig.registry, REPOSITORY, "s390x");
    let remove = ["edit", &latest, "--remove", "linux/arm64"];
    rig.user.manifest_push(&[&remove[..], &["--add", &rig.name("s390x")]].concat()).exits(0);
    rig.assert_sound();
}

#[test]
fn the_image_for_one_platform_does_not_replace_that_for_another_one() {
    let rig = Rig::new();
    let (amd64, arm64) = (rig.name("amd64"), rig.name("arm64v8"));
    rig.user.manifest_push(&["copy", &amd64, &rig.name("one")]).exits(0);
    let other = rig.user.manifest_push(&["copy", &arm64, &rig.name("one")]).exits(1);
    other.assert_stderr_contains(&format!("would lose linux/amd64 ({})", rig.images[0].digest()));
    rig.user.manifest_push(&["copy", &arm64, &rig.name("one"), "--drop", "linux/amd64"]).exits(0);
    // A new image for the same platform.
    let new = Image::new("linux/arm64", "new");
    new.publish(&rig.registry, REPOSITORY, "new");
    rig.registry.take_log();
    rig.user.manifest_push(&["copy", &rig.name("new"), &rig.name("one")]).exits(0);
    // The tag is read, and the config of the single image that it refers to; nothing else is new.
    let of_config = |path: &str| path.ends_with(&rig.images[3].config_digest());
    assert_eq!(rig.registry.count("GET", of_config), 1, "{:#?}", rig.registry.log());
}

#[test]
fn the_entry_of_an_absent_member_and_a_local_store_count_as_well() {
    let rig = rig();
    rig.registry.delete_manifest(REPOSITORY, rig.images[3].digest());
    let latest = rig.name("latest");
    let refused = rig.user.manifest_push(&["copy", &rig.name("three"), &latest]).exits(1);
    refused.assert_stderr_contains("would lose linux/arm64/v8");
    // A layout and an archive.
    let rig = self::rig();
    for store in ["oci:out:v1", "oci-archive:out.tar:v1"] {
        rig.user.manifest_push(&["copy", &rig.name("latest"), store]).exits(0);
        let refused = rig.user.manifest_push(&["copy", &rig.name("three"), store]).exits(1);
        refused.assert_stderr_contains("would lose linux/arm64/v8");
        rig.user.manifest_push(&["copy", &rig.name("three"), store, "--drop", "linux/arm64"]).exits(0);
    }
}

#[test]
fn a_fix_that_is_written_to_another_tag_names_the_platform() {
    let rig = rig();
    let wrong = Image::new("linux/amd64", "mislabeled");
    wrong.publish(&rig.registry, REPOSITORY, "wrong");
    let fix = ["fix", &rig.name("wrong"), "--set-platform", "linux/s390x"];
    for to in [["--tag", "amd64"], ["--output", &rig.name("amd64")]] {
        let before = rig.digest_of_tag("amd64");
        let refused = rig.user.config_patcher(&[&fix[..], &to].concat()).exits(1);
        refused.assert_stderr_contains("would lose linux/amd64");
        assert_eq!(rig.digest_of_tag("amd64"), before);
        rig.user.config_patcher(&[&fix[..], &to, &["--drop", "linux/amd64"]].concat()).exits(0);
        rig.images[0].publish(&rig.registry, REPOSITORY, "amd64");
    }
    // The tag that is fixed gets the platform that was requested.
    rig.user.config_patcher(&fix).exits(0);
}

/// The option takes what the message prints, also of a platform that no engine knows.
#[test]
fn an_unknown_platform_is_dropped_by_the_printed_option() {
    let rig = Rig::new();
    Index::of(&[("linux/amd64", &rig.images[0]), ("linux/toy9", &rig.images[1])]).publish(
        &rig.registry,
        REPOSITORY,
        "odd",
    );
    Index::of(&[("linux/amd64", &rig.images[0])]).publish(&rig.registry, REPOSITORY, "even");
    let copy = ["copy", &rig.name("even"), &rig.name("odd")];
    let refused = rig.user.manifest_push(&copy).exits(1);
    let option = refused.stderr.trim_end().rsplit_once("add ").unwrap().1;
    assert_eq!(option, "--drop linux/toy9");
    let words: Vec<&str> = option.split(' ').collect();
    rig.user.manifest_push(&[&copy[..], &words].concat()).exits(0);
}
