//! Concurrent processes that register and unregister, and programs that are started meanwhile.

use std::process::Stdio;

use binfmt_setup::emulators::Machine;

use crate::world::{TABLE, User, run_command, world};

#[test]
fn twenty_concurrent_processes_leave_no_temporary_entry() {
    let Some(world) = world(User::Caller) else { return };
    let other = world.copy_of_emulator("arm", "other-qemu-arm");
    let other = format!("arm={}", other.display());
    world.assert_private_table();
    let processes: Vec<_> = (0..20)
        .map(|i| {
            let arguments = match i % 4 {
                0 => vec!["register", "arm", "s390x"],
                1 => vec!["register", "--replace", "--emulator", &other],
                2 => vec!["unregister", "arm", "s390x"],
                _ => vec!["register", "--emulator", &other],
            };
            let mut command = world.command(world.program());
            command.args(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
            (i, command.spawn().unwrap())
        })
        .collect();
    for (i, process) in processes {
        let output = process.wait_with_output().unwrap();
        // Without --replace, the emulator of another process is a conflict.
        let may_conflict = i % 4 == 0 || i % 4 == 3;
        let code = output.status.code();
        assert!(code == Some(0) || (may_conflict && code == Some(8)), "{i}: {output:?}");
    }
    let left = world.entries();
    assert!(left.iter().all(|name| name == "qemu-arm" || name == "qemu-s390x"), "{left:?}");
    world.run(&["unregister", "all"]).succeeds();
    assert!(world.entries().is_empty());
}

#[test]
fn during_a_replacement_there_is_always_a_handler() {
    let Some(world) = world(User::Caller) else { return };
    let other = world.copy_of_emulator("arm", "other-qemu-arm");
    let (usual, other) = ("arm=/usr/bin/qemu-arm-static".to_owned(), format!("arm={}", other.display()));
    world.run(&["register", "--emulator", &usual]).succeeds();
    let program = world.writable_dir().join("program");
    std::fs::write(&program, Machine::by_name("arm").unwrap().probe()).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Starts the program repeatedly until the file `stop` exists; 41 is 40 and one argument.
    let stop = world.writable_dir().join("stop");
    let script = format!(
        "n=0; while [ ! -e {stop} ]; do {program} > /dev/null; r=$?; [ $r = 41 ] || {{ echo exit status $r; exit 1; }}; \
         n=$((n+1)); done; echo $n",
        stop = stop.display(),
        program = program.display()
    );
    let mut starter = world.command("sh");
    starter.args(["-c", &script]).stdout(Stdio::piped()).stdin(Stdio::null());
    let starter = starter.spawn().unwrap();
    // Every write to the table is delayed, so that a gap between two of them would be detected.
    let files = ["register", "qemu-arm", "qemu-arm.new"].map(|name| format!("{TABLE}/{name}"));
    let paths = files.iter().flat_map(|path| ["-P", path]);
    let slowly: Vec<&str> =
        paths.chain(["-e", "trace=write", "-e", "inject=write:delay_exit=40000"]).collect();
    for emulator in [&other, &usual, &other, &usual] {
        let arguments = ["register", "--replace", "--no-probe", "--emulator", emulator];
        let Some(done) = world.traced(&slowly, &arguments) else { break };
        assert!(done.succeeds().stdout.contains("replaced"), "{done:?}");
    }
    std::fs::write(&stop, "").unwrap();
    let output = starter.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let starts: u32 = stdout.parse().unwrap_or_else(|_| panic!("{stdout}"));
    assert!(starts > 20, "only {starts} starts");
}

#[test]
fn a_lock_of_another_process_is_awaited() {
    let Some(world) = world(User::Caller) else { return };
    let held = world.shell(&format!(
        "exec 9> {table}/register; flock -x 9; {tool} register arm 9>&- & sleep 0.5; ls {table}; exec 9>&-; wait $!",
        table = TABLE,
        tool = world.program().display()
    ));
    // After half a second nothing was written yet.
    assert!(held.succeeds().stdout.starts_with("register\nstatus\nDONE"), "{held:?}");
    assert_eq!(world.entries(), ["qemu-arm"]);
    run_command(world.command(world.program()).arg("status")).succeeds();
}
