//! Forms of an index or image that some readers cannot pull, whatever its binaries are: a pure decision over manifests.

use image_model::digest::Digest;
use image_model::manifest::{Descriptor, media_type};
use image_model::platform::Platform;
use image_store::tree::{IndexNode, TreeNode};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// A program that pulls images, in one version. Each was run against each [`Form`]; a test repeats that with those that
/// are installed.
#[derive(Debug, PartialEq, Eq)]
pub struct Reader {
    /// For `--readers` and JSON.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
}

/// All readers. `-containerd` is the Docker Engine with containerd's image store, the default since Docker 29.
pub const READERS: [Reader; 10] = [
    Reader { name: "skopeo-1.9", title: "skopeo 1.9" },
    Reader { name: "podman-4.3", title: "Podman 4.3" },
    Reader { name: "buildah-1.28", title: "Buildah 1.28" },
    Reader { name: "docker-20.10", title: "Docker 20.10" },
    Reader { name: "docker-26.1-containerd", title: "Docker 26.1 with containerd's store" },
    Reader { name: "docker-28.5", title: "Docker 28.5" },
    Reader { name: "docker-28.5-containerd", title: "Docker 28.5 with containerd's store" },
    Reader { name: "containerd-1.6", title: "containerd 1.6" },
    Reader { name: "containerd-1.7", title: "containerd 1.7" },
    Reader { name: "containerd-2.1", title: "containerd 2.1" },
];

/// The readers that use the Go library containers/image.
const CONTAINERS_IMAGE: &[&str] = &["skopeo-1.9", "podman-4.3", "buildah-1.28"];
const CONTAINERS_IMAGE_AND_OLD_DOCKER: &[&str] =
    &["skopeo-1.9", "podman-4.3", "buildah-1.28", "docker-20.10"];

/// A form that some readers cannot pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// An index lists another index.
    NestedIndex,
    /// An entry of an OCI index without a platform.
    NoPlatform,
    /// An entry of a Docker manifest list without a platform.
    NoPlatformInDockerList,
    /// The platform of an entry has neither operating system nor architecture.
    EmptyPlatform,
    /// The platform of an entry has no operating system.
    NoOs,
    /// The platform of an entry has no architecture.
    NoArchitecture,
    /// Entries for one platform with different digests: all readers take the same one of them, whatever the others are.
    DuplicatePlatform,
    /// An alias of an operating system: `Linux`.
    OsAlias,
    /// An alias of an architecture: `aarch64`, `AMD64`.
    ArchitectureAlias,
    /// An alias of a variant: `8`.
    VariantAlias,
    /// A variant with the name of its architecture: `armv8`.
    LongVariant,
    /// Layers compressed with zstd.
    ZstdLayers,
    /// Layers compressed with zstd under a media type of Docker, which no specification has.
    DockerZstdLayers,
    /// OCI manifests in a Docker manifest list.
    OciInDockerList,
}

impl Form {
    /// For JSON and SARIF.
    pub fn key(self) -> &'static str {
        match self {
            Self::NestedIndex => "nested-index",
            Self::NoPlatform | Self::NoPlatformInDockerList => "no-platform",
            Self::EmptyPlatform | Self::NoOs | Self::NoArchitecture => "incomplete-platform",
            Self::DuplicatePlatform => "duplicate-platform",
            Self::OsAlias | Self::ArchitectureAlias | Self::VariantAlias | Self::LongVariant => {
                "platform-alias"
            }
            Self::ZstdLayers | Self::DockerZstdLayers => "zstd-layers",
            Self::OciInDockerList => "oci-in-docker-list",
        }
    }

    /// The forms of an entry whose platform is absent or incomplete.
    pub const WITHOUT_PLATFORM: [Self; 5] = [
        Self::NoPlatform,
        Self::NoPlatformInDockerList,
        Self::EmptyPlatform,
        Self::NoOs,
        Self::NoArchitecture,
    ];

    /// Returns whether it is an entry with a platform alias.
    pub fn is_alias(self) -> bool {
        matches!(self, Self::OsAlias | Self::ArchitectureAlias | Self::VariantAlias | Self::LongVariant)
    }

    /// Returns whether an index may have this form: it is a note, not a problem.
    pub fn is_note(self) -> bool {
        matches!(self, Self::ZstdLayers | Self::DockerZstdLayers | Self::OciInDockerList)
    }

    /// Names of the readers that cannot pull such a member, as measured.
    pub fn failing(self) -> &'static [&'static str] {
        match self {
            Self::NestedIndex | Self::NoPlatformInDockerList | Self::OsAlias => {
                CONTAINERS_IMAGE_AND_OLD_DOCKER
            }
            Self::NoPlatform | Self::ZstdLayers => &["docker-20.10"],
            Self::EmptyPlatform => &[
                "skopeo-1.9",
                "podman-4.3",
                "buildah-1.28",
                "docker-20.10",
                "docker-26.1-containerd",
                "docker-28.5-containerd",
                "containerd-1.6",
                "containerd-1.7",
                "containerd-2.1",
            ],
            Self::NoOs | Self::ArchitectureAlias | Self::VariantAlias => CONTAINERS_IMAGE,
            Self::NoArchitecture | Self::LongVariant => &[
                "skopeo-1.9",
                "podman-4.3",
                "buildah-1.28",
                "docker-20.10",
                "docker-26.1-containerd",
                "docker-28.5",
                "docker-28.5-containerd",
                "containerd-1.6",
                "containerd-1.7",
                "containerd-2.1",
            ],
            Self::DockerZstdLayers => &[
                "skopeo-1.9",
                "podman-4.3",
                "buildah-1.28",
                "docker-20.10",
                "docker-26.1-containerd",
                "containerd-1.6",
                "containerd-1.7",
            ],
            Self::DuplicatePlatform | Self::OciInDockerList => &[],
        }
    }

    /// Returns the readers that cannot pull such a member.
    pub fn readers(self) -> impl Iterator<Item = &'static Reader> {
        READERS.iter().filter(move |reader| self.failing().contains(&reader.name))
    }

    /// What is wrong, before the list of members.
    fn words(self) -> &'static str {
        match self {
            Self::NestedIndex => "nested index",
            Self::NoPlatform | Self::NoPlatformInDockerList => "entry without a platform",
            Self::EmptyPlatform => "entry with an empty platform",
            Self::NoOs => "entry without an operating system",
            Self::NoArchitecture => "entry without an architecture",
            Self::DuplicatePlatform => "several entries for one platform",
            Self::OsAlias | Self::ArchitectureAlias | Self::VariantAlias | Self::LongVariant => {
                "entry with a platform alias"
            }
            Self::ZstdLayers => "layers compressed with zstd",
            Self::DockerZstdLayers => "layers compressed with zstd under a media type of Docker",
            Self::OciInDockerList => "OCI manifests in a Docker manifest list",
        }
    }
}

/// Readers that a user names: one version (`docker-20.10`) or all versions of a program (`docker`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderSelector(&'static str);

impl ReaderSelector {
    /// Returns whether this is one of the selected readers.
    pub fn selects(self, reader: &Reader) -> bool {
        reader.name.strip_prefix(self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

impl FromStr for ReaderSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_prefix = |name: &&'static str| {
            name.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let found = READERS.iter().map(|reader| reader.name).find(is_prefix).filter(|_| !text.is_empty());
        found.and_then(|name| name.get(..text.len())).map(Self).ok_or_else(|| {
            let names: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
            format!(
                "unknown reader; use skopeo, podman, buildah, docker, containerd, or a version: {}",
                names.join(", ")
            )
        })
    }
}

/// A member that a [`CompatibilityFinding`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormMember {
    pub digest: Digest,
    /// The platform of its entry as it is written; `None` for an entry without one, and for a single image.
    pub platform: Option<Platform>,
}

impl fmt::Display for FormMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.platform {
            Some(platform) if !platform.os.is_empty() && !platform.architecture.is_empty() => platform.fmt(f),
            Some(_) | None => self.digest.fmt(f),
        }
    }
}

/// A form of an index or image, with the members that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompatibilityFinding {
    pub form: Form,
    pub members: Vec<FormMember>,
}

impl CompatibilityFinding {
    /// Returns whether it counts as a problem: any that is not a note, and notes about one of these readers.
    pub fn is_wrong(&self, readers: &[ReaderSelector]) -> bool {
        let is_selected = |reader: &Reader| readers.iter().any(|selector| selector.selects(reader));
        !self.form.is_note() || self.form.readers().any(is_selected)
    }
}

impl fmt::Display for CompatibilityFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<String> = Vec::new();
        for member in &self.members {
            let name = self.name(member);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        write!(f, "{} ({}): ", self.form.words(), names.join(", "))?;
        let readers: Vec<&str> = self.form.readers().map(|reader| reader.title).collect();
        match (self.form, readers.as_slice()) {
            (Form::DuplicatePlatform, _) => {
                let platform = self.members.first().map_or(String::new(), ToString::to_string);
                write!(f, "readers take one of them for {platform}, most the first, and never the others")
            }
            (_, []) => f.write_str("all readers that were measured can pull it"),
            (_, [only]) => write!(f, "{only} cannot pull it"),
            (_, [first @ .., last]) => write!(f, "{} and {last} cannot pull it", first.join(", ")),
        }
    }
}

impl CompatibilityFinding {
    /// The name of a member: its platform, or its digest where the platform does not identify it.
    fn name(&self, member: &FormMember) -> String {
        match (self.form, &member.platform) {
            (Form::DuplicatePlatform, _) => member.digest.to_string(),
            (form, Some(written)) if form.is_alias() => {
                format!("{written} instead of {}", written.canonical())
            }
            _ => member.to_string(),
        }
    }
}

/// Returns the forms of this index or image that some readers cannot pull, problems before notes. Attestations are not
/// pulled, so they do not count.
pub fn compatibility(node: &TreeNode) -> Vec<CompatibilityFinding> {
    let mut findings: Vec<CompatibilityFinding> = Vec::new();
    let mut add = |form: Form, member: FormMember| match findings.iter_mut().find(|one| one.form == form) {
        Some(finding) => finding.members.push(member),
        None => findings.push(CompatibilityFinding { form, members: vec![member] }),
    };
    let duplicates = match node {
        TreeNode::Index(index) => {
            add_entries(index, &mut add);
            duplicates(index)
        }
        TreeNode::Image(_) => {
            let form = layer_form(node);
            let member = FormMember { digest: node.digest().clone(), platform: None };
            form.into_iter().for_each(|form| add(form, member.clone()));
            Vec::new()
        }
        TreeNode::Unread(_) => Vec::new(),
    };
    findings.extend(duplicates);
    findings.sort_by_key(|finding| finding.form);
    findings
}

/// Returns whether engines can choose this entry for a container: it is neither an attestation nor unknown.
pub fn is_pulled(entry: &Descriptor) -> bool {
    entry.attested_digest().is_none() && !entry.platform.as_ref().is_some_and(Platform::is_unknown)
}

/// Returns whether no container can be made of this member: an artifact, or an attestation without its annotations.
fn is_artifact(entry: &Descriptor, node: &TreeNode) -> bool {
    let TreeNode::Image(image) = node else { return entry.artifact_type.is_some() };
    let config = &image.manifest.config.media_type;
    let is_image = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&config.as_str());
    let is_unknown = image.config.as_ref().is_some_and(|config| config.parsed.platform.is_unknown());
    !is_image || is_unknown || image.manifest.artifact_type.is_some()
}

/// The forms of each entry, at any depth.
fn add_entries(index: &IndexNode, add: &mut dyn FnMut(Form, FormMember)) {
    let is_docker_list = index.document.media_type() == media_type::DOCKER_LIST;
    let written = index.document.written_platforms();
    for (at, (entry, node)) in index.index.manifests.iter().zip(&index.members).enumerate() {
        if !is_pulled(entry) || is_artifact(entry, node) {
            continue;
        }
        let platform = written.get(at).cloned().flatten();
        let member = FormMember { digest: entry.digest.clone(), platform };
        let is_index = matches!(node, TreeNode::Index(_)) || media_type::is_index(&entry.media_type);
        if is_index {
            add(Form::NestedIndex, member);
            if let TreeNode::Index(inner) = node {
                add_entries(inner, add);
            }
            continue;
        }
        if let Some(form) = platform_form(member.platform.as_ref(), is_docker_list) {
            add(form, member.clone());
        }
        if is_docker_list && entry.media_type == media_type::OCI_MANIFEST {
            add(Form::OciInDockerList, member.clone());
        }
        if let Some(form) = layer_form(node) {
            add(form, member);
        }
    }
}

fn platform_form(written: Option<&Platform>, is_docker_list: bool) -> Option<Form> {
    let Some(written) = written else {
        return Some(if is_docker_list { Form::NoPlatformInDockerList } else { Form::NoPlatform });
    };
    match (written.os.is_empty(), written.architecture.is_empty()) {
        (true, true) => return Some(Form::EmptyPlatform),
        (true, false) => return Some(Form::NoOs),
        (false, true) => return Some(Form::NoArchitecture),
        (false, false) => {}
    }
    let name = written.canonical();
    let is_long = |variant: &String| variant.to_lowercase().starts_with("arm");
    if name.os != written.os {
        Some(Form::OsAlias)
    } else if written.variant.as_ref().is_some_and(is_long) && name.variant != written.variant {
        Some(Form::LongVariant)
    } else if name.architecture != written.architecture {
        Some(Form::ArchitectureAlias)
    } else {
        (name.variant != written.variant).then_some(Form::VariantAlias)
    }
}

fn layer_form(node: &TreeNode) -> Option<Form> {
    let TreeNode::Image(image) = node else { return None };
    let mut zstd = image.manifest.layers.iter().map(|layer| layer.media_type.as_str());
    let of_docker = |kind: &str| kind.contains(".docker.") && kind.ends_with("zstd");
    if zstd.clone().any(of_docker) {
        return Some(Form::DockerZstdLayers);
    }
    zstd.any(|kind| kind.ends_with("+zstd")).then_some(Form::ZstdLayers)
}

/// One finding for each platform of which entries have different digests, at any depth.
fn duplicates(index: &IndexNode) -> Vec<CompatibilityFinding> {
    let nested = index.nested_members();
    let images = nested.iter().filter(|member| {
        let is_image = member.is_image() && !media_type::is_index(&member.entry.media_type);
        is_image && is_pulled(member.entry) && !is_artifact(member.entry, member.node)
    });
    let mut groups: Vec<(Platform, Vec<FormMember>)> = Vec::new();
    for member in images {
        let Some(platform) = &member.entry.platform else { continue };
        let key = platform.normalized();
        let found = FormMember { digest: member.entry.digest.clone(), platform: Some(platform.clone()) };
        match groups.iter_mut().find(|(platform, _)| *platform == key) {
            Some((_, members)) if members.iter().any(|other| other.digest == found.digest) => {}
            Some((_, members)) => members.push(found),
            None => groups.push((key, vec![found])),
        }
    }
    let several = groups.into_iter().filter(|(_, members)| members.len() > 1);
    several.map(|(_, members)| CompatibilityFinding { form: Form::DuplicatePlatform, members }).collect()
}

#[cfg(test)]
mod tests;
