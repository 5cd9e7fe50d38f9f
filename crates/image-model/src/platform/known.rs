//! The platforms that engines and runtimes know, and suggestions for misspelled ones.

use super::{ALIASES, Platform, PlatformError};
use strsim::levenshtein as distance;

/// Operating systems with their architectures: `go tool dist list` of Go 1.25, whose names the image-spec uses, and
/// `wasi/wasm` of containerd's shims.
const KNOWN: [(&str, &[&str]); 16] = [
    (
        "linux",
        &[
            "amd64", "arm64", "arm", "386", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
            "ppc64le", "riscv64", "s390x",
        ],
    ),
    ("windows", &["amd64", "arm64", "386", "arm"]),
    ("darwin", &["amd64", "arm64"]),
    ("freebsd", &["amd64", "arm64", "386", "arm", "riscv64"]),
    ("netbsd", &["amd64", "arm64", "386", "arm"]),
    ("openbsd", &["amd64", "arm64", "386", "arm", "ppc64", "riscv64"]),
    ("dragonfly", &["amd64"]),
    ("solaris", &["amd64"]),
    ("illumos", &["amd64"]),
    ("aix", &["ppc64"]),
    ("plan9", &["amd64", "386", "arm"]),
    ("android", &["amd64", "arm64", "386", "arm"]),
    ("ios", &["amd64", "arm64"]),
    ("js", &["wasm"]),
    ("wasip1", &["wasm"]),
    ("wasi", &["wasm"]),
];

/// Returns the variants of an architecture: the values of GOARM, GOARM64, GOAMD64, GOPPC64, GORISCV64 and GOMIPS, and
/// `v8` of arm, which containerd knows. Those of GO386 are missing, because engines know no variants of 386.
fn variants(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "arm" => &["v5", "v6", "v7", "v8"],
        "arm64" => &[
            "v8", "v9", "v8.0", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9",
            "v9.0", "v9.1", "v9.2", "v9.3", "v9.4", "v9.5",
        ],
        "amd64" => &["v1", "v2", "v3", "v4"],
        "ppc64" | "ppc64le" => &["power8", "power9", "power10"],
        "riscv64" => &["rva20u64", "rva22u64", "rva23u64"],
        "mips" | "mipsle" | "mips64" | "mips64le" => &["hardfloat", "softfloat"],
        _ => &[],
    }
}

impl Platform {
    /// Parses a platform that engines and runtimes know.
    ///
    /// # Errors
    /// With a suggestion, if the text is misspelled or the platform is unknown.
    pub fn parse_known(text: &str) -> Result<Self, PlatformError> {
        let platform: Self = text.parse().map_err(|error| match (error, text.split_once('/')) {
            (PlatformError::NoArchitecture(_), None) => match suggest(text) {
                Some(known) => PlatformError::Unknown(text.into(), format!("did you mean {known}?")),
                None => PlatformError::NoArchitecture(text.into()),
            },
            (error, _) => match suggest(text).filter(|_| matches!(error, PlatformError::TooManyParts(_))) {
                Some(known) => PlatformError::Unknown(text.into(), format!("did you mean {known}?")),
                None => error,
            },
        })?;
        platform.check_known(text)?;
        Ok(platform)
    }

    /// Checks that engines and runtimes know the platform. Empty fields are not checked. `text` is the platform as it was
    /// written, for the error.
    ///
    /// # Errors
    /// [`PlatformError::Unknown`] with a suggestion.
    pub fn check_known(&self, text: &str) -> Result<(), PlatformError> {
        let is = |field: &str, known: &str| field.is_empty() || field == known;
        let pair = KNOWN.iter().any(|(os, architectures)| {
            is(&self.os, os) && architectures.iter().any(|known| is(&self.architecture, known))
        });
        let known = variants(&self.architecture);
        let variant =
            self.variant.as_deref().filter(|name| !name.is_empty() && !self.architecture.is_empty());
        if pair && variant.is_none_or(|name| known.contains(&name)) {
            return Ok(());
        }
        let suggestion = suggest(text).filter(|name| !pair || squeezed(name) == squeezed(text));
        let hint = match suggestion {
            Some(name) => format!("did you mean {name}?"),
            None if pair && known.is_empty() => format!("{} has no variants", self.architecture),
            None if pair => format!("{} has the variants {}", self.architecture, known.join(", ")),
            None => {
                "write OS/ARCHITECTURE[/VARIANT] with the names of GOOS and GOARCH, for example linux/arm/v7"
                    .into()
            }
        };
        Err(PlatformError::Unknown(text.into(), hint))
    }
}

/// Returns whether it is the name or an alias of an architecture of Linux.
pub(super) fn is_linux_architecture(name: &str) -> bool {
    let name = name.to_lowercase();
    KNOWN[0].1.contains(&name.as_str()) || ALIASES.iter().any(|(alias, ..)| *alias == name)
}

/// Returns the platform that was most likely meant: the same letters with other separators, or at most two edits away.
fn suggest(text: &str) -> Option<String> {
    let path = text.split(':').next().unwrap_or_default().to_lowercase();
    let mut best: Option<(usize, String)> = None;
    for (os, architectures) in KNOWN {
        for architecture in architectures {
            let whole = format!("{os}/{architecture}");
            let with_variants = variants(architecture).iter().map(|variant| format!("{whole}/{variant}"));
            for known in [whole.clone()].into_iter().chain(with_variants) {
                // Without an operating system, Linux is meant.
                let short = (os == "linux").then(|| squeezed(&known["linux/".len()..]));
                let away = [Some(squeezed(&known)), short]
                    .into_iter()
                    .flatten()
                    .map(|known| distance(&squeezed(&path), &known))
                    .min();
                if let Some(away) = away.filter(|away| best.as_ref().is_none_or(|(least, _)| away < least)) {
                    best = Some((away, known));
                }
            }
        }
    }
    let length = squeezed(&path).len();
    best.filter(|(away, _)| *away <= 2 && away * 5 <= length).map(|(_, known)| known)
}

/// Returns the text without separators and without the `v` of versions: `arm7` for `arm/v7`, `armv7` and `arm7`.
fn squeezed(text: &str) -> String {
    let chars: Vec<char> = text.chars().filter(|c| !matches!(c, '/' | '-' | '_')).collect();
    let is_version = |i: usize| chars[i] == 'v' && chars.get(i + 1).is_some_and(char::is_ascii_digit);
    (0..chars.len()).filter(|i| !is_version(*i)).map(|i| chars[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_platforms_are_accepted() {
        for text in [
            "linux/amd64",
            "linux/amd64/v3",
            "linux/arm64/v8",
            "linux/arm64/v9.2",
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/386",
            "linux/loong64",
            "linux/mips64le",
            "linux/mipsle/softfloat",
            "linux/ppc64le/power9",
            "linux/riscv64/rva22u64",
            "linux/s390x",
            "windows/amd64:10.0.17763.1",
            "darwin/arm64",
            "wasip1/wasm",
        ] {
            assert_eq!(Platform::parse_known(text).unwrap().to_string(), text);
        }
        assert_eq!(Platform::parse_known("arm/v7").unwrap().to_string(), "linux/arm/v7");
        assert_eq!(Platform::parse_known("arm64/v8").unwrap().to_string(), "linux/arm64/v8");
        assert_eq!(Platform::parse_known("linux/armhf").unwrap().to_string(), "linux/arm/v7");
        assert_eq!(Platform::parse_known("linux/x86_64").unwrap().to_string(), "linux/amd64");
    }

    #[test]
    fn unknown_platforms_are_rejected_with_a_suggestion() {
        let check = |text: &str, hint: &str| {
            let message = Platform::parse_known(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text}: {message}");
            assert!(message.contains(&format!("\"{text}\"")), "{text}: {message}");
        };
        check("armv7", "did you mean linux/arm/v7?");
        check("arm64v8", "did you mean linux/arm64/v8?");
        check("amd64v2", "did you mean linux/amd64/v2?");
        check("arm/v99", "arm has the variants v5, v6, v7, v8");
        for text in ["linux/armv7", "linux/armv7l", "linux/arm7", "linux/arm/7", "linux/armv/7"] {
            check(text, "did you mean linux/arm/v7?");
        }
        check("linux/arm/v99", "arm has the variants v5, v6, v7, v8");
        check("linux/386/sse2", "386 has no variants");
        check("linus/amd64", "did you mean linux/amd64?");
        check("linux/amd46", "did you mean linux/amd64?");
        check("windows/s390x", "the names of GOOS and GOARCH");
        check("linux/vax", "the names of GOOS and GOARCH");
        check("unknown/unknown", "the names of GOOS and GOARCH");
        check("linux", "no architecture");
    }

    #[test]
    fn empty_fields_are_not_checked() {
        let of =
            |os: &str, architecture: &str, variant| Platform::new(os, architecture, variant).check_known("x");
        assert_eq!(of("", "", Some("v7")), Ok(()));
        assert_eq!(of("wasip1", "", None), Ok(()));
        assert_eq!(of("", "wasm", None), Ok(()));
        assert!(of("lunix", "", None).is_err());
        assert!(of("", "arm", Some("v99")).is_err());
    }
}
