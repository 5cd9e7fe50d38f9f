//! The CPU level that an image needs: the option `--cpu`, and the level as text and as JSON.

use error::{Error, Exit};
use image_evidence::cpu;
use image_evidence::needs::Needs;
use image_evidence::verdict::{EvidenceFile, LevelGroup};
use image_model::platform::{Platform, PlatformError};
use serde_json::{Value, json};

/// Parses a platform with a CPU level, such as `linux/amd64/v2`.
///
/// # Errors
/// The valid levels, or the architectures that have levels.
pub fn parse_limit(text: &str) -> Result<Platform, String> {
    let mut platform: Platform = text.parse().map_err(|error: PlatformError| error.to_string())?;
    let architecture = platform.architecture.as_str();
    let levels = cpu::levels(architecture);
    if levels.is_empty() {
        let known: Vec<&str> = cpu::architectures().collect();
        return Err(format!("{architecture} has no CPU levels; these have: {}", known.join(", ")));
    }
    let of_variant = |variant: &str| levels.iter().find(|level| level.strip_suffix(".0") == Some(variant));
    let level = platform.variant.as_deref().unwrap_or_default();
    let level = levels.iter().find(|known| **known == level).or_else(|| of_variant(level));
    let Some(level) = level else {
        return Err(format!("write a level of {architecture}: {}", levels.join(", ")));
    };
    platform.variant = Some((*level).into());
    Ok(platform)
}

/// Checks that there is one limit at most for each architecture.
///
/// # Errors
/// Usage.
pub fn check_limits(limits: &[Platform]) -> Result<(), Error> {
    for (number, limit) in limits.iter().enumerate() {
        if let Some(other) = limits[..number].iter().find(|other| is_for(other, limit)) {
            let why = format!("--cpu {other} and --cpu {limit} are for one architecture");
            return Err(Error::new(Exit::Usage, "verify CPU levels", why).hint("omit one of the two"));
        }
    }
    Ok(())
}

/// The limit for the architecture of the binaries.
pub fn limit_for(limits: &[Platform], binaries: Option<&Platform>) -> Option<Platform> {
    limits.iter().find(|limit| binaries.is_some_and(|binaries| is_for(limit, binaries))).cloned()
}

fn is_for(limit: &Platform, platform: &Platform) -> bool {
    limit.os == platform.os && limit.architecture == platform.architecture
}

/// A line for each file of the executed chain that needs more than the limit.
pub fn above(needs: &Needs, limit: Option<&Platform>) -> Vec<String> {
    let Some(limit) = limit else { return Vec::new() };
    let line = |file| format!("needs {}; --cpu allows {limit}", record(file));
    needs.above(limit).map(line).collect()
}

/// The text where no file of the executed chain records a level, which says nothing about the level that it needs.
const NO_MARK: &str = "no mark";

/// The level for people.
pub fn text(needs: &Needs) -> &str {
    needs.level().unwrap_or(NO_MARK)
}

/// A line with the file that proves the level. `None`: no mark.
pub fn proof(needs: &Needs) -> Option<String> {
    needs.proven_by().map(|file| format!("needs {}", record(file)))
}

/// A line for each higher level of files that do not decide.
pub fn notes(needs: &Needs) -> impl Iterator<Item = String> + '_ {
    needs.higher.iter().map(|LevelGroup { count, example }| {
        let more = if *count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let (platform, proof) = (example.platform_with_level(), example.proof().unwrap_or_default());
        format!("note: {}{more} may need {platform}: {proof}", example.path)
    })
}

/// A level with the file that records it.
fn record(file: &EvidenceFile) -> String {
    let (platform, proof) = (file.platform_with_level(), file.proof().unwrap_or_default());
    format!("{platform}: {} ({}, layer {}) records {proof}", file.path, file.role, file.layer)
}

/// The key `needs` of an image.
pub fn json(needs: &Needs, limit: Option<&Platform>) -> Value {
    let above = limit.into_iter().flat_map(|limit| needs.above(limit));
    let above = above.map(|file| json!({"level": file.level(), "file": file.path, "proof": file.proof()}));
    let higher = |LevelGroup { count, example }: &LevelGroup| json!({"level": example.level(), "count": count, "file": example.path, "proof": example.proof()});
    let proven_by = needs.proven_by();
    json!({
        "level": needs.level(),
        "file": proven_by.map(|file| &file.path),
        "proof": proven_by.and_then(EvidenceFile::proof),
        "higher": needs.higher.iter().map(higher).collect::<Vec<_>>(),
        "limit": limit,
        "aboveLimit": above.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_platform_with_a_level() {
        let check = |text: &str, parsed: &str| assert_eq!(parse_limit(text).unwrap().to_string(), parsed);
        check("linux/amd64/v2", "linux/amd64/v2");
        check("amd64/v1", "linux/amd64/v1");
        check("linux/arm/v6", "linux/arm/v6");
        check("linux/arm64/v8", "linux/arm64/v8.0");
        check("linux/arm64/v9", "linux/arm64/v9.0");
        check("linux/arm64/v8.2", "linux/arm64/v8.2");
        check("linux/riscv64/rva22u64", "linux/riscv64/rva22u64");
        check("linux/ppc64le/power9", "linux/ppc64le/power9");
        let refused = |text: &str, why: &str| assert_eq!(parse_limit(text).unwrap_err(), why);
        refused("linux/amd64", "write a level of amd64: v1, v2, v3, v4");
        refused("linux/amd64/v5", "write a level of amd64: v1, v2, v3, v4");
        refused("linux/riscv64/v1", "write a level of riscv64: rva20u64, rva22u64, rva23u64");
        let known = "amd64, arm, arm64, riscv64, ppc64, ppc64le, mips, mipsle, mips64, mips64le";
        refused("linux/s390x/z13", &format!("s390x has no CPU levels; these have: {known}"));
        assert!(parse_limit("linux").is_err());
    }

    #[test]
    fn an_architecture_has_one_limit() {
        let limits = |texts: &[&str]| -> Vec<Platform> {
            texts.iter().map(|text| parse_limit(text).unwrap()).collect()
        };
        assert!(check_limits(&limits(&["linux/amd64/v2", "linux/arm/v7"])).is_ok());
        let error = check_limits(&limits(&["linux/amd64/v2", "linux/amd64/v3"])).unwrap_err();
        assert_eq!(error.kind, Exit::Usage);
        let limits = limits(&["linux/amd64/v2", "linux/arm/v7"]);
        let found = |binaries: &str| limit_for(&limits, Some(&binaries.parse().unwrap()));
        assert_eq!(found("linux/arm").as_ref(), Some(&limits[1]));
        assert_eq!(found("windows/amd64"), None);
        assert_eq!(limit_for(&limits, None), None);
    }
}
