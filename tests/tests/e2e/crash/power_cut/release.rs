//! Power cuts during a release: in every state with a moved tag, the journal has the data for a rollback.

use super::{RUN_AGAIN, STATE, WorkDir, recorded, shown_call};
use crate::crash::power_cut::disk::{Disk, State};
use crate::local_jobs::checked_digest;
use crate::tools::{Ran, User, run};
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::{need, world};
use std::collections::BTreeSet;
use std::fs;

const ARGS: [&str; 6] = ["release", "release.yaml", "--work-dir", "w", "--report", "report.json"];

fn digest_of_tag(user: &User) -> String {
    checked_digest(&OciLayout::open(&user.path("out")).unwrap(), "latest")
}

fn xtask(user: &User, args: &[&str]) -> Ran {
    let mut command = user.command("xtask", args);
    command.env("XDG_STATE_HOME", user.path(STATE));
    run(command).exits(0)
}

/// The journal, in which a rollback or the next release finds the previous digests of the tags.
fn journal(user: &User) -> String {
    let text = fs::read(user.path(STATE).join("multiarch/journal.jsonl")).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

fn journal_has(user: &User, old: &str, new: &str) -> bool {
    journal(user).lines().any(|line| {
        let entry: Option<serde_json::Value> = serde_json::from_str(line).ok();
        entry.is_some_and(|entry| entry["old"] == old && entry["new"] == new)
    })
}

#[test]
fn a_release_can_be_rolled_back_after_a_power_cut() {
    need!(world::require(&["strace"]));
    let user = User::new();
    let spec = "image: oci:out\nplatforms:\n  linux/amd64: { copy: { app: /app } }\n";
    user.write("release.yaml", spec);
    user.write("app", "the first program");
    xtask(&user, &ARGS);
    let old = digest_of_tag(&user);
    user.write("app", "the second program");
    let work_dir = WorkDir::new(&user);
    let mut disk = Disk::new(&work_dir.state());
    let calls = recorded(&user, "xtask", &ARGS);
    let new = digest_of_tag(&user);
    assert_ne!(old, new);

    let mut seen: BTreeSet<State> = BTreeSet::new();
    let (mut before, mut after) = (0, 0);
    for call in &calls {
        disk.apply(call);
        for state in disk.states() {
            if !seen.insert(state.clone()) {
                continue;
            }
            work_dir.restore(&state);
            let now = digest_of_tag(&user);
            if now == old {
                before += 1;
            } else {
                after += 1;
                assert_eq!(now, new, "after {}", shown_call(call));
                assert!(journal_has(&user, &old, &new), "after {}: {:?}", shown_call(call), journal(&user));
            }
        }
    }
    for state in disk.states() {
        work_dir.restore(&state);
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(user.path("report.json")).unwrap()).unwrap();
        assert_eq!(
            (&report["tags"][0]["was"], &report["tags"][0]["now"]),
            (&old.clone().into(), &new.clone().into())
        );
    }
    for state in seen.iter().step_by(seen.len() / RUN_AGAIN + 1) {
        work_dir.restore(state);
        // A rollback works from the journal before the rerun, and from the report after it.
        if digest_of_tag(&user) == new {
            let mut rollback = user.command("multiarch", &["rollback", "oci:out"]);
            rollback.env("XDG_STATE_HOME", user.path(STATE));
            run(rollback).exits(0);
            assert_eq!(digest_of_tag(&user), old);
            work_dir.restore(state);
        }
        xtask(&user, &ARGS);
        assert_eq!(digest_of_tag(&user), new);
        xtask(&user, &["rollback", "report.json"]);
        assert_eq!(digest_of_tag(&user), old);
    }
    eprintln!("{} calls, {before} states before, {after} after", calls.len());
    assert!(before > 3 && after > 3, "{before} {after}");
}
