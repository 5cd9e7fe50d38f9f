//! `rollback REPORT`: restores the tags of a release from its report, on any machine.

use crate::report::{Failure, Report};
use cli::Output;
use error::Error;
use error::Exit;
use image_model::reference::Reference;
use image_store::atomic_file::TempFiles;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use manifest_push::cli::rollback::{RollbackOptions, rollback_moves};
use registry_client::Reporting;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Report of the release to roll back; it may have failed
    pub report: PathBuf,
    /// Print the digest that each tag would be restored to, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore a tag even if another client moved it since
    #[arg(long)]
    pub force: bool,
}

pub fn run(
    args: &Args,
    registry: &RegistryArgs,
    temp_files: TempFiles,
    output: &Output,
) -> Result<Exit, Error> {
    let report = read(args)?;
    let options =
        registry.options(Reporting::new(output.warning_printer(), |line| cli::eprint_line(line.to_string())));
    let stores = Stores::new(options, temp_files);
    let open = |image: &Reference| stores.target_with_tags(image, Vec::new());
    let nothing = report.failed.as_ref().map_or("nothing to do".to_string(), nothing_moved);
    let options = RollbackOptions { dry_run: args.dry_run, force: args.force, nothing: &nothing };
    rollback_moves(&report.moves(), &open, options, output)
}

/// For a release that failed and of which no tag is left to restore.
fn nothing_moved(failed: &Failure) -> String {
    let earlier = failed.earlier.as_ref().map_or(String::new(), |earlier| {
        format!("; to roll back the release before it, use \"{}\"", earlier.display())
    });
    let step = failed.step.display_name();
    format!(
        "nothing to roll back: the release failed at the {step}, and no tag refers to its images{earlier}"
    )
}

fn read(args: &Args) -> Result<Report, Error> {
    let doing = || format!("roll back the release of \"{}\"", args.report.display());
    let text = std::fs::read(&args.report).map_err(|e| Error::from_io(doing(), e))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::bad_input(doing(), format!("it is not the report of a release: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::TagReport;
    use image_model::digest::Digest;
    use image_model::manifest::{Document, media_type};
    use image_store::open::Target;
    use image_store::store::memory::MemoryStore;
    use image_store::store::{ImageSource, ImageStore, Pointer};
    use manifest_push::rollback::{CurrentTags, plan_rollback};
    use std::sync::Arc;
    use tag_journal::JournalEntry;

    fn image(store: &MemoryStore, note: &str) -> Document {
        let config = store.add_blob(media_type::OCI_CONFIG, b"{}");
        let text =
            serde_json::json!({"schemaVersion":2,"config":config,"layers":[],"annotations":{"n":note}});
        Document::new(text.to_string().into_bytes(), None).unwrap()
    }

    #[test]
    fn a_tag_is_restored_unless_another_client_moved_it() {
        let store = Arc::new(MemoryStore::new());
        let (old, new, other) = (image(&store, "old"), image(&store, "new"), image(&store, "other"));
        store.write_tag("latest", &old).unwrap();
        store.write_tag("latest", &new).unwrap();
        let row = |tag: &str, was: Option<&Document>| TagReport {
            tag: tag.into(),
            was: was.map(|document| document.digest().clone()),
            now: new.digest().clone(),
            publish: None,
        };
        store.write_tag("1.0", &new).unwrap();
        let tags = [row("0.9", None), row("1.0", None), row("latest", Some(&old))];
        let moves: Vec<JournalEntry> = tags.iter().map(|tag| tag.entry("127.0.0.1:5000/a/b")).collect();
        let open = |_: &Reference| {
            let store: Arc<dyn ImageStore> = store.clone();
            Ok(Target { store, tags: Vec::new(), meter: Arc::default() })
        };
        let plan = |force: bool| plan_rollback(&moves, &CurrentTags::new(&open), force);
        let first = plan(false).unwrap();
        assert_eq!(first.created, ["127.0.0.1:5000/a/b:1.0"]);
        assert_eq!(first.stores[0].plan.tags.len(), 1);
        let names = |tag: &str| store.read_document(&Pointer::Tag(tag.into())).unwrap();
        store.write_tag("latest", &old).unwrap();
        assert!(plan(false).unwrap().is_nothing(), "a second run has nothing to do");

        store.write_tag("latest", &other).unwrap();
        let error = plan(false).err().unwrap();
        let expected = format!("refers to {}, not to {} as after the push", other.digest(), new.digest());
        assert!(error.kind == Exit::Conflict && error.to_string().contains(&expected), "{error}");
        assert_eq!(plan(true).unwrap().stores[0].plan.tags.len(), 1);
        assert_eq!(names("latest"), other);
    }

    #[test]
    fn a_report_of_0_1_0_is_read() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let (old, new) = (digest("old"), digest("new"));
        let text = serde_json::json!({
            "report": 1, "image": "127.0.0.1:5000/a/b", "digest": new, "media_type": "x", "changed": true,
            "platforms": [], "tags": [{"tag": "latest", "was": old, "now": new}], "seconds": 1.0, "failed": null,
        });
        let report: Report = serde_json::from_value(text).unwrap();
        let [entry] = report.moves().try_into().unwrap();
        assert_eq!((entry.old, entry.new, entry.publish.as_str()), (Some(old), new, ""));
    }
}
