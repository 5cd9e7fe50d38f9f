//! Errors, after which the table is unchanged unless a test says otherwise.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use binfmt_setup::emulators::Machine;

use crate::world::{TABLE, User, World, run_command, world, world_of_all_users, world_with};

/// Asserts the exit code, a part of the message, and that the table is unchanged.
fn refused(world: &World, arguments: &[&str], code: i32, word: &str) {
    let before = world.snapshot();
    world.run(arguments).exits(code).reports(word);
    assert_eq!(world.snapshot(), before, "{arguments:?}");
}

#[test]
fn a_missing_emulator_is_refused_with_and_without_flag_f() {
    let Some(world) = world(User::Caller) else { return };
    for flags in ["F", "P", ""] {
        let arguments = ["register", "--emulator", "arm=/nonexistent/qemu", "--flags", flags];
        refused(&world, &arguments, 5, "/nonexistent/qemu");
    }
    refused(&world, &["register", "arm", "--emulator-dir", "/nonexistent"], 5, "arm in /nonexistent");
    refused(&world, &["register", "all", "--emulator-dir", "/nonexistent"], 5, "/nonexistent");
}

#[test]
fn files_that_are_not_emulators_are_refused_before_the_kernel_gets_them() {
    let Some(world) = world(User::Caller) else { return };
    let directory = world.directory.path().to_owned();
    let put = |name: &str, bytes: &[u8], mode: u32| {
        fs::write(directory.join(name), bytes).unwrap();
        fs::set_permissions(directory.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    put("script", b"#!/bin/sh\nexec \"$@\"\n", 0o755);
    put("empty", b"", 0o755);
    put("text", b"hello", 0o755);
    put("foreign", &Machine::by_name("s390x").unwrap().probe(), 0o755);
    put("noexec", &fs::read("/usr/bin/qemu-arm-static").unwrap(), 0o644);
    put("open", &fs::read("/usr/bin/qemu-arm-static").unwrap(), 0o757);
    std::os::unix::fs::symlink("loop", directory.join("loop")).unwrap();
    for (name, code, word) in [
        ("script", 3, "a script"),
        ("empty", 3, "an empty file"),
        ("text", 3, "not an ELF executable"),
        ("", 3, "not a regular file"),
        ("foreign", 3, "another machine"),
        ("noexec", 4, "chmod +x"),
        ("open", 4, "chmod go-w"),
        ("loop", 9, "loop"),
        ("script/x", 3, "script/x"),
    ] {
        let emulator = format!("arm={}", directory.join(name).display());
        refused(&world, &["register", "--emulator", &emulator], code, word);
    }
    refused(&world, &["register", "--emulator", "arm=usr/bin/qemu-arm-static"], 3, "relative");
    refused(&world, &["register", "--emulator", "arm=/usr/bin/qemu-s390x-static"], 3, "emulates s390x");
}

#[test]
fn programs_of_the_host_never_get_an_emulator() {
    let Some(world) = world(User::Caller) else { return };
    refused(&world, &["register", "x86_64"], 3, "use an emulator for x86_64: this CPU runs its programs");
    refused(
        &world,
        &["register", "linux/arm64", "--emulator", "amd64=/usr/bin/qemu-x86_64-static"],
        3,
        "x86_64",
    );
    world.run(&["register", "linux/amd64", "linux/386"]).succeeds();
    world.run(&["register", "all"]).succeeds();
    assert!(!world.entries().iter().any(|name| name == "qemu-x86_64" || name == "qemu-i386"));
    world.shell("true").succeeds();
}

#[test]
fn a_disabled_table_is_reported_before_anything_is_written() {
    let Some(world) = world(User::Caller) else { return };
    world.shell(&format!("echo 0 > {TABLE}/status")).succeeds();
    refused(&world, &["register", "arm"], 9, "binfmt_misc is disabled");
    let status = world.run(&["status", "--format", "json"]).succeeds().json();
    assert_eq!((&status["mounted"], &status["enabled"]), (&true.into(), &false.into()));
    assert!(world.run(&["status"]).stdout.contains("binfmt_misc is disabled"));
}

#[test]
fn a_disabled_handler_is_reported_and_enabled_again() {
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    world.shell(&format!("echo 0 > {TABLE}/qemu-arm")).succeeds();
    let status = world.run(&["status", "--format", "json"]).succeeds().json();
    assert_eq!(status["entries"][0]["runs"], false);
    assert!(status["entries"][0]["reason"].as_str().unwrap().contains("disabled"));
    assert!(world.run(&["register", "arm"]).succeeds().stdout.contains("enabled"));
    world.run(&["probe", "arm"]).succeeds();
}

#[test]
fn a_colon_in_the_path_is_not_a_separator() {
    let Some(world) = world(User::Caller) else { return };
    let emulator = world.copy_of_emulator("arm", "a:b|c");
    world.run(&["register", "--emulator", &format!("arm={}", emulator.display())]).succeeds();
    assert!(world.entry("qemu-arm").contains(&format!("interpreter {}\n", emulator.display())));
}

#[test]
fn a_path_that_would_forge_lines_is_refused() {
    let Some(world) = world(User::Caller) else { return };
    for name in ["a\nflags: F", "esc\x1b[2J", "tab\tname"] {
        let emulator = world.copy_of_emulator("arm", name);
        let refused = world.run(&["register", "--emulator", &format!("arm={}", emulator.display())]);
        refused.exits(3).reports("control character");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        assert!(!refused.stderr.contains('\x1b'));
    }
    assert!(world.entries().is_empty());
}

#[test]
fn names_that_are_not_machines_reach_no_file() {
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    world.write(b":WSLInterop:M::MZ::/init:P");
    world.write(b":qemu-riscv64:M::\\x7fELFxyz::/opt/other/qemu-riscv64:");
    for name in ["*", "-1", "status", "register", "WSLInterop", "../status", "qemu-*", "", "qemu-nothing"] {
        refused(&world, &["unregister", "--", name], 3, "cannot");
    }
    for name in ["*", "status", "../x", "a\nb"] {
        refused(&world, &["register", name], 3, "cannot parse platform");
    }
    // A handler of another program is not removed by its machine or by `all`, but by its own name.
    refused(&world, &["unregister", "linux/riscv64"], 8, "unregister qemu-riscv64");
    world.run(&["unregister", "all"]).succeeds();
    assert_eq!(world.entries(), ["WSLInterop", "qemu-riscv64"]);
    world.run(&["unregister", "qemu-riscv64"]).succeeds();
    assert_eq!(world.entries(), ["WSLInterop"]);
    assert_eq!(fs::read_to_string(world.table().join("status")).unwrap(), "enabled\n");
}

#[test]
fn without_privileges_the_table_is_unchanged_and_the_reason_is_reported() {
    let Some(world) = world(User::Caller) else { return };
    // A user who is not root inside. This requires all ids inside, which only root has.
    if nix::unistd::geteuid().is_root() {
        let program = world.program();
        let mut command = std::process::Command::new(&program);
        command.args(["run", "--platform", "s390x", "--", "setpriv", "--reuid=65534", "--clear-groups"]);
        run_command(command.arg(&program).args(["register", "arm"])).exits(4).reports("not permitted");
    }
    // Root inside, without the capability to mount.
    let Some(unmounted) = world_with(User::Caller, &format!("mount -t tmpfs none {TABLE}")) else { return };
    let program = unmounted.program();
    let as_unprivileged =
        format!("setpriv --bounding-set=-all --inh-caps=-all {} register arm", program.display());
    unmounted.shell(&format!("{as_unprivileged} || exit $?")).exits(4).reports("not allowed to mount");
}

#[test]
fn a_table_that_is_not_mounted_is_mounted_and_kept() {
    let Some(world) = world_with(User::Caller, &format!("mount -t tmpfs none {TABLE}")) else { return };
    let status = world.run(&["status", "--format", "json"]).succeeds().json();
    assert_eq!((&status["mounted"], &status["entries"]), (&false.into(), &serde_json::json!([])));
    assert!(world.run(&["register", "--dry-run", "arm"]).succeeds().stderr.contains("would be mounted"));
    assert!(world.run(&["unregister", "arm"]).succeeds().stdout.contains("nothing to do"));
    assert_eq!(world.run(&["status", "--format", "json"]).succeeds().json()["mounted"], false);
    // A platform that the CPU runs requires no table.
    if std::env::consts::ARCH == "x86_64" {
        world.run(&["register", "linux/amd64"]).succeeds();
        assert_eq!(world.run(&["status", "--format", "json"]).succeeds().json()["mounted"], false);
    }
    world.run(&["register", "arm"]).succeeds();
    assert_eq!(world.entries(), ["qemu-arm"]);
    world.run(&["probe", "arm"]).succeeds();
}

#[test]
fn a_read_only_mount_is_reported() {
    let Some(world) = world(User::Caller) else { return };
    world.shell(&format!("mount -o remount,ro {TABLE}")).succeeds();
    refused(&world, &["register", "arm"], 9, "mounted read-only");
    world.run(&["status"]).succeeds();
}

#[test]
fn control_characters_in_names_do_not_reach_the_terminal() {
    let Some(world) = world(User::Caller) else { return };
    world.write(b"|a\nb|M||AAAA||/x\nflags: F|");
    world.write(b":\x1b[31mred:M::BBBB::/y\x1b]0;title\x07:");
    world.write(b":\xff\xfe:E::jar::/usr/bin/jar:");
    let status = world.run(&["status"]);
    let text = &status.succeeds().stdout;
    assert!(!text.contains('\x1b') && text.contains("\\u{1b}[31mred") && text.contains("a\\nb"), "{text}");
    let status = world.run(&["status", "--format", "json"]);
    assert!(!status.stdout.contains(['\x1b', '\x07']), "{}", status.stdout);
    let json = status.succeeds().json();
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    let forged = entries.iter().find(|entry| entry["name"] == "a\nb").unwrap();
    assert_eq!((&forged["flags"], &forged["runs"]), (&"".into(), &().into()), "{forged}");
    assert_eq!(forged["interpreter"], "/x\nflags: F");
}

#[test]
fn credentials_require_an_emulator_that_only_root_can_change() {
    let Some(world) = world(User::Caller) else { return };
    refused(&world, &["register", "arm", "--flags", "CF"], 2, "--credentials");
    let open = world.directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let emulator = world.copy_of_emulator("arm", "open/qemu-arm");
    let emulator = format!("arm={}", emulator.display());
    refused(&world, &["register", "--emulator", &emulator, "--credentials"], 4, "written by other users");
    if nix::unistd::geteuid().is_root() {
        // A file of another user, who has no id inside the namespace.
        let theirs = world.copy_of_emulator("arm", "theirs");
        nix::unistd::chown(&theirs, Some(12345.into()), None).unwrap();
        let emulator = format!("arm={}", theirs.display());
        refused(
            &world,
            &["register", "--emulator", &emulator, "--credentials"],
            4,
            "does not belong to root",
        );
        let allowed = world.run(&["register", "arm", "--credentials"]);
        assert!(allowed.succeeds().stderr.contains("QEMU_LOG_FILENAME"), "{allowed:?}");
        assert!(world.entry("qemu-arm").contains("flags: POCF\n"));
    }
}

#[test]
fn an_emulator_of_another_user_is_not_registered_for_everybody() {
    let Some(world) = world_of_all_users("") else { return };
    let directory = world.directory.path().to_owned();
    let own =
        |name: &str, user: u32| nix::unistd::chown(&directory.join(name), Some(user.into()), None).unwrap();
    let register = |path: &str| {
        let emulator = format!("arm={}", directory.join(path).display());
        world.run(&["register", "--replace", "--emulator", &emulator])
    };
    let belongs = |step: &str| format!("{} belongs to user 1234", directory.join(step).display());
    fs::create_dir_all(directory.join("theirs/inner")).unwrap();
    fs::create_dir(directory.join("links")).unwrap();
    world.copy_of_emulator("arm", "theirs/inner/qemu-arm");
    world.copy_of_emulator("arm", "qemu-arm");
    std::os::unix::fs::symlink(directory.join("qemu-arm"), directory.join("theirs/link")).unwrap();
    std::os::unix::fs::symlink("../theirs/link", directory.join("links/link")).unwrap();

    own("qemu-arm", 1234);
    let inner = directory.join("theirs/inner");
    for arguments in [vec!["arm"], vec!["arm", "--dry-run"], vec!["all"], vec!["arm", "--persist"]] {
        let dir = directory.to_str().unwrap();
        let arguments = [&["register", "--emulator-dir", dir][..], &arguments].concat();
        world.run(&arguments).exits(4).reports(&belongs("qemu-arm"));
    }
    own("qemu-arm", 0);
    own("theirs", 1234);
    for path in ["theirs/inner/qemu-arm", "theirs/link", "links/link"] {
        register(path).exits(4).reports(" belongs to user 1234, who could run any code as every user");
        assert_eq!(world.entries(), [""; 0], "{path}");
    }
    world
        .run(&["register", "arm", "--emulator-dir", inner.to_str().unwrap()])
        .exits(4)
        .reports(&belongs("theirs"));
    // A private table is used by the caller only.
    let inner = inner.to_str().unwrap();
    world.run(&["run", "--platform", "arm", "--emulator-dir", inner, "--dry-run", "--", "true"]).succeeds();
    // The way out.
    let copy = format!("install -m 755 {inner}/qemu-arm {}/", world.writable_dir().display());
    world.shell(&copy).succeeds();
    register("writable/qemu-arm").succeeds();
    assert_eq!(world.entries(), ["qemu-arm"]);
    own("theirs", 0);
    register("links/link").succeeds();
}

#[test]
fn after_an_emulator_does_not_work_the_old_one_is_restored() {
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    let before = world.snapshot();
    // Dynamically linked, and not an emulator.
    let refused = world.run(&["register", "s390x", "--emulator", "arm=/usr/bin/env", "--replace"]);
    refused.exits(9).reports("the previous state was restored");
    assert!(
        refused.stderr.contains("linked dynamically") || refused.stderr.contains("does not work"),
        "{refused:?}"
    );
    assert_eq!(world.snapshot(), before);
    world.run(&["probe", "arm"]).succeeds();
}

#[test]
fn an_emulator_replaced_on_disk_is_stale_until_registered_again() {
    let Some(world) = world(User::Caller) else { return };
    let emulator = world.copy_of_emulator("arm", "qemu-arm");
    let emulator_arg = format!("arm={}", emulator.display());
    world.run(&["register", "--emulator", &emulator_arg]).succeeds();
    let newer = world.copy_of_emulator("arm", "newer");
    fs::rename(newer, &emulator).unwrap();
    let entry = &world.run(&["status", "--format", "json"]).succeeds().json()["entries"][0];
    assert_eq!(entry["runs"], true);
    assert!(entry["reason"].as_str().unwrap().starts_with("stale"), "{entry}");
    // The entry is the same, so --replace is not required.
    assert!(world.run(&["register", "--emulator", &emulator_arg]).succeeds().stdout.contains("replaced"));
    let entry = &world.run(&["status", "--format", "json"]).succeeds().json()["entries"][0];
    assert_eq!(entry["reason"], serde_json::Value::Null);
    fs::remove_file(&emulator).unwrap();
    let entry = &world.run(&["status", "--format", "json"]).succeeds().json()["entries"][0];
    assert_eq!((&entry["runs"], &entry["owner"]), (&true.into(), &"binfmt-setup".into()));
    assert!(entry["reason"].as_str().unwrap().contains("not on this disk"), "{entry}");
    assert!(entry["version"].as_str().unwrap().starts_with("qemu-arm version"), "{entry}");
}

#[test]
fn an_entry_that_another_one_shadows_is_reported() {
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    let line = world.run(&[
        "register",
        "--dry-run",
        "--emulator",
        "arm=/usr/bin/qemu-arm-static",
        "--replace",
        "--flags",
        "F",
    ]);
    let line = line
        .succeeds()
        .stdout
        .lines()
        .next()
        .unwrap()
        .split(' ')
        .find(|word| word.starts_with(':'))
        .unwrap()
        .to_owned();
    world.write(line.replace(":qemu-arm:", ":another:").as_bytes());
    let status = world.run(&["status", "--format", "json"]).succeeds().json();
    let of = |name: &str| {
        status["entries"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone()
    };
    assert_eq!(of("another")["runs"], true);
    assert!(of("qemu-arm")["reason"].as_str().unwrap().contains("shadowed by another"));
    // A new handler that shadows an entry of another name is reported.
    world.run(&["unregister", "arm"]).succeeds();
    assert!(world.run(&["register", "arm"]).succeeds().stderr.contains("takes precedence over another"));
}

#[test]
fn an_entry_of_debian_for_the_same_emulator_is_kept() {
    let Some(world) = world(User::Caller) else { return };
    let Ok(line) = fs::read("/usr/lib/binfmt.d/qemu-aarch64.conf") else {
        return crate::world::skip("Debian's qemu-user-static is not installed");
    };
    world.write(&line);
    let again = world.run(&["register", "linux/arm64"]);
    assert_eq!(again.succeeds().stdout, "nothing to do\n");
    assert_eq!(world.run(&["status", "--format", "json"]).json()["entries"][0]["owner"], "systemd");
    refused(&world, &["unregister", "linux/arm64"], 8, "it was not registered by binfmt-setup");
}

/// Processor time of the children of this test that have ended, in milliseconds.
fn processor_time() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    let milliseconds = |time: nix::sys::time::TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    milliseconds(usage.user_time()) + milliseconds(usage.system_time())
}

#[test]
fn two_thousand_entries_of_other_programs_cost_little_time() {
    let Some(world) = world(User::Caller) else { return };
    world
        .shell(&format!(
            "i=0; while [ $i -lt 2000 ]; do printf ':e%d:M::MAGIC%d::/bin/true:' $i $i > {TABLE}/register; i=$((i+1)); done"
        ))
        .succeeds();
    // Processor time, probes included: other tests use the same processors.
    let before = processor_time();
    let status = world.run(&["status", "--format", "json"]).succeeds().json();
    let time = processor_time() - before;
    assert_eq!(status["entries"].as_array().unwrap().len(), 2000);
    assert!(time < 1000, "{time} ms");
    world.run(&["register", "arm"]).succeeds();
    world.run(&["unregister", "all"]).succeeds();
    assert_eq!(world.entries().len(), 2000);
}

#[test]
fn every_error_is_one_line_and_with_json_an_object() {
    let Some(world) = world(User::Caller) else { return };
    let failed = world.run(&["register", "nonsense", "--format", "json"]);
    failed.exits(3).reports("nonsense");
    assert_eq!(failed.stderr.lines().count(), 1);
    let error = &failed.json()["error"];
    assert_eq!(error["exit"], 3);
    assert!(error["message"].as_str().unwrap().contains("nonsense"));
    world.run(&["register"]).exits(2);
    world.run(&["register", "--no-such-flag"]).exits(2);
    // The usage fits on a screen; examples and exit codes follow it.
    let help = world.run(&["-h"]);
    let lines = help.succeeds().stdout.lines().take_while(|line| *line != "Examples:").count();
    assert!(lines <= 30, "{lines} lines before the examples are more than a screen");
}

#[test]
fn the_table_of_the_host_is_not_written_from_another_user_namespace() {
    let Some(world) = world(User::Caller) else { return };
    // The namespace of the test is the host: process 1 has its table. Root of an inner namespace may write it.
    let host = |command: &str| {
        let script = format!(
            "mount -t proc proc /proc; mount -t binfmt_misc b {TABLE}; unshare --user --map-root-user {} {command} || exit $?",
            world.program().display()
        );
        world.shell(&format!("unshare --pid --fork --mount sh -ec '{script}' || exit $?"))
    };
    host("register arm").exits(4).reports("belongs to the host");
    host("unregister all").exits(4).reports("belongs to the host");
    assert!(world.entries().is_empty());
    assert_eq!(host("status --format json").succeeds().json()["private"], false);
    let inside = host(&format!("run --platform s390x -- {} probe s390x", world.program().display()));
    assert!(inside.succeeds().stdout.contains("qemu-s390x"));
    assert!(world.entries().is_empty());
}

#[test]
fn a_registered_handler_that_does_not_work_is_an_error() {
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    // A broken emulator of another program takes precedence for the same programs.
    let line = world.run(&["register", "--dry-run", "s390x", "--flags", "F"]).succeeds().stdout.clone();
    let line = line.trim_end().strip_prefix("register ").unwrap().replace("qemu-s390x-static", "false");
    world.write(line.replace(":qemu-s390x:", ":broken:").as_bytes());
    world.run(&["register", "arm"]).succeeds();
    let arm = world.entry("qemu-arm");
    let pattern =
        |word: &str| arm.lines().find_map(|line| line.strip_prefix(word)).unwrap().trim().to_owned();
    let hex = |digits: String| {
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| format!("\\x{}", String::from_utf8_lossy(pair)))
            .collect::<String>()
    };
    let line = format!(":worse:M:0:{}:{}:/usr/bin/false:F", hex(pattern("magic")), hex(pattern("mask")));
    world.write(line.as_bytes());
    refused(&world, &["register", "arm"], 9, "worse takes precedence over its handler");
    let failed = world.run(&["register", "arm", "s390x", "--format", "json"]);
    assert_eq!(failed.exits(9).json()["error"]["exit"], 9);
    for command in [&["probe", "nonsense"][..], &["run", "--platform", "nonsense", "--", "true"]] {
        refused(&world, command, 3, "nonsense");
    }
}
