//! The power goes: at every call of a fix, with every part of what was not synced on the disk or not.
//!
//! The calls are recorded once, and each state that the disk may be in is made and looked at. Every one has the old
//! image or the new one, whole; behind the end of the program, all have the new one.

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

/// Where the journal of tag moves is kept, so that it is on the recorded disk.
const STATE: &str = "state";
/// As many states are also given to the program itself.
const RUN_AGAIN: usize = 12;

fn cut(job: &Job) {
    need!(world::require(&["strace"]));
    let begun = Instant::now();
    let user = User::new();
    (job.prepare)(&user);
    let old = (job.digest)(&user);
    let place = Place::new(&user);
    let mut disk = Disk::new(&place.state());
    let calls = recorded(&user, "config-patcher", job.args);
    let new = (job.digest)(&user);
    assert_ne!(old, new);
    let at_end = listing(&user.work());

    let mut seen: BTreeSet<State> = BTreeSet::new();
    let (mut old_ones, mut new_ones) = (0, 0);
    for (number, call) in calls.iter().enumerate() {
        disk.make(call);
        for state in disk.states() {
            if seen.contains(&state) {
                continue;
            }
            place.restore(&state);
            let now = (job.digest)(&user);
            assert!(now == old || now == new, "{now} after call {number}, {}", shown_call(call));
            *(if now == old { &mut old_ones } else { &mut new_ones }) += 1;
            seen.insert(state);
        }
    }
    // The trace was read rightly, and what was promised at the end is on the disk.
    let at_end = at_end.iter().filter(|(path, _)| path.is_file() || !path.is_dir());
    let at_end: BTreeMap<&Path, &[u8]> = at_end.map(|(path, file)| (path.as_path(), &*file.3)).collect();
    let mut is_as_left = false;
    for state in disk.states() {
        place.restore(&state);
        assert_eq!((job.digest)(&user), new, "the program has ended, and it is not on the disk");
        is_as_left |= contents(&state) == at_end;
    }
    assert!(is_as_left, "the disk is not as the program left it");
    for state in seen.iter().step_by(seen.len() / RUN_AGAIN + 1) {
        place.restore(state);
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
        .env("XDG_STATE_HOME", user.path(STATE));
    Ran::of(shown(&command), command.output().unwrap()).exits(0);
    let work = user.work().canonicalize().unwrap();
    let mut calls = trace::calls(&fs::read_to_string(trace).unwrap(), &work);
    // Terminals, and files of the system.
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
        // A file that never has a name is gone with the power.
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

/// A folder and the files in it by their numbers, which stay: a journal knows its archive by the inode.
struct Place {
    work: PathBuf,
    /// Has each file under its number.
    files: PathBuf,
}

impl Place {
    fn new(user: &User) -> Self {
        let place = Self { work: user.work(), files: user.path("../files") };
        fs::create_dir(&place.files).unwrap();
        place
    }

    /// What is there, to begin with.
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
fn a_tar_written_anew() {
    cut(&TAR);
}

#[test]
fn a_tar_in_place() {
    cut(&TAR_IN_PLACE);
}

#[test]
fn a_tar_of_the_new_form_in_place() {
    cut(&NEW_FORM_IN_PLACE);
}

#[test]
fn an_oci_archive() {
    cut(&OCI_ARCHIVE);
}

#[test]
fn a_layout() {
    cut(&LAYOUT);
}

#[test]
fn a_layout_with_what_belongs_to_the_image() {
    cut(&CARRIED);
}

#[test]
fn a_new_layout() {
    cut(&NEW_LAYOUT);
}

#[test]
fn a_new_tar() {
    cut(&NEW_TAR);
}
