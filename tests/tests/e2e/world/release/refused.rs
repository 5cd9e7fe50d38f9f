//! A release that fails reports the image and publishes nothing.

use super::*;
use multiarch_tests::need;

#[test]
fn a_stopped_release_reports_the_image_and_leaves_the_registry_unchanged() {
    need!(stop());
}

fn stop() -> Result<(), Skip> {
    let workshop = Workshop::new(example_images()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let image = format!("image: {}\ntags: [latest]", world.image());
    // The classic builder.
    let release = || -> Result<Output, Skip> {
        Ok(run(world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", "0")))
    };
    let stopped = |keys: &str, named: &[&str], not_named: &[&str]| -> Result<(), Skip> {
        workshop.write_spec(&format!("{image}\n{keys}"), |_| "docker");
        let (files, requests) = (registry_files(&world.registry), world.registry.requests().len());
        let output = release()?;
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{}", output.stderr);
        let errors: Vec<&str> =
            output.stderr.lines().filter_map(|line| line.strip_prefix("cargo xtask: ")).collect();
        let error = errors.join("\n");
        assert!(named.iter().all(|word| error.contains(word)), "{named:?}: {error}");
        assert!(!not_named.iter().any(|word| error.contains(word)), "{not_named:?}: {error}");
        assert_eq!(writes(&world.registry, requests), Vec::<String>::new());
        assert_eq!(registry_files(&world.registry), files);
        let failed = &workshop.report()["failed"];
        assert_eq!((&failed["exit"], &failed["moved"]), (&1.into(), &serde_json::json!([])), "{failed}");
        Ok(())
    };

    // Without --platform, as Docker Hub builds. A build with --platform uses these mislabeled images from the cache.
    let build_without_platform = || {
        for made in &workshop.images {
            world.build(&workshop, made, "0", "docker build -q");
        }
    };
    build_without_platform();

    // Only 64-bit arm fails, although its declared platform was fixed before.
    let smoke = r#"smoke: [/bin/sh, -c, 'echo on $(uname -m); test $(uname -m) != aarch64']"#;
    stopped(smoke, &["linux/arm64/v8", "on aarch64"], &["linux/amd64", "linux/arm/v7", "linux/arm/v5"])?;

    // Every image that Docker mislabeled is reported; amd64 is right.
    let wrong = ["linux/arm/v5", "linux/arm/v7", "linux/arm64/v8"]
        .map(|platform| format!("{platform}: its config declares linux/amd64"));
    let wrong = wrong.each_ref().map(String::as_str);
    stopped("on-mismatch: fail", &wrong, &["linux/amd64: "])?;

    // The same with published images: the tags do not move.
    workshop.write_spec(&image, |_| "docker");
    let published = release()?;
    assert_eq!(published.code, Some(0), "{}", published.stderr);
    assert!(world.is_published("latest") && world.is_published("arm32v7"));
    for made in &workshop.images {
        let dockerfile = workshop.path(made.name).join("Dockerfile");
        fs::write(&dockerfile, fs::read_to_string(&dockerfile).unwrap() + "LABEL version=2\n").unwrap();
    }
    build_without_platform();
    stopped(smoke, &["linux/arm64/v8", "on aarch64"], &[])?;
    stopped("on-mismatch: fail", &wrong, &["linux/amd64: "])
}
