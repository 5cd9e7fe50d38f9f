//! Whom we trust when a registry shows its certificate, and what we show it ourselves.

use crate::http::url::Url;
use crate::options::RegistryOptions;
use error::Error;
use error::text::Escaped;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig};

/// Builds the TLS settings of each host. The system's certificates are read when the first host needs them.
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

    /// `host` with its port if it has one, as the folders are named.
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

    /// `NAME.cert` with the key in `NAME.key` beside it.
    fn read_client_certificate(&self, file: &Path) -> Result<ClientCert, Error> {
        let key_file = file.with_extension("key");
        let doing = || format!("use the client certificate {}", file.display());
        let wrong = |why: String| Error::not_permitted(doing(), why);
        let pem = read(&key_file)?;
        let key = ureq::tls::PrivateKey::from_pem(&pem)
            .map_err(|_| wrong(format!("{} contains no PEM private key", key_file.display())))?;
        let chain = read_certificates(file)?;
        // The HTTP library panics on a key that does not fit, so it is tried here first.
        let der: Vec<CertificateDer<'static>> =
            chain.iter().map(|cert| CertificateDer::from(cert.der().to_vec())).collect();
        let trial = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| wrong(e.to_string()))?;
        rustls::sign::CertifiedKey::from_der(der, trial, &self.provider).map_err(|e| wrong(e.to_string()))?;
        Ok(ClientCert::new_with_certs(&chain, key))
    }
}

/// The system's, or those that SSL_CERT_FILE and SSL_CERT_DIR name. A certificate that cannot be read is as good as
/// absent: the connection that needed it says so.
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
        let doing = format!("read certificates from {}", file.display());
        return Err(Error::not_permitted(doing, "it contains no PEM certificate"));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let doing = || format!("read certificates from {}", file.display());
    std::fs::read(file).map_err(|e| Error::not_permitted(doing(), e.to_string()))
}

/// Sorted; none if the folder is not there.
fn files_with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    files.sort();
    files
}

/// A certificate or handshake that did not hold.
pub fn failed(doing: &str, url: &Url, why: &str) -> Error {
    let host = url.host_and_port();
    let error = Error::not_permitted(doing, format!("TLS with {host} failed: {}", Escaped(why)));
    if why.contains("UnknownIssuer") {
        return error.hint(format!(
            "pass its CA certificate with --ca-file, or copy it to /etc/docker/certs.d/{host}/ca.crt"
        ));
    }
    if why.contains("InvalidMessage") || why.contains("corrupt message") {
        return error.hint(format!(
            "if the registry uses plain HTTP and the network is trusted, use --plain-http={host}"
        ));
    }
    error
}
