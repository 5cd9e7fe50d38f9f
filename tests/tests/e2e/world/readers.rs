//! The table of readers of `verify`: each form of an index is pulled by each reader, and must fail where `verify` says so.

use crate::tools::User;
use crate::verify::made::{gzip, probe, put, zstd};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_model::platform::Platform;
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::registry::RegistryStore;
use multiarch_tests::need;
use multiarch_tests::world::{
    Engine, Namespace, NewerDocker, Proc, Registry, Skip, containers_env, newer_docker, program, require,
};
use registry_client::{Client, RegistryOptions};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Media types and compression of an image.
#[derive(Clone, Copy)]
struct Kind {
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
    packed: fn(&[u8]) -> Vec<u8>,
}

const OCI: Kind = Kind {
    manifest: media_type::OCI_MANIFEST,
    config: media_type::OCI_CONFIG,
    layer: media_type::OCI_LAYER_GZIP,
    packed: gzip,
};
const DOCKER: Kind = Kind {
    manifest: media_type::DOCKER_MANIFEST,
    config: media_type::DOCKER_CONFIG,
    layer: media_type::DOCKER_LAYER_GZIP,
    packed: gzip,
};
const OCI_ZSTD: Kind = Kind { layer: media_type::OCI_LAYER_ZSTD, packed: zstd, ..OCI };
const DOCKER_ZSTD: Kind =
    Kind { layer: "application/vnd.docker.image.rootfs.diff.tar.zstd", packed: zstd, ..DOCKER };

fn image(store: &MemoryStore, kind: Kind, platform: &str, number: u8) -> Value {
    let layer =
        crate::verify::made::Layer::new().file("app", &probe(platform)).file("number", &[number]).end();
    let declared: Platform = platform.parse().unwrap();
    let mut config = serde_json::to_value(&declared).unwrap();
    config["config"] = json!({"Cmd": ["/app"]});
    config["rootfs"] = json!({"type": "layers", "diff_ids": [Digest::of(&layer)]});
    let config = store.add_blob(kind.config, config.to_string().as_bytes());
    let layer = store.add_blob(kind.layer, &(kind.packed)(&layer));
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind.manifest, "config": config, "layers": [layer]});
    write(store, &manifest)
}

fn write(store: &MemoryStore, document: &Value) -> Value {
    let document = Document::new(document.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    store.write_tag("x", &document).unwrap();
    serde_json::to_value::<Descriptor>(document.descriptor()).unwrap()
}

fn index(store: &MemoryStore, kind: &str, entries: &[(Value, Value)]) -> Value {
    let with_platform = |(entry, platform): &(Value, Value)| {
        let mut entry = entry.clone();
        entry["platform"] = platform.clone();
        entry
    };
    let entries: Vec<Value> = entries.iter().map(with_platform).collect();
    write(store, &json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}))
}

/// A form, its store, and the platform to pull.
struct Case {
    name: &'static str,
    store: MemoryStore,
    platform: &'static str,
}

/// All forms of `verify`, and some that every reader pulls.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let linux = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    // An index of an amd64 image with this platform in its entry, and an arm64 image.
    let mut amd64 = |name: &'static str, list: &str, kind: Kind, platform: Value| {
        let store = MemoryStore::new();
        let entries = [
            (image(&store, kind, "linux/amd64", 1), platform),
            (image(&store, kind, "linux/arm64", 2), linux("arm64")),
        ];
        index(&store, list, &entries);
        cases.push(Case { name, store, platform: "linux/amd64" });
    };
    amd64("plain", media_type::OCI_INDEX, OCI, linux("amd64"));
    amd64("docker", media_type::DOCKER_LIST, DOCKER, linux("amd64"));
    amd64("docker-in-oci", media_type::OCI_INDEX, DOCKER, linux("amd64"));
    amd64("oci-in-docker", media_type::DOCKER_LIST, OCI, linux("amd64"));
    amd64("zstd", media_type::OCI_INDEX, OCI_ZSTD, linux("amd64"));
    amd64("docker-zstd", media_type::DOCKER_LIST, DOCKER_ZSTD, linux("amd64"));
    amd64("no-platform", media_type::OCI_INDEX, OCI, Value::Null);
    amd64("docker-no-platform", media_type::DOCKER_LIST, DOCKER, Value::Null);
    amd64("empty-platform", media_type::OCI_INDEX, OCI, json!({}));
    amd64("no-os", media_type::OCI_INDEX, OCI, json!({"architecture": "amd64"}));
    amd64("no-architecture", media_type::OCI_INDEX, OCI, json!({"os": "linux"}));
    amd64("x86-64", media_type::OCI_INDEX, OCI, linux("x86_64"));
    amd64("capitals", media_type::OCI_INDEX, OCI, linux("AMD64"));
    amd64("docker-x86-64", media_type::DOCKER_LIST, DOCKER, linux("x86_64"));
    let mut arm64 = |name: &'static str, platform: Value| {
        let store = MemoryStore::new();
        let entries = [
            (image(&store, OCI, "linux/amd64", 1), linux("amd64")),
            (image(&store, OCI, "linux/arm64", 2), platform),
        ];
        index(&store, media_type::OCI_INDEX, &entries);
        cases.push(Case { name, store, platform: "linux/arm64" });
    };
    let variant = |variant: &str| json!({"os": "linux", "architecture": "arm64", "variant": variant});
    arm64("v8", variant("v8"));
    arm64("variant-8", variant("8"));
    arm64("variant-capital", variant("V8"));
    arm64("variant-armv8", variant("armv8"));
    arm64("aarch64", linux("aarch64"));
    for (name, kind, list) in
        [("nested", OCI, media_type::OCI_INDEX), ("docker-nested", DOCKER, media_type::DOCKER_LIST)]
    {
        let store = MemoryStore::new();
        let inner = index(&store, list, &[(image(&store, kind, "linux/amd64", 1), linux("amd64"))]);
        index(&store, list, &[(inner, Value::Null)]);
        cases.push(Case { name, store, platform: "linux/amd64" });
    }
    let store = MemoryStore::new();
    let twins = [1, 2].map(|number| (image(&store, OCI, "linux/amd64", number), linux("amd64")));
    index(&store, media_type::OCI_INDEX, &twins);
    cases.push(Case { name: "twins", store, platform: "linux/amd64" });
    // Last: the daemon of Docker 20.10 ends.
    let store = MemoryStore::new();
    let capital = json!({"os": "Linux", "architecture": "amd64"});
    index(&store, media_type::OCI_INDEX, &[(image(&store, OCI, "linux/amd64", 1), capital)]);
    cases.push(Case { name: "capital-os", store, platform: "linux/amd64" });
    cases
}

/// Pushes each form to the registry, asks `verify` which readers fail, and compares that with what `pulls` says.
fn compare(reader: &str, registry: &Registry, pulls: impl Fn(&str, &str) -> Result<(), String>) {
    let user = User::new();
    let client = Client::new(RegistryOptions::default()).unwrap();
    let mut wrong = Vec::new();
    for Case { name, store, platform } in cases() {
        put(store, &RegistryStore::writing(&client, registry.host(), name).unwrap(), "v1");
        let image = format!("{}/{name}:v1", registry.host());
        let found =
            user.config_patcher(&["verify", &image, "--no-layers", "--format", "json", "--readers", reader]);
        let forms = found.json()["compatibility"].as_array().unwrap().clone();
        let fails = forms.iter().any(|form| form["readers"].as_array().unwrap().contains(&json!(reader)));
        let is_problem = forms.iter().any(|form| form["isProblem"] == true);
        assert_eq!(found.code, Some(i32::from(is_problem)), "{found}");
        assert!(is_problem || !fails, "{found}");
        match (pulls(&image, platform), fails) {
            (Ok(()), true) => wrong.push(format!("{name}: it pulls, and verify says that it cannot")),
            (Err(error), false) => wrong.push(format!("{name}: it does not pull: {error}")),
            (Ok(()), false) | (Err(_), true) => {}
        }
    }
    assert!(wrong.is_empty(), "{reader}:\n{}", wrong.join("\n"));
}

/// Runs a command that pulls.
fn pulled(command: &mut Command) -> Result<String, String> {
    let done = command.output().expect("an installed program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

/// Requires this version of a program, because the table is about it.
fn require_version(command: &Path, version: &str) -> Result<(), Skip> {
    let said = pulled(Command::new(command).arg("--version")).unwrap_or_default();
    match said.contains(version) {
        true => Ok(()),
        false => {
            Err(Skip::because(format!("{} is not version {version}: {}", command.display(), said.trim())))
        }
    }
}

fn required(name: &str, version: &str) -> Result<PathBuf, Skip> {
    require(&[name])?;
    let path = program(name).expect("required above");
    require_version(&path, version)?;
    Ok(path)
}

#[test]
fn skopeo_pulls_what_verify_says() {
    let skopeo = need!(required("skopeo", " 1.9"));
    let registry = need!(Registry::start());
    compare("skopeo-1.9", &registry, |image, platform| {
        let target = tempfile::tempdir().unwrap();
        let architecture = platform.trim_start_matches("linux/");
        let mut copy = Command::new(&skopeo);
        copy.args([
            "--override-os",
            "linux",
            "--override-arch",
            architecture,
            "copy",
            "--src-tls-verify=false",
        ]);
        copy.args([format!("docker://{image}"), format!("dir:{}", target.path().display())]);
        pulled(&mut copy).map(drop)
    });
}

#[test]
fn podman_and_buildah_pull_what_verify_says() {
    for (name, version, reader) in [("podman", " 4.3", "podman-4.3"), ("buildah", " 1.28", "buildah-1.28")] {
        let program = need!(required(name, version));
        let registry = need!(Registry::start());
        let namespace = need!(Namespace::with_debian_emulators());
        let home = tempfile::tempdir().unwrap();
        let variables = containers_env(home.path());
        compare(reader, &registry, |image, platform| {
            let mut pull = Command::new(&program);
            pull.args(["pull", "-q", "--platform", platform, image]).envs(variables.iter().cloned());
            pulled(&mut namespace.enter(&pull)).map(drop)
        });
    }
}

#[test]
fn docker_pulls_what_verify_says() {
    need!(require(&["dockerd"]));
    let dockerd = program("dockerd").unwrap();
    need!(require_version(&dockerd, " 20.10"));
    let registry = need!(Registry::start());
    let engine = need!(Engine::start());
    compare_docker("docker-20.10", &registry, &engine);
}

#[test]
fn docker_with_containerds_store_pulls_what_verify_says() {
    let newer = need!(newer_docker());
    need!(require_version(&newer.bin.join("dockerd"), " 26.1"));
    let registry = need!(Registry::start());
    let engine =
        need!(Namespace::with_debian_emulators().and_then(|inside| Engine::start_newer(inside, &newer)));
    compare_docker("docker-26.1-containerd", &registry, &engine);
}

fn compare_docker(reader: &str, registry: &Registry, engine: &Engine) {
    engine.reach(registry.host());
    compare(reader, registry, |image, platform| {
        let done = pulled(&mut engine.command(&["pull", "-q", "--platform", platform, image]));
        engine.docker(&["rmi", "-f", image]);
        done.map(drop)
    });
}

#[test]
fn containerd_pulls_what_verify_says() {
    let containerd = need!(required("containerd", " 1.6"));
    compare_containerd("containerd-1.6", &containerd, &program("ctr").unwrap());
}

#[test]
fn a_newer_containerd_pulls_what_verify_says() {
    let NewerDocker { bin, .. } = need!(newer_docker());
    need!(require_version(&bin.join("containerd"), " 1.7"));
    compare_containerd("containerd-1.7", &bin.join("containerd"), &bin.join("../containerd/usr/bin/ctr"));
}

/// Debian's unstable packages docker.io, docker-cli and containerd, unpacked into the directory that this variable names: CI
/// does not have them, because unstable moves on.
const UNSTABLE: &str = "MULTIARCH_UNSTABLE_DOCKER";

#[test]
fn unstable_docker_and_containerd_pull_what_verify_says() {
    let Some(root) = std::env::var_os(UNSTABLE).map(PathBuf::from) else {
        return eprintln!("skipped: {UNSTABLE} is not set");
    };
    let (programs, daemons) = (root.join("usr/bin"), root.join("usr/sbin"));
    need!(require_version(&programs.join("containerd"), " 2.1"));
    need!(require_version(&daemons.join("dockerd"), " 28.5"));
    compare_containerd("containerd-2.1", &programs.join("containerd"), &programs.join("ctr"));
    let bin = tempfile::tempdir().unwrap();
    for path in
        ["usr/bin/docker", "usr/sbin/dockerd", "usr/bin/containerd", "usr/bin/containerd-shim-runc-v2"]
    {
        let path = root.join(path);
        std::os::unix::fs::symlink(&path, bin.path().join(path.file_name().unwrap())).unwrap();
    }
    let docker = NewerDocker { bin: bin.path().to_path_buf(), buildx: PathBuf::from("/nonexistent") };
    for (reader, features) in [("docker-28.5", "{}"), ("docker-28.5-containerd", CONTAINERD_STORE)] {
        let registry = need!(Registry::start());
        let inside = need!(Namespace::with_debian_emulators());
        let engine = need!(Engine::start_with(inside, &docker, features));
        compare_docker(reader, &registry, &engine);
    }
}

const CONTAINERD_STORE: &str = r#"{"features":{"containerd-snapshotter":true}}"#;

/// Pulls with a private containerd. What is pulled and not unpacked counts as not pulled: no container starts from it.
fn compare_containerd(reader: &str, containerd: &Path, ctr: &Path) {
    let registry = need!(Registry::start());
    let namespace = need!(Namespace::with_debian_emulators());
    let home = tempfile::Builder::new().prefix("ctrd-").tempdir_in("/tmp").unwrap();
    let at = home.path().display();
    let socket = home.path().join("socket");
    // The native snapshotter needs no file system with special abilities.
    let unpack = |platform: &str| {
        format!(
            "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"{platform}\"\n\
             snapshotter = \"native\"\ndiffer = \"walking\"\n"
        )
    };
    let transfer = if reader == "containerd-1.6" {
        String::new()
    } else {
        unpack("linux/amd64") + &unpack("linux/arm64")
    };
    let config = format!(
        "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{at}/socket\"\n[ttrpc]\naddress = \"{at}/socket.ttrpc\"\n{transfer}"
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let mut start = Command::new(containerd);
    start.arg("--config").arg(home.path().join("config.toml"));
    let mut server = Proc::spawn_server(&namespace.enter(&start));
    let ctr = |arguments: &[&str]| {
        let mut command = Command::new(ctr);
        command.arg("--address").arg(&socket).args(arguments);
        pulled(&mut namespace.enter(&command))
    };
    let starts = server.wait_until(Duration::from_secs(20), |_| ctr(&["version"]).is_ok());
    assert!(starts, "containerd does not start: {}", server.stderr());
    compare(reader, &registry, |image, platform| {
        let pull =
            ["images", "pull", "--plain-http", "--snapshotter", "native", "--platform", platform, image];
        let done = ctr(&pull);
        let unpacked = ctr(&["snapshots", "--snapshotter", "native", "ls"])?;
        let _ = ctr(&["images", "rm", "--sync", image]);
        match done {
            Ok(_) if unpacked.lines().count() < 2 => Err("nothing was unpacked".into()),
            done => done.map(drop),
        }
    });
    server.stop_server(Duration::from_secs(20));
}
