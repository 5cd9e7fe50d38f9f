//! One Dockerfile with the same layers for every platform, which layer caches regard as one image.

use super::*;
use multiarch_tests::need;

const PLATFORMS: [&str; 4] = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64/v8"];

#[test]
fn a_shared_dockerfile_has_the_platform_and_arguments_of_each_image_and_is_published_once() {
    need!(share());
}

fn share() -> Result<(), Skip> {
    let world = World::start(Namespace::with_debian_emulators()?)?;
    for (builder, kit) in [("docker", "0"), ("docker", "1"), ("podman", ""), ("buildah", "")] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("page"), "the same everywhere").unwrap();
        // podman and buildah share a cache; the LABEL makes their images different.
        let dockerfile = format!(
            "FROM scratch\nLABEL builder={builder}\nCOPY page /\nARG TARGETARCH\nENV BUILT_FOR=$TARGETARCH\nARG WORD\nENV WORD=$WORD\n"
        );
        fs::write(path("Dockerfile"), dockerfile).unwrap();
        let rows = PLATFORMS.map(|platform| {
            format!("  {platform}: {{ builder: {builder}, dockerfile: Dockerfile, build-args: {{ WORD: {platform} }} }}\n")
        });
        let tag = format!("{builder}{kit}");
        let spec = format!("image: {}\ntags: [{tag}]\nplatforms:\n{}", world.image(), rows.concat());
        fs::write(path("release.yaml"), spec).unwrap();
        let release = || -> Result<(Value, String), Skip> {
            let mut command = Command::new(workspace_program("xtask")?);
            command
                .args(["release", "release.yaml", "--work-dir", ".multiarch"])
                .current_dir(directory.path());
            let output = run(world.enter(&mut command).env("DOCKER_BUILDKIT", kit));
            assert_eq!(output.code, Some(0), "{tag}: {}", output.stderr);
            Ok((parse(&fs::read_to_string(path(".multiarch/report.json")).unwrap()), output.stderr))
        };
        let (first, _) = release()?;
        let rows = first["platforms"].as_array().unwrap();
        assert_eq!(rows.len(), PLATFORMS.len());
        for (row, platform) in rows.iter().zip(PLATFORMS) {
            let config = String::from_utf8(stored(&world.registry, row["config"].as_str().unwrap())).unwrap();
            let config = parse(&config);
            assert_eq!(
                platform_of(&config).trim_end_matches("/v8"),
                platform.trim_end_matches("/v8"),
                "{tag}"
            );
            let environment = config["config"]["Env"].as_array().unwrap();
            assert!(environment.contains(&format!("WORD={platform}").into()), "{tag} {platform}: {config}");
            // The classic builder does not set TARGETARCH.
            let machine = if kit == "0" { "" } else { platform.split('/').nth(1).unwrap() };
            assert!(
                environment.contains(&format!("BUILT_FOR={machine}").into()),
                "{tag} {platform}: {config}"
            );
        }
        let requests = world.registry.requests().len();
        let (again, output) = release()?;
        assert_eq!(again["digest"], first["digest"], "{tag}: {output}");
        assert_eq!(
            (writes(&world.registry, requests), &again["changed"]),
            (vec![], &Value::Bool(false)),
            "{tag}"
        );
    }
    Ok(())
}
