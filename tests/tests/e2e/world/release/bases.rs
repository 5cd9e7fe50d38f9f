//! A mislabeled base image, as many old arm images are: each engine would build on it, and the release refuses it.

use super::*;
use multiarch_tests::need;

#[test]
fn a_mislabeled_base_image_stops_the_release_until_it_is_fixed() {
    need!(stop());
}

fn stop() -> Result<(), Skip> {
    let arm = || -> Result<Vec<TestImage>, Skip> {
        Ok(seed_images()?.into_iter().filter(|image| image.name == "arm32v7").collect())
    };
    let base = Workshop::new(arm()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let name = format!("{}/base/busybox:arm", world.registry.host());
    // As the seed built it: programs for arm, declared amd64.
    world.build(&base, &base.images[0], "0", &format!("docker build -q -t {name}"));
    world.good(&format!("docker push -q {name}"));
    assert_eq!(docker_says(&world, &name).1, "linux/amd64");

    let workshop = Workshop::new(arm()?, "");
    let dockerfile = workshop.path("arm32v7/Dockerfile");
    fs::write(&dockerfile, format!("# An application.\nFROM {name}\nENV MADE_FOR=linux/arm/v7\n{CMD}\n"))
        .unwrap();
    let release = |builder: &'static str, kit: &str| -> Result<Said, Skip> {
        workshop.write_spec(&format!("image: {}\non-mismatch: fail", world.image()), |_| builder);
        Ok(run(world.enter(&mut workshop.release(&["--verbose"])?).env("DOCKER_BUILDKIT", kit)))
    };
    let stopped = |builder: &'static str, kit: &str, place: &str| -> Result<(), Skip> {
        let (files, asked) = (everything_in(&world.registry), world.registry.requests().len());
        let said = release(builder, kit)?;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{builder}: {}", said.stderr);
        let line = format!("Dockerfile:2: \"{name}\" ");
        let told = said.stderr.lines().find(|told| told.contains(&line) && told.starts_with("cargo xtask: "));
        let told = told.unwrap_or_else(|| panic!("{builder}: {}", said.stderr));
        assert!(told.contains(place) && told.contains("linux/amd64"), "{told}");
        assert!(!workshop.path(".multiarch/logs").exists(), "{builder}: nothing was built");
        assert_eq!((writes(&world.registry, asked), everything_in(&world.registry)), (vec![], files));
        Ok(())
    };
    // What would have come of it: the classic builder asks nobody, although --platform says what is wanted.
    let built = world.build(&workshop, &workshop.images[0], "0", "docker build -q --platform linux/arm/v7");
    assert_eq!(docker_says(&world, &built).1, "linux/amd64", "moby#36552");
    stopped("docker", "0", "in the storage of docker")?;
    stopped("docker", "1", "in the registry")?;
    world.good(&format!("docker rmi -f {name}"));
    stopped("docker", "1", "in the registry")?;
    stopped("podman", "", "in the registry")?;
    stopped("buildah", "", "in the registry")?;

    let config_patcher = ours("config-patcher")?;
    good(&mut words(&format!("{} fix {name} --set-platform linux/arm/v7", config_patcher.display())));
    for (builder, kit) in [("docker", "0"), ("docker", "1"), ("podman", ""), ("buildah", "")] {
        let said = release(builder, kit)?;
        assert_eq!(said.code, Some(0), "{builder}: {}", said.stderr);
        let row = workshop.reported(&workshop.images[0]);
        assert_eq!(label_of(&stored(&world.registry, row["config"].as_str().unwrap())), "linux/arm/v7");
    }
    // What podman has itself counts as well.
    world.good(&format!("podman pull -q --platform linux/arm/v7 {name}"));
    let shown = release("podman", "")?;
    assert!(shown.stderr.contains("in the storage of podman"), "{}", shown.stderr);
    Ok(())
}
