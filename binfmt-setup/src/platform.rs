//! `os/architecture[/variant]` as the OCI image specification writes it, in the spelling that containerd compares.

use std::fmt;
use std::str::FromStr;

/// Normalised: `aarch64` is `arm64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`, `armel` is `arm/v6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub architecture: String,
    pub variant: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlatformError {
    #[error("\"{0}\" is not os/architecture[/variant]: write it like linux/arm64 or linux/arm/v7")]
    Form(String),
    #[error("\"{0}\" is not for Linux: emulators run Linux programs only")]
    NotLinux(String),
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let form = || PlatformError::Form(crate::escape::escaped(text));
        let parts: Vec<&str> = text.split('/').collect();
        let known = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        };
        if !parts.iter().all(known) {
            return Err(form());
        }
        let (architecture, variant) = match parts[..] {
            ["linux", architecture] => (architecture, None),
            ["linux", architecture, variant] => (architecture, Some(variant)),
            // `arm/v7` as people shorten it; `windows/amd64` has the same form and is told apart by the v.
            [architecture, variant] if variant.starts_with('v') => (architecture, Some(variant)),
            [_, _] | [_, _, _] => return Err(PlatformError::NotLinux(crate::escape::escaped(text))),
            _ => return Err(form()),
        };
        // containerd platforms/database.go: normalizeArch.
        let (architecture, variant) = match (architecture, variant) {
            ("i386", _) => ("386", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            other => other,
        };
        let variant = match (architecture, variant) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
            ("arm", None | Some("7")) => Some("v7"),
            ("arm", Some("5")) => Some("v5"),
            ("arm", Some("6")) => Some("v6"),
            ("arm", Some("8")) => Some("v8"),
            (_, variant) => variant,
        };
        Ok(Self { architecture: architecture.to_owned(), variant: variant.map(str::to_owned) })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_platform_meet() {
        for (text, normal) in [
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("arm/v5", "linux/arm/v5"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/i386", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn what_is_no_linux_platform_is_refused() {
        for text in
            ["", "linux/", "/arm", "linux/arm/v7/x", "windows/amd64", "linux/arm\n", "linux/ARM64", "*"]
        {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }
}
