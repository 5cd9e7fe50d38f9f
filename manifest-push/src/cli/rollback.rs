//! `rollback`: the tags of the last publication name again what they named before it.

use super::Tools;
use crate::journal::{Entry, Journal, Publish, Wish, last, last_with_a_way_back, newest, place_of};
use clap::Args;
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::reference::{Reference, ReferenceError, RegistryRef};
use image_store::open::Target;
use image_store::plan::{MovedTag, Plan, ResolvedTags, TagGuard, TagStep, apply_tags, name_of};
use image_store::store::Pointer;

#[derive(Args)]
pub struct Rollback {
    /// Undo the last push of this image or tag [default: the last push of all]
    pub image: Option<Reference>,
    /// Print the digest that each tag would be restored to, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore a tag even if another client moved it since
    #[arg(long)]
    pub force: bool,
}

/// What goes back in one place.
struct Back {
    target: Target,
    reference: Reference,
    plan: Plan,
}

pub fn rollback(args: &Rollback, tools: &Tools<'_>, output: &Output) -> Result<Exit, Error> {
    let journal = Journal::of_user()?;
    let wish = Wish { image: args.image.as_ref().map(place_of), tag: args.image.as_ref().and_then(tag_of) };
    let entries = without_what_never_happened(journal.read()?, &wish, tools)?;
    let steps = last(&entries, &wish);
    let Some(newest) = steps.first() else { return Err(knows_of_none(args, &journal)) };
    let (moved, new): (Vec<&Entry>, Vec<&Entry>) = steps.iter().partition(|entry| entry.old.is_some());
    if moved.is_empty() {
        return Err(nothing_to_go_back_to(newest, &entries, &wish));
    }
    for entry in &new {
        output.info(&format!("left: {} was new with this publication", name_of(&entry.image, &entry.tag)));
    }
    let backs = decide(&moved, tools)?;
    for back in &backs {
        output.info_lines(&back.plan.to_string());
    }
    if !args.dry_run {
        let publish = Publish::undoing(&newest.publish);
        for back in &backs {
            carry_out(back, &publish, &journal, args.force)?;
        }
    }
    let moved = backs.iter().flat_map(|back| back.plan.tags.iter().map(|step| (&back.plan.place, step)));
    let name =
        |place: &str, step: &TagStep| format!("{}@{}", name_of(place, &step.tag), step.document.digest());
    match output.format {
        Format::Text => moved.for_each(|(place, step)| print_line(&name(place, step))),
        Format::Json => {
            let tags: Vec<serde_json::Value> = moved
                .map(|(place, step)| {
                    serde_json::json!({
                        "image": place, "tag": step.tag, "was": step.was, "now": step.document.digest(),
                    })
                })
                .collect();
            let written = !tags.is_empty() && !args.dry_run;
            let left: Vec<String> = new.iter().map(|entry| name_of(&entry.image, &entry.tag)).collect();
            print_json(&serde_json::json!({"written": written, "tags": tags, "left": left}).to_string());
        }
    }
    Ok(Exit::Done)
}

fn tag_of(image: &Reference) -> Option<String> {
    match image {
        Reference::Registry(RegistryRef { tag, .. })
        | Reference::OciLayout { tag, .. }
        | Reference::OciArchive { tag, .. }
        | Reference::DockerArchive { name: tag, .. } => tag.clone(),
        // The place of such an image is its name.
        Reference::DockerDaemon { .. } | Reference::Stdin => None,
    }
}

fn knows_of_none(args: &Rollback, journal: &Journal) -> Error {
    let what = args.image.as_ref().map_or("any image".to_string(), |image| format!("\"{image}\""));
    let why = format!("\"{}\" knows of no publication that could be taken back", journal.path().display());
    let hint = match &args.image {
        Some(Reference::Registry(image)) => format!(
            "push, edit and copy note there what they publish as this user on this machine; what was published \
             elsewhere: manifest-push copy {}@sha256:OLD {image}",
            image.name()
        ),
        _ => "push, edit and copy note there what they publish as this user on this machine".into(),
    };
    Error::not_found(format!("take back a publication of {what}"), why).hint(hint)
}

/// To pass such a publication over in silence would take back another one than was meant.
fn nothing_to_go_back_to(newest: &Entry, entries: &[Entry], wish: &Wish) -> Error {
    let why = "the tag was new: there is nothing that it named before";
    let remove = "remove the tag by other means, if nobody shall find it";
    let hint = match last_with_a_way_back(entries, wish).iter().find(|entry| entry.old.is_some()) {
        Some(entry) => {
            let name = name_of(&entry.image, &entry.tag);
            format!("{remove}; to take back the publication before it: manifest-push rollback {name}")
        }
        None => remove.into(),
    };
    Error::bad_input(doing(newest), why).hint(hint)
}

/// A line is written before its tag moves. If the last run was killed in between, its tag still names what it named.
fn without_what_never_happened(
    mut entries: Vec<Entry>,
    wish: &Wish,
    tools: &Tools<'_>,
) -> Result<Vec<Entry>, Error> {
    for entry in newest(&entries, wish) {
        let store = open(&entry, tools)?.1.store;
        let now = store.resolve(&Pointer::Tag(entry.tag.clone()))?.map(|named| named.digest);
        if now == entry.old {
            entries.retain(|other| *other != entry);
        }
    }
    Ok(entries)
}

fn open(entry: &Entry, tools: &Tools<'_>) -> Result<(Reference, Target), Error> {
    let reference: Reference =
        entry.image.parse().map_err(|e: ReferenceError| Error::bad_input(doing(entry), e.to_string()))?;
    let target = tools.stores(&reference)?.target(&reference)?;
    Ok((reference, target))
}

fn doing(entry: &Entry) -> String {
    format!("take \"{}\" back", name_of(&entry.image, &entry.tag))
}

/// An engine has the images that it had, under their ids, and only docker can name them again.
fn refuse_an_engine(entry: &Entry, old: &Digest, reference: &Reference) -> Result<(), Error> {
    let Reference::DockerDaemon { name } = reference else { return Ok(()) };
    let why = "a Docker Engine gives no image out by its digest";
    Err(Error::bad_input(doing(entry), why).hint(format!("docker image tag {old} {name}")))
}

fn decide(steps: &[&Entry], tools: &Tools<'_>) -> Result<Vec<Back>, Error> {
    let mut backs: Vec<Back> = Vec::new();
    for entry in steps {
        let Some(old) = &entry.old else { continue };
        let (reference, target) = open(entry, tools)?;
        refuse_an_engine(entry, old, &reference)?;
        let at = match backs.iter().position(|back| back.reference == reference) {
            Some(at) => at,
            None => {
                let plan = Plan { place: target.store.display_name(), ..Plan::default() };
                backs.push(Back { target, reference, plan });
                backs.len() - 1
            }
        };
        let Back { target, plan, .. } = &mut backs[at];
        let now = target.store.resolve(&Pointer::Tag(entry.tag.clone()))?.map(|named| named.digest);
        if now.as_ref() == Some(old) {
            continue;
        }
        let document = target.store.read_document(&Pointer::from(old))?;
        // What the publication left there, not what is there now: a tag that moved since is refused.
        plan.tags.push(TagStep { tag: entry.tag.clone(), document, was: Some(entry.new.clone()) });
    }
    Ok(backs)
}

fn carry_out(back: &Back, publish: &Publish, journal: &Journal, force: bool) -> Result<(), Error> {
    let moved = if force { MovedTag::Overwrite } else { MovedTag::Refuse };
    let before = |step: &TagStep, now: Option<&Digest>| {
        journal.append(&publish.moving(&back.reference, &step.tag, now, step.document.digest()))
    };
    apply_tags(
        &back.plan,
        &*back.target.store,
        TagGuard { moved, before: &before },
        ResolvedTags::default(),
        &|_| {},
    )
}
