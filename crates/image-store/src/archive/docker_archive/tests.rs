//! Tests with generated archives.

use super::*;
use crate::archive::tar::sample::{archive, directory, file, hard_link, pax, symlink};
use crate::check::{CheckDepth, check};
use crate::store::read_blob;
use error::Exit;
use image_model::manifest::{Config, media_type};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tempfile::TempDir;

mod checking;
mod filtering;
mod names;
mod overwriting;
mod reading;
mod relabeling;
mod spelling;
mod writing;

// IDs in archives like those of `docker save` of Docker 20.10.
const TOP: &str = "30a8";
const BOTTOM: &str = "1910";

fn config(architecture: &str, layers: &[&[u8]]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    // Spaces, a big number and an escape, which JSON libraries change when they serialize.
    format!(
        r#"{{"created":"\u003c", "architecture":"{architecture}","big":12345678901234567890123,"os":"linux","StopTimeout":1.50,"rootfs":{{"type":"layers","diff_ids":{}}}}}"#,
        json!(diff_ids)
    )
}

fn hex(text: &str) -> String {
    Digest::of(text.as_bytes()).hex().to_string()
}

/// An archive in the classic format. Its layers are `one`, `one` again as a link, and `two`; the config is named by its
/// digest.
struct Classic {
    config: String,
    manifest_json: String,
    members: Vec<Vec<u8>>,
}

impl Classic {
    fn new(tags: &str) -> Self {
        let config = config("amd64", &[b"one", b"one", b"two"]);
        let manifest_json = format!(
            r#"[{{"Config":"{}.json","RepoTags":{tags},"Layers":["{BOTTOM}/layer.tar","563a/layer.tar","{TOP}/layer.tar"]}}]"#,
            hex(&config)
        ) + "\n";
        let members = vec![
            directory(&format!("{BOTTOM}/")),
            file(&format!("{BOTTOM}/VERSION"), b"1.0"),
            file(&format!("{BOTTOM}/json"), br#"{"id":"1910","os":"linux"}"#),
            file(&format!("{BOTTOM}/layer.tar"), b"one"),
            directory("563a/"),
            file("563a/json", br#"{"id":"563a","parent":"1910","os":"linux"}"#),
            symlink("563a/layer.tar", &format!("../{BOTTOM}/layer.tar")),
            directory(&format!("{TOP}/")),
            file(&format!("{TOP}/json"), br#"{"id":"30a8", "architecture":"amd64","os":"linux"}"#),
            file(&format!("{TOP}/layer.tar"), b"two"),
            file(&format!("{}.json", hex(&config)), config.as_bytes()),
            file("manifest.json", manifest_json.as_bytes()),
            file("repositories", br#"{"app":{"1":"30a8"}}"#),
        ];
        Self { config, manifest_json, members }
    }
}

/// Returns members in the format of Docker 25 and later. `more` is added to the index entry.
fn layout(tag: &str, more: &str) -> Vec<Vec<u8>> {
    let config = config("amd64", &[b"one", b"two"]);
    let layer = |bytes: &[u8]| Descriptor::of(media_type::OCI_LAYER, bytes);
    let manifest = json!({"schemaVersion":2,"mediaType":media_type::OCI_MANIFEST,
        "config":Descriptor::of(media_type::OCI_CONFIG, config.as_bytes()),"layers":[layer(b"one"), layer(b"two")]})
    .to_string();
    let blob = |bytes: &[u8]| file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[ {{"mediaType":"{}","digest":"sha256:{}","size":{},{more}"annotations":{{"io.containerd.image.name":"docker.io/library/{tag}","org.opencontainers.image.ref.name":"1","x":"\u003c"}}}} ]}}"#,
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        hex(&manifest),
        manifest.len()
    );
    let list = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["{tag}"],"Layers":["blobs/sha256/{}","blobs/sha256/{}"],"LayerSources":{{}}}}]"#,
        hex(&config),
        hex("one"),
        hex("two")
    );
    vec![
        directory("blobs/"),
        directory("blobs/sha256/"),
        blob(config.as_bytes()),
        blob(b"one"),
        blob(b"two"),
        blob(br#"{"id":"a legacy json without reference"}"#),
        blob(manifest.as_bytes()),
        file("index.json", index.as_bytes()),
        file("manifest.json", list.as_bytes()),
        file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#),
    ]
}

struct OnDisk {
    dir: TempDir,
    path: PathBuf,
}

fn on_disk(bytes: &[u8]) -> OnDisk {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.tar");
    fs::write(&path, bytes).unwrap();
    OnDisk { dir, path }
}

impl OnDisk {
    fn open(&self) -> DockerArchive {
        DockerArchive::open(&self.path, None).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Names of the archive's members, in order.
    fn names(&self) -> Vec<String> {
        let tar = crate::archive::tar::TarFile::read(Arc::new(File::open(&self.path).unwrap())).unwrap();
        tar.members().iter().map(|m| crate::archive::tar::show(tar.name(m))).collect()
    }

    fn member(&self, name: &str) -> String {
        let tar = crate::archive::tar::TarFile::read(Arc::new(File::open(&self.path).unwrap())).unwrap();
        let member = &tar.members()[tar.find(name.as_bytes()).unwrap()];
        String::from_utf8(tar.read_small(member, 1 << 20).unwrap()).unwrap()
    }
}

fn refuse(bytes: &[u8], kind: Exit, why: &str) {
    let disk = on_disk(bytes);
    match DockerArchive::open(&disk.path, None) {
        Err(error) => {
            assert!(error.kind == kind && error.to_string().contains(why), "{:?} {error}", error.kind)
        }
        Ok(_) => panic!("accepted; expected: {why}"),
    }
}

fn tag(text: &str) -> Pointer {
    Pointer::Tag(text.into())
}

/// Returns the manifest with another declared platform, and writes its config. Only the necessary bytes change.
fn relabeled(store: &DockerArchive, at: &Pointer, architecture: &str) -> Document {
    let document = store.read_document(at).unwrap();
    let ParsedDocument::Manifest(manifest) = document.parse().unwrap() else { panic!("an index") };
    let old = read_blob(store, &manifest.config, 1 << 20).unwrap();
    let declared = Config::parse(&old).unwrap().platform.architecture;
    let old = String::from_utf8(old).unwrap();
    let variant = if architecture == "arm" { ",\"variant\":\"v7\"" } else { "" };
    let new = old.replacen(&format!(":\"{declared}\""), &format!(":\"{architecture}\"{variant}"), 1);
    let config = Descriptor::of(&manifest.config.media_type, new.as_bytes());
    store.write_blob(&config, &|| Ok(Box::new(new.as_bytes()))).unwrap();
    let text = String::from_utf8(document.bytes().to_vec()).unwrap();
    // The size of the config is the first one; a layer may have the same size.
    let text = text.replace(manifest.config.digest.as_str(), config.digest.as_str()).replacen(
        &format!("\"size\":{}", manifest.config.size),
        &format!("\"size\":{}", config.size),
        1,
    );
    Document::new(text.into_bytes(), None).unwrap()
}

fn declared_platform(store: &DockerArchive, at: &Pointer) -> String {
    let ParsedDocument::Manifest(manifest) = store.read_document(at).unwrap().parse().unwrap() else {
        panic!("an index")
    };
    Config::parse(&read_blob(store, &manifest.config, 1 << 20).unwrap()).unwrap().platform.to_string()
}

fn assert_complete(store: &DockerArchive, at: &str) {
    assert_eq!(check(store, &tag(at), CheckDepth::Layers), []);
}

/// Returns the number of equal bytes at the beginning and at the end of two files.
fn unchanged_ends(old: &[u8], new: &[u8]) -> (usize, usize) {
    let before = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let behind = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    (before, behind)
}

/// Writes an image of these layers. Returns its manifest, which is the one that a classic archive derives.
fn add_image(store: &DockerArchive, tag: &str, layers: &[&[u8]]) -> Document {
    let config = config("arm64", layers);
    let layers: Vec<Descriptor> = layers
        .iter()
        .map(|bytes| {
            let blob = Descriptor::of(media_type::DOCKER_LAYER, bytes);
            store.write_blob(&blob, &|| Ok(Box::new(*bytes))).unwrap();
            blob
        })
        .collect();
    let blob = Descriptor::of(media_type::DOCKER_CONFIG, config.as_bytes());
    store.write_blob(&blob, &|| Ok(Box::new(config.as_bytes()))).unwrap();
    let document = crate::archive::format::make_manifest(&blob, &layers).unwrap();
    store.write_document(&document).unwrap();
    if tag != "-" {
        store.write_tag(tag, &document).unwrap();
    }
    document
}
