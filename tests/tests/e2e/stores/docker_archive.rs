//! `docker save` archives with the programs that write and read them: skopeo, podman and Docker Engine.

use image_model::manifest::{Descriptor, Document, ParsedDocument, media_type};
use image_store::archive::DockerArchive;
use image_store::check::{CheckDepth, check};
use image_store::plan::{MovedTag, WantedImage, apply, plan};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer, read_blob};
use image_store::tree::read_tree;
use multiarch_tests::need;
use multiarch_tests::world::{self, Engine};
use registry_client::meter::Meter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

fn layer(name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o755);
    header.set_cksum();
    builder.append_data(&mut header, name, &b"hello"[..]).unwrap();
    builder.into_inner().unwrap()
}

/// Returns a layout with one image that declares amd64 and has two different layers, the first of them twice.
fn layout(dir: &Path) -> OciLayout {
    let store = OciLayout::open_or_create(dir).unwrap();
    let layers = [layer("a"), layer("a"), layer("b")];
    let put = |media_type: &str, bytes: &[u8]| {
        let blob = Descriptor::of(media_type, bytes);
        store.write_blob(&blob, &|| Ok(Box::new(bytes))).unwrap();
        blob
    };
    let layers: Vec<Descriptor> = layers.iter().map(|bytes| put(media_type::OCI_LAYER, bytes)).collect();
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"], "Env": ["A=<b>"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put(media_type::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
    });
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_tag("v1", &document).unwrap();
    store
}

/// Writes arm/v7 as the declared platform, as a fix does: only the necessary bytes of config and manifest change.
fn relabel(store: &DockerArchive, name: &str) -> Document {
    let document = store.read_document(&tag(name)).unwrap();
    let ParsedDocument::Manifest(manifest) = document.parse().unwrap() else { panic!("an index") };
    let old = String::from_utf8(read_blob(store, &manifest.config, 1 << 20).unwrap()).unwrap();
    let new = old.replacen("\"architecture\":\"amd64\"", "\"architecture\":\"arm\",\"variant\":\"v7\"", 1);
    assert_ne!(old, new);
    let config = Descriptor::of(&manifest.config.media_type, new.as_bytes());
    store.write_blob(&config, &|| Ok(Box::new(new.as_bytes()))).unwrap();
    let text = String::from_utf8(document.bytes().to_vec()).unwrap();
    let text = text
        .replace(manifest.config.digest.as_str(), config.digest.as_str())
        .replace(&format!("\"size\":{}", manifest.config.size), &format!("\"size\":{}", config.size));
    let changed = Document::new(text.into_bytes(), None).unwrap();
    store.write_tag(name, &changed).unwrap();
    changed
}

/// Checks the image, relabels it and checks it again. A second write must change nothing.
fn relabel_and_check(path: &Path, name: &str) {
    let store = DockerArchive::open(path, Some(name)).unwrap();
    assert_eq!(check(&store, &tag(name), CheckDepth::Layers), []);
    let changed = relabel(&store, name);
    let store = DockerArchive::open(path, None).unwrap();
    assert_eq!(store.read_document(&tag(name)).unwrap(), changed);
    assert_eq!(check(&store, &tag(name), CheckDepth::Layers), []);
    let written = std::fs::read(path).unwrap();
    store.write_tag(name, &changed).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), written);
}

/// Copies the layout's image into a new archive, as `manifest-push copy` does.
fn copy_to_archive(dir: &Path, path: &Path, name: &str) {
    let source: Arc<dyn ImageSource> = Arc::new(layout(dir));
    let node = read_tree(&*source, &tag("v1")).unwrap();
    let store = DockerArchive::open_or_create(path).unwrap();
    let wanted = || WantedImage::copy_of(&node, &source).unwrap();
    let tags = [name.to_string()];
    let first = plan(wanted(), &store, &tags).unwrap();
    apply(&first, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
    let again = DockerArchive::open(path, None).unwrap();
    assert!(plan(wanted(), &again, &tags).unwrap().is_nothing());
}

fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn skopeo(arguments: &[&str]) -> String {
    run(Command::new(world::program("skopeo").unwrap()).args(arguments))
}

/// Returns the architecture and variant that skopeo reads from the config.
fn skopeo_platform(path: &Path, name: &str) -> (String, String) {
    let image = format!("docker-archive:{}:{name}", path.display());
    let config: serde_json::Value = serde_json::from_str(&skopeo(&["inspect", "--config", &image])).unwrap();
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_string();
    (text("architecture"), text("variant"))
}

fn arm_v7() -> (String, String) {
    ("arm".into(), "v7".into())
}

#[test]
fn skopeo_reads_a_relabeled_archive_of_skopeo() {
    need!(world::require(&["skopeo"]));
    let dir = tempfile::tempdir().unwrap();
    layout(&dir.path().join("layout"));
    let path = dir.path().join("app.tar");
    let from = format!("oci:{}:v1", dir.path().join("layout").display());
    skopeo(&["copy", "-q", &from, &format!("docker-archive:{}:app:1", path.display())]);
    relabel_and_check(&path, "app:1");
    assert_eq!(skopeo_platform(&path, "app:1"), arm_v7());
    // skopeo copy reads every layer and compares it with the config.
    let to = dir.path().join("copied");
    let from = format!("docker-archive:{}:app:1", path.display());
    skopeo(&["copy", "-q", &from, &format!("oci:{}:v1", to.display())]);
    assert_eq!(check(&OciLayout::open(&to).unwrap(), &tag("v1"), CheckDepth::Layers), []);
}

#[test]
fn skopeo_reads_a_new_archive() {
    need!(world::require(&["skopeo"]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.tar");
    copy_to_archive(&dir.path().join("layout"), &path, "app:1");
    relabel_and_check(&path, "app:1");
    assert_eq!(skopeo_platform(&path, "app:1"), arm_v7());
    let to = dir.path().join("copied");
    let from = format!("docker-archive:{}", path.display());
    skopeo(&["copy", "-q", &from, &format!("oci:{}:v1", to.display())]);
    assert_eq!(check(&OciLayout::open(&to).unwrap(), &tag("v1"), CheckDepth::Layers), []);
}

/// Relabels an archive of `podman save` and one that this workspace wrote.
#[test]
fn podman_loads_a_relabeled_archive_of_podman_and_a_new_one() {
    need!(world::require(&["podman", "skopeo"]));
    let dir = tempfile::tempdir().unwrap();
    let environment = world::containers_env(dir.path());
    let podman = |arguments: &[&str]| {
        let mut command = Command::new(world::program("podman").unwrap());
        run(command.envs(environment.iter().cloned()).args(arguments))
    };
    let new = dir.path().join("new.tar");
    copy_to_archive(&dir.path().join("layout"), &new, "app:1");
    podman(&["load", "-q", "-i", &new.display().to_string()]);
    let saved = dir.path().join("saved.tar");
    podman(&["save", "-q", "--format", "docker-archive", "-o", &saved.display().to_string(), "app:1"]);
    for path in [saved, new] {
        relabel_and_check(&path, "app:1");
        podman(&["rmi", "-f", "app:1"]);
        podman(&["load", "-q", "-i", &path.display().to_string()]);
        let shown = podman(&["inspect", "--format", "{{.Os}}/{{.Architecture}} {{.Config.Cmd}}", "app:1"]);
        assert_eq!(shown.trim(), "linux/arm [/a]");
    }
}

#[test]
fn docker_loads_a_relabeled_archive_of_docker_and_a_new_one() {
    let engine = need!(Engine::start());
    let dir = tempfile::tempdir().unwrap();
    let docker = |arguments: &[&str]| run(&mut engine.command(arguments));
    let new = dir.path().join("new.tar");
    copy_to_archive(&dir.path().join("layout"), &new, "app:1");
    docker(&["load", "-i", &new.display().to_string()]);
    docker(&["tag", "app:1", "app:2"]);
    let saved = dir.path().join("saved.tar");
    docker(&["save", "-o", &saved.display().to_string(), "app:1", "app:2"]);
    let paths: [PathBuf; 2] = [saved, new];
    for path in &paths {
        relabel_and_check(path, "app:1");
        docker(&["rmi", "-f", "app:1"]);
        docker(&["load", "-i", &path.display().to_string()]);
        let format = "{{.Os}}/{{.Architecture}}/{{.Variant}} {{.Config.Cmd}}";
        let shown = |name: &str| docker(&["image", "inspect", "--format", format, name]).trim().to_string();
        assert_eq!(shown("app:1"), "linux/arm/v7 [/a]");
        // The other name of the image is not relabeled.
        assert_eq!(shown("app:2"), "linux/amd64/ [/a]");
    }
}
