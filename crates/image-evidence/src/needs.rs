//! The CPU level that an image needs, as far as its files record it: a pure function.

use crate::cpu::{covers, rank};
use crate::verdict::{Evidence, EvidenceFile, LevelGroup};
use image_model::platform::Platform;

/// The CPU levels that the files of an image record. A file that records none may need any level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The files of the executed chain that record their level. A container needs the highest of them.
    pub executed: Vec<EvidenceFile>,
    /// Higher levels than that of the executed chain, lowest first: of files outside it, and of libraries in it that may run
    /// such code only after a check of the CPU.
    pub higher: Vec<LevelGroup>,
}

impl EvidenceFile {
    /// The CPU level that the file records.
    pub fn level(&self) -> Option<&str> {
        self.mark.as_ref().map(|mark| mark.level.as_str())
    }

    /// The record of the level, such as `GOAMD64=v3`.
    pub fn proof(&self) -> Option<&str> {
        self.mark.as_ref().map(|mark| mark.proof.as_str())
    }

    /// The platform with the level, such as `linux/amd64/v3`.
    pub fn platform_with_level(&self) -> Platform {
        let variant = self.level().or(self.platform.variant.as_deref());
        Platform::new(&self.platform.os, &self.platform.architecture, variant)
    }

    fn rank(&self) -> usize {
        self.level().map_or(0, |level| rank(&self.platform.architecture, level))
    }
}

impl Needs {
    /// The file of the executed chain with the highest level, which proves what the image needs. `None`: no mark.
    pub fn proven_by(&self) -> Option<&EvidenceFile> {
        // The first one of several with that level.
        self.executed.iter().rev().max_by_key(|file| file.rank())
    }

    /// The level that the image needs, such as `v3`. `None`: no mark.
    pub fn level(&self) -> Option<&str> {
        self.proven_by().and_then(EvidenceFile::level)
    }

    /// The files of the executed chain that need more than the level of a platform, such as `linux/amd64/v2`; none if the
    /// image is for another architecture.
    pub fn above<'a>(&'a self, limit: &'a Platform) -> impl Iterator<Item = &'a EvidenceFile> {
        let is_above = move |file: &&EvidenceFile| {
            let (own, level) = (&file.platform, file.level().zip(limit.variant.as_deref()));
            own.os == limit.os
                && own.architecture == limit.architecture
                && level.is_some_and(|(needed, limit)| !covers(&own.architecture, limit, needed))
        };
        self.executed.iter().filter(is_above)
    }
}

/// The levels of the files for the architecture of `binaries`, the binary platform.
pub fn needs(evidence: &Evidence, binaries: Option<&Platform>) -> Needs {
    let Some(binaries) = binaries else { return Needs::default() };
    let is_own = |file: &EvidenceFile| {
        file.platform.os == binaries.os && file.platform.architecture == binaries.architecture
    };
    let executed = evidence.executed.iter();
    let executed =
        executed.filter(|file| file.mark.is_some() && file.decides_level() && is_own(file)).cloned();
    let mut needs = Needs { executed: executed.collect(), higher: Vec::new() };
    let level = needs.level().map(str::to_string);
    let is_higher = |group: &&LevelGroup| {
        let pair = level.as_deref().zip(group.example.level());
        pair.is_none_or(|(level, other)| !covers(&binaries.architecture, level, other))
    };
    needs.higher =
        evidence.levels.iter().filter(|group| is_own(&group.example)).filter(is_higher).cloned().collect();
    needs.higher.sort_by_key(|group| group.example.rank());
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuMark;

    /// Returns a file from `ROLE PATH ARCHITECTURE LEVEL`; the level `-` is no mark, one that ends with `?` is uncertain.
    fn file(line: &str) -> EvidenceFile {
        let words: Vec<&str> = line.split(' ').collect();
        let [role, path, architecture, level] = words.as_slice() else { panic!("{line}") };
        let role = match *role {
            "-" => "",
            "library" => "library",
            _ => "entrypoint",
        };
        let mark = (*level != "-").then(|| CpuMark {
            level: level.trim_end_matches('?').into(),
            proof: "x".into(),
            is_certain: !level.ends_with('?'),
        });
        let platform = Platform::new("linux", architecture, None);
        EvidenceFile { path: (*path).into(), role, layer: 0, platform, details: Vec::new(), mark }
    }

    fn found(lines: &[&str], binaries: &str) -> Needs {
        let files: Vec<EvidenceFile> = lines.iter().map(|line| file(line)).collect();
        let levels = files.iter().filter(|file| file.mark.is_some());
        let levels = levels.map(|file| LevelGroup { count: 1, example: file.clone() }).collect();
        let executed = files.into_iter().filter(|file| !file.role.is_empty()).collect();
        let evidence = Evidence { executed, levels, ..Evidence::default() };
        needs(&evidence, Some(&binaries.parse().unwrap()))
    }

    #[test]
    fn the_executed_chain_determines_the_level_and_other_files_are_notes() {
        let check = |lines: &[&str], binaries: &str, level: Option<&str>, by: &str, higher: &[&str]| {
            let needs = found(lines, binaries);
            let proven_by = needs.proven_by().map_or("", |file| &file.path);
            let others: Vec<&str> = needs.higher.iter().map(|group| group.example.path.as_str()).collect();
            assert_eq!((needs.level(), proven_by, others.as_slice()), (level, by, higher), "{lines:?}");
        };
        check(&["run /app amd64 v3", "- /x amd64 v2"], "amd64", Some("v3"), "/app", &[]);
        check(&["run /app amd64 v1", "- /x amd64 v2"], "amd64", Some("v1"), "/app", &["/x"]);
        check(&["run /app amd64 v2", "run /sh amd64 v2"], "amd64", Some("v2"), "/app", &[]);
        check(&["run /app amd64 -"], "amd64", None, "", &[]);
        check(&["run /app amd64 -", "- /y amd64 v4", "- /x amd64 v1"], "amd64", None, "", &["/x", "/y"]);
        // A library is loaded in any case, but its build attributes are those of all its objects.
        check(&["run /app arm v7?", "library /a.so arm v8?"], "arm", Some("v7"), "/app", &["/a.so"]);
        check(&["run /app amd64 v2", "library /a.so amd64 v3"], "amd64", Some("v3"), "/a.so", &[]);
        check(&["run /app arm v7", "- /x amd64 v3"], "arm", Some("v7"), "/app", &[]);
        check(
            &["run /app arm64 v9.0", "- /x arm64 v8.5", "- /y arm64 v8.6"],
            "arm64",
            Some("v9.0"),
            "/app",
            &["/y"],
        );
        let beyond = &["run /app riscv64 rva20u64+zbc?", "- /b riscv64 rva23u64"];
        check(beyond, "riscv64", Some("rva20u64+zbc"), "/app", &["/b"]);
        assert_eq!(needs(&Evidence::default(), None), Needs::default());
    }

    #[test]
    fn every_executed_file_above_a_limit_is_found() {
        let check = |lines: &[&str], limit: &str, above: &[&str]| {
            let needs = found(lines, "linux/amd64");
            let limit = limit.parse().unwrap();
            assert_eq!(
                needs.above(&limit).map(|file| file.path.as_str()).collect::<Vec<_>>(),
                above,
                "{limit}"
            );
        };
        let lines = ["run /app amd64 v3", "run /b amd64 v2", "- /x amd64 v4", "run /none amd64 -"];
        check(&lines, "linux/amd64/v1", &["/app", "/b"]);
        check(&lines, "linux/amd64/v2", &["/app"]);
        check(&lines, "linux/amd64/v3", &[]);
        check(&lines, "linux/arm/v5", &[]);
        check(&lines, "freebsd/amd64/v1", &[]);
    }
}
