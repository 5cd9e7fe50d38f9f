//! Killed at any request, before or after it took effect: the tag names something whole, and running again finishes.

mod local;
mod power_cut;
mod registry;
mod sweep;

use crate::registry::referrers::{about, listed, put_referrer, referrer};
use crate::samples::{Image, Index};
use crate::tools::{User, run};
use image_model::manifest::Document;
use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault, Logged, When};
use multiarch_tests::world::Proc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The repository and the tag that every job here is about.
const REPOSITORY: &str = "team/app";
const TAG: &str = "latest";

/// Something that moves the tag of a registry.
struct Job {
    /// What is there before; the digest that the tag names.
    seed: fn(&FakeRegistry) -> String,
    /// Makes a user who has what the job needs, for a registry at this host.
    user: fn(&str) -> User,
    command: fn(&User, &str) -> Command,
    /// It looks for each blob before it sends it. A fix sends its one small config without: that saves a request.
    looks: bool,
    /// What must be there as soon as the tag names the new image.
    holds: fn(&FakeRegistry),
}

/// Kills the job at every request until it gets through; says how many places there were.
fn sweep(job: &Job) -> usize {
    let begun = Instant::now();
    let new = undisturbed(job);
    let mut left_new = 0;
    for k in 1.. {
        let ends = [When::Before, When::After].map(|moment| disturbed(job, k, moment, &new));
        if ends == [End::Done, End::Done] {
            let places = 2 * (k - 1);
            eprintln!("killed at {places} places, {left_new} with the tag moved, in {:?}", begun.elapsed());
            assert!(0 < left_new && left_new < places / 2, "the tag moves near the end, not before");
            return k - 1;
        }
        assert!(!ends.contains(&End::Done), "{k} requests were enough once, and once they were not");
        left_new += ends.iter().filter(|end| **end == End::Killed { moved: true }).count();
    }
    unreachable!("no job has that many requests");
}

/// How a disturbed run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has fewer requests.
    Done,
    /// And run again, it got through. `moved`: the tag named the new index already.
    Killed { moved: bool },
}

/// The digest that the job ends with, whatever the registry's address is.
fn undisturbed(job: &Job) -> String {
    let registry = FakeRegistry::start();
    let old = (job.seed)(&registry);
    let user = (job.user)(&registry.host());
    run((job.command)(&user, &registry.host())).exits(0);
    let new = registry.tag(REPOSITORY, TAG).unwrap();
    assert_ne!(old, new, "a job that changes nothing shows nothing");
    new
}

/// Kills the job at its k-th request and runs it again.
fn disturbed(job: &Job, k: usize, moment: When, new: &str) -> End {
    let at = format!("request {k}, {moment:?}");
    let registry = FakeRegistry::start();
    let old = (job.seed)(&registry);
    let user = (job.user)(&registry.host());
    let victim = Arc::new(OnceLock::new());
    let known = Arc::clone(&victim);
    if moment == When::Before {
        registry.fault(Fault::when(move |request| request.number == k, Act::ResetBefore));
    }
    registry.on_request(move |request, when| {
        if request.number == k && when == moment {
            end(*known.wait());
        }
    });
    let mut process = Proc::spawn((job.command)(&user, &registry.host()));
    victim.set(process.id()).unwrap();
    let status = process.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("{at}: it hangs"));
    let killed = status.signal() == Some(Signal::SIGKILL as i32);
    assert!(killed || status.success(), "{at}: {status}: {}", process.stderr());

    let named = registry.tag(REPOSITORY, TAG).unwrap();
    let path = format!("/v2/{REPOSITORY}/manifests/{TAG}");
    let is_move =
        |logged: &Logged| logged.method == "PUT" && logged.path == path && logged.status == Some(201);
    let moved = registry.log().iter().any(is_move);
    assert_eq!(named, if moved { new } else { &old }, "{at}: the tag");
    // Member tags as well: whatever has a name is whole.
    let all_is_whole = || {
        for tag in registry.tags(REPOSITORY) {
            let digest = registry.tag(REPOSITORY, &tag).unwrap();
            registry.closure_complete(REPOSITORY, &digest).unwrap_or_else(|why| panic!("{at}: {tag}: {why}"));
        }
        assert_eq!(registry.violations(), [""; 0], "{at}");
    };
    all_is_whole();
    if moved {
        (job.holds)(&registry);
    }
    if !killed {
        return End::Done;
    }
    registry.clear_faults();
    let there = uploaded(&registry.take_log());
    run((job.command)(&user, &registry.host())).exits(0);
    let again: Vec<String> = uploaded(&registry.log()).intersection(&there).cloned().collect();
    assert!(!job.looks || again.is_empty(), "{at}: uploaded although it was there: {again:?}");
    assert_eq!(registry.tag(REPOSITORY, TAG).as_deref(), Some(new), "{at}: run again");
    all_is_whole();
    (job.holds)(&registry);
    End::Killed { moved }
}

/// The blobs whose bytes were sent and taken.
fn uploaded(log: &[Logged]) -> BTreeSet<String> {
    let taken = log.iter().filter(|l| l.method == "PUT" && l.status == Some(201) && l.request_bytes > 0);
    taken.filter_map(|l| l.path.split_once("digest=").map(|(_, digest)| digest.to_string())).collect()
}

/// Kills a process and waits until it can do nothing any more.
fn end(id: u32) {
    kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGKILL).unwrap();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // proc(5): the state stands behind the name, which is in parentheses.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    while lives() {
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn old_index(registry: &FakeRegistry) -> String {
    let image = Image::new("linux/amd64", "the release before");
    let index = Index::of(&[("linux/amd64", &image)]);
    index.publish(registry, REPOSITORY, TAG);
    index.digest().to_string()
}

/// A release of three platforms.
fn release() -> Job {
    Job {
        looks: true,
        holds: |_| {},
        seed: old_index,
        user: |host| {
            let user = User::new();
            let text = format!(
                "image: {host}/{REPOSITORY}\nplatforms:\n\
                 \x20 linux/amd64:  {{ copy: {{ amd64: /app }} }}\n\
                 \x20 linux/arm/v7: {{ copy: {{ armv7: /app }}, tag: arm32v7 }}\n\
                 \x20 linux/arm64:  {{ copy: {{ arm64: /app }} }}\n"
            );
            for file in ["amd64", "armv7", "arm64"] {
                user.write(file, format!("the program for {file}"));
            }
            user.write("release.yaml", text);
            user
        },
        command: |user, _| user.command("xtask", &["release", "release.yaml"]),
    }
}

#[test]
fn a_release_killed_at_any_request_leaves_the_old_index_or_the_new_one() {
    let swept = sweep(&release());
    // 47 when this was written.
    assert!(swept >= 30, "{swept} requests are too few for a release of three platforms");
}

/// Two wrong labels in an index, one of an image that is attested.
fn fix() -> Job {
    Job {
        looks: false,
        holds: |_| {},
        seed: |registry| {
            let (one, two) =
                (Image::new("linux/amd64", "arm's own"), Image::new("linux/amd64", "arm64's own"));
            let index = Index::attested(&[("linux/arm/v7", &one), ("linux/arm64/v8", &two)], Some(0));
            index.publish(registry, REPOSITORY, TAG);
            index.digest().to_string()
        },
        user: |_| User::new(),
        command: |user, host| {
            user.command("config-patcher", &["fix", &format!("{host}/{REPOSITORY}:{TAG}"), "--from-index"])
        },
    }
}

#[test]
fn a_fix_killed_at_any_request_leaves_the_old_index_or_the_new_one() {
    let swept = sweep(&fix());
    // 16 when this was written.
    assert!(swept >= 12, "{swept} requests are too few for two labels and their index");
}

/// One wrong label, and an SBOM and its signature that are carried over, in a registry that lists none by itself.
fn carry() -> Job {
    Job {
        looks: false,
        holds: |registry| {
            let [old, new] = labelled();
            let [sbom, signature] = referrers(&old);
            let now = about(&sbom, &old.document, &new.document);
            assert_eq!(listed(registry, &new.document), [now.digest().as_str()]);
            assert_eq!(listed(registry, &now), [about(&signature, &sbom, &now).digest().as_str()]);
        },
        seed: |registry| {
            let [old, _] = labelled();
            old.publish(registry, REPOSITORY, TAG);
            let [sbom, signature] = referrers(&old);
            put_referrer(registry, &sbom, &old.document);
            put_referrer(registry, &signature, &sbom);
            old.digest().to_string()
        },
        user: |_| User::new(),
        command: |user, host| {
            let image = format!("{host}/{REPOSITORY}:{TAG}");
            let args = ["fix", &image, "--set-platform", "linux/arm/v7", "--carry-referrers"];
            user.command("config-patcher", &args)
        },
    }
}

fn labelled() -> [Image; 2] {
    let wrong = Image::new("linux/amd64", "arm's own");
    let right = wrong.relabeled("arm", "v7");
    [wrong, right]
}

fn referrers(image: &Image) -> [Document; 2] {
    let sbom = referrer("application/spdx+json", &image.document);
    let signature = referrer("application/signature", &sbom);
    [sbom, signature]
}

#[test]
fn a_fix_killed_at_any_request_never_leaves_a_new_image_without_what_belongs_to_it() {
    let swept = sweep(&carry());
    // 19 when this was written.
    assert!(swept >= 14, "{swept} requests are too few for a label and two referrers");
}

/// Three images of another repository of the same registry.
fn push() -> Job {
    Job {
        looks: true,
        holds: |_| {},
        seed: |registry| {
            for (tag, platform) in
                [("amd64", "linux/amd64"), ("arm32v7", "linux/arm/v7"), ("riscv64", "linux/riscv64")]
            {
                Image::new(platform, tag).publish(registry, "team/parts", tag);
            }
            old_index(registry)
        },
        user: |host| {
            let user = User::new();
            let text = format!(
                "image: {host}/{REPOSITORY}:{TAG}\nmanifests:\n\
                 - image: {host}/team/parts:amd64\n\
                 - image: {host}/team/parts:riscv64\n\
                 - image: {host}/team/parts:arm32v7\n  platform: {{ os: linux, architecture: arm, variant: v7 }}\n"
            );
            user.write("spec.yaml", text);
            user
        },
        command: |user, _| user.command("manifest-push", &["push", "from-spec", "spec.yaml"]),
    }
}

#[test]
fn a_push_from_a_spec_killed_at_any_request_leaves_the_old_index_or_the_new_one() {
    let swept = sweep(&push());
    assert!(swept >= 20, "{swept} requests are too few for three images of another repository");
}

/// Killed at any request, the tag names what it named or what it names in the end; run again, it is taken back once,
/// and not once more.
#[test]
fn a_rollback_killed_at_any_request_is_finished_by_the_next() {
    let mut places = 0;
    for moment in [When::Before, When::After] {
        for k in 1.. {
            let registry = FakeRegistry::start();
            let old = old_index(&registry);
            Image::new("linux/s390x", "new").publish(&registry, REPOSITORY, "s390x");
            let (user, name) = (User::new(), format!("{}/{REPOSITORY}", registry.host()));
            user.write("spec.yaml", format!("image: {name}:{TAG}\nmanifests:\n- image: {name}:s390x\n"));
            user.manifest_push(&["push", "from-spec", "spec.yaml"]).exits(0);
            let new = registry.tag(REPOSITORY, TAG).unwrap();
            let begun = registry.log().len();
            let victim = Arc::new(OnceLock::new());
            let known = Arc::clone(&victim);
            if moment == When::Before {
                registry.fault(Fault::when(move |request| request.number == begun + k, Act::ResetBefore));
            }
            registry.on_request(move |request, when| {
                if request.number == begun + k && when == moment {
                    end(*known.wait());
                }
            });
            let mut process = Proc::spawn(user.command("manifest-push", &["rollback"]));
            victim.set(process.id()).unwrap();
            let status = process.wait(Duration::from_secs(60)).expect("an end");
            let named = registry.tag(REPOSITORY, TAG).unwrap();
            assert!(named == old || named == new, "{named}");
            if status.success() {
                assert_eq!(named, old);
                break;
            }
            assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{}", process.stderr());
            places += 1;
            registry.clear_faults();
            let again = user.manifest_push(&["rollback"]);
            // Where the kill came after the tag had moved, nothing is left to take back.
            if named == new {
                again.exits(0)
            } else {
                again.exits(5).says("has no push to roll back")
            };
            assert_eq!(
                registry.tag(REPOSITORY, TAG).as_deref(),
                Some(old.as_str()),
                "request {k}, {moment:?}"
            );
            registry.closure_complete(REPOSITORY, &old).unwrap();
        }
    }
    assert!(places >= 8, "{places}");
}

/// One fault at any request, of a kind that passes: the job gets through, and to the same end.
fn shake(job: &Job, acts: &[Act]) {
    let begun = Instant::now();
    let new = undisturbed(job);
    let mut places = 0;
    for act in acts {
        for k in 1.. {
            let at = format!("{act:?} at request {k}");
            let registry = FakeRegistry::start();
            (job.seed)(&registry);
            let user = (job.user)(&registry.host());
            registry.fault(Fault::at(k, act.clone()));
            let ran = run((job.command)(&user, &registry.host()));
            if registry.faults_fired() == 0 {
                ran.exits(0);
                break;
            }
            places += 1;
            assert_eq!(ran.code, Some(0), "{at}: {ran}");
            assert_eq!(registry.tag(REPOSITORY, TAG), Some(new.clone()), "{at}");
            registry.closure_complete(REPOSITORY, &new).unwrap_or_else(|why| panic!("{at}: {why}"));
            let log = registry.log();
            assert_eq!(registry.violations(), [""; 0], "{at}: {log:?}");
            // Of an upload whose opening was never answered nobody knows the address: the registry ends it in time.
            let unanswered = log.iter().filter(|l| l.method == "POST" && l.status.is_none()).count();
            assert!(registry.open_uploads() <= unanswered, "{at}: {log:?}");
        }
    }
    eprintln!("{places} faults, each survived, in {:?}", begun.elapsed());
}

#[test]
fn a_fault_that_passes_stops_nobody() {
    let all =
        [Act::ResetBefore, Act::CloseBefore, Act::LostAnswer, Act::status(503), Act::retry_after(429, "0")];
    shake(&fix(), &all);
    shake(&carry(), &[Act::LostAnswer, Act::status(503)]);
    shake(&push(), &all);
    // It is the longest, and nothing but more of the same.
    shake(&release(), &[Act::LostAnswer]);
}
