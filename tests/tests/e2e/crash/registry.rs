//! A release killed at moments of all its traffic with Debian's docker-registry: the tag names the old index or the new
//! one, run again it finishes, and rollback gives back what the tag named, byte for byte.

use crate::tools::{User, run};
use multiarch_tests::need;
use multiarch_tests::world::{Proc, Registry, Skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// When the victim dies: at the n-th piece of what it sends, before or after the registry gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    piece: usize,
    is_after: bool,
}

/// Stands between a program and the registry, carries everything, and ends the program at one moment.
struct Between {
    address: SocketAddr,
    pieces: Arc<AtomicUsize>,
    /// From now on it ends nobody.
    is_tame: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

impl Between {
    fn start(registry: SocketAddr, moment: Option<Moment>, victim: Arc<OnceLock<u32>>) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (pieces, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let is_tame = Arc::new(AtomicBool::new(moment.is_none()));
        let (counted, stop, tame) = (Arc::clone(&pieces), Arc::clone(&stopping), Arc::clone(&is_tame));
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                client.set_nonblocking(false).unwrap();
                let server = TcpStream::connect(registry).unwrap();
                let (mut back, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    drop(std::io::copy(&mut back, &mut to));
                    drop(to.shutdown(Shutdown::Both));
                });
                let (counted, victim, tame) = (Arc::clone(&counted), Arc::clone(&victim), Arc::clone(&tame));
                thread::spawn(move || {
                    carry(client, server, &counted, |at| {
                        let is_now = moment == Some(at) && !tame.load(Ordering::SeqCst);
                        if is_now {
                            end(*victim.wait());
                        }
                        is_now
                    });
                });
            }
        });
        Between { address, pieces, is_tame, stopping }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

/// Carries one connection. `dies` ends the program, if this is the moment.
fn carry(mut client: TcpStream, mut server: TcpStream, pieces: &AtomicUsize, dies: impl Fn(Moment) -> bool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let piece = pieces.fetch_add(1, Ordering::SeqCst) + 1;
        if dies(Moment { piece, is_after: false }) || server.write_all(&bytes[..count]).is_err() {
            break;
        }
        // The registry has it; whether it has done it yet is a part of what may be.
        if dies(Moment { piece, is_after: true }) {
            break;
        }
    }
    drop(server.shutdown(Shutdown::Write));
}

fn end(id: u32) {
    // Fails for one that has ended by itself.
    let _ = kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGKILL);
}

/// A user with a release of three platforms, and the registry behind what stands between.
struct Stage<'a> {
    registry: &'a Registry,
    repository: String,
    user: User,
}

impl Stage<'_> {
    /// Version 1 is published.
    fn new(registry: &Registry, number: usize) -> Stage<'_> {
        let stage = Stage { registry, repository: format!("team/app{number}"), user: User::new() };
        stage.write("1", &registry.host().parse().unwrap());
        run(stage.release()).exits(0);
        stage
    }

    fn write(&self, version: &str, address: &SocketAddr) {
        for file in ["amd64", "armv7", "arm64"] {
            self.user.write(file, format!("the program for {file}, version {version}"));
        }
        let text = format!(
            "image: {address}/{}\ntags: [latest]\nplatforms:\n  linux/amd64:  {{ copy: {{ amd64: /app }} }}\n  \
             linux/arm/v7: {{ copy: {{ armv7: /app }}, tag: arm32v7 }}\n  linux/arm64:  {{ copy: {{ arm64: /app }} }}\n",
            self.repository
        );
        self.user.write("release.yaml", text);
    }

    fn release(&self) -> std::process::Command {
        self.user.command("xtask", &["release", "release.yaml", "--work-dir", "w"])
    }

    fn tag(&self, tag: &str) -> String {
        let manifests = format!("data/docker/registry/v2/repositories/{}/_manifests", self.repository);
        let link: PathBuf = self.registry.storage().join(manifests).join(format!("tags/{tag}/current/link"));
        fs::read_to_string(link).unwrap()
    }

    fn stored(&self, digest: &str) -> Vec<u8> {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let place = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        fs::read(self.registry.storage().join(place)).unwrap()
    }

    /// Everything that a tag names is there, asked of the registry itself.
    fn is_whole(&self, tag: &str) {
        use image_model::reference::Reference;
        use image_store::check::{CheckDepth, check};
        use image_store::open::Stores;
        use registry_client::RegistryOptions;
        let name = format!("{}/{}:{tag}", self.registry.host(), self.repository);
        let opened =
            Stores::new(RegistryOptions::default()).source(&name.parse::<Reference>().unwrap()).unwrap();
        let problems: Vec<String> = check(&*opened.store, &opened.pointer, CheckDepth::Layers)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems, [""; 0], "{name}");
    }
}

#[test]
fn a_release_to_a_real_registry_killed_at_any_moment_is_old_or_new_and_can_be_taken_back() {
    need!(sweep());
}

fn sweep() -> Result<(), Skip> {
    let registry = Registry::start()?;
    let address: SocketAddr = registry.host().parse().unwrap();
    // Undisturbed: how much is sent, and what comes of it.
    let stage = Stage::new(&registry, 0);
    let (old, old_member) = (stage.tag("latest"), stage.tag("arm32v7"));
    let between = Between::start(address, None, Arc::default());
    stage.write("2", &between.address);
    run(stage.release()).exits(0);
    let (new, all) = (stage.tag("latest"), between.pieces.load(Ordering::SeqCst));
    assert!(new != old && all > 30, "{all} pieces are too few for a release of three platforms");
    let (old_bytes, mut moved, mut killed) = (stage.stored(&old), 0, 0);

    // Every moment of the last part, where tags move, and some of those before.
    let moments = (1..=all).filter(|piece| piece % 7 == 0 || piece * 5 > all * 4);
    for (number, piece) in moments.enumerate() {
        let moment = Moment { piece, is_after: number % 2 == 0 };
        let stage = Stage::new(&registry, number + 1);
        assert_eq!(stage.tag("latest"), old, "the same files, the same index");
        let victim = Arc::new(OnceLock::new());
        let between = Between::start(address, Some(moment), Arc::clone(&victim));
        stage.write("2", &between.address);
        let mut process = Proc::spawn(stage.release());
        victim.set(process.id()).unwrap();
        let status = process.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("{moment:?}: it hangs"));
        let was_killed = status.signal() == Some(Signal::SIGKILL as i32);
        // A run needs some pieces more or less: whether they come in one or two is the kernel's affair.
        assert!(was_killed || status.success(), "{moment:?}: {status}: {}", process.stderr());
        let named = stage.tag("latest");
        assert!(named == old || named == new, "{moment:?}: {named}");
        for tag in ["latest", "arm32v7"] {
            stage.is_whole(tag);
        }
        killed += usize::from(was_killed);
        moved += usize::from(was_killed && named == new);

        between.is_tame.store(true, Ordering::SeqCst);
        run(stage.release()).exits(0);
        assert_eq!(stage.tag("latest"), new, "{moment:?}: run again");
        assert_ne!(stage.tag("arm32v7"), old_member, "{moment:?}: run again");
        stage.is_whole("latest");
        if was_killed {
            // Wherever it was killed, what the tags named before it is not lost.
            run(stage.user.command("xtask", &["rollback", "w/report.json"])).exits(0);
            assert_eq!(
                (stage.tag("latest"), stage.tag("arm32v7")),
                (old.clone(), old_member.clone()),
                "{moment:?}"
            );
            assert_eq!(stage.stored(&stage.tag("latest")), old_bytes);
        }
    }
    eprintln!("killed at {killed} moments, {moved} with the tag moved");
    assert!(killed > 10 && moved > 0 && moved < killed, "{killed} {moved}");
    Ok(())
}
