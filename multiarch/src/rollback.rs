//! `cargo xtask rollback REPORT`: the tags of a release name again what they named before it.
//!
//! Read, decide, show, write: a tag goes back only if it still names what the release made it name. What it named is
//! still in the registry, since nothing is ever deleted here.

use crate::report::{Failure, Report, TagReport};
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use image_model::reference::Reference;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use image_store::plan::{MovedTag, Plan, TagStep, apply};
use image_store::store::{ImageSource, Pointer};
use registry_client::Reporting;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The report of the release to take back; of one that failed, what it moved goes back
    pub report: PathBuf,
    /// Show what each tag will name, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take a tag back even if somebody else moved it since
    #[arg(long)]
    pub force: bool,
}

pub fn run(args: &Args, registry: &RegistryArgs, output: &Output) -> Result<Exit, Error> {
    let report = read(args)?;
    let reference: Reference = report
        .image
        .parse()
        .map_err(|e: image_model::reference::ReferenceError| Error::bad_input(doing(args), e.to_string()))?;
    let options =
        registry.options(Reporting::new(output.warning_printer(), |line| cli::eprint_line(line.to_string())));
    let target = Stores::new(options).target(&reference)?;
    let Decision { plan, new, problems, missing } = decide(&report.tags, &*target.store)?;
    let is_refused = !missing.is_empty() || (!problems.is_empty() && !args.force);
    let problems = [missing, problems].concat();
    if is_refused {
        return Err(Error::conflict(doing(args), "tags are not as the release left them, nothing was moved")
            .hint("--force takes a tag back that somebody else moved")
            .problems(problems));
    }
    match &report.failed {
        Some(failed) if plan.is_nothing() => output.info(&nothing_moved(failed)),
        _ => output.info_lines(&plan.to_string()),
    }
    for tag in &new {
        output.info(&format!("tag {tag} was new: it stays, since registries cannot take a tag away alone"));
    }
    if !args.dry_run {
        let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
        apply(&plan, &*target.store, moved, &target.meter, &|_| {})?;
    }
    show(&plan, &new, output)
}

/// Of a release that failed, where no tag is its own any more.
fn nothing_moved(failed: &Failure) -> String {
    let earlier = failed.earlier.as_ref().map_or(String::new(), |earlier| {
        format!("; to take back the one before it, name \"{}\"", earlier.display())
    });
    let step = failed.step.display_name();
    format!("nothing to take back: the release failed at the {step}, and no tag names what it made{earlier}")
}

fn show(plan: &Plan, new: &[String], output: &Output) -> Result<Exit, Error> {
    match output.format {
        Format::Json => {
            let tags: Vec<TagReport> = plan.tags.iter().map(TagReport::from).collect();
            print_json(&serde_json::json!({"image": plan.place, "tags": tags, "new": new}).to_string());
        }
        Format::Text => {
            for step in &plan.tags {
                print_line(&format!("{}:{}@{}", plan.place, step.tag, step.document.digest()));
            }
        }
    }
    Ok(Exit::Done)
}

fn doing(args: &Args) -> String {
    format!("take back the release of \"{}\"", args.report.display())
}

fn read(args: &Args) -> Result<Report, Error> {
    let text = std::fs::read(&args.report).map_err(|e| Error::from_io(doing(args), e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::bad_input(doing(args), format!("it is no report of a release: {e}")))
}

/// What would be done, and what speaks against it. All tags are looked at before one is moved.
struct Decision {
    plan: Plan,
    /// Tags that the release made.
    new: Vec<String>,
    /// Tags that somebody else moved since.
    problems: Vec<String>,
    /// What cannot be named again, since it is not there any more.
    missing: Vec<String>,
}

/// Each tag back to what it named. A tag that was new has nothing to go back to.
fn decide(tags: &[TagReport], target: &dyn ImageSource) -> Result<Decision, Error> {
    let mut plan = Plan { place: target.display_name(), ..Plan::default() };
    let (mut new, mut problems, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    // The index first: members are told apart by their own tags last, as they were set first.
    for tag in tags.iter().rev() {
        let now = target.resolve(&Pointer::Tag(tag.tag.clone()))?.map(|named| named.digest);
        let Some(was) = &tag.was else {
            // A release that failed may not have come to it.
            if now.is_some() {
                new.push(tag.tag.clone());
            }
            continue;
        };
        // Where the release did not move a tag, what it names since is not the release's.
        if now.as_ref() == Some(was) || *was == tag.now {
            continue;
        }
        if now.as_ref() != Some(&tag.now) {
            let now = now.map_or("nothing".to_string(), |now| now.to_string());
            problems.push(format!("tag {} names {now}; the release left it at {}", tag.tag, tag.now));
        }
        match target.read_document(&Pointer::from(was)) {
            // What the release left there, not what is there now: `apply` refuses a tag that moved since.
            Ok(document) => {
                plan.tags.push(TagStep { tag: tag.tag.clone(), document, was: Some(tag.now.clone()) });
            }
            Err(error) if error.kind == Exit::NotFound => {
                missing.push(format!("tag {} named {was}, which is not there any more", tag.tag));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Decision { plan, new, problems, missing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_model::manifest::{Document, media_type};
    use image_store::store::ImageStore;
    use image_store::store::memory::MemoryStore;
    use registry_client::meter::Meter;

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
        store.write_tag("1.0", &new).unwrap();
        let tags = [report("0.9", None), report("1.0", None), report("latest", Some(&old))];
        let Decision { plan, new: fresh, problems, .. } = decide(&tags, &store).unwrap();
        assert_eq!((fresh, problems), (vec!["1.0".to_string()], Vec::new()));
        apply(&plan, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
        let names = |tag: &str| store.read_document(&Pointer::Tag(tag.into())).unwrap();
        assert_eq!(names("latest"), old);
        assert!(decide(&tags, &store).unwrap().plan.is_nothing(), "a second run has nothing to do");

        store.write_tag("latest", &other).unwrap();
        let Decision { plan, problems, .. } = decide(&tags, &store).unwrap();
        let told = format!("tag latest names {}; the release left it at {}", other.digest(), new.digest());
        assert_eq!(problems, [told]);
        assert_eq!(
            apply(&plan, &store, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap_err().kind,
            Exit::Conflict
        );
        assert_eq!(names("latest"), other);
    }
}
