//! A release that is stopped reports the image that stopped it, and publishes nothing.

use super::*;
use multiarch_tests::need;

#[test]
fn a_stopped_release_reports_the_image_and_leaves_the_registry_unchanged() {
    need!(stop());
}

fn stop() -> Result<(), Skip> {
    let workshop = Workshop::new(seed_images()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let image = format!("image: {}\ntags: [latest]", world.image());
    // The seed's builder.
    let release = || -> Result<Said, Skip> {
        Ok(run(world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", "0")))
    };
    let stopped = |keys: &str, named: &[&str], not_named: &[&str]| -> Result<(), Skip> {
        workshop.write_spec(&format!("{image}\n{keys}"), |_| "docker");
        let (files, asked) = (everything_in(&world.registry), world.registry.requests().len());
        let said = release()?;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
        let errors: Vec<&str> =
            said.stderr.lines().filter_map(|line| line.strip_prefix("cargo xtask: ")).collect();
        let error = errors.join("\n");
        assert!(named.iter().all(|word| error.contains(word)), "{named:?}: {error}");
        assert!(!not_named.iter().any(|word| error.contains(word)), "{not_named:?}: {error}");
        assert_eq!(writes(&world.registry, asked), Vec::<String>::new());
        assert_eq!(everything_in(&world.registry), files);
        let failed = &workshop.report()["failed"];
        assert_eq!((&failed["exit"], &failed["moved"]), (&1.into(), &serde_json::json!([])), "{failed}");
        Ok(())
    };

    // As Docker Hub built the seed's: without --platform. A build with it finds these in the cache, label and all.
    let build_as_the_seed = || {
        for made in &workshop.images {
            world.build(&workshop, made, "0", "docker build -q");
        }
    };
    build_as_the_seed();

    // Only 64-bit arm fails, although its declared platform was fixed before.
    let smoke = r#"smoke: [/bin/sh, -c, 'echo on $(uname -m); test $(uname -m) != aarch64']"#;
    stopped(smoke, &["linux/arm64/v8", "on aarch64"], &["linux/amd64", "linux/arm/v7", "linux/arm/v5"])?;

    // Every image that Docker mislabeled is reported; amd64 is right.
    let wrong = ["linux/arm/v5", "linux/arm/v7", "linux/arm64/v8"]
        .map(|platform| format!("{platform}: its config declares linux/amd64"));
    let wrong = wrong.each_ref().map(String::as_str);
    stopped("on-mismatch: fail", &wrong, &["linux/amd64: "])?;

    // The same with something published: the tags stay where they are.
    workshop.write_spec(&image, |_| "docker");
    let published = release()?;
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    assert!(world.is_published("latest") && world.is_published("arm32v7"));
    for made in &workshop.images {
        let dockerfile = workshop.path(made.name).join("Dockerfile");
        fs::write(&dockerfile, fs::read_to_string(&dockerfile).unwrap() + "LABEL version=2\n").unwrap();
    }
    build_as_the_seed();
    stopped(smoke, &["linux/arm64/v8", "on aarch64"], &[])?;
    stopped("on-mismatch: fail", &wrong, &["linux/amd64: "])
}
