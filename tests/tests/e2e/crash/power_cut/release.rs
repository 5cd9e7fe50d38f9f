//! A power cut during a release: whenever the tag has moved, what a rollback needs is on the disk.

use super::{Place, RUN_AGAIN, recorded, shown_call};
use crate::crash::power_cut::disk::{Disk, State};
use crate::local_jobs::whole;
use crate::tools::User;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::{need, world};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

const ARGS: [&str; 6] = ["release", "release.yaml", "--work-dir", "w", "--report", "report.json"];

fn digest_of_tag(user: &User) -> String {
    whole(&OciLayout::open(&user.path("out")).unwrap(), "latest")
}

/// Files in which a rollback, or the next release, finds what the tags referred to before.
fn records(user: &User) -> Vec<PathBuf> {
    let in_dir =
        |dir: &str| fs::read_dir(user.path(dir)).into_iter().flatten().map(|entry| entry.unwrap().path());
    let files = in_dir("w/released").chain(in_dir("w/unfinished"));
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

fn has_way_back(user: &User, old: &str, new: &str) -> bool {
    records(user).iter().any(|path| {
        let record: Option<serde_json::Value> = serde_json::from_slice(&fs::read(path).unwrap()).ok();
        let tags = record.as_ref().and_then(|record| record["tags"].as_array());
        tags.is_some_and(|tags| tags.iter().any(|tag| tag["was"] == old && tag["now"] == new))
    })
}

#[test]
fn a_rollback_finds_what_it_needs() {
    need!(world::require(&["strace"]));
    let user = User::new();
    let spec = "image: oci:out\nplatforms:\n  linux/amd64: { copy: { app: /app }, cmd: [/app] }\n";
    user.write("release.yaml", spec);
    user.write("app", "the first program");
    user.run("xtask", &ARGS).exits(0);
    let old = digest_of_tag(&user);
    user.write("app", "the second program");
    let place = Place::new(&user);
    let mut disk = Disk::new(&place.state());
    let calls = recorded(&user, "xtask", &ARGS);
    let new = digest_of_tag(&user);
    assert_ne!(old, new);

    let mut seen: BTreeSet<State> = BTreeSet::new();
    let (mut before, mut after) = (0, 0);
    for call in &calls {
        disk.make(call);
        for state in disk.states() {
            if !seen.insert(state.clone()) {
                continue;
            }
            place.restore(&state);
            let now = digest_of_tag(&user);
            if now == old {
                before += 1;
            } else {
                after += 1;
                assert_eq!(now, new, "after {}", shown_call(call));
                assert!(has_way_back(&user, &old, &new), "after {}: {:?}", shown_call(call), records(&user));
            }
        }
    }
    for state in disk.states() {
        place.restore(&state);
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(user.path("report.json")).unwrap()).unwrap();
        assert_eq!(
            (&report["tags"][0]["was"], &report["tags"][0]["now"]),
            (&old.clone().into(), &new.clone().into())
        );
    }
    for state in seen.iter().step_by(seen.len() / RUN_AGAIN + 1) {
        place.restore(state);
        user.run("xtask", &ARGS).exits(0);
        assert_eq!(digest_of_tag(&user), new);
        user.run("xtask", &["rollback", "report.json"]).exits(0);
        assert_eq!(digest_of_tag(&user), old);
    }
    eprintln!("{} calls, {before} states before, {after} after", calls.len());
    assert!(before > 3 && after > 3, "{before} {after}");
}
