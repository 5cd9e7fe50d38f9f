//! A platform: `os/architecture[/variant][:os.version]`, as it is asked for and as a label says it.

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

/// What an image is made for. Fields are written in the order of the image-spec's `platform` object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error(
        "platform \"{0}\" has no architecture: write OS/ARCHITECTURE[/VARIANT], for example linux/arm/v7"
    )]
    NoArchitecture(String),
    #[error("platform \"{0}\" has too many parts: write OS/ARCHITECTURE[/VARIANT][:OS.VERSION]")]
    TooManyParts(String),
    #[error(
        "platform \"{0}\" has an empty part, or a character that is not a letter, digit, '.', '_' or '-'"
    )]
    BadPart(String),
    #[error("platform \"{0}\" is none that engines know: {1}")]
    Unknown(String, String),
}

/// Other names that people and tools use, and what they mean: (said, architecture, variant).
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
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_string),
            ..Self::default()
        }
    }

    /// BuildKit's attestation members say `unknown/unknown`: they are no image that anyone runs.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// The form in which two platforms are compared, after containerd: `arm64/v8` is `arm64`,
    /// `amd64/v1` is `amd64`, `arm` is `arm/v7`; aliases are resolved, letters are small.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = match self.os.to_lowercase().as_str() {
            "macos" => "darwin".to_string(),
            other => other.to_string(),
        };
        let said = self.architecture.to_lowercase();
        let (mut architecture, mut variant) = (said.clone(), self.variant.as_ref().map(|v| v.to_lowercase()));
        if let Some((_, meant, implied)) = ALIASES.iter().find(|(alias, ..)| *alias == said) {
            architecture = (*meant).to_string();
            variant = variant.or_else(|| implied.map(str::to_string));
        }
        variant = match (architecture.as_str(), variant.as_deref()) {
            ("arm64", None | Some("" | "8" | "v8")) | ("amd64", None | Some("" | "v1")) => None,
            ("arm", None | Some("" | "7")) => Some("v7".into()),
            ("arm", Some(v @ ("5" | "6" | "8"))) => Some(format!("v{v}")),
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

    /// Do both mean the same machine and system? `os.version` counts only where both say one.
    pub fn matches(&self, other: &Self) -> bool {
        let (a, b) = (self.normalized(), other.normalized());
        let versions_agree = match (&a.os_version, &b.os_version) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        a.os == b.os && a.architecture == b.architecture && a.variant == b.variant && versions_agree
    }

    /// Does this label already say what was asked for? A variant that was asked for must be written out:
    /// `arm` means `arm/v7` to containerd, but other readers see no variant at all.
    pub fn satisfies(&self, asked: &Self) -> bool {
        let variant_said = asked.variant.is_none() || self.variant == asked.variant;
        let version_said = asked.os_version.is_none() || self.os_version == asked.os_version;
        let features_said = asked.os_features.is_empty() || self.os_features == asked.os_features;
        // `fits` is lenient about aliases; a label of "aarch64" is not one that engines find.
        let spelled = self.os == asked.os && self.architecture == asked.architecture;
        spelled && variant_said && version_said && features_said && self.matches(asked)
    }

    /// Does this label, found in a config, say what the index entry says? The default variants of arm64 and
    /// amd64 need not be written; the one of arm does, since `arm` alone is read as v5, v6 or v7.
    pub fn satisfies_entry(&self, entry: &Self) -> bool {
        let spelled = self.os == entry.os && self.architecture == entry.architecture;
        let variant_said =
            entry.architecture != "arm" || entry.variant.is_none() || self.variant == entry.variant;
        let version_said = entry.os_version.is_none() || self.os_version == entry.os_version;
        spelled && variant_said && version_said && self.matches(entry)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses what a person writes. Aliases become the names that the image-spec uses.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let (path, os_version) = match text.split_once(':') {
            Some((path, version)) => (path, Some(version)),
            None => (text, None),
        };
        let is_word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() > 3 {
            return Err(PlatformError::TooManyParts(text.into()));
        }
        if !parts.iter().copied().chain(os_version).all(is_word) {
            return Err(PlatformError::BadPart(text.into()));
        }
        let [os, said, rest @ ..] = parts.as_slice() else {
            return Err(PlatformError::NoArchitecture(text.into()));
        };
        let said_small = said.to_lowercase();
        let alias = ALIASES.iter().find(|(alias, ..)| *alias == said_small);
        let architecture = alias.map_or(said_small.as_str(), |(_, meant, _)| meant);
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
    fn what_is_parsed_is_shown_again() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64:10.0.17763.1", "linux/arm64/v8"] {
            assert_eq!(platform(text).to_string(), text);
        }
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
    fn nonsense_is_refused_by_name() {
        let check = |text: &str| text.parse::<Platform>().unwrap_err().to_string();
        assert!(check("linux").contains("no architecture"));
        assert!(check("linux/arm/v7/x").contains("too many parts"));
        assert!(check("linux/").contains("empty part"));
        assert!(check("linux/ar m").contains("a character"));
        assert!(check("linux/arm\u{1b}").contains("a character"));
        assert!(check("").contains("empty part"));
    }

    #[test]
    fn platforms_fit_as_containerd_says() {
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
    fn a_variant_that_is_asked_for_is_never_swallowed() {
        let check = |label: &str, asked: &str, right: bool| {
            assert_eq!(platform(label).satisfies(&platform(asked)), right, "{label} {asked}");
        };
        check("linux/arm", "linux/arm/v7", false);
        check("linux/arm/v7", "linux/arm/v7", true);
        check("linux/arm/v7", "linux/arm", true);
        check("linux/arm64", "linux/arm64/v8", false);
        check("linux/arm64/v8", "linux/arm64", true);
        check("linux/amd64", "linux/arm64", false);
    }

    #[test]
    fn an_entry_is_answered_without_the_default_variant_but_not_for_arm() {
        let check = |label: &str, entry: &str, right: bool| {
            assert_eq!(platform(label).satisfies_entry(&platform(entry)), right, "{label} {entry}");
        };
        check("linux/arm64", "linux/arm64/v8", true);
        check("linux/arm", "linux/arm/v7", false);
        check("linux/arm/v7", "linux/arm/v7", true);
        check("linux/amd64", "linux/arm/v7", false);
    }
}
