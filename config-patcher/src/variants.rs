//! The variants to declare according to the CPU levels that the binaries of an image or index record.

use crate::advice::{Decision, Reason, Refusal, decide_variants, is_one_architecture, shows_architecture};
use crate::from_binaries::{FromBinaries, JudgedTree, requested};
use cli::suggest;
use error::{Error, Exit};
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::Finding;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::TreeNode;

/// The platforms with the variants that the binaries need. Reads the layers of all images. `editable` is the reference for commands that change the image, if there is one.
///
/// # Errors
/// Check failed, if an image has binaries for another architecture, or if the index would have a duplicate or lost platform.
pub fn proven_variants(
    source: &dyn ImageSource,
    node: &TreeNode,
    editable: Option<&str>,
) -> Result<FromBinaries, Error> {
    let tree = JudgedTree::read(source, node)?;
    let judged = tree.judged();
    let (mut members, mut kept, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (((subject, finding), image), decision) in
        tree.subjects.iter().zip(&tree.findings).zip(&judged).zip(decide_variants(&judged))
    {
        let finding = match finding {
            Ok(finding) => finding,
            Err(why) => {
                kept.push(why.clone());
                continue;
            }
        };
        let digest = subject.image.document.digest();
        let platform = image.platform();
        let refuse = |why: String, hint: String| {
            let doing =
                format!("fix {digest} ({platform}) of \"{}\" by its CPU level", source.display_name());
            Error::new(Exit::CheckFailed, doing, why).hint(hint)
        };
        match decision {
            Decision::Relabel(wanted) => members.push((digest.clone(), wanted)),
            Decision::Keep if is_for_another(platform, finding) => {
                let why = finding.verdict.binaries.as_ref().map_or_else(
                    || "its binaries are for several platforms".to_string(),
                    |binaries| format!("its binaries are for {binaries}"),
                );
                refused.push(refuse(why, "use --from-binaries first, or rebuild the image".into()));
            }
            Decision::Keep => kept.push(format!("{platform}: {}", unchanged(finding))),
            Decision::Refuse(refusal) => {
                let hint = way_out(&refusal, digest, editable);
                refused.push(refuse(refusal.to_string(), hint));
            }
        }
    }
    if !refused.is_empty() {
        let mut first = refused.remove(0);
        first.problems.extend(refused.into_iter().map(|other| format!("cannot {other}")));
        return Err(first);
    }
    Ok(FromBinaries { requested: requested(node, members)?, kept })
}

/// Returns whether the image has binaries for another architecture than its own.
fn is_for_another(platform: &Platform, finding: &Finding) -> bool {
    let verdict = &finding.verdict;
    match &verdict.binaries {
        Some(binaries) => shows_architecture(verdict.kind) && !is_one_architecture(platform, binaries),
        None => verdict.kind == VerdictKind::Mixed,
    }
}

/// Why the image keeps its platform.
fn unchanged(finding: &Finding) -> String {
    match finding.needs.level() {
        None => "no mark; its variant is not changed".into(),
        Some(level) => format!("it needs {level}, which is no variant; it is not changed"),
    }
}

/// How the user can have what was refused.
fn way_out(refusal: &Refusal, digest: &Digest, editable: Option<&str>) -> String {
    let Reason::Unsound { would_be, is_duplicate, .. } = &refusal.reason else { return String::new() };
    let platform = would_be.to_string();
    if *is_duplicate {
        return format!("remove or rebuild one of the two images for {platform}");
    }
    let first = format!("add an image for {} first", refusal.platform);
    let Some(name) = editable else { return first };
    let words = ["fix", name, "--set-platform", &platform, "--platform", digest.as_str()];
    format!("{first}; or, to have none, run: {}", suggest(crate::TOOL, &words))
}
