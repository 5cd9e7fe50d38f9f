//! Verification of base images before anything is built. A script in place of docker records its arguments, which must not
//! contain a build.

use crate::samples::{Image, Index};
use crate::tools::{Ran, User, run};
use crate::verify::made::{Layer, TestImage, image, probe, publish, verdict_of, zstd};
use multiarch_tests::fake_registry::FakeRegistry;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A docker with two images for amd64: `base:kept`, and one of the platforms of `base:pulled`.
const DOCKER: &str = r#"echo "$@" >> requests
case "$*" in
  version*Server*) echo 20.10.24;;
  version*) echo ${CLIENT:-20.10.24};;
  *inspect*"/base:kept"|*inspect*"/base:pulled") echo linux/amd64/;;
  *inspect*) echo "No such image" >&2; exit 1;;
  build*) echo "built after all" >&2; exit 9;;
esac"#;

/// `release` of linux/arm64 and linux/amd64 with this Dockerfile.
fn release(
    registry: &FakeRegistry,
    dockerfile: &str,
    args: &[&str],
    variables: &[(&str, &str)],
) -> (Ran, String) {
    let user = User::new();
    user.script("docker", DOCKER);
    user.write("Dockerfile", dockerfile.replace("HOST", &registry.host()));
    let spec = "builder: docker\nplatforms:\n  linux/amd64: { dockerfile: Dockerfile }\n  linux/arm64: { dockerfile: Dockerfile }\n";
    user.write("release.yaml", format!("image: {}/team/app\n{spec}", registry.host()));
    let mut command = user.command("xtask", &[&["release", "release.yaml"], args].concat());
    command.envs(variables.iter().copied());
    let ran = run(command);
    (ran, fs::read_to_string(user.path("requests")).unwrap())
}

/// `base:one`, one image for amd64; `base:many` and `base:pulled`, an index for amd64 and arm64.
fn bases() -> FakeRegistry {
    let registry = FakeRegistry::start();
    let (amd64, arm64) = (Image::new("linux/amd64", "amd64's"), Image::new("linux/arm64", "arm64's"));
    amd64.publish(&registry, "base", "one");
    for tag in ["many", "pulled"] {
        Index::of(&[("linux/amd64", &amd64), ("linux/arm64", &arm64)]).publish(&registry, "base", tag);
    }
    registry
}

#[test]
fn a_base_image_for_another_platform_stops_the_release_with_the_line_of_its_from() {
    let registry = bases();
    let stops = |dockerfile: &str, variables: &[(&str, &str)], named: &str| {
        for args in [&["--dry-run"][..], &[]] {
            let (ran, requests) = release(&registry, dockerfile, args, variables);
            let ran = ran.exits(1);
            let named = named.replace("HOST", &registry.host());
            assert!(
                ran.stderr.contains(&named) && ran.stderr.contains("nothing was built"),
                "{named}: {ran}"
            );
            assert!(!ran.stderr.contains("config-patcher fix"), "{ran}");
            assert!(!requests.lines().any(|line| line.starts_with("build")), "{requests}");
            assert_eq!(ran.stdout, "");
        }
    };
    let one = "\"HOST/base:one\" is for linux/amd64, in the registry, but the image is for linux/arm64";
    stops("# base\nFROM HOST/base:one\n", &[], &format!("Dockerfile:2: {one}"));
    stops(
        "ARG B=one\nFROM scratch AS x\n\nFROM HOST/base:$B\nCOPY --from=x / /\n",
        &[],
        &format!("Dockerfile:4: {one}"),
    );
    stops(
        "FROM --platform=linux/amd64 HOST/base:many\n",
        &[],
        "Dockerfile:1: \"HOST/base:many\" is pulled with --platform=linux/amd64, whatever platform is built, but the image is for linux/arm64",
    );
    // The classic builder uses the image that it has; BuildKit would pull another one, but there is none.
    let kept = "Dockerfile:1: \"HOST/base:kept\" is for linux/amd64, in the storage of docker, but the image is for linux/arm64; name a base image for linux/arm64";
    stops("FROM HOST/base:kept\n", &[("DOCKER_BUILDKIT", "0")], kept);
    stops("FROM HOST/base:kept\n", &[], kept);
    // The base image is right, but the engine has pulled another platform of it.
    stops(
        "FROM HOST/base:pulled\n",
        &[],
        "give linux/arm64 a Dockerfile of its own with FROM HOST/base:pulled@sha256:",
    );
    stops("FROM HOST/base:pulled\n", &[], "set DOCKER_BUILDKIT=1");
    assert!(registry.log().iter().all(|requests| ["GET", "HEAD"].contains(&requests.method.as_str())));
}

#[test]
fn a_dockerfile_of_its_own_with_the_digest_is_built() {
    let registry = bases();
    let (ran, _) = release(&registry, "FROM HOST/base:pulled\n", &[], &[]);
    let ran = ran.exits(1);
    let (_, from) = ran.stderr.split_once("a Dockerfile of its own with ").unwrap();
    let user = User::new();
    user.script("docker", DOCKER);
    user.write("Dockerfile", format!("FROM {}/base:pulled\n", registry.host()));
    user.write("arm64.dockerfile", format!("{}\n", from.lines().next().unwrap()));
    let spec = "builder: docker\nplatforms:\n  linux/amd64: { dockerfile: Dockerfile }\n  linux/arm64: { dockerfile: arm64.dockerfile }\n";
    user.write("release.yaml", format!("image: {}/team/app\n{spec}", registry.host()));
    user.release(&["release.yaml"]).exits(10).assert_stderr_contains("built after all");
}

#[test]
fn a_base_image_that_is_right_or_cannot_be_checked_does_not_stop_the_release() {
    let registry = bases();
    let goes_on = |dockerfile: &str, said: &str| {
        let (ran, requests) = release(&registry, dockerfile, &["--dry-run", "--verbose"], &[]);
        assert!(ran.exits(0).stderr.contains(said), "{said}");
        assert!(!requests.lines().any(|line| line.starts_with("build")), "{requests}");
        // It gets to the build, which is all that this docker does not do.
        let (ran, requests) = release(&registry, dockerfile, &[], &[]);
        let ran = ran.exits(10);
        assert!(ran.stderr.contains("built after all") && requests.contains("\nbuild"), "{ran}");
    };
    goes_on("FROM HOST/base:many\n", "base:many\" has linux/arm64, in the registry");
    goes_on("FROM HOST/base:none\n", "base:none\" could not be checked: ");
    // Port 9 is discard, where no server listens.
    goes_on("FROM 127.0.0.1:9/base:x\n", "base:x\" could not be checked: ");
    goes_on(
        "FROM --platform=linux/amd64 HOST/base:one AS tool\nFROM scratch\nCOPY --from=tool / /\n",
        "base:one\" is for linux/amd64",
    );
    goes_on("FROM HOST/base:one AS unused\nFROM scratch\nCOPY Dockerfile /\n", "plan for");
}

#[test]
fn the_embedded_builder_takes_a_base_with_zstd_layers() {
    let registry = FakeRegistry::start();
    let layer = Layer::new().file("usr/lib/data", b"data").symlink("lib", "usr/lib").end();
    publish(&registry, &TestImage { packed: zstd, ..image("linux/amd64", &["/app"], vec![layer]) }, "base");
    let user = User::new();
    user.write("app", probe("linux/amd64"));
    fs::set_permissions(user.path("app"), fs::Permissions::from_mode(0o755)).unwrap();
    let host = registry.host();
    let recipe =
        format!("builder: rootfs, from: {host}/app:base, copy: {{ app: /lib/app }}, cmd: [/lib/app]");
    user.write(
        "release.yaml",
        format!("image: {host}/team/app\nplatforms:\n  linux/amd64: {{ {recipe} }}\n"),
    );
    run(user.command("xtask", &["release", "release.yaml"])).exits(0);
    let (verdict, binaries, _) = verdict_of(&user, &format!("{host}/team/app:latest"));
    assert_eq!((verdict.as_str(), binaries.as_str()), ("consistent", "linux/amd64"));
}
