//! The decision which images get the platform of their binaries, and the advice for those that must be rebuilt.

use crate::TOOL;
use cli::suggest;
use image_evidence::verdict::{Verdict, VerdictKind, runs_on};
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_store::tree::TreeNode;
use std::fmt;

/// A single image or a member of an index, with the verdict about its binaries.
#[derive(Clone, Copy)]
pub struct JudgedImage<'a> {
    pub entry: Option<&'a Descriptor>,
    /// Declared platform.
    pub declared: &'a Platform,
    /// `None` if the layers could not be read.
    pub verdict: Option<&'a Verdict>,
}

/// Advice for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Keep it: the platform metadata matches the binaries, or the binaries show nothing.
    Keep,
    /// Declare this platform.
    Relabel(Platform),
    /// Rebuild it.
    Refuse(Box<Refusal>),
}

/// Why no other platform metadata fixes an image: it must be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The index platform, or the declared platform outside an index.
    pub platform: Platform,
    /// The platform of the binaries.
    pub binaries: Platform,
    pub reason: Reason,
}

/// The reason of a [`Refusal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The binaries are for another operating system.
    OtherSystem,
    /// The index would have two images for one platform, or none for a platform that it has now.
    Unsound { would_be: Platform, is_duplicate: bool, is_lost: bool },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (platform, binaries) = (&self.platform, &self.binaries);
        match &self.reason {
            Reason::OtherSystem => {
                let kernel = match platform.os.to_lowercase().as_str() {
                    "linux" => "Linux".to_string(),
                    "windows" => "Windows".to_string(),
                    other => other.to_string(),
                };
                write!(f, "no {kernel} kernel runs its program, which is for {binaries}")
            }
            Reason::Unsound { would_be, is_duplicate, is_lost } => {
                write!(f, "the image for {platform} has binaries for {binaries}, and ")?;
                f.write_str(&consequence(platform, would_be, *is_duplicate, *is_lost))
            }
        }
    }
}

/// One thing to do about an image: words, and the command that does it. As text: `until then, run: COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdviceStep {
    pub words: String,
    pub command: Option<String>,
}

impl AdviceStep {
    pub fn words(words: impl Into<String>) -> Self {
        Self { words: words.into(), command: None }
    }

    pub fn run(words: impl Into<String>, command: String) -> Self {
        Self { words: words.into(), command: Some(command) }
    }
}

impl fmt::Display for AdviceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        self.command.iter().try_for_each(|command| write!(f, ", run: {command}"))
    }
}

/// The steps as one text.
pub fn steps_text(steps: &[AdviceStep]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Refusal {
    /// Returns the last step of the advice if the image may be right and its platform metadata wrong: no other member is
    /// for the platform of its binaries. `member` selects it; `name` is the reference of the index, if a tag refers to it.
    pub fn relabel_step(&self, member: &str, name: Option<&str>) -> Option<AdviceStep> {
        let Reason::Unsound { would_be, is_duplicate: false, .. } = &self.reason else { return None };
        let platform = would_be.to_string();
        let words = ["fix", name?, "--set-platform", &platform, "--platform", member];
        Some(AdviceStep::run(format!("or, if it was meant to be {platform}"), suggest(TOOL, &words)))
    }
}

/// A sentence: what the index would contain after a relabel from `platform` to `would_be`.
pub fn consequence(platform: &Platform, would_be: &Platform, is_duplicate: bool, is_lost: bool) -> String {
    let duplicate = format!("two images for {would_be}");
    let lost = if is_duplicate { format!("none for {platform}") } else { format!("no image for {platform}") };
    let parts: Vec<&str> = [(is_duplicate, duplicate.as_str()), (is_lost, lost.as_str())]
        .into_iter()
        .filter_map(|(is_so, text)| is_so.then_some(text))
        .collect();
    format!("a relabel would leave {}", parts.join(" and "))
}

/// Decides about all images of one tree together: exchanged platforms are sound only if both change.
pub fn decide(images: &[JudgedImage<'_>]) -> Vec<Decision> {
    settle(images, images.iter().map(JudgedImage::by_itself).collect(), Goal::Platform)
}

/// Decides which images declare a variant: the one that their binaries need, unless they declare one that includes it. Images
/// for another architecture than that of their binaries are kept.
pub fn decide_variants(images: &[JudgedImage<'_>]) -> Vec<Decision> {
    settle(images, images.iter().map(JudgedImage::proven_variant).collect(), Goal::Variant)
}

/// What a relabel is for.
#[derive(Clone, Copy)]
enum Goal {
    /// The right platform.
    Platform,
    /// A variant of a platform that is right.
    Variant,
}

/// Refuses what is unsound. A member that keeps its platform can make the relabel of another one unsound.
fn settle(images: &[JudgedImage<'_>], mut decisions: Vec<Decision>, goal: Goal) -> Vec<Decision> {
    loop {
        let refused: Vec<(usize, Refusal)> =
            (0..images.len()).filter_map(|at| Some((at, refusal(images, &decisions, at, goal)?))).collect();
        if refused.is_empty() {
            return decisions;
        }
        for (at, refusal) in refused {
            decisions[at] = Decision::Refuse(Box::new(refusal));
        }
    }
}

/// Returns whether this relabel is sound if no other member changes.
pub fn is_sound_alone(images: &[JudgedImage<'_>], decisions: &[Decision], at: usize) -> bool {
    let mut alone = vec![Decision::Keep; decisions.len()];
    alone[at] = decisions[at].clone();
    refusal(images, &alone, at, Goal::Platform).is_none()
}

/// Returns whether `fix --from-index` makes this relabel, and no other one that is not decided: it writes the index platform
/// into every config that declares another one.
pub fn is_made_from_index(images: &[JudgedImage<'_>], decisions: &[Decision], at: usize) -> bool {
    let becomes_its_entry = |image: &JudgedImage<'_>, decision: &Decision| {
        let index = image.index().map(Platform::canonical);
        matches!(decision, Decision::Relabel(platform) if Some(platform) == index.as_ref())
    };
    let is_safe = |(image, decision): (&JudgedImage<'_>, &Decision)| {
        image.index().is_some_and(|index| image.declared.satisfies_entry(index))
            || becomes_its_entry(image, decision)
    };
    becomes_its_entry(&images[at], &decisions[at]) && images.iter().zip(decisions).all(is_safe)
}

/// Returns the value of `--platform` that selects this member of the index: its platform if no other member has that,
/// else its digest.
pub fn selector(node: &TreeNode, entry: &Descriptor) -> String {
    let is_image = |node: &TreeNode| match node {
        TreeNode::Image(image) => image.is_runnable(),
        TreeNode::Unread(_) | TreeNode::Index(_) => true,
    };
    let leaves = node.leaves().into_iter();
    let images = leaves.filter_map(|(entry, node)| entry.filter(|_| is_image(node)));
    let mut others = images.filter(|other| other.attested_digest().is_none() && !std::ptr::eq(*other, entry));
    let platform = entry.platform.as_ref().filter(|platform| {
        // Only what can be typed: an image may contain any text.
        let is_typed = platform.to_string().parse().is_ok_and(|typed: Platform| typed.matches(platform));
        is_typed && !others.any(|other| other.platform.as_ref().is_some_and(|said| said.matches(platform)))
    });
    platform.map_or_else(|| entry.digest.to_string(), ToString::to_string)
}

fn refusal(images: &[JudgedImage<'_>], decisions: &[Decision], at: usize, goal: Goal) -> Option<Refusal> {
    let Decision::Relabel(wanted) = &decisions[at] else { return None };
    let image = &images[at];
    let now = image.platform();
    if now.matches(wanted) {
        return None;
    }
    let after = |other: usize| match &decisions[other] {
        Decision::Relabel(platform) => platform,
        Decision::Keep | Decision::Refuse(_) => images[other].platform(),
    };
    let is_duplicate = (0..images.len()).any(|other| other != at && after(other).matches(wanted));
    let is_lost = !(0..images.len()).any(|other| after(other).matches(now));
    let may_be_lost = match goal {
        Goal::Platform => {
            images.len() == 1 || image.contradicts_its_entry() || is_one_architecture(now, wanted)
        }
        // A host that looks for linux/amd64 does not take linux/amd64/v3 from an index, whatever its processor is, in most
        // engines (moby#52751).
        Goal::Variant => image.entry.is_none() || now.normalized().variant.is_some(),
    };
    (is_duplicate || (is_lost && !may_be_lost)).then(|| Refusal {
        platform: now.clone(),
        binaries: image.verdict.and_then(|verdict| verdict.binaries.clone()).unwrap_or_default(),
        reason: Reason::Unsound { would_be: wanted.clone(), is_duplicate, is_lost },
    })
}

/// Returns whether the binaries of an image with this verdict are for one architecture and can be executed.
pub fn shows_architecture(kind: VerdictKind) -> bool {
    matches!(kind, VerdictKind::Consistent | VerdictKind::ForeignPayload | VerdictKind::Mislabeled)
}

/// Returns whether both are for one OS and architecture; variants do not count.
pub fn is_one_architecture(a: &Platform, b: &Platform) -> bool {
    let (a, b) = (a.normalized(), b.normalized());
    a.os == b.os && a.architecture == b.architecture
}

impl JudgedImage<'_> {
    /// The platform of the image for users of the index.
    pub fn platform(&self) -> &Platform {
        self.index().unwrap_or(self.declared)
    }

    fn index(&self) -> Option<&Platform> {
        self.entry.and_then(|entry| entry.platform.as_ref())
    }

    /// Returns whether declared and index platform differ, and the binaries match one of them: the other one is wrong.
    fn contradicts_its_entry(&self) -> bool {
        let binaries = self.verdict.and_then(|verdict| verdict.binaries.as_ref());
        let (Some(index), Some(binaries)) = (self.index(), binaries) else { return false };
        !index.matches(self.declared) && (runs_on(index, binaries) || runs_on(self.declared, binaries))
    }

    /// The platform of the image with the variant that its binaries need.
    fn proven_variant(&self) -> Decision {
        let binaries = self.verdict.filter(|verdict| shows_architecture(verdict.kind));
        let Some(binaries) = binaries.and_then(|verdict| verdict.binaries.as_ref()) else {
            return Decision::Keep;
        };
        if binaries.variant.is_none() || !is_one_architecture(self.platform(), binaries) {
            return Decision::Keep;
        }
        let includes = |platform: &&Platform| {
            let has_variant = platform.variant.as_ref().is_some_and(|variant| !variant.is_empty());
            has_variant && runs_on(platform, binaries)
        };
        let stated = self.index().into_iter().chain([self.declared]).find(includes);
        let variant = stated.unwrap_or(binaries).canonical().variant;
        Decision::Relabel(Platform { variant, ..self.platform().canonical() })
    }

    fn by_itself(&self) -> Decision {
        let Some(verdict) = self.verdict else { return Decision::Keep };
        // The program may be right, and the operating system in the metadata wrong.
        let is_other_system =
            verdict.failure.as_ref().is_some_and(|failure| failure.other_system().is_some());
        let kind = match verdict.kind {
            VerdictKind::WouldNotStart if is_other_system => VerdictKind::Mislabeled,
            kind => kind,
        };
        match (kind, &verdict.binaries) {
            (VerdictKind::Mislabeled, Some(binaries)) => {
                let index_os = self.index().map(|index| &index.os);
                let mut systems = index_os.into_iter().chain([&self.declared.os]).filter(|os| !os.is_empty());
                let is_own = |os: &String| os.to_lowercase() == binaries.os;
                if systems.clone().next().is_some() && !systems.any(is_own) {
                    return Decision::Refuse(Box::new(Refusal {
                        platform: self.platform().clone(),
                        binaries: binaries.clone(),
                        reason: Reason::OtherSystem,
                    }));
                }
                // The index platform may have a variant or version that the binaries do not show.
                let fits = |platform: &&Platform| runs_on(platform, binaries);
                let platform = self.index().filter(fits).or(Some(self.declared).filter(fits));
                Decision::Relabel(platform.unwrap_or(binaries).canonical())
            }
            (VerdictKind::Consistent | VerdictKind::ForeignPayload, _) => match self.index() {
                Some(index) if !self.declared.satisfies_entry(index) => {
                    let is_same = self.declared.matches(index);
                    Decision::Relabel(if is_same { index } else { self.declared }.canonical())
                }
                _ => Decision::Keep,
            },
            (
                VerdictKind::Mislabeled
                | VerdictKind::WrongBuild
                | VerdictKind::Mixed
                | VerdictKind::WouldNotStart
                | VerdictKind::Undetermined,
                _,
            ) => Decision::Keep,
        }
    }
}

/// Returns advice for a member that must be rebuilt. `name` is the reference for `manifest-push edit`, if that can change
/// the image.
pub fn way_out(
    node: &TreeNode,
    entry: Option<&Descriptor>,
    platform: &Platform,
    name: Option<&str>,
) -> Vec<AdviceStep> {
    let mut steps = vec![AdviceStep::words(format!("rebuild {platform}"))];
    if let (Some(name), Some(platform)) = (name, entry.and_then(|entry| removable(node, entry))) {
        let remove = suggest("manifest-push", &["edit", name, "--remove", &platform.to_string()]);
        steps.push(AdviceStep::run("until then", remove));
    }
    steps
}

/// The platform by which `manifest-push edit --remove` can remove this entry.
fn removable<'a>(node: &TreeNode, entry: &'a Descriptor) -> Option<&'a Platform> {
    let TreeNode::Index(index) = node else { return None };
    let platform = entry.platform.as_ref()?;
    let entries = &index.index.manifests;
    // An edit does not change members of a nested index.
    let own = entries.iter().any(|own| std::ptr::eq(own, entry));
    let rest: Vec<&Descriptor> = entries
        .iter()
        .filter(|other| other.attested_digest().is_none() && !std::ptr::eq(*other, entry))
        .collect();
    let is_for = |other: &Descriptor, platform: &Platform| {
        other.platform.as_ref().is_some_and(|said| said.matches(platform))
    };
    let is_only = !rest.iter().any(|other| is_for(other, platform));
    // An edit refuses to write an index with two members for one platform.
    let has_duplicates = rest.iter().enumerate().any(|(at, one)| {
        one.platform.as_ref().is_some_and(|said| rest[at + 1..].iter().any(|other| is_for(other, said)))
    });
    (own && is_only && !rest.is_empty() && !has_duplicates).then_some(platform)
}

#[cfg(test)]
mod tests;
