//! `register` and `unregister`.

use crate::world::{User, world};

#[test]
fn a_second_run_has_nothing_to_do() {
    for user in [User::Caller, User::Nobody] {
        let Some(world) = world(user) else { continue };
        world.run(&["register", "linux/arm64", "linux/arm/v7", "linux/amd64"]).succeeds();
        assert_eq!(world.entries(), ["qemu-aarch64", "qemu-arm"]);
        let before = world.snapshot();
        let again = world.run(&["register", "linux/arm64", "linux/arm/v7", "linux/amd64"]);
        assert_eq!(again.succeeds().stdout, "nothing to do\n");
        assert_eq!(world.snapshot(), before);
        world.run(&["unregister", "linux/arm64"]).succeeds();
        assert_eq!(world.entries(), ["qemu-arm"]);
        world.run(&["unregister", "all"]).succeeds();
        assert_eq!(world.run(&["unregister", "all"]).succeeds().stdout, "nothing to do\n");
        assert!(world.entries().is_empty());
    }
}

#[test]
fn a_dry_run_prints_the_line_and_writes_nothing() {
    let Some(world) = world(User::Caller) else { return };
    let dry_run = world.run(&["register", "--dry-run", "s390x"]);
    let line = dry_run.succeeds().stdout.strip_prefix("register ").unwrap().trim_end().to_owned();
    assert!(world.entries().is_empty());
    // The kernel accepts the printed line.
    world.write(line.as_bytes());
    assert_eq!(world.run(&["register", "s390x"]).succeeds().stdout, "nothing to do\n");
    let unregister = world.run(&["unregister", "--dry-run", "s390x"]);
    // The plan of `run` is for an empty table, and the command is not started.
    let run = world.run(&["run", "--dry-run", "--platform", "s390x", "--", "false"]);
    assert_eq!(run.stdout, dry_run.stdout);
    for ran in [&dry_run, &unregister, &run] {
        assert_eq!(ran.succeeds().stderr.lines().last(), Some("dry run: nothing was written"));
    }
    assert_eq!(world.entries(), ["qemu-s390x"]);
}

#[test]
fn another_emulator_requires_replace() {
    let Some(world) = world(User::Caller) else { return };
    let other = world.copy_of_emulator("arm", "my-qemu-arm");
    let other = format!("arm={}", other.display());
    world.run(&["register", "arm"]).succeeds();
    let before = world.snapshot();
    let refused = world.run(&["register", "--emulator", &other]);
    refused.exits(8).reports("--replace");
    assert_eq!(world.snapshot(), before);
    world.run(&["register", "--emulator", &other, "--replace"]).succeeds();
    assert_eq!(world.entries(), ["qemu-arm"]);
    assert!(world.entry("qemu-arm").contains("my-qemu-arm"));
    world.run(&["probe", "linux/arm/v7"]).succeeds();
}
