//! Releases that are built by several engines: that of this host, and one at a TCP address, like that of another machine.

use super::*;
use multiarch_tests::need;
use multiarch_tests::world::newer_docker;

/// The docker context of the second engine.
const NODE: &str = "arm-node";

/// Two engines; the second one is reached over TCP.
struct Nodes {
    world: World,
    second: Engine,
    /// Forwards TCP connections to the second engine until it is dropped.
    _relay: multiarch_tests::world::UnixSocketRelay,
}

impl Nodes {
    fn start() -> Result<Nodes, Skip> {
        let world = World::start(Namespace::with_debian_emulators()?)?;
        let second = Engine::start()?;
        let relay = second.relay_to_socket();
        world.run_ok(&format!("docker context create {NODE} --docker host=tcp://{}", relay.address()));
        Ok(Nodes { world, second, _relay: relay })
    }

    /// Returns the number of images in an engine, which shows where images were built.
    fn images(engine: &Engine) -> usize {
        let listed = engine.docker(&["image", "ls", "--quiet"]);
        String::from_utf8_lossy(&listed.stdout).lines().count()
    }

    /// Runs a release and compares the report with the spec.
    fn release(&self, workshop: &Workshop, kit: &str, builders: &[(&str, &'static str)]) -> Result<(), Skip> {
        let builder = |image: &TestImage| {
            builders.iter().find(|(name, _)| *name == image.name).map_or("docker", |(_, builder)| *builder)
        };
        let keys = format!("image: {}\nsmoke: [/bin/busybox, uname, -m]", self.world.image());
        workshop.write_spec(&keys, builder);
        let output = run(self.world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", kit));
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        for image in &workshop.images {
            let row = workshop.reported(image);
            assert_eq!(row["builder"], builder(image));
            assert_eq!(row["smoke"]["output"], image.machine);
            assert_eq!(
                declared_platform_of(&stored(&self.world.registry, row["config"].as_str().unwrap())),
                image.platform
            );
        }
        Ok(())
    }
}

#[test]
fn platforms_of_one_release_are_built_by_engines_of_different_contexts() {
    need!(by_context());
}

fn by_context() -> Result<(), Skip> {
    let workshop = Workshop::new(example_images()?, "");
    let nodes = Nodes::start()?;
    let arms = [("arm32v7", "docker:arm-node"), ("arm64v8", "docker:arm-node")];
    nodes.release(&workshop, "1", &arms)?;
    assert_eq!((Nodes::images(&nodes.world.engine), Nodes::images(&nodes.second)), (2, 2));
    workshop.write_spec(&format!("image: {}", nodes.world.image()), |_| "docker:nowhere");
    let output = run(&mut nodes.world.enter(&mut workshop.release(&["--dry-run"])?));
    assert_eq!(output.code, Some(5), "{}", output.stderr);
    assert!(output.stderr.contains("cannot build with docker:nowhere: "), "{}", output.stderr);
    Ok(())
}

#[test]
fn buildx_builders_are_used() {
    let newer = need!(newer_docker());
    need!(by_buildx(&newer.buildx));
}

fn by_buildx(plugin: &Path) -> Result<(), Skip> {
    let workshop = Workshop::new(example_images()?, "");
    let nodes = Nodes::start()?;
    let config = nodes.world.engine.env().into_iter().find(|(name, _)| name == "DOCKER_CONFIG").unwrap().1;
    let plugins = Path::new(&config).join("cli-plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::copy(plugin, plugins.join("docker-buildx")).unwrap();
    // Every context is also a builder of buildx.
    let builders = [("amd64", "buildx"), ("arm32v7", "buildx:arm-node"), ("arm64v8", "docker:arm-node")];
    nodes.release(&workshop, "1", &builders)?;
    assert_eq!((Nodes::images(&nodes.world.engine), Nodes::images(&nodes.second)), (2, 2));
    Ok(())
}
