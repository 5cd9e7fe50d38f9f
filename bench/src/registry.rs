//! Debian's docker-registry on a free port. Its log has the requests and the bytes of responses.

use super::measure::{Figures, is_here, print};
use super::relay::Relay;
use error::Error;
use std::cell::Cell;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Registry {
    process: Child,
    host: String,
    log: PathBuf,
    data: PathBuf,
    /// Bytes of the log that are not counted.
    seen: Cell<usize>,
}

impl Registry {
    pub fn start(dir: &Path) -> Result<Self, Error> {
        if !is_here("docker-registry") {
            return Err(Error::not_found("start docker-registry", "it is not here").hint("install it"));
        }
        let failed = |e| Error::from_io("start docker-registry", e);
        let free = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let host = free.local_addr().map_err(failed)?.to_string();
        drop(free);
        let (config, log) = (dir.join("registry.yml"), dir.join("registry.log"));
        let data = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: false}}, level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\", secret: bench}}\n",
            data.display()
        );
        fs::write(&config, text).map_err(failed)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        let process = command.stdout(File::create(&log).map_err(failed)?).spawn().map_err(failed)?;
        let registry = Self { process, host, log, data, seen: Cell::new(0) };
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.host).is_err() {
            if Instant::now() > until {
                return Err(Error::local("start docker-registry", "it does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// Sends a signal to the registry.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        // It is a child that has not been waited for, so the id is its own.
        let _ = nix::sys::signal::kill(process, signal);
    }

    /// The same measurement on this machine, and with a round-trip time of 50 ms.
    pub fn near_and_far(
        &self,
        title: &str,
        race: impl Fn(&str) -> Result<Vec<Figures>, Error>,
        against: &str,
    ) -> Result<(), Error> {
        print(&format!("{title}, on this machine"), &race(&self.host)?, against);
        let far = Relay::start(&self.host).map_err(|e| Error::from_io("make the line longer", e))?;
        print("the same, 50 ms there and back", &race(&far.host)?, against);
        Ok(())
    }

    /// Ignores all requests so far.
    pub fn forget(&self) {
        self.seen.set(fs::read(&self.log).map_or(0, |log| log.len()));
    }

    /// Removes everything that was pushed; the registry has no copy in memory.
    pub fn empty(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from_io("empty docker-registry", error))
            }
            _ => Ok(()),
        }
    }

    fn lines(&self) -> String {
        // A line of the log is written after the response.
        std::thread::sleep(Duration::from_millis(300));
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.seen.get()..).unwrap_or_default()).into_owned()
    }

    /// Number of all requests, and of writing ones, since [`Registry::forget`].
    pub fn asked(&self) -> (usize, usize) {
        let log = self.lines();
        let count = |methods: &[&str]| {
            let is_one =
                |line: &&str| methods.iter().any(|method| line.contains(&format!("\"{method} /v2/")));
            log.lines().filter(is_one).count()
        };
        let writes = count(&["POST", "PUT", "PATCH", "DELETE"]);
        (writes + count(&["GET", "HEAD"]), writes)
    }

    /// Bytes of response bodies since [`Registry::forget`].
    pub fn sent(&self) -> u64 {
        let log = self.lines();
        // ... "GET /v2/... HTTP/1.1" 200 12345 "" "agent"
        let bytes = |line: &str| line.rsplit("HTTP/1.1\" ").next()?.split(' ').nth(1)?.parse::<u64>().ok();
        log.lines().filter(|line| line.contains("\"GET ")).filter_map(bytes).sum()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
