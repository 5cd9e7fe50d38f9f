//! Programs that are killed at any request to a registry, before or after it takes effect: every tag refers to a complete
//! image, and a rerun completes the job.

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

/// The repository and tag of all jobs.
const REPOSITORY: &str = "team/app";
const TAG: &str = "latest";

/// A command that moves a tag in a registry.
struct Job {
    /// Publishes the old image. Returns the digest of the tag.
    seed: fn(&FakeRegistry) -> String,
    /// Creates a user with the files of the job, for a registry at this host.
    user: fn(&str) -> User,
    command: fn(&User, &str) -> Command,
    /// Whether the job checks for each blob before the upload. A fix sends its small config unconditionally, which saves a
    /// request.
    checks_blobs: bool,
    /// Asserts what must be true when the tag refers to the new image.
    assert_new: fn(&FakeRegistry),
}

/// Kills the job at every request. Returns the number of requests.
fn sweep(job: &Job) -> usize {
    let begun = Instant::now();
    let new = final_digest(job);
    let mut left_new = 0;
    for k in 1.. {
        let outcomes = [When::Before, When::After].map(|moment| run_killed_at(job, k, moment, &new));
        if outcomes == [Outcome::Done, Outcome::Done] {
            let places = 2 * (k - 1);
            eprintln!("killed at {places} places, {left_new} with the tag moved, in {:?}", begun.elapsed());
            assert!(0 < left_new && left_new < places / 2, "the tag must move near the end");
            return k - 1;
        }
        assert!(!outcomes.contains(&Outcome::Done), "the number of requests must not vary: {k}");
        left_new += outcomes.iter().filter(|end| **end == Outcome::Killed { moved: true }).count();
    }
    unreachable!("no job has that many requests");
}

/// Result of a run with a kill at request k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The job has fewer than k requests.
    Done,
    /// Killed; the rerun completed the job. `moved`: the tag referred to the new index already.
    Killed { moved: bool },
}

/// Returns the digest of the tag after the job. It does not depend on the host of the registry.
fn final_digest(job: &Job) -> String {
    let registry = FakeRegistry::start();
    let old = (job.seed)(&registry);
    let user = (job.user)(&registry.host());
    run((job.command)(&user, &registry.host())).exits(0);
    let new = registry.tag(REPOSITORY, TAG).unwrap();
    assert_ne!(old, new, "the job must change the tag");
    new
}

/// Kills the job at its k-th request, checks the registry, and runs the job again.
fn run_killed_at(job: &Job, k: usize, moment: When, new: &str) -> Outcome {
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
    let status = process.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("{at}: the job hangs"));
    let killed = status.signal() == Some(Signal::SIGKILL as i32);
    assert!(killed || status.success(), "{at}: {status}: {}", process.stderr());

    let current = registry.tag(REPOSITORY, TAG).unwrap();
    let path = format!("/v2/{REPOSITORY}/manifests/{TAG}");
    let is_move =
        |logged: &Logged| logged.method == "PUT" && logged.path == path && logged.status == Some(201);
    let moved = registry.log().iter().any(is_move);
    assert_eq!(current, if moved { new } else { &old }, "{at}: the tag");
    // Tags of members as well.
    let assert_all_complete = || {
        for tag in registry.tags(REPOSITORY) {
            let digest = registry.tag(REPOSITORY, &tag).unwrap();
            registry.closure_complete(REPOSITORY, &digest).unwrap_or_else(|why| panic!("{at}: {tag}: {why}"));
        }
        assert_eq!(registry.violations(), [""; 0], "{at}");
    };
    assert_all_complete();
    if moved {
        (job.assert_new)(&registry);
    }
    if !killed {
        return Outcome::Done;
    }
    registry.clear_faults();
    let present = uploaded(&registry.take_log());
    run((job.command)(&user, &registry.host())).exits(0);
    let again: Vec<String> = uploaded(&registry.log()).intersection(&present).cloned().collect();
    assert!(!job.checks_blobs || again.is_empty(), "{at}: uploaded although present: {again:?}");
    assert_eq!(registry.tag(REPOSITORY, TAG).as_deref(), Some(new), "{at}: rerun");
    assert_all_complete();
    (job.assert_new)(&registry);
    Outcome::Killed { moved }
}

/// Returns the digests of the blobs that were uploaded.
fn uploaded(log: &[Logged]) -> BTreeSet<String> {
    let taken = log.iter().filter(|l| l.method == "PUT" && l.status == Some(201) && l.request_bytes > 0);
    taken.filter_map(|l| l.path.split_once("digest=").map(|(_, digest)| digest.to_string())).collect()
}

/// Kills a process and waits until it is gone or a zombie.
fn end(id: u32) {
    kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGKILL).unwrap();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // proc(5): the state follows the name, which is in parentheses.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    while lives() {
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn old_index(registry: &FakeRegistry) -> String {
    let image = Image::new("linux/amd64", "the previous release");
    let index = Index::of(&[("linux/amd64", &image)]);
    index.publish(registry, REPOSITORY, TAG);
    index.digest().to_string()
}

/// A release of three platforms.
fn release() -> Job {
    Job {
        checks_blobs: true,
        assert_new: |_| {},
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
fn a_release_killed_at_any_request_leaves_the_old_or_the_new_index() {
    let swept = sweep(&release());
    // 47 when this was written.
    assert!(swept >= 30, "{swept} requests are too few for a release of three platforms");
}

/// An index with two mislabeled images, one of them with an attestation.
fn fix() -> Job {
    Job {
        checks_blobs: false,
        assert_new: |_| {},
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
fn a_fix_killed_at_any_request_leaves_the_old_or_the_new_index() {
    let swept = sweep(&fix());
    // 16 when this was written.
    assert!(swept >= 12, "{swept} requests are too few for two images and their index");
}

/// A mislabeled image with an SBOM and its signature, which are copied, in a registry without the referrers API.
fn fix_with_referrers() -> Job {
    Job {
        checks_blobs: false,
        assert_new: |registry| {
            let [old, new] = old_and_new();
            let [sbom, signature] = referrers(&old);
            let now = about(&sbom, &old.document, &new.document);
            assert_eq!(listed(registry, &new.document), [now.digest().as_str()]);
            assert_eq!(listed(registry, &now), [about(&signature, &sbom, &now).digest().as_str()]);
        },
        seed: |registry| {
            let [old, _] = old_and_new();
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

fn old_and_new() -> [Image; 2] {
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
fn a_fix_killed_at_any_request_never_leaves_a_new_image_without_its_referrers() {
    let swept = sweep(&fix_with_referrers());
    // 19 when this was written.
    assert!(swept >= 14, "{swept} requests are too few for an image and two referrers");
}

/// Three images of another repository of the same registry.
fn push() -> Job {
    Job {
        checks_blobs: true,
        assert_new: |_| {},
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
fn a_push_from_a_spec_killed_at_any_request_leaves_the_old_or_the_new_index() {
    let swept = sweep(&push());
    assert!(swept >= 20, "{swept} requests are too few for three images of another repository");
}

/// After a kill at any request, the tag has the old or the new digest. The rerun completes this rollback and does not undo
/// an earlier push.
#[test]
fn a_rollback_killed_at_any_request_is_completed_by_the_next() {
    let mut places = 0;
    for moment in [When::Before, When::After] {
        for k in 1.. {
            let registry = FakeRegistry::start();
            let old = old_index(&registry);
            Image::new("linux/s390x", "new").publish(&registry, REPOSITORY, "s390x");
            let (user, name) = (User::new(), format!("{}/{REPOSITORY}", registry.host()));
            user.write("spec.yaml", format!("image: {name}:{TAG}\nmanifests:\n- image: {name}:s390x\n"));
            user.manifest_push(&["push", "from-spec", "spec.yaml", "--drop", "linux/amd64"]).exits(0);
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
            let status = process.wait(Duration::from_secs(60)).expect("the rollback hangs");
            let current = registry.tag(REPOSITORY, TAG).unwrap();
            assert!(current == old || current == new, "{current}");
            if status.success() {
                assert_eq!(current, old);
                break;
            }
            assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{}", process.stderr());
            places += 1;
            registry.clear_faults();
            let again = user.manifest_push(&["rollback"]);
            // If it was killed after the tag had moved, there is nothing left to roll back.
            if current == new {
                again.exits(0)
            } else {
                again.exits(5).assert_stderr_contains("has no push to roll back")
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

/// Injects one transient fault at every request. The job must succeed with the same result.
fn inject_faults(job: &Job, acts: &[Act]) {
    let begun = Instant::now();
    let new = final_digest(job);
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
            // If the response to the opening of an upload was lost, its URL is unknown: the registry removes the session later.
            let unanswered = log.iter().filter(|l| l.method == "POST" && l.status.is_none()).count();
            assert!(registry.open_uploads() <= unanswered, "{at}: {log:?}");
        }
    }
    eprintln!("{places} faults in {:?}", begun.elapsed());
}

#[test]
fn every_job_succeeds_after_a_transient_fault() {
    let all =
        [Act::ResetBefore, Act::CloseBefore, Act::LostAnswer, Act::status(503), Act::retry_after(429, "0")];
    inject_faults(&fix(), &all);
    inject_faults(&fix_with_referrers(), &[Act::LostAnswer, Act::status(503)]);
    inject_faults(&push(), &all);
    // One fault only, since this is the longest job.
    inject_faults(&release(), &[Act::LostAnswer]);
}
