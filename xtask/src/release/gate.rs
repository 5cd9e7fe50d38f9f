//! Nothing leaves whose binaries contradict its label: each image's layers are read, and what a container would
//! execute is held against the platform that the image will say.

use super::build::Member;
use super::report::EvidenceReport;
use super::request::Request;
use config_patcher::detect::verdict::Kind;
use config_patcher::verify::{Depth, Subject, verify_all};
use image_store::cli::Output;
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::store::oci_layout::OciLayout;

/// Reads what the members would execute. A contradiction stops the release, with the files that show it.
pub fn hold(
    request: &Request,
    members: &[Member],
    staging: &OciLayout,
    output: &Output,
) -> Result<Vec<EvidenceReport>, StoreError> {
    let subjects: Vec<Subject<'_>> = members
        .iter()
        .map(|member| Subject { source: staging, image: &member.labelled.image, wanted: &member.platform })
        .collect();
    let mut evidence = Vec::with_capacity(members.len());
    let mut problems = Vec::new();
    for (member, found) in members.iter().zip(verify_all(&subjects, Depth::Full, &|_| {})) {
        let finding = found?;
        let verdict = &finding.verdict;
        let shown = verdict.binaries.as_ref().map_or("none".to_string(), ToString::to_string);
        output.say(&format!("binaries {}: {} ({shown})", member.platform, verdict.kind.text()));
        match verdict.kind {
            Kind::Mislabelled | Kind::Mixed => {
                let reasons = verdict.reasons.join("; ");
                problems.push(format!("{}: {}: {reasons}", member.platform, verdict.kind.text()));
                for file in &verdict.shown {
                    let layer = member.labelled.image.manifest.layers.get(file.layer);
                    let layer = layer.map_or(String::new(), |layer| format!(", layer {}", layer.digest));
                    problems
                        .push(format!("{}: {} is for {}{layer}", member.platform, file.path, file.platform));
                }
            }
            Kind::ForeignPayload | Kind::Undetermined => {
                for reason in &verdict.reasons {
                    output.say(&format!("  note: {reason}"));
                }
            }
            Kind::Consistent => {}
        }
        evidence.push(EvidenceReport {
            verdict: verdict.kind.text().to_string(),
            binaries: verdict.binaries.clone(),
            reasons: verdict.reasons.clone(),
        });
    }
    if problems.is_empty() {
        return Ok(evidence);
    }
    let doing = format!("release {}", request.spec.image);
    Err(StoreError::new(Exit::Found, doing, "binaries contradict the platform that they are released for")
        .hint("nothing was published; correct the build")
        .problems(problems))
}
