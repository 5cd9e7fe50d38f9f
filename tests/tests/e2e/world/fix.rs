//! `config-patcher fix` of archives of all known writers, loaded by all known readers.

use crate::samples::{Image, layer};
use crate::tools::{Ran, User, program, shown};
use image_model::digest::Digest;
use image_store::archive::{DockerArchive, OciArchive};
use image_store::store::{ImageSource, Pointer};
use image_store::tree::read_tree;
use multiarch_tests::need;
use multiarch_tests::world::{self, Engine, Skip, containers_env};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

const PLATFORM: [&str; 2] = ["--set-platform", "linux/arm/v7"];
/// Needs no emulator and no base image.
const DOCKERFILE: &str =
    "FROM scratch\nCOPY app /app\nLABEL note=\"<a> & \\u00e9\"\nSTOPSIGNAL 9\nENV A=1.50\nCMD [\"/app\"]\n";

/// The kind of fix: a new file, in place, or a stream.
#[derive(Clone, Copy, Debug)]
enum Mode {
    NewFile,
    InPlace,
    Filter,
}

/// An archive and the program that wrote it.
struct Saved {
    by: &'static str,
    file: String,
    is_oci: bool,
}

struct World {
    engine: Engine,
    user: User,
    containers: Vec<(String, String)>,
}

fn run_ok(mut command: Command) -> String {
    let line = shown(&command);
    let ran = Ran::of(line, command.output().unwrap()).exits(0);
    ran.stdout.trim().to_string()
}

impl World {
    fn start() -> Result<Self, Skip> {
        world::require(&["podman", "buildah", "skopeo"])?;
        let engine = Engine::start()?;
        let user = User::new();
        fs::create_dir_all(user.path("../containers")).unwrap();
        let containers = containers_env(&user.path("../containers"));
        user.write("context/app", "a program\n");
        user.write("context/Dockerfile", DOCKERFILE);
        Ok(Self { engine, user, containers })
    }

    fn docker(&self, args: &[&str]) -> String {
        let mut command = self.engine.command(args);
        command.current_dir(self.user.work());
        run_ok(command)
    }

    fn tool(&self, name: &str, args: &[&str]) -> String {
        let mut command = Command::new(world::program(name).unwrap());
        command.envs(self.containers.iter().cloned()).args(args).current_dir(self.user.work());
        run_ok(command)
    }

    fn archives_of_builders(&self) -> Vec<Saved> {
        for kit in ["0", "1"] {
            let mut build = self.engine.command(&["build", "-q", "-t", &format!("app:kit{kit}"), "context"]);
            build.env("DOCKER_BUILDKIT", kit).current_dir(self.user.work());
            run_ok(build);
            self.docker(&["tag", &format!("app:kit{kit}"), "app:1"]);
            self.docker(&["save", "-o", &format!("docker{kit}.tar"), "app:1"]);
            self.docker(&["rmi", "-f", "app:1"]);
        }
        self.tool("podman", &["build", "-q", "--arch", "amd64", "-t", "localhost/app:1", "context"]);
        for (format, file) in [("docker-archive", "podman.tar"), ("oci-archive", "podman-oci.tar")] {
            self.tool("podman", &["save", "-q", "--format", format, "-o", file, "localhost/app:1"]);
        }
        let id = self.tool("buildah", &["bud", "-q", "--arch", "amd64", "--format", "docker", "context"]);
        self.tool("buildah", &["push", "-q", &id, "docker-archive:buildah.tar:app:1"]);
        self.tool("skopeo", &["copy", "-q", "docker-archive:docker0.tar", "docker-archive:skopeo.tar:app:1"]);
        self.tool("skopeo", &["copy", "-q", "docker-archive:docker0.tar", "oci-archive:skopeo-oci.tar:1"]);
        let saved = |by, file: &str| Saved { by, file: file.into(), is_oci: file.ends_with("-oci.tar") };
        vec![
            saved("docker save of a classic build", "docker0.tar"),
            saved("docker save of a BuildKit build", "docker1.tar"),
            saved("podman save", "podman.tar"),
            saved("podman save, OCI", "podman-oci.tar"),
            saved("buildah push", "buildah.tar"),
            saved("skopeo copy", "skopeo.tar"),
            saved("skopeo copy, OCI", "skopeo-oci.tar"),
        ]
    }

    /// Archives in the formats of writers that are not installed, and one of Docker with two equal layers.
    fn archives_of_other_tools(&self) -> Vec<Saved> {
        let mut all = Vec::new();
        let mut saved = |by: &'static str, file: &str, bytes: Vec<u8>| {
            self.user.write(file, bytes);
            all.push(Saved { by, file: file.into(), is_oci: false });
        };
        let image = sample();
        saved("Docker 25 and later", "docker25.tar", docker_25(&image));
        saved("kaniko", "kaniko.tar", kaniko(&image));
        saved("jib", "jib.tar", jib(&image));
        let bytes = with_duplicate_layer(&image);
        self.docker(&["load", "-i", &self.user.write("twice-in.tar", bytes).display().to_string()]);
        self.docker(&["save", "-o", "twice.tar", "app:1"]);
        self.docker(&["rmi", "-f", "app:1"]);
        let links =
            tar_members(&self.user.path("twice.tar")).into_iter().filter(|(_, kind)| kind.is_symlink());
        assert_eq!(links.count(), 1, "Docker saves a layer once, with a link for its copy");
        all.push(Saved { by: "docker save of duplicate layers", file: "twice.tar".into(), is_oci: false });
        all
    }

    fn fix(&self, saved: &Saved, mode: Mode) -> String {
        let scheme = if saved.is_oci { "oci-archive" } else { "docker-archive" };
        let fixed = format!("{mode:?}-{}", saved.file);
        let (from, to) = (self.user.path(&saved.file), self.user.path(&fixed));
        let reference = format!("{scheme}:{fixed}");
        match mode {
            Mode::Filter => {
                let mut command = Command::new(program("config-patcher"));
                command.args([&["fix", "-"][..], &PLATFORM].concat());
                command.stdin(File::open(from).unwrap()).stdout(File::create(&to).unwrap());
                Ran::of(shown(&command), command.output().unwrap()).exits(0);
            }
            Mode::NewFile | Mode::InPlace => {
                fs::copy(from, &to).unwrap();
                let more: &[&str] = if matches!(mode, Mode::InPlace) { &["--in-place"] } else { &[] };
                self.user.config_patcher(&[&["fix", &reference], &PLATFORM, more].concat()).exits(0);
            }
        }
        self.user.config_patcher(&[&["fix", &reference, "--check"], &PLATFORM[..]].concat()).exits(0);
        fixed
    }

    fn assert_loaded_by_all(&self, saved: &Saved, fixed: &str, config: &[u8]) {
        let id = Digest::of(config);
        let what = format!("{}: {fixed}", saved.by);
        let scheme = if saved.is_oci { "oci-archive" } else { "docker-archive" };
        let mut seen = Command::new(world::program("skopeo").unwrap());
        seen.args(["inspect", "--config", "--raw", &format!("{scheme}:{fixed}")]);
        assert_eq!(run_ok(in_dir(seen, &self.user.work())).as_bytes(), config.trim_ascii(), "{what}");
        if saved.by != "docker save of duplicate layers" {
            // skopeo copy reads and verifies every layer. skopeo 1.9 does not follow Docker's links.
            self.tool("skopeo", &["copy", "-q", &format!("{scheme}:{fixed}"), &format!("dir:dir-{fixed}")]);
            let loaded = self.tool("podman", &["load", "-q", "-i", fixed]);
            let name = loaded.trim_start_matches("Loaded image: ");
            let format = "{{.Os}}/{{.Architecture}}";
            assert_eq!(
                self.tool("podman", &["image", "inspect", "--format", format, name]),
                "linux/arm",
                "{what}"
            );
            self.tool("podman", &["rmi", "-f", name]);
        }
        if saved.is_oci {
            return;
        }
        let loaded = self.docker(&["load", "-i", fixed]);
        let name = loaded.rsplit(": ").next().unwrap();
        let format = "{{.Os}}/{{.Architecture}}/{{.Variant}} {{.Id}}";
        let shown = self.docker(&["image", "inspect", "--format", format, name]);
        assert_eq!(shown, format!("linux/arm/v7 {id}"), "{what}");
        self.docker(&["rmi", "-f", name]);
    }
}

fn in_dir(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir);
    command
}

fn config_of(path: &Path, is_oci: bool) -> Vec<u8> {
    let (source, pointer): (Box<dyn ImageSource>, Pointer) = if is_oci {
        let archive = OciArchive::open(path, None).unwrap();
        let pointer = archive.only_image().unwrap();
        (Box::new(archive), pointer)
    } else {
        let archive = DockerArchive::open(path, None).unwrap();
        let pointer = archive.only_image().unwrap();
        (Box::new(archive), pointer)
    };
    let node = read_tree(&*source, &pointer).unwrap();
    node.images()[0].1.config.as_ref().unwrap().bytes.clone()
}

/// Fixes every archive in every mode. Only the platform in the config may change.
fn check_fixes(world: &World, all: &[Saved]) {
    for saved in all {
        let before = String::from_utf8(config_of(&world.user.path(&saved.file), saved.is_oci)).unwrap();
        let declared = r#""architecture":"amd64""#;
        assert_eq!(before.matches(declared).count(), 1, "{}: {before}", saved.by);
        // Docker and BuildKit sort the keys. In the other orders, of podman, buildah and kaniko, the variant follows the
        // architecture.
        let expected = match before.strip_suffix('}') {
            Some(sorted) if saved.by != "kaniko" && before[1..].starts_with(declared) => {
                format!(r#"{},"variant":"v7"}}"#, sorted.replace(declared, r#""architecture":"arm""#))
            }
            _ => before.replace(declared, r#""architecture":"arm","variant":"v7""#),
        };
        for mode in [Mode::NewFile, Mode::InPlace, Mode::Filter] {
            let fixed = world.fix(saved, mode);
            let config = config_of(&world.user.path(&fixed), saved.is_oci);
            assert_eq!(String::from_utf8_lossy(&config), expected, "{}, {mode:?}", saved.by);
            // Each load takes a second, so every archive is loaded after some of the modes only.
            if matches!((mode, saved.is_oci), (Mode::NewFile, true) | (Mode::InPlace | Mode::Filter, false)) {
                world.assert_loaded_by_all(saved, &fixed, &config);
            }
        }
    }
}

#[test]
fn archives_of_builders_are_fixed_and_loaded_by_docker_and_podman() {
    let world = need!(World::start());
    let all = world.archives_of_builders();
    check_fixes(&world, &all);
}

#[test]
fn archives_of_other_tools_are_fixed_and_loaded_by_docker_and_podman() {
    let world = need!(World::start());
    let all = world.archives_of_other_tools();
    check_fixes(&world, &all);
}

/// Returns a sample whose number is an integer, as Docker requires.
fn sample() -> Image {
    let image = Image::new("linux/amd64", "arm's own");
    image.with_config(image.config.replace("1.50", "15"))
}

fn hex(bytes: &[u8]) -> String {
    Digest::of(bytes).hex().to_string()
}

fn tar_members(path: &Path) -> Vec<(String, tar::EntryType)> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.path().unwrap().display().to_string(), entry.header().entry_type())
    });
    entries.collect()
}

/// Returns a tar archive. Names that end with a slash are directories.
fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        let is_folder = name.ends_with('/');
        header.set_entry_type(if is_folder { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(if is_folder { 0o755 } else { 0o644 });
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Returns the output of `docker save` of Docker 25 and later: an OCI layout with `manifest.json` and `repositories`.
fn docker_25(image: &Image) -> Vec<u8> {
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let (config, layer, manifest) = (image.config.as_bytes(), &image.layer[..], image.document.bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"{}","digest":"{}","size":{},"annotations":{{"io.containerd.image.name":"docker.io/library/app:1","org.opencontainers.image.ref.name":"1"}}}}]}}"#,
        image.document.media_type(),
        image.digest(),
        manifest.len()
    );
    let source = format!(
        r#""sha256:{0}":{{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":{1},"digest":"sha256:{0}"}}"#,
        hex(layer),
        layer.len()
    );
    let (config_path, layer_path) = (blob(config), blob(layer));
    let list = format!(
        r#"[{{"Config":"{config_path}","RepoTags":["app:1"],"Layers":["{layer_path}"],"LayerSources":{{{source}}}}}]"#
    );
    let repositories = format!(r#"{{"app":{{"1":"{}"}}}}"#, hex(layer));
    tar_of(&[
        ("blobs/", b""),
        ("blobs/sha256/", b""),
        (&blob(config), config),
        (&blob(layer), layer),
        (&blob(manifest), manifest),
        ("index.json", index.as_bytes()),
        ("manifest.json", list.as_bytes()),
        ("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#),
        ("repositories", repositories.as_bytes()),
    ])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut out, bytes).unwrap();
    out.finish().unwrap()
}

/// Returns an archive of kaniko or crane: the config named by its digest, compressed layers, the list in one line.
fn kaniko(image: &Image) -> Vec<u8> {
    let config = image.config.replace(r#""docker_version":"20.10.24", "#, r#""author":"kaniko","#);
    let (name, layer) = (format!("sha256:{}", hex(config.as_bytes())), gzip(&image.layer));
    let file = format!("{}.tar.gz", hex(&layer));
    let list = format!(r#"[{{"Config":"{name}","RepoTags":["app:1"],"Layers":["{file}"]}}]"#);
    tar_of(&[(&name, config.as_bytes()), (&file, &layer), ("manifest.json", list.as_bytes())])
}

/// Returns an archive of jib: the config is `config.json`, without a digest in the name.
fn jib(image: &Image) -> Vec<u8> {
    let config = format!(
        r#"{{"created":"1970-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{{"Env":[],"Entrypoint":["java","-cp","@/app/jib-classpath-file","Main"],"ExposedPorts":{{}},"Labels":{{}},"WorkingDir":""}},"history":[{{"created":"1970-01-01T00:00:00Z","author":"Jib","created_by":"jib-maven-plugin:3.4.0","comment":"classes"}}],"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        hex(&image.layer)
    );
    let layer = gzip(&image.layer);
    let file = format!("{}.tar.gz", hex(&layer));
    let list = format!(r#"[{{"Config":"config.json","RepoTags":["app:1"],"Layers":["{file}"]}}]"#);
    tar_of(&[(&file, &layer), ("config.json", config.as_bytes()), ("manifest.json", list.as_bytes())])
}

/// Returns an archive with the same layer twice, and another layer between them.
fn with_duplicate_layer(image: &Image) -> Vec<u8> {
    let other = layer("between");
    let ids = |all: &[&[u8]]| {
        all.iter().map(|layer| format!("\"sha256:{}\"", hex(layer))).collect::<Vec<_>>().join(",")
    };
    let config = image.config.replace(&ids(&[&image.layer]), &ids(&[&image.layer, &other, &image.layer]));
    let file = format!("{}.json", hex(config.as_bytes()));
    let list = format!(
        r#"[{{"Config":"{file}","RepoTags":["app:1"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#
    );
    tar_of(&[
        ("a/layer.tar", &image.layer),
        ("b/layer.tar", &other),
        ("c/layer.tar", &image.layer),
        (&file, config.as_bytes()),
        ("manifest.json", list.as_bytes()),
    ])
}
