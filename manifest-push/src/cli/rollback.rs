//! `rollback`: restores the tags of the last push.

use super::Session;
use crate::TOOL;
use crate::rollback::{CurrentTags, OpenTarget, RollbackPlan, doing, plan_rollback};
use clap::Args;
use cli::{Format, Output, print_json, print_line, suggest};
use error::Error;
use error::Exit;
use image_model::reference::Reference;
use image_store::plan::name_of;
use tag_journal::{History, Journal, JournalEntry, JournalFilter, store_name};

#[derive(Args)]
pub struct Rollback {
    /// Undo the last push of this image or tag [default: the image of the newest push not yet rolled
    /// back]
    pub image: Option<Reference>,
    /// Print the digest that each tag would be restored to, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore a tag even if another client moved it since
    #[arg(long)]
    pub force: bool,
}

pub fn rollback(args: &Rollback, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    let open = |image: &Reference| session.stores(image)?.target_with_tags(image, Vec::new());
    let tags = CurrentTags::new(&open);
    let journal = Journal::of_user()?;
    let filter = JournalFilter {
        image: args.image.as_ref().map(store_name),
        tag: args.image.as_ref().and_then(Reference::tag).map(str::to_string),
    };
    let history = without_moves_never_made(journal.read()?, &filter, &tags)?;
    let moves = history.last_push(&filter);
    let Some(newest) = moves.first() else { return Err(no_push(args, &journal)) };
    if moves.iter().all(|entry| entry.old.is_none()) {
        return Err(only_new_tags(newest, &history, &filter));
    }
    let plan = plan_rollback(&moves, &tags, args.force)?;
    let (dry_run, force) = (args.dry_run, args.force);
    execute(&plan, RollbackOptions { dry_run, force, nothing: "nothing to do" }, output)
}

/// Options of a rollback.
#[derive(Clone, Copy)]
pub struct RollbackOptions<'a> {
    pub dry_run: bool,
    pub force: bool,
    /// Printed if no tag has to be restored.
    pub nothing: &'a str,
}

/// The same from other records of a push: the report of a release.
pub fn rollback_moves(
    moves: &[JournalEntry],
    open: OpenTarget<'_>,
    options: RollbackOptions<'_>,
    output: &Output,
) -> Result<Exit, Error> {
    let plan = plan_rollback(moves, &CurrentTags::new(open), options.force)?;
    let is_moved = |entry: &JournalEntry| entry.old.as_ref().is_some_and(|old| *old != entry.new);
    match moves.first() {
        Some(first) if !plan.created.is_empty() && !moves.iter().any(is_moved) => {
            Err(only_new_tags(first, &History::default(), &JournalFilter::default()))
        }
        _ => execute(&plan, options, output),
    }
}

fn execute(plan: &RollbackPlan, options: RollbackOptions<'_>, output: &Output) -> Result<Exit, Error> {
    let RollbackOptions { dry_run, force, nothing } = options;
    for name in &plan.created {
        output.info(&format!("unchanged: {name} was created by this push; it has no previous digest"));
    }
    for store in &plan.stores {
        output.info_lines(&store.plan.to_string());
    }
    if plan.stores.is_empty() {
        output.info(nothing);
    }
    if !dry_run {
        plan.apply(force)?;
    }
    match output.format {
        Format::Text => plan.steps().for_each(|(image, step)| {
            print_line(&format!("{}@{}", name_of(image, &step.tag), step.document.digest()));
        }),
        Format::Json => print_json(&plan.json(dry_run).to_string()),
    }
    if dry_run {
        output.end_dry_run();
    }
    Ok(Exit::Done)
}

fn no_push(args: &Rollback, journal: &Journal) -> Error {
    let what = args.image.as_ref().map_or("the last push".to_string(), |image| format!("\"{image}\""));
    let why = format!("\"{}\" has no push to roll back", journal.path().display());
    let hint = "push, edit, copy, fix and release record there what they publish as this user on this host";
    let hint = match &args.image {
        Some(Reference::Registry(image)) => {
            format!(
                "{hint}; to restore any other digest: {}",
                suggest(TOOL, &["copy", &format!("{}@sha256:OLD", image.name()), &image.to_string()])
            )
        }
        _ => hint.into(),
    };
    Error::not_found(format!("roll back {what}"), why).hint(hint)
}

/// To skip such a push silently would roll back another push than the one that was meant.
fn only_new_tags(newest: &JournalEntry, history: &History, filter: &JournalFilter) -> Error {
    let why = "the push created the tag; there is no previous digest to restore";
    let remove = "rollback does not delete tags";
    let earlier = history.last_restorable_push(filter);
    let hint = match earlier.iter().find(|entry| entry.old.is_some()) {
        Some(entry) => {
            let name = name_of(&entry.image, &entry.tag);
            format!("{remove}; to undo the push before it: {}", suggest(TOOL, &["rollback", &name]))
        }
        None => remove.into(),
    };
    Error::bad_input(doing(newest), why).hint(hint)
}

/// A line is written before its tag moves. A run that was killed in between, or that the registry refused, did not
/// move the tag: its entry is removed.
fn without_moves_never_made(
    mut history: History,
    filter: &JournalFilter,
    tags: &CurrentTags<'_>,
) -> Result<History, Error> {
    for entry in history.newest_run(filter) {
        if tags.digest(&entry)? == entry.old {
            history.entries.retain(|other| *other != entry);
        }
    }
    loop {
        let moves = history.last_push(filter);
        let mut is_made = moves.is_empty();
        for entry in &moves {
            is_made |= tags.digest(entry)? != entry.old;
        }
        if is_made {
            return Ok(history);
        }
        let key = |entry: &JournalEntry| (entry.publish.clone(), entry.image.clone(), entry.tag.clone());
        history.entries.retain(|entry| !moves.iter().any(|one| key(one) == key(entry)));
    }
}
