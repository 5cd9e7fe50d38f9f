//! Foreign programs really run, for root and for nobody; and what `probe`, `run` and `status` say is true.

use std::process::Command;

use binfmt_setup::emulators::MACHINES;

use crate::world::{Ended, User, ended, skip, world, world_with};

/// Without a world around it: `run` makes its own.
fn tool(user: User, arguments: &[&str]) -> Option<Ended> {
    let folder = world(user)?;
    let program = folder.program();
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
    let program = folder.program().to_str().unwrap().to_owned();
    let arguments = arguments.iter().map(|argument| argument.replace("TOOL", &program));
    Some(ended(command.args(arguments).current_dir("/")))
}

fn found_emulators() -> Vec<&'static str> {
    let is_there = |qemu: &&str| std::path::Path::new(&format!("/usr/bin/qemu-{qemu}-static")).exists();
    MACHINES.iter().map(|machine| machine.qemu).filter(is_there).collect()
}

#[test]
fn each_machine_that_debian_ships_an_emulator_for_runs_its_program() {
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
fn a_command_in_run_gets_its_arguments_and_gives_its_exit_status() {
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
fn root_keeps_every_id_inside_and_nobody_has_one() {
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
        // runc takes the one line of all ids for the initial namespace, and fails.
        assert_ne!(run.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    }
}

#[test]
fn run_registers_what_was_asked_for_and_no_more() {
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
    // A root folder with nothing in it but a program of another machine: the probe, named as a person would.
    let root = world.room().join("rootfs");
    std::fs::create_dir(&root).unwrap();
    let machine = binfmt_setup::emulators::Machine::by_name("aarch64").unwrap();
    std::fs::write(root.join("hello"), machine.probe()).unwrap();
    std::fs::set_permissions(root.join("hello"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"])
        .arg(world.program());
    let run = ended(
        command.args(["run", "--platform", "linux/arm64", "--", "chroot"]).arg(&root).arg("/hello").arg("x"),
    );
    // The program writes argv[0] and what follows it on the stack, and ends with 40 + argc.
    run.exits(42);
    assert!(run.stdout.starts_with("/hello\0x\0"), "{run:#?}");
}

#[test]
fn probe_fails_for_what_was_asked_and_does_not_run() {
    let Some(world) = world(User::Caller) else { return };
    let report = world.tool(&["probe", "--format", "json", "linux/arm/v7", "linux/amd64"]);
    let report = report.exits(1).json();
    assert_eq!(report["platforms"][0]["platform"], "linux/arm/v7");
    assert_eq!(report["platforms"][0]["runs"], false);
    assert_eq!(report["platforms"][0]["reason"], "no binfmt_misc handler is registered for it");
    assert_eq!(report["platforms"][1]["how"], "native");
    world.tool(&["probe"]).succeeds();
    world.tool(&["register", "-q", "linux/arm/v7"]).succeeds();
    let report = world.tool(&["probe", "--format", "json", "linux/arm/v7"]).succeeds().json();
    assert_eq!(report["platforms"][0]["entry"], "qemu-arm");
}

#[test]
fn an_older_cpu_model_runs_the_older_platforms_only() {
    let Some(world) = world(User::Caller) else { return };
    world.tool(&["register", "arm"]).succeeds();
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
        let report = ended(&mut command).json();
        let found: Vec<bool> = report["platforms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["runs"].as_bool().unwrap())
            .collect();
        assert_eq!(found, runs, "{model}: {report:#}");
        // The machine has its entry, and that is not enough for this platform.
        let mut command = world.command(world.program());
        let registered = ended(command.env("QEMU_CPU", model).args(["register", "linux/arm/v7"]));
        registered.exits(if runs[2] { 0 } else { 9 });
    }
}

#[test]
fn the_policy_that_forbids_is_named() {
    let Some(world) = world_with(
        User::Caller,
        "echo 0 > /proc/sys/user/max_user_namespaces; mount -t binfmt_misc b /proc/sys/fs/binfmt_misc",
    ) else {
        return;
    };
    world.tool(&["run", "--", "true"]).exits(4).says("user.max_user_namespaces is 0");
}

#[test]
fn a_command_that_is_not_there_is_not_found() {
    let Some(run) = tool(User::Nobody, &["run", "--platform", "linux/arm64", "--", "/no/such/command"])
    else {
        return;
    };
    run.exits(5).says("/no/such/command");
}

#[test]
fn a_namespace_that_lost_its_table_is_recognised() {
    // Mounted once and unmounted again: entries of the parent are seen no more, and neither are any others.
    let Some(world) = world(User::Caller) else { return };
    world.tool(&["register", "arm"]).succeeds();
    let program = world.program();
    let poisoned = world.shell(&format!(
        "unshare -Urm --propagation private sh -ec 'mount -t binfmt_misc b /mnt; umount /mnt; {} status --format json'",
        program.display()
    ));
    let entry = &poisoned.succeeds().json()["entries"][0];
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
fn each_level_of_amd64_needs_a_cpu_of_that_level() {
    let Some(world) = world(User::Caller) else { return };
    let qemu = "/usr/bin/qemu-x86_64-static";
    if !std::path::Path::new(qemu).exists() {
        return skip("no QEMU that plays older x86-64 models");
    }
    let names = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"];
    // QEMU's own translator knows no AVX-512.
    for (model, runs) in [("qemu64", 1), ("Nehalem", 2), ("Haswell", 3), ("max", 3)] {
        for (level, name) in names.iter().enumerate() {
            let program = world.room().join("program");
            let target = binfmt_setup::emulators::Target::parse(name).unwrap();
            std::fs::write(&program, target.file()).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let ended = ended(Command::new(qemu).args(["-cpu", model]).arg(&program));
            // argc is 1; without an exit code it was killed, by SIGILL.
            let wanted = (level < runs).then_some(41);
            assert_eq!(ended.code, wanted, "{name} on {model}: {ended:?}");
        }
    }
}

#[test]
fn a_probe_cleans_up_after_itself_and_after_the_killed() {
    let Some(world) = world(User::Caller) else { return };
    let left = world.room().join("binfmt-probe-0123");
    let script = format!(
        "mkdir -p {left}; touch {left}/probe; touch -d '1 hour ago' {left}; mkdir {left}-young; TMPDIR={room} {tool} probe",
        left = left.display(),
        room = world.room().display(),
        tool = world.program().display()
    );
    world.shell(&script).succeeds();
    let names: Vec<_> =
        std::fs::read_dir(world.room()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["binfmt-probe-0123-young"]);
}

#[test]
fn somebody_without_rights_probes_in_a_namespace_of_his_own() {
    // On the machine as it is: native programs run, and the folder for them is entered without being root.
    let Some(world) = world(User::Nobody) else { return };
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    let report =
        ended(command.args(nobody).arg(world.program()).args(["probe", "--format", "json", "linux/amd64"]));
    assert_eq!(report.succeeds().json()["platforms"][0]["how"], "native");
    // Root keeps every id in its namespace, so that there is a nobody in there.
    let mut command = Command::new(world.program());
    command.args(["run", "--platform", "s390x", "--", "setpriv"]).args(nobody).arg(world.program());
    let report = ended(command.args(["probe", "--format", "json", "s390x"]));
    assert_eq!(report.succeeds().json()["platforms"][0]["entry"], "qemu-s390x");
}
