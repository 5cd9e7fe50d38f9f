//! The platforms that a person may ask for. What images say of themselves is not measured by it.

use super::{Platform, PlatformError};
use strsim::levenshtein as distance;

/// Systems with their architectures: `go tool dist list` of Go 1.25, whose words the image-spec takes over, and
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

/// What GOARM, GOARM64, GOAMD64, GOPPC64, GORISCV64 and GOMIPS may be, and `v8` of arm, which containerd knows.
/// GO386 has no place here: engines know no variants of 386.
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
    /// Parses what a person wants an image to be for: a platform that engines and runtimes know.
    pub fn parse_known(text: &str) -> Result<Self, PlatformError> {
        let platform: Self = text.parse().map_err(|error| match (error, text.split_once('/')) {
            // `arm`, `armv7`: a machine without its system.
            (PlatformError::NoArchitecture(_), None) => match suggest(text) {
                Some(meant) => PlatformError::Unknown(text.into(), format!("did you mean {meant}?")),
                None => PlatformError::NoArchitecture(text.into()),
            },
            (error, _) => match suggest(text).filter(|_| matches!(error, PlatformError::TooManyParts(_))) {
                Some(meant) => PlatformError::Unknown(text.into(), format!("did you mean {meant}?")),
                None => error,
            },
        })?;
        platform.check_known(text)?;
        Ok(platform)
    }

    /// Is it one that engines and runtimes know? What is empty is not said yet. `text` is how it was written.
    pub fn check_known(&self, text: &str) -> Result<(), PlatformError> {
        let is = |said: &str, known: &str| said.is_empty() || said == known;
        let pair = KNOWN.iter().any(|(os, architectures)| {
            is(&self.os, os) && architectures.iter().any(|known| is(&self.architecture, known))
        });
        let known = variants(&self.architecture);
        let variant =
            self.variant.as_deref().filter(|said| !said.is_empty() && !self.architecture.is_empty());
        if pair && variant.is_none_or(|said| known.contains(&said)) {
            return Ok(());
        }
        let meant = suggest(text).filter(|meant| !pair || squeezed(meant) == squeezed(text));
        let hint = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None if pair && known.is_empty() => format!("{} has no variants", self.architecture),
            None if pair => format!("{} has the variants {}", self.architecture, known.join(", ")),
            None => "write OS/ARCHITECTURE[/VARIANT] in Go's words, for example linux/arm/v7".into(),
        };
        Err(PlatformError::Unknown(text.into(), hint))
    }
}

/// The platform that was most likely meant: the same letters parted otherwise, or at most two other ones.
fn suggest(text: &str) -> Option<String> {
    let path = text.split(':').next().unwrap_or_default().to_lowercase();
    let mut best: Option<(usize, String)> = None;
    for (os, architectures) in KNOWN {
        for architecture in architectures {
            let whole = format!("{os}/{architecture}");
            let with_variants = variants(architecture).iter().map(|variant| format!("{whole}/{variant}"));
            for known in [whole.clone()].into_iter().chain(with_variants) {
                // Who leaves the system out means Linux.
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
    let said = squeezed(&path).len();
    best.filter(|(away, _)| *away <= 2 && away * 5 <= said).map(|(_, known)| known)
}

/// `arm/v7`, `armv7` and `arm7` alike.
fn squeezed(text: &str) -> String {
    let chars: Vec<char> = text.chars().filter(|c| !matches!(c, '/' | '-' | '_')).collect();
    let is_version = |i: usize| chars[i] == 'v' && chars.get(i + 1).is_some_and(char::is_ascii_digit);
    (0..chars.len()).filter(|i| !is_version(*i)).map(|i| chars[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_know_may_be_asked_for() {
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
        assert_eq!(Platform::parse_known("linux/armhf").unwrap().to_string(), "linux/arm/v7");
        assert_eq!(Platform::parse_known("linux/x86_64").unwrap().to_string(), "linux/amd64");
    }

    #[test]
    fn what_nobody_knows_is_refused_with_what_was_meant() {
        let check = |text: &str, hint: &str| {
            let said = Platform::parse_known(text).unwrap_err().to_string();
            assert!(said.contains(hint), "{text}: {said}");
            assert!(said.contains(&format!("\"{text}\"")), "{text}: {said}");
        };
        check("arm/v7", "did you mean linux/arm/v7?");
        check("arm64/v8", "did you mean linux/arm64/v8?");
        check("amd64", "did you mean linux/amd64?");
        for text in ["linux/armv7", "linux/armv7l", "linux/arm7", "linux/arm/7", "linux/armv/7"] {
            check(text, "did you mean linux/arm/v7?");
        }
        check("linux/arm/v99", "arm has the variants v5, v6, v7, v8");
        check("linux/386/sse2", "386 has no variants");
        check("linus/amd64", "did you mean linux/amd64?");
        check("linux/amd46", "did you mean linux/amd64?");
        check("windows/s390x", "in Go's words");
        check("linux/vax", "in Go's words");
        check("unknown/unknown", "in Go's words");
        check("linux", "no architecture");
    }

    #[test]
    fn what_is_not_said_yet_is_not_measured() {
        let of =
            |os: &str, architecture: &str, variant| Platform::new(os, architecture, variant).check_known("x");
        assert_eq!(of("", "", Some("v7")), Ok(()));
        assert_eq!(of("wasip1", "", None), Ok(()));
        assert_eq!(of("", "wasm", None), Ok(()));
        assert!(of("lunix", "", None).is_err());
        assert!(of("", "arm", Some("v99")).is_err());
    }
}
