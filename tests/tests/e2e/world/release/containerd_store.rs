//! An engine that keeps images in containerd's store, as Docker does by default since 29: it knows them by their manifests,
//! holds whole indexes, and its builds bring attestations.

use super::*;
use multiarch_tests::need;
use multiarch_tests::world::newer_docker;

struct Newer {
    world: World,
    config_patcher: PathBuf,
}

impl Newer {
    fn start() -> Result<Newer, Skip> {
        let newer = newer_docker()?;
        let engine = Engine::start_newer(Namespace::with_debian_emulators()?, &newer)?;
        Ok(Newer { world: World::around(engine)?, config_patcher: ours("config-patcher")? })
    }

    #[track_caller]
    fn docker(&self, arguments: &[&str]) -> String {
        good(&mut self.world.engine.command(arguments))
    }

    /// `config-patcher`, which finds the engine and the registry. Its stdout.
    #[track_caller]
    fn patch(&self, arguments: &[&str]) -> String {
        good(&mut self.world.enter(Command::new(&self.config_patcher).args(arguments)))
    }

    fn label(&self, name: &str) -> String {
        const FORMAT: &str = "{{.Os}}/{{.Architecture}}/{{.Variant}}";
        self.docker(&["image", "inspect", "--format", FORMAT, name])
    }
}

#[test]
fn a_release_uses_its_builds_with_docker_and_buildx() {
    need!(release());
}

fn release() -> Result<(), Skip> {
    let images = seed_images()?.into_iter().filter(|image| image.name != "arm32v5").collect();
    let workshop = Workshop::new(images, "");
    let Newer { world, .. } = Newer::start()?;
    let keys = format!("image: {}\nsmoke: [/bin/busybox, uname, -m]", world.image());
    workshop.write_spec(&keys, |image| if image.name == "arm64v8" { "buildx" } else { "docker" });
    let release = || run(&mut world.enter(&mut workshop.release(&[]).expect("built above")));
    workshop.release(&[])?;
    let said = release();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for image in &workshop.images {
        let row = workshop.reported(image);
        assert_eq!(row["smoke"]["output"], image.machine);
        assert_eq!(label_of(&stored(&world.registry, row["config"].as_str().unwrap())), image.platform);
    }
    let published = world.registry.requests().len();
    let again = release();
    assert_eq!((again.code, &again.stdout), (Some(0), &said.stdout), "{}", again.stderr);
    assert_eq!(writes(&world.registry, published), [""; 0]);
    Ok(())
}

#[test]
fn images_in_it_and_its_pushes_and_archives_are_fixed() {
    need!(fix());
}

fn fix() -> Result<(), Skip> {
    let images: Vec<TestImage> = seed_images()?.into_iter().filter(|image| image.name != "arm32v5").collect();
    let newer = Newer::start()?;
    let folder = tempfile::tempdir().unwrap();
    for (image, architecture) in images.iter().zip(["amd64", "arm", "arm64"]) {
        let tar = folder.path().join(format!("rootfs-{architecture}.tar"));
        fs::write(tar, rootfs_tar(&image.busybox)).unwrap();
    }
    let dockerfile = "FROM scratch\nARG TARGETARCH\nADD rootfs-$TARGETARCH.tar /\nCMD [\"/bin/busybox\", \"uname\", \"-m\"]\n";
    fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    let context = folder.path().to_str().unwrap();
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

    // As it was pushed, with its attestations: wrong and right again is the very index that BuildKit made.
    let made = newer.patch(&["inspect", "--format", "json", &name]);
    assert_eq!(parse(&made)["images"].as_array().map(Vec::len), Some(6), "{made}");
    newer.patch(&["verify", "--strict", &name]);
    // Its index entry says amd64 as well then: there are two of them, which is refused without --force.
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
    let told = run(&mut newer.world.enter(Command::new(&newer.config_patcher).args(["verify", &name])));
    assert_eq!((told.code, told.stdout.matches(": mislabeled").count()), (Some(1), 1), "{}", told.stdout);
    assert_eq!(newer.patch(&["fix", &name, "--from-binaries"]), parse(&made)["digest"]);

    // As it saves an index of several platforms, and takes it back.
    let archive = folder.path().join("multi.tar");
    newer.docker(&["save", "--output", archive.to_str().unwrap(), &name]);
    let saved = format!("docker-archive:{}", archive.display());
    newer.patch(&["verify", "--strict", &saved]);
    newer.patch(&["fix", &saved, "--platform", "linux/arm/v7", "--set-platform", "linux/arm/v6"]);
    newer.docker(&["load", "--input", archive.to_str().unwrap()]);
    assert_eq!(newer.docker(&["run", "--rm", "--platform", "linux/arm/v6", &name]), "armv7l");

    // Where it lies.
    let one = "team/one:arm";
    newer.docker(&["build", "-q", "--provenance=false", "--platform", "linux/arm/v7", "-t", one, context]);
    let daemon = format!("docker-daemon:{one}");
    let built = parse(&newer.patch(&["inspect", "--format", "json", &daemon]))["digest"].clone();
    newer.patch(&["fix", &daemon, "--set-platform", "linux/arm64"]);
    assert_eq!(newer.label(one), "linux/arm64/");
    assert_eq!(
        newer.patch(&["fix", &daemon, "--from-binaries"]),
        built,
        "what BuildKit built, byte for byte"
    );
    assert_eq!(newer.label(one), "linux/arm/v7");
    Ok(())
}
