//! The platforms to declare according to the binaries of an image or index.

use crate::advice::{self, Decision, JudgedImage, decide};
use crate::plan::RequestedPlatforms;
use error::{Error, Exit};
use image_evidence::verdict::{Verdict, VerdictKind};
use image_evidence::verify::{Finding, VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::digest::Digest;
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::TreeNode;

/// The platforms to declare, and what was not judged.
pub struct FromBinaries {
    pub requested: RequestedPlatforms,
    /// The members of an index that keep their platform because a layer is absent or cannot be read, each a sentence.
    pub unjudged: Vec<String>,
}

/// The platforms that the binaries were built for. A member of an index whose layers are absent, or have a format that is
/// not read, does not stop the others. `editable` is the reference for `manifest-push edit`, if that can
/// change the image.
///
/// # Errors
/// Check failed, if binaries of one image were built for several platforms, or if the index would have a duplicate or
/// lost platform; bad input, if binaries show no platform.
pub fn from_binaries(
    source: &dyn ImageSource,
    node: &TreeNode,
    editable: Option<&str>,
) -> Result<FromBinaries, Error> {
    let mut subjects = Vec::new();
    let mut entries: Vec<Option<&Descriptor>> = Vec::new();
    for (entry, image) in node.images() {
        let attests = entry.is_some_and(|entry| entry.attested_digest().is_some());
        if let Some(config) = image.config.as_ref().filter(|_| image.is_runnable() && !attests) {
            subjects.push(VerifyTarget { source, image, platform: &config.parsed.platform });
            entries.push(entry);
        }
    }
    let absent = node.unread();
    let unknown = Platform::default();
    let findings = verify_all(&subjects, &VerifyOptions::new(VerifyDepth::Full));
    let verdicts: Vec<Result<Verdict, String>> = subjects
        .iter()
        .zip(&entries)
        .zip(findings)
        .map(|((subject, entry), finding)| verdict(subject, *entry, finding))
        .collect::<Result<_, Error>>()?;
    let mut judged: Vec<JudgedImage<'_>> = subjects
        .iter()
        .zip(&entries)
        .zip(&verdicts)
        .map(|((subject, entry), verdict)| JudgedImage {
            entry: *entry,
            declared: subject.platform,
            verdict: verdict.as_ref().ok(),
        })
        .collect();
    // Engines still look for an absent member under its platform.
    let of_entry = |entry: &Descriptor| entry.attested_digest().is_none();
    judged.extend(
        absent
            .into_iter()
            .filter_map(|(entry, _)| entry.filter(|entry| of_entry(entry)))
            .map(|entry| JudgedImage { entry: Some(entry), declared: &unknown, verdict: None }),
    );
    let decisions = decide(&judged);
    refuse(source, node, &subjects, &judged, &decisions, editable)?;
    let mut members = Vec::new();
    let mut unjudged = Vec::new();
    for ((subject, verdict), decision) in subjects.iter().zip(&verdicts).zip(decisions) {
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(why) => {
                unjudged.push(why.clone());
                continue;
            }
        };
        let digest = subject.image.document.digest();
        let refuse = |kind: Exit, why: String| {
            let doing = format!("fix {digest} of \"{}\" by its binaries", source.display_name());
            Err(Error::new(kind, doing, why).problems(reasons(source, subject, subject.platform, verdict)))
        };
        let member =
            if matches!(node, TreeNode::Index(_)) { format!(" --platform {digest}") } else { String::new() };
        match (verdict.kind, decision) {
            (VerdictKind::Mislabeled, Decision::Relabel(platform))
                if platform.architecture == "arm" && platform.variant.is_none() =>
            {
                let why = format!(
                    "they are for arm of an unknown version; use --set-platform linux/arm/vN{member}"
                );
                return refuse(Exit::BadInput, why);
            }
            (
                VerdictKind::Mislabeled
                | VerdictKind::WouldNotStart
                | VerdictKind::Consistent
                | VerdictKind::ForeignPayload,
                Decision::Relabel(platform),
            ) => {
                members.push((digest.clone(), platform));
            }
            (VerdictKind::Consistent | VerdictKind::ForeignPayload, _) => {}
            (VerdictKind::Mixed | VerdictKind::Mislabeled | VerdictKind::WrongBuild, _) => {
                return refuse(
                    Exit::CheckFailed,
                    "they were built for several platforms; rebuild the image".into(),
                );
            }
            (VerdictKind::WouldNotStart, _) => {
                let advice = verdict.failure.as_ref().map_or(String::new(), |failure| failure.advice());
                return refuse(Exit::CheckFailed, format!("it would not start; {advice}"));
            }
            (VerdictKind::Undetermined, _) => {
                let from_index = if member.is_empty() { "" } else { ", or --from-index" };
                let why = format!("they show no platform; use --set-platform PLATFORM{member}{from_index}");
                return refuse(Exit::BadInput, why);
            }
        }
    }
    if unjudged.len() == subjects.len() && !unjudged.is_empty() {
        let doing = format!("fix \"{}\" by its binaries", source.display_name());
        let error =
            Error::bad_input(doing, "no image could be read").hint("use --set-platform or --from-index");
        return Err(error.problems(unjudged));
    }
    let requested = requested(node, members)?;
    Ok(FromBinaries { requested, unjudged })
}

/// The verdict on an image; `Err` if it is a member of an index that keeps its platform, with the reason.
///
/// # Errors
/// As reading the layers, except for absent ones of a member.
fn verdict(
    subject: &VerifyTarget<'_>,
    entry: Option<&Descriptor>,
    finding: Result<Finding, Error>,
) -> Result<Result<Verdict, String>, Error> {
    let Some(entry) = entry else { return finding.map(|finding| Ok(finding.verdict)) };
    let name = |why: String| {
        let platform = entry.platform.as_ref().unwrap_or(subject.platform);
        Ok(Err(format!("{platform} ({}) was not read: {why}; its platform is not changed", entry.digest)))
    };
    match finding {
        Ok(finding) if finding.verdict.kind == VerdictKind::Undetermined && !finding.skipped.is_empty() => {
            let layers = finding.skipped.iter().map(|(layer, why)| format!("layer {layer}: {why}"));
            name(layers.collect::<Vec<_>>().join(", "))
        }
        Ok(finding) => Ok(Ok(finding.verdict)),
        Err(error) if error.kind == Exit::NotFound => name(format!("cannot {error}")),
        Err(error) => Err(error),
    }
}

fn requested(node: &TreeNode, mut members: Vec<(Digest, Platform)>) -> Result<RequestedPlatforms, Error> {
    Ok(match (node, members.pop()) {
        (TreeNode::Index(_), last) => {
            members.extend(last);
            RequestedPlatforms::Members(members)
        }
        (TreeNode::Image(_), Some((_, platform))) => RequestedPlatforms::Image(platform),
        (TreeNode::Unread(unread), _) => return Err(unread.error.clone()),
        // The declared platform is correct: to request it changes nothing.
        (TreeNode::Image(image), None) => {
            let declared = image.config.as_ref().map(|config| config.parsed.platform.clone());
            RequestedPlatforms::Image(declared.unwrap_or_default())
        }
    })
}

/// The reasons of a verdict, each with the image that it is about.
fn reasons(
    source: &dyn ImageSource,
    subject: &VerifyTarget<'_>,
    platform: &Platform,
    verdict: &Verdict,
) -> Vec<String> {
    let digest = subject.image.document.digest();
    let about = |reason: &String| format!("{digest} ({platform}) of \"{}\": {reason}", source.display_name());
    verdict.reasons.iter().map(about).collect()
}

/// Fails if a member must be rebuilt: the first such member is the error, the others are its problems.
fn refuse(
    source: &dyn ImageSource,
    node: &TreeNode,
    subjects: &[VerifyTarget<'_>],
    judged: &[JudgedImage<'_>],
    decisions: &[Decision],
    editable: Option<&str>,
) -> Result<(), Error> {
    let mut refused = Vec::new();
    for (at, decision) in decisions.iter().enumerate() {
        let Decision::Refuse(refusal) = decision else { continue };
        let digest = subjects[at].image.document.digest();
        let mut steps = advice::way_out(node, judged[at].entry, &refusal.platform, editable);
        steps.extend(refusal.relabel_step(digest, editable));
        let hint = advice::steps_text(&steps);
        let doing =
            format!("fix {digest} ({}) of \"{}\" by its binaries", refusal.platform, source.display_name());
        let reasons = judged[at]
            .verdict
            .map_or(Vec::new(), |verdict| reasons(source, &subjects[at], &refusal.platform, verdict));
        let error = Error::new(Exit::CheckFailed, doing, refusal.to_string()).hint(hint);
        refused.push(error.problems(reasons));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let mut first = refused.remove(0);
    first.problems.extend(refused.into_iter().map(|other| format!("cannot {other}")));
    Err(first)
}
