//! The seed's `multi-arch-manifest.yaml`, pushed by `manifest-push push from-spec` over images that Docker built and pushed.

use super::*;
use multiarch_tests::need;

#[test]
fn the_seeds_manifest_spec_makes_one_image_of_four_and_refuses_one_that_is_mislabeled() {
    need!(push());
}

fn push() -> Result<(), Skip> {
    let workshop = Workshop::new(seed_images()?, "");
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let registry = &world.registry;
    let repository = format!("{}/ckulka/multi-arch-example", registry.host());
    let latest = format!("{repository}:latest");
    // The seed's file, with only the host changed.
    let seed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/multi-arch-example/multi-arch-manifest.yaml");
    let seed = fs::read_to_string(seed).unwrap();
    assert_eq!(seed.matches("image: ckulka/").count(), 5);
    let spec = seed.replace("image: ckulka/", &format!("image: {}/ckulka/", registry.host()));
    fs::write(workshop.path("multi-arch-manifest.yaml"), spec).unwrap();
    let manifest_push = ours("manifest-push")?;
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
        world.good(&format!("docker push -q {tag}"));
    }
    let said = from_spec();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let list = as_manifest_tool_writes_it(&world, &workshop, &repository);
    assert_eq!(said.stdout, format!("Digest: {} {}\n", digest_of(list.as_bytes()), list.len()));
    assert_eq!(stored(registry, &digest_of(list.as_bytes())), list.as_bytes());
    let raw = run(&mut words(&format!("skopeo inspect --tls-verify=false --raw docker://{latest}")));
    assert_eq!(raw.stdout, list, "{}", raw.stderr);
    let seen = parse(&world.good(&format!("docker manifest inspect --insecure {latest}")));
    assert_eq!(seen, parse(&list));
    everybody_gets_their_own(&world, &workshop, &latest);

    // The classic builder's arm image: named in the spec as arm/v7, labelled amd64.
    let arm = workshop.images.iter().find(|image| image.name == "arm32v7").unwrap();
    let tag = format!("{repository}:{}", arm.name);
    world.build(&workshop, arm, "0", &format!("docker build -q -t {tag}"));
    world.good(&format!("docker push -q {tag}"));
    let (files, asked) = (everything_in(registry), registry.requests().len());
    let refused = from_spec();
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(3), ""), "{}", refused.stderr);
    let way_out = format!("config-patcher fix {tag} --set-platform linux/arm/v7");
    assert!(refused.stderr.contains(&format!("`{way_out}`")), "{}", refused.stderr);
    assert!(refused.stderr.contains("linux/amd64"), "{}", refused.stderr);
    assert_eq!((writes(registry, asked), everything_in(registry)), (vec![], files));

    // That very command, as it stands there.
    let mut way_out = way_out.split(' ');
    let mut fix = Command::new(ours(way_out.next().unwrap())?);
    good(fix.args(way_out));
    let said = from_spec();
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let list = as_manifest_tool_writes_it(&world, &workshop, &repository);
    assert_eq!(said.stdout, format!("Digest: {} {}\n", digest_of(list.as_bytes()), list.len()));
    everybody_gets_their_own(&world, &workshop, &latest);
    let (files, asked) = (everything_in(registry), registry.requests().len());
    assert_eq!(from_spec().stdout, said.stdout);
    assert_eq!((writes(registry, asked), everything_in(registry)), (vec![], files));
    Ok(())
}

/// The list over what the tags name now. manifest-tool marshals distribution's structs with two spaces of indent.
/// Source: v2/pkg/registry/pusher.go of manifest-tool, manifest/manifestlist/manifestlist.go of distribution.
fn as_manifest_tool_writes_it(world: &World, workshop: &Workshop, repository: &str) -> String {
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

fn everybody_gets_their_own(world: &World, workshop: &Workshop, latest: &str) {
    for image in &workshop.images {
        world.good(&format!("docker pull -q --platform {} {latest}", image.platform));
        let says = format!("{} {}", image.platform, image.machine);
        assert_eq!(world.good(&format!("docker run --rm --network none {latest}")), says);
        let (_, label) = docker_says(world, latest);
        // BuildKit leaves the one variant of 64-bit arm out, and so did nobody here put it in.
        assert_eq!(label, image.platform.trim_end_matches("/v8"));
    }
}
