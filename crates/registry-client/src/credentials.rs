//! Whose name we give at which registry: the files of docker and podman, read as those two read them.

pub mod credential;
pub mod helper;
pub mod secret;

use crate::credentials::credential::{Credential, FoundCredential};
use crate::credentials::secret::Secret;
use crate::options::{Login, RegistryOptions, Reporting};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use error::Error;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Largest file of credentials that is read.
const FILE_MAX: u64 = 4 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// The key under which docker keeps Docker Hub's credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Where credentials are looked for, in this order.
pub struct CredentialSources {
    login: Option<Login>,
    /// The content of DOCKER_AUTH_CONFIG.
    inline: Option<String>,
    /// The files that may be absent.
    usual: Vec<PathBuf>,
    /// The one file that must be there, and is the only one.
    named: Option<PathBuf>,
    reporting: Reporting,
    /// Each file is read once, and each helper asked once.
    read: Mutex<HashMap<PathBuf, Option<Arc<AuthFile>>>>,
    answers: HelperCache,
}

/// What helpers said: by helper and server.
type HelperCache = Mutex<HashMap<(String, String), Option<Credential>>>;

impl CredentialSources {
    pub fn new(options: &RegistryOptions, env: impl Fn(&str) -> Option<OsString>) -> Self {
        let var = |name: &str| env(name).filter(|value| !value.is_empty());
        let path = |name: &str| var(name).map(PathBuf::from);
        let mut usual = Vec::new();
        let docker = path("DOCKER_CONFIG").or_else(|| path("HOME").map(|home| home.join(".docker")));
        usual.extend(docker.map(|dir| dir.join("config.json")));
        usual.extend(path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")));
        usual.push(format!("/run/containers/{}/auth.json", nix::unistd::getuid()).into());
        let config = path("XDG_CONFIG_HOME").or_else(|| path("HOME").map(|home| home.join(".config")));
        usual.extend(config.map(|dir| dir.join("containers/auth.json")));
        Self {
            login: options.login.clone(),
            inline: var("DOCKER_AUTH_CONFIG").map(|text| text.to_string_lossy().into_owned()),
            usual,
            named: options.auth_file.clone().or_else(|| path("REGISTRY_AUTH_FILE")),
            reporting: options.reporting.clone(),
            read: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// A file that somebody named must be readable even where it turns out that no credentials are needed.
    pub fn check(&self) -> Result<(), Error> {
        match &self.named {
            Some(file) => self.file(file)?.map(drop).ok_or_else(|| no_such(file)),
            None => Ok(()),
        }
    }

    /// What to show `host` (as in an image reference) for this repository.
    pub fn find(&self, host: &str, repository: &str) -> Result<FoundCredential, Error> {
        if let Some(login) = self.login.as_ref().filter(|login| same_host(&login.host, host)) {
            let (user, password) = (login.user.clone(), login.password.clone());
            let from = "the command line".to_string();
            return Ok(FoundCredential { credential: Credential::Password { user, password }, from });
        }
        let find = |found: &AuthFile, place: String| found.find(host, repository, &place, &self.answers);
        if let Some(file) = &self.named {
            let found = self.file(file)?.ok_or_else(|| no_such(file))?;
            return Ok(find(&found, file.display().to_string())?.unwrap_or_else(FoundCredential::nothing));
        }
        if let Some(text) = &self.inline {
            let place = "DOCKER_AUTH_CONFIG";
            if let Some(found) = find(&parse(text.as_bytes(), place)?, place.into())? {
                return Ok(found);
            }
        }
        for file in &self.usual {
            let Some(found) = self.file(file)? else { continue };
            if let Some(found) = find(&found, file.display().to_string())? {
                return Ok(found);
            }
        }
        Ok(FoundCredential::nothing())
    }

    /// Has somebody logged in there, as far as can be told without asking a helper, or anybody? docker leaves an entry
    /// for each host whose secret a helper keeps.
    pub fn mention(&self, host: &str) -> bool {
        if self.login.as_ref().is_some_and(|login| same_host(&login.host, host)) {
            return true;
        }
        let read = |file: &PathBuf| std::fs::read(file).ok().filter(|text| text.len() as u64 <= FILE_MAX);
        let texts: Vec<Vec<u8>> = match &self.named {
            Some(file) => read(file).into_iter().collect(),
            None => {
                let inline = self.inline.iter().map(|text| text.clone().into_bytes());
                inline.chain(self.usual.iter().filter_map(read)).collect()
            }
        };
        // What is wrong with a file is told when credentials are needed.
        texts.iter().any(|text| parse(text, "").is_ok_and(|found| found.mentions(host)))
    }

    /// `None` if the file is not there.
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

/// Docker's config.json and podman's auth.json, as far as they tell credentials.
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
    /// Docker's order: the host's helper, the store for all, then what stands in the file itself.
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
        let wrong = |why: &str| {
            let doing = format!("read the credentials for \"{key}\" in {place}");
            Error::not_permitted(doing, why).hint(format!("run: docker login {host}"))
        };
        let credential = entry.credential().map_err(wrong)?;
        Ok(credential.map(|credential| FoundCredential { credential, from: place.into() }))
    }

    fn mentions(&self, host: &str) -> bool {
        let logged_in = self.auths.iter().flatten().any(|(key, _)| same_host(split_key(key).0, host));
        logged_in || self.helpers.iter().flatten().any(|(key, _)| same_host(key, host))
    }

    /// The entry for the longest part of `host/repository` that has one. Entries that say nothing do not count:
    /// docker leaves them behind for hosts whose secrets a helper keeps.
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
    let answer = helper::ask(helper, server, HELPER_TIMEOUT)?;
    answers.insert(key, answer.clone());
    Ok(answer)
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

/// `base64(user:password)`. Docker trims NULs that old versions left behind.
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

/// Host and namespace of a key: `quay.io/ns`, `https://index.docker.io/v1/`, `https://host:5000`.
fn split_key(key: &str) -> (&str, &str) {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let path = path.trim_end_matches('/');
    // The API's version, which old docker wrote behind the host, is no namespace.
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

/// `None` if the file is not there.
fn read_file(file: &Path, reporting: &Reporting) -> Result<Option<AuthFile>, Error> {
    let doing = || format!("read credentials from {}", file.display());
    let failed = |e: std::io::Error| Error::not_permitted(doing(), e.to_string());
    let meta = match std::fs::metadata(file) {
        Ok(meta) => meta,
        // ENOTDIR: a part of the way is a file, so there is nothing at its end.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    if !meta.is_file() {
        return Err(Error::not_permitted(doing(), "it is not a regular file"));
    }
    if meta.len() > FILE_MAX {
        return Err(Error::not_permitted(doing(), format!("it is larger than {FILE_MAX} bytes")));
    }
    let bytes = std::fs::read(file).map_err(failed)?;
    let found = parse(&bytes, &file.display().to_string())?;
    let holds_secrets = found.auths.iter().flatten().any(|(_, entry)| !entry.is_empty());
    if holds_secrets && meta.permissions().mode() & 0o006 != 0 {
        let mode = meta.permissions().mode() & 0o777;
        (reporting.warn)(&format!(
            "all users of this machine can access the credentials in {file} (mode {mode:04o}); run: chmod 600 {file}",
            file = file.display()
        ));
    }
    Ok(Some(found))
}

/// Errors of the JSON parser quote what they stumbled over, so only their place is told.
fn parse(bytes: &[u8], place: &str) -> Result<AuthFile, Error> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(AuthFile::default());
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let why = format!("line {}, column {}: invalid JSON", e.line(), e.column());
        Error::not_permitted(format!("read credentials from {place}"), why)
    })
}

#[cfg(test)]
mod tests;
