//! Credentials from Docker's config.json and Podman's auth.json.

pub mod credential;
pub mod helper;

use crate::credentials::credential::{Credential, FoundCredential};
use crate::options::{Login, RegistryOptions, Reporting};
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use error::{Error, io_reason};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Maximum size of a credentials file, in bytes.
const FILE_MAX: u64 = 4 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// Docker's key for the credentials of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The places where credentials are looked up, in this order.
pub struct CredentialSources {
    login: Option<Login>,
    /// The content of DOCKER_AUTH_CONFIG.
    inline: Option<String>,
    /// The default files, which need not exist.
    default_files: Vec<PathBuf>,
    /// The file of the options, which must exist and is the only one.
    only_file: Option<PathBuf>,
    reporting: Reporting,
    /// Each file is read once, and each helper runs once per server.
    read: Mutex<HashMap<PathBuf, Option<Arc<AuthFile>>>>,
    answers: HelperCache,
}

/// The results of helpers, by helper and server.
type HelperCache = Mutex<HashMap<(String, String), Option<Credential>>>;

impl CredentialSources {
    pub fn new(options: &RegistryOptions, env: impl Fn(&str) -> Option<OsString>) -> Self {
        let var = |name: &str| env(name).filter(|value| !value.is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let mut default_files = Vec::new();
        let docker = path("DOCKER_CONFIG").or_else(|| path("HOME").map(|home| home.join(".docker")));
        default_files.extend(docker.map(|dir| dir.join("config.json")));
        default_files.extend(path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")));
        default_files.push(format!("/run/containers/{}/auth.json", nix::unistd::getuid()).into());
        let config = path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|home| home.join(".config")));
        default_files.extend(config.map(|dir| dir.join("containers/auth.json")));
        Self {
            login: options.login.clone(),
            inline: var("DOCKER_AUTH_CONFIG").map(|text| text.to_string_lossy().into_owned()),
            default_files,
            only_file: options.auth_file.clone().or_else(|| path("REGISTRY_AUTH_FILE")),
            reporting: options.reporting.clone(),
            read: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// Fails if the file of the options cannot be read, even if no credentials turn out to be needed.
    pub fn check(&self) -> Result<(), Error> {
        match &self.only_file {
            Some(file) => self.file(file)?.map(drop).ok_or_else(|| no_such(file)),
            None => Ok(()),
        }
    }

    /// Returns the credentials for a repository of `host`, which is as in an image reference.
    ///
    /// # Errors
    /// `NotPermitted` if a file is invalid or a helper fails.
    pub fn find(&self, host: &str, repository: &str) -> Result<FoundCredential, Error> {
        if let Some(login) = self.login.as_ref().filter(|login| same_host(&login.host, host)) {
            let (user, password) = (login.user.clone(), login.password.clone());
            let from = "the command line".to_string();
            return Ok(FoundCredential { credential: Credential::Password { user, password }, from });
        }
        let find = |found: &AuthFile, place: String| found.find(host, repository, &place, &self.answers);
        if let Some(file) = &self.only_file {
            let found = self.file(file)?.ok_or_else(|| no_such(file))?;
            return Ok(find(&found, file.display().to_string())?.unwrap_or_else(FoundCredential::none));
        }
        if let Some(text) = &self.inline {
            let place = "DOCKER_AUTH_CONFIG";
            if let Some(found) = find(&parse(text.as_bytes(), place)?, place.into())? {
                return Ok(found);
            }
        }
        for file in &self.default_files {
            let Some(found) = self.file(file)? else { continue };
            if let Some(found) = find(&found, file.display().to_string())? {
                return Ok(found);
            }
        }
        Ok(FoundCredential::none())
    }

    /// Returns whether credentials for `host` seem to be configured, without running a helper: Docker leaves an empty
    /// entry for each host whose secret is in a helper.
    pub fn has_entry(&self, host: &str) -> bool {
        if self.login.as_ref().is_some_and(|login| same_host(&login.host, host)) {
            return true;
        }
        let read = |file: &PathBuf| std::fs::read(file).ok().filter(|text| text.len() as u64 <= FILE_MAX);
        let texts: Vec<Vec<u8>> = match &self.only_file {
            Some(file) => read(file).into_iter().collect(),
            None => {
                let inline = self.inline.iter().map(|text| text.clone().into_bytes());
                inline.chain(self.default_files.iter().filter_map(read)).collect()
            }
        };
        // An invalid file is reported when credentials are needed.
        texts.iter().any(|text| parse(text, "").is_ok_and(|found| found.mentions(host)))
    }

    /// Returns a parsed file, or `None` if it does not exist.
    fn file(&self, file: &Path) -> Result<Option<Arc<AuthFile>>, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.get(file) {
            return Ok(known.clone());
        }
        let found = read_file(file, &self.reporting)?.map(Arc::new);
        read.insert(file.into(), found.clone());
        Ok(found)
    }
}

/// The credentials in Docker's config.json or Podman's auth.json.
#[derive(Default, Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, AuthEntry>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct AuthEntry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

impl AuthFile {
    /// Looks up in Docker's order: the helper of the host, the helper for all hosts, the file itself.
    fn find(
        &self,
        host: &str,
        repository: &str,
        place: &str,
        answers: &HelperCache,
    ) -> Result<Option<FoundCredential>, Error> {
        let own =
            self.helpers.iter().flatten().find(|(key, _)| same_host(key, host)).map(|(_, helper)| helper);
        let helper = own.or(self.store.as_ref()).filter(|helper| !helper.is_empty());
        if let Some(helper) = helper {
            let key = if same_host(host, "docker.io") { HUB_KEY } else { host };
            if let Some(credential) = ask_once(helper, key, answers)? {
                return Ok(Some(FoundCredential { credential, from: format!("docker-credential-{helper}") }));
            }
        }
        let Some((key, entry)) = self.entry(host, repository) else { return Ok(None) };
        let wrong = |reason: &str| {
            let action = format!("read the credentials for \"{key}\" in {place}");
            Error::not_permitted(action, reason).hint(format!("run: docker login {host}"))
        };
        let credential = entry.credential().map_err(wrong)?;
        Ok(credential.map(|credential| FoundCredential { credential, from: place.into() }))
    }

    fn mentions(&self, host: &str) -> bool {
        let logged_in = self.auths.iter().flatten().any(|(key, _)| same_host(split_key(key).0, host));
        logged_in || self.helpers.iter().flatten().any(|(key, _)| same_host(key, host))
    }

    /// Returns the entry with the longest key that is a prefix of `host/repository`. Empty entries are skipped: Docker
    /// leaves them for hosts whose secrets are in a helper.
    fn entry(&self, host: &str, repository: &str) -> Option<(&str, &AuthEntry)> {
        let mut best: Option<(usize, &str, &AuthEntry)> = None;
        for (key, entry) in self.auths.iter().flatten() {
            let (key_host, path) = split_key(key);
            let fits = same_host(key_host, host)
                && (path.is_empty()
                    || repository
                        .strip_prefix(path)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
            if fits && !entry.is_empty() && best.is_none_or(|(length, ..)| path.len() > length) {
                best = Some((path.len(), key, entry));
            }
        }
        best.map(|(_, key, entry)| (key, entry))
    }
}

fn ask_once(helper: &str, server: &str, answers: &HelperCache) -> Result<Option<Credential>, Error> {
    let key = (helper.to_string(), server.to_string());
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = answers.get(&key) {
        return Ok(known.clone());
    }
    let response = helper::get(helper, server, HELPER_TIMEOUT)?;
    answers.insert(key, response.clone());
    Ok(response)
}

impl AuthEntry {
    fn is_empty(&self) -> bool {
        let all = [&self.auth, &self.username, &self.password, &self.identitytoken, &self.registrytoken];
        all.into_iter().all(|field| field.as_deref().unwrap_or_default().is_empty())
    }

    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = text(&self.registrytoken) {
            return Ok(Some(Credential::Registry(Secret::new(token))));
        }
        let (user, password) = match text(&self.auth) {
            Some(auth) => decode(&auth)?,
            None => (text(&self.username).unwrap_or_default(), text(&self.password).unwrap_or_default()),
        };
        if let Some(token) = text(&self.identitytoken) {
            return Ok(Some(Credential::Identity { user, token: Secret::new(token) }));
        }
        if user.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Password { user, password: Secret::new(password) }))
    }
}

/// Decodes `base64(user:password)`. Like Docker, it trims NULs at the end, which old versions wrote.
fn decode(auth: &str) -> Result<(String, String), &'static str> {
    let auth = auth.trim();
    let bytes = STANDARD
        .decode(auth)
        .or_else(|_| STANDARD_NO_PAD.decode(auth))
        .map_err(|_| "it is not valid base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not valid UTF-8")?;
    let (user, password) = text.split_once(':').ok_or("it has no ':' between user and password")?;
    Ok((user.to_string(), password.trim_end_matches('\0').to_string()))
}

/// Splits a key into host and namespace: `quay.io/ns`, `https://index.docker.io/v1/`, `https://host:5000`.
fn split_key(key: &str) -> (&str, &str) {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let path = path.trim_end_matches('/');
    // The API version that old versions of Docker appended to the host is not a namespace.
    (host, if matches!(path, "v1" | "v2") { "" } else { path })
}

fn same_host(key: &str, host: &str) -> bool {
    let canonical = |host: &str| match split_key(host).0.to_ascii_lowercase() {
        hub if matches!(hub.as_str(), "index.docker.io" | "registry-1.docker.io") => "docker.io".to_string(),
        other => other,
    };
    canonical(key) == canonical(host)
}

fn no_such(file: &Path) -> Error {
    Error::not_permitted(format!("read credentials from {}", file.display()), "no such file")
}

/// Returns `None` if the file does not exist.
fn read_file(file: &Path, reporting: &Reporting) -> Result<Option<AuthFile>, Error> {
    let action = || format!("read credentials from {}", file.display());
    let failed = |e: std::io::Error| Error::not_permitted(action(), io_reason(&e));
    let meta = match std::fs::metadata(file) {
        Ok(meta) => meta,
        // ENOTDIR: a parent is a file, so the file cannot exist.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    if !meta.is_file() {
        return Err(Error::not_permitted(action(), "it is not a regular file"));
    }
    if meta.len() > FILE_MAX {
        return Err(Error::not_permitted(action(), format!("it is larger than {FILE_MAX} bytes")));
    }
    let bytes = std::fs::read(file).map_err(failed)?;
    let found = parse(&bytes, &file.display().to_string())?;
    let holds_secrets = found.auths.iter().flatten().any(|(_, entry)| !entry.is_empty());
    if holds_secrets && meta.permissions().mode() & 0o006 != 0 {
        let mode = meta.permissions().mode() & 0o777;
        (reporting.warn)(&format!(
            "all users of this host can access the credentials in {file} (mode {mode:04o}); run: chmod 600 {file}",
            file = file.display()
        ));
    }
    Ok(Some(found))
}

/// The error has the position only: messages of the JSON parser quote the text, which may be a secret.
fn parse(bytes: &[u8], place: &str) -> Result<AuthFile, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(AuthFile::default());
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let reason = format!("line {}, column {}: invalid JSON", e.line(), e.column());
        Error::not_permitted(format!("read credentials from {place}"), reason)
    })
}

#[cfg(test)]
mod tests;
