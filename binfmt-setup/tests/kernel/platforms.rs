//! Execution of programs of other machines, as root and as nobody, and the output of `probe`, `run` and `status`.

use std::process::Command;

use binfmt_setup::emulators::MACHINES;

use crate::world::{RunResult, User, run_command, skip, world, world_with};

/// Runs the program outside of the test namespace: `run` creates its own.
fn tool(user: User, arguments: &[&str]) -> Option<RunResult> {
    let world = world(user)?;
    let program = world.program();
    let mut command = match user {
        User::Caller => Command::new(program),
        User::Nobody => {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"])
                .arg(program);
            command
        }
    };
    let program = world.program().to_str().unwrap().to_owned();
    let arguments = arguments.iter().map(|argument| argument.replace("TOOL", &program));
    Some(run_command(command.args(arguments).current_dir("/")))
}

fn found_emulators() -> Vec<&'static str> {
    let is_there = |qemu: &&str| std::path::Path::new(&format!("/usr/bin/qemu-{qemu}-static")).exists();
    MACHINES.iter().map(|machine| machine.qemu).filter(is_there).collect()
}

#[test]
fn every_machine_with_an_emulator_of_debian_runs_its_program() {
    for user in [User::Caller, User::Nobody] {
        let Some(run) = tool(user, &["run", "--", "TOOL", "probe", "--format", "json"]) else { continue };
        let report = run.succeeds().json();
        let platforms = report["platforms"].as_array().unwrap();
        let runs = |name: &str| platforms.iter().any(|row| row["platform"] == name && row["runs"] == true);
        for machine in MACHINES.iter().filter(|machine| found_emulators().contains(&machine.qemu)) {
            for name in
                machine.platforms().chain(machine.platform_programs.is_empty().then_some(machine.name))
            {
                assert!(runs(name), "{name} as {user:?}: {run:#?}");
            }
        }
        assert!(platforms.iter().any(|row| row["how"] == "emulated"), "{run:#?}");
        assert!(platforms.iter().any(|row| row["how"] == "native"), "{run:#?}");
    }
}

#[test]
fn run_passes_arguments_and_exit_status() {
    for user in [User::Caller, User::Nobody] {
        let Some(run) = tool(user, &["run", "--", "sh", "-c", "echo \"$1\"; id -u; exit 37", "sh", "a b"])
        else {
            continue;
        };
        run.exits(37);
        assert_eq!(run.stdout, "a b\n0\n");
    }
}

#[test]
fn root_has_all_ids_inside_and_nobody_has_one() {
    for (user, count) in [(User::Caller, 4_294_967_295_u64), (User::Nobody, 1)] {
        let Some(run) = tool(user, &["run", "--", "cat", "/proc/self/uid_map"]) else { continue };
        let own_map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        if user == User::Caller && !(nix::unistd::geteuid().is_root() && own_map.contains(&count.to_string()))
        {
            skip("the test does not run as root of the machine");
            continue;
        }
        let ids: u64 = run
            .succeeds()
            .stdout
            .lines()
            .map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(ids, count, "{run:#?}");
        // With one line for all ids, runc assumes the initial namespace and fails.
        assert_ne!(run.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    }
}

#[test]
fn run_registers_the_requested_platforms_only() {
    let arguments = ["run", "--platform", "linux/arm64", "--platform", "linux/amd64", "--platform", "s390x"];
    let Some(run) =
        tool(User::Nobody, &[&arguments[..], &["--", "TOOL", "status", "--format", "json"]].concat())
    else {
        return;
    };
    let status = run.succeeds().json();
    let names: Vec<&str> =
        status["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["qemu-s390x", "qemu-aarch64"]);
    assert_eq!(status["private"], true);
    for entry in status["entries"].as_array().unwrap() {
        assert_eq!(
            (&entry["runs"], &entry["owner"], &entry["reason"]),
            (&true.into(), &"binfmt-setup".into(), &().into())
        );
        assert!(entry["version"].as_str().unwrap().contains("version"), "{entry}");
    }
}

#[test]
fn a_foreign_chroot_works_as_nobody() {
    let Some(world) = world(User::Nobody) else { return };
    // A root directory with only a program of another machine.
    let root = world.writable_dir().join("rootfs");
    std::fs::create_dir(&root).unwrap();
    let machine = binfmt_setup::emulators::Machine::by_name("aarch64").unwrap();
    std::fs::write(root.join("hello"), machine.probe()).unwrap();
    std::fs::set_permissions(root.join("hello"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"])
        .arg(world.program());
    let run = run_command(
        command.args(["run", "--platform", "linux/arm64", "--", "chroot"]).arg(&root).arg("/hello").arg("x"),
    );
    // The program writes argv[0] and the bytes after it on the stack, and exits with 40 + argc.
    run.exits(42);
    assert!(run.stdout.starts_with("/hello\0x\0"), "{run:#?}");
}

#[test]
fn probe_fails_if_a_requested_platform_does_not_run() {
    let Some(world) = world(User::Caller) else { return };
    let report = world.run(&["probe", "--format", "json", "linux/arm/v7", "linux/amd64"]);
    let report = report.exits(1).json();
    assert_eq!(report["platforms"][0]["platform"], "linux/arm/v7");
    assert_eq!(report["platforms"][0]["runs"], false);
    assert_eq!(report["platforms"][0]["reason"], "no binfmt_misc handler is registered for it");
    assert_eq!(report["platforms"][1]["how"], "native");
    world.run(&["probe"]).succeeds();
    world.run(&["register", "-q", "linux/arm/v7"]).succeeds();
    let report = world.run(&["probe", "--format", "json", "linux/arm/v7"]).succeeds().json();
    assert_eq!(report["platforms"][0]["entry"], "qemu-arm");
}

#[test]
fn an_older_cpu_model_runs_the_older_platforms_only() {
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    for (model, runs) in [
        ("sa1110", [false, false, false, false]),
        ("arm926", [true, false, false, false]),
        ("arm1176", [true, true, false, false]),
        ("cortex-a15", [true, true, true, false]),
        ("max", [true, true, true, true]),
    ] {
        let mut command = world.command(world.program());
        command.env("QEMU_CPU", model).args(["probe", "--format", "json"]);
        command.args(["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8"]);
        let report = run_command(&mut command).json();
        let found: Vec<bool> = report["platforms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["runs"].as_bool().unwrap())
            .collect();
        assert_eq!(found, runs, "{model}: {report:#}");
        // The machine has a handler, which is not enough for this platform.
        let mut command = world.command(world.program());
        let registered = run_command(command.env("QEMU_CPU", model).args(["register", "linux/arm/v7"]));
        registered.exits(if runs[2] { 0 } else { 9 });
    }
}

#[test]
fn the_setting_that_forbids_namespaces_is_reported() {
    let Some(world) = world_with(
        User::Caller,
        "echo 0 > /proc/sys/user/max_user_namespaces; mount -t binfmt_misc b /proc/sys/fs/binfmt_misc",
    ) else {
        return;
    };
    world.run(&["run", "--", "true"]).exits(4).reports("user.max_user_namespaces is 0");
}

#[test]
fn a_missing_command_is_not_found() {
    let Some(run) = tool(User::Nobody, &["run", "--platform", "linux/arm64", "--", "/no/such/command"])
    else {
        return;
    };
    run.exits(5).reports("/no/such/command");
}

#[test]
fn a_namespace_that_lost_its_table_is_reported() {
    // After a mount and an unmount, the kernel uses neither the entries of the parent nor any others.
    let Some(world) = world(User::Caller) else { return };
    world.run(&["register", "arm"]).succeeds();
    let program = world.program();
    let status = world.shell(&format!(
        "unshare -Urm --propagation private sh -ec 'mount -t binfmt_misc b /mnt; umount /mnt; {} status --format json'",
        program.display()
    ));
    let entry = &status.succeeds().json()["entries"][0];
    assert_eq!(
        (&entry["name"], &entry["enabled"], &entry["runs"]),
        (&"qemu-arm".into(), &true.into(), &false.into())
    );
    assert!(
        entry["reason"].as_str().unwrap().contains("its user namespace had another one before"),
        "{entry}"
    );
}

#[test]
fn each_level_of_amd64_requires_a_cpu_of_that_level() {
    let Some(world) = world(User::Caller) else { return };
    let qemu = "/usr/bin/qemu-x86_64-static";
    if !std::path::Path::new(qemu).exists() {
        return skip("no QEMU that emulates older x86-64 models");
    }
    let names = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"];
    // QEMU does not emulate AVX-512.
    for (model, runs) in [("qemu64", 1), ("Nehalem", 2), ("Haswell", 3), ("max", 3)] {
        for (level, name) in names.iter().enumerate() {
            let program = world.writable_dir().join("program");
            let target = binfmt_setup::emulators::Target::parse(name).unwrap();
            std::fs::write(&program, target.file()).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let ended = run_command(Command::new(qemu).args(["-cpu", model]).arg(&program));
            // argc is 1. There is no exit code if it was killed by SIGILL.
            let wanted = (level < runs).then_some(41);
            assert_eq!(ended.code, wanted, "{name} on {model}: {ended:?}");
        }
    }
}

#[test]
fn a_probe_removes_its_directory_and_those_of_killed_processes() {
    let Some(world) = world(User::Caller) else { return };
    let left = world.writable_dir().join("binfmt-probe-0123");
    let script = format!(
        "mkdir -p {left}; touch {left}/probe; touch -d '1 hour ago' {left}; mkdir {left}-new; TMPDIR={room} {tool} probe",
        left = left.display(),
        room = world.writable_dir().display(),
        tool = world.program().display()
    );
    world.shell(&script).succeeds();
    let names: Vec<_> =
        std::fs::read_dir(world.writable_dir()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["binfmt-probe-0123-new"]);
}

#[test]
fn an_unprivileged_user_probes_in_a_new_namespace() {
    // On the host: native programs run, and their directory is entered without root.
    let Some(world) = world(User::Nobody) else { return };
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    let report = run_command(command.args(nobody).arg(world.program()).args([
        "probe",
        "--format",
        "json",
        "linux/amd64",
    ]));
    assert_eq!(report.succeeds().json()["platforms"][0]["how"], "native");
    // Root has all ids in its namespace, so that nobody exists there.
    let mut command = Command::new(world.program());
    command.args(["run", "--platform", "s390x", "--", "setpriv"]).args(nobody).arg(world.program());
    let report = run_command(command.args(["probe", "--format", "json", "s390x"]));
    assert_eq!(report.succeeds().json()["platforms"][0]["entry"], "qemu-s390x");
}
