//! Label against evidence: a pure decision.

use image_model::platform::Platform;
use serde::Serialize;
use std::collections::BTreeMap;

/// A file that shows something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvidenceFile {
    pub path: String,
    /// What it is to a container: `entrypoint`, `loader`; empty for a file that merely lies there.
    pub role: &'static str,
    /// The number of its layer, 0 the lowest.
    pub layer: usize,
    /// Its machine, and the lowest level of it that the file is known to need.
    pub platform: Platform,
    pub details: Vec<String>,
}

/// Programs that merely lie in the image, one group a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramGroup {
    pub platform: Platform,
    pub count: u64,
    /// How many of them may be started, and are no libraries.
    #[serde(skip)]
    pub executable: u64,
    /// Some of them.
    pub examples: Vec<EvidenceFile>,
}

/// What is known of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Files that a container executes or loads.
    pub executed: Vec<EvidenceFile>,
    /// All programs that are visible, the executed ones among them.
    pub programs: Vec<ProgramGroup>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    Consistent,
    /// What is executed agrees on another platform, which another label would say.
    Mislabeled,
    /// What is executed belongs to several platforms: no label can be right.
    Mixed,
    /// What is executed fits; something else lies there, too.
    ForeignPayload,
    Undetermined,
}

impl VerdictKind {
    pub fn text(self) -> &'static str {
        match self {
            Self::Consistent => "consistent",
            Self::Mislabeled => "mislabeled",
            Self::Mixed => "mixed",
            Self::ForeignPayload => "foreign payload",
            Self::Undetermined => "undetermined",
        }
    }
}

/// The decision, with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub kind: VerdictKind,
    /// What the binaries agree on, with the highest level that any of them is known to need.
    pub binaries: Option<Platform>,
    pub reasons: Vec<String>,
    /// The files behind the reasons.
    pub files: Vec<EvidenceFile>,
}

/// How a file stands to a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Fits,
    /// The same machine, but a higher level than the label promises.
    NeedsMore,
    Other,
}

pub fn judge(label: &Platform, evidence: &Evidence) -> Verdict {
    let mut reasons = Vec::new();
    let executed = without_multilib(&evidence.executed, &mut reasons);
    let mut verdict = match executed.is_empty() {
        true => judge_by_all(label, evidence),
        false => judge_executed(label, &executed, evidence),
    };
    if verdict.kind == VerdictKind::Consistent {
        foreign(label, evidence, &mut verdict);
    }
    reasons.append(&mut verdict.reasons);
    Verdict { reasons, ..verdict }
}

/// Processors of amd64 run programs of 386 as their own: an image of both is one for amd64.
fn without_multilib(executed: &[EvidenceFile], reasons: &mut Vec<String>) -> Vec<EvidenceFile> {
    let has = |name: &str| executed.iter().any(|shown| shown.platform.architecture == name);
    if !(has("amd64") && has("386")) {
        return executed.to_vec();
    }
    reasons.push("it has programs of 386 as well, which amd64 runs".into());
    executed.iter().filter(|shown| shown.platform.architecture != "386").cloned().collect()
}

fn judge_executed(label: &Platform, executed: &[EvidenceFile], evidence: &Evidence) -> Verdict {
    let of = |wanted: Fit| -> Vec<EvidenceFile> {
        executed.iter().filter(|shown| fit(label, &shown.platform) == wanted).cloned().collect()
    };
    let machines = machines(executed);
    if let [(os, architecture)] = machines.as_slice() {
        let binaries = Some(needed(os, architecture, executed, &evidence.programs));
        let wrong: Vec<EvidenceFile> = [of(Fit::Other), of(Fit::NeedsMore)].concat();
        if wrong.is_empty() {
            let reasons = executed
                .iter()
                .filter(|shown| is_above(label, &shown.platform))
                .take(1)
                .map(reason)
                .collect();
            return Verdict { kind: VerdictKind::Consistent, binaries, reasons, files: executed.to_vec() };
        }
        let reasons = wrong.iter().map(reason).collect();
        return Verdict { kind: VerdictKind::Mislabeled, binaries, reasons, files: wrong };
    }
    let mut wrong = [of(Fit::Other), of(Fit::NeedsMore)].concat();
    // Nothing fits: then each of the machines contradicts the others.
    if of(Fit::Fits).is_empty() {
        wrong = executed.to_vec();
    }
    let reasons = wrong.iter().map(reason).collect();
    Verdict { kind: VerdictKind::Mixed, binaries: None, reasons, files: wrong }
}

/// Nothing tells what would be executed: then all programs that lie there are asked.
fn judge_by_all(label: &Platform, evidence: &Evidence) -> Verdict {
    let groups: Vec<&ProgramGroup> = evidence
        .programs
        .iter()
        .filter(|group| {
            is_native(&group.platform) && (group.platform.os == "linux" || group.platform.os == label.os)
        })
        .collect();
    let shown: Vec<EvidenceFile> =
        groups.iter().flat_map(|group| group.examples.iter().take(1).cloned()).collect();
    if shown.is_empty() {
        let reasons = vec!["no program of any machine is in it".into()];
        return Verdict { kind: VerdictKind::Undetermined, binaries: None, reasons, files: shown };
    }
    let why = "nothing says what would be executed; all its programs were asked";
    let mut verdict = judge_executed(label, &shown, evidence);
    verdict.reasons.insert(0, why.into());
    if verdict.kind == VerdictKind::Mixed {
        let some_fit = shown.iter().any(|shown| fit(label, &shown.platform) == Fit::Fits);
        verdict.kind = if some_fit { VerdictKind::ForeignPayload } else { VerdictKind::Undetermined };
    }
    // Libraries, firmware and test data may be for any machine.
    if verdict.kind == VerdictKind::Mislabeled && groups.iter().all(|group| group.executable == 0) {
        verdict.kind = VerdictKind::Undetermined;
        verdict.reasons.push("none of them can be started".into());
    }
    verdict
}

/// Programs that nobody starts as far as can be told: worth a note.
fn foreign(label: &Platform, evidence: &Evidence, verdict: &mut Verdict) {
    for group in &evidence.programs {
        let runs_anyway = group.platform.architecture == "386" && label.normalized().architecture == "amd64";
        if runs_anyway && group.platform.os == label.os {
            continue;
        }
        let word = match fit(label, &group.platform) {
            Fit::Fits => continue,
            Fit::Other => "is for",
            Fit::NeedsMore => "needs",
        };
        let Some(first) = group.examples.first() else { continue };
        let more = if group.count > 1 { format!(" (and {} more)", group.count - 1) } else { String::new() };
        verdict.reasons.push(format!("{}{more} {word} {}", first.path, group.platform));
        verdict.kind = VerdictKind::ForeignPayload;
        verdict.files.extend(group.examples.iter().cloned());
    }
}

/// The file needs a level of which the label says nothing.
fn is_above(label: &Platform, found: &Platform) -> bool {
    let is_unsaid = label.variant.is_none() && matches!(found.architecture.as_str(), "amd64" | "arm64");
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

/// The platform that these files are for: the highest level of those that are executed, or merely lie there.
fn needed(os: &str, architecture: &str, executed: &[EvidenceFile], all: &[ProgramGroup]) -> Platform {
    let same = |platform: &&Platform| platform.os == os && platform.architecture == architecture;
    let executed = executed.iter().map(|shown| &shown.platform);
    let platforms = executed.chain(all.iter().map(|group| &group.platform)).filter(same);
    let highest =
        platforms.filter_map(|platform| platform.variant.as_deref()).max_by_key(|variant| level(variant));
    Platform::new(os, architecture, highest)
}

/// A label of amd64 or arm64 alone promises no level: whole distributions are built for x86-64-v2 or v3 and labelled
/// so. One that names a level is held to it; `arm` alone is v7, as containerd has it.
fn fit(label: &Platform, found: &Platform) -> Fit {
    let meant = label.normalized();
    if meant.os != found.os || meant.architecture != found.architecture {
        return Fit::Other;
    }
    // Normalizing takes the lowest level away, which may have been named.
    let promised = meant.variant.or_else(|| label.variant.clone()).as_deref().and_then(level);
    match (promised, found.variant.as_deref().and_then(level)) {
        (Some(promised), Some(needed)) if needed > promised => Fit::NeedsMore,
        // Where nothing tells the level, any label may be right.
        _ => Fit::Fits,
    }
}

/// Do these binaries run where images for this platform are pulled?
pub fn runs_on(platform: &Platform, binaries: &Platform) -> bool {
    fit(platform, binaries) == Fit::Fits
}

/// `v7` is 7, `v8.2` is 8, and some write `7`. Other words have no order.
fn level(variant: &str) -> Option<u32> {
    let digits = variant.strip_prefix('v').unwrap_or(variant).split('.').next()?;
    digits.parse().ok()
}

/// A machine that Linux runs on, not a co-processor or a file for none in particular.
fn is_native(platform: &Platform) -> bool {
    let name = platform.architecture.as_str();
    !name.starts_with("elf-machine-") && !matches!(name, "bpf" | "avr" | "cuda" | "amdgpu" | "hexagon")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `role path platform`, a role of `-` for a file that merely lies there.
    fn evidence(lines: &[&str]) -> Evidence {
        let mut evidence = Evidence::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [role, path, platform] = words.as_slice() else { panic!("{line}") };
            let role = match *role {
                "-" => "",
                "shell" => "shell",
                _ => "entrypoint",
            };
            let (os, rest) = platform.split_once('/').unwrap_or(("linux", platform));
            let (architecture, variant) = match rest.split_once("-v") {
                Some((architecture, level)) => (architecture, Some(format!("v{level}"))),
                None => (rest, None),
            };
            let platform = Platform::new(os, architecture, variant.as_deref());
            let shown = EvidenceFile {
                path: (*path).into(),
                role,
                layer: 0,
                platform: platform.clone(),
                details: Vec::new(),
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
    fn check(label: &str, lines: &[&str], kind: VerdictKind, binaries: &str) {
        let verdict = judge(&label.parse().unwrap(), &evidence(lines));
        let found = verdict.binaries.as_ref().map_or(String::new(), ToString::to_string);
        assert_eq!(
            (verdict.kind, found.as_str()),
            (kind, binaries),
            "{label} {lines:?} {:?}",
            verdict.reasons
        );
        assert!(verdict.kind == VerdictKind::Consistent || !verdict.reasons.is_empty(), "no reason is given");
    }

    use VerdictKind::{Consistent, ForeignPayload, Mislabeled, Mixed, Undetermined};

    #[test]
    fn what_is_executed_decides() {
        check("linux/arm64", &["run /app arm64", "shell /bin/sh arm64"], Consistent, "linux/arm64");
        check("linux/arm64/v8", &["run /app arm64"], Consistent, "linux/arm64");
        check("linux/amd64", &["run /app arm64", "shell /bin/sh arm64"], Mislabeled, "linux/arm64");
        check("linux/arm64", &["run /app amd64", "shell /bin/sh arm64"], Mixed, "");
        check("linux/amd64", &["run /app arm64", "shell /bin/sh s390x"], Mixed, "");
        check("linux/arm64", &["run /app arm64", "- /usr/bin/qemu-x amd64"], ForeignPayload, "linux/arm64");
        check("linux/amd64", &["run /app amd64", "- /t64.exe windows/amd64"], ForeignPayload, "linux/amd64");
        // The seed's own image: arm, labelled amd64 by the builder, with the emulator copied in.
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
    fn levels_are_promises() {
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
        check(
            "linux/arm/v6",
            &["run /app arm-v6", "- /usr/lib/lib.so arm-v7"],
            ForeignPayload,
            "linux/arm/v7",
        );
    }

    #[test]
    fn a_level_that_no_label_promised_is_told() {
        let verdict =
            judge(&"linux/amd64".parse().unwrap(), &evidence(&["run /app amd64-v3", "run /b amd64-v3"]));
        assert_eq!(verdict.reasons, ["/app (entrypoint, layer 0) is for linux/amd64/v3"]);
        let verdict = judge(&"linux/amd64/v3".parse().unwrap(), &evidence(&["run /app amd64-v3"]));
        assert_eq!(verdict.reasons, [""; 0]);
    }

    #[test]
    fn amd64_runs_386_and_nobody_else_does() {
        check("linux/amd64", &["run /app 386", "shell /bin/sh amd64"], Consistent, "linux/amd64");
        check("linux/amd64", &["run /app amd64", "- /lib/ld-linux.so.2 386"], Consistent, "linux/amd64");
        check("linux/amd64", &["run /app 386"], Mislabeled, "linux/386");
        check("linux/386", &["run /app amd64"], Mislabeled, "linux/amd64");
        check("linux/arm64", &["run /app arm-v7", "shell /bin/sh arm64"], Mixed, "");
    }

    #[test]
    fn where_nothing_is_executed_all_programs_are_asked() {
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
    fn a_label_in_other_words_is_the_same_label() {
        let label = Platform::new("linux", "aarch64", None);
        assert_eq!(judge(&label, &evidence(&["run /app arm64"])).kind, Consistent);
        let none = Platform::default();
        assert_eq!(judge(&none, &evidence(&["run /app arm64"])).kind, Mislabeled);
    }
}
