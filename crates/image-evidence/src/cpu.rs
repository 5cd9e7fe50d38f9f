//! CPU levels of the architectures, the marks that record them in files, and which level includes which.

use serde::{Deserialize, Serialize};

/// The levels of each architecture, lowest first. Sources: the x86-64 psABI; GOARM, GOARM64, GOPPC64 and GORISCV64 of Go; the
/// ISA field of MIPS' `e_flags`, in the names of `gcc -march`.
const LEVELS: [(&[&str], &[&str]); 7] = [
    (&["amd64"], &["v1", "v2", "v3", "v4"]),
    (&["arm"], &["v5", "v6", "v7", "v8"]),
    (
        &["arm64"],
        &[
            "v8.0", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9", "v9.0", "v9.1",
            "v9.2", "v9.3", "v9.4", "v9.5",
        ],
    ),
    (&["riscv64"], &["rva20u64", "rva22u64", "rva23u64"]),
    (&["ppc64", "ppc64le"], &["power8", "power9", "power10"]),
    (&["mips", "mipsle"], &["mips1", "mips2", "mips32", "mips32r2", "mips32r6"]),
    (&["mips64", "mips64le"], &["mips3", "mips4", "mips5", "mips64", "mips64r2", "mips64r6"]),
];

/// The architectures that have levels.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    LEVELS.iter().flat_map(|(names, _)| *names).copied()
}

/// The levels of an architecture, lowest first; empty if it has none.
pub fn levels(architecture: &str) -> &'static [&'static str] {
    LEVELS.iter().find(|(names, _)| names.contains(&architecture)).map_or(&[], |(_, levels)| levels)
}

/// The place of a level among those of its architecture. One that is not among them is above all of them.
pub fn rank(architecture: &str, level: &str) -> usize {
    let levels = levels(architecture);
    levels.iter().position(|known| *known == level).unwrap_or(levels.len())
}

/// Returns whether a processor of the level `limit` runs what needs the level `needed`.
pub fn covers(architecture: &str, limit: &str, needed: &str) -> bool {
    if limit == needed {
        return true;
    }
    let limit = limit.split('+').next().unwrap_or(limit);
    match (version(limit), version(needed)) {
        // Armv9.0 includes Armv8.5, Armv9.1 includes Armv8.6, and so on. Source: the Arm Architecture Reference Manual, A1.1.
        (Some((9, limit)), Some((8, needed))) if architecture == "arm64" => return needed <= limit + 5,
        _ => {}
    }
    // Release 6 of MIPS has removed instructions.
    let is_extension = !(limit.starts_with("mips") && limit.ends_with("r6"));
    is_extension && rank(architecture, needed) <= rank(architecture, limit)
}

/// The numbers of `v8.2`.
fn version(level: &str) -> Option<(u8, u8)> {
    let (major, minor) = level.strip_prefix('v')?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The CPU level that is recorded in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CpuMark {
    /// The level. RISC-V extensions beyond the profiles follow theirs, as in `rva20u64+zbc`.
    pub level: String,
    /// The record, such as `GOAMD64=v3`.
    pub proof: String,
    /// Whether all of the file was built for the level, as by Go, or is refused below it, as by property notes. Build
    /// attributes are the highest level of any object in the file, and that object may run only after a check of the CPU.
    pub is_certain: bool,
}

/// The highest mark of a file, while it is read.
#[derive(Debug)]
pub struct MarkReader {
    architecture: &'static str,
    highest: Option<CpuMark>,
}

impl MarkReader {
    /// A file for this architecture, without a mark.
    pub fn new(architecture: &'static str) -> Self {
        Self { architecture, highest: None }
    }

    /// Adds a record of a level.
    pub fn add(&mut self, level: &str, proof: &str, is_certain: bool) {
        let is_higher = self
            .highest
            .as_ref()
            .is_none_or(|highest| rank(self.architecture, level) > rank(self.architecture, &highest.level));
        if is_higher && !levels(self.architecture).is_empty() {
            self.highest = Some(CpuMark { level: level.into(), proof: proof.into(), is_certain });
        }
    }

    /// The highest mark.
    pub fn finish(self) -> Option<CpuMark> {
        self.highest
    }
}

/// The variant of the image-spec that means this level, if engines distinguish it from the architecture alone.
pub fn variant(architecture: &str, level: &str) -> Option<&'static str> {
    match (architecture, level) {
        ("arm", _) | ("amd64", "v2" | "v3" | "v4") => {
            levels(architecture).iter().find(|known| **known == level).copied()
        }
        ("arm64", _) if level.starts_with("v9") => Some("v9"),
        _ => None,
    }
}

/// Extensions of each RISC-V profile that the one before does not have. Source: the RISC-V profiles, "RVA20U64", "RVA22U64",
/// "RVA23U64": the mandatory ones, and what these include. Zifencei is mandatory in RVA20S64, on which Linux runs.
const RISCV_PROFILES: [&[&str]; 3] = [
    &[
        "i", "m", "a", "f", "d", "c", "zicsr", "zifencei", "zicntr", "ziccif", "ziccrse", "ziccamoa",
        "za128rs", "zicclsm", "zmmul", "zaamo", "zalrsc", "zca", "zcd",
    ],
    &[
        "zihpm",
        "za64rs",
        "zihintpause",
        "zba",
        "zbb",
        "zbs",
        "b",
        "zic64b",
        "zicbom",
        "zicbop",
        "zicboz",
        "zfhmin",
        "zkt",
    ],
    &[
        "v",
        "zve32x",
        "zve32f",
        "zve64x",
        "zve64f",
        "zve64d",
        "zvl32b",
        "zvl64b",
        "zvl128b",
        "zvfhmin",
        "zvbb",
        "zvkb",
        "zvkt",
        "zihintntl",
        "zicond",
        "zimop",
        "zcmop",
        "zcb",
        "zfa",
        "zawrs",
        "supm",
    ],
];

/// The length of a Tag_RISCV_arch that is read. All extensions of RVA23U64 have 400 letters.
const RISCV_ARCH_MAX: usize = 1024;

/// The lowest profile that has all extensions of a Tag_RISCV_arch such as `rv64i2p1_m2p0_zba1p0`. `None`: it is no such text
/// of a 64-bit processor.
pub fn riscv_profile(text: &str) -> Option<String> {
    let mut highest = 0;
    let mut beyond = Vec::new();
    for name in riscv_extensions(text)? {
        match RISCV_PROFILES.iter().position(|profile| profile.contains(&name.as_str())) {
            Some(profile) => highest = highest.max(profile),
            None => beyond.push(name),
        }
    }
    let name = levels("riscv64")[highest];
    Some(if beyond.is_empty() { name.into() } else { format!("{name}+{}", beyond.join("+")) })
}

/// The names of the extensions, without versions. Source: the RISC-V unprivileged ISA, "ISA Extension Naming Conventions".
fn riscv_extensions(text: &str) -> Option<Vec<String>> {
    let rest = text.strip_prefix("rv64").filter(|rest| rest.len() <= RISCV_ARCH_MAX)?;
    let mut names = Vec::new();
    for part in rest.split('_').filter(|part| !part.is_empty()) {
        if !part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            return None;
        }
        if part.starts_with(['z', 's', 'x']) {
            names.push(without_version(part).to_string());
            continue;
        }
        // Single letters, each with an optional version such as 2p1.
        let mut letters = part;
        while let Some(letter) = letters.chars().next() {
            match letter {
                'g' => names.extend(["i", "m", "a", "f", "d", "zicsr", "zifencei"].map(str::to_string)),
                _ => names.push(letter.to_string()),
            }
            letters = after_version(&letters[1..]);
        }
    }
    let is_base = |name: &String| name == "i";
    names.first().is_some_and(is_base).then_some(names)
}

/// What follows a version such as `2p1` or `2`.
fn after_version(text: &str) -> &str {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let major = digits(text);
    if major == 0 {
        return text;
    }
    let rest = &text[major..];
    match rest.strip_prefix('p').map(|minor| (minor, digits(minor))) {
        Some((minor, count)) if count > 0 => &minor[count..],
        _ => rest,
    }
}

/// A long name without its version: `zicsr` of `zicsr2p0`. The names `zvl128b` and `za64rs` have digits within.
fn without_version(name: &str) -> &str {
    let minor = name.trim_end_matches(|c: char| c.is_ascii_digit());
    match minor.strip_suffix('p').map(|major| (major, major.trim_end_matches(|c: char| c.is_ascii_digit()))) {
        Some((major, base)) if minor.len() < name.len() && base.len() < major.len() => base,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn levels_include_those_below_them() {
        let check = |architecture: &str, limit: &str, needed: &str, is_covered: bool| {
            assert_eq!(covers(architecture, limit, needed), is_covered, "{architecture} {limit} {needed}");
        };
        check("amd64", "v2", "v2", true);
        check("amd64", "v2", "v1", true);
        check("amd64", "v2", "v3", false);
        check("arm", "v7", "v6", true);
        check("arm", "v6", "v7", false);
        check("arm64", "v8.2", "v8.1", true);
        check("arm64", "v9.0", "v8.5", true);
        check("arm64", "v9.0", "v8.6", false);
        check("arm64", "v9.1", "v8.6", true);
        check("arm64", "v8.9", "v9.0", false);
        check("riscv64", "rva23u64", "rva20u64", true);
        check("riscv64", "rva23u64", "rva20u64+zbc", false);
        check("riscv64", "rva20u64+zbc", "rva20u64+zbc", true);
        check("riscv64", "rva22u64+zbc", "rva20u64", true);
        check("riscv64", "rva20u64+zbc", "rva22u64", false);
        check("ppc64le", "power9", "power10", false);
        check("ppc64le", "power9", "power8", true);
        check("mips64le", "mips64r2", "mips3", true);
        check("mips64le", "mips64r6", "mips64r2", false);
        check("mips64le", "mips64r2", "mips64r6", false);
    }

    #[test]
    fn only_levels_that_engines_distinguish_are_variants() {
        let check = |architecture: &str, level: &str, name: Option<&str>| {
            assert_eq!(variant(architecture, level), name, "{architecture} {level}");
        };
        check("amd64", "v1", None);
        check("amd64", "v3", Some("v3"));
        check("arm", "v5", Some("v5"));
        check("arm64", "v8.2", None);
        check("arm64", "v9.1", Some("v9"));
        check("riscv64", "rva23u64", None);
        check("ppc64le", "power9", None);
    }

    #[test]
    fn riscv_extensions_have_a_profile() {
        let check = |text: &str, profile: Option<&str>| {
            assert_eq!(riscv_profile(text).as_deref(), profile, "{text}");
        };
        // As in Debian's files.
        check(
            "rv64i2p1_m2p0_a2p1_f2p2_d2p2_c2p0_zicsr2p0_zifencei2p0_zmmul1p0_zaamo1p0_zalrsc1p0",
            Some("rva20u64"),
        );
        check("rv64gc", Some("rva20u64"));
        check("rv64imafdc", Some("rva20u64"));
        check("rv64i2p1m2p0", Some("rva20u64"));
        check("rv64i2p1_zba1p0_zbb1p0", Some("rva22u64"));
        check("rv64gc_za64rs1p0_zic64b1p0", Some("rva22u64"));
        check("rv64gcv1p0_zvl128b1p0_zve64d1p0", Some("rva23u64"));
        check("rv64gc_zbc1p0", Some("rva20u64+zbc"));
        check("rv64gc_xtheadba1p0_zba1p0", Some("rva22u64+xtheadba"));
        check("rv64gcv_zvl256b1p0", Some("rva23u64+zvl256b"));
        check("rv32imac", None);
        check("rv64e1p9", None);
        check("rv64", None);
        check("rv64i_ZBA", None);
        check("x86-64", None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "rv64[a-z0-9_p]{0,40}|.{0,20}") {
            riscv_profile(&text);
        }
    }
}
