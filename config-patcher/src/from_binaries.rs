//! The platforms that the binaries of an image, or of an index, ask for.

use crate::advice::{self, Decision, Judged, decide};
use crate::plan::Labels;
use error::{Error, Exit};
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::manifest::Descriptor;
use image_store::store::ImageSource;
use image_store::tree::TreeNode;

/// The labels that the binaries ask for. Images that contradict themselves, or say nothing, are refused, and so are
/// changes that would make an index worse. `editable` is the image's name as `manifest-push edit` takes it, if it does.
pub fn from_binaries(
    source: &dyn ImageSource,
    node: &TreeNode,
    editable: Option<&str>,
) -> Result<Labels, Error> {
    let mut subjects = Vec::new();
    let mut entries: Vec<Option<&Descriptor>> = Vec::new();
    for (entry, image) in node.images() {
        let attests = entry.is_some_and(|entry| entry.attests().is_some());
        if let Some(config) = image.config.as_ref().filter(|_| image.is_runnable() && !attests) {
            subjects.push(VerifyTarget { source, image, platform: &config.parsed.platform });
            entries.push(entry);
        }
    }
    let findings = verify_all(&subjects, &VerifyOptions::new(VerifyDepth::Full));
    let verdicts = findings
        .into_iter()
        .map(|finding| finding.map(|finding| finding.verdict))
        .collect::<Result<Vec<_>, Error>>()?;
    let judged: Vec<Judged<'_>> = subjects
        .iter()
        .zip(&entries)
        .zip(&verdicts)
        .map(|((subject, entry), verdict)| Judged {
            entry: *entry,
            declared: subject.platform,
            verdict: Some(verdict),
        })
        .collect();
    let decisions = decide(&judged);
    refuse(source, node, &subjects, &judged, &decisions, editable)?;
    let mut members = Vec::new();
    for ((subject, verdict), decision) in subjects.iter().zip(&verdicts).zip(decisions) {
        let digest = subject.image.document.digest();
        let refuse = |kind: Exit, why: String| {
            let doing = format!("fix {digest} of \"{}\" by its binaries", source.display_name());
            Err(Error::new(kind, doing, why).problems(verdict.reasons.clone()))
        };
        match (verdict.kind, decision) {
            (VerdictKind::Mislabeled, Decision::Relabel(platform))
                if platform.architecture == "arm" && platform.variant.is_none() =>
            {
                let why = "they are for arm of an unknown version; use --set-platform";
                return refuse(Exit::BadInput, why.into());
            }
            (
                VerdictKind::Mislabeled | VerdictKind::Consistent | VerdictKind::ForeignPayload,
                Decision::Relabel(platform),
            ) => {
                members.push((digest.clone(), platform));
            }
            (VerdictKind::Consistent | VerdictKind::ForeignPayload, _) => {}
            (VerdictKind::Mixed | VerdictKind::Mislabeled, _) => {
                return refuse(
                    Exit::CheckFailed,
                    "they were built for several platforms; rebuild the image".into(),
                );
            }
            (VerdictKind::Undetermined, _) => {
                return refuse(Exit::BadInput, "they show no platform; use --set-platform".into());
            }
        }
    }
    Ok(match (node, members.pop()) {
        (TreeNode::Index(_), last) => {
            members.extend(last);
            Labels::Members(members)
        }
        (TreeNode::Image(_), Some((_, platform))) => Labels::Platform(platform),
        // The label is right: asking for it changes nothing.
        (TreeNode::Image(image), None) => {
            let label = image.config.as_ref().map(|config| config.parsed.platform.clone());
            Labels::Platform(label.unwrap_or_default())
        }
    })
}

/// Fails if a member must be built again: the first such member is the error, the others are told with it.
fn refuse(
    source: &dyn ImageSource,
    node: &TreeNode,
    subjects: &[VerifyTarget<'_>],
    judged: &[Judged<'_>],
    decisions: &[Decision],
    editable: Option<&str>,
) -> Result<(), Error> {
    let mut refused = Vec::new();
    for (at, decision) in decisions.iter().enumerate() {
        let Decision::Refuse(refusal) = decision else { continue };
        let digest = subjects[at].image.document.digest();
        let hint = advice::way_out(node, judged[at].entry, &refusal.platform, editable);
        let doing =
            format!("fix {digest} ({}) of \"{}\" by its binaries", refusal.platform, source.display_name());
        let reasons = judged[at].verdict.map_or(&[][..], |verdict| &verdict.reasons);
        let error = Error::new(Exit::CheckFailed, doing, refusal.to_string()).hint(hint);
        refused.push(error.problems(reasons.to_vec()));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let mut first = refused.remove(0);
    first.problems.extend(refused.into_iter().map(|other| format!("cannot {other}")));
    Err(first)
}
