//! A Docker Engine with containerd's image store, the default since Docker 29: it identifies images by their manifests, stores
//! complete indexes, and its builds have attestations.

use super::*;
use multiarch_tests::need;
use multiarch_tests::world::newer_docker;

struct NewerDocker {
    world: World,
    config_patcher: PathBuf,
}

impl NewerDocker {
    fn start() -> Result<NewerDocker, Skip> {
        let newer = newer_docker()?;
        let engine = Engine::start_newer(Namespace::with_debian_emulators()?, &newer)?;
        Ok(NewerDocker {
            world: World::with_engine(engine)?,
            config_patcher: workspace_program("config-patcher")?,
        })
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        run_ok(&mut self.world.engine.command(arguments))
    }

    /// Runs `config-patcher` in the namespace of engine and registry. Returns stdout.
    #[track_caller]
    fn patch(&self, arguments: &[&str]) -> String {
        run_ok(&mut self.world.enter(Command::new(&self.config_patcher).args(arguments)))
    }

    fn platform_of(&self, name: &str) -> String {
        const FORMAT: &str = "{{.Os}}/{{.Architecture}}/{{.Variant}}";
        self.docker(&["image", "inspect", "--format", FORMAT, name])
    }
}

#[test]
fn a_release_builds_with_docker_and_buildx() {
    need!(release());
}

fn release() -> Result<(), Skip> {
    let images = example_images()?.into_iter().filter(|image| image.name != "arm32v5").collect();
    let workshop = Workshop::new(images, "");
    let NewerDocker { world, .. } = NewerDocker::start()?;
    let keys = format!("image: {}\nsmoke: [/bin/busybox, uname, -m]", world.image());
    workshop.write_spec(&keys, |image| if image.name == "arm64v8" { "buildx" } else { "docker" });
    let release = || run(&mut world.enter(&mut workshop.release(&[]).expect("built above")));
    workshop.release(&[])?;
    let output = release();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    for image in &workshop.images {
        let row = workshop.reported(image);
        assert_eq!(row["smoke"]["output"], image.machine);
        assert_eq!(
            declared_platform_of(&stored(&world.registry, row["config"].as_str().unwrap())),
            image.platform
        );
    }
    let published = world.registry.requests().len();
    let again = release();
    assert_eq!((again.code, &again.stdout), (Some(0), &output.stdout), "{}", again.stderr);
    assert_eq!(writes(&world.registry, published), [""; 0]);
    Ok(())
}

#[test]
fn images_in_the_engine_and_its_pushes_and_archives_are_fixed() {
    need!(fix());
}

fn fix() -> Result<(), Skip> {
    let images: Vec<TestImage> =
        example_images()?.into_iter().filter(|image| image.name != "arm32v5").collect();
    let newer = NewerDocker::start()?;
    let directory = tempfile::tempdir().unwrap();
    for (image, architecture) in images.iter().zip(["amd64", "arm", "arm64"]) {
        let tar = directory.path().join(format!("rootfs-{architecture}.tar"));
        fs::write(tar, rootfs_tar(&image.busybox)).unwrap();
    }
    let dockerfile = "FROM scratch\nARG TARGETARCH\nADD rootfs-$TARGETARCH.tar /\nCMD [\"/bin/busybox\", \"uname\", \"-m\"]\n";
    fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    let context = directory.path().to_str().unwrap();
    let name = format!("{}/team/multi:1", newer.world.registry.host());
    let all = "linux/amd64,linux/arm/v7,linux/arm64";
    newer.docker(&[
        "buildx",
        "build",
        "-q",
        "--platform",
        all,
        "--provenance=mode=max",
        "--push",
        "-t",
        &name,
        context,
    ]);

    // The pushed index with attestations: after a wrong relabel and a fix, it is the index that BuildKit pushed.
    let made = newer.patch(&["inspect", "--format", "json", &name]);
    assert_eq!(parse(&made)["images"].as_array().map(Vec::len), Some(6), "{made}");
    newer.patch(&["verify", "--strict", &name]);
    // Two entries for amd64 are refused without --force.
    let wrong = newer.patch(&[
        "fix",
        &name,
        "--platform",
        "linux/arm/v7",
        "--set-platform",
        "linux/amd64",
        "--force",
    ]);
    assert_ne!(wrong, parse(&made)["digest"]);
    let verified = run(&mut newer.world.enter(Command::new(&newer.config_patcher).args(["verify", &name])));
    assert_eq!(
        (verified.code, verified.stdout.matches(": mislabeled").count()),
        (Some(1), 1),
        "{}",
        verified.stdout
    );
    assert_eq!(newer.patch(&["fix", &name, "--from-binaries"]), parse(&made)["digest"]);

    // An archive of `docker save` with several platforms, and `docker load` after the fix.
    let archive = directory.path().join("multi.tar");
    newer.docker(&["save", "--output", archive.to_str().unwrap(), &name]);
    let saved = format!("docker-archive:{}", archive.display());
    newer.patch(&["verify", "--strict", &saved]);
    newer.patch(&["fix", &saved, "--platform", "linux/arm/v7", "--set-platform", "linux/arm/v6"]);
    newer.docker(&["load", "--input", archive.to_str().unwrap()]);
    assert_eq!(newer.docker(&["run", "--rm", "--platform", "linux/arm/v6", &name]), "armv7l");

    // The image in the engine.
    let one = "team/one:arm";
    newer.docker(&["build", "-q", "--provenance=false", "--platform", "linux/arm/v7", "-t", one, context]);
    let daemon = format!("docker-daemon:{one}");
    let built = parse(&newer.patch(&["inspect", "--format", "json", &daemon]))["digest"].clone();
    newer.patch(&["fix", &daemon, "--set-platform", "linux/arm64"]);
    assert_eq!(newer.platform_of(one), "linux/arm64/");
    assert_eq!(
        newer.patch(&["fix", &daemon, "--from-binaries"]),
        built,
        "the image must have the bytes that BuildKit wrote"
    );
    assert_eq!(newer.platform_of(one), "linux/arm/v7");
    Ok(())
}
