//! `cargo xtask bench push`: an index made and a large image pushed, against the tools that people use for it.

use super::fix::Noise;
use super::measure::{Contestant, Figures, is_here, print, quiet, race, release_build};
use flate2::Compression;
use flate2::read::GzEncoder;
use image_store::digest::{Digest, Hasher};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::manifest::{Descriptor, Document, media_type};
use image_store::store::ImageStore;
use image_store::store::oci_layout::OciLayout;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const LARGE_ROUNDS: usize = 3;
const LARGE: u64 = 1 << 30;
const MEMBERS: [&str; 4] = ["amd64", "arm64", "s390x", "riscv64"];
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);

pub fn run() -> Result<(), StoreError> {
    if !is_here("docker-registry") {
        return Err(StoreError::not_found("bench push", "docker-registry is not here"));
    }
    let tool = release_build("manifest-push")?;
    let near = tool.parent().unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(near).map_err(failed)?;
    let registry = Registry::start(dir.path())?;
    let bench = Bench { tool, dir: dir.path().to_path_buf(), turn: Cell::new(0) };
    bench.seed(&registry.host)?;
    print("an index over 4 images, on this machine", &bench.indexes(&registry.host)?, OURS);
    let far = Relay::start(&registry.host).map_err(failed)?;
    print("the same, 50 ms there and back", &bench.indexes(&far.host)?, OURS);
    write_large(&bench.path("large")).map_err(failed)?;
    print("an image of 1 GiB", &bench.large(&registry)?, OURS);
    Ok(())
}

const OURS: &str = "manifest-push";

fn failed(error: io::Error) -> StoreError {
    StoreError::from_io("prepare a registry to measure with", error)
}

struct Bench {
    tool: PathBuf,
    dir: PathBuf,
    turn: Cell<usize>,
}

type Makes<'a> = Box<dyn Fn() -> Command + 'a>;

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A tag that nobody has used: each round makes a new index.
    fn new_tag(&self) -> String {
        self.turn.set(self.turn.get() + 1);
        format!("r{}", self.turn.get())
    }

    fn ours(&self) -> Command {
        let mut command = quiet(&self.tool);
        command.arg("--quiet").env("XDG_STATE_HOME", self.path("state"));
        command
    }

    fn seed(&self, host: &str) -> Result<(), StoreError> {
        let layout = OciLayout::open_or_new(&self.path("seed"))?;
        for architecture in MEMBERS {
            let layer = put(&layout, media_type::OCI_LAYER, architecture.as_bytes())?;
            let config = serde_json::json!({
                "architecture": architecture, "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            });
            let config = put(&layout, media_type::OCI_CONFIG, config.to_string().as_bytes())?;
            layout.write_tag(architecture, &manifest(&config, &layer)?)?;
            let mut copy = self.ours();
            copy.args(["copy", &format!("oci:{}:{architecture}", self.path("seed").display())]);
            copy.arg(format!("{host}/team/app:{architecture}"));
            succeed(copy)?;
        }
        Ok(())
    }

    fn indexes(&self, host: &str) -> Result<Vec<Figures>, StoreError> {
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
                command.env("DOCKER_CLI_EXPERIMENTAL", "enabled").env("DOCKER_CONFIG", self.path("docker"));
                command
            });
            contestants.push(contestant("docker manifest", make));
        }
        race(&contestants, ROUNDS)
    }

    fn large<'a>(&'a self, registry: &'a Registry) -> Result<Vec<Figures>, StoreError> {
        let layout = self.path("large");
        let (layout, to) = (layout.display().to_string(), format!("{}/large/app:1", registry.host));
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

fn contestant<'a>(name: &'a str, command: Makes<'a>) -> Contestant<'a> {
    Contestant { name, prepare: Box::new(|| Ok(())), command }
}

fn from_nothing<'a>(registry: &'a Registry, name: &'a str, command: Makes<'a>) -> Contestant<'a> {
    Contestant { name, prepare: Box::new(|| registry.forget()), command }
}

/// A peer that is not here is left out and named.
fn here(program: &str) -> bool {
    let found = is_here(program);
    if !found {
        println!("{program} is not here");
    }
    found
}

fn succeed(mut command: Command) -> Result<(), StoreError> {
    match command.status().map_err(failed)? {
        status if status.success() => Ok(()),
        status => {
            let why = format!("{command:?} ended with {status}");
            Err(StoreError::new(Exit::Found, "prepare a registry to measure with", why))
        }
    }
}

fn put(layout: &OciLayout, media_type: &str, bytes: &[u8]) -> Result<Descriptor, StoreError> {
    let blob = Descriptor::of(media_type, bytes);
    layout.write_blob(&blob, &|| Ok(Box::new(bytes)))?;
    Ok(blob)
}

fn manifest(config: &Descriptor, layer: &Descriptor) -> Result<Document, StoreError> {
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
    });
    Document::new(text.to_string().into_bytes(), None).map_err(|e| e.at("an image to measure with"))
}

/// A layout with one layer that nothing compresses, in gzip all the same: skopeo compresses what is not.
fn write_large(dir: &Path) -> io::Result<()> {
    let wrong = |error: StoreError| error.into_io();
    let layout = OciLayout::open_or_new(dir).map_err(wrong)?;
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

/// Debian's docker-registry with storage of its own; it ends with this value.
struct Registry {
    process: Child,
    data: PathBuf,
    host: String,
}

impl Registry {
    fn start(dir: &Path) -> Result<Self, StoreError> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).map_err(failed)?;
        let (host, data, config) = (free.to_string(), dir.join("registry"), dir.join("registry.yml"));
        let text = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\", secret: bench}}\n",
            data.display()
        );
        fs::write(&config, text).map_err(failed)?;
        let mut command = quiet("docker-registry");
        let process = command.arg("serve").arg(&config).stdin(Stdio::null()).spawn().map_err(failed)?;
        let registry = Self { process, data, host };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.host).is_err() {
            if Instant::now() > until {
                return Err(StoreError::network("start docker-registry", "it does not answer"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// All that was pushed is gone: it keeps nothing in memory.
    fn forget(&self) -> Result<(), StoreError> {
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The way to a registry that is far away: each piece is held back for half of a round trip.
struct Relay {
    host: String,
}

impl Relay {
    /// Serves until the process ends.
    fn start(registry: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (host, registry) = (listener.local_addr()?.to_string(), registry.to_owned());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&registry) else { continue };
                let ends = (near.try_clone(), far.try_clone());
                if let (Ok(near_too), Ok(far_too)) = ends {
                    thread::spawn(move || carry(near, far));
                    thread::spawn(move || carry(far_too, near_too));
                }
            }
        });
        Ok(Self { host })
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        thread::sleep(ROUND_TRIP / 2);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Whoever waits for more must learn that there is none.
    drop(to.shutdown(Shutdown::Write));
}
