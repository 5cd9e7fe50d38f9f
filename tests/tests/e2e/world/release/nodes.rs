//! Several engines build one release: this host's, and one on another address, as a node of another machine is.

use super::*;
use multiarch_tests::need;
use multiarch_tests::world::newer_docker;

/// A docker context for the second engine.
const NODE: &str = "arm-node";

/// The first engine and all else, and a second one behind tcp.
struct Nodes {
    world: World,
    second: Engine,
    /// Leads to the second engine as long as it lives.
    _door: multiarch_tests::world::Door,
}

impl Nodes {
    fn start() -> Result<Nodes, Skip> {
        let world = World::start(Namespace::with_debian_emulators()?)?;
        let second = Engine::start()?;
        let door = second.open_door();
        world.good(&format!("docker context create {NODE} --docker host=tcp://{}", door.address()));
        Ok(Nodes { world, second, _door: door })
    }

    /// How many images an engine has; builds leave theirs.
    fn images(engine: &Engine) -> usize {
        let listed = engine.docker(&["image", "ls", "--quiet"]);
        String::from_utf8_lossy(&listed.stdout).lines().count()
    }

    /// Releases, and holds what came of it against the spec.
    fn release(&self, workshop: &Workshop, kit: &str, builders: &[(&str, &'static str)]) -> Result<(), Skip> {
        let builder = |image: &TestImage| {
            builders.iter().find(|(name, _)| *name == image.name).map_or("docker", |(_, builder)| *builder)
        };
        let keys = format!("image: {}\nsmoke: [/bin/busybox, uname, -m]", self.world.image());
        workshop.write_spec(&keys, builder);
        let said = run(self.world.enter(&mut workshop.release(&[])?).env("DOCKER_BUILDKIT", kit));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        for image in &workshop.images {
            let row = workshop.reported(image);
            assert_eq!(row["builder"], builder(image));
            assert_eq!(row["smoke"]["output"], image.machine);
            assert_eq!(
                label_of(&stored(&self.world.registry, row["config"].as_str().unwrap())),
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
    let workshop = Workshop::new(seed_images()?, "");
    let nodes = Nodes::start()?;
    let arms = [("arm32v7", "docker:arm-node"), ("arm64v8", "docker:arm-node")];
    nodes.release(&workshop, "1", &arms)?;
    assert_eq!((Nodes::images(&nodes.world.engine), Nodes::images(&nodes.second)), (2, 2));
    workshop.write_spec(&format!("image: {}", nodes.world.image()), |_| "docker:nowhere");
    let said = run(&mut nodes.world.enter(&mut workshop.release(&["--dry-run"])?));
    assert_eq!(said.code, Some(5), "{}", said.stderr);
    assert!(said.stderr.contains("cannot build with docker:nowhere: "), "{}", said.stderr);
    Ok(())
}

#[test]
fn buildx_builders_take_part() {
    let newer = need!(newer_docker());
    need!(by_buildx(&newer.buildx));
}

fn by_buildx(plugin: &Path) -> Result<(), Skip> {
    let workshop = Workshop::new(seed_images()?, "");
    let nodes = Nodes::start()?;
    let config = nodes.world.engine.env().into_iter().find(|(name, _)| name == "DOCKER_CONFIG").unwrap().1;
    let plugins = Path::new(&config).join("cli-plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::copy(plugin, plugins.join("docker-buildx")).unwrap();
    // A context is a builder by itself.
    let builders = [("amd64", "buildx"), ("arm32v7", "buildx:arm-node"), ("arm64v8", "docker:arm-node")];
    nodes.release(&workshop, "1", &builders)?;
    assert_eq!((Nodes::images(&nodes.world.engine), Nodes::images(&nodes.second)), (2, 2));
    Ok(())
}
