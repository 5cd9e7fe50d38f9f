//! `cargo xtask bench verify`: a large image in docker-registry with `--quick` and `--full`, compared with copying it, unpacking
//! it and running `file`; reading layers compared with the gzip crate alone; and a thousand tags.

mod image;

use super::measure::{Contestant, folder_near, is_here, print, quiet, race, release_build};
use super::registry::Registry;
use error::Error;
use error::text::format_bytes;
use image_store::parallel;
use image_store::store::oci_layout::OciLayout;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

const LAYERS: usize = 20;
/// Bytes of each unpacked layer: 500 MB together.
const LAYER: u64 = 25_000_000;
const TAGS: usize = 1000;
const ROUNDS: usize = 2;

pub fn run() -> Result<(), Error> {
    let tool = release_build("config-patcher")?;
    let pusher = release_build("manifest-push")?;
    let dir = folder_near(&tool)?;
    let layout = OciLayout::open_or_create(&dir.path().join("layout"))?;
    let layers = image::build(&layout, LAYERS, LAYER)?;
    let stored: u64 = layers.iter().map(|layer| layer.size).sum();
    println!("{LAYERS} layers of {} files, {} stored\n", image::SOURCE, format_bytes(stored));

    unpacking(layout.dir())?;

    if !is_here("docker-registry") {
        println!("docker-registry is not here: the rest is left out");
        return Ok(());
    }
    let registry = Registry::start(dir.path())?;
    let name = format!("{}/bench/app", registry.host());
    copy(&pusher, &format!("oci:{}:1", dir.path().join("layout").display()), &format!("{name}:1"))?;
    against_copying(&tool, &registry, &format!("{name}:1"), dir.path())?;

    let tags = dir.path().join("tags");
    image::tags(&OciLayout::open_or_create(&tags)?, TAGS)?;
    let many = format!("{}/bench/many", registry.host());
    push_all(&pusher, &tags, &many)?;
    let contestant = Contestant {
        name: "verify --all-tags",
        prepare: Box::new(|| Ok(())),
        command: Box::new(|| verify(&tool, &["--all-tags", &many])),
    };
    print("a thousand tags that share three layers", &race(&[contestant], 1)?, "verify --all-tags");
    Ok(())
}

/// Reading layers compared with the gzip crate alone, in one optimized program, with the same files.
fn unpacking(layout: &Path) -> Result<(), Error> {
    let failed = |e| Error::from_io("run the bench of image-evidence", e);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["bench", "--quiet", "--package", "image-evidence", "--bench", "layers", "--"]).arg(layout);
    match command.stdin(Stdio::null()).status().map_err(failed)? {
        status if status.success() => Ok(()),
        status => Err(failed(io::Error::other(format!("cargo ended with {status}")))),
    }
}

fn against_copying(tool: &Path, registry: &Registry, name: &str, dir: &Path) -> Result<(), Error> {
    let work = dir.join("peers");
    let clear = || {
        Box::new(|| match std::fs::remove_dir_all(&work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::from_io("clear the directory of the peers", error))
            }
            _ => Ok(()),
        })
    };
    let nothing = || Box::new(|| Ok(()));
    let mut contestants = vec![
        Contestant {
            name: "verify --quick",
            prepare: nothing(),
            command: Box::new(|| verify(tool, &[name, "--quick"])),
        },
        Contestant {
            name: "verify --full",
            prepare: nothing(),
            command: Box::new(|| verify(tool, &[name, "--full"])),
        },
    ];
    let place = work.display();
    let peers = format!(
        "set -e; mkdir '{place}'; skopeo copy --quiet --src-tls-verify=false 'docker://{name}' 'oci:{place}/l:1'; \
         umoci unpack --rootless --image '{place}/l:1' '{place}/b' 2>/dev/null; \
         find '{place}/b/rootfs' -type f -print0 | xargs -0 file >/dev/null"
    );
    let missing: Vec<&str> = ["skopeo", "umoci", "file"].into_iter().filter(|peer| !is_here(peer)).collect();
    match missing.is_empty() {
        true => contestants.push(Contestant {
            name: "skopeo, umoci, file",
            prepare: clear(),
            command: Box::new(move || {
                let mut command = quiet("sh");
                command.arg("-c").arg(&peers);
                command
            }),
        }),
        false => println!("{} is not here", missing.join(", ")),
    }
    let figures = race(&contestants, ROUNDS)?;
    let against = figures.last().map_or("", |last| last.name.as_str()).to_string();
    print(&format!("{LAYERS} layers of {} in docker-registry", format_bytes(LAYER)), &figures, &against);
    for arguments in [&[name, "--quick"][..], &[name, "--full"]] {
        registry.forget();
        let ran = verify(tool, arguments).status().map_err(|e| Error::from_io("run config-patcher", e))?;
        println!("{}: {} from the registry ({ran})", arguments[1], format_bytes(registry.sent()));
    }
    println!();
    Ok(())
}

/// Each run has an empty cache.
fn verify(tool: &Path, arguments: &[&str]) -> Command {
    let mut command = quiet(tool);
    command.args(["verify", "--no-cache"]).args(arguments);
    command
}

/// Every tag of a layout, eight concurrently.
fn push_all(pusher: &Path, layout: &Path, to: &str) -> Result<(), Error> {
    let tags: Vec<usize> = (0..TAGS).collect();
    let push = |tag: &usize| copy(pusher, &format!("oci:{}:{tag}", layout.display()), &format!("{to}:{tag}"));
    // The shared layers first, each once.
    push(&0)?;
    parallel::map(&tags[1..], parallel::REQUESTS, push).map(drop)
}

fn copy(pusher: &Path, from: &str, to: &str) -> Result<(), Error> {
    let status = quiet(pusher).args(["copy", from, to]).status();
    match status.map_err(|e| Error::from_io("run manifest-push", e))? {
        status if status.success() => Ok(()),
        status => {
            Err(Error::local(format!("copy \"{from}\" to \"{to}\""), format!("it ended with {status}")))
        }
    }
}
