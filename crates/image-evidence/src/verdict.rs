//! The verdict on an image: its declared platform compared with the evidence, a pure function.

use crate::chain::ChainRole;
use crate::cpu::CpuMark;
use crate::start::StartFailure;
use image_model::platform::Platform;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A file that was built for a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvidenceFile {
    /// The absolute path in the image.
    pub path: String,
    /// Its role in the executed chain, such as `entrypoint` or `loader`; empty for a file that is not executed.
    pub role: &'static str,
    /// The index of its layer; 0 is the lowest.
    pub layer: usize,
    /// The platform that it was built for. The variant is the lowest CPU level that it is known to need.
    pub platform: Platform,
    /// Facts from the file that explain the platform, such as `hard float` or `GOARM=6`.
    pub details: Vec<String>,
    /// The CPU level that it records.
    #[serde(skip)]
    pub mark: Option<CpuMark>,
}

impl EvidenceFile {
    /// Returns whether the image needs the level that the file records. A library may have code for a higher level that it runs
    /// only after a check of the CPU, as libgcrypt and nettle of Debian have; then its build attributes have that level.
    pub(crate) fn decides_level(&self) -> bool {
        let is_certain = self.mark.as_ref().is_none_or(|mark| mark.is_certain);
        is_certain || self.role != ChainRole::Library.text()
    }
}

/// The programs of an image that were built for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramGroup {
    /// The platform.
    pub platform: Platform,
    /// The number of programs and libraries.
    pub count: u64,
    /// Number of those that are executable and not libraries or firmware.
    #[serde(skip)]
    pub executable: u64,
    /// At most five of them.
    pub examples: Vec<EvidenceFile>,
}

/// The files of an image that record one CPU level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelGroup {
    /// The number of programs and libraries.
    pub count: u64,
    /// One of them.
    pub example: EvidenceFile,
}

/// An archive (jar, war, ear, wheel) with native programs or libraries in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveEvidence {
    /// The absolute path in the image.
    pub path: String,
    /// The index of its layer; 0 is the lowest.
    pub layer: usize,
    /// The platforms of what is in it.
    pub platforms: Vec<Platform>,
}

/// The files of an image from which its platform follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Files that a container executes or loads.
    pub executed: Vec<EvidenceFile>,
    /// All programs that a container can see, including the executed ones.
    pub programs: Vec<ProgramGroup>,
    /// The file at which the start of a container certainly fails.
    pub failure: Option<StartFailure>,
    /// Those that record a CPU level, by architecture and level.
    pub levels: Vec<LevelGroup>,
    /// Archives with native programs that a container can see, if they were read.
    pub archives: Vec<ArchiveEvidence>,
}

/// The result of comparing the declared platform with the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// The executed files were built for the declared platform.
    Consistent,
    /// The executed files were built for one other platform.
    Mislabeled,
    /// The same, and no other declared platform would be right: the index would lose this platform, or have the other one twice.
    WrongBuild,
    /// The executed files were built for several platforms: no declared platform can be right.
    Mixed,
    /// The kernel refuses to execute a file of the executed chain, whatever the platform metadata is.
    WouldNotStart,
    /// The executed files were built for the declared platform; other files were not.
    ForeignPayload,
    /// Nothing shows what the image was built for.
    Undetermined,
}

impl VerdictKind {
    /// The verdict in words, as in `foreign payload`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Consistent => "consistent",
            Self::Mislabeled => "mislabeled",
            Self::WrongBuild => "wrong build",
            Self::Mixed => "mixed",
            Self::WouldNotStart => "would not start",
            Self::ForeignPayload => "foreign payload",
            Self::Undetermined => "undetermined",
        }
    }
}

/// A verdict with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The result.
    pub kind: VerdictKind,
    /// The binary platform, with the highest CPU level that an executed file is known to need. `None`: there is none, or the
    /// files contradict each other.
    pub binaries: Option<Platform>,
    /// The reasons, each a sentence without a period.
    pub reasons: Vec<String>,
    /// The files behind the reasons.
    pub files: Vec<EvidenceFile>,
    /// The file at which the start of a container fails. It decides only [`VerdictKind::WouldNotStart`], but an image with
    /// another verdict may have one as well.
    pub failure: Option<StartFailure>,
}

/// Result of comparing the platform of a file with the declared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Fits,
    /// The same architecture, but a higher CPU level than declared.
    NeedsMore,
    Other,
}

/// Compares the declared platform with the evidence.
///
/// Returns the verdict from the executed files. Only if none are known, all programs of the image are considered.
pub fn judge(declared: &Platform, evidence: &Evidence) -> Verdict {
    let mut reasons = Vec::new();
    let executed = without_multilib(&evidence.executed, &mut reasons);
    let (modules, executed): (Vec<EvidenceFile>, Vec<EvidenceFile>) =
        executed.into_iter().partition(|shown| is_wasm(&shown.platform) && !is_wasm(declared));
    let mut verdict = match executed.is_empty() {
        true if !modules.is_empty() => undetermined_modules(modules),
        true => judge_by_all(declared, evidence),
        false => judge_executed(declared, &executed),
    };
    let is_certain = |failure: &&StartFailure| {
        declared.os.eq_ignore_ascii_case("linux")
            || failure.other_system().is_some_and(|platform| platform.os != declared.os)
    };
    if let Some(failure) = evidence.failure.as_ref().filter(is_certain) {
        add_failure(&mut verdict, failure, !executed.is_empty());
    }
    if verdict.kind == VerdictKind::Consistent {
        foreign(declared, evidence, &mut verdict);
        foreign_archives(declared, evidence, &mut verdict);
    }
    let name = declared.canonical();
    if name != *declared && matches!(verdict.kind, VerdictKind::Consistent | VerdictKind::ForeignPayload) {
        verdict.kind = VerdictKind::Mislabeled;
        verdict.reasons.insert(0, format!("no engine looks for {declared}; the platform is named {name}"));
    }
    reasons.append(&mut verdict.reasons);
    Verdict { reasons, ..verdict }
}

/// Adds a failed start. Programs for another platform are the graver fault: with a loader for the right platform, they would not
/// start either.
fn add_failure(verdict: &mut Verdict, failure: &StartFailure, are_executed: bool) {
    let is_foreign = are_executed && matches!(verdict.kind, VerdictKind::Mislabeled | VerdictKind::Mixed);
    verdict.failure = Some(failure.clone());
    match failure.other_system() {
        None if is_foreign => return verdict.reasons.push(failure.to_string()),
        // An image is not made for another operating system by its metadata.
        Some(platform) => verdict.binaries = Some(platform.clone()),
        None => {}
    }
    verdict.kind = VerdictKind::WouldNotStart;
    verdict.reasons = vec![failure.to_string()];
}

/// The verdict on an image of another platform that executes WebAssembly: some runtimes execute it whatever the platform is.
fn undetermined_modules(files: Vec<EvidenceFile>) -> Verdict {
    let reason = |shown: &EvidenceFile| {
        format!("{} is a WebAssembly module, which only some container runtimes execute", shown.path)
    };
    let reasons = files.iter().map(reason).collect();
    Verdict { kind: VerdictKind::Undetermined, binaries: None, reasons, files, failure: None }
}

/// Returns whether this is a platform of WebAssembly: `wasi/wasm`, `wasip1/wasm`, `js/wasm`, `wasi/wasm32`.
pub(crate) fn is_wasm(platform: &Platform) -> bool {
    matches!(platform.architecture.as_str(), "wasm" | "wasm32")
}

/// Leaves out 386 programs beside amd64 ones: amd64 processors run both, so such an image is for amd64.
fn without_multilib(executed: &[EvidenceFile], reasons: &mut Vec<String>) -> Vec<EvidenceFile> {
    let has = |name: &str| executed.iter().any(|shown| shown.platform.architecture == name);
    if !(has("amd64") && has("386")) {
        return executed.to_vec();
    }
    reasons.push("it also contains 386 programs, which amd64 runs".into());
    executed.iter().filter(|shown| shown.platform.architecture != "386").cloned().collect()
}

fn judge_executed(declared: &Platform, executed: &[EvidenceFile]) -> Verdict {
    let of = |wanted: Fit| -> Vec<EvidenceFile> {
        executed.iter().filter(|shown| fit_of(declared, shown) == wanted).cloned().collect()
    };
    let machines = machines(executed);
    if let [(os, architecture)] = machines.as_slice() {
        let binaries = Some(needed(os, architecture, executed));
        let wrong: Vec<EvidenceFile> = [of(Fit::Other), of(Fit::NeedsMore)].concat();
        if wrong.is_empty() {
            let reasons = executed
                .iter()
                .filter(|shown| shown.decides_level() && is_above(declared, &shown.platform))
                .take(1)
                .map(reason)
                .collect();
            return Verdict {
                kind: VerdictKind::Consistent,
                binaries,
                reasons,
                files: executed.to_vec(),
                failure: None,
            };
        }
        let reasons = wrong.iter().map(reason).collect();
        return Verdict { kind: VerdictKind::Mislabeled, binaries, reasons, files: wrong, failure: None };
    }
    let mut wrong = [of(Fit::Other), of(Fit::NeedsMore)].concat();
    // Nothing fits, so every file contradicts another one.
    if of(Fit::Fits).is_empty() {
        wrong = executed.to_vec();
    }
    let reasons = wrong.iter().map(reason).collect();
    Verdict { kind: VerdictKind::Mixed, binaries: None, reasons, files: wrong, failure: None }
}

/// The verdict where nothing is known to be executed: every platform that the image has programs for counts.
fn judge_by_all(declared: &Platform, evidence: &Evidence) -> Verdict {
    let groups: Vec<&ProgramGroup> = evidence
        .programs
        .iter()
        .filter(|group| {
            is_native(&group.platform) && (group.platform.os == "linux" || group.platform.os == declared.os)
        })
        .collect();
    let fits = |group: &ProgramGroup| fit(declared, &group.platform) == Fit::Fits;
    let some_fit = groups.iter().any(|group| fits(group));
    // A file for a higher level counts only if it is executed.
    let counts = |group: &&&ProgramGroup| !(some_fit && fit(declared, &group.platform) == Fit::NeedsMore);
    let shown: Vec<EvidenceFile> =
        groups.iter().filter(counts).flat_map(|group| group.examples.iter().take(1).cloned()).collect();
    if shown.is_empty() {
        let reasons = vec!["it contains no programs".into()];
        return Verdict {
            kind: VerdictKind::Undetermined,
            binaries: None,
            reasons,
            files: shown,
            failure: None,
        };
    }
    let why = "what it executes is unknown; all its programs were considered";
    let mut verdict = judge_executed(declared, &shown);
    verdict.reasons.insert(0, why.into());
    if verdict.kind == VerdictKind::Mixed {
        verdict.kind = if some_fit { VerdictKind::ForeignPayload } else { VerdictKind::Undetermined };
    }
    // Libraries, firmware and test data may be for any architecture.
    if verdict.kind == VerdictKind::Mislabeled && groups.iter().all(|group| group.executable == 0) {
        verdict.kind = VerdictKind::Undetermined;
        verdict.reasons.push("none of them is executable".into());
    }
    verdict
}

/// Adds programs for other platforms that are not known to be executed.
fn foreign(declared: &Platform, evidence: &Evidence, verdict: &mut Verdict) {
    for group in &evidence.programs {
        let runs_anyway =
            group.platform.architecture == "386" && declared.normalized().architecture == "amd64";
        if runs_anyway && group.platform.os == declared.os {
            continue;
        }
        // A file for a higher level is a note of `needs`: it may be there for a processor that has the level.
        if fit(declared, &group.platform) != Fit::Other {
            continue;
        }
        let Some(first) = group.examples.first() else { continue };
        let more = if group.count > 1 { format!(" (and {} more)", group.count - 1) } else { String::new() };
        verdict.reasons.push(format!("{}{more} is for {}", first.path, group.platform));
        verdict.kind = VerdictKind::ForeignPayload;
        verdict.files.extend(group.examples.iter().cloned());
    }
}

/// Adds archives with native programs for the declared operating system, but none for the declared platform.
fn foreign_archives(declared: &Platform, evidence: &Evidence, verdict: &mut Verdict) {
    for archive in &evidence.archives {
        let same_system: Vec<String> = archive
            .platforms
            .iter()
            .filter(|platform| platform.os == declared.os)
            .map(|platform| Platform::new(&platform.os, &platform.architecture, None).to_string())
            .collect();
        let fits = archive.platforms.iter().any(|platform| fit(declared, platform) != Fit::Other);
        if fits || same_system.is_empty() {
            continue;
        }
        let natives: BTreeSet<String> = same_system.into_iter().collect();
        let natives = Vec::from_iter(natives).join(", ");
        verdict.reasons.push(format!(
            "{} (layer {}) brings natives for {natives}, none for {declared}",
            archive.path, archive.layer
        ));
        verdict.kind = VerdictKind::ForeignPayload;
    }
}

/// The file needs a CPU level, and no level is declared.
fn is_above(declared: &Platform, found: &Platform) -> bool {
    let is_unsaid = declared.variant.is_none() && matches!(found.architecture.as_str(), "amd64" | "arm64");
    is_unsaid && found.variant.is_some()
}

fn reason(shown: &EvidenceFile) -> String {
    let details =
        if shown.details.is_empty() { String::new() } else { format!(": {}", shown.details.join(", ")) };
    let role = if shown.role.is_empty() { String::new() } else { format!("{}, ", shown.role) };
    format!("{} ({role}layer {}) is for {}{details}", shown.path, shown.layer, shown.platform)
}

fn machines(shown: &[EvidenceFile]) -> Vec<(String, String)> {
    let names: BTreeMap<(String, String), ()> = shown
        .iter()
        .map(|shown| ((shown.platform.os.clone(), shown.platform.architecture.clone()), ()))
        .collect();
    names.into_keys().collect()
}

/// The binary platform of these files, with the highest CPU level that one of them needs.
fn needed(os: &str, architecture: &str, executed: &[EvidenceFile]) -> Platform {
    let deciding = executed.iter().filter(|shown| shown.decides_level());
    let variants = deciding.filter_map(|shown| shown.platform.variant.as_deref());
    let highest = variants.max_by_key(|variant| level(variant));
    Platform::new(os, architecture, highest)
}

/// Compares the declared platform with that of an executed file.
fn fit_of(declared: &Platform, shown: &EvidenceFile) -> Fit {
    match fit(declared, &shown.platform) {
        Fit::NeedsMore if !shown.decides_level() => Fit::Fits,
        fit => fit,
    }
}

/// A declared amd64 or arm64 without a variant allows every level, because whole distributions that are built for
/// x86-64-v2 or v3 declare only that. A declared level is an upper bound; `arm` alone is v7, as in containerd.
fn fit(declared: &Platform, found: &Platform) -> Fit {
    let meant = declared.normalized();
    if is_wasm(&meant) && is_wasm(found) {
        return Fit::Fits;
    }
    // WOW64, as amd64 kernels of Linux, runs 386 programs; no Windows image is for 386.
    if (meant.os.as_str(), meant.architecture.as_str()) == ("windows", "amd64")
        && *found == Platform::new("windows", "386", None)
    {
        return Fit::Fits;
    }
    if meant.os != found.os || meant.architecture != found.architecture {
        return Fit::Other;
    }
    // Normalizing removes the lowest level, which may have been declared.
    let promised = meant.variant.or_else(|| declared.variant.clone()).as_deref().and_then(level);
    match (promised, found.variant.as_deref().and_then(level)) {
        (Some(promised), Some(needed)) if needed > promised => Fit::NeedsMore,
        // Where the level is unknown, any declared one may be right.
        _ => Fit::Fits,
    }
}

/// Returns whether binaries for `binaries` run on hosts that pull images for `platform`.
pub fn runs_on(platform: &Platform, binaries: &Platform) -> bool {
    fit(platform, binaries) == Fit::Fits
}

/// The number of a level: 7 for `v7` and `7`, 8 for `v8.2`. Other variants have no order.
fn level(variant: &str) -> Option<u32> {
    let digits = variant.strip_prefix('v').unwrap_or(variant).split('.').next()?;
    digits.parse().ok()
}

/// Returns whether it is an architecture that Linux runs on, not a coprocessor or a virtual machine.
fn is_native(platform: &Platform) -> bool {
    let name = platform.architecture.as_str();
    !name.starts_with("elf-machine-") && !matches!(name, "bpf" | "avr" | "cuda" | "amdgpu" | "hexagon")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns evidence from lines of `ROLE PATH PLATFORM`; the role `-` is a file that is not executed.
    fn evidence(lines: &[&str]) -> Evidence {
        let mut evidence = Evidence::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [role, path, platform] = words.as_slice() else { panic!("{line}") };
            let role = match *role {
                "-" => "",
                "shell" => "shell",
                "library" => "library",
                _ => "entrypoint",
            };
            let (os, rest) = platform.split_once('/').unwrap_or(("linux", platform));
            let (architecture, variant) = match rest.split_once("-v") {
                Some((architecture, level)) => (architecture, Some(format!("v{level}"))),
                None => (rest, None),
            };
            let platform = Platform::new(os, architecture, variant.as_deref());
            // As build attributes record it.
            let mark = |level: String| CpuMark { level, proof: "attributes".into(), is_certain: false };
            let shown = EvidenceFile {
                path: (*path).into(),
                role,
                layer: 0,
                platform: platform.clone(),
                details: Vec::new(),
                mark: variant.map(mark),
            };
            match evidence.programs.iter_mut().find(|group| group.platform == platform) {
                Some(group) => group.count += 1,
                None => {
                    let executable = u64::from(!path.contains(".so"));
                    evidence.programs.push(ProgramGroup {
                        platform,
                        count: 1,
                        executable,
                        examples: vec![shown.clone()],
                    });
                }
            }
            if !role.is_empty() {
                evidence.executed.push(shown);
            }
        }
        evidence
    }

    #[track_caller]
    fn check(declared: &str, lines: &[&str], kind: VerdictKind, binaries: &str) {
        let verdict = judge(&declared.parse().unwrap(), &evidence(lines));
        let found = verdict.binaries.as_ref().map_or(String::new(), ToString::to_string);
        assert_eq!(
            (verdict.kind, found.as_str()),
            (kind, binaries),
            "{declared} {lines:?} {:?}",
            verdict.reasons
        );
        assert!(verdict.kind == VerdictKind::Consistent || !verdict.reasons.is_empty(), "no reason is given");
    }

    use VerdictKind::{Consistent, ForeignPayload, Mislabeled, Mixed, Undetermined, WouldNotStart};

    #[test]
    fn archives_with_natives_for_other_architectures_alone_are_a_note() {
        let check = |declared: &str, platforms: &[&str], note: Option<&str>| {
            let platforms = platforms.iter().map(|platform| platform.parse().unwrap()).collect();
            let mut evidence = evidence(&["run /app arm64"]);
            evidence.archives.push(ArchiveEvidence { path: "/netty.jar".into(), layer: 1, platforms });
            let verdict = judge(&declared.parse().unwrap(), &evidence);
            let kind = if note.is_some() { ForeignPayload } else { Consistent };
            assert_eq!((verdict.kind, verdict.reasons.first().map(String::as_str)), (kind, note));
        };
        check("linux/arm64", &["linux/amd64", "linux/arm64"], None);
        check("linux/arm64", &["darwin/amd64", "windows/amd64"], None);
        check(
            "linux/arm64",
            &["linux/386", "linux/amd64/v2", "linux/amd64", "windows/arm64"],
            Some("/netty.jar (layer 1) brings natives for linux/386, linux/amd64, none for linux/arm64"),
        );
    }

    #[test]
    fn executed_files_determine_the_verdict() {
        check("linux/arm64", &["run /app arm64", "shell /bin/sh arm64"], Consistent, "linux/arm64");
        check("linux/arm64/v8", &["run /app arm64"], Consistent, "linux/arm64");
        check("linux/amd64", &["run /app arm64", "shell /bin/sh arm64"], Mislabeled, "linux/arm64");
        check("linux/arm64", &["run /app amd64", "shell /bin/sh arm64"], Mixed, "");
        check("linux/amd64", &["run /app arm64", "shell /bin/sh s390x"], Mixed, "");
        check("linux/arm64", &["run /app arm64", "- /usr/bin/qemu-x amd64"], ForeignPayload, "linux/arm64");
        for declared in ["wasi/wasm", "wasip1/wasm", "js/wasm"] {
            check(declared, &["run /app.wasm wasi/wasm"], Consistent, "wasi/wasm");
        }
        check("wasi/wasm", &["run /app amd64"], Mislabeled, "linux/amd64");
        check("linux/amd64", &["run /app.wasm wasi/wasm", "- /bin/sh amd64"], Undetermined, "");
        check("windows/amd64", &["run /a.exe windows/386"], Consistent, "windows/386");
        check("linux/amd64", &["run /app amd64", "- /t64.exe windows/amd64"], ForeignPayload, "linux/amd64");
        // An arm image that its builder declared as amd64, with the emulator copied in.
        check(
            "linux/amd64",
            &["run /bin/sh arm-v7", "- /usr/bin/qemu-arm-static amd64"],
            Mislabeled,
            "linux/arm/v7",
        );
        check("windows/amd64", &["run /app amd64"], Mislabeled, "linux/amd64");
        check("freebsd/amd64", &["run /app freebsd/amd64"], Consistent, "freebsd/amd64");
    }

    #[test]
    fn levels_are_compared() {
        check("linux/arm/v5", &["run /app arm-v7"], Mislabeled, "linux/arm/v7");
        check("linux/arm/v6", &["run /app arm-v7"], Mislabeled, "linux/arm/v7");
        check("linux/arm/v7", &["run /app arm-v6"], Consistent, "linux/arm/v6");
        check("linux/arm", &["run /app arm-v7"], Consistent, "linux/arm/v7");
        check("linux/arm", &["run /app arm-v8"], Mislabeled, "linux/arm/v8");
        check("linux/arm/v5", &["run /app arm"], Consistent, "linux/arm");
        check("linux/amd64/v1", &["run /app amd64-v3"], Mislabeled, "linux/amd64/v3");
        check("linux/amd64/v2", &["run /app amd64-v3"], Mislabeled, "linux/amd64/v3");
        check("linux/amd64", &["run /app amd64-v2"], Consistent, "linux/amd64/v2");
        check("linux/arm64/v8", &["run /app arm64-v9"], Mislabeled, "linux/arm64/v9");
        check("linux/amd64/v3", &["run /app amd64-v2"], Consistent, "linux/amd64/v2");
        check("linux/amd64/v2", &["run /app amd64"], Consistent, "linux/amd64");
        check("linux/arm64/v9", &["run /app arm64-v9"], Consistent, "linux/arm64/v9");
        // Debian's armhf has Go programs for v6: the highest level counts.
        check("linux/amd64", &["run /app arm-v6", "shell /bin/sh arm-v7"], Mislabeled, "linux/arm/v7");
    }

    #[test]
    fn a_higher_level_counts_only_where_it_is_certainly_executed() {
        // Debian's libgcrypt has code for v8 that it runs after a check of the CPU, and its nettle on armel for v6.
        let gcrypt = "- /usr/lib/libgcrypt.so.20 arm-v8";
        check("linux/arm/v7", &["run /python3 arm-v7", gcrypt], Consistent, "linux/arm/v7");
        check("linux/arm", &["run /python3 arm-v7", gcrypt], Consistent, "linux/arm/v7");
        let loaded = "library /usr/lib/libgcrypt.so.20 arm-v8";
        check("linux/arm/v7", &["run /gpgv arm-v7", loaded], Consistent, "linux/arm/v7");
        check("linux/amd64", &["run /gpgv arm-v7", loaded], Mislabeled, "linux/arm/v7");
        check("linux/arm/v6", &["run /app arm-v6", "- /usr/lib/lib.so arm-v7"], Consistent, "linux/arm/v6");
        check("linux/amd64/v2", &["run /app amd64", "- /x amd64-v3"], Consistent, "linux/amd64");
        // Nothing is known to be executed.
        check("linux/arm/v7", &["- /a arm-v7", gcrypt], Consistent, "linux/arm/v7");
        check("linux/arm/v6", &["- /a arm-v7"], Mislabeled, "linux/arm/v7");
        check("linux/arm/v7", &["- /a arm-v7", gcrypt, "- /x amd64"], ForeignPayload, "");
    }

    #[test]
    fn a_level_above_the_declared_one_is_a_note() {
        let verdict =
            judge(&"linux/amd64".parse().unwrap(), &evidence(&["run /app amd64-v3", "run /b amd64-v3"]));
        assert_eq!(verdict.reasons, ["/app (entrypoint, layer 0) is for linux/amd64/v3"]);
        let verdict = judge(&"linux/amd64/v3".parse().unwrap(), &evidence(&["run /app amd64-v3"]));
        assert_eq!(verdict.reasons, [""; 0]);
    }

    #[test]
    fn only_amd64_runs_386() {
        check("linux/amd64", &["run /app 386", "shell /bin/sh amd64"], Consistent, "linux/amd64");
        check("linux/amd64", &["run /app amd64", "- /lib/ld-linux.so.2 386"], Consistent, "linux/amd64");
        check("linux/amd64", &["run /app 386"], Mislabeled, "linux/386");
        check("linux/386", &["run /app amd64"], Mislabeled, "linux/amd64");
        check("linux/arm64", &["run /app arm-v7", "shell /bin/sh arm64"], Mixed, "");
    }

    #[test]
    fn all_programs_are_considered_if_the_executed_ones_are_unknown() {
        check("linux/arm64", &[], Undetermined, "");
        check("linux/arm64", &["- /a arm64", "- /b arm64"], Consistent, "linux/arm64");
        check("linux/amd64", &["- /a arm64", "- /b arm64"], Mislabeled, "linux/arm64");
        check("linux/amd64", &["- /lib/a.so arm64"], Undetermined, "linux/arm64");
        check("linux/arm64", &["- /lib/a.so arm64"], Consistent, "linux/arm64");
        check("linux/amd64", &["- /a arm64", "- /b amd64"], ForeignPayload, "");
        check("linux/amd64", &["- /a arm64", "- /b s390x"], Undetermined, "");
        check("linux/amd64", &["- /fw elf-machine-83"], Undetermined, "");
        check("linux/amd64", &["- /x.exe windows/amd64"], Undetermined, "");
        check("windows/amd64", &["- /x.exe windows/amd64"], Consistent, "windows/amd64");
    }

    #[test]
    fn a_failed_start_decides_unless_the_executed_files_are_for_another_platform() {
        use crate::start::FailureCause;
        let failure = |cause: FailureCause| StartFailure {
            file: "/app".into(),
            role: "entrypoint",
            layer: Some(0),
            needed_by: None,
            cause,
        };
        let mach_o =
            || failure(FailureCause::OtherSystem { platform: Platform::new("darwin", "arm64", None) });
        let check =
            |declared: &str, lines: &[&str], failure: StartFailure, kind: VerdictKind, binaries: &str| {
                let evidence = Evidence { failure: Some(failure.clone()), ..evidence(lines) };
                let verdict = judge(&declared.parse().unwrap(), &evidence);
                let found = verdict.binaries.as_ref().map_or(String::new(), ToString::to_string);
                assert_eq!((verdict.kind, found.as_str()), (kind, binaries), "{declared} {lines:?}");
                let is_given = verdict.failure.is_some();
                assert_eq!(verdict.reasons.contains(&failure.to_string()), is_given, "{:?}", verdict.reasons);
                assert_eq!(is_given, declared.starts_with("linux"));
            };
        let absent = || failure(FailureCause::Absent);
        check("linux/arm64", &["shell /bin/sh arm64"], absent(), WouldNotStart, "linux/arm64");
        check("linux/arm64", &[], absent(), WouldNotStart, "");
        check("linux/arm64", &["- /lib/x.so arm64"], absent(), WouldNotStart, "linux/arm64");
        check("linux/arm64", &["run /app arm64", "- /x.so amd64"], absent(), WouldNotStart, "linux/arm64");
        // A wrong build comes first; a loader for this platform would not help.
        check("linux/arm64", &["run /app amd64"], absent(), Mislabeled, "linux/amd64");
        check("linux/arm64", &["run /app amd64", "shell /bin/sh arm64"], absent(), Mixed, "");
        // Metadata does not make an image for another operating system.
        check("linux/arm64", &["run /app darwin/arm64"], mach_o(), WouldNotStart, "darwin/arm64");
        check(
            "linux/arm64",
            &["run /app darwin/arm64", "shell /s arm64"],
            mach_o(),
            WouldNotStart,
            "darwin/arm64",
        );
        // Only the rules of Linux are known.
        check("windows/amd64", &["run /app windows/amd64"], absent(), Consistent, "windows/amd64");
        check("freebsd/amd64", &["run /app freebsd/amd64"], absent(), Consistent, "freebsd/amd64");
    }

    #[test]
    fn an_alias_is_mislabeled() {
        let check = |architecture: &str, variant: Option<&str>, kind: VerdictKind| {
            let declared = Platform::new("linux", architecture, variant);
            let verdict = judge(&declared, &evidence(&["run /app arm64", "- /x amd64"]));
            assert_eq!(verdict.kind, kind, "{declared}");
            assert_eq!(verdict.binaries, Some(Platform::new("linux", "arm64", None)));
        };
        check("aarch64", None, Mislabeled);
        check("ARM64", None, Mislabeled);
        check("arm64", Some("armv8"), Mislabeled);
        check("arm64", Some("v8"), ForeignPayload);
        check("arm64", Some(""), ForeignPayload);
        let declared = Platform::new("linux", "aarch64", None);
        let verdict = judge(&declared, &evidence(&["run /app arm64"]));
        assert_eq!(verdict.reasons, ["no engine looks for linux/aarch64; the platform is named linux/arm64"]);
        let none = Platform::default();
        assert_eq!(judge(&none, &evidence(&["run /app arm64"])).kind, Mislabeled);
    }
}
