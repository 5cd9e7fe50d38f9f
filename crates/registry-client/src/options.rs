//! Options of the client: TLS, credentials, limits, reporting.

use crate::credentials::secret::Secret;
use crate::http::address::is_loopback;
use crate::meter::Meter;
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

    /// Returns whether requests to `host` use TLS. There is no fallback to plain HTTP: it would give credentials to anyone
    /// who can break a connection.
    pub fn uses_tls(&self, host: &str) -> bool {
        match &self.plain_http {
            PlainHttp::All => return false,
            PlainHttp::Hosts(hosts) if hosts.iter().any(|named| named.eq_ignore_ascii_case(host)) => {
                return false;
            }
            PlainHttp::Hosts(_) | PlainHttp::Loopback => {}
        }
        if !is_loopback(host) {
            return true;
        }
        // Plain HTTP is the default on this machine, unless there are certificates for the registry.
        let has_certs = self.certs_dirs.iter().any(|dir| dir.join(host).is_dir());
        host.ends_with(":443") || self.ca_file.is_some() || has_certs
    }
}

type Print = Arc<dyn Fn(&str) + Send + Sync>;

/// Where a client reports warnings, requests and transfer counts. By default, it only counts.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_the_given_hosts() {
        let check = |plain_http: PlainHttp, host: &str, tls: bool| {
            let options =
                RegistryOptions { plain_http, certs_dirs: Vec::new(), ..RegistryOptions::default() };
            assert_eq!(options.uses_tls(host), tls, "{host}");
        };
        let named = || PlainHttp::Hosts(vec!["box:5000".into()]);
        check(PlainHttp::Loopback, "127.0.0.1:5000", false);
        check(PlainHttp::Loopback, "localhost:443", true);
        check(PlainHttp::Loopback, "box:5000", true);
        check(PlainHttp::Loopback, "docker.io", true);
        check(PlainHttp::Loopback, "127.0.0.1.evil.com:5000", true);
        check(named(), "BOX:5000", false);
        check(named(), "box:5001", true);
        check(named(), "box", true);
        check(named(), "[::1]:5000", false);
        check(PlainHttp::All, "docker.io", false);
    }

    #[test]
    fn certificates_for_a_local_registry_select_tls() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("localhost:5000")).unwrap();
        let certs_dirs = vec![dir.path().to_path_buf()];
        let options = RegistryOptions { certs_dirs, ..RegistryOptions::default() };
        assert!(options.uses_tls("localhost:5000"));
        assert!(!options.uses_tls("localhost:5001"));
        let options = RegistryOptions { ca_file: Some("ca.pem".into()), ..options };
        assert!(options.uses_tls("localhost:5001"));
        let options =
            RegistryOptions { plain_http: PlainHttp::Hosts(vec!["localhost:5001".into()]), ..options };
        assert!(!options.uses_tls("localhost:5001"));
    }
}
