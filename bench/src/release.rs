//! `cargo xtask bench release`: the example for eight platforms, published to docker-registry, cold and warm, compared with
//! shell loops that build and push the same files with crane and with buildah.

use super::measure::{Contestant, folder_near, is_here, print, quiet, race, release_build};
use super::registry::Registry;
use error::Error;
use image_model::platform::Platform;
use std::cell::Cell;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

const ROUNDS: usize = 5;
const PLATFORMS: [&str; 8] = [
    "linux/amd64",
    "linux/386",
    "linux/arm/v5",
    "linux/arm/v7",
    "linux/arm64",
    "linux/riscv64",
    "linux/ppc64le",
    "linux/s390x",
];

struct Bench {
    dir: tempfile::TempDir,
    registry: Registry,
    xtask: PathBuf,
    binfmt_setup: PathBuf,
    /// Each cold round uses a new repository.
    round: Cell<usize>,
}

pub fn run() -> Result<(), Error> {
    let (xtask, binfmt_setup) = (release_build("xtask")?, release_build("binfmt-setup")?);
    let dir = folder_near(&xtask)?;
    let registry = Registry::start(dir.path())?;
    let bench = Bench { dir, registry, xtask, binfmt_setup, round: Cell::new(0) };
    bench.write_sources().map_err(failed)?;
    print("eight platforms, from nothing", &race(&bench.contestants(true), ROUNDS)?, OURS);
    print("eight platforms, nothing changed", &race(&bench.contestants(false), ROUNDS)?, OURS);
    bench.registry.forget();
    let status = bench.release("ours", &[]).status().map_err(failed)?;
    let (asked, writes) = bench.registry.asked();
    println!("a release with nothing changed ({status}): {asked} requests, of which {writes} write");
    Ok(())
}

const OURS: &str = "release";

/// The shell loop of a peer, for one repository.
type Script = fn(&Bench, &str) -> String;

fn failed(error: io::Error) -> Error {
    Error::from_io("prepare a release to measure with", error)
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the example's binaries, each in a tar as well, and the spec.
    fn write_sources(&self) -> io::Result<()> {
        multiarch::example_binaries::write_all(&self.path("programs"))?;
        let mut rows = String::new();
        for name in PLATFORMS {
            let dir = name.replace('/', "-");
            rows.push_str(&format!(
                "  {name}: {{ copy: {{ programs/{dir}/hello: /hello }}, cmd: [/hello] }}\n"
            ));
            let mut tar = tar::Builder::new(fs::File::create(self.path(&format!("{dir}.tar")))?);
            tar.append_path_with_name(self.path(&format!("programs/{dir}/hello")), "hello")?;
            tar.finish()?;
        }
        fs::write(
            self.path("release.yaml"),
            format!("image: oci:unused\nplatforms:\n{rows}smoke: [/hello]\n"),
        )
    }

    /// One repository for each contestant, so that none finds images of another.
    fn repository(&self, of: &str) -> String {
        format!("{}/bench/{of}{}", self.registry.host(), self.round.get())
    }

    fn release(&self, of: &str, more: &[&str]) -> Command {
        let mut command = quiet(&self.xtask);
        command
            .args(["release", "release.yaml", "--quiet", "--jobs", "2", "--to", &self.repository(of)])
            .args(more);
        command.arg("--work-dir").arg(self.path("work")).current_dir(self.dir.path());
        command.env("MULTIARCH_BINFMT_SETUP", &self.binfmt_setup);
        command
    }

    fn contestants(&self, is_cold: bool) -> Vec<Contestant<'_>> {
        // Cold: nothing was built, verified or published before.
        let prepare = move || -> Result<(), Error> {
            if is_cold {
                self.round.set(self.round.get() + 1);
                for dir in ["work", "storage"] {
                    match fs::remove_dir_all(self.path(dir)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                        _ => {}
                    }
                }
            }
            Ok(())
        };
        let mut contestants = vec![
            Contestant {
                name: OURS,
                prepare: Box::new(prepare),
                command: Box::new(|| self.release("ours", &[])),
            },
            Contestant {
                name: "release --no-smoke",
                prepare: Box::new(prepare),
                command: Box::new(|| self.release("untested", &["--no-smoke"])),
            },
        ];
        let peers: [(&str, &str, Script); 2] = [
            ("crane", "crane append, mutate, index append", Self::crane),
            ("buildah", "buildah from, copy, commit, push, manifest", Self::buildah),
        ];
        for (program, name, script) in peers {
            if !is_here(program) {
                println!("{program} is not here");
                continue;
            }
            let command = Box::new(move || {
                let mut command = quiet("sh");
                command.arg("-euc").arg(script(self, &self.repository(program))).current_dir(self.dir.path());
                command.env("BUILDAH_ISOLATION", "chroot");
                command
            });
            contestants.push(Contestant { name, prepare: Box::new(prepare), command });
        }
        contestants
    }

    fn crane(&self, to: &str) -> String {
        let mut script = String::new();
        let mut members = String::new();
        for name in PLATFORMS {
            let tag = name.replace('/', "-");
            script.push_str(&format!(
                "crane append -f {tag}.tar -t {to}:{tag}\ncrane mutate --set-platform {name} --cmd /hello -t {to}:{tag} {to}:{tag}\n"
            ));
            members.push_str(&format!(" -m {to}:{tag}"));
        }
        script + &format!("crane index append{members} -t {to}:latest\n")
    }

    fn buildah(&self, to: &str) -> String {
        let storage = self.path("storage").display().to_string();
        let buildah = format!("buildah --root {storage}/root --runroot {storage}/run --storage-driver vfs");
        let mut script = format!("{buildah} manifest rm list || true\n{buildah} manifest create list\n");
        for name in PLATFORMS {
            let tag = name.replace('/', "-");
            let variant = name.parse::<Platform>().ok().and_then(|platform| platform.variant);
            let variant = variant.map(|variant| format!("--variant {variant}")).unwrap_or_default();
            let arch = name.split('/').nth(1).unwrap_or_default();
            script.push_str(&format!(
                "c=$({buildah} from scratch)\n{buildah} copy $c programs/{tag}/hello /hello\n\
                 {buildah} config --arch {arch} {variant} --cmd /hello $c\n{buildah} commit --rm --timestamp 0 $c app:{tag}\n\
                 {buildah} push --tls-verify=false app:{tag} docker://{to}:{tag}\n\
                 {buildah} manifest add --tls-verify=false --arch {arch} {variant} list docker://{to}:{tag}\n"
            ));
        }
        script + &format!("{buildah} manifest push --all --tls-verify=false list docker://{to}:latest\n")
    }
}
