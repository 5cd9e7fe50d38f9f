//! Verifies each image against its binaries: what a container would execute must be for the platform of the image.

use crate::context::{ReleaseContext, Reporter};
use crate::report::{EvidenceReport, SmokeResult, Step};
use crate::stages::build::Member;
use crate::work_dir::records::Records;
use error::{Error, Exit};
use image_evidence::verdict::{Verdict, VerdictKind};
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::Image;

pub mod retained;

/// Images that may be published, with the results of their verification and smoke tests in the same order.
pub struct VerifiedMembers {
    pub members: Vec<Member>,
    pub evidence: Vec<EvidenceReport>,
    pub smoke: Vec<Option<SmokeResult>>,
}

/// Reads the layers of all members that no earlier run verified.
///
/// # Errors
/// `CheckFailed` if binaries are for another platform, with the files that show it.
pub fn verify(
    context: &ReleaseContext<'_>,
    members: &[Member],
    staging: &OciLayout,
) -> Result<Vec<EvidenceReport>, Error> {
    context.begin(Step::Verify);
    verify_members(context, members, staging)
}

fn verify_members(
    ReleaseContext { request, records, reporter, .. }: &ReleaseContext<'_>,
    members: &[Member],
    staging: &OciLayout,
) -> Result<Vec<EvidenceReport>, Error> {
    let Reporter { output, state, .. } = reporter;
    let known: Vec<Option<EvidenceReport>> = members
        .iter()
        .map(|member| VerdictDepth::Full.recorded(records, member.image.document.digest(), &member.platform))
        .collect();
    let subjects: Vec<VerifyTarget<'_>> = members
        .iter()
        .zip(&known)
        .filter(|(_, known)| known.is_none())
        .map(|(member, _)| VerifyTarget { source: staging, image: &member.image, platform: &member.platform })
        .collect();
    let mut found = verify_all(&subjects, &VerifyOptions::new(VerifyDepth::Full)).into_iter();
    let mut evidence = Vec::with_capacity(members.len());
    let mut problems = Vec::new();
    for (member, known) in members.iter().zip(known) {
        let platform = &member.platform;
        let report = if let Some(known) = known {
            let line = format!("verify {platform}: {}, from an earlier run", known.to_text());
            if known.reasons.is_empty() {
                output.verbose_info(&line)
            } else {
                output.info(&line)
            }
            known
        } else {
            let finding = found.next().unwrap_or_else(|| {
                Err(Error::local(format!("verify {platform} against its binaries"), "it was not read"))
            })?;
            let verdict = &of_build(platform, finding.verdict);
            let binaries = verdict.binaries.as_ref().map_or("none".to_string(), ToString::to_string);
            output.info(&format!("verify {platform}: {} (binaries: {binaries})", verdict.kind.text()));
            let report = EvidenceReport::from(verdict);
            if stops_release(verdict.kind) {
                problems.extend(contradictions(platform, &member.image, verdict));
                state.set_evidence(platform, &report);
                evidence.push(report);
                continue;
            }
            VerdictDepth::Full.record(records, member.image.document.digest(), platform, &report)?;
            report
        };
        report.reasons.iter().for_each(|reason| output.info(&format!("  note: {reason}")));
        state.set_evidence(platform, &report);
        evidence.push(report);
    }
    if problems.is_empty() {
        return Ok(evidence);
    }
    let doing = format!("release {}", request.spec.image);
    let would_not_start = VerdictKind::WouldNotStart.text().replace(' ', "-");
    let why = match evidence.iter().filter(|report| report.verdict == would_not_start).count() {
        0 => "binaries are for another platform than the images that contain them",
        all if all == problems.len() => "images would not start",
        _ => "binaries are for another platform than the images that contain them, or do not start",
    };
    Err(Error::new(Exit::CheckFailed, doing, why)
        .hint("nothing was published; correct the build")
        .problems(problems))
}

/// The verdict on an image that was built for this platform: with binaries for another architecture, the build is what is wrong.
fn of_build(platform: &Platform, verdict: Verdict) -> Verdict {
    let is_other = verdict.binaries.as_ref().is_some_and(|binaries| {
        (&binaries.os, &binaries.architecture) != (&platform.os, &platform.architecture)
    });
    let is_wrong_build = verdict.kind == VerdictKind::Mislabeled && is_other;
    Verdict { kind: if is_wrong_build { VerdictKind::WrongBuild } else { verdict.kind }, ..verdict }
}

/// Returns whether images with this verdict must not be published.
fn stops_release(kind: VerdictKind) -> bool {
    match kind {
        VerdictKind::Mislabeled
        | VerdictKind::WrongBuild
        | VerdictKind::Mixed
        | VerdictKind::WouldNotStart => true,
        VerdictKind::Consistent | VerdictKind::ForeignPayload | VerdictKind::Undetermined => false,
    }
}

/// Amount of data that was read for a recorded verdict. Every verdict that does not stop a release is recorded, with its
/// reasons: the same image gives the same verdict, so a later run needs to print it only. A verdict that stops the release
/// is not recorded: the user corrects the build, and the image with that digest is not wanted again.
#[derive(Clone, Copy)]
enum VerdictDepth {
    /// To the end of the last layer, as images are read that were built.
    Full,
    /// Until the binary platform is known, as images are read that `--only` retains.
    Quick,
}

impl VerdictDepth {
    /// The kind of record.
    fn name(self) -> &'static str {
        match self {
            Self::Full => "verdict",
            Self::Quick => "quick verdict",
        }
    }

    fn recorded(self, records: &Records, image: &Digest, platform: &Platform) -> Option<EvidenceReport> {
        records.get(self.name(), &(image, platform))
    }

    fn is_recorded(self, records: &Records, image: &Digest, platform: &Platform) -> bool {
        records.has(self.name(), &(image, platform))
    }

    fn record(
        self,
        records: &Records,
        image: &Digest,
        platform: &Platform,
        report: &EvidenceReport,
    ) -> Result<(), Error> {
        records.keep(self.name(), &(image, platform), report)
    }
}

/// The files, with their layers, that contradict the platform of an image.
pub fn contradictions(platform: &Platform, image: &Image, verdict: &Verdict) -> Vec<String> {
    let mut lines = Vec::new();
    if verdict.files.is_empty() || verdict.kind == VerdictKind::WouldNotStart {
        let layer = verdict.failure.as_ref().and_then(|failure| image.manifest.layers.get(failure.layer?));
        let layer = layer.map_or(String::new(), |layer| format!(" (layer {})", layer.digest));
        let reasons = verdict.reasons.join("; ") + &layer;
        let advice =
            verdict.failure.as_ref().map_or(String::new(), |failure| format!("; {}", failure.advice()));
        return vec![format!("{platform}: {}: {reasons}{advice}", verdict.kind.text())];
    }
    for file in &verdict.files {
        let layer = image.manifest.layers.get(file.layer);
        let layer = layer.map_or(String::new(), |layer| format!(", layer {}", layer.digest));
        lines.push(format!("{platform}: {} is for {}{layer}", file.path, file.platform));
    }
    lines
}
