//! An OCI registry inside the test process: stateful, with the guarantees of a real one, and with scripted faults.
//!
//! Three listeners on loopback: the registry (`/v2/...`), the token server of its Bearer challenge, and the storage that blob
//! redirects point to. HTTP/1.1 without TLS. It is strict where real registries are (a manifest that references an absent blob is
//! 400) and records more: whatever a correct client does not do is in [`FakeRegistry::violations`].
//!
//! ```no_run
//! use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault};
//! let registry = FakeRegistry::start();
//! registry.fault(Fault::at(3, Act::retry_after(429, "1")));
//! // run the tool against registry.host(), then:
//! assert_eq!(registry.violations(), [""; 0]);
//! ```

use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

mod auth;
mod connection;
mod faults;
mod http;
mod log;
mod routes;
mod state;

pub use auth::{Auth, Authorization, Bearer, Credential};
pub use faults::{Act, Fault};
pub use http::{Listener, Request};
pub use log::Logged;
pub use state::digest_of;

use state::{Manifest, State};

/// The behavior of a registry. Defaults are those of Debian's docker-registry, or more lenient.
#[derive(Clone, Debug)]
pub struct Options {
    pub auth: Auth,
    /// `POST ?mount=&from=` responds with 201 if the blob exists; off, always with 202.
    pub mounts: bool,
    /// `POST ?digest=` with a body creates the blob; off, the response is that to a plain POST.
    pub single_post: bool,
    /// An upload may continue from any Location of its session; off, only from the latest (docker-registry 2.8.2).
    pub resumable: bool,
    /// GET of a blob honors Range; off, the response is 200 with the complete blob.
    pub ranges: bool,
    pub deletes: bool,
    /// The referrers API and `OCI-Subject`.
    pub referrers: bool,
    /// Locations without scheme and host.
    pub relative_locations: bool,
    /// `OCI-Chunk-Min-Length` of an upload.
    pub chunk_minimum: Option<u64>,
    /// Most tags in one page, whatever `n` says.
    pub tag_page: usize,
    /// Longest manifest, 4 MiB in distribution.
    pub manifest_limit: u64,
    /// Loopback addresses of the three listeners; any of 127.0.0.0/8 works on Linux.
    pub registry_address: IpAddr,
    pub token_address: IpAddr,
    pub blobs_address: IpAddr,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            auth: Auth::None,
            mounts: true,
            single_post: true,
            resumable: true,
            ranges: true,
            deletes: true,
            referrers: false,
            relative_locations: false,
            chunk_minimum: None,
            tag_page: usize::MAX - 1,
            manifest_limit: 4 << 20,
            registry_address: Ipv4Addr::LOCALHOST.into(),
            token_address: Ipv4Addr::LOCALHOST.into(),
            // Another host by any rule about where credentials may go.
            blobs_address: Ipv4Addr::new(127, 0, 0, 2).into(),
        }
    }
}

/// When a hook is called for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Its head has arrived; nothing has happened yet.
    Before,
    /// It is processed; no byte of the response has been sent.
    After,
}

type Hook = Box<dyn Fn(&Request, When) + Send + Sync>;

/// State that the connection threads share.
struct Shared {
    options: Options,
    state: Mutex<State>,
    tokens: Mutex<auth::Tokens>,
    script: faults::Script,
    log: Mutex<log::Log>,
    violations: Mutex<Vec<String>>,
    hooks: Mutex<Vec<Arc<Hook>>>,
    redirect_blobs: Mutex<bool>,
    realm: String,
    blobs_host: String,
    requests: AtomicUsize,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    open: Vec<(usize, TcpStream)>,
    made: usize,
    peak: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Shared {
    fn violation(&self, what: String) {
        lock(&self.violations).push(what);
    }
}

/// A running registry. Its threads and its files end with it.
pub struct FakeRegistry {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    acceptors: Vec<JoinHandle<()>>,
}

impl FakeRegistry {
    /// # Panics
    /// If loopback has no free port, as all functions of this type panic where only a broken machine can fail.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> Self {
        let bind = |address: IpAddr| {
            let listener = TcpListener::bind((address, 0)).expect("a free port on loopback");
            let address = listener.local_addr().expect("the address of a bound socket");
            (listener, address)
        };
        let (registry, registry_address) = bind(options.registry_address);
        let (token, token_address) = bind(options.token_address);
        let (blobs, blobs_address) = bind(options.blobs_address);
        let shared = Arc::new(Shared {
            options,
            state: Mutex::new(State::new().expect("a directory for blobs")),
            tokens: Mutex::default(),
            script: faults::Script::default(),
            log: Mutex::default(),
            violations: Mutex::default(),
            hooks: Mutex::default(),
            redirect_blobs: Mutex::new(false),
            realm: format!("http://{token_address}/token"),
            blobs_host: blobs_address.to_string(),
            requests: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let served = [(Listener::Registry, registry), (Listener::Token, token), (Listener::Blobs, blobs)];
        let acceptors = served.map(|(kind, listener)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&shared, kind, &listener))
        });
        FakeRegistry {
            shared,
            addresses: vec![registry_address, token_address, blobs_address],
            acceptors: acceptors.into(),
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.addresses[0].to_string()
    }

    /// `IP:PORT` of the token server.
    pub fn token_host(&self) -> String {
        self.addresses[1].to_string()
    }

    /// `IP:PORT` of the storage that blob redirects point to.
    pub fn blobs_host(&self) -> String {
        self.addresses[2].to_string()
    }

    // --- scripts

    pub fn fault(&self, fault: Fault) {
        self.shared.script.add(fault);
    }

    /// Removes every scripted fault.
    pub fn clear_faults(&self) {
        self.shared.script.clear();
    }

    /// The number of requests so far that a fault applied to.
    pub fn faults_fired(&self) -> usize {
        self.shared.script.fired()
    }

    /// From now on, GET and HEAD of blobs are redirected (307) to the third listener.
    pub fn redirect_blobs(&self, on: bool) {
        *lock(&self.shared.redirect_blobs) = on;
    }

    /// Calls the hook on the connection's thread around every request: it may kill the client, move a tag or wait.
    ///
    /// A request whose client was killed [`When::Before`] is still processed if all of it has been sent, as by a real
    /// server. To kill a client before its request takes effect, script [`Act::ResetBefore`] for it as well.
    pub fn on_request(&self, hook: impl Fn(&Request, When) + Send + Sync + 'static) {
        lock(&self.shared.hooks).push(Arc::new(Box::new(hook)));
    }

    /// A token with these scopes (`repository:a/b:pull,push`), for scripted token responses.
    pub fn mint_token(&self, scopes: &[&str], life: std::time::Duration) -> String {
        lock(&self.shared.tokens).mint(auth::parse_scopes(scopes.iter().copied()), life)
    }

    /// Makes every token issued so far invalid.
    pub fn revoke_tokens(&self) {
        lock(&self.shared.tokens).revoke_all();
    }

    // --- requests

    /// All requests so far, in the order of arrival.
    pub fn log(&self) -> Vec<Logged> {
        lock(&self.shared.log).entries.clone()
    }

    /// Like [`Self::log`], and clears the log; numbering continues.
    pub fn take_log(&self) -> Vec<Logged> {
        std::mem::take(&mut lock(&self.shared.log).entries)
    }

    /// The number of requests with this method and a matching path (with query).
    pub fn count(&self, method: &str, path: impl Fn(&str) -> bool) -> usize {
        let log = lock(&self.shared.log);
        log.entries.iter().filter(|logged| logged.method == method && path(&logged.path)).count()
    }

    /// Every secret that arrived, in the order of arrival.
    pub fn credentials(&self) -> Vec<Credential> {
        lock(&self.shared.log).credentials.clone()
    }

    /// Protocol violations of the client; empty after a correct run.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }

    /// Most connections that were open at the same time, over all listeners.
    pub fn peak_connections(&self) -> usize {
        lock(&self.shared.connections).peak
    }

    /// Upload sessions that were neither finished nor deleted.
    pub fn open_uploads(&self) -> usize {
        lock(&self.shared.state).uploads.len()
    }

    // --- content

    pub fn tag(&self, repository: &str, tag: &str) -> Option<String> {
        lock(&self.shared.state).repositories.get(repository)?.tags.get(tag).cloned()
    }

    pub fn tags(&self, repository: &str) -> Vec<String> {
        let state = lock(&self.shared.state);
        let held = state.repositories.get(repository);
        held.map(|held| held.tags.keys().cloned().collect()).unwrap_or_default()
    }

    /// Media type and bytes of a manifest by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Vec<u8>)> {
        let state = lock(&self.shared.state);
        state.resolve(repository, reference).map(|(_, found)| (found.media_type.clone(), found.bytes.clone()))
    }

    /// Digests of all manifests of a repository.
    pub fn manifests(&self, repository: &str) -> Vec<String> {
        let state = lock(&self.shared.state);
        let held = state.repositories.get(repository);
        held.map(|held| held.manifests.keys().cloned().collect()).unwrap_or_default()
    }

    /// The bytes of a blob of this repository.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let path = lock(&self.shared.state).blob(repository, digest)?.path.clone();
        Some(std::fs::read(path).expect("a stored blob"))
    }

    pub fn has_blob(&self, repository: &str, digest: &str) -> bool {
        lock(&self.shared.state).blob(repository, digest).is_some()
    }

    /// Checks that everything reachable from this manifest exists with the declared size, and that manifests have their own
    /// digest (blobs were hashed when they were uploaded).
    pub fn closure_complete(&self, repository: &str, digest: &str) -> Result<(), String> {
        lock(&self.shared.state).closure_complete(repository, digest)
    }

    // --- content stored without checks

    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        lock(&self.shared.state).put_blob(repository, &digest, bytes).expect("room for a blob");
        digest
    }

    /// A blob from a file of any size; the file is copied.
    pub fn put_blob_file(&self, repository: &str, file: &Path) -> String {
        lock(&self.shared.state).copy_blob_file(repository, file).expect("room for a blob")
    }

    /// Stores a manifest and, unless `reference` is its digest, tags it.
    pub fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = state::digest_like(reference, bytes);
        self.put_manifest_under(repository, &digest, media_type, bytes);
        if !reference.contains(':') {
            self.set_tag(repository, reference, &digest);
        }
        digest
    }

    /// Stores a manifest under a digest that need not be its own.
    pub fn put_manifest_under(&self, repository: &str, digest: &str, media_type: &str, bytes: &[u8]) {
        let manifest = Manifest { media_type: media_type.to_owned(), bytes: bytes.to_vec() };
        lock(&self.shared.state).repository(repository).manifests.insert(digest.to_owned(), manifest);
    }

    /// Moves a tag, as another publisher would.
    pub fn set_tag(&self, repository: &str, tag: &str, digest: &str) {
        let mut state = lock(&self.shared.state);
        state.repository(repository).tags.insert(tag.to_owned(), digest.to_owned());
    }

    pub fn delete_tag(&self, repository: &str, tag: &str) {
        lock(&self.shared.state).repository(repository).tags.remove(tag);
    }

    /// Deletes a manifest, as a cleanup of the registry would.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        let deleted = lock(&self.shared.state).repository(repository).manifests.remove(digest);
        assert!(deleted.is_some(), "no manifest {digest} to delete");
    }

    /// Replaces the bytes of a blob under its old digest.
    pub fn corrupt_blob(&self, digest: &str, bytes: &[u8]) {
        let known = lock(&self.shared.state).corrupt_blob(digest, bytes).expect("room for a blob");
        assert!(known, "no blob {digest} to corrupt");
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for address in &self.addresses {
            // Wakes the acceptor; a failure means that it has ended.
            drop(TcpStream::connect(address));
        }
        for acceptor in self.acceptors.drain(..) {
            drop(acceptor.join());
        }
        // No thread adds to these anymore.
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        for (_, stream) in &connections.open {
            // Fails if the peer has closed the connection, which needs no shutdown.
            drop(stream.shutdown(Shutdown::Both));
        }
        for thread in connections.threads {
            drop(thread.join());
        }
    }
}

fn accept(shared: &Arc<Shared>, kind: Listener, listener: &TcpListener) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let mut connections = lock(&shared.connections);
        connections.made += 1;
        let number = connections.made;
        let Ok(twin) = stream.try_clone() else { continue };
        connections.open.push((number, twin));
        connections.peak = connections.peak.max(connections.open.len());
        // Drops threads that have ended, so that a long test does not collect thousands of them.
        connections.threads.retain(|thread| !thread.is_finished());
        let shared = Arc::clone(shared);
        connections.threads.push(thread::spawn(move || {
            connection::serve(&shared, kind, &stream, number);
            lock(&shared.connections).open.retain(|(open, _)| *open != number);
        }));
    }
}

/// Ignores poisoning: a panic in a hook is the test's report and must not be hidden by another one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
