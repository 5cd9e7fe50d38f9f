//! The spec of a release, release.yaml: images to build, their platforms, and where they are published.
//!
//! It is read strictly: all problems are reported at once, each with its line and a correction. The result contains no
//! text that is still to be parsed.

use error::Error;
use image_model::platform::Platform;
use image_model::reference::Reference;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use strict_yaml::Problem;

mod dockerfile;
mod platform;
mod read;
mod reader;

/// Limit on the size of a spec in bytes. A real one has some kilobytes.
const SPEC_MAX: u64 = 1 << 20;

/// A release.yaml.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The directory of the spec. Paths of the spec are joined to it already.
    pub dir: PathBuf,
    /// A repository of a registry, or an OCI layout. It has no tag or digest.
    pub image: Reference,
    /// At least one.
    pub tags: Vec<String>,
    pub on_mismatch: OnMismatch,
    /// The command of the smoke test; empty for none.
    pub smoke: Vec<String>,
    /// Annotations of the index.
    pub annotations: BTreeMap<String, String>,
    /// Commands to run in `dir` before the builds.
    pub prepare: Vec<Vec<String>>,
    /// At least one, and no two for the same platform.
    pub platforms: Vec<PlatformSpec>,
}

/// One image of the release.
#[derive(Clone, Debug)]
pub struct PlatformSpec {
    pub platform: Platform,
    /// An additional tag for this image.
    pub tag: Option<String>,
    pub builder: BuilderChoice,
    pub recipe: Recipe,
}

/// The inputs of an image. Engines build a Dockerfile, the embedded builder files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    Dockerfile(DockerfileRecipe),
    Files(FilesRecipe),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerfileRecipe {
    pub dockerfile: PathBuf,
    pub context: PathBuf,
    pub target: Option<String>,
    pub build_args: BuildArgs,
    pub secrets: Vec<Secret>,
    /// Named directories and images, in the form of `--build-context`.
    pub build_contexts: BTreeMap<String, String>,
    /// In the form of `--cache-from` and `--cache-to`.
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    /// Other platforms of the spec have the same Dockerfile.
    pub is_shared: bool,
}

/// A secret for `RUN --mount=type=secret,id=ID`. It contains the source of the value, never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub id: String,
    pub source: SecretSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    File(PathBuf),
    Variable(String),
}

impl DockerfileRecipe {
    /// A Dockerfile and its context, without options.
    pub fn new(dockerfile: PathBuf, context: PathBuf) -> Self {
        Self {
            dockerfile,
            context,
            target: None,
            build_args: BuildArgs::default(),
            secrets: Vec::new(),
            build_contexts: BTreeMap::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            is_shared: false,
        }
    }
}

/// Files in one layer, on a base image or without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesRecipe {
    pub from: Option<Reference>,
    /// Source on this host, and the absolute path in the image. A path that ends in `/` is a directory to copy into.
    pub copy: Vec<(PathBuf, String)>,
    pub run: RunConfig,
}

/// The configuration of containers. `None` inherits the value of the base image; an empty list removes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunConfig {
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub expose: Vec<Port>,
}

/// Build arguments. `None` takes the value from the environment, as `docker build --build-arg NAME` does. Values are not
/// printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BuildArgs(pub BTreeMap<String, Option<String>>);

impl fmt::Debug for BuildArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// A port and its protocol. The form is that of the image-spec: `8080/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub number: u16,
    pub protocol: &'static str,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuilderChoice {
    /// The embedded builder for files; otherwise the first engine that works.
    Auto,
    /// The current engine of docker, or that of a context.
    Docker(Option<String>),
    /// The current builder of buildx, or one by name.
    Buildx(Option<String>),
    Podman,
    Buildah,
    Rootfs,
}

impl BuilderChoice {
    pub const NAMES: [&str; 6] = ["auto", "docker", "buildx", "podman", "buildah", "rootfs"];

    /// Parses `docker:arm-node`. `None` for an unknown builder.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, name) = match text.split_once(':') {
            Some((word, name)) => (word, Some(name.to_string())),
            None => (text, None),
        };
        // It becomes an argument of a command.
        let is_name = |name: &String| {
            let mut bytes = name.bytes();
            bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
                && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b))
        };
        if !name.as_ref().is_none_or(is_name) {
            return None;
        }
        match (word, name) {
            ("docker", name) => Some(Self::Docker(name)),
            ("buildx", name) => Some(Self::Buildx(name)),
            ("auto", None) => Some(Self::Auto),
            ("podman", None) => Some(Self::Podman),
            ("buildah", None) => Some(Self::Buildah),
            ("rootfs", None) => Some(Self::Rootfs),
            _ => None,
        }
    }
}

impl fmt::Display for BuilderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Docker(None) => f.write_str("docker"),
            Self::Docker(Some(context)) => write!(f, "docker:{context}"),
            Self::Buildx(None) => f.write_str("buildx"),
            Self::Buildx(Some(builder)) => write!(f, "buildx:{builder}"),
            Self::Podman => f.write_str("podman"),
            Self::Buildah => f.write_str("buildah"),
            Self::Rootfs => f.write_str("rootfs"),
        }
    }
}

/// Handling of a config that declares another platform than its key in the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMismatch {
    /// Write the platform of the key.
    Fix,
    /// Stop the release.
    Fail,
}

impl OnMismatch {
    /// The word in a spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fix => "fix",
            Self::Fail => "fail",
        }
    }
}

impl Spec {
    /// Reads a spec from a file.
    ///
    /// # Errors
    /// `BadInput` with a line `FILE:LINE: PROBLEM` for each problem.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let doing = || format!("read \"{}\"", file.display());
        let meta = std::fs::metadata(file).map_err(|e| Error::from_io(doing(), e))?;
        if !meta.is_file() {
            return Err(Error::bad_input(doing(), "it is not a regular file")
                .hint("name a release.yaml, not its directory"));
        }
        if meta.len() > SPEC_MAX {
            return Err(Error::bad_input(doing(), format!("it is larger than {SPEC_MAX} bytes")));
        }
        let bytes = std::fs::read(file).map_err(|e| Error::from_io(doing(), e))?;
        let text = String::from_utf8(bytes).map_err(|_| Error::bad_input(doing(), "it is not UTF-8 text"))?;
        Self::parse(&text, file).map_err(|problems| {
            let why = match problems.len() {
                1 => "it has 1 error".to_string(),
                count => format!("it has {count} errors"),
            };
            let lines = problems.iter().map(|problem| format!("{}:{problem}", file.display())).collect();
            Error::bad_input(doing(), why).problems(lines)
        })
    }

    /// Reads a spec from its text. Paths are relative to the directory of `file`. `Err` contains all problems.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Vec<Problem>> {
        // The parent of "release.yaml" is "", which is not valid as a working directory.
        let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        read::spec(text, dir)
    }
}

#[cfg(test)]
mod tests;
