//! Problems that stop a release before anything is published.

use super::{spec, user_with_spec};
use crate::tools::{User, listing};
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::world;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[test]
fn all_problems_of_a_spec_are_reported_at_once_and_nothing_is_written() {
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
fn a_file_that_prepare_did_not_create_stops_the_release() {
    let registry = FakeRegistry::start();
    let text = spec(&format!("{}/team/app", registry.host())) + "prepare: [[rm, armv7]]\n";
    let user = user_with_spec(&text);
    let ran = user.release(&["app/release.yaml"]).exits(5);
    assert!(ran.stderr.contains("armv7"), "{ran}");
    assert!(registry.log().iter().all(|requests| requests.method == "HEAD"), "{:?}", registry.log());
    let text = spec(&format!("{}/team/app", registry.host())) + "prepare: [[\"false\"]]\n";
    let user = user_with_spec(&text);
    user.release(&["app/release.yaml"])
        .exits(10)
        .assert_stderr_contains("prepare with \"false\"")
        .assert_stderr_contains("nothing was published");
    assert_eq!(registry.tags("team/app"), [""; 0]);
}

#[test]
fn a_second_release_in_the_same_work_directory_is_refused() {
    let wait = "touch began; while ! test -e go; do sleep 0.02; done";
    let user = user_with_spec(&(spec("oci:out") + &format!("prepare: [[sh, -c, \"{wait}\"]]\n")));
    let first = world::Proc::spawn(user.command("xtask", &["release", "app/release.yaml"]));
    let until = Instant::now() + Duration::from_secs(20);
    while !user.path("app/began").exists() {
        assert!(Instant::now() < until, "{}", first.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    user.release(&["app/release.yaml"]).exits(8).assert_stderr_contains("another release is using it");
    user.write("app/go", "");
    let mut first = first;
    let status = first.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{}", first.stderr());
    user.release(&["app/release.yaml"]).exits(0).assert_stderr_contains("nothing to do");
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
    assert!(!ran.stderr.contains("exit status"), "the status of the supervisor is printed: {ran}");
    user.write("app/release.yaml", text("/tmp"));
    user.release(&["app/release.yaml"])
        .exits(1)
        .assert_stderr_contains("linux/amd64: \"/tmp\" is not executable");
    assert!(registry.log().iter().all(|requests| requests.method == "HEAD"), "{:?}", registry.log());
    user.release(&["app/release.yaml", "--no-smoke", "--dry-run"]).exits(0);
    user.write("app/release.yaml", text("/hello"));
    user.release(&["app/release.yaml"]).exits(0).assert_stderr_contains("smoke linux/amd64: passed");
    // A test that passed is not repeated; another command is run.
    let again = user.release(&["app/release.yaml", "--verbose"]).exits(0);
    assert!(again.stderr.contains("smoke linux/amd64: passed in an earlier run"), "{again}");
    assert!(again.stderr.contains("verify linux/amd64: consistent, from an earlier run"), "{again}");
    user.write("app/release.yaml", text("/hello, again"));
    user.release(&["app/release.yaml"]).exits(0).assert_stderr_contains("smoke linux/amd64: passed in");
    assert!(registry.tag("team/app", "latest").is_some());
}

/// A mistake that emulation hides: the build for arm64 copies the program for amd64.
#[test]
fn binaries_for_another_platform_stop_the_release() {
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
        ["linux/arm64: wrong build", "/app/hello is for linux/amd64, layer sha256:", "nothing was published"]
    {
        assert!(ran.stderr.contains(named), "{named}: {ran}");
    }
    assert_eq!(ran.stdout, "");
    // A program of macOS (mach-o/loader.h: MH_MAGIC_64, CPU_TYPE_ARM64).
    let mut program = [0xfeed_facf_u32.to_le_bytes(), 0x0100_000c_u32.to_le_bytes()].concat();
    program.resize(64, 0);
    let file = user.write("app/programs/darwin/hello", program);
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    user.write("app/release.yaml", text("darwin"));
    user.release(&["app/release.yaml"])
        .exits(1)
        .assert_stderr_contains(
            "linux/arm64: would not start: /app/hello (command, layer 0) is a program for darwin/arm64, which no Linux kernel \
             runs (layer sha256:",
        )
        .assert_stderr_contains("; build /app/hello in layer 0 for Linux, for Go with GOOS=linux")
        .assert_stderr_contains("images would not start; nothing was published")
        .assert_stderr_contains("nothing was published");
    assert!(registry.log().iter().all(|requests| requests.method == "HEAD"), "{:?}", registry.log());
    user.write("app/release.yaml", text("linux-arm64"));
    let report = user.release(&["app/release.yaml", "--format", "json"]).exits(0).json();
    for platform in report["platforms"].as_array().unwrap() {
        assert_eq!(platform["evidence"]["verdict"], "consistent", "{platform}");
    }
}

/// Ctrl-C ends what a release started, too: its signal mask and ignored signals are not inherited.
#[test]
fn commands_of_a_release_can_be_interrupted() {
    let status = "grep -E '^Sig(Blk|Ign):' /proc/self/status > signals";
    let user = user_with_spec(&(spec("oci:out") + &format!("prepare: [[sh, -c, \"{status}\"]]\n")));
    user.release(&["app/release.yaml"]).exits(0);
    let signals = std::fs::read_to_string(user.path("app/signals")).unwrap();
    // HUP, INT, PIPE, TERM, XFSZ.
    let ours = 1 << 0 | 1 << 1 | 1 << 12 | 1 << 14 | 1 << 24;
    let masks =
        signals.lines().map(|line| u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap());
    assert!(signals.lines().count() == 2 && masks.into_iter().all(|mask| mask & ours == 0), "{signals}");
}
