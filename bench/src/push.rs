//! `cargo xtask bench push`: pushing an index and a large image, compared with other programs.

use super::fix::Noise;
use super::measure::{Contestant, Figures, Ground, contestant, here, print, quiet, race};
use super::registry::Registry;
use error::Error;
use error::Exit;
use flate2::Compression;
use flate2::read::GzEncoder;
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::store::ImageStore;
use image_store::store::oci_layout::OciLayout;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Command;

const ROUNDS: usize = 5;
const LARGE_ROUNDS: usize = 3;
const LARGE: u64 = 1 << 30;
const MEMBERS: [&str; 4] = ["amd64", "arm64", "s390x", "riscv64"];

pub fn run() -> Result<(), Error> {
    let bench = Bench { ground: Ground::of("manifest-push")? };
    let registry = Registry::start(bench.ground.dir())?;
    bench.seed(registry.host())?;
    registry.near_and_far("an index over 4 images", |host| bench.indexes(host), OURS)?;
    write_large(&bench.ground.path("large")).map_err(failed)?;
    print("an image of 1 GiB", &bench.large(&registry)?, OURS);
    Ok(())
}

fn failed(error: io::Error) -> Error {
    Error::from_io("prepare a registry to measure with", error)
}

const OURS: &str = "manifest-push";

struct Bench {
    ground: Ground,
}

type Makes<'a> = Box<dyn Fn() -> Command + 'a>;

impl Bench {
    /// A new tag for each round, so that each creates an index.
    fn new_tag(&self) -> String {
        format!("r{}", self.ground.next())
    }

    fn ours(&self) -> Command {
        let mut command = quiet(&self.ground.tool);
        command.arg("--quiet").env("XDG_STATE_HOME", self.ground.path("state"));
        command
    }

    fn seed(&self, host: &str) -> Result<(), Error> {
        let layout = OciLayout::open_or_create(&self.ground.path("seed"))?;
        for architecture in MEMBERS {
            let layer = put(&layout, media_type::OCI_LAYER, architecture.as_bytes())?;
            let config = serde_json::json!({
                "architecture": architecture, "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            });
            let config = put(&layout, media_type::OCI_CONFIG, config.to_string().as_bytes())?;
            layout.write_tag(architecture, &manifest(&config, &layer)?)?;
            let mut copy = self.ours();
            copy.args(["copy", &format!("oci:{}:{architecture}", self.ground.path("seed").display())]);
            copy.arg(format!("{host}/team/app:{architecture}"));
            succeed(copy)?;
        }
        Ok(())
    }

    fn indexes(&self, host: &str) -> Result<Vec<Figures>, Error> {
        let name = move |tag: &str| format!("{host}/team/app:{tag}");
        let members = || MEMBERS.iter().map(move |architecture| name(architecture));
        let mut contestants = vec![contestant(
            OURS,
            Box::new(move || {
                let mut command = self.ours();
                let platforms = MEMBERS.map(|architecture| format!("linux/{architecture}")).join(",");
                command.args(["push", "from-args", "--platforms", &platforms]);
                command.args(["--template", &name("ARCH"), "--target", &name(&self.new_tag())]);
                command
            }),
        )];
        if here("crane") {
            let make: Makes<'_> = Box::new(move || {
                let mut command = quiet("crane");
                command.args(["index", "append", "--insecure", "-t", &name(&self.new_tag())]);
                for member in members() {
                    command.args(["-m", &member]);
                }
                command
            });
            contestants.push(contestant("crane index append", make));
        }
        if here("oras") {
            let make: Makes<'_> = Box::new(move || {
                let mut command = quiet("oras");
                command.args(["manifest", "index", "create", "--plain-http", &name(&self.new_tag())]);
                command.args(MEMBERS);
                command
            });
            contestants.push(contestant("oras index create", make));
        }
        if here("docker") {
            let make: Makes<'_> = Box::new(move || {
                let list = name(&self.new_tag());
                let images = members().collect::<Vec<_>>().join(" ");
                let mut command = quiet("sh");
                command.arg("-c").arg(format!(
                    "docker manifest create --insecure {list} {images} && exec docker manifest push --insecure {list}"
                ));
                command
                    .env("DOCKER_CLI_EXPERIMENTAL", "enabled")
                    .env("DOCKER_CONFIG", self.ground.path("docker"));
                command
            });
            contestants.push(contestant("docker manifest", make));
        }
        race(&contestants, ROUNDS)
    }

    fn large<'a>(&'a self, registry: &'a Registry) -> Result<Vec<Figures>, Error> {
        let layout = self.ground.path("large");
        let (layout, to) = (layout.display().to_string(), format!("{}/large/app:1", registry.host()));
        let (layout, to) = (layout.as_str(), to.as_str());
        let make: Makes<'_> = Box::new(move || {
            let mut command = self.ours();
            command.args(["copy", &format!("oci:{layout}:1"), to]);
            command
        });
        let mut contestants = vec![from_nothing(registry, OURS, make)];
        if here("skopeo") {
            let make: Makes<'_> = Box::new(move || {
                let mut command = quiet("skopeo");
                command.args(["copy", "--quiet", "--dest-tls-verify=false", &format!("oci:{layout}:1")]);
                command.arg(format!("docker://{to}"));
                command
            });
            contestants.push(from_nothing(registry, "skopeo copy", make));
        }
        if here("crane") {
            let make: Makes<'_> = Box::new(move || {
                let mut command = quiet("crane");
                command.args(["push", "--insecure", layout, to]);
                command
            });
            contestants.push(from_nothing(registry, "crane push", make));
        }
        race(&contestants, LARGE_ROUNDS)
    }
}

fn from_nothing<'a>(registry: &'a Registry, name: &'a str, command: Makes<'a>) -> Contestant<'a> {
    Contestant { name, prepare: Box::new(|| registry.empty()), command }
}

fn succeed(mut command: Command) -> Result<(), Error> {
    match command.status().map_err(failed)? {
        status if status.success() => Ok(()),
        status => {
            let why = format!("{command:?} ended with {status}");
            Err(Error::new(Exit::CheckFailed, "prepare a registry to measure with", why))
        }
    }
}

fn put(layout: &OciLayout, media_type: &str, bytes: &[u8]) -> Result<Descriptor, Error> {
    let blob = Descriptor::of(media_type, bytes);
    layout.write_blob(&blob, &|| Ok(Box::new(bytes)))?;
    Ok(blob)
}

fn manifest(config: &Descriptor, layer: &Descriptor) -> Result<Document, Error> {
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    Document::new(text.to_string().into_bytes(), None).map_err(|e| e.at("an image to measure with"))
}

/// A layout with one incompressible layer, in gzip since skopeo would compress it otherwise.
fn write_large(dir: &Path) -> io::Result<()> {
    let wrong = |error: Error| error.into_io();
    let layout = OciLayout::open_or_create(dir).map_err(wrong)?;
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config = put(&layout, media_type::OCI_CONFIG, config).map_err(wrong)?;
    let partial = dir.join("layer");
    let mut file = File::create(&partial)?;
    let mut content = GzEncoder::new(Noise { left: LARGE, state: 1 }, Compression::none());
    let (mut hasher, mut size, mut buffer) = (Hasher::sha256(), 0, vec![0; 1 << 20]);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
        size += count as u64;
    }
    file.sync_all()?;
    let digest: Digest = hasher.finish();
    fs::rename(&partial, dir.join("blobs/sha256").join(digest.hex()))?;
    let layer = Descriptor::new(media_type::OCI_LAYER_GZIP, digest, size);
    layout.write_tag("1", &manifest(&config, &layer).map_err(wrong)?).map_err(wrong)
}
