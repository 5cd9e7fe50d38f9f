//! A token server whose signatures a real registry checks: JSON web tokens, signed by openssl.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tempfile::TempDir;

use super::{Skip, program, require, short_directory};

/// Serves on loopback until it is dropped.
pub struct TokenServer {
    host: String,
    directory: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TokenServer {
    /// # Panics
    /// If openssl is there and does not make a key.
    pub(super) fn start() -> Result<TokenServer, Skip> {
        require(&["openssl"])?;
        let directory = short_directory("tokens-");
        let (key, certificate) = (directory.path().join("key"), directory.path().join("crt"));
        let mut openssl = Command::new(program("openssl").expect("required above"));
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        let made = openssl.stdin(Stdio::null()).output().expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let host = listener.local_addr().expect("a bound socket has an address").to_string();
        let pem = std::fs::read_to_string(&certificate).expect("openssl wrote it");
        // PEM is base64 between two marker lines.
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let (requests, stopping) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (heard, stop) = (Arc::clone(&requests), Arc::clone(&stopping));
        let signer = Signer { key, der };
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // A client that disconnects needs no handling.
                drop(answer(&stream, &signer, &heard));
            }
        });
        Ok(TokenServer { host, directory, requests, stopping, thread: Some(thread) })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.path().join("crt")
    }

    /// The scopes of each request so far, joined by spaces.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread; a failure means that it has ended.
        drop(TcpStream::connect(&self.host));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Signer {
    key: PathBuf,
    /// The certificate, base64.
    der: String,
}

fn answer(stream: &TcpStream, signer: &Signer, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut is_ann, mut header) = (false, String::new());
    while reader.read_line(&mut header)? > 2 {
        let known = format!("Basic {}", STANDARD.encode("ann:s3cret"));
        is_ann |= header
            .split_once(": ")
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("authorization") && value.trim() == known);
        header.clear();
    }
    let query = line.split(' ').nth(1).and_then(|path| path.split_once('?')).map_or("", |(_, query)| query);
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let scopes: Vec<String> =
        values.map(|value| value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",")).collect();
    heard.lock().unwrap_or_else(PoisonError::into_inner).push(scopes.join(" "));
    let token = signer.token(&scopes, is_ann)?;
    let body = serde_json::json!({"token": token, "expires_in": 300}).to_string();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

impl Signer {
    /// Source: distribution's docs/spec/auth/jwt.md.
    fn token(&self, scopes: &[String], may_write: bool) -> std::io::Result<String> {
        let granted: Vec<serde_json::Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
                let actions: Vec<&str> =
                    actions.split(',').filter(|action| may_write || *action == "pull").collect();
                Some(serde_json::json!({"type": "repository", "name": name, "actions": actions}))
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let claims = serde_json::json!({
            "iss": "tests", "sub": "ann", "aud": "world", "exp": now + 300, "nbf": now - 60, "iat": now,
            "jti": "one", "access": granted,
        });
        let head = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [self.der]});
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(&self.key, signed.as_bytes())?)))
    }
}

fn sign(key: &Path, text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text)?;
    }
    Ok(child.wait_with_output()?.stdout)
}
