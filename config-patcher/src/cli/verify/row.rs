//! The rows of the result: one per image, with its verdict and advice.

use super::needs;
use crate::TOOL;
use crate::advice::{
    AdviceStep, Decision, JudgedImage, Reason, decide, is_made_from_index, is_sound_alone, selector,
    steps_text, way_out,
};
use crate::select::is_for;
use cli::suggest;
use error::{Error, Exit};
use image_evidence::chain::ChainRole;
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::{Finding, VerifyDepth};
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{TreeNode, UnreadNode};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A requested image or index, as it was read.
pub struct RequestedImage {
    pub name: String,
    pub source: Arc<dyn ImageSource>,
    pub depth: VerifyDepth,
    pub node: Result<TreeNode, Error>,
    /// Named on the command line, not found by `--all-tags`.
    pub is_explicit: bool,
    /// The reference for `manifest-push edit`, if that can change the image.
    pub editable: Option<String>,
}

impl RequestedImage {
    /// Returns whether it is a tag that a store lists and does not have: it was deleted meanwhile, or its manifest is gone.
    pub fn is_absent(&self) -> bool {
        !self.is_explicit && self.node.as_ref().is_err_and(|error| error.kind == Exit::NotFound)
    }
}

/// One image, with its verdict.
pub struct Row<'a> {
    pub requested: &'a RequestedImage,
    pub entry: Option<&'a Descriptor>,
    /// The image, or what could not be read.
    pub node: &'a TreeNode,
    pub finding: Result<Finding, NotJudged>,
    /// The option `--cpu` for the architecture of the image.
    cpu_limit: Option<Platform>,
    /// Set by [`advise`].
    advice: Option<Advice>,
}

/// Why there is no verdict on the binaries of an image.
pub enum NotJudged {
    /// The store does not have these parts of it, each a sentence.
    Incomplete(Vec<String>),
    Failed(Error),
}

/// Why an image that could not be read was not judged.
pub fn not_judged(unread: &UnreadNode) -> NotJudged {
    match unread.absent_part() {
        Some(part) => NotJudged::Incomplete(vec![part]),
        None => NotJudged::Failed(unread.error.clone()),
    }
}

/// Advice for a wrong image.
enum Advice {
    /// This command fixes it.
    Fix(String),
    /// No command fixes it: the reason and what to do instead.
    Rebuild(Vec<AdviceStep>),
}

impl<'a> Row<'a> {
    pub fn new(
        requested: &'a RequestedImage,
        entry: Option<&'a Descriptor>,
        node: &'a TreeNode,
        finding: Result<Finding, NotJudged>,
    ) -> Self {
        Self { requested, entry, node, finding, cpu_limit: None, advice: None }
    }

    /// Sets the limit of the CPU level from those of `--cpu`.
    pub fn limit_cpu(&mut self, limits: &[Platform]) {
        let binaries = self.finding.as_ref().ok().and_then(|finding| finding.verdict.binaries.as_ref());
        self.cpu_limit = needs::limit_for(limits, binaries);
    }

    pub fn cpu_limit(&self) -> Option<&Platform> {
        self.cpu_limit.as_ref()
    }

    /// The CPU level, for people.
    pub fn level_text(&self) -> &str {
        let finding = self.finding.as_ref().ok();
        // Binaries that disagree have no level in common.
        let finding = finding.filter(|finding| finding.verdict.binaries.is_some());
        finding.map_or("-", |finding| needs::text(&finding.needs))
    }

    /// Returns whether the image needs more than `--cpu` allows.
    pub fn needs_more(&self) -> bool {
        let needs = self.finding.as_ref().ok().map(|finding| &finding.needs);
        needs.zip(self.cpu_limit()).is_some_and(|(needs, limit)| needs.above(limit).next().is_some())
    }

    /// A sentence for each file of the executed chain that needs more than `--cpu` allows.
    pub fn above_cpu_limit(&self) -> Vec<String> {
        self.finding.as_ref().map_or(Vec::new(), |finding| needs::above(&finding.needs, self.cpu_limit()))
    }

    /// The declared platform; `None` if the config was not read.
    pub fn config_platform(&self) -> Option<&Platform> {
        match self.node {
            TreeNode::Image(image) => image.config.as_ref().map(|config| &config.parsed.platform),
            TreeNode::Index(_) | TreeNode::Unread(_) => None,
        }
    }

    /// The value of `--platform` that selects it in its index; `None` outside an index.
    fn selector(&self) -> Option<String> {
        let node = self.requested.node.as_ref().ok()?;
        self.entry.map(|entry| selector(node, entry))
    }

    pub fn declared(&self) -> Platform {
        self.config_platform().cloned().unwrap_or_default()
    }

    pub fn index_platform(&self) -> Option<&Platform> {
        self.entry.and_then(|entry| entry.platform.as_ref())
    }

    /// True if the index platform and the declared platform match, or one of them is unknown.
    pub fn index_agrees(&self) -> bool {
        let declared = self.config_platform();
        let agrees = |index: &Platform| declared.is_none_or(|declared| declared.satisfies_entry(index));
        self.index_platform().is_none_or(agrees)
    }

    pub fn is_wrong(&self, strict: bool) -> bool {
        let finding = match &self.finding {
            Ok(finding) => finding,
            Err(NotJudged::Incomplete(_)) => return true,
            Err(NotJudged::Failed(_)) => return false,
        };
        let kind = finding.verdict.kind;
        matches!(
            kind,
            VerdictKind::Mislabeled
                | VerdictKind::WrongBuild
                | VerdictKind::Mixed
                | VerdictKind::WouldNotStart
        ) || (strict && matches!(kind, VerdictKind::ForeignPayload | VerdictKind::Undetermined))
            || !self.index_agrees()
            || self.needs_more()
    }

    /// Returns whether nothing contradicts the declared platform.
    pub fn binaries_fit(&self) -> bool {
        let fitting = [VerdictKind::Consistent, VerdictKind::ForeignPayload, VerdictKind::Undetermined];
        self.finding.as_ref().is_ok_and(|finding| fitting.contains(&finding.verdict.kind))
    }

    /// Returns whether it is wrong, or could not be read.
    pub fn needs_attention(&self, strict: bool) -> bool {
        self.is_wrong(strict) || self.finding.is_err()
    }

    /// Returns whether a part of the image is absent from the store.
    pub fn is_incomplete(&self) -> bool {
        matches!(self.finding, Err(NotJudged::Incomplete(_)))
    }

    /// The reasons of the verdict, each a sentence.
    pub fn reasons(&self) -> &[String] {
        match &self.finding {
            Ok(finding) => &finding.verdict.reasons,
            Err(NotJudged::Incomplete(parts)) => parts,
            Err(NotJudged::Failed(_)) => &[],
        }
    }

    /// The declared platform, for people.
    pub fn declared_text(&self) -> String {
        let Some(declared) = self.config_platform() else { return "-".into() };
        if declared.architecture.is_empty() { "(none)".into() } else { declared.to_string() }
    }

    /// The index platform, or the declared platform outside an index, for people.
    pub fn platform_text(&self) -> String {
        self.index_platform().map_or_else(|| self.declared_text(), ToString::to_string)
    }

    /// The binary platform, for people: several platforms if the binaries disagree.
    pub fn binaries_text(&self) -> String {
        let Ok(finding) = &self.finding else { return "-".into() };
        match (&finding.verdict.binaries, finding.verdict.kind) {
            (Some(platform), _) => platform.to_string(),
            (None, VerdictKind::Mixed) => {
                let executed = finding.chain.iter().filter(|shown| shown.role != ChainRole::Emulator.text());
                let files = finding.verdict.files.iter().chain(executed);
                let names: BTreeSet<String> = files.map(|shown| shown.platform.to_string()).collect();
                names.into_iter().collect::<Vec<_>>().join(" + ")
            }
            (None, _) => "-".into(),
        }
    }

    /// The verdict, and whether the index platform differs or the image needs more than `--cpu` allows.
    pub fn verdict_text(&self) -> String {
        let verdict = match &self.finding {
            Ok(finding) => finding.verdict.kind.text(),
            Err(NotJudged::Incomplete(_)) => "incomplete",
            Err(NotJudged::Failed(_)) => "not read",
        };
        let differs = if self.index_agrees() || self.finding.is_err() { "" } else { DIFFERS };
        let limit = self.cpu_limit().filter(|_| self.needs_more());
        let level = limit.and_then(|limit| limit.variant.as_deref());
        let more = level.map_or(String::new(), |level| format!(", needs more than {level}"));
        format!("{verdict}{differs}{more}")
    }

    /// The command that fixes the image, if there is one.
    pub fn fix(&self) -> Option<&str> {
        match &self.advice {
            Some(Advice::Fix(command)) => Some(command),
            Some(Advice::Rebuild(_)) | None => None,
        }
    }

    /// Returns advice for an image that no command fixes.
    pub fn rebuild(&self) -> Option<String> {
        match &self.advice {
            Some(Advice::Rebuild(steps)) => Some(steps_text(steps)),
            Some(Advice::Fix(_)) | None => None,
        }
    }

    /// Either of the two, step by step.
    pub fn advice_steps(&self) -> Vec<AdviceStep> {
        match &self.advice {
            Some(Advice::Fix(command)) => vec![AdviceStep::run("to fix it", command.clone())],
            Some(Advice::Rebuild(steps)) => steps.clone(),
            None => Vec::new(),
        }
    }

    /// Either of the two, as a sentence.
    pub fn advice_text(&self) -> Option<String> {
        self.advice.as_ref().map(|_| steps_text(&self.advice_steps()))
    }
}

/// Sets the advice of all rows of one image or index. Advice never leads to an index with a duplicate or a lost platform.
///
/// With `selected`, `rows` are the images for that platform; the other images count as they are.
pub fn advise(rows: &mut [Row<'_>], selected: Option<&Platform>) {
    let is_member = |row: &Row<'_>| row.entry.is_none_or(|entry| entry.attested_digest().is_none());
    let places: Vec<usize> = (0..rows.len()).filter(|at| is_member(&rows[*at])).collect();
    // Engines still look for an absent member under its index platform.
    let declared_platforms: Vec<Platform> = places
        .iter()
        .map(|at| rows[*at].config_platform().or(rows[*at].index_platform()).cloned().unwrap_or_default())
        .collect();
    let is_unread = |number: usize| {
        places
            .get(number)
            .is_some_and(|at| rows[*at].is_incomplete() && matches!(rows[*at].node, TreeNode::Unread(_)))
    };
    let mut judged: Vec<JudgedImage<'_>> = places
        .iter()
        .zip(&declared_platforms)
        .map(|(at, declared)| JudgedImage {
            entry: rows[*at].entry,
            declared,
            verdict: rows[*at].finding.as_ref().ok().map(|finding| &finding.verdict),
        })
        .collect();
    let node = rows.first().and_then(|row| row.requested.node.as_ref().ok());
    if let (Some(selected), Some(node)) = (selected, node) {
        judged.extend(not_selected(node, selected));
    }
    let decisions = decide(&judged);
    // Whether `fix --from-binaries` fixes all at once: it refuses an index with an image that cannot be fixed.
    let are_all_clear = judged.iter().zip(&decisions).enumerate().all(|(number, (image, decision))| {
        let kind = image.verdict.map(|verdict| verdict.kind);
        match decision {
            Decision::Keep if is_unread(number) => true,
            Decision::Keep => matches!(kind, Some(VerdictKind::Consistent | VerdictKind::ForeignPayload)),
            Decision::Relabel(platform) => platform.architecture != "arm" || platform.variant.is_some(),
            Decision::Refuse(_) => false,
        }
    });
    let decided = Decided { judged: &judged, decisions: &decisions, are_all_clear };
    let advice: Vec<Option<Advice>> = places
        .iter()
        .enumerate()
        .map(|(number, at)| decided.advice(number, &rows[*at], &declared_platforms[number]))
        .collect();
    for (number, (&at, advice)) in places.iter().zip(advice).enumerate() {
        rows[at].advice = advice;
        if let Decision::Refuse(refusal) = &decisions[number]
            && rows[at].index_agrees()
        {
            mark_as_wrong_build(rows, at, &refusal.reason);
        }
        // A Windows program in an image that declares Linux, in an index that declares Windows.
        if let (Decision::Relabel(_), Ok(finding)) = (&decisions[number], &mut rows[at].finding)
            && finding.verdict.kind == VerdictKind::WouldNotStart
        {
            finding.verdict.kind = VerdictKind::Mislabeled;
        }
    }
}

/// The members of an index that are not for the selected platform; their binaries are unknown.
fn not_selected<'a>(node: &'a TreeNode, selected: &Platform) -> Vec<JudgedImage<'a>> {
    let others = node.leaves().into_iter().filter(|leaf| !is_for(leaf, selected));
    let judged = others.filter_map(|(entry, node)| {
        let is_member = entry.is_none_or(|entry| entry.attested_digest().is_none());
        let image = match node {
            TreeNode::Image(image) => image,
            TreeNode::Index(_) | TreeNode::Unread(_) => {
                let declared = entry?.platform.as_ref().filter(|_| is_member)?;
                return Some(JudgedImage { entry, declared, verdict: None });
            }
        };
        let config = image.config.as_ref().filter(|_| image.is_runnable() && is_member)?;
        Some(JudgedImage { entry, declared: &config.parsed.platform, verdict: None })
    });
    judged.collect()
}

/// The decisions about all images of one tree.
struct Decided<'a> {
    judged: &'a [JudgedImage<'a>],
    decisions: &'a [Decision],
    /// `fix --from-binaries` fixes all at once.
    are_all_clear: bool,
}

impl Decided<'_> {
    /// The advice for the image of this row, which is the one with this number.
    fn advice(&self, number: usize, row: &Row<'_>, declared: &Platform) -> Option<Advice> {
        let name = row.requested.name.as_str();
        match &self.decisions[number] {
            Decision::Keep if row.is_incomplete() => {
                let node = row.requested.node.as_ref().ok()?;
                let editable = row.requested.editable.as_deref();
                Some(Advice::Rebuild(way_out(node, row.entry, declared, editable)))
            }
            Decision::Keep => {
                let verdict = &row.finding.as_ref().ok()?.verdict;
                let failure = verdict.failure.as_ref().filter(|_| verdict.kind == VerdictKind::WouldNotStart);
                Some(Advice::Rebuild(vec![AdviceStep::words(failure?.advice())]))
            }
            Decision::Refuse(refusal) => {
                let node = row.requested.node.as_ref().ok()?;
                let name = row.requested.editable.as_deref();
                let mut steps = vec![AdviceStep::words(refusal.to_string())];
                steps.extend(way_out(node, row.entry, &refusal.platform, name));
                let member = row.selector().unwrap_or_else(|| row.node.digest().to_string());
                steps.extend(refusal.relabel_step(&member, name));
                Some(Advice::Rebuild(steps))
            }
            Decision::Relabel(_) if is_made_from_index(self.judged, self.decisions, number) => {
                Some(Advice::Fix(suggest(TOOL, &["fix", name, "--from-index"])))
            }
            Decision::Relabel(platform) if is_sound_alone(self.judged, self.decisions, number) => {
                let platform = platform.to_string();
                let member = row.selector();
                let mut fix = vec!["fix", name, "--set-platform", platform.as_str()];
                fix.extend(member.iter().flat_map(|member| ["--platform", member]));
                Some(Advice::Fix(suggest(TOOL, &fix)))
            }
            // Exchanged platforms are fixed together or not at all.
            Decision::Relabel(_) if self.are_all_clear => {
                Some(Advice::Fix(suggest(TOOL, &["fix", name, "--from-binaries"])))
            }
            Decision::Relabel(_) => {
                let platform = row.index_platform().cloned().unwrap_or_else(|| row.declared());
                Some(Advice::Rebuild(vec![AdviceStep::words(format!("rebuild {platform}"))]))
            }
        }
    }
}

/// Changes the verdict on a mislabeled image whose metadata is not what is wrong. What the manifests show of the cause becomes a
/// reason.
fn mark_as_wrong_build(rows: &mut [Row<'_>], at: usize, reason: &Reason) {
    let Reason::Unsound { would_be, .. } = reason else { return };
    let cause = shared_layers(rows, at, would_be);
    if let Ok(finding) = &mut rows[at].finding
        && finding.verdict.kind == VerdictKind::Mislabeled
    {
        finding.verdict.kind = VerdictKind::WrongBuild;
        finding.verdict.reasons.extend(cause);
    }
}

/// The layers that the image shares with the image for the platform of its binaries, if a program of the evidence lies in them.
fn shared_layers(rows: &[Row<'_>], at: usize, binaries: &Platform) -> Option<String> {
    let row = &rows[at];
    let of_binaries = |other: &&Row<'_>| {
        std::ptr::eq(other.requested, row.requested)
            && other.index_platform().is_some_and(|it| it.matches(binaries))
    };
    let other = rows.iter().filter(|other| !std::ptr::eq(*other, row)).find(of_binaries)?;
    let (TreeNode::Image(own), TreeNode::Image(others)) = (row.node, other.node) else { return None };
    let (own, others) = (&own.manifest.layers, &others.manifest.layers);
    let count = own.iter().zip(others).take_while(|(own, other)| own.digest == other.digest).count();
    let files = &row.finding.as_ref().ok()?.verdict.files;
    if !files.iter().any(|file| file.layer < count) {
        return None;
    }
    if count == own.len() && count == others.len() {
        return Some(format!("it has the same layers as {binaries}"));
    }
    let layers = if count == 1 { "first layer is".to_string() } else { format!("first {count} layers are") };
    Some(format!(
        "it has the same base as {binaries}: its {layers} that image's; the base image was probably pinned to one platform"
    ))
}

/// The reference for `manifest-push edit`. `None` for an image without a tag: an edit would not
/// change what users of the image get.
pub fn editable(reference: &Reference, pointer: &Pointer) -> Option<String> {
    let mut reference = reference.clone();
    match (&mut reference, pointer) {
        (image, _) if image.digest().is_some() && image.tag().is_none() => return None,
        (Reference::Registry(_), _) => {}
        (image, _) if image.digest().is_some() => {}
        (Reference::OciLayout { tag, .. } | Reference::OciArchive { tag, .. }, Pointer::Tag(requested))
        | (Reference::DockerArchive { name: tag, .. }, Pointer::Tag(requested)) => {
            *tag = Some(requested.clone())
        }
        (_, _) => return None,
    }
    Some(reference.to_string())
}

const DIFFERS: &str = ", index platform differs";
