//! Limits for the number of requests to a registry and of sequential round trips.

use super::*;
use crate::registry::rounds::{Rounds, Seen};
use multiarch_tests::need;
use multiarch_tests::world::{Registry, Skip};

/// Returns the sample spec with this number of members, one platform each.
fn spec_with(rig: &Rig, members: usize) -> String {
    let mut spec = format!("image: {}\nmanifests:\n", rig.name("latest"));
    for i in 0..members {
        let image = Image::new(&format!("linux/arm/v{i}"), &format!("member {i}"));
        image.publish(&rig.registry, REPOSITORY, &format!("m{i}"));
        spec.push_str(&format!("- image: {}\n", rig.name(&format!("m{i}"))));
    }
    spec
}

#[test]
fn an_index_of_four_or_twenty_images_takes_four_round_trips() {
    for members in [4, 20] {
        let rig = Rig::new();
        rig.user.write("spec.yaml", spec_with(&rig, members));
        let rounds = Rounds::of(&rig.registry);
        rig.push(&[]).exits(0);
        // Manifests, configs, write of the tag, read of the tag. The tag is also read during the first two.
        assert_eq!(rounds.taken(), 4, "{members} members");
        assert_eq!(rig.registry.log().len(), 2 * members + 4);
        rig.registry.take_log();
        rig.push(&[]).exits(0).assert_stderr_contains("nothing to do in");
        assert_eq!(rounds.taken(), 2, "{members} members again");
        assert!(rig.registry.log().iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")));
        rig.assert_sound();
    }
}

/// For registries with rate limits.
#[test]
fn concurrency_limits_the_number_of_parallel_requests() {
    let peak = |args: &[&str]| {
        let rig = Rig::new();
        rig.user.write("spec.yaml", spec_with(&rig, 20));
        let rounds = Rounds::of(&rig.registry);
        rig.push(args).exits(0);
        rig.assert_sound();
        (rig.registry.peak_connections(), rounds.taken())
    };
    let (connections, rounds) = peak(&["--parallel", "10"]);
    // The tag is read in parallel with them.
    assert!(connections <= 11, "{connections}");
    assert!(rounds >= 6, "{rounds}");
    assert!(peak(&[]).0 >= 20);
}

#[test]
fn a_token_costs_two_requests_and_two_round_trips() {
    let bearer = Bearer { anonymous_pull: false, ..Bearer::new("ann", "s3cret") };
    let rig = Rig::with(Options { auth: Auth::Bearer(bearer), ..Options::default() });
    rig.user.log_in(&rig.registry.host(), "ann", "s3cret");
    let rounds = Rounds::of(&rig.registry);
    rig.push(&[]).exits(0);
    // One request is rejected, and one token is requested with all scopes of the job.
    assert_eq!((rounds.taken(), rig.registry.log().len()), (6, 14));
    rig.assert_sound();
}

#[test]
fn images_of_other_repositories_cost_two_round_trips_more() {
    let rig = Rig::new();
    let mut spec = format!("image: {}/team/all:latest\nmanifests:\n", rig.registry.host());
    for (image, (tag, _)) in rig.images.iter().zip(MEMBERS) {
        image.publish(&rig.registry, &format!("team/{tag}"), "1");
        spec.push_str(&format!("- image: {}/team/{tag}:1\n", rig.registry.host()));
    }
    rig.user.write("spec.yaml", spec);
    let rounds = Rounds::of(&rig.registry);
    rig.push(&[]).exits(0);
    // Manifests, configs, mounts, writes of manifests together with another read of the tag, write of the tag, read of the tag.
    assert_eq!(rounds.taken(), 6);
    let counted = |method: &str, part: &str| rig.registry.count(method, |path| path.contains(part));
    assert_eq!((counted("POST", "mount="), counted("PUT", "/manifests/")), (8, 5));
    assert_eq!(rig.registry.log().len(), 4 + 4 + 4 + 8 + 4 + 3 + 2, "{:?}", rig.registry.log());
    assert_eq!(rig.registry.violations(), [""; 0]);
}

/// Counted in the access log of Debian's docker-registry, without authentication and with a token server.
#[test]
fn docker_registry_gets_no_more_requests_than_the_budget() {
    need!(against_docker_registry());
}

fn against_docker_registry() -> Result<(), Skip> {
    let registry = Registry::start()?;
    let seen = Seen::new(&registry);
    seed(&registry, &User::new());
    seen.requests();
    let user = User::new();
    push(&registry, &user, "team/app:latest", "team/app:TAG").exits(0);
    assert_eq!(seen.requests(), "4 GET blob, 6 GET manifest, 1 HEAD manifest, 1 PUT manifest");
    push(&registry, &user, "team/app:latest", "team/app:TAG")
        .exits(0)
        .assert_stderr_contains("nothing to do in");
    assert_eq!(seen.requests(), "4 GET blob, 5 GET manifest, 1 HEAD manifest");
    push(&registry, &user, "team/all:latest", "team/TAG:1").exits(0);
    assert_eq!(seen.requests(), "4 GET blob, 6 GET manifest, 6 HEAD manifest, 8 POST blob, 5 PUT manifest");

    let (registry, tokens) = Registry::start_with_tokens()?;
    let seen = Seen::new(&registry);
    user.log_in(registry.host(), "ann", "s3cret");
    seed(&registry, &user);
    seen.requests();
    let before = tokens.requests().len();
    push(&registry, &user, "team/app:latest", "team/app:TAG").exits(0);
    // One more than without tokens: the rejected one. Which request is the first is not deterministic.
    let open = [
        "5 GET blob, 6 GET manifest, 1 HEAD manifest, 1 PUT manifest",
        "4 GET blob, 7 GET manifest, 1 HEAD manifest, 1 PUT manifest",
        "4 GET blob, 6 GET manifest, 2 HEAD manifest, 1 PUT manifest",
    ];
    let requests = seen.requests();
    assert!(open.contains(&requests.as_str()), "{requests}");
    assert_eq!(tokens.requests()[before..], ["repository:team/app:pull,push"]);
    let before = tokens.requests().len();
    push(&registry, &user, "team/all:latest", "team/TAG:1").exits(0);
    assert_eq!(
        tokens.requests().len() - before,
        1,
        "one token for five repositories: {:?}",
        tokens.requests()
    );
    seen.requests();

    // Another user may read only; the registry rejects the writes.
    let other = User::new();
    other.log_in(registry.host(), "eve", "guess");
    push(&registry, &other, "team/eve:latest", "team/app:TAG").exits(4);
    other.manifest_push(&["inspect", &format!("{}/team/app:latest", registry.host())]).exits(0);
    Ok(())
}

fn seed(registry: &Registry, user: &User) {
    for (tag, platform) in MEMBERS {
        Image::new(platform, tag).store(&OciLayout::open_or_create(&user.path("seed")).unwrap(), tag);
        for name in [format!("team/app:{tag}"), format!("team/{tag}:1")] {
            let to = format!("{}/{name}", registry.host());
            user.manifest_push(&["copy", &format!("oci:seed:{tag}"), &to]).exits(0);
        }
    }
}

fn push(registry: &Registry, user: &User, target: &str, images: &str) -> Ran {
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    let entry = |(tag, _): &(&str, &str)| format!("- image: {}\n", name(&images.replace("TAG", tag)));
    let entries: String = MEMBERS.iter().map(entry).collect();
    user.write("spec.yaml", format!("image: {}\nmanifests:\n{entries}", name(target)));
    user.manifest_push(&["push", "from-spec", "spec.yaml"])
}
