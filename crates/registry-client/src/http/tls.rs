//! TLS settings per host: trusted CA certificates and client certificates.

use crate::http::address::is_loopback;
use crate::http::url::Url;
use crate::options::{PlainHttp, RegistryOptions};
use error::text::Escaped;
use error::{Error, io_reason};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig};

/// Returns whether requests to `host` use TLS. There is no fallback to plain HTTP: it would give credentials to anyone
/// who can break a connection.
pub fn is_used(options: &RegistryOptions, host: &str) -> bool {
    match &options.plain_http {
        PlainHttp::All => return false,
        PlainHttp::Hosts(hosts) if hosts.iter().any(|given| given.eq_ignore_ascii_case(host)) => {
            return false;
        }
        PlainHttp::Hosts(_) | PlainHttp::Loopback => {}
    }
    if !is_loopback(host) {
        return true;
    }
    // Plain HTTP is the default on this host, unless there are certificates for the registry.
    let has_certs = options.certs_dirs.iter().any(|dir| dir.join(host).is_dir());
    host.ends_with(":443") || options.ca_file.is_some() || has_certs
}

/// Builds the TLS settings of each host. The system's certificates are read at the first use.
pub struct TlsSettings {
    provider: Arc<CryptoProvider>,
    insecure: bool,
    extra: Vec<Certificate<'static>>,
    certs_dirs: Vec<PathBuf>,
    system: OnceLock<Vec<Certificate<'static>>>,
}

impl TlsSettings {
    pub fn new(options: &RegistryOptions) -> Result<Self, Error> {
        let extra = match &options.ca_file {
            Some(file) => read_certificates(file)?,
            None => Vec::new(),
        };
        Ok(Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            insecure: options.insecure,
            extra,
            certs_dirs: options.certs_dirs.clone(),
            system: OnceLock::new(),
        })
    }

    /// Returns the settings for `host`, with its port if it has one, like the directories in `certs.d`.
    pub fn config(&self, host: &str) -> Result<TlsConfig, Error> {
        let mut roots = self.system.get_or_init(system_certificates).clone();
        roots.extend(self.extra.iter().cloned());
        let mut client_cert = None;
        for dir in &self.certs_dirs {
            let dir = dir.join(host);
            for file in files_with_extension(&dir, "crt") {
                roots.extend(read_certificates(&file)?);
            }
            for file in files_with_extension(&dir, "cert") {
                client_cert = Some(self.read_client_certificate(&file)?);
            }
        }
        Ok(TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::clone(&self.provider))
            .disable_verification(self.insecure)
            .root_certs(RootCerts::from(roots))
            .client_cert(client_cert)
            .build())
    }

    /// Reads `NAME.cert` and its key, `NAME.key` in the same directory.
    fn read_client_certificate(&self, file: &Path) -> Result<ClientCert, Error> {
        let key_file = file.with_extension("key");
        let action = || format!("use the client certificate {}", file.display());
        let wrong = |reason: String| Error::not_permitted(action(), reason);
        let pem = read(&key_file)?;
        let key = ureq::tls::PrivateKey::from_pem(&pem)
            .map_err(|_| wrong(format!("{} contains no PEM private key", key_file.display())))?;
        let chain = read_certificates(file)?;
        // The HTTP library panics if the key does not match, so that is checked here.
        let der: Vec<CertificateDer<'static>> =
            chain.iter().map(|cert| CertificateDer::from(cert.der().to_vec())).collect();
        let trial = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| wrong(e.to_string()))?;
        rustls::sign::CertifiedKey::from_der(der, trial, &self.provider).map_err(|e| wrong(e.to_string()))?;
        Ok(ClientCert::new_with_certs(&chain, key))
    }
}

/// Reads the system's certificates, or those of SSL_CERT_FILE and SSL_CERT_DIR. Certificates that cannot be read are
/// skipped: the connection that needs one fails.
fn system_certificates() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect()
}

fn read_certificates(file: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&read(file)?) {
        if let Ok(PemItem::Certificate(certificate)) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        let action = format!("read certificates from {}", file.display());
        return Err(Error::not_permitted(action, "it contains no PEM certificate"));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let action = || format!("read certificates from {}", file.display());
    std::fs::read(file).map_err(|e| Error::not_permitted(action(), io_reason(&e)))
}

/// Returns the files with this extension, sorted; none if the directory does not exist.
fn files_with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    files.sort();
    files
}

/// The error of a failed TLS handshake, with a hint for the common causes.
pub fn failed(action: &str, url: &Url, reason: &str) -> Error {
    let host = url.host_and_port();
    let error = Error::not_permitted(action, format!("TLS with {host} failed: {}", Escaped(reason)));
    if reason.contains("UnknownIssuer") {
        return error.hint(format!(
            "pass its CA certificate with --ca-file, or copy it to /etc/docker/certs.d/{host}/ca.crt"
        ));
    }
    if reason.contains("InvalidMessage") || reason.contains("corrupt message") {
        return error.hint(format!(
            "if the registry uses plain HTTP and the network is trusted, use --plain-http={host}"
        ));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_the_given_hosts() {
        let check = |plain_http: PlainHttp, host: &str, tls: bool| {
            let options =
                RegistryOptions { plain_http, certs_dirs: Vec::new(), ..RegistryOptions::default() };
            assert_eq!(is_used(&options, host), tls, "{host}");
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
        assert!(is_used(&options, "localhost:5000"));
        assert!(!is_used(&options, "localhost:5001"));
        let options = RegistryOptions { ca_file: Some("ca.pem".into()), ..options };
        assert!(is_used(&options, "localhost:5001"));
        let options =
            RegistryOptions { plain_http: PlainHttp::Hosts(vec!["localhost:5001".into()]), ..options };
        assert!(!is_used(&options, "localhost:5001"));
    }
}
