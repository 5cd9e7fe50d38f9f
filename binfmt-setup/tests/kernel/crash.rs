//! The table after an error at any write, and after SIGKILL at any system call.

use std::collections::BTreeMap;

use crate::world::{TABLE, User, World, world};

const FOREIGN: &[u8] = b":python3.11:M::\\xa7\\x0d\\x0d\\x0a::/usr/bin/python3.11:";
const MACHINES: [&str; 3] = ["arm", "s390x", "mipsel"];

/// Three handlers of this program with copies of the emulators, and one of another program.
fn prepared() -> Option<World> {
    let world = world(User::Caller)?;
    world.write(FOREIGN);
    let mut arguments = vec!["register".to_owned()];
    for machine in MACHINES {
        let copy = world.copy_of_emulator(machine, &format!("qemu-{machine}"));
        arguments.extend(["--emulator".to_owned(), format!("{machine}={}", copy.display())]);
    }
    world.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).succeeds();
    Some(world)
}

fn replace() -> Vec<&'static str> {
    [&["register", "--replace"][..], &MACHINES[..]].concat()
}

fn writes(world: &World) -> usize {
    let trace = world.trace();
    trace.lines().filter(|line| line.contains("write(")).count()
}

#[test]
fn an_error_at_any_write_restores_everything() {
    let Some(world) = prepared() else { return };
    let before = world.snapshot();
    let register = format!("{TABLE}/register");
    // New handlers under temporary names, then under their final names.
    let register_writes = 2 * MACHINES.len();
    for error in ["ENOENT", "EACCES", "EINVAL"] {
        for nth in 1..=register_writes {
            let injection = format!("inject=write:error={error}:when={nth}");
            let Some(failed) =
                world.traced(&["-P", &register, "-e", "trace=write", "-e", &injection], &replace())
            else {
                return;
            };
            failed.exits(9).reports("the previous state was restored");
            assert_eq!(world.snapshot(), before, "{error} at {nth}");
            assert!(world.run(&["probe", "arm", "s390x", "mipsel"]).succeeds().stdout.contains("emulated"));
        }
    }
    let Some(fine) = world.traced(&["-P", &register, "-e", "trace=write"], &replace()) else { return };
    fine.succeeds();
    assert_eq!(writes(&world), register_writes, "the numbers above reach every write\n{}", world.trace());
}

#[test]
fn a_short_write_registers_nothing() {
    let Some(world) = world(User::Caller) else { return };
    let register = format!("{TABLE}/register");
    let short = ["-P", &register, "-e", "trace=write", "-e", "inject=write:retval=20:when=1"];
    let Some(failed) = world.traced(&short, &["register", "arm"]) else { return };
    failed.exits(9).reports("the kernel took 20 of");
    assert!(world.entries().is_empty());
}

/// Kills the program at its `nth` call of this kind that `strace` counts; the next run must complete the work. Returns
/// whether there was such a call.
fn killed_at(strace: &[&str], calls: &str, nth: usize) -> Option<bool> {
    let world = prepared()?;
    let kill = format!("inject={calls}:signal=SIGKILL:when={nth}");
    let killed = world.traced(&[strace, &["-e", &kill]].concat(), &replace())?;
    // strace exits like the program that it traced.
    let was_killed = killed.code != Some(0);
    // Every machine has a handler at any moment.
    world.run(&["probe", "arm", "s390x", "mipsel"]).succeeds();
    world.run(&replace()).succeeds();
    assert_eq!(world.entries(), ["python3.11", "qemu-arm", "qemu-mipsel", "qemu-s390x"], "killed at {nth}");
    for machine in MACHINES {
        assert!(world.entry(&format!("qemu-{machine}")).contains(&format!("/usr/bin/qemu-{machine}-static")));
    }
    assert!(world.entry("python3.11").contains("interpreter /usr/bin/python3.11\n"));
    assert_eq!(world.run(&replace()).succeeds().stdout, "nothing to do\n");
    Some(was_killed)
}

#[test]
fn after_a_kill_at_any_write_to_the_table_the_next_run_completes() {
    let mut nth = 1;
    // Only write(2) to files of the table: the lines, and -1 to entries.
    let files: Vec<String> = ["register".to_owned()]
        .into_iter()
        .chain(MACHINES.iter().flat_map(|machine| [format!("qemu-{machine}"), format!("qemu-{machine}.new")]))
        .map(|name| format!("{TABLE}/{name}"))
        .collect();
    let paths: Vec<&str> = files.iter().flat_map(|path| ["-P", path]).collect();
    while let Some(was_killed) = killed_at(&[&paths[..], &["-e", "trace=write"]].concat(), "write", nth) {
        if !was_killed {
            break;
        }
        nth += 1;
    }
    // Registered under the temporary name; old removed, new registered, temporary removed.
    assert_eq!(nth - 1, 4 * MACHINES.len());
}

/// All of more than a thousand system calls take minutes: by default every 53rd, all with MULTIARCH_SWEEP=1.
#[test]
fn after_a_kill_at_any_system_call_the_next_run_completes() {
    let Some(world) = prepared() else { return };
    if world.traced(&["-e", "trace=all"], &replace()).is_none() {
        return;
    }
    // strace counts each kind of call separately: the third read, the ninth openat.
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let trace = world.trace();
    let mut calls = vec![];
    for name in trace.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name) {
        // exec and exit are the begin and the end of the process.
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.starts_with("exec")
        {
            let nth = kinds.entry(name.to_owned()).or_default();
            *nth += 1;
            calls.push((name.to_owned(), *nth));
        }
    }
    let step = if std::env::var_os("MULTIARCH_SWEEP").is_some() { 1 } else { 53 };
    let tried = calls.iter().step_by(step);
    let killed =
        tried.clone().filter(|(name, nth)| killed_at(&["-e", "trace=all"], name, *nth).unwrap_or_default());
    // Some runs wait less often than the one that was counted, and so are not killed.
    let (killed, tried) = (killed.count(), tried.count());
    assert!(
        calls.len() > 500 && killed * 2 > tried,
        "killed at {killed} of {tried} calls, of {} in total",
        calls.len()
    );
}
