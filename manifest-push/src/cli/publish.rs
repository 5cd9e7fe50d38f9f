//! From what is wanted to what is there: the plan is shown, content goes up, then the tags, one by one, each noted
//! in the journal before it moves.

use super::gather::Looked;
use crate::journal::{Journal, JournalRun};
use cli::Output;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Document, media_type};
use image_store::plan::{
    MovedTag, Plan, Progress, TagGuard, TagStep, WantedImage, apply_content, apply_tags, name_of,
    plan_with_info,
};
use image_store::store::Pointer;
use std::str::FromStr;

#[derive(clap::Args)]
#[command(next_help_heading = "Publishing")]
pub struct Write {
    /// Print every write with its digest and size, write nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Publish even if an image declares another platform, the tag was moved meanwhile, or an image
    /// would replace an index or an index an image; each is reported as a warning
    #[arg(long, global = true, conflicts_with = "expect")]
    pub force: bool,
    /// Publish only if the tag currently refers to this digest, or does not exist ("none")
    #[arg(long, global = true, value_name = "DIGEST")]
    pub expect: Option<Expected>,
}

/// What a tag must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Nothing,
    Digest(Digest),
}

impl FromStr for Expected {
    type Err = image_model::digest::DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self::Nothing) } else { text.parse().map(Self::Digest) }
    }
}

/// What was decided, for each place.
pub struct Done {
    plans: Vec<Plan>,
    dry_run: bool,
}

/// Publishes in every place, under every tag.
pub fn publish(
    wanted: WantedImage,
    targets: Vec<Looked>,
    write: &Write,
    output: &Output,
) -> Result<Done, Error> {
    for looked in &targets {
        refuse_another_kind(&wanted.root, looked, write.force, output)?;
    }
    let mut planned = Vec::new();
    for (i, looked) in targets.into_iter().enumerate() {
        let plan = plan_with_info(wanted.clone(), &*looked.target.store, &looked.target.tags, &looked.known)?;
        if i == 0 {
            hold_against_expectation(&plan, &looked, write.expect.as_ref())?;
        }
        output.info_lines(&plan.to_string());
        planned.push((plan, looked));
    }
    if !write.dry_run {
        carry_out(&planned, write, output)?;
    }
    Ok(Done { plans: planned.into_iter().map(|(plan, _)| plan).collect(), dry_run: write.dry_run })
}

fn carry_out(planned: &[(Plan, Looked)], write: &Write, output: &Output) -> Result<(), Error> {
    let tell = |progress: Progress<'_>| output.verbose_info(&describe(&progress));
    let mut looks = Vec::new();
    for (plan, looked) in planned {
        looks.push(apply_content(plan, &*looked.target.store, &looked.target.meter, &tell)?);
    }
    if planned.len() > 1 {
        // What came before the content of another place was too early.
        looks.clear();
    }
    let mut looks = looks.into_iter();
    let moved = if write.force { MovedTag::Overwrite } else { MovedTag::Refuse };
    // Opened only where a tag moves: who has nothing to do needs no place to write.
    let moves = planned.iter().any(|(plan, _)| !plan.tags.is_empty());
    let journal = if moves { Some(Journal::of_user()?) } else { None };
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

/// A tag that names one image is somebody's image; and whoever pulls a tag for another platform would get one image
/// in the place of an index.
fn refuse_another_kind(root: &Document, looked: &Looked, force: bool, output: &Output) -> Result<(), Error> {
    let store = &looked.target.store;
    for tag in &looked.target.tags {
        let named = match looked.known.named.get(tag) {
            Some(named) => named.clone(),
            None => store.resolve(&Pointer::Tag(tag.clone()))?,
        };
        let is = |kind: fn(&str) -> bool| named.as_ref().is_some_and(|named| kind(&named.media_type));
        let (what, there, hint) = match root.is_index() {
            true if is(media_type::is_manifest) => {
                ("an index", "a single image", "choose another tag, or replace it with --force")
            }
            false if is(media_type::is_index) => (
                "one image",
                "an index of several platforms",
                "change one member with `manifest-push edit`, choose another tag, or replace it with --force",
            ),
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

/// A tag that is right already needs no change, whatever was expected.
fn hold_against_expectation(plan: &Plan, looked: &Looked, expected: Option<&Expected>) -> Result<(), Error> {
    let (Some(expected), Some(tag)) = (expected, looked.target.tags.first()) else { return Ok(()) };
    let Some(step) = plan.tags.iter().find(|step| step.tag == *tag) else { return Ok(()) };
    let wanted = match expected {
        Expected::Nothing => None,
        Expected::Digest(digest) => Some(digest),
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

impl Done {
    /// `digest`, `changed`, `written`, `bytes` (at most), and `tags`, each with `image`, `tag`, `was`, `now`.
    pub fn json(&self, digest: &Digest) -> String {
        let tags: Vec<serde_json::Value> = self
            .plans
            .iter()
            .flat_map(|plan| plan.tags.iter().map(|step| (&plan.place, step)))
            .map(|(place, step)| {
                serde_json::json!({
                    "image": place, "tag": step.tag, "was": step.was, "now": step.document.digest(),
                })
            })
            .collect();
        let changed = self.plans.iter().any(|plan| !plan.is_nothing());
        let bytes: u64 = self.plans.iter().map(Plan::bytes).sum();
        serde_json::json!({
            "digest": digest, "changed": changed, "written": changed && !self.dry_run, "bytes": bytes, "tags": tags,
        })
        .to_string()
    }
}
