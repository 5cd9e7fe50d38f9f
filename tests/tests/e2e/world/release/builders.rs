//! Mislabeled images of each builder, which a release fixes, and which all clients can pull.

use super::*;
use multiarch_tests::need;

/// A builder, and the platforms that its images declare before the release.
struct Road {
    builder: &'static str,
    /// DOCKER_BUILDKIT
    kit: &'static str,
    /// The direct build: what a user types, and what a release has to come to as well.
    build: &'static str,
    /// One label an image, in the order of [`seed_images`].
    built: [&'static str; 4],
}

#[test]
fn the_classic_builder_declares_amd64_for_every_image_and_the_release_fixes_it() {
    // As Docker Hub built the seed's: without --platform, which is what moby/moby#36552 is about. Docker 20.10 would write the
    // label of a --platform, but a build with it takes what is in the cache, with the label that it has there.
    need!(walk(&Road { builder: "docker", kit: "0", build: "docker build -q", built: ["linux/amd64"; 4] }));
}

#[test]
fn buildkit_declares_the_right_platform_without_the_variant_of_arm64() {
    let built = ["linux/amd64", "linux/arm/v5", "linux/arm/v7", "linux/arm64"];
    need!(walk(&Road { builder: "docker", kit: "1", build: "docker build -q --platform", built }));
}

/// podman and buildah take `--platform` for what they build as well, but podman 4.3 and buildah 1.28 write `v7` for every arm.
const BUILDAH_SAYS: [&str; 4] = ["linux/amd64", "linux/arm/v7", "linux/arm/v7", "linux/arm64/v8"];

#[test]
fn podman_declares_v7_for_armv5_images_and_the_release_fixes_it() {
    let built = BUILDAH_SAYS;
    need!(walk(&Road { builder: "podman", kit: "", build: "podman build -q --platform", built }));
}

#[test]
fn buildah_declares_v7_for_armv5_images_and_the_release_fixes_it() {
    let built = BUILDAH_SAYS;
    need!(walk(&Road { builder: "buildah", kit: "", build: "buildah bud -q --layers --platform", built }));
}

fn walk(road: &Road) -> Result<(), Skip> {
    let workshop = Workshop::new(seed_images()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;

    let mut built = Vec::new();
    for (image, said) in workshop.images.iter().zip(road.built) {
        let config = build_directly(&world, &workshop, road, image);
        assert_eq!(label_of(&config), said, "{}", image.platform);
        built.push(config);
    }

    let keys = format!("image: {}\ntags: [latest]\nsmoke: [/bin/busybox, uname, -m]", world.image());
    workshop.write_spec(&keys, |_| road.builder);
    let published = release(&world, &workshop, road)?;
    for (image, built) in workshop.images.iter().zip(&built) {
        let row = workshop.reported(image);
        is_what_was_built_with_its_label_right(&world, image, &row, built);
        assert_eq!(row["builder"], road.builder);
        everybody_pulls_it_by_its_platform(&world, image, row["config"].as_str().unwrap());
    }

    let before = world.registry.requests().len();
    assert_eq!(release(&world, &workshop, road)?, published, "the same digest");
    assert_eq!(workshop.report()["changed"], false);
    assert_eq!(writes(&world.registry, before), Vec::<String>::new());
    Ok(())
}

/// Builds as the seed does, without this project. Gives the bytes of the config that the builder wrote.
fn build_directly(world: &World, workshop: &Workshop, road: &Road, image: &TestImage) -> Vec<u8> {
    let platform = if road.build.ends_with("--platform") { image.platform } else { "" };
    let id = world.build(workshop, image, road.kit, &format!("{} {platform}", road.build));
    let config = if road.builder == "docker" {
        let archive = workshop.path("direct.tar");
        world.good(&format!("docker save --output {} {id}", archive.display()));
        members_of(&archive)[&format!("{id}.json")].clone()
    } else {
        // The only way to a config's own bytes: `image inspect` writes them anew.
        let layout = workshop.path(&format!("direct-{}", image.name));
        world.good(&format!("{} push -q {id} oci:{}:x", road.builder, layout.display()));
        fs::read(layout.join("blobs/sha256").join(&id)).unwrap()
    };
    assert_eq!(digest_of(&config), format!("sha256:{id}"));
    config
}

/// Runs the release. Gives the digest that it prints.
fn release(world: &World, workshop: &Workshop, road: &Road) -> Result<String, Skip> {
    let mut command = workshop.release(&[])?;
    let said = run(world.enter(&mut command).env("DOCKER_BUILDKIT", road.kit));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let report = workshop.report();
    let published = said.stdout.strip_prefix(&format!("{}@", world.image())).map(str::trim_end);
    assert_eq!(published, report["digest"].as_str(), "stdout is the image and its digest: {}", said.stdout);
    assert_eq!(said.stderr.contains("nothing to do"), report["changed"] == false, "{}", said.stderr);
    Ok(published.unwrap().to_owned())
}

fn is_what_was_built_with_its_label_right(world: &World, image: &TestImage, row: &Value, built: &[u8]) {
    let reported = ["built", "published"].map(|when| label(&row["declared"][when]));
    assert_eq!(reported, [label_of(built), image.platform.to_owned()]);
    assert_eq!((&row["smoke"]["result"], &row["smoke"]["output"]), (&"passed".into(), &image.machine.into()));
    let digest = row["config"].as_str().unwrap();
    let published = stored(&world.registry, digest);
    assert_eq!(digest_of(&published), digest);
    assert_only_the_label_differs(built, &published, image.platform);
}

/// Each puller gets the image of the platform that it asks for, out of the one tag.
fn everybody_pulls_it_by_its_platform(world: &World, image: &TestImage, config: &str) {
    let (name, platform) = (format!("{}:latest", world.image()), image.platform);
    let says = format!("{platform} {}", image.machine);

    let flags = skopeo_platform(platform);
    let inspect = format!("skopeo {flags} inspect --tls-verify=false --config --raw docker://{name}");
    let raw = run(&mut world.enter(&mut words(&inspect)));
    assert_eq!(digest_of(raw.stdout.as_bytes()), config, "skopeo for {platform}: {}", raw.stderr);

    // In both, the id of an image is the digest of its config.
    let id = config.strip_prefix("sha256:").unwrap();
    assert_eq!(world.good(&format!("podman pull -q --platform {platform} {name}")), id);
    assert_eq!(world.good(&format!("podman run --rm {id}")), says);

    world.good(&format!("docker pull -q --platform {platform} {name}"));
    assert_eq!(docker_says(world, &name), (config.to_owned(), platform.to_owned()));
    assert_eq!(world.good(&format!("docker run --rm --network none {name}")), says);
}
