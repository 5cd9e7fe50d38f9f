//! Platforms, `os/architecture[/variant][:os.version]`, and the rules by which they are compared.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

mod known;

/// Platforms for which images are commonly published: those of Docker's official images, and two others.
/// Completions offer them.
pub const COMMON_PLATFORMS: [&str; 15] = [
    "linux/386",
    "linux/amd64",
    "linux/amd64/v2",
    "linux/amd64/v3",
    "linux/arm/v5",
    "linux/arm/v6",
    "linux/arm/v7",
    "linux/arm64",
    "linux/loong64",
    "linux/mips64le",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/s390x",
    "wasip1/wasm",
    "windows/amd64",
];

/// The platform of an image. Fields are in the order of the image-spec's `platform` object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, as Go's GOARCH.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub architecture: String,
    /// `linux`, as Go's GOOS.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub os: String,
    /// `10.0.17763.1`, of Windows images.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// `win32k`, of Windows images.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub os_features: Vec<String>,
    /// `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Go writes `null` for an empty slice or map.
pub(crate) fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Why a text is not a platform.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error(
        "platform \"{0}\" has no architecture: write OS/ARCHITECTURE[/VARIANT], for example linux/arm/v7"
    )]
    /// Only an operating system is given.
    NoArchitecture(String),
    #[error("platform \"{0}\" has too many parts: write OS/ARCHITECTURE[/VARIANT][:OS.VERSION]")]
    /// More than os, architecture and variant.
    TooManyParts(String),
    #[error(
        "platform \"{0}\" has an empty part, or a character that is not a letter, digit, '.', '_' or '-'"
    )]
    /// A part is empty or has invalid characters.
    BadPart(String),
    /// Engines know no such platform. The second text is a suggestion.
    #[error("unknown platform \"{0}\"; {1}")]
    Unknown(String, String),
}

/// Aliases of architectures: (alias, architecture, variant).
/// Source: containerd's platforms package (database.go) and Debian's architecture names.
const ALIASES: [(&str, &str, Option<&str>); 10] = [
    ("aarch64", "arm64", None),
    ("x86_64", "amd64", None),
    ("x86-64", "amd64", None),
    ("i386", "386", None),
    ("i686", "386", None),
    ("armhf", "arm", Some("v7")),
    ("armel", "arm", Some("v6")),
    ("ppc64el", "ppc64le", None),
    ("mips64el", "mips64le", None),
    ("mipsel", "mipsle", None),
];

impl Platform {
    /// A platform without os.version and os.features.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_string),
            ..Self::default()
        }
    }

    /// Returns whether this is `unknown/unknown`, the platform of BuildKit's attestation members.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// Returns the form in which platforms are compared, following containerd: `arm64/v8` is `arm64`, `amd64/v1` is
    /// `amd64`, `arm` is `arm/v7`; aliases are resolved, and everything is lowercase.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_lowercase().as_str() {
            "macos" => "darwin".to_string(),
            other => other.to_string(),
        };
        let written = self.architecture.to_lowercase();
        let (mut architecture, mut variant) =
            (written.clone(), self.variant.as_ref().map(|v| v.to_lowercase()));
        if let Some((_, canonical, implied)) = ALIASES.iter().find(|(alias, ..)| *alias == written) {
            architecture = (*canonical).to_string();
            variant = variant.or_else(|| implied.map(str::to_string));
        }
        variant = variant.map(|variant| canonical_variant(&architecture, &variant));
        variant = match (architecture.as_str(), variant.as_deref()) {
            ("arm64", None | Some("" | "v8")) | ("amd64", None | Some("" | "v1")) => None,
            ("arm", None | Some("")) => Some("v7".into()),
            (_, Some("")) => None,
            (_, v) => v.map(str::to_string),
        };
        Self {
            os,
            architecture,
            variant,
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }

    /// Returns the platform with the names that engines look for in place of aliases: `aarch64` is `arm64`, `Linux` is
    /// `linux`, the variant `armv8` or `8` is `v8`. Nothing else changes: `arm64/v8` keeps its variant, `arm` gets none.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let Self { os, architecture, .. } = self.normalized();
        let written = self.architecture.to_lowercase();
        let implied =
            ALIASES.iter().find(|(alias, ..)| *alias == written).and_then(|(_, _, implied)| *implied);
        let variant = match self.variant.as_deref() {
            None | Some("") => implied.map(str::to_string).or_else(|| self.variant.clone()),
            Some(variant) => Some(canonical_variant(&architecture, variant)),
        };
        Self { os, architecture, variant, ..self.clone() }
    }

    /// Returns whether both platforms are equal in normalized form. `os.version` is compared only if both have one.
    pub fn matches(&self, other: &Self) -> bool {
        let (a, b) = (self.normalized(), other.normalized());
        let versions_agree = match (&a.os_version, &b.os_version) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        a.os == b.os && a.architecture == b.architecture && a.variant == b.variant && versions_agree
    }

    /// Returns whether this declared platform needs no fix to become `requested`. A requested variant must be written
    /// out: `arm` is `arm/v7` to containerd, but other readers see no variant at all.
    pub fn satisfies(&self, requested: &Self) -> bool {
        let same_variant = requested.variant.is_none() || self.variant == requested.variant;
        let same_version = requested.os_version.is_none() || self.os_version == requested.os_version;
        let same_features = requested.os_features.is_empty() || self.os_features == requested.os_features;
        // `matches` resolves aliases, but no engine finds an image that declares "aarch64".
        let same_names = self.os == requested.os
            && self.architecture == requested.architecture
            && self.canonical().variant == self.variant;
        same_names && same_variant && same_version && same_features && self.matches(requested)
    }

    /// Returns whether this declared platform, of a config, needs no fix to equal the index platform `entry`. The default
    /// variants of arm64 and amd64 may be missing. The variant of arm may not, because `arm` alone is read as v5, v6
    /// or v7.
    pub fn satisfies_entry(&self, entry: &Self) -> bool {
        let same_names = self.os == entry.os && self.architecture == entry.architecture;
        let same_variant =
            entry.architecture != "arm" || entry.variant.is_none() || self.variant == entry.variant;
        let same_version = entry.os_version.is_none() || self.os_version == entry.os_version;
        same_names && same_variant && same_version && self.matches(entry)
    }
}

/// The name of a variant of arm or arm64, `v7`, for `7`, `armv7` and `V7`; another variant in lowercase.
fn canonical_variant(architecture: &str, variant: &str) -> String {
    let variant = variant.to_lowercase();
    if !matches!(architecture, "arm" | "arm64") {
        return variant;
    }
    let name = variant.strip_prefix("arm").unwrap_or(&variant);
    if name.starts_with(|first: char| first.is_ascii_digit()) { format!("v{name}") } else { name.to_string() }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses `[OS/]ARCHITECTURE[/VARIANT][:OS.VERSION]`. A known architecture without an operating system is one of
    /// Linux. Aliases become the names of the image-spec. The platform need not be a known one: see
    /// [`Platform::parse_known`].
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let (path, os_version) = match text.split_once(':') {
            Some((path, version)) => (path, Some(version)),
            None => (text, None),
        };
        let is_word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let mut parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 3 && known::is_linux_architecture(parts[0]) {
            parts.insert(0, "linux");
        }
        if parts.len() > 3 {
            return Err(PlatformError::TooManyParts(text.into()));
        }
        if !parts.iter().copied().chain(os_version).all(is_word) {
            return Err(PlatformError::BadPart(text.into()));
        }
        let [os, architecture, rest @ ..] = parts.as_slice() else {
            return Err(PlatformError::NoArchitecture(text.into()));
        };
        let written = architecture.to_lowercase();
        let alias = ALIASES.iter().find(|(alias, ..)| *alias == written);
        let architecture = alias.map_or(written.as_str(), |(_, canonical, _)| canonical);
        let variant = rest.first().copied().or_else(|| alias.and_then(|(_, _, implied)| *implied));
        Ok(Self {
            os: os.to_lowercase(),
            architecture: architecture.to_string(),
            variant: variant.map(str::to_lowercase),
            os_version: os_version.map(str::to_string),
            os_features: Vec::new(),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = self.variant.as_deref().filter(|v| !v.is_empty()) {
            write!(f, "/{variant}")?;
        }
        if let Some(version) = self.os_version.as_deref().filter(|v| !v.is_empty()) {
            write!(f, ":{version}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_parsed_platform_is_displayed_as_it_was_written() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64:10.0.17763.1", "linux/arm64/v8"] {
            assert_eq!(platform(text).to_string(), text);
        }
    }

    #[test]
    fn an_architecture_alone_is_one_of_linux() {
        let check = |text: &str, full: &str| assert_eq!(platform(text).to_string(), full);
        check("arm64", "linux/arm64");
        check("amd64", "linux/amd64");
        check("arm/v7", "linux/arm/v7");
        check("armhf", "linux/arm/v7");
        check("x86_64/v3", "linux/amd64/v3");
    }

    #[test]
    fn the_canonical_platform_has_no_alias_and_the_same_variant() {
        let check = |os: &str, architecture: &str, variant: Option<&str>, name: &str| {
            let platform = Platform::new(os, architecture, variant);
            assert_eq!(platform.canonical().to_string(), name);
            assert!(platform.matches(&platform.canonical()), "{platform}");
            assert_eq!(platform.canonical().canonical(), platform.canonical());
        };
        check("linux", "aarch64", None, "linux/arm64");
        check("Linux", "x86_64", None, "linux/amd64");
        check("linux", "armhf", None, "linux/arm/v7");
        check("linux", "arm64", Some("armv8"), "linux/arm64/v8");
        check("linux", "arm", Some("7"), "linux/arm/v7");
        check("linux", "arm", Some("armv6"), "linux/arm/v6");
        check("macos", "ARM64", Some("V8"), "darwin/arm64/v8");
        for text in ["linux/arm64/v8", "linux/arm64", "linux/arm", "linux/amd64/v1", "linux/riscv64/rva23u64"]
        {
            assert_eq!(platform(text).canonical(), platform(text));
        }
        let empty = Platform::new("linux", "amd64", Some(""));
        assert_eq!(empty.canonical(), empty);
    }

    #[test]
    fn aliases_become_the_names_of_the_spec() {
        let check = |said: &str, meant: &str| assert_eq!(platform(said).to_string(), meant);
        check("linux/aarch64", "linux/arm64");
        check("linux/x86_64", "linux/amd64");
        check("linux/armhf", "linux/arm/v7");
        check("linux/armel", "linux/arm/v6");
        check("linux/i386", "linux/386");
        check("Linux/ARM64", "linux/arm64");
    }

    #[test]
    fn invalid_platforms_are_rejected_with_the_reason() {
        let check = |text: &str| text.parse::<Platform>().unwrap_err().to_string();
        assert!(check("linux").contains("no architecture"));
        assert!(check("linux/arm/v7/x").contains("too many parts"));
        assert!(check("linux/").contains("empty part"));
        assert!(check("linux/ar m").contains("a character"));
        assert!(check("linux/arm\u{1b}").contains("a character"));
        assert!(check("").contains("empty part"));
    }

    #[test]
    fn platforms_match_as_in_containerd() {
        let check =
            |a: &str, b: &str, fit: bool| assert_eq!(platform(a).matches(&platform(b)), fit, "{a} {b}");
        check("linux/arm64", "linux/arm64/v8", true);
        check("linux/amd64", "linux/amd64/v1", true);
        check("linux/arm", "linux/arm/v7", true);
        check("linux/arm", "linux/arm/v6", false);
        check("linux/amd64/v3", "linux/amd64", false);
        check("linux/arm64", "linux/arm", false);
        check("windows/amd64:1", "windows/amd64:2", false);
        check("windows/amd64:1", "windows/amd64", true);
    }

    #[test]
    fn a_requested_variant_must_be_declared() {
        let check = |declared: &str, requested: &str, satisfied: bool| {
            assert_eq!(
                platform(declared).satisfies(&platform(requested)),
                satisfied,
                "{declared} {requested}"
            );
        };
        check("linux/arm", "linux/arm/v7", false);
        check("linux/arm/v7", "linux/arm/v7", true);
        check("linux/arm/v7", "linux/arm", true);
        check("linux/arm64", "linux/arm64/v8", false);
        check("linux/arm64/v8", "linux/arm64", true);
        check("linux/amd64", "linux/arm64", false);
    }

    #[test]
    fn an_index_entry_is_satisfied_without_the_default_variant_except_for_arm() {
        let check = |declared: &str, entry: &str, satisfied: bool| {
            assert_eq!(platform(declared).satisfies_entry(&platform(entry)), satisfied, "{declared} {entry}");
        };
        check("linux/arm64", "linux/arm64/v8", true);
        check("linux/arm", "linux/arm/v7", false);
        check("linux/arm/v7", "linux/arm/v7", true);
        check("linux/amd64", "linux/arm/v7", false);
    }
}
