//! Mislabeled base images, which all engines use without an error and which a release refuses.

use super::*;
use multiarch_tests::need;

#[test]
fn a_mislabeled_base_image_stops_the_release_until_it_is_fixed() {
    need!(stop());
}

fn stop() -> Result<(), Skip> {
    let arm = || -> Result<Vec<TestImage>, Skip> {
        Ok(example_images()?.into_iter().filter(|image| image.name == "arm32v7").collect())
    };
    let base = Workshop::new(arm()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let name = format!("{}/base/busybox:arm", world.registry.host());
    // Programs for arm in an image that declares amd64.
    world.build(&base, &base.images[0], "0", &format!("docker build -q -t {name}"));
    world.run_ok(&format!("docker push -q {name}"));
    assert_eq!(docker_inspect(&world, &name).1, "linux/amd64");

    let workshop = Workshop::new(arm()?, "");
    let dockerfile = workshop.path("arm32v7/Dockerfile");
    fs::write(&dockerfile, format!("# An application.\nFROM {name}\nENV MADE_FOR=linux/arm/v7\n{CMD}\n"))
        .unwrap();
    let release = |builder: &'static str, kit: &str| -> Result<Output, Skip> {
        workshop.write_spec(&format!("image: {}\non-mismatch: fail", world.image()), |_| builder);
        Ok(run(world.enter(&mut workshop.release(&["--verbose"])?).env("DOCKER_BUILDKIT", kit)))
    };
    let stopped = |builder: &'static str, kit: &str, place: &str| -> Result<(), Skip> {
        let (files, requests) = (registry_files(&world.registry), world.registry.requests().len());
        let output = release(builder, kit)?;
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{builder}: {}", output.stderr);
        let line = format!("Dockerfile:2: \"{name}\" ");
        let error =
            output.stderr.lines().find(|error| error.contains(&line) && error.starts_with("cargo xtask: "));
        let error = error.unwrap_or_else(|| panic!("{builder}: {}", output.stderr));
        assert!(error.contains(place) && error.contains("linux/amd64"), "{error}");
        assert!(!workshop.path(".multiarch/logs").exists(), "{builder}: an image was built");
        assert_eq!((writes(&world.registry, requests), registry_files(&world.registry)), (vec![], files));
        Ok(())
    };
    // Without the check: the classic builder uses the base image although it contradicts --platform.
    let built = world.build(&workshop, &workshop.images[0], "0", "docker build -q --platform linux/arm/v7");
    assert_eq!(docker_inspect(&world, &built).1, "linux/amd64", "moby#36552");
    stopped("docker", "0", "in the storage of docker")?;
    stopped("docker", "1", "in the registry")?;
    world.run_ok(&format!("docker rmi -f {name}"));
    stopped("docker", "1", "in the registry")?;
    stopped("podman", "", "in the registry")?;
    stopped("buildah", "", "in the registry")?;

    let config_patcher = workspace_program("config-patcher")?;
    run_ok(&mut words(&format!("{} fix {name} --set-platform linux/arm/v7", config_patcher.display())));
    for (builder, kit) in [("docker", "0"), ("docker", "1"), ("podman", ""), ("buildah", "")] {
        let output = release(builder, kit)?;
        assert_eq!(output.code, Some(0), "{builder}: {}", output.stderr);
        let row = workshop.reported(&workshop.images[0]);
        assert_eq!(
            declared_platform_of(&stored(&world.registry, row["config"].as_str().unwrap())),
            "linux/arm/v7"
        );
    }
    // A copy in podman's own storage is used as well.
    world.run_ok(&format!("podman pull -q --platform linux/arm/v7 {name}"));
    let shown = release("podman", "")?;
    assert!(shown.stderr.contains("in the storage of podman"), "{}", shown.stderr);
    Ok(())
}
