//! Platforms that the builders declare, and releases that fix them for all clients.

use super::*;
use multiarch_tests::need;

/// A builder, and the platforms that its images declare before the release.
struct BuilderCase {
    builder: &'static str,
    /// Value of DOCKER_BUILDKIT.
    kit: &'static str,
    /// The command of a build without a release.
    build: &'static str,
    /// The platform that each image declares, in the order of [`example_images`].
    built: [&'static str; 4],
}

#[test]
fn the_classic_builder_declares_amd64_for_every_image_and_the_release_fixes_it() {
    // Without --platform, as Docker Hub builds (moby/moby#36552). With --platform, Docker 20.10 declares that platform, but it
    // uses images in the cache with the platform that they declare.
    need!(check_builder(&BuilderCase {
        builder: "docker",
        kit: "0",
        build: "docker build -q",
        built: ["linux/amd64"; 4]
    }));
}

#[test]
fn buildkit_declares_the_right_platform_without_the_variant_of_arm64() {
    let built = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64"];
    need!(check_builder(&BuilderCase {
        builder: "docker",
        kit: "1",
        build: "docker build -q --platform",
        built
    }));
}

/// podman and buildah declare the value of `--platform`, except that podman 4.3 and buildah 1.28 declare `v7` for every arm.
const BUILDAH_DECLARES: [&str; 4] = ["linux/amd64", "linux/arm/v7", "linux/arm/v7", "linux/arm64/v8"];

#[test]
fn podman_declares_v7_for_armv5_images_and_the_release_fixes_it() {
    let built = BUILDAH_DECLARES;
    need!(check_builder(&BuilderCase {
        builder: "podman",
        kit: "",
        build: "podman build -q --platform",
        built
    }));
}

#[test]
fn buildah_declares_v7_for_armv5_images_and_the_release_fixes_it() {
    let built = BUILDAH_DECLARES;
    need!(check_builder(&BuilderCase {
        builder: "buildah",
        kit: "",
        build: "buildah bud -q --layers --platform",
        built
    }));
}

fn check_builder(case: &BuilderCase) -> Result<(), Skip> {
    let workshop = Workshop::new(example_images()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;

    let mut built = Vec::new();
    for (image, declared) in workshop.images.iter().zip(case.built) {
        let config = build_directly(&world, &workshop, case, image);
        assert_eq!(declared_platform_of(&config), declared, "{}", image.platform);
        built.push(config);
    }

    let keys = format!("image: {}\ntags: [latest]\nsmoke: [/bin/busybox, uname, -m]", world.image());
    workshop.write_spec(&keys, |_| case.builder);
    let published = release(&world, &workshop, case)?;
    for (image, built) in workshop.images.iter().zip(&built) {
        let row = workshop.reported(image);
        assert_platform_fixed(&world, image, &row, built);
        assert_eq!(row["builder"], case.builder);
        assert_all_clients_pull_by_platform(&world, image, row["config"].as_str().unwrap());
    }

    let before = world.registry.requests().len();
    assert_eq!(release(&world, &workshop, case)?, published, "the digest changed");
    assert_eq!(workshop.report()["changed"], false);
    assert_eq!(writes(&world.registry, before), Vec::<String>::new());
    Ok(())
}

/// Builds an image without a release. Returns the bytes of its config.
fn build_directly(world: &World, workshop: &Workshop, case: &BuilderCase, image: &TestImage) -> Vec<u8> {
    let platform = if case.build.ends_with("--platform") { image.platform } else { "" };
    let id = world.build(workshop, image, case.kit, &format!("{} {platform}", case.build));
    let config = if case.builder == "docker" {
        let archive = workshop.path("direct.tar");
        world.run_ok(&format!("docker save --output {} {id}", archive.display()));
        members_of(&archive)[&format!("{id}.json")].clone()
    } else {
        // `image inspect` does not print the config byte for byte.
        let layout = workshop.path(&format!("direct-{}", image.name));
        world.run_ok(&format!("{} push -q {id} oci:{}:x", case.builder, layout.display()));
        fs::read(layout.join("blobs/sha256").join(&id)).unwrap()
    };
    assert_eq!(digest_of(&config), format!("sha256:{id}"));
    config
}

/// Runs the release. Returns the digest that it prints.
fn release(world: &World, workshop: &Workshop, case: &BuilderCase) -> Result<String, Skip> {
    let mut command = workshop.release(&[])?;
    let output = run(world.enter(&mut command).env("DOCKER_BUILDKIT", case.kit));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let report = workshop.report();
    let published = output.stdout.strip_prefix(&format!("{}@", world.image())).map(str::trim_end);
    assert_eq!(published, report["digest"].as_str(), "stdout is the image and its digest: {}", output.stdout);
    assert_eq!(output.stderr.contains("nothing to do"), report["changed"] == false, "{}", output.stderr);
    Ok(published.unwrap().to_owned())
}

fn assert_platform_fixed(world: &World, image: &TestImage, row: &Value, built: &[u8]) {
    let reported = ["built", "published"].map(|when| platform_of(&row["declared"][when]));
    assert_eq!(reported, [declared_platform_of(built), image.platform.to_owned()]);
    assert_eq!((&row["smoke"]["result"], &row["smoke"]["output"]), (&"passed".into(), &image.machine.into()));
    let digest = row["config"].as_str().unwrap();
    let published = stored(&world.registry, digest);
    assert_eq!(digest_of(&published), digest);
    assert_only_the_platform_differs(built, &published, image.platform);
}

/// Every client gets the image of the requested platform from the index.
fn assert_all_clients_pull_by_platform(world: &World, image: &TestImage, config: &str) {
    let (name, platform) = (format!("{}:latest", world.image()), image.platform);
    let expected = format!("{platform} {}", image.machine);

    let flags = skopeo_platform(platform);
    let inspect = format!("skopeo {flags} inspect --tls-verify=false --config --raw docker://{name}");
    let raw = run(&mut world.enter(&mut words(&inspect)));
    assert_eq!(digest_of(raw.stdout.as_bytes()), config, "skopeo for {platform}: {}", raw.stderr);

    // In podman and docker, the ID of an image is the digest of its config.
    let id = config.strip_prefix("sha256:").unwrap();
    assert_eq!(world.run_ok(&format!("podman pull -q --platform {platform} {name}")), id);
    assert_eq!(world.run_ok(&format!("podman run --rm {id}")), expected);

    world.run_ok(&format!("docker pull -q --platform {platform} {name}"));
    assert_eq!(docker_inspect(world, &name), (config.to_owned(), platform.to_owned()));
    assert_eq!(world.run_ok(&format!("docker run --rm --network none {name}")), expected);
}
