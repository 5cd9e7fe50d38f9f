//! `cargo xtask rollback REPORT`: the tags of a release name again what they named before it.
//!
//! Read, decide, show, write: a tag goes back only if it still names what the release made it name. What it named is
//! still in the registry, since nothing is ever deleted here.

use crate::release::report::{Report, TagReport};
use image_store::cli::{Output, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use image_store::plan::{MovedTag, Plan, TagStep, apply};
use image_store::reference::Reference;
use image_store::store::{ImageSource, Pointer};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The report.json of the release to take back
    report: PathBuf,
    /// Show what each tag will name, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Take a tag back even if somebody else moved it since
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub fn run(args: &Args, output: &Output) -> Result<Exit, StoreError> {
    let report = read(args)?;
    let reference: Reference =
        report.image.parse().map_err(|e: image_store::reference::ReferenceError| {
            StoreError::bad_input(doing(args), e.to_string())
        })?;
    let target = Stores::new(args.registry.options()).target(&reference)?;
    let (plan, new) = decide(&report.tags, &*target.store)?;
    output.say_lines(&plan.to_string());
    for tag in &new {
        output.say(&format!("tag {tag} was new: it stays, since registries cannot take a tag away alone"));
    }
    if !args.dry_run {
        let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
        apply(&plan, &*target.store, moved, &|_| {})?;
    }
    for step in &plan.tags {
        print_line(&format!("{}:{}@{}", plan.place, step.tag, step.document.digest()));
    }
    Ok(Exit::Done)
}

fn doing(args: &Args) -> String {
    format!("take back the release of \"{}\"", args.report.display())
}

fn read(args: &Args) -> Result<Report, StoreError> {
    let text = std::fs::read(&args.report).map_err(|e| StoreError::from_io(doing(args), e))?;
    serde_json::from_slice(&text)
        .map_err(|e| StoreError::bad_input(doing(args), format!("it is no report of a release: {e}")))
}

/// Each tag back to what it named. A tag that was new has nothing to go back to.
fn decide(tags: &[TagReport], target: &dyn ImageSource) -> Result<(Plan, Vec<String>), StoreError> {
    let mut plan = Plan { place: target.place(), ..Plan::default() };
    let mut new = Vec::new();
    // The index first: members are told apart by their own tags last, as they were set first.
    for tag in tags.iter().rev() {
        let Some(was) = &tag.was else {
            new.push(tag.tag.clone());
            continue;
        };
        let now = target.resolve(&Pointer::Tag(tag.tag.clone()))?.map(|named| named.digest);
        if now.as_ref() == Some(was) {
            continue;
        }
        let document = target.read_document(&Pointer::from(was))?;
        // What the release left there, not what is there now: `apply` refuses a tag that moved since.
        plan.tags.push(TagStep { tag: tag.tag.clone(), document, was: Some(tag.now.clone()) });
    }
    Ok((plan, new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_store::manifest::{Document, media_type};
    use image_store::store::ImageStore;
    use image_store::store::memory::MemoryStore;

    fn image(store: &MemoryStore, note: &str) -> Document {
        let config = store.add_blob(media_type::OCI_CONFIG, b"{}");
        let text =
            serde_json::json!({"schemaVersion":2,"config":config,"layers":[],"annotations":{"n":note}});
        Document::new(text.to_string().into_bytes(), None).unwrap()
    }

    #[test]
    fn a_tag_goes_back_to_what_it_named_unless_somebody_moved_it() {
        let store = MemoryStore::new();
        let (old, new, other) = (image(&store, "old"), image(&store, "new"), image(&store, "other"));
        store.write_tag("latest", &old).unwrap();
        store.write_tag("latest", &new).unwrap();
        let report = |tag: &str, was: Option<&Document>| TagReport {
            tag: tag.into(),
            was: was.map(|document| document.digest().clone()),
            now: new.digest().clone(),
        };
        let tags = [report("1.0", None), report("latest", Some(&old))];
        let (plan, fresh) = decide(&tags, &store).unwrap();
        assert_eq!(fresh, ["1.0"]);
        apply(&plan, &store, MovedTag::Refuse, &|_| {}).unwrap();
        let names = |tag: &str| store.read_document(&Pointer::Tag(tag.into())).unwrap();
        assert_eq!(names("latest"), old);
        assert!(decide(&tags, &store).unwrap().0.is_nothing(), "a second run has nothing to do");

        store.write_tag("latest", &other).unwrap();
        let (plan, _) = decide(&tags, &store).unwrap();
        assert_eq!(apply(&plan, &store, MovedTag::Refuse, &|_| {}).unwrap_err().kind, Exit::Conflict);
        assert_eq!(names("latest"), other);
    }
}
