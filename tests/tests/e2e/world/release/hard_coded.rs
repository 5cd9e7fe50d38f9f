//! A Dockerfile that hard-codes the wrong machine: the build for arm64 takes in the program that was made for amd64. Every
//! builder builds it, every emulator hides it, and it must not leave.

use super::*;
use multiarch_tests::need;

#[test]
fn a_dockerfile_with_a_program_for_another_platform_stops_the_release_with_file_and_layer() {
    need!(stop());
}

fn stop() -> Result<(), Skip> {
    let mut images: Vec<TestImage> =
        seed_images()?.into_iter().filter(|image| ["amd64", "arm64v8"].contains(&image.name)).collect();
    images[1].busybox = images[0].busybox.clone();
    let workshop = Workshop::new(images, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    for (builder, kit) in [("docker", "0"), ("docker", "1"), ("podman", ""), ("buildah", "")] {
        // It would pass this: the host runs it by itself.
        let keys = format!("image: {}\nsmoke: [/bin/busybox, \"true\"]", world.image());
        workshop.write_spec(&keys, |_| builder);
        let (files, asked) = (everything_in(&world.registry), world.registry.requests().len());
        let said = run(world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", kit));
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{builder}: {}", said.stderr);
        let told = |text: &str| {
            let mut lines = said.stderr.lines().filter(|line| line.starts_with("cargo xtask: "));
            assert!(lines.any(|line| line.contains(text)), "{builder}: {text}: {}", said.stderr);
        };
        assert!(said.stderr.contains("\nverify linux/arm64/v8: mislabeled"), "{builder}: {}", said.stderr);
        told("linux/arm64/v8: /bin/busybox is for linux/amd64, layer sha256:");
        told("nothing was published");
        assert!(!said.stderr.contains("cargo xtask: linux/amd64:"), "{}", said.stderr);
        assert_eq!((writes(&world.registry, asked), everything_in(&world.registry)), (vec![], files));
    }
    Ok(())
}
