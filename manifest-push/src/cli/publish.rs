//! Publishes an image: plans and prints all writes, writes the content, then moves the tags one by one, each recorded in
//! the journal before it moves.

use super::fetch::TargetState;
use crate::TOOL;
use cli::{Output, suggest};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Document, media_type};
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::plan::{
    MovedTag, Plan, Progress, TagGuard, TagStep, WantedImage, apply_content, apply_tags, name_of,
    plan_with_info,
};
use std::str::FromStr;
use tag_journal::{Journal, JournalRun};

#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Publishing")]
pub struct PublishArgs {
    /// Print every write with its digest and size, write nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Publish even if an image declares another platform, the tag was moved meanwhile, or an image
    /// would replace an index or an index an image; each is reported as a warning
    #[arg(long, global = true, conflicts_with = "expect")]
    pub force: bool,
    /// Publish although the tag loses this platform (repeatable)
    #[arg(long, global = true, value_name = "PLATFORM")]
    pub drop: Vec<Platform>,
    /// Publish only if the tag currently refers to this digest, or does not exist ("none")
    #[arg(long, global = true, value_name = "DIGEST")]
    pub expect: Option<ExpectedDigest>,
}

/// The digest that a tag must refer to (`--expect`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedDigest {
    Nothing,
    Digest(Digest),
}

impl FromStr for ExpectedDigest {
    type Err = image_model::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self::Nothing) } else { text.parse().map(Self::Digest) }
    }
}

/// The plans that were applied, one per target.
pub struct Published {
    plans: Vec<Plan>,
    dry_run: bool,
}

/// Publishes the image to every target under all its tags.
///
/// # Errors
/// `BadInput` if an image would replace an index or the other way round; `CheckFailed` if a tag would lose a platform that
/// `write.drop` does not have; `Conflict` if a tag is not as expected or moved meanwhile.
pub fn publish(
    wanted: WantedImage,
    targets: Vec<TargetState>,
    write: &PublishArgs,
    output: &Output,
) -> Result<Published, Error> {
    let mut targets = targets;
    for looked in &mut targets {
        check_kind(&wanted.root, looked, write.force, output)?;
    }
    let mut planned = Vec::new();
    for (i, looked) in targets.into_iter().enumerate() {
        let plan = plan_with_info(wanted.clone(), &*looked.target.store, &looked.target.tags, &looked.known)?;
        if i == 0 {
            check_expected(&plan, &looked, write.expect.as_ref())?;
        }
        output.info_lines(&plan.to_string());
        planned.push((plan, looked));
    }
    planned.iter().try_for_each(|(plan, _)| plan.refuse_drops(&write.drop))?;
    if !write.dry_run {
        apply_all(&planned, write, output)?;
    }
    Ok(Published { plans: planned.into_iter().map(|(plan, _)| plan).collect(), dry_run: write.dry_run })
}

fn apply_all(planned: &[(Plan, TargetState)], write: &PublishArgs, output: &Output) -> Result<(), Error> {
    let tell = |progress: Progress<'_>| output.verbose_info(&describe(&progress));
    // Opened only if a tag moves: if there is nothing to do, no state directory is needed.
    let moves = planned.iter().any(|(plan, _)| !plan.tags.is_empty());
    let journal = if moves { Some(Journal::of_user()?) } else { None };
    journal.iter().try_for_each(Journal::check)?;
    let plans: Vec<(&Plan, &Reference)> =
        planned.iter().map(|(plan, looked)| (plan, &looked.reference)).collect();
    let on_wait = || output.info("waiting for another process that moves the same tag");
    let _locks = journal.as_ref().map(|journal| journal.lock_tags(&plans, &on_wait)).transpose()?;
    let mut looks = Vec::new();
    for (plan, looked) in planned {
        looks.push(apply_content(plan, &*looked.target.store, &looked.target.meter, &tell)?);
    }
    if planned.len() > 1 {
        // These tags were resolved before the content of other targets was written, which is too early.
        looks.clear();
    }
    let mut looks = looks.into_iter();
    let moved = if write.force { MovedTag::Overwrite } else { MovedTag::Refuse };
    let run = JournalRun::new();
    for (plan, looked) in planned {
        let before = |step: &TagStep, now: Option<&Digest>| {
            if now != step.was.as_ref() {
                let (name, now) = (name_of(&plan.place, &step.tag), shown(now));
                let was = shown(step.was.as_ref());
                output.info(&format!(
                    "warning: {name} moved from {was} to {now} during this run; overwriting it (--force)"
                ));
            }
            match &journal {
                Some(journal) => {
                    journal.append(&run.entry(&looked.reference, &step.tag, now, step.document.digest()))
                }
                None => Ok(()),
            }
        };
        let just_looked = looks.next().unwrap_or_default();
        apply_tags(plan, &*looked.target.store, TagGuard { moved, before: &before }, just_looked, &tell)?;
    }
    Ok(())
}

/// Refuses to replace an image by an index and the other way round, without `--force`: clients would suddenly get
/// another kind of image under the tag.
fn check_kind(root: &Document, looked: &mut TargetState, force: bool, output: &Output) -> Result<(), Error> {
    let store = &looked.target.store;
    for tag in &looked.target.tags {
        if !looked.known.tags.contains_key(tag) {
            looked.known.tags.insert(tag.clone(), store.read_tag(tag)?);
        }
        let named = looked.known.tags.get(tag).and_then(Option::as_ref);
        let is = |kind: fn(&str) -> bool| named.is_some_and(|named| kind(&named.descriptor.media_type));
        let (what, there, hint) = match root.is_index() {
            true if is(media_type::is_manifest) => {
                ("an index", "a single image", "choose another tag, or replace it with --force".to_string())
            }
            false if is(media_type::is_index) => {
                let edit = suggest(TOOL, &["edit"]);
                let hint = format!(
                    "change one member with `{edit}`, choose another tag, or replace it with --force"
                );
                ("one image", "an index of several platforms", hint)
            }
            _ => continue,
        };
        let name = name_of(&store.display_name(), tag);
        if !force {
            let doing = format!("publish {what} as \"{name}\"");
            return Err(Error::bad_input(doing, format!("the tag refers to {there}")).hint(hint));
        }
        output.info(&format!("warning: {name} refers to {there}; replacing it with {what} (--force)"));
    }
    Ok(())
}

/// Compares the first tag with `--expect`. A tag that need not move is fine, whatever was expected.
fn check_expected(plan: &Plan, looked: &TargetState, expected: Option<&ExpectedDigest>) -> Result<(), Error> {
    let (Some(expected), Some(tag)) = (expected, looked.target.tags.first()) else { return Ok(()) };
    let Some(step) = plan.tags.iter().find(|step| step.tag == *tag) else { return Ok(()) };
    let wanted = match expected {
        ExpectedDigest::Nothing => None,
        ExpectedDigest::Digest(digest) => Some(digest),
    };
    if step.was.as_ref() == wanted {
        return Ok(());
    }
    let doing = format!("move tag \"{tag}\" of \"{}\"", plan.place);
    let why = format!("it refers to {}, expected {}", shown(step.was.as_ref()), shown(wanted));
    Err(Error::conflict(doing, why).hint("nothing was written"))
}

fn shown(digest: Option<&Digest>) -> String {
    digest.map_or("nothing".to_string(), Digest::to_string)
}

fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("blob {} is present", blob.digest),
        Progress::Document(document) => format!("manifest {} is present", document.digest()),
        Progress::Tag(tag, document) => format!("tag {tag} refers to {}", document.digest()),
    }
}

impl Published {
    /// Prints the last line of a dry run, after the result.
    pub fn finish(&self, output: &Output) {
        if self.dry_run {
            output.end_dry_run();
        }
    }

    /// `schemaVersion`, `digest`, `changed`, `written`, `bytes` (at most), and `tags`, each with `image`, `tag`, `was`, `now` and
    /// `drops`.
    pub fn json(&self, digest: &Digest) -> String {
        let tags: Vec<serde_json::Value> = self
            .plans
            .iter()
            .flat_map(|plan| plan.tags.iter().map(move |step| (plan, step)))
            .map(|(plan, step)| {
                let drops = plan.drops.iter().filter(|dropped| dropped.tag == step.tag);
                let drops = drops.map(
                    |dropped| serde_json::json!({"platform": dropped.platform, "manifest": dropped.digest}),
                );
                serde_json::json!({
                    "image": plan.place, "tag": step.tag, "was": step.was, "now": step.document.digest(),
                    "drops": drops.collect::<Vec<_>>(),
                })
            })
            .collect();
        let changed = self.plans.iter().any(|plan| !plan.is_nothing());
        let bytes: u64 = self.plans.iter().map(Plan::bytes).sum();
        serde_json::json!({
            "schemaVersion": 2, "digest": digest, "changed": changed, "written": changed && !self.dry_run, "bytes": bytes, "tags": tags,
        })
        .to_string()
    }
}
