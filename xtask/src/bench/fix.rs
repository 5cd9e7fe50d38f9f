//! `cargo xtask bench fix`: a label put right in `docker save` archives, against copying them with nothing changed.

use super::measure::{Contestant, is_here, print, quiet, race, release_build};
use image_store::digest::{Digest, Hasher};
use image_store::error::StoreError;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const ROUNDS: usize = 5;
const LARGE: u64 = 1 << 30;
const SMALL: u64 = 16 << 20;
/// Each round asks for the other one, so that there is always something to do.
const PLATFORMS: [&str; 2] = ["linux/arm/v7", "linux/arm64"];

pub fn run() -> Result<(), StoreError> {
    let doing = || "prepare archives to measure with".to_string();
    let failed = |e: io::Error| StoreError::from_io(doing(), e);
    let tool = release_build("config-patcher")?;
    // In the target folder: /tmp may be memory, and that is no disk.
    let near = tool.parent().unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(near).map_err(failed)?;
    let path = |name: &str| dir.path().join(name);
    for (name, size) in [("large.tar", LARGE), ("small.tar", SMALL), ("in-place.tar", LARGE)] {
        write_archive(&path(name), size).map_err(failed)?;
    }
    let turn = Cell::new(0);
    let platform = || {
        turn.set(turn.get() + 1);
        PLATFORMS[turn.get() % 2]
    };
    let fix = |archive: &str, more: &[&str]| {
        let mut command = quiet(&tool);
        let image = format!("docker-archive:{}", path(archive).display());
        command.args(["--quiet", "fix", &image, "--platform", platform()]).args(more);
        command
    };
    let nothing = || Box::new(|| Ok(()));
    let without = |name: &'static str| {
        let gone = path(name);
        Box::new(move || match fs::remove_file(&gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        })
    };
    let shell = |text: String| {
        let mut command = quiet("sh");
        command.arg("-c").arg(text);
        command
    };
    let (large, copy) = (path("large.tar").display().to_string(), path("copy.tar").display().to_string());

    let mut anew = vec![
        Contestant { name: "fix", prepare: nothing(), command: Box::new(|| fix("large.tar", &[])) },
        Contestant {
            name: "cp",
            prepare: without("copy.tar"),
            command: Box::new(|| shell(format!("exec cp '{large}' '{copy}'"))),
        },
        // What fix promises and cp does not: that the copy is on disk.
        Contestant {
            name: "cp, then sync",
            prepare: without("copy.tar"),
            command: Box::new(|| shell(format!("cp '{large}' '{copy}' && exec sync '{copy}'"))),
        },
    ];
    let skopeo = Contestant {
        name: "skopeo copy",
        prepare: without("copy.tar"),
        command: Box::new(|| {
            let mut command = quiet("skopeo");
            command.args(["copy", "--quiet", &format!("docker-archive:{large}")]);
            command.arg(format!("docker-archive:{copy}:app:1"));
            command
        }),
    };
    let docker = Contestant {
        name: "docker load, save",
        prepare: without("copy.tar"),
        command: Box::new(|| {
            shell(format!("docker load -i '{large}' && exec docker save -o '{copy}' app:1"))
        }),
    };
    let has_daemon = || quiet("docker").arg("info").status().is_ok_and(|status| status.success());
    match is_here("skopeo") {
        true => anew.push(skopeo),
        false => println!("skopeo is not here"),
    }
    match is_here("docker") && has_daemon() {
        true => anew.push(docker),
        false => println!("no Docker daemon answers"),
    }
    print("a label in 1 GiB, the archive written anew", &race(&anew, ROUNDS)?, "cp");

    let in_place = [("1 GiB", "in-place.tar"), ("16 MiB", "small.tar")].map(|(name, archive)| Contestant {
        name,
        prepare: nothing(),
        command: Box::new(move || fix(archive, &["--in-place"])),
    });
    print("a label in place", &race(&in_place, ROUNDS)?, "16 MiB");

    let from_file = |mut command: Command| {
        // The archive was opened a moment ago for the other contestants; a failure would show there.
        command.stdin(File::open(path("large.tar")).map_or_else(|_| Stdio::null(), Stdio::from));
        command
    };
    let pipe = |middle: String| shell(format!("cat '{large}' | {middle} | cat > /dev/null"));
    let through = format!("'{}' --quiet fix - --platform linux/s390x", tool.display());
    let filters = [
        Contestant {
            name: "cat | fix - | cat",
            prepare: nothing(),
            command: Box::new(|| pipe(through.clone())),
        },
        Contestant { name: "cat | cat | cat", prepare: nothing(), command: Box::new(|| pipe("cat".into())) },
        Contestant {
            name: "fix - alone",
            prepare: nothing(),
            command: Box::new(|| {
                let mut command = quiet(&tool);
                command.args(["--quiet", "fix", "-", "--platform", "linux/s390x"]);
                from_file(command)
            }),
        },
        Contestant { name: "cat alone", prepare: nothing(), command: Box::new(|| from_file(quiet("cat"))) },
    ];
    print("a label in a stream of 1 GiB", &race(&filters, ROUNDS)?, "cat | cat | cat");
    Ok(())
}

/// What `docker save` of Docker 20.10 writes, with one layer that nothing compresses: a file of this size.
fn write_archive(path: &Path, size: u64) -> io::Result<()> {
    let mut archive = tar::Builder::new(File::create(path)?);
    let mut inner = header(size);
    inner.set_path("noise")?;
    inner.set_cksum();
    // A tar ends with two blocks of zeros.
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

/// Bytes without a pattern (xorshift64), always the same.
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
