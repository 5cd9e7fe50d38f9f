//! Power cuts at every system call of a fix.
//!
//! The calls are recorded once with strace. Every state that the disk may have after a power cut is created and checked:
//! each has the complete old image or the complete new one, and after the exit of the program all have the new one.

use crate::local_jobs::{
    CARRIED, Job, LAYOUT, NEW_FORM_IN_PLACE, NEW_LAYOUT, NEW_TAR, OCI_ARCHIVE, TAR, TAR_IN_PLACE,
};
use crate::tools::{Ran, User, listing, program, shown};
use disk::{Disk, State};
use multiarch_tests::{need, world};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use trace::Call;

mod disk;
mod release;
mod trace;

/// Directory of the journal of tag moves, on the recorded disk.
const STATE: &str = "state";
/// Number of states in which the program is run again.
const RUN_AGAIN: usize = 12;

fn check_power_cuts(job: &Job) {
    need!(world::require(&["strace"]));
    let begun = Instant::now();
    let user = User::new();
    (job.prepare)(&user);
    let old = (job.digest)(&user);
    let work_dir = WorkDir::new(&user);
    let mut disk = Disk::new(&work_dir.state());
    let calls = recorded(&user, "config-patcher", job.args);
    let new = (job.digest)(&user);
    assert_ne!(old, new);
    let at_end = listing(&user.work());

    let mut seen: BTreeSet<State> = BTreeSet::new();
    let (mut old_ones, mut new_ones) = (0, 0);
    for (number, call) in calls.iter().enumerate() {
        disk.apply(call);
        for state in disk.states() {
            if seen.contains(&state) {
                continue;
            }
            work_dir.restore(&state);
            let now = (job.digest)(&user);
            assert!(now == old || now == new, "{now} after call {number}, {}", shown_call(call));
            *(if now == old { &mut old_ones } else { &mut new_ones }) += 1;
            seen.insert(state);
        }
    }
    // The states must include the files that the program left; otherwise the trace was parsed incorrectly.
    let at_end = at_end.iter().filter(|(path, _)| path.is_file() || !path.is_dir());
    let at_end: BTreeMap<&Path, &[u8]> = at_end.map(|(path, file)| (path.as_path(), &*file.3)).collect();
    let mut is_as_left = false;
    for state in disk.states() {
        work_dir.restore(&state);
        assert_eq!((job.digest)(&user), new, "the new image is not on the disk after the exit");
        is_as_left |= contents(&state) == at_end;
    }
    assert!(is_as_left, "no state has the files that the program left");
    for state in seen.iter().step_by(seen.len() / RUN_AGAIN + 1) {
        work_dir.restore(state);
        user.run("config-patcher", job.args).exits(0);
        assert_eq!((job.digest)(&user), new);
    }
    eprintln!("{} calls, {old_ones} states before, {new_ones} after, in {:?}", calls.len(), begun.elapsed());
    assert!(old_ones > 3 && new_ones > 0, "{old_ones} {new_ones}");
}

fn recorded(user: &User, name: &str, args: &[&str]) -> Vec<Call> {
    let trace = user.path("../trace");
    let mut command = Command::new(world::program("strace").unwrap());
    command
        .args(["-f", "-qq", "-y", "-xx", "-s", "100000000", "-o", &trace.display().to_string()])
        .args(["-e", &format!("trace={}", trace::CALLS)])
        .arg(program(name))
        .args(args)
        .current_dir(user.work())
        .env("XDG_CACHE_HOME", user.path("../home/.cache"))
        .env("XDG_STATE_HOME", user.path(STATE));
    Ran::of(shown(&command), command.output().unwrap()).exits(0);
    let work = user.work().canonicalize().unwrap();
    let mut calls = trace::calls(&fs::read_to_string(trace).unwrap(), &work);
    // Calls for terminals and for files outside the working directory are ignored.
    calls.retain(|call| touches(call, &work));
    calls
}

fn touches(call: &Call, work: &Path) -> bool {
    match call {
        Call::Copy { to: (path, _), .. }
        | Call::Create(path)
        | Call::Write { path, .. }
        | Call::Append { path, .. }
        | Call::Rename(path, _)
        | Call::Unlink(path)
        | Call::Mkdir(path)
        // An unnamed file does not exist after a power cut.
        | Call::Sync(path) => {
            path.starts_with(work) && !path.to_string_lossy().ends_with("(deleted)") && !trace::is_log(path)
        }
    }
}

fn shown_call(call: &Call) -> String {
    let mut text = format!("{call:?}");
    text.truncate(300);
    text
}

/// A directory whose files are restored with the same inodes, because a journal identifies its archive by the inode.
struct WorkDir {
    work: PathBuf,
    /// Contains a hard link to each file, named by its number.
    files: PathBuf,
}

impl WorkDir {
    fn new(user: &User) -> Self {
        let work_dir = Self { work: user.work(), files: user.path("../files") };
        fs::create_dir(&work_dir.files).unwrap();
        work_dir
    }

    /// Returns the initial state.
    fn state(&self) -> State {
        let mut state = State::from([(self.work.clone(), None)]);
        for path in listing(&self.work).into_keys() {
            let number = state.values().flatten().count();
            let file = path.is_file().then(|| {
                fs::hard_link(&path, self.files.join(number.to_string())).unwrap();
                (number, fs::read(&path).unwrap())
            });
            state.insert(path, file);
        }
        state
    }

    fn restore(&self, state: &State) {
        fs::remove_dir_all(&self.work).unwrap();
        for (path, file) in state {
            match file {
                None => fs::create_dir(path).unwrap(),
                Some((number, content)) => {
                    let file = self.files.join(number.to_string());
                    fs::write(&file, content).unwrap();
                    fs::hard_link(file, path).unwrap();
                }
            }
        }
    }
}

/// Files and their content.
fn contents(state: &State) -> BTreeMap<&Path, &[u8]> {
    state.iter().filter_map(|(path, file)| Some((path.as_path(), file.as_ref()?.1.as_slice()))).collect()
}

#[test]
fn a_rewritten_docker_archive() {
    check_power_cuts(&TAR);
}

#[test]
fn a_docker_archive_in_place() {
    check_power_cuts(&TAR_IN_PLACE);
}

#[test]
fn an_index_in_a_docker_archive_in_place() {
    check_power_cuts(&NEW_FORM_IN_PLACE);
}

#[test]
fn a_rewritten_oci_archive() {
    check_power_cuts(&OCI_ARCHIVE);
}

#[test]
fn a_layout() {
    check_power_cuts(&LAYOUT);
}

#[test]
fn a_layout_with_referrers() {
    check_power_cuts(&CARRIED);
}

#[test]
fn a_new_layout() {
    check_power_cuts(&NEW_LAYOUT);
}

#[test]
fn a_new_docker_archive() {
    check_power_cuts(&NEW_TAR);
}
