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

/// The platforms to declare, and the images that keep theirs.
pub struct FromBinaries {
    pub requested: RequestedPlatforms,
    /// Why images keep their platform: a layer is absent or cannot be read, or nothing records a level. Each is a sentence.
    pub kept: Vec<String>,
}

/// The images of a tree that containers are created from, with their findings.
pub struct JudgedTree<'a> {
    pub subjects: Vec<VerifyTarget<'a>>,
    /// `Err` for a member of an index that keeps its platform, with the reason.
    pub findings: Vec<Result<Finding, String>>,
    entries: Vec<Option<&'a Descriptor>>,
    /// Entries of members that are absent.
    absent: Vec<&'a Descriptor>,
    unknown: Platform,
}

impl<'a> JudgedTree<'a> {
    /// Reads all layers.
    ///
    /// # Errors
    /// As [`verify_all`], except for absent layers of a member of an index.
    pub fn read(source: &'a dyn ImageSource, node: &'a TreeNode) -> Result<Self, Error> {
        let mut subjects = Vec::new();
        let mut entries: Vec<Option<&Descriptor>> = Vec::new();
        for (entry, image) in node.images() {
            let attests = entry.is_some_and(|entry| entry.attested_digest().is_some());
            if let Some(config) = image.config.as_ref().filter(|_| image.is_runnable() && !attests) {
                subjects.push(VerifyTarget { source, image, platform: &config.parsed.platform });
                entries.push(entry);
            }
        }
        let findings = verify_all(&subjects, &VerifyOptions::new(VerifyDepth::Full));
        let findings = subjects.iter().zip(&entries).zip(findings);
        let findings = findings.map(|((subject, entry), found)| finding(subject, *entry, found));
        let findings = findings.collect::<Result<_, Error>>()?;
        let absent = node.unread().into_iter().filter_map(|(entry, _)| entry);
        let absent = absent.filter(|entry| entry.attested_digest().is_none()).collect();
        Ok(Self { subjects, findings, entries, absent, unknown: Platform::default() })
    }

    /// The images, and the absent members: engines still look for these under their platforms.
    pub fn judged(&self) -> Vec<JudgedImage<'_>> {
        let present = self.subjects.iter().zip(&self.entries).zip(&self.findings);
        let present = present.map(|((subject, entry), finding)| JudgedImage {
            entry: *entry,
            declared: subject.platform,
            verdict: finding.as_ref().ok().map(|finding| &finding.verdict),
        });
        let absent = self.absent.iter();
        let absent =
            absent.map(|entry| JudgedImage { entry: Some(entry), declared: &self.unknown, verdict: None });
        present.chain(absent).collect()
    }
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
    let tree = JudgedTree::read(source, node)?;
    let (judged, subjects) = (tree.judged(), &tree.subjects);
    let decisions = decide(&judged);
    refuse(source, node, subjects, &judged, &decisions, editable)?;
    let mut members = Vec::new();
    let mut kept = Vec::new();
    for ((subject, finding), decision) in subjects.iter().zip(&tree.findings).zip(decisions) {
        let verdict = match finding {
            Ok(finding) => &finding.verdict,
            Err(why) => {
                kept.push(why.clone());
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
    if kept.len() == subjects.len() && !kept.is_empty() {
        let doing = format!("fix \"{}\" by its binaries", source.display_name());
        let error =
            Error::bad_input(doing, "no image could be read").hint("use --set-platform or --from-index");
        return Err(error.problems(kept));
    }
    let requested = requested(node, members)?;
    Ok(FromBinaries { requested, kept })
}

/// The finding about an image; `Err` if it is a member of an index that keeps its platform, with the reason.
///
/// # Errors
/// As reading the layers, except for absent ones of a member.
fn finding(
    subject: &VerifyTarget<'_>,
    entry: Option<&Descriptor>,
    found: Result<Finding, Error>,
) -> Result<Result<Finding, String>, Error> {
    let Some(entry) = entry else { return found.map(Ok) };
    let name = |why: String| {
        let platform = entry.platform.as_ref().unwrap_or(subject.platform);
        Ok(Err(format!("{platform} ({}) was not read: {why}; its platform is not changed", entry.digest)))
    };
    match found {
        Ok(finding) if finding.verdict.kind == VerdictKind::Undetermined && !finding.skipped.is_empty() => {
            let layers = finding.skipped.iter().map(|(layer, why)| format!("layer {layer}: {why}"));
            name(layers.collect::<Vec<_>>().join(", "))
        }
        Ok(finding) => Ok(Ok(finding)),
        Err(error) if error.kind == Exit::NotFound => name(format!("cannot {error}")),
        Err(error) => Err(error),
    }
}

/// The request that these images declare these platforms.
pub fn requested(node: &TreeNode, mut members: Vec<(Digest, Platform)>) -> Result<RequestedPlatforms, Error> {
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
        let member =
            judged[at].entry.map_or_else(|| digest.to_string(), |entry| advice::selector(node, entry));
        steps.extend(refusal.relabel_step(&member, editable));
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
