//! Debian's docker-registry with private storage, and its access log.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::Proc;
use super::tokens::TokenServer;
use super::{Skip, program, require, short_directory};

/// `ann:s3cret`, bcrypt with the least cost: this password protects nothing.
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";

/// The user agent of requests that wait for the start and mark the log.
const OWN: &str = "multiarch-tests";

/// A running docker-registry on 127.0.0.1. Its storage is removed when it is dropped.
pub struct Registry {
    process: Proc,
    directory: TempDir,
    host: String,
    marks: AtomicUsize,
}

/// One line of its access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub status: u16,
    /// Bytes of the response body.
    pub bytes: u64,
    pub agent: String,
}

impl Registry {
    /// Without authentication.
    pub fn start() -> Result<Registry, Skip> {
        Self::start_as("")
    }

    /// Basic authentication, for `ann` with the password `s3cret`.
    pub fn start_protected() -> Result<Registry, Skip> {
        Self::start_as("auth: {htpasswd: {realm: world, path: HOME/htpasswd}}\n")
    }

    /// Tokens, from a server that grants every requested scope to `ann` with the password `s3cret`, and pull to others. The
    /// registry checks the scopes of each request's token.
    pub fn start_with_tokens() -> Result<(Registry, TokenServer), Skip> {
        let tokens = TokenServer::start()?;
        let auth = format!(
            "auth: {{token: {{realm: \"http://{}/token\", service: world, issuer: tests, rootcertbundle: {}}}}}\n",
            tokens.host(),
            tokens.certificate().display()
        );
        Ok((Self::start_as(&auth)?, tokens))
    }

    fn start_as(auth: &str) -> Result<Registry, Skip> {
        require(&["docker-registry"])?;
        let mut last = String::new();
        // Another process may take the port before the registry starts.
        for _ in 0..5 {
            match Self::try_start(auth) {
                Ok(registry) => return Ok(registry),
                Err(said) => last = said,
            }
        }
        panic!("docker-registry does not start: {last}");
    }

    fn try_start(auth: &str) -> Result<Registry, String> {
        let directory = short_directory("registry-");
        let home = directory.path().display().to_string();
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let host = free.local_addr().expect("a bound socket has an address").to_string();
        drop(free);
        // No debug server and no hooks; deletes are off by default, and tests need them. `secret` only avoids a warning.
        let config = format!(
            "version: 0.1\n\
             log: {{accesslog: {{disabled: false}}, level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: HOME/data}}, delete: {{enabled: true}}}}\n\
             http: {{addr: \"{host}\", secret: tests}}\n{auth}"
        );
        let path = directory.path().join("config.yml");
        fs::write(&path, config.replace("HOME", &home)).expect("room in /tmp");
        fs::write(directory.path().join("htpasswd"), HTPASSWD).expect("room in /tmp");
        let mut command = Command::new(program("docker-registry").expect("required above"));
        command.arg("serve").arg(&path);
        let mut process = Proc::spawn_server(&command);
        let answers = |_: &Proc| get(OWN, &host, "/v2/").is_ok_and(|status| status == 200 || status == 401);
        if process.wait_until(Duration::from_secs(20), answers) {
            return Ok(Registry { process, directory, host, marks: AtomicUsize::new(0) });
        }
        Err(process.stderr())
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its root directory in distribution's layout: `docker/registry/v2/...`
    pub fn storage(&self) -> &Path {
        self.directory.path()
    }

    /// All requests so far, in the order of its log.
    ///
    /// # Panics
    /// If it does not respond.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        // A line is logged after the response: when the marked request is in the log, all earlier ones are as well.
        let mark = format!("/v2/?mark={}", self.marks.fetch_add(1, Ordering::SeqCst));
        let until = Instant::now() + Duration::from_secs(10);
        get(OWN, &self.host, &mark).expect("an answer of the registry");
        loop {
            let log = self.process.stdout();
            if log.contains(&format!("\"GET {mark} ")) {
                let requests = log.lines().filter_map(parse_line);
                return requests.filter(|request| request.agent != OWN).collect();
            }
            assert!(Instant::now() < until, "the registry's log lacks {mark}: {log}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The number of requests with this method and a matching path (with query).
    pub fn count(&self, method: &str, path: impl Fn(&str) -> bool) -> usize {
        self.requests().iter().filter(|request| request.method == method && path(&request.path)).count()
    }
}

/// Apache's combined format: `HOST - - [TIME] "METHOD PATH HTTP/1.1" STATUS BYTES "REFERER" "AGENT"`
fn parse_line(line: &str) -> Option<LoggedRequest> {
    let quoted: Vec<&str> = line.split('"').collect();
    let [_, request, numbers, _, _, agent, ..] = quoted.as_slice() else { return None };
    let (method, rest) = request.split_once(' ')?;
    let (path, _) = rest.rsplit_once(' ')?;
    let (status, bytes) = numbers.trim().split_once(' ')?;
    Some(LoggedRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        status: status.parse().ok()?,
        bytes: bytes.parse().ok()?,
        agent: (*agent).to_owned(),
    })
}

/// The status of a GET, without a library.
fn get(agent: &str, host: &str, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::other("no status line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_access_log_are_understood() {
        let line = r#"127.0.0.1 - - [23/Nov/2026:23:42:37 +0000] "HEAD /v2/x/blobs/sha256:ef?a=b HTTP/1.1" 404 157 "" "skopeo/1.9""#;
        let request = parse_line(line).unwrap();
        assert_eq!((request.method.as_str(), request.status, request.bytes), ("HEAD", 404, 157));
        assert_eq!(
            (request.path.as_str(), request.agent.as_str()),
            ("/v2/x/blobs/sha256:ef?a=b", "skopeo/1.9")
        );
        assert_eq!(parse_line("time=\"...\" level=warning msg=\"x\""), None);
    }

    #[test]
    fn it_answers_counts_and_ends() {
        let registry = crate::need!(Registry::start());
        assert_eq!(registry.requests(), []);
        assert_eq!(get("", registry.host(), "/v2/a/tags/list").unwrap(), 404);
        assert_eq!(registry.count("GET", |path| path == "/v2/a/tags/list"), 1);
        let protected = crate::need!(Registry::start_protected());
        assert_eq!(get("", protected.host(), "/v2/a/tags/list").unwrap(), 401);
        let host = protected.host().to_owned();
        drop(protected);
        assert!(TcpStream::connect(host).is_err());
    }
}
