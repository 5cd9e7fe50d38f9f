//! Options of the client: TLS, credentials, limits, reporting.

use crate::meter::Meter;
use crate::secret::Secret;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Hosts that are accessed by plain HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// This machine only.
    #[default]
    Loopback,
    /// This machine and these hosts, `HOST[:PORT]`.
    Hosts(Vec<String>),
    /// All hosts.
    All,
}

/// A user name and password for one registry, from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As in an image reference: `docker.io`, `127.0.0.1:5000`.
    pub host: String,
    /// The user name.
    pub user: String,
    /// The password or access token.
    pub password: Secret,
}

/// Options of a [`Client`](crate::Client).
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Hosts that are accessed by plain HTTP.
    pub plain_http: PlainHttp,
    /// PEM file of CA certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether to skip TLS certificate verification.
    pub insecure: bool,
    /// The only file to read credentials from; by default, Docker's and Podman's files are searched.
    pub auth_file: Option<PathBuf>,
    /// Token servers that receive a registry's credentials although they are in another domain.
    pub auth_hosts: Vec<String>,
    /// Credentials that take precedence over all files.
    pub login: Option<Login>,
    /// Directories with one directory per registry, `HOST[:PORT]/{*.crt,*.cert,*.key}`.
    pub certs_dirs: Vec<PathBuf>,
    /// Time limit of a single read or write.
    pub idle_timeout: Duration,
    /// The user's limit of concurrent requests.
    pub parallel: Option<NonZeroUsize>,
    /// Upper limit of the delay before the first retry.
    pub backoff: Duration,
    /// Maximum `Retry-After` delay.
    pub retry_after_max: Duration,
    /// Time limit of a request with its retries.
    pub timeout: Duration,
    /// Receives warnings, a trace of requests and transfer counts.
    pub reporting: Reporting,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let backoff = std::env::var("MULTIARCH_TEST_BACKOFF_MS").ok().and_then(|text| text.parse().ok());
        Self {
            plain_http: PlainHttp::default(),
            ca_file: None,
            insecure: false,
            auth_file: None,
            auth_hosts: Vec::new(),
            login: None,
            certs_dirs: vec!["/etc/docker/certs.d".into(), "/etc/containers/certs.d".into()],
            idle_timeout: Duration::from_secs(30),
            parallel: None,
            backoff: Duration::from_millis(backoff.unwrap_or(200)),
            retry_after_max: Duration::from_secs(60),
            timeout: Duration::from_secs(600),
            reporting: Reporting::default(),
        }
    }
}

impl RegistryOptions {
    /// Returns how many requests may run at once: `wanted`, or fewer if the user set a lower limit.
    pub fn concurrency(&self, wanted: usize) -> usize {
        self.parallel.map_or(wanted, |limit| wanted.min(limit.get()))
    }
}

type Print = Arc<dyn Fn(&str) + Send + Sync>;

/// Destinations of warnings, requests and transfer counts. By default, a client only counts.
#[derive(Clone)]
pub struct Reporting {
    /// Receives warnings.
    pub warn: Print,
    /// Receives one line per request.
    pub trace: Option<Print>,
    /// Transfer counts.
    pub meter: Arc<Meter>,
}

impl Reporting {
    /// Reports warnings to `warn`, and requests to `print` if the environment variable `MULTIARCH_TRACE` is 1.
    pub fn new(
        warn: impl Fn(&str) + Send + Sync + 'static,
        print: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let is_traced = std::env::var_os("MULTIARCH_TRACE").is_some_and(|value| value == "1");
        let print: Print = Arc::new(print);
        Self { warn: Arc::new(warn), trace: is_traced.then_some(print), meter: Arc::default() }
    }
}

impl Default for Reporting {
    fn default() -> Self {
        Self { warn: Arc::new(|_| {}), trace: None, meter: Arc::default() }
    }
}

impl fmt::Debug for Reporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporting").finish_non_exhaustive()
    }
}
