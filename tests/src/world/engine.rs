//! Debian's Docker Engine 20.10, or a newer one, with private storage, in a namespace where foreign programs run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::namespace::Namespace;
use super::process::Proc;
use super::relay::{Relay, UnixSocketRelay};
use super::{NewerDocker, Skip, program, require, short_directory};

/// A running engine. Its images and containers are removed when it is dropped; an empty cgroup `docker` may remain.
pub struct Engine {
    // In the order in which they must be dropped.
    relays: std::sync::Mutex<Vec<Relay>>,
    dockerd: Proc,
    namespace: Namespace,
    directory: TempDir,
    /// The directory of its programs.
    bin: PathBuf,
}

impl Engine {
    /// With Debian's emulators: `docker run` and `RUN` of foreign images work.
    ///
    /// # Panics
    /// If dockerd is installed and does not start, with its output.
    pub fn start() -> Result<Engine, Skip> {
        Self::start_in(Namespace::with_debian_emulators()?)
    }

    /// In a namespace with handlers of the test.
    pub fn start_in(namespace: Namespace) -> Result<Engine, Skip> {
        require(&["docker", "dockerd", "containerd", "runc"])?;
        let bin = program("dockerd").and_then(|dockerd| dockerd.parent().map(Path::to_path_buf));
        Ok(Self::start_from(namespace, bin.expect("required above"), "{}"))
    }

    /// A newer one, which keeps images in containerd's store, and whose client builds with buildx.
    pub fn start_newer(namespace: Namespace, newer: &NewerDocker) -> Result<Engine, Skip> {
        Self::start_with(namespace, newer, r#"{"features":{"containerd-snapshotter":true}}"#)
    }

    /// The same with this daemon.json.
    pub fn start_with(
        namespace: Namespace,
        newer: &NewerDocker,
        configuration: &str,
    ) -> Result<Engine, Skip> {
        require(&["runc"])?;
        let engine = Self::start_from(namespace, newer.bin.clone(), configuration);
        let plugins = engine.directory.path().join("client/cli-plugins");
        std::fs::create_dir_all(&plugins).expect("room in /tmp");
        std::os::unix::fs::symlink(&newer.buildx, plugins.join("docker-buildx")).expect("room in /tmp");
        Ok(engine)
    }

    fn start_from(namespace: Namespace, bin: PathBuf, configuration: &str) -> Engine {
        let directory = short_directory("engine-");
        let home = directory.path();
        let mut daemon = Command::new(bin.join("dockerd"));
        daemon.env("PATH", path_with(&bin));
        // Nothing of the host's configuration, images or sockets. /etc/docker/daemon.json may contradict the flags below.
        daemon.arg("--config-file").arg(home.join("daemon.json"));
        daemon.arg("--data-root").arg(home.join("data"));
        daemon.arg("--exec-root").arg(home.join("exec"));
        daemon.arg("--pidfile").arg(home.join("pid"));
        daemon.arg("--host").arg(format!("unix://{}", home.join("docker.sock").display()));
        // A bridge without rules: containers have no network, which no test needs, and the kernel needs no iptables modules.
        daemon.args(["--iptables=false", "--ip6tables=false"]);
        // There is no systemd in the namespace that could create cgroups.
        daemon.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        // With this variable, dockerd and containerd do not load AppArmor profiles, which is not possible in user namespaces.
        daemon.env("container", "multiarch-tests");
        std::fs::write(home.join("daemon.json"), configuration).expect("room in /tmp");
        // A network of its own, in which it may create the bridge.
        let dockerd = Proc::spawn_server(&namespace.enter_with_network(&daemon));
        let mut engine = Engine { relays: std::sync::Mutex::default(), dockerd, namespace, directory, bin };
        let until = Instant::now() + Duration::from_secs(60);
        while !engine.docker(&["version"]).status.success() {
            assert!(
                engine.dockerd.ended().is_none() && Instant::now() < until,
                "dockerd does not start: {}",
                engine.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        engine
    }

    /// For `DOCKER_HOST`: `unix:///...`
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    /// A TCP address of the host that is forwarded to this engine until the returned value is dropped.
    pub fn relay_to_socket(&self) -> UnixSocketRelay {
        UnixSocketRelay::open(&self.directory.path().join("docker.sock"))
    }

    /// The environment in which a program finds this engine and its client, without the user's configuration.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![
            ("DOCKER_HOST".to_owned(), self.host()),
            ("DOCKER_CONFIG".to_owned(), self.directory.path().join("client").display().to_string()),
            ("PATH".to_owned(), path_with(&self.bin)),
        ]
    }

    /// Runs its client against this engine.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("docker")
    }

    /// The client's command, to be run in a directory or with other variables.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(docker_in(&self.bin));
        command.envs(self.env()).args(arguments);
        command
    }

    /// The same program inside the engine's namespace, where foreign programs run, with [`Engine::env`].
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = self.namespace.enter(command);
        inside.envs(self.env());
        inside
    }

    /// Lets the engine reach a registry of the host at its own address: dockerd lives on another loopback.
    ///
    /// # Panics
    /// If that is not `IP:PORT`.
    pub fn reach(&self, host: &str) {
        let address: SocketAddr = host.parse().unwrap_or_else(|_| panic!("{host:?} is not IP:PORT"));
        let relay = Relay::start(self.namespace.id(), address);
        self.relays.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(relay);
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Output of dockerd and containerd.
    pub fn log(&self) -> String {
        self.dockerd.stderr()
    }

    /// The directory of its state.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// The client for the dockerd of this directory: Debian 12 has them apart, /usr/bin and /usr/sbin.
fn docker_in(bin: &Path) -> PathBuf {
    let beside = bin.join("docker");
    if beside.exists() { beside } else { program("docker").unwrap_or(beside) }
}

/// A newer client in /usr/local would take buildx instead of the classic builder.
fn path_with(bin: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:/usr/sbin:/usr/bin:/sbin:/bin:{path}", bin.display())
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Terminated normally, so that it stops its containers and removes their cgroups; the rest ends with the namespace.
        self.dockerd.stop_server(Duration::from_secs(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::need;
    use crate::world::{Registry, foreign_busybox, rootfs_tar};

    fn good(done: Output) -> String {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    #[test]
    fn it_builds_runs_pushes_and_pulls_foreign_images() {
        let busybox = need!(foreign_busybox("armhf"));
        let registry = need!(Registry::start());
        let engine = need!(Engine::start());
        engine.reach(registry.host());
        let context = tempfile::tempdir().unwrap();
        std::fs::write(context.path().join("rootfs.tar"), rootfs_tar(&busybox)).unwrap();
        let dockerfile = "FROM scratch\nADD rootfs.tar /\nRUN uname -m > /machine && rm -rf /tmp && mkdir /tmp\n\
                          CMD [\"/bin/cat\", \"/machine\"]\n";
        std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
        for (kit, plain) in [("0", "armhf:classic"), ("1", "armhf:buildkit")] {
            let tag = format!("{}/{plain}", registry.host());
            let mut build = engine.command(&["build", "-q", "--platform", "linux/arm/v7", "-t", &tag, "."]);
            good(build.env("DOCKER_BUILDKIT", kit).current_dir(context.path()).output().unwrap());
            assert_eq!(good(engine.docker(&["run", "--rm", &tag])), "armv7l");
            assert_eq!(
                good(engine.docker(&["run", "--rm", "--network=none", &tag, "uname", "-m"])),
                "armv7l"
            );
            good(engine.docker(&["push", "-q", &tag]));
            good(engine.docker(&["rmi", "-f", &tag]));
            good(engine.docker(&["pull", "-q", "--platform", "linux/arm/v7", &tag]));
            let saved = engine.docker(&["save", &tag]);
            assert!(saved.status.success() && saved.stdout.len() > 1 << 20);
        }
        assert_eq!(registry.count("PUT", |path| path.contains("/manifests/")), 2);
        let mut inside = Command::new("sh");
        inside.arg("-c").arg(format!("id -u && {} uname -m && docker ps -q", busybox.display()));
        assert_eq!(good(engine.enter(&inside).output().unwrap()), "0\narmv7l");
    }

    #[test]
    fn it_takes_everything_along_when_it_ends() {
        let engine = need!(Engine::start());
        let (id, place) = (engine.namespace().id(), engine.directory().to_owned());
        let daemon: u32 = std::fs::read_to_string(place.join("pid")).unwrap().trim().parse().unwrap();
        drop(engine);
        for gone in [format!("/proc/{id}"), format!("/proc/{daemon}"), place.display().to_string()] {
            assert!(!Path::new(&gone).exists(), "{gone}");
        }
    }
}
