//! Image references: a store, and an image in it.
//!
//! `HOST/REPO[:TAG][@DIGEST]`, `docker://...`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`,
//! `docker-archive:FILE[:NAME]`, `docker-daemon:NAME[:TAG]` and `-`.

use crate::digest::Digest;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A reference to an image in any store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `HOST/REPO[:TAG][@DIGEST]`
    Registry(RegistryRef),
    /// `oci:DIR[:TAG][@DIGEST]`
    OciLayout {
        /// The directory.
        dir: PathBuf,
        /// The tag, if given.
        tag: Option<String>,
        /// The digest, if given.
        digest: Option<Digest>,
    },
    /// `oci-archive:FILE[:TAG][@DIGEST]`
    OciArchive {
        /// The file.
        file: PathBuf,
        /// The tag, if given.
        tag: Option<String>,
        /// The digest, if given.
        digest: Option<Digest>,
    },
    /// `docker-archive:FILE[:NAME]`
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// The name, if given.
        name: Option<String>,
    },
    /// `docker-daemon:NAME[:TAG]`
    DockerDaemon {
        /// `name:tag`
        name: String,
    },
    /// `-`
    Stdin,
}

/// An image, or a repository, in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    /// `docker.io`, `127.0.0.1:5000`, `[::1]:5000`.
    pub host: String,
    /// `library/alpine`.
    pub repository: String,
    /// The tag, if given.
    pub tag: Option<String>,
    /// The digest, if given.
    pub digest: Option<Digest>,
}

/// Why a text is not an image reference. The first text of every kind is the reference.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing, or a prefix only.
    #[error("image \"{0}\" is empty, or only a prefix")]
    Empty(String),
    /// Invalid repository.
    #[error(
        "image \"{0}\": \"{1}\" is not a repository name: lowercase letters and digits, joined by '.', '_', '__' or '-', parts by '/'"
    )]
    Repository(String, String),
    /// Invalid host.
    #[error("image \"{0}\": \"{1}\" is not a host name with an optional port")]
    Host(String, String),
    /// Invalid tag.
    #[error(
        "image \"{0}\": \"{1}\" is not a tag: at most 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'"
    )]
    Tag(String, String),
    /// A URL, with its scheme.
    #[error("image \"{0}\" is a URL; remove \"{1}\"")]
    Url(String, &'static str),
    /// A path without the prefix of a store.
    #[error(
        "image \"{0}\" is a path; did you mean oci:{0} (a directory), docker-archive:{0} or oci-archive:{0} (a file)?"
    )]
    Path(String),
    /// Invalid digest.
    #[error("image \"{0}\": {1}")]
    Digest(String, crate::digest::DigestError),
}

/// Distribution's limit for host and repository together.
const NAME_MAX: usize = 255;

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text == "-" {
            return Ok(Self::Stdin);
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return Ok(Self::Registry(text.parse()?));
        };
        let path_and_name = |rest| {
            let (path, name) = split_path(rest);
            if path.is_empty() {
                Err(ReferenceError::Empty(text.into()))
            } else {
                Ok((PathBuf::from(path), name))
            }
        };
        let in_layout = || {
            let (rest, digest) = split_digest(text, rest)?;
            let (path, tag) = path_and_name(rest)?;
            if let Some(tag) = tag.as_deref().filter(|tag| !is_layout_tag(tag)) {
                return Err(ReferenceError::Tag(text.into(), tag.into()));
            }
            Ok((path, tag, digest))
        };
        match scheme {
            "oci" => in_layout().map(|(dir, tag, digest)| Self::OciLayout { dir, tag, digest }),
            "oci-archive" => in_layout().map(|(file, tag, digest)| Self::OciArchive { file, tag, digest }),
            "docker-archive" => {
                let (file, name) = path_and_name(rest)?;
                let name = name.map(|name| docker_name(&name)).transpose()?;
                Ok(Self::DockerArchive { file, name })
            }
            "docker-daemon" if rest.is_empty() => Err(ReferenceError::Empty(text.into())),
            "docker-daemon" => Ok(Self::DockerDaemon { name: docker_name(rest)? }),
            "docker" if rest.starts_with("//") => Ok(Self::Registry(rest[2..].parse()?)),
            _ => Ok(Self::Registry(text.parse()?)),
        }
    }
}

impl Reference {
    /// Returns the tag of the reference; of an archive of `docker save`, the name. A Docker Engine has names alone.
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Registry(RegistryRef { tag, .. })
            | Self::OciLayout { tag, .. }
            | Self::OciArchive { tag, .. }
            | Self::DockerArchive { name: tag, .. } => tag.as_deref(),
            Self::DockerDaemon { .. } | Self::Stdin => None,
        }
    }

    /// Returns the digest of the reference.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Registry(RegistryRef { digest, .. })
            | Self::OciLayout { digest, .. }
            | Self::OciArchive { digest, .. } => digest.as_ref(),
            Self::DockerArchive { .. } | Self::DockerDaemon { .. } | Self::Stdin => None,
        }
    }

    /// Returns the reference without its digest.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        if let Self::Registry(RegistryRef { digest, .. })
        | Self::OciLayout { digest, .. }
        | Self::OciArchive { digest, .. } = &mut self
        {
            *digest = None;
        }
        self
    }

    /// Checks that the tag is valid in the store of this reference.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`]; for Docker's archives and engine, the error of parsing the tag as a name.
    pub fn check_tag(&self, tag: &str) -> Result<(), ReferenceError> {
        let fits = match self {
            Self::Registry(_) => is_tag(tag),
            Self::OciLayout { .. } | Self::OciArchive { .. } => is_layout_tag(tag),
            Self::DockerArchive { .. } | Self::DockerDaemon { .. } => return docker_name(tag).map(drop),
            Self::Stdin => true,
        };
        if fits { Ok(()) } else { Err(ReferenceError::Tag(self.to_string(), tag.into())) }
    }
}

/// Returns `name:tag` as `docker save` writes it into `RepoTags`: the short name, with a tag.
fn docker_name(text: &str) -> Result<String, ReferenceError> {
    let parsed: RegistryRef = text.parse()?;
    Ok(format!("{}:{}", parsed.familiar_name(), parsed.tag.as_deref().unwrap_or("latest")))
}

/// Splits `PATH[:NAME]` at the first colon, because names contain colons. Paths with a colon cannot be written.
fn split_path(text: &str) -> (&str, Option<String>) {
    match text.split_once(':') {
        Some((path, "")) => (path, None),
        Some((path, name)) => (path, Some(name.to_string())),
        None => (text, None),
    }
}

/// Splits `REST@DIGEST`. An `@` that no digest follows belongs to a path or tag.
fn split_digest<'a>(text: &str, rest: &'a str) -> Result<(&'a str, Option<Digest>), ReferenceError> {
    match rest.rsplit_once('@') {
        Some((rest, digest)) if digest.starts_with("sha256:") || digest.starts_with("sha512:") => {
            let digest = digest.parse().map_err(|e| ReferenceError::Digest(text.into(), e))?;
            Ok((rest, Some(digest)))
        }
        _ => Ok((rest, None)),
    }
}

/// OCI layouts allow more in `org.opencontainers.image.ref.name` than registries do in a tag (image-spec,
/// annotations.md): components of letters and digits joined by `-._:@/+` and such.
fn is_layout_tag(tag: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-._:@/+".contains(&b);
    !tag.is_empty()
        && tag.len() <= NAME_MAX
        && tag.bytes().all(inner)
        && tag.as_bytes()[0].is_ascii_alphanumeric()
}

impl FromStr for RegistryRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty(text.into()));
        }
        if text == "." || ["./", "../", "/"].iter().any(|start| text.starts_with(start)) {
            return Err(ReferenceError::Path(text.into()));
        }
        if let Some(scheme) = ["https://", "http://"].into_iter().find(|scheme| text.starts_with(scheme)) {
            return Err(ReferenceError::Url(text.into(), scheme));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|e| ReferenceError::Digest(text.into(), e))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // As in docker, a first part is a host if it has a dot or a colon, or is "localhost".
        let (host, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
            _ => (None, name),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(text.into(), tag.into()));
        }
        let host = match host {
            None | Some("index.docker.io" | "registry-1.docker.io") => "docker.io",
            Some(host) if is_host(host) => host,
            Some(host) => return Err(ReferenceError::Host(text.into(), host.into())),
        };
        let repository = match host == "docker.io" && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_string(),
        };
        if !is_repository(&repository) || host.len() + 1 + repository.len() > NAME_MAX {
            return Err(ReferenceError::Repository(text.into(), repository));
        }
        Ok(Self { host: host.into(), repository, tag: tag.map(str::to_string), digest })
    }
}

/// Returns whether it is a tag by distribution's grammar: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=128).contains(&bytes.len()) && bytes.iter().all(inner) && !matches!(bytes[0], b'.' | b'-')
}

/// Distribution's grammar: path components `[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*`, joined by `/`.
fn is_repository(name: &str) -> bool {
    let is_component = |part: &str| {
        let is_end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        let separators = part.split(|c: char| c.is_ascii_alphanumeric()).filter(|s| !s.is_empty());
        let joined_well =
            separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
        is_end(bytes.first()) && is_end(bytes.last()) && bytes.iter().all(inner) && joined_well
    };
    name.split('/').all(is_component)
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", port.strip_prefix(':').or(if port.is_empty() { None } else { Some("no port") }))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_port =
        |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

impl RegistryRef {
    /// Returns the name as docker prints it: without `docker.io/` and `library/`.
    pub fn familiar_name(&self) -> String {
        match (self.host.as_str(), self.repository.strip_prefix("library/")) {
            ("docker.io", Some(short)) => short.to_string(),
            ("docker.io", None) => self.repository.clone(),
            (host, _) => format!("{host}/{}", self.repository),
        }
    }

    /// Returns `HOST/REPOSITORY`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = |f: &mut fmt::Formatter<'_>, scheme: &str, path: &PathBuf| {
            write!(f, "{scheme}:{}", path.display())?;
            self.tag().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
            self.digest().map_or(Ok(()), |digest| write!(f, "@{digest}"))
        };
        match self {
            Self::Registry(image) => image.fmt(f),
            Self::OciLayout { dir, .. } => local(f, "oci", dir),
            Self::OciArchive { file, .. } => local(f, "oci-archive", file),
            Self::DockerArchive { file, .. } => local(f, "docker-archive", file),
            Self::DockerDaemon { name } => write!(f, "docker-daemon:{name}"),
            Self::Stdin => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_option_follows_the_rules_of_tags_in_references() {
        let check = |reference: &str, tag: &str, may: bool| {
            let reference: Reference = reference.parse().unwrap();
            assert_eq!(reference.check_tag(tag).is_ok(), may, "{reference} {tag}");
        };
        check("oci:lay", "a b/:c", false);
        check("oci:lay", "", false);
        check("oci:lay", "team/app:1", true);
        check("oci-archive:a.tar", "a b", false);
        check("q.io/app", "team/app:1", false);
        check("q.io/app", "v1.0-rc_1", true);
        check("docker-archive:a.tar", "app:2", true);
        check("docker-archive:a.tar", "app:a b", false);
    }

    fn shown(text: &str) -> String {
        match text.parse::<Reference>() {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("{error}"),
        }
    }

    #[test]
    fn names_are_parsed_as_by_docker() {
        let check = |text: &str, meant: &str| assert_eq!(shown(text), meant, "{text}");
        check("alpine", "docker.io/library/alpine");
        check("alpine:3", "docker.io/library/alpine:3");
        check("ckulka/multi-arch-example:latest", "docker.io/ckulka/multi-arch-example:latest");
        check("docker://quay.io/a/b/c:1", "quay.io/a/b/c:1");
        check("127.0.0.1:5000/app", "127.0.0.1:5000/app");
        check("localhost/app:x", "localhost/app:x");
        check("index.docker.io/library/alpine", "docker.io/library/alpine");
        check("[::1]:5000/app:1", "[::1]:5000/app:1");
        check("oci:dist/out", "oci:dist/out");
        check("oci:dist/out:1.0", "oci:dist/out:1.0");
        check("docker-archive:a.tar:app:1", "docker-archive:a.tar:app:1");
        check("docker-archive:a.tar:app", "docker-archive:a.tar:app:latest");
        check("docker-daemon:app:1", "docker-daemon:app:1");
        check("oci-archive:a.tar", "oci-archive:a.tar");
        check("-", "-");
        let digest = format!("sha256:{}", "a".repeat(64));
        check(&format!("a/b:1@{digest}"), &format!("docker.io/a/b:1@{digest}"));
        for local in ["oci:d", "oci:d:1", "oci:a@b:team/app:1@x", "oci-archive:a.tar", "oci-archive:a.tar:1"]
        {
            check(&format!("{local}@{digest}"), &format!("{local}@{digest}"));
            let parsed: Reference = format!("{local}@{digest}").parse().unwrap();
            assert_eq!(parsed.digest().map(Digest::to_string), Some(digest.clone()), "{local}");
            assert_eq!(parsed.without_digest(), local.parse().unwrap());
        }
    }

    #[test]
    fn invalid_references_are_rejected_with_the_reason() {
        let check = |text: &str, why: &str| {
            let message = shown(text);
            assert!(message.contains(why), "{text}: {message}");
        };
        check("", "empty");
        check("oci:", "empty");
        check("host:99999/x", "is not a host");
        check("Upper/Case", "is not a repository name");
        check("a/../b", "is not a repository name");
        check(&format!("a:{}", "t".repeat(129)), "is not a tag");
        check(&format!("q.io/{}", "a".repeat(256)), "is not a repository name");
        check("https://q.io/app:1", "remove \"https://\"");
        check("http://127.0.0.1:5000/app", "remove \"http://\"");
        check("user@host", "is not a digest");
        check("a@sha256:../../x", "is not a digest");
        check("oci:d@sha256:abc", "is not a digest");
        check(&format!("oci:@sha256:{}", "a".repeat(64)), "empty");
        check("ä.de/x", "is not a host");
        for path in ["./e", "../e", "/e", "./e:latest", "."] {
            check(path, &format!("did you mean oci:{path} (a directory)"));
            assert!(format!("oci:{path}").parse::<Reference>().is_ok(), "{path}");
        }
        check("a/b:-x", "is not a tag");
        check("a/b:x\n", "is not a tag");
    }

    #[test]
    fn docker_hub_short_names_are_shown_short() {
        let check =
            |text: &str, name: &str| assert_eq!(text.parse::<RegistryRef>().unwrap().familiar_name(), name);
        check("docker.io/library/alpine:3", "alpine");
        check("ckulka/x", "ckulka/x");
        check("127.0.0.1:5000/x", "127.0.0.1:5000/x");
    }
}
