//! `manifest-push push from-spec` with the `multi-arch-manifest.yaml` of the example and images that Docker pushed.

use super::*;
use multiarch_tests::need;

#[test]
fn the_spec_of_the_example_is_pushed_and_a_mislabeled_image_is_refused() {
    need!(push());
}

fn push() -> Result<(), Skip> {
    let workshop = Workshop::new(example_images()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let registry = &world.registry;
    let repository = format!("{}/ckulka/multi-arch-example", registry.host());
    let latest = format!("{repository}:latest");
    // Only the host in the spec is changed.
    let seed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/multi-arch-example/multi-arch-manifest.yaml");
    let seed = fs::read_to_string(seed).unwrap();
    assert_eq!(seed.matches("image: ckulka/").count(), 5);
    let spec = seed.replace("image: ckulka/", &format!("image: {}/ckulka/", registry.host()));
    fs::write(workshop.path("multi-arch-manifest.yaml"), spec).unwrap();
    let manifest_push = workspace_program("manifest-push")?;
    let from_spec = || {
        let line = format!("{} push from-spec multi-arch-manifest.yaml", manifest_push.display());
        run(&mut world.enter(words(&line).current_dir(workshop.directory.path())))
    };

    for image in &workshop.images {
        let tag = format!("{repository}:{}", image.name);
        world.build(
            &workshop,
            image,
            "1",
            &format!("docker build -q --platform {} -t {tag}", image.platform),
        );
        world.run_ok(&format!("docker push -q {tag}"));
    }
    let output = from_spec();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let list = expected_list(&world, &workshop, &repository);
    assert_eq!(output.stdout, format!("Digest: {} {}\n", digest_of(list.as_bytes()), list.len()));
    assert_eq!(stored(registry, &digest_of(list.as_bytes())), list.as_bytes());
    let raw = run(&mut words(&format!("skopeo inspect --tls-verify=false --raw docker://{latest}")));
    assert_eq!(raw.stdout, list, "{}", raw.stderr);
    let seen = parse(&world.run_ok(&format!("docker manifest inspect --insecure {latest}")));
    assert_eq!(seen, parse(&list));
    assert_docker_pulls_each_platform(&world, &workshop, &latest);

    // The arm image of the classic builder declares amd64, while the spec has arm/v7.
    let arm = workshop.images.iter().find(|image| image.name == "arm32v7").unwrap();
    let tag = format!("{repository}:{}", arm.name);
    world.build(&workshop, arm, "0", &format!("docker build -q -t {tag}"));
    world.run_ok(&format!("docker push -q {tag}"));
    let (files, requests) = (registry_files(registry), registry.requests().len());
    let refused = from_spec();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(3), ""), "{}", refused.stderr);
    let way_out = format!("config-patcher fix {tag} --set-platform linux/arm/v7");
    assert!(refused.stderr.contains(&format!("`{way_out}`")), "{}", refused.stderr);
    assert!(refused.stderr.contains("linux/amd64"), "{}", refused.stderr);
    assert_eq!((writes(registry, requests), registry_files(registry)), (vec![], files));

    // The command from the message works as printed.
    let mut way_out = way_out.split(' ');
    let mut fix = Command::new(workspace_program(way_out.next().unwrap())?);
    run_ok(fix.args(way_out));
    let output = from_spec();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let list = expected_list(&world, &workshop, &repository);
    assert_eq!(output.stdout, format!("Digest: {} {}\n", digest_of(list.as_bytes()), list.len()));
    assert_docker_pulls_each_platform(&world, &workshop, &latest);
    let (files, requests) = (registry_files(registry), registry.requests().len());
    assert_eq!(from_spec().stdout, output.stdout);
    assert_eq!((writes(registry, requests), registry_files(registry)), (vec![], files));
    Ok(())
}

/// Returns the list that manifest-tool would push for the current tags: distribution's structs, indented by two spaces.
/// Source: v2/pkg/registry/pusher.go of manifest-tool, manifest/manifestlist/manifestlist.go of distribution.
fn expected_list(world: &World, workshop: &Workshop, repository: &str) -> String {
    let members = workshop.images.iter().map(|image| {
        let manifest =
            words(&format!("skopeo inspect --tls-verify=false --raw docker://{repository}:{}", image.name))
                .output()
                .unwrap()
                .stdout;
        let digest = digest_of(&manifest);
        assert_eq!(stored(&world.registry, &digest), manifest);
        let mut parts = image.platform.split('/').skip(1);
        let architecture = parts.next().unwrap();
        let variant =
            parts.next().map(|variant| format!(",\n        \"variant\": \"{variant}\"")).unwrap_or_default();
        format!(
            r#"    {{
      "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
      "size": {},
      "digest": "{digest}",
      "platform": {{
        "architecture": "{architecture}",
        "os": "linux"{variant}
      }}
    }}"#,
            manifest.len()
        )
    });
    let members = members.collect::<Vec<_>>().join(",\n");
    format!(
        r#"{{
  "schemaVersion": 2,
  "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
  "manifests": [
{members}
  ]
}}"#
    )
}

fn assert_docker_pulls_each_platform(world: &World, workshop: &Workshop, latest: &str) {
    for image in &workshop.images {
        world.run_ok(&format!("docker pull -q --platform {} {latest}", image.platform));
        let expected = format!("{} {}", image.platform, image.machine);
        assert_eq!(world.run_ok(&format!("docker run --rm --network none {latest}")), expected);
        let (_, platform) = docker_inspect(world, latest);
        // BuildKit omits the variant v8 of arm64.
        assert_eq!(platform, image.platform.trim_end_matches("/v8"));
    }
}
