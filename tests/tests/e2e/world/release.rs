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

/// An image of the example, with Debian's static busybox.
struct TestImage {
    /// Directory and tag.
    name: &'static str,
    platform: &'static str,
    /// Output of `uname -m` in the image, on x86-64 under QEMU.
    machine: &'static str,
    busybox: PathBuf,
}

/// Returns images of the four platforms of the example. `uname -m` is the same for ARMv5 and ARMv7, since Debian's emulator
/// has one CPU for both.
fn example_images() -> Result<Vec<TestImage>, Skip> {
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

/// Prints the platform of the Dockerfile and the machine of the process.
const CMD: &str = r#"CMD ["/bin/busybox", "sh", "-c", "echo $MADE_FOR $(uname -m)"]"#;

impl Workshop {
    /// Writes Dockerfiles with `FROM scratch`, Debian's busybox and these lines.
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

    /// Writes release.yaml: these keys, then a platform for each image with its tag and builder.
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

    /// Returns the command `xtask release release.yaml` with these arguments.
    fn release(&self, arguments: &[&str]) -> Result<Command, Skip> {
        let mut command = Command::new(workspace_program("xtask")?);
        command
            .args(["release", "release.yaml", "--work-dir", ".multiarch"])
            .args(arguments)
            .current_dir(self.directory.path());
        Ok(command)
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path(".multiarch/report.json")).unwrap()).unwrap()
    }

    /// Returns the entry of the image in the report.
    fn reported(&self, image: &TestImage) -> Value {
        let report = self.report();
        let rows = report["platforms"].as_array().unwrap();
        rows.iter().find(|row| platform_of(&row["platform"]) == image.platform).unwrap().clone()
    }
}

/// A registry, and a namespace in which all engines can reach it.
struct World {
    registry: Registry,
    engine: Engine,
    /// Storage of podman and buildah.
    containers: TempDir,
}

impl World {
    fn start(namespace: Namespace) -> Result<World, Skip> {
        require(&["podman", "buildah", "runc", "skopeo"])?;
        Self::with_engine(Engine::start_in(namespace)?)
    }

    fn with_engine(engine: Engine) -> Result<World, Skip> {
        let registry = Registry::start()?;
        engine.reach(registry.host());
        Ok(World { registry, engine, containers: tempfile::tempdir().unwrap() })
    }

    /// Returns the command, to be run in the namespace.
    fn enter(&self, command: &mut Command) -> Command {
        self.engine.enter(command.envs(containers_env(self.containers.path())))
    }

    fn run_ok(&self, line: &str) -> String {
        run_ok(&mut self.enter(&mut words(line)))
    }

    /// Builds the image with this command line and value of DOCKER_BUILDKIT. Returns its ID without `sha256:`.
    fn build(&self, workshop: &Workshop, image: &TestImage, kit: &str, line: &str) -> String {
        let mut build = words(&format!("{line} {}", workshop.path(image.name).display()));
        let id = run_ok(self.enter(&mut build).env("DOCKER_BUILDKIT", kit));
        id.rsplit(['\n', ':']).next().unwrap().to_owned()
    }

    /// The repository to publish to.
    fn image(&self) -> String {
        format!("{}/team/app", self.registry.host())
    }

    fn is_published(&self, tag: &str) -> bool {
        let tags =
            self.registry.storage().join("data/docker/registry/v2/repositories/team/app/_manifests/tags");
        tags.join(tag).exists()
    }
}

/// Returns the path of a program of this workspace in cargo's target directory.
fn workspace_program(name: &str) -> Result<PathBuf, Skip> {
    let test = std::env::current_exe().expect("the path of this program");
    let found = test.ancestors().map(|path| path.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| Skip::because(format!("no {name} is built: cargo build --workspace --bins")))
}

/// Exit code and output of a program.
struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Output {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) }
}

/// Asserts that the command succeeds. Returns stdout without the final line break.
#[track_caller]
fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    assert_eq!(output.code, Some(0), "{command:?}\n{}\n{}", output.stdout, output.stderr);
    output.stdout.trim_end().to_owned()
}

/// Splits a command line at spaces.
fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let mut command = Command::new(program(name).unwrap_or_else(|| name.into()));
    command.args(words);
    command
}

/// Returns the three flags with which skopeo 1.9 selects a platform.
fn skopeo_platform(platform: &str) -> String {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
    let variant = parts.next().map(|variant| format!("--override-variant {variant}")).unwrap_or_default();
    format!("--override-os {os} --override-arch {architecture} {variant}")
}

/// Returns the platform, such as `linux/arm/v7`, from the keys of a config.
fn platform_of(config: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|key| config[key].as_str().unwrap_or_default());
    parts.join("/").trim_end_matches('/').to_owned()
}

fn declared_platform_of(config: &[u8]) -> String {
    platform_of(&serde_json::from_slice(config).unwrap())
}

/// Returns ID and platform of an image in the engine.
fn docker_inspect(world: &World, name: &str) -> (String, String) {
    let output = parse(&world.run_ok(&format!("docker image inspect {name}")));
    // Keys of the API begin with a capital letter.
    let parts = ["Os", "Architecture", "Variant"].map(|key| output[0][key].as_str().unwrap_or_default());
    (output[0]["Id"].as_str().unwrap().to_owned(), parts.join("/").trim_end_matches('/').to_owned())
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Reads a blob or manifest from the registry's storage directory.
fn stored(registry: &Registry, digest: &str) -> Vec<u8> {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let place = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    fs::read(registry.storage().join(place)).unwrap_or_else(|error| panic!("{digest}: {error}"))
}

/// Returns every file in the registry's storage directory with its content, including tags.
fn registry_files(registry: &Registry) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![registry.storage().join("data")];
    while let Some(directory) = directories.pop() {
        // The directory does not exist before the first write.
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Returns the requests after the first `since` that change the registry.
fn writes(registry: &Registry, since: usize) -> Vec<String> {
    let requests = registry.requests();
    let changing =
        requests[since..].iter().filter(|requests| !["GET", "HEAD"].contains(&requests.method.as_str()));
    changing.map(|requests| format!("{} {}", requests.method, requests.path)).collect()
}

/// Asserts that `after` is `before` except for the values of architecture and variant, or an added variant.
#[track_caller]
fn assert_only_the_platform_differs(before: &[u8], after: &[u8], platform: &str) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut before, mut after) = (text(before), text(after));
    let (was, is) = (parse(&before), parse(&after));
    assert_eq!(platform_of(&is), platform);
    for key in ["architecture", "variant"] {
        match (was[key].as_str(), is[key].as_str()) {
            // Replace the old value by the new one.
            (Some(was), Some(is)) => replace_one(&mut before, &member(key, was), &member(key, is)),
            (None, Some(is)) => replace_one(&mut after, &format!(",{}", member(key, is)), ""),
            (None, None) => {}
            (Some(_), None) => panic!("{key} was removed: {after}"),
        }
    }
    assert_eq!(before, after);
}

/// Returns a key and value in the format of Go's encoder.
fn member(key: &str, value: &str) -> String {
    format!("\"{key}\":\"{value}\"")
}

#[track_caller]
fn replace_one(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    *text = text.replacen(from, to, 1);
}

/// Returns the digest, `sha256:...`.
fn digest_of(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Returns name and content of every file in a tar archive.
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
