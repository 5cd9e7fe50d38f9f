//! One Dockerfile, and the same files on nothing, for every platform: what every layer cache takes for the same image.

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
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("page"), "the same everywhere").unwrap();
        // podman and buildah share a cache, which is not what this is about.
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
            let mut command = Command::new(ours("xtask")?);
            command.args(["release", "release.yaml", "--work-dir", ".multiarch"]).current_dir(folder.path());
            let said = run(world.enter(&mut command).env("DOCKER_BUILDKIT", kit));
            assert_eq!(said.code, Some(0), "{tag}: {}", said.stderr);
            Ok((parse(&fs::read_to_string(path(".multiarch/report.json")).unwrap()), said.stderr))
        };
        let (first, _) = release()?;
        let rows = first["platforms"].as_array().unwrap();
        assert_eq!(rows.len(), PLATFORMS.len());
        for (row, platform) in rows.iter().zip(PLATFORMS) {
            let config = String::from_utf8(stored(&world.registry, row["config"].as_str().unwrap())).unwrap();
            let config = parse(&config);
            assert_eq!(label(&config).trim_end_matches("/v8"), platform.trim_end_matches("/v8"), "{tag}");
            let environment = config["config"]["Env"].as_array().unwrap();
            assert!(environment.contains(&format!("WORD={platform}").into()), "{tag} {platform}: {config}");
            // The classic builder knows no TARGETARCH.
            let machine = if kit == "0" { "" } else { platform.split('/').nth(1).unwrap() };
            assert!(
                environment.contains(&format!("BUILT_FOR={machine}").into()),
                "{tag} {platform}: {config}"
            );
        }
        let asked = world.registry.requests().len();
        let (again, said) = release()?;
        assert_eq!(again["digest"], first["digest"], "{tag}: {said}");
        assert_eq!(
            (writes(&world.registry, asked), &again["changed"]),
            (vec![], &Value::Bool(false)),
            "{tag}"
        );
    }
    Ok(())
}
