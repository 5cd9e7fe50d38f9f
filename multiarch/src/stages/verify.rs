//! Nothing leaves whose binaries contradict its label: each image's layers are read, and what a container would
//! execute is held against the platform that the image will say.

use crate::request::Request;
use crate::run_state::Trace;
use crate::stages::build::Member;
use crate::stages::report::EvidenceReport;
use crate::work_dir::records::Records;
use cli::Output;
use error::Error;
use error::Exit;
use image_evidence::verdict::{Verdict, VerdictKind};
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::platform::Platform;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::Image;

/// Records of images that were built.
pub const BUILT: &str = "binaries";

/// Reads what the members would execute. A contradiction stops the release, with the files that show it.
pub fn hold(
    request: &Request,
    members: &[Member],
    staging: &OciLayout,
    output: &Output,
    trace: &Trace,
) -> Result<Vec<EvidenceReport>, Error> {
    let records = Records::new(&request.work_dir);
    let key = |member: &Member| (member.labelled.image.document.digest().clone(), member.platform.clone());
    let known: Vec<Option<EvidenceReport>> =
        members.iter().map(|member| records.get(BUILT, &key(member))).collect();
    let subjects: Vec<VerifyTarget<'_>> = members
        .iter()
        .zip(&known)
        .filter(|(_, known)| known.is_none())
        .map(|(member, _)| VerifyTarget {
            source: staging,
            image: &member.labelled.image,
            platform: &member.platform,
        })
        .collect();
    let mut found = verify_all(&subjects, &VerifyOptions::new(VerifyDepth::Full)).into_iter();
    let mut evidence = Vec::with_capacity(members.len());
    let mut problems = Vec::new();
    for (member, known) in members.iter().zip(known) {
        if let Some(known) = known {
            output.verbose_info(&format!(
                "binaries {}: {}, as an earlier run found",
                member.platform, known.verdict
            ));
            trace.held(&member.platform, &known);
            evidence.push(known);
            continue;
        }
        let finding = found.next().unwrap_or_else(|| {
            let doing = format!("hold {} against its binaries", member.platform);
            Err(Error::local(doing, "it was not looked at"))
        })?;
        let verdict = &finding.verdict;
        let shown = verdict.binaries.as_ref().map_or("none".to_string(), ToString::to_string);
        output.info(&format!("binaries {}: {} ({shown})", member.platform, verdict.kind.text()));
        let report = EvidenceReport::from(verdict);
        trace.held(&member.platform, &report);
        match verdict.kind {
            VerdictKind::Mislabeled | VerdictKind::Mixed => {
                problems.extend(contradictions(&member.platform, &member.labelled.image, verdict));
            }
            VerdictKind::ForeignPayload | VerdictKind::Undetermined => {
                for reason in &verdict.reasons {
                    output.info(&format!("  note: {reason}"));
                }
            }
            VerdictKind::Consistent => records.keep(BUILT, &key(member), &report)?,
        }
        evidence.push(report);
    }
    if problems.is_empty() {
        return Ok(evidence);
    }
    let doing = format!("release {}", request.spec.image);
    Err(Error::new(Exit::CheckFailed, doing, "binaries contradict the platform that they are released for")
        .hint("nothing was published; correct the build")
        .problems(problems))
}

impl From<&Verdict> for EvidenceReport {
    fn from(verdict: &Verdict) -> Self {
        Self {
            verdict: verdict.kind.text().to_string(),
            binaries: verdict.binaries.clone(),
            reasons: verdict.reasons.clone(),
            quick: false,
        }
    }
}

/// What contradicts, and the files and layers that show it.
pub fn contradictions(platform: &Platform, image: &Image, verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    if verdict.files.is_empty() {
        let reasons = verdict.reasons.join("; ");
        lines.push(format!("{platform}: {}: {reasons}", verdict.kind.text()));
    }
    for file in &verdict.files {
        let layer = image.manifest.layers.get(file.layer);
        let layer = layer.map_or(String::new(), |layer| format!(", layer {}", layer.digest));
        lines.push(format!("{platform}: {} is for {}{layer}", file.path, file.platform));
    }
    lines
}
