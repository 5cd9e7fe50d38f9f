//! Platforms `os/architecture[/variant]` of the OCI image-spec, normalized as in containerd.

use std::fmt;
use std::str::FromStr;

use error::Error;

/// A Linux platform, normalized: `aarch64` is `arm64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`, `armel` is `arm/v6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// A GOARCH: `arm64`.
    pub architecture: String,
    /// `v7`.
    pub variant: Option<String>,
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let doing = || format!("parse platform \"{text}\"");
        let form = || {
            Error::bad_input(doing(), "it is not os/architecture[/variant]")
                .hint("write it like linux/arm64 or linux/arm/v7")
        };
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
            // `arm/v7` without the os; the v distinguishes it from `windows/amd64`.
            [architecture, variant] if variant.starts_with('v') => (architecture, Some(variant)),
            [_, _] | [_, _, _] => {
                return Err(Error::bad_input(doing(), "emulators run Linux programs only"));
            }
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
    fn spellings_of_one_platform_are_equal() {
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
    fn other_texts_are_refused() {
        for text in
            ["", "linux/", "/arm", "linux/arm/v7/x", "windows/amd64", "linux/arm\n", "linux/ARM64", "*"]
        {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }
}
