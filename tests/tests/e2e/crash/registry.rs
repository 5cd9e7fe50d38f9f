//! A release that is killed at any point of its traffic with Debian's docker-registry: the tag refers to the old or the new
//! index, a rerun completes the release, and a rollback restores the old index.

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

/// The point at which the release is killed: before or after the registry receives the n-th piece that the release sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    piece: usize,
    is_after: bool,
}

/// A proxy between the release and the registry, which kills the release at one point.
struct KillingProxy {
    address: SocketAddr,
    pieces: Arc<AtomicUsize>,
    /// No further process is killed.
    is_disarmed: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

impl KillingProxy {
    fn start(registry: SocketAddr, moment: Option<Moment>, victim: Arc<OnceLock<u32>>) -> KillingProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (pieces, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let is_disarmed = Arc::new(AtomicBool::new(moment.is_none()));
        let (counted, stop, disarmed) =
            (Arc::clone(&pieces), Arc::clone(&stopping), Arc::clone(&is_disarmed));
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
                let (counted, victim, disarmed) =
                    (Arc::clone(&counted), Arc::clone(&victim), Arc::clone(&disarmed));
                thread::spawn(move || {
                    forward(client, server, &counted, |at| {
                        let is_now = moment == Some(at) && !disarmed.load(Ordering::SeqCst);
                        if is_now {
                            end(*victim.wait());
                        }
                        is_now
                    });
                });
            }
        });
        KillingProxy { address, pieces, is_disarmed, stopping }
    }
}

impl Drop for KillingProxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

/// Forwards one connection. `kills` kills the release if this is the moment, and returns whether it did.
fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    pieces: &AtomicUsize,
    kills: impl Fn(Moment) -> bool,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let piece = pieces.fetch_add(1, Ordering::SeqCst) + 1;
        if kills(Moment { piece, is_after: false }) || server.write_all(&bytes[..count]).is_err() {
            break;
        }
        // The registry has the piece; whether it has processed it yet is not known.
        if kills(Moment { piece, is_after: true }) {
            break;
        }
    }
    drop(server.shutdown(Shutdown::Write));
}

fn end(id: u32) {
    // Fails if the process has exited already.
    let _ = kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGKILL);
}

/// A user with a release of three platforms to a repository of the registry.
struct Publisher<'a> {
    registry: &'a Registry,
    repository: String,
    user: User,
}

impl Publisher<'_> {
    /// Publishes version 1.
    fn new(registry: &Registry, number: usize) -> Publisher<'_> {
        let publisher = Publisher { registry, repository: format!("team/app{number}"), user: User::new() };
        publisher.write("1", &registry.host().parse().unwrap());
        run(publisher.release()).exits(0);
        publisher
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

    /// Asserts that the registry has everything that the tag references.
    fn assert_complete(&self, tag: &str) {
        use image_model::reference::Reference;
        use image_store::check::{CheckDepth, check};
        use image_store::open::Stores;
        use registry_client::RegistryOptions;
        let name = format!("{}/{}:{tag}", self.registry.host(), self.repository);
        let opened = Stores::new(RegistryOptions::default(), Default::default())
            .source(&name.parse::<Reference>().unwrap())
            .unwrap();
        let problems: Vec<String> = check(&*opened.store, &opened.pointer, CheckDepth::Layers)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems, [""; 0], "{name}");
    }
}

#[test]
fn a_release_to_a_real_registry_killed_at_any_moment_is_old_or_new_and_can_be_rolled_back() {
    need!(sweep());
}

fn sweep() -> Result<(), Skip> {
    let registry = Registry::start()?;
    let address: SocketAddr = registry.host().parse().unwrap();
    // Without a kill: the number of pieces and the resulting digests.
    let publisher = Publisher::new(&registry, 0);
    let (old, old_member) = (publisher.tag("latest"), publisher.tag("arm32v7"));
    let proxy = KillingProxy::start(address, None, Arc::default());
    publisher.write("2", &proxy.address);
    run(publisher.release()).exits(0);
    let (new, all) = (publisher.tag("latest"), proxy.pieces.load(Ordering::SeqCst));
    assert!(new != old && all > 30, "{all} pieces are too few for a release of three platforms");
    let (old_bytes, mut moved, mut killed) = (publisher.stored(&old), 0, 0);

    // Every piece of the last fifth, in which tags move, and every seventh of the others.
    let moments = (1..=all).filter(|piece| piece % 7 == 0 || piece * 5 > all * 4);
    for (number, piece) in moments.enumerate() {
        let moment = Moment { piece, is_after: number % 2 == 0 };
        let publisher = Publisher::new(&registry, number + 1);
        assert_eq!(publisher.tag("latest"), old, "the same files make the same index");
        let victim = Arc::new(OnceLock::new());
        let proxy = KillingProxy::start(address, Some(moment), Arc::clone(&victim));
        publisher.write("2", &proxy.address);
        let mut process = Proc::spawn(publisher.release());
        victim.set(process.id()).unwrap();
        let status =
            process.wait(Duration::from_secs(60)).unwrap_or_else(|| panic!("{moment:?}: the release hangs"));
        let was_killed = status.signal() == Some(Signal::SIGKILL as i32);
        // The number of pieces varies, because the kernel may join them.
        assert!(was_killed || status.success(), "{moment:?}: {status}: {}", process.stderr());
        let current = publisher.tag("latest");
        assert!(current == old || current == new, "{moment:?}: {current}");
        for tag in ["latest", "arm32v7"] {
            publisher.assert_complete(tag);
        }
        killed += usize::from(was_killed);
        moved += usize::from(was_killed && current == new);

        proxy.is_disarmed.store(true, Ordering::SeqCst);
        run(publisher.release()).exits(0);
        assert_eq!(publisher.tag("latest"), new, "{moment:?}: rerun");
        assert_ne!(publisher.tag("arm32v7"), old_member, "{moment:?}: rerun");
        publisher.assert_complete("latest");
        if was_killed {
            // The old digests of the tags are restored, wherever the release was killed.
            run(publisher.user.command("xtask", &["rollback", "w/report.json"])).exits(0);
            assert_eq!(
                (publisher.tag("latest"), publisher.tag("arm32v7")),
                (old.clone(), old_member.clone()),
                "{moment:?}"
            );
            assert_eq!(publisher.stored(&publisher.tag("latest")), old_bytes);
        }
    }
    eprintln!("killed at {killed} moments, {moved} with the tag moved");
    assert!(killed > 10 && moved > 0 && moved < killed, "{killed} {moved}");
    Ok(())
}
