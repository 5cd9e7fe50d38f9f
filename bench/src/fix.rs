//! `cargo xtask bench fix`: fixing the platform of an image, compared with copying the same bytes and with peers.

use super::measure::{Contestant, Figures, Ground, contestant, here, print, quiet, race};
use super::registry::Registry;
use error::Error;
use image_model::digest::{Digest, Hasher};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const ROUNDS: usize = 5;
const LARGE: u64 = 1 << 30;
const SMALL: u64 = 16 << 20;
/// Rounds alternate between these platforms, so that each has something to do.
const PLATFORMS: [&str; 2] = ["linux/arm/v7", "linux/arm64"];

pub fn run() -> Result<(), Error> {
    let bench = Bench { ground: Ground::of("config-patcher")? };
    for (name, size) in [("large.tar", LARGE), ("small.tar", SMALL), ("in-place.tar", LARGE)] {
        write_archive(&bench.ground.path(name), size).map_err(failed)?;
    }
    print("a label in 1 GiB, the archive written anew", &bench.anew()?, "cp");
    print("a label in place", &bench.in_place()?, "16 MiB");
    print("a label in a stream of 1 GiB", &bench.stream()?, "cat | cat | cat");
    if !here("docker-registry") {
        return Ok(());
    }
    let registry = Registry::start(bench.ground.dir())?;
    bench.seed(registry.host())?;
    registry.near_and_far("a label in a registry", |host| bench.remote(host), "fix")
}

fn failed(error: io::Error) -> Error {
    Error::from_io("prepare something to measure with", error)
}

struct Bench {
    ground: Ground,
}

type Makes<'a> = Box<dyn Fn() -> Command + 'a>;

impl Bench {
    fn shown(&self, name: &str) -> String {
        self.ground.path(name).display().to_string()
    }

    fn fix(&self, image: &str, platform: &str, more: &[&str]) -> Command {
        let mut command = quiet(&self.ground.tool);
        command.args(["--quiet", "fix", image, "--set-platform", platform]).args(more);
        command
    }

    fn fix_archive(&self, name: &str, more: &[&str]) -> Command {
        self.fix(&format!("docker-archive:{}", self.shown(name)), PLATFORMS[self.ground.next() % 2], more)
    }

    fn anew(&self) -> Result<Vec<Figures>, Error> {
        let (large, copy) = (self.shown("large.tar"), self.shown("copy.tar"));
        let (large, copy) = (large.as_str(), copy.as_str());
        let mut all = vec![
            contestant("fix", Box::new(|| self.fix_archive("large.tar", &[]))),
            self.makes_copy("cp", Box::new(move || shell(&format!("exec cp '{large}' '{copy}'")))),
            // fix guarantees that the copy is on disk, cp does not.
            self.makes_copy(
                "cp, then sync",
                Box::new(move || shell(&format!("cp '{large}' '{copy}' && exec sync '{copy}'"))),
            ),
        ];
        if here("skopeo") {
            let command =
                format!("exec skopeo copy -q 'docker-archive:{large}' 'docker-archive:{copy}:app:1'");
            all.push(self.makes_copy("skopeo copy", Box::new(move || shell(&command))));
        }
        let has_daemon = || quiet("docker").arg("info").status().is_ok_and(|status| status.success());
        if here("docker") && has_daemon() {
            let command = format!("docker load -i '{large}' && exec docker save -o '{copy}' app:1");
            all.push(self.makes_copy("docker load, save", Box::new(move || shell(&command))));
        } else {
            println!("no Docker daemon answers");
        }
        race(&all, ROUNDS)
    }

    fn makes_copy<'a>(&'a self, name: &'a str, command: Makes<'a>) -> Contestant<'a> {
        let prepare = || match fs::remove_file(self.ground.path("copy.tar")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
        Contestant { name, prepare: Box::new(prepare), command }
    }

    fn in_place(&self) -> Result<Vec<Figures>, Error> {
        let all = [("1 GiB", "in-place.tar"), ("16 MiB", "small.tar")].map(|(name, archive)| {
            contestant(name, Box::new(move || self.fix_archive(archive, &["--in-place"])))
        });
        race(&all, ROUNDS)
    }

    fn stream(&self) -> Result<Vec<Figures>, Error> {
        let large = self.shown("large.tar");
        let large = large.as_str();
        let from_file = move |mut command: Command| {
            // The other contestants read the archive before; an error would have occurred there.
            command.stdin(File::open(large).map_or_else(|_| Stdio::null(), Stdio::from));
            command
        };
        let pipe = move |middle: &str| shell(&format!("cat '{large}' | {middle} | cat > /dev/null"));
        let through = format!("'{}' --quiet fix - --set-platform linux/s390x", self.ground.tool.display());
        let all = [
            contestant("cat | fix - | cat", Box::new(move || pipe(&through))),
            contestant("cat | cat | cat", Box::new(move || pipe("cat"))),
            contestant("fix - alone", Box::new(move || from_file(self.fix("-", "linux/s390x", &[])))),
            contestant("cat alone", Box::new(move || from_file(quiet("cat")))),
        ];
        race(&all, ROUNDS)
    }

    fn seed(&self, host: &str) -> Result<(), Error> {
        let (image, to) =
            (format!("docker-archive:{}", self.shown("small.tar")), format!("{host}/team/app:base"));
        let status = self.fix(&image, "linux/amd64", &["--output", &to]).status().map_err(failed)?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::network("push an image to measure with", status.to_string())),
        }
    }

    /// Each round creates a new tag of the same image.
    fn remote(&self, host: &str) -> Result<Vec<Figures>, Error> {
        let base = format!("{host}/team/app:base");
        let base = base.as_str();
        let ours: Makes<'_> =
            Box::new(move || self.fix(base, "linux/arm/v7", &["--tag", &format!("r{}", self.ground.next())]));
        let mut all = vec![contestant("fix", ours)];
        if here("crane") {
            // It removes the keys that Docker added and the old variant; only the time is compared.
            let theirs: Makes<'_> = Box::new(move || {
                let to = format!("{host}/team/app:r{}", self.ground.next());
                let mut command = quiet("crane");
                command.args(["mutate", "--insecure", "--set-platform", "linux/arm/v7", "-t", &to, base]);
                command
            });
            all.push(contestant("crane mutate", theirs));
        }
        race(&all, ROUNDS)
    }
}

fn shell(text: &str) -> Command {
    let mut command = quiet("sh");
    command.arg("-c").arg(text);
    command
}

/// An archive in the form of `docker save` of Docker 20.10, with one incompressible layer of this size.
fn write_archive(path: &Path, size: u64) -> io::Result<()> {
    let mut archive = tar::Builder::new(File::create(path)?);
    let mut inner = header(size);
    inner.set_path("noise")?;
    inner.set_cksum();
    // The end of a tar: two blocks of zeros.
    let layer = inner.as_bytes().chain(Noise { left: size, state: 1 }).chain(io::repeat(0).take(1024));
    let mut layer = Hashed { inner: layer, hasher: Hasher::sha256() };
    archive.append_data(&mut header(512 + size + 1024), "layer/layer.tar", &mut layer)?;
    let config = format!(
        r#"{{"architecture":"amd64","config":{{"Cmd":["/app"]}},"docker_version":"20.10.24","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        layer.hasher.finish()
    );
    let id = Digest::of(config.as_bytes());
    let list =
        format!(r#"[{{"Config":"{}.json","RepoTags":["app:1"],"Layers":["layer/layer.tar"]}}]"#, id.hex());
    for (name, text) in [(format!("{}.json", id.hex()), config), ("manifest.json".into(), list)] {
        archive.append_data(&mut header(text.len() as u64), name, text.as_bytes())?;
    }
    let mut file = archive.into_inner()?;
    file.flush()?;
    file.sync_all()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

/// Incompressible bytes (xorshift64), always the same.
pub(super) struct Noise {
    pub(super) left: u64,
    pub(super) state: u64,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for word in buffer[..count].chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes()[..word.len()]);
        }
        self.left -= count as u64;
        Ok(count)
    }
}

struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
