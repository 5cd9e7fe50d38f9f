//! Dockerfiles with RUN instructions for other platforms, which need emulators on this host.

use super::*;
use multiarch_tests::need;

/// The smoke command prints the file of the RUN instruction, so the report has its content.
const RUN: &str = "RUN /bin/busybox uname -m > /machine";
const SMOKE: &str = "smoke: [/bin/cat, /machine]";

/// Returns the handlers that are registered in the namespace.
fn registered(namespace: &Namespace) -> Vec<String> {
    let entries = fs::read_dir(namespace.binfmt()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "register" && name != "status").collect();
    names.sort();
    names
}

/// Returns the images that need an emulator and that `uname -m` distinguishes.
fn foreign_images() -> Result<Vec<TestImage>, Skip> {
    Ok(example_images()?.into_iter().filter(|image| ["arm32v7", "arm64v8"].contains(&image.name)).collect())
}

#[test]
fn emulators_for_run_instructions_are_registered_by_a_release_and_printed_by_a_dry_run() {
    need!(register());
}

fn register() -> Result<(), Skip> {
    require(&["qemu-arm-static", "qemu-aarch64-static"])?;
    let binfmt_setup = workspace_program("binfmt-setup")?;
    let command = format!("{} register linux/arm/v7 linux/arm64/v8", binfmt_setup.display());
    let world = World::start(Namespace::start()?)?;
    let table = || registered(world.engine.namespace());
    for (builder, kit) in [("docker", "1"), ("podman", ""), ("buildah", "")] {
        // Different images for each builder, since published ones are not built again.
        let workshop = Workshop::new(foreign_images()?, &format!("LABEL builder={builder}\n{RUN}"));
        workshop.write_spec(&format!("image: {}\ntags: [{builder}]\n{SMOKE}", world.image()), |_| builder);
        let release = |arguments: &[&str]| -> Result<Output, Skip> {
            Ok(run(world.enter(&mut workshop.release(arguments)?).env("DOCKER_BUILDKIT", kit)))
        };

        let (files, requests) = (registry_files(&world.registry), world.registry.requests().len());
        let shown = release(&["--dry-run"])?;
        assert_eq!(shown.code, Some(0), "{}", shown.stderr);
        assert!(shown.stderr.contains(&format!("  emulators {command}\n")), "{}", shown.stderr);
        assert_eq!((table(), shown.stdout.as_str()), (vec![], ""));
        assert!(!workshop.path(".multiarch").exists());
        assert_eq!((writes(&world.registry, requests), registry_files(&world.registry)), (vec![], files));

        let done = release(&[])?;
        assert_eq!(done.code, Some(0), "{builder}: {}", done.stderr);
        assert!(done.stderr.contains(&format!("emulators: {command}\n")), "{}", done.stderr);
        assert_eq!(table().len(), 2, "{:?}", table());
        assert!(world.is_published(builder));
        for image in &workshop.images {
            let row = workshop.reported(image);
            assert_eq!(row["smoke"]["output"], image.machine, "{builder}: output of RUN");
            assert_eq!(
                declared_platform_of(&stored(&world.registry, row["config"].as_str().unwrap())),
                image.platform
            );
        }

        // The handlers are registered now, so the plan does not have them.
        let again = release(&["--dry-run"])?;
        assert!(!again.stderr.contains("emulators"), "{}", again.stderr);
        world.run_ok(&format!("{} unregister all", binfmt_setup.display()));
        assert_eq!(table(), Vec::<String>::new());
    }
    // The printed command is complete.
    world.run_ok(&command);
    assert_eq!(table().len(), 2, "{:?}", table());
    Ok(())
}

#[test]
fn all_builders_run_programs_under_debians_emulators_in_one_release() {
    need!(build_with_debians_emulators());
}

fn build_with_debians_emulators() -> Result<(), Skip> {
    let workshop = Workshop::new(example_images()?, RUN);
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let table = || registered(world.engine.namespace());
    let before = table();
    workshop.write_spec(&format!("image: {}\n{SMOKE}", world.image()), |image| match image.name {
        "arm32v7" => "podman",
        "arm64v8" => "buildah",
        _ => "docker",
    });
    // The classic builder caches images that declare amd64, which must not stop the second step of a build for arm.
    let done = run(world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", "0"));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(!done.stderr.contains("emulators"), "{}", done.stderr);
    assert_eq!(table(), before);
    for image in &workshop.images {
        let row = workshop.reported(image);
        assert_eq!(row["smoke"]["output"], image.machine, "output of RUN");
        assert_eq!(
            declared_platform_of(&stored(&world.registry, row["config"].as_str().unwrap())),
            image.platform
        );
    }
    Ok(())
}

#[test]
fn a_release_with_private_emulators_registers_nothing() {
    need!(build_in_private());
}

fn build_in_private() -> Result<(), Skip> {
    require(&["qemu-arm-static", "qemu-aarch64-static", "podman", "buildah"])?;
    let workshop = Workshop::new(foreign_images()?, RUN);
    let namespace = Namespace::start()?;
    let containers = tempfile::tempdir().unwrap();
    workshop.write_spec(&format!("image: oci:out\n{SMOKE}"), |image| match image.name {
        "arm32v7" => "podman",
        _ => "buildah",
    });
    let mut private = Command::new(workspace_program("binfmt-setup")?);
    private.args(["run", "--platform", "linux/arm/v7", "--platform", "linux/arm64", "--"]);
    let release = workshop.release(&[])?;
    private.arg(release.get_program()).args(release.get_args()).current_dir(workshop.directory.path());
    let output = run(&mut namespace.enter(private.envs(containers_env(containers.path()))));
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(!output.stderr.contains("emulators"), "{}", output.stderr);
    for image in &workshop.images {
        assert_eq!(workshop.reported(image)["smoke"]["output"], image.machine, "output of RUN");
    }
    assert_eq!(registered(&namespace), Vec::<String>::new());
    Ok(())
}
