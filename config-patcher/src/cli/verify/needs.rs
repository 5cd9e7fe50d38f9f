//! The CPU level that an image needs, as text and as JSON.

use image_evidence::needs::Needs;
use image_evidence::verdict::{EvidenceFile, LevelGroup};
use serde_json::{Value, json};

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
pub fn json(needs: &Needs) -> Value {
    let higher = |LevelGroup { count, example }: &LevelGroup| json!({"level": example.level(), "count": count, "file": example.path, "proof": example.proof()});
    let proven_by = needs.proven_by();
    json!({
        "level": needs.level(),
        "file": proven_by.map(|file| &file.path),
        "proof": proven_by.and_then(EvidenceFile::proof),
        "higher": needs.higher.iter().map(higher).collect::<Vec<_>>(),
    })
}
