//! What the manifests of each requested image show without its layers: compatibility, and required platforms that it lacks.

use super::row::{RequestedImage, Row};
use crate::compatibility::{CompatibilityFinding, Form, ReaderSelector, compatibility, is_pulled};
use crate::select::is_for;
use cli::suggest;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, media_type};
use image_model::platform::Platform;
use image_store::tree::TreeNode;

/// The answers of the manifests of one requested image or index.
pub struct ImageReport<'a> {
    pub requested: &'a RequestedImage,
    /// Forms that some readers cannot pull, with whether each counts as a problem.
    pub compatibility: Vec<(CompatibilityFinding, bool)>,
    /// Platforms that the image must have: those of `--require` and of the image of `--like`.
    pub required: Vec<Platform>,
    /// Those of them that it lacks.
    pub missing: Vec<Platform>,
    /// The platforms that it has, attestations aside.
    pub present: Vec<Platform>,
    /// The command that fixes the problems of [`Self::compatibility`], if there is one.
    pub mend: Option<String>,
}

/// What is asked about every image.
pub struct Questions<'a> {
    pub required: &'a [Platform],
    pub readers: &'a [ReaderSelector],
    /// The platform of `--platform`: other members do not count for compatibility.
    pub selected: Option<&'a Platform>,
}

impl<'a> ImageReport<'a> {
    /// The report on an image; `None` if it could not be read.
    pub fn new(requested: &'a RequestedImage, questions: &Questions<'_>) -> Option<Self> {
        let node = requested.node.as_ref().ok()?;
        let found =
            compatibility(node).into_iter().filter_map(|finding| of_selected(finding, node, questions));
        let compatibility = found.map(|finding| {
            let is_wrong = finding.is_wrong(questions.readers);
            (finding, is_wrong)
        });
        let present = platforms(node);
        let is_missing = |wanted: &&Platform| !present.iter().any(|own| covers(wanted, own));
        let missing: Vec<Platform> = questions.required.iter().filter(is_missing).cloned().collect();
        Some(Self {
            requested,
            compatibility: compatibility.collect(),
            required: questions.required.to_vec(),
            missing,
            present,
            mend: None,
        })
    }

    /// Sets the command that fixes the problems of compatibility. `rows` are the judged members of this image.
    pub fn advise(&mut self, rows: &[Row<'_>]) {
        let forms = self.compatibility.iter().map(|(finding, _)| finding).filter(|one| !one.form.is_note());
        let (Some(name), Ok(node)) = (&self.requested.editable, &self.requested.node) else { return };
        let Some(edits) = edits(node, &forms.collect::<Vec<_>>(), rows) else { return };
        let words: Vec<&str> = ["edit", name].into_iter().chain(edits.iter().map(String::as_str)).collect();
        self.mend = Some(suggest("manifest-push", &words));
    }

    pub fn has_images(&self) -> bool {
        !self.present.is_empty()
    }

    pub fn is_wrong(&self) -> bool {
        self.is_incompatible() || self.lacks_platforms()
    }

    pub fn is_incompatible(&self) -> bool {
        self.compatibility.iter().any(|(_, is_wrong)| *is_wrong)
    }

    pub fn lacks_platforms(&self) -> bool {
        !self.missing.is_empty()
    }

    /// The required platforms that it lacks, as a sentence.
    pub fn missing_text(&self) -> String {
        format!("there is no image for {}; it has {}", names(&self.missing), self.present_text())
    }

    pub fn present_text(&self) -> String {
        names(&self.present)
    }
}

/// The options of `manifest-push edit` that fix these problems; `None` if it would refuse them, or if an image would get a
/// platform that its binaries do not have.
fn edits(node: &TreeNode, findings: &[&CompatibilityFinding], rows: &[Row<'_>]) -> Option<Vec<String>> {
    let is_right = |digest: &Digest| {
        let mut own = rows.iter().filter(|row| row.node.digest() == digest).peekable();
        own.peek().is_some() && own.all(|row| row.finding.is_ok() && row.binaries_fit())
    };
    let members = |wanted: &[Form]| -> Vec<&Digest> {
        let of_forms = findings.iter().filter(|finding| wanted.contains(&finding.form));
        of_forms.flat_map(|finding| finding.members.iter().map(|member| &member.digest)).collect()
    };
    let duplicates: Vec<_> = findings.iter().filter(|one| one.form == Form::DuplicatePlatform).collect();
    if !duplicates.iter().flat_map(|one| &one.members).all(|member| is_right(&member.digest)) {
        return None;
    }
    let fills_in = members(&Form::WITHOUT_PLATFORM).into_iter().all(is_right);
    let normalizes = fills_in
        && findings.iter().any(|one| Form::WITHOUT_PLATFORM.contains(&one.form) || one.form.is_alias());
    // Most readers get the first of them today.
    let removed: Vec<&Digest> =
        duplicates.iter().flat_map(|one| one.members.iter().skip(1)).map(|member| &member.digest).collect();
    let mut options = Vec::new();
    if !members(&[Form::NestedIndex]).is_empty() {
        options.push("--flatten".to_string());
    }
    if normalizes {
        options.push("--normalize".to_string());
    }
    options.extend(removed.iter().flat_map(|digest| ["--remove".to_string(), digest.to_string()]));
    (!options.is_empty() && is_accepted(node, normalizes, &removed)).then_some(options)
}

/// Returns whether `edit` can read all entries, remove these, and finds no platform twice in the rest.
fn is_accepted(node: &TreeNode, normalizes: bool, removed: &[&Digest]) -> bool {
    let leaves = node.leaves();
    let pulled = leaves.iter().filter(|(entry, _)| entry.is_some_and(is_pulled));
    let is_unread_index = |entry: &Descriptor| media_type::is_index(&entry.media_type);
    let is_ambiguous = |digest: &&Digest| {
        let same = leaves.iter().filter(|(entry, _)| entry.is_some_and(|entry| entry.digest == **digest));
        same.count() != 1
    };
    if pulled.clone().any(|(entry, _)| entry.is_some_and(is_unread_index)) || removed.iter().any(is_ambiguous)
    {
        return false;
    }
    let mut platforms: Vec<(Platform, &Digest)> = Vec::new();
    for (entry, node) in pulled.filter(|(_, node)| !removed.contains(&node.digest())) {
        let platform = match entry.and_then(|entry| entry.platform.as_ref()) {
            None if normalizes => declared(node),
            written => written,
        };
        let Some(platform) = platform.map(Platform::normalized) else { continue };
        let is_twin = |(other, digest): &(Platform, &Digest)| *other == platform && *digest != node.digest();
        if platforms.iter().any(is_twin) {
            return false;
        }
        platforms.push((platform, node.digest()));
    }
    true
}

fn declared(node: &TreeNode) -> Option<&Platform> {
    match node {
        TreeNode::Image(image) => image.config.as_ref().map(|config| &config.parsed.platform),
        TreeNode::Index(_) | TreeNode::Unread(_) => None,
    }
}

fn names(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".into();
    }
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The finding without the members for other platforms than the selected one.
fn of_selected(
    mut finding: CompatibilityFinding,
    node: &TreeNode,
    questions: &Questions<'_>,
) -> Option<CompatibilityFinding> {
    let Some(selected) = questions.selected else { return Some(finding) };
    let leaves = node.leaves();
    let selected_leaves: Vec<_> = leaves.iter().filter(|leaf| is_for(leaf, selected)).collect();
    finding.members.retain(|member| {
        let is_leaf = leaves.iter().any(|(_, leaf)| *leaf.digest() == member.digest);
        // A nested index counts: which platforms it has does not matter for a reader that does not look into it.
        !is_leaf || selected_leaves.iter().any(|(_, leaf)| *leaf.digest() == member.digest)
    });
    (!finding.members.is_empty()).then_some(finding)
}

/// The platforms for which an image or index has an image: of its entries, or of its config outside an index.
pub fn platforms(node: &TreeNode) -> Vec<Platform> {
    let platform_of = |(entry, node): (Option<&Descriptor>, &TreeNode)| {
        if entry.is_some_and(|entry| !is_pulled(entry)) {
            return None;
        }
        let platform = entry.and_then(|entry| entry.platform.as_ref()).or(declared(node));
        platform.filter(|platform| !platform.is_unknown()).cloned()
    };
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in node.leaves().into_iter().filter_map(platform_of) {
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    platforms
}

/// Returns whether an image for `own` is one for `wanted`. As in containerd, revisions of one Windows build are equal.
fn covers(wanted: &Platform, own: &Platform) -> bool {
    let build = |platform: &Platform| {
        let version = platform.os_version.as_deref()?;
        Some(version.split('.').take(3).collect::<Vec<_>>().join("."))
    };
    let without = |platform: &Platform| Platform { os_version: None, ..platform.clone() };
    without(wanted).matches(&without(own)) && (wanted.os_version.is_none() || build(wanted) == build(own))
}
