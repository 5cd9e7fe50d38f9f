//! How registries are spoken to. A person's choices; the defaults are those of the environment.

use crate::credentials::secret::Secret;
use crate::http::address::is_loopback;
use crate::meter::Meter;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Which hosts besides this machine are spoken to without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    #[default]
    Loopback,
    Hosts(Vec<String>),
    All,
}

/// A user name and password that a person gave for one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As in an image reference: `docker.io`, `127.0.0.1:5000`.
    pub host: String,
    pub user: String,
    pub password: Secret,
}

#[derive(Clone, Debug)]
pub struct RegistryOptions {
    pub plain_http: PlainHttp,
    /// Certificates in PEM form that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Believe any certificate.
    pub insecure: bool,
    /// The one file with credentials; without it the usual places are searched.
    pub auth_file: Option<PathBuf>,
    /// Token servers that may have a registry's credentials although they are in another domain.
    pub auth_hosts: Vec<String>,
    /// Comes before anything a file says.
    pub login: Option<Login>,
    /// Folders with one folder per registry, `HOST[:PORT]/{*.crt,*.cert,*.key}`.
    pub certs_dirs: Vec<PathBuf>,
    /// How long a connection may be silent.
    pub idle_timeout: Duration,
    /// Most requests at once, where a person said so.
    pub parallel: Option<NonZeroUsize>,
    /// The first wait before a repetition.
    pub backoff: Duration,
    /// Longest wait that a server may ask for.
    pub retry_after_max: Duration,
    /// How long after its first attempt a request is still tried again.
    pub timeout: Duration,
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

    /// Is this host spoken to with TLS? Decided before the first byte and never taken back: falling back to plain
    /// HTTP would hand everything to whoever can break a connection.
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
        // On this machine plain HTTP is the rule. Who brings certificates for it means TLS.
        let has_certs = self.certs_dirs.iter().any(|dir| dir.join(host).is_dir());
        host.ends_with(":443") || self.ca_file.is_some() || has_certs
    }
}

type Print = Arc<dyn Fn(&str) + Send + Sync>;

/// What a client reports while it works. The default reports nothing and counts.
#[derive(Clone)]
pub struct Reporting {
    pub warn: Print,
    /// One line for each request.
    pub trace: Option<Print>,
    pub meter: Arc<Meter>,
}

impl Reporting {
    /// `print` gets a line for each request if `MULTIARCH_TRACE` is 1.
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
    fn plain_http_is_for_this_machine_and_for_whom_a_person_names() {
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
    fn certificates_for_this_machine_mean_tls() {
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
