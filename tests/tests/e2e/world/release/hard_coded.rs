//! A Dockerfile that copies a program for amd64 into the image for arm64. All builders accept it; the release must refuse it.

use super::*;
use multiarch_tests::need;

#[test]
fn a_dockerfile_with_a_program_for_another_platform_stops_the_release_with_file_and_layer() {
    need!(stop());
}

fn stop() -> Result<(), Skip> {
    let mut images: Vec<TestImage> =
        example_images()?.into_iter().filter(|image| ["amd64", "arm64v8"].contains(&image.name)).collect();
    images[1].busybox = images[0].busybox.clone();
    let workshop = Workshop::new(images, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    for (builder, kit) in [("docker", "0"), ("docker", "1"), ("podman", ""), ("buildah", "")] {
        // The smoke test alone would pass, because the host runs the program natively.
        let keys = format!("image: {}\nsmoke: [/bin/busybox, \"true\"]", world.image());
        workshop.write_spec(&keys, |_| builder);
        let (files, requests) = (registry_files(&world.registry), world.registry.requests().len());
        let output = run(world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", kit));
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{builder}: {}", output.stderr);
        let assert_error = |text: &str| {
            let mut lines = output.stderr.lines().filter(|line| line.starts_with("cargo xtask: "));
            assert!(lines.any(|line| line.contains(text)), "{builder}: {text}: {}", output.stderr);
        };
        assert!(
            output.stderr.contains("\nverify linux/arm64/v8: wrong build"),
            "{builder}: {}",
            output.stderr
        );
        assert_error("linux/arm64/v8: /bin/busybox is for linux/amd64, layer sha256:");
        assert_error("nothing was published");
        assert!(!output.stderr.contains("cargo xtask: linux/amd64:"), "{}", output.stderr);
        assert_eq!((writes(&world.registry, requests), registry_files(&world.registry)), (vec![], files));
    }
    Ok(())
}
