//! Releases of Dockerfiles with real engines, a real registry and real emulators.
//!
//! Each test reads the result with Docker, podman, buildah and skopeo, not with code of this project.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image_model::digest::Digest;
use multiarch_tests::world::{
    Engine, FOREIGN, Namespace, Registry, Skip, containers_env, foreign_busybox, program, require, rootfs_tar,
};
use serde_json::Value;
use tempfile::TempDir;

mod archive;
mod bases;
mod builders;
mod containerd_store;
mod emulators;
mod hard_coded;
mod nodes;
mod refused;
mod secrets;
mod shared;
mod spec_push;

/// One image of the seed's example: Debian's static busybox, and what it is when it runs.
struct TestImage {
    /// Names its folder and its tag.
    name: &'static str,
    platform: &'static str,
    /// `uname -m` in it, on x86-64 under QEMU.
    machine: &'static str,
    busybox: PathBuf,
}

/// The seed's four platforms. Only 64-bit arm says by its `uname` which one it is: Debian's emulator of arm has one CPU for
/// ARMv5 and ARMv7.
fn seed_images() -> Result<Vec<TestImage>, Skip> {
    require(&["busybox"])?;
    let busybox = program("busybox").expect("required above");
    let mut images = vec![TestImage { name: "amd64", platform: "linux/amd64", machine: "x86_64", busybox }];
    for (debian, name) in [("armel", "arm32v5"), ("armhf", "arm32v7"), ("arm64", "arm64v8")] {
        let row = FOREIGN.iter().find(|row| row.debian == debian).expect("a row of the table");
        let busybox = foreign_busybox(debian)?;
        images.push(TestImage { name, platform: row.platform, machine: row.machine, busybox });
    }
    Ok(images)
}

/// A directory with one Dockerfile for each image, its files, and a release.yaml.
struct Workshop {
    directory: TempDir,
    images: Vec<TestImage>,
}

/// Says the platform that the Dockerfile is for and the machine that it runs on.
const CMD: &str = r#"CMD ["/bin/busybox", "sh", "-c", "echo $MADE_FOR $(uname -m)"]"#;

impl Workshop {
    /// `FROM scratch` and Debian's busybox, with these lines of the Dockerfile after it.
    fn new(images: Vec<TestImage>, lines: &str) -> Workshop {
        let directory = tempfile::tempdir().unwrap();
        for image in &images {
            let context = directory.path().join(image.name);
            fs::create_dir(&context).unwrap();
            fs::write(context.join("rootfs.tar"), rootfs_tar(&image.busybox)).unwrap();
            let from = format!("FROM scratch\nADD rootfs.tar /\nENV MADE_FOR={}\n", image.platform);
            fs::write(context.join("Dockerfile"), format!("{from}{lines}\n{CMD}\n")).unwrap();
        }
        Workshop { directory, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes release.yaml: these keys, then a platform for each image with its tag and the builder that is asked for it.
    fn write_spec(&self, keys: &str, builder: impl Fn(&TestImage) -> &'static str) {
        let mut text = format!("{keys}\nplatforms:\n");
        for image in &self.images {
            let TestImage { name, platform, .. } = image;
            text.push_str(&format!(
                "  {platform}: {{ dockerfile: {name}/Dockerfile, context: {name}, tag: {name}, builder: {} }}\n",
                builder(image)
            ));
        }
        fs::write(self.path("release.yaml"), text).unwrap();
    }

    /// `xtask release release.yaml`, with these arguments after it.
    fn release(&self, arguments: &[&str]) -> Result<Command, Skip> {
        let mut command = Command::new(ours("xtask")?);
        command
            .args(["release", "release.yaml", "--work-dir", ".multiarch"])
            .args(arguments)
            .current_dir(self.directory.path());
        Ok(command)
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path(".multiarch/report.json")).unwrap()).unwrap()
    }

    /// What the report says of one image.
    fn reported(&self, image: &TestImage) -> Value {
        let report = self.report();
        let rows = report["platforms"].as_array().unwrap();
        rows.iter().find(|row| label(&row["platform"]) == image.platform).unwrap().clone()
    }
}

/// All parts at once: a registry, and one namespace in which every engine is found and reaches it.
struct World {
    registry: Registry,
    engine: Engine,
    /// podman's and buildah's.
    containers: TempDir,
}

impl World {
    fn start(namespace: Namespace) -> Result<World, Skip> {
        require(&["podman", "buildah", "runc", "skopeo"])?;
        Self::around(Engine::start_in(namespace)?)
    }

    fn around(engine: Engine) -> Result<World, Skip> {
        let registry = Registry::start()?;
        engine.reach(registry.host());
        Ok(World { registry, engine, containers: tempfile::tempdir().unwrap() })
    }

    /// The same command in a user's shell inside.
    fn enter(&self, command: &mut Command) -> Command {
        self.engine.enter(command.envs(containers_env(self.containers.path())))
    }

    fn good(&self, line: &str) -> String {
        good(&mut self.enter(&mut words(line)))
    }

    /// Builds the image of a folder with this command line, DOCKER_BUILDKIT as given. Gives its id, `sha256:` left out.
    fn build(&self, workshop: &Workshop, image: &TestImage, kit: &str, line: &str) -> String {
        let mut build = words(&format!("{line} {}", workshop.path(image.name).display()));
        let id = good(self.enter(&mut build).env("DOCKER_BUILDKIT", kit));
        id.rsplit(['\n', ':']).next().unwrap().to_owned()
    }

    /// Where the images go.
    fn image(&self) -> String {
        format!("{}/team/app", self.registry.host())
    }

    fn is_published(&self, tag: &str) -> bool {
        let tags =
            self.registry.storage().join("data/docker/registry/v2/repositories/team/app/_manifests/tags");
        tags.join(tag).exists()
    }
}

/// A program of this workspace, beside the tests, where cargo puts both.
fn ours(name: &str) -> Result<PathBuf, Skip> {
    let own = std::env::current_exe().expect("the path of this program");
    let found = own.ancestors().map(|place| place.join(name)).find(|place| place.is_file());
    found.ok_or_else(|| Skip::because(format!("no {name} is built: cargo build --workspace --bins")))
}

/// How a program ended and what it said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Said {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) }
}

/// Its stdout without the end of the line. With whatever it said where it does not succeed.
#[track_caller]
fn good(command: &mut Command) -> String {
    let said = run(command);
    assert_eq!(said.code, Some(0), "{command:?}\n{}\n{}", said.stdout, said.stderr);
    said.stdout.trim_end().to_owned()
}

/// A command line without spaces inside its words.
fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let mut command = Command::new(program(name).unwrap_or_else(|| name.into()));
    command.args(words);
    command
}

/// skopeo 1.9 takes the platform in three flags.
fn skopeo_platform(platform: &str) -> String {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
    let variant = parts.next().map(|variant| format!("--override-variant {variant}")).unwrap_or_default();
    format!("--override-os {os} --override-arch {architecture} {variant}")
}

/// `linux/arm/v7` out of a config's or an image's own keys.
fn label(config: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|key| config[key].as_str().unwrap_or_default());
    parts.join("/").trim_end_matches('/').to_owned()
}

fn label_of(config: &[u8]) -> String {
    label(&serde_json::from_slice(config).unwrap())
}

/// The id and the label of an image that the engine has.
fn docker_says(world: &World, name: &str) -> (String, String) {
    let said = parse(&world.good(&format!("docker image inspect {name}")));
    // Its API has the config's keys with capital letters.
    let parts = ["Os", "Architecture", "Variant"].map(|key| said[0][key].as_str().unwrap_or_default());
    (said[0]["Id"].as_str().unwrap().to_owned(), parts.join("/").trim_end_matches('/').to_owned())
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The bytes of a blob or manifest, from the registry's disk.
fn stored(registry: &Registry, digest: &str) -> Vec<u8> {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let place = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    fs::read(registry.storage().join(place)).unwrap_or_else(|error| panic!("{digest}: {error}"))
}

/// Every file of the registry with its size, links between names and digests among them: what is published, all of it.
fn everything_in(registry: &Registry) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![registry.storage().join("data")];
    while let Some(folder) = folders.pop() {
        // The registry makes its folders with the first thing that it keeps.
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// The requests that change a registry, with those before `since` left out.
fn writes(registry: &Registry, since: usize) -> Vec<String> {
    let asked = registry.requests();
    let changing = asked[since..].iter().filter(|asked| !["GET", "HEAD"].contains(&asked.method.as_str()));
    changing.map(|asked| format!("{} {}", asked.method, asked.path)).collect()
}

/// Asserts that `after` is `before` with the values of its label changed, or a variant put in, and not a byte besides.
#[track_caller]
fn assert_only_the_label_differs(before: &[u8], after: &[u8], platform: &str) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut before, mut after) = (text(before), text(after));
    let (was, is) = (parse(&before), parse(&after));
    assert_eq!(label(&is), platform);
    for key in ["architecture", "variant"] {
        match (was[key].as_str(), is[key].as_str()) {
            // What the label says now, put in by hand.
            (Some(was), Some(is)) => replace_one(&mut before, &member(key, was), &member(key, is)),
            (None, Some(is)) => replace_one(&mut after, &format!(",{}", member(key, is)), ""),
            (None, None) => {}
            (Some(_), None) => panic!("{key} is gone: {after}"),
        }
    }
    assert_eq!(before, after);
}

/// As Go writes it.
fn member(key: &str, value: &str) -> String {
    format!("\"{key}\":\"{value}\"")
}

#[track_caller]
fn replace_one(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    *text = text.replacen(from, to, 1);
}

/// `sha256:...`
fn digest_of(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Name and bytes of every file in a tar.
fn members_of(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    });
    files.collect()
}
