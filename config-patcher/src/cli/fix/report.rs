//! The output of `fix`: changes and notes for people, the result as text or JSON.

use crate::plan::{Changes, ImageChange, Relabeled};
use crate::referrers::{AttachedArtifacts, Referrer};
use cli::{Format, Output, print_json, print_line};
use image_model::digest::Digest;
use image_store::plan::{Plan, Progress, TagStep};
use image_store::tree::TreeNode;
use serde_json::{Value, json};

/// A completed write, for `--verbose`.
pub fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("wrote blob {}", blob.digest),
        Progress::Document(document) => format!("wrote manifest {}", document.digest()),
        Progress::Tag(tag, document) => format!("moved tag {tag} to {}", document.digest()),
    }
}

/// Prints what changes in each image.
pub fn print_changes(relabeled: &Relabeled, node: &TreeNode, kept: &[String], output: &Output) {
    for (entry, unread) in node.unread() {
        let platform = entry.and_then(|entry| entry.platform.as_ref());
        let member = platform.map_or(String::new(), |platform| format!("{platform}: "));
        let part = unread.absent_part().unwrap_or_else(|| unread.error.to_string());
        output.info(&format!("note: {member}{part}; its entry is not changed"));
    }
    for member in kept {
        output.info(&format!("note: {member}"));
    }
    let Relabeled::Changed(Changes { images, notes, .. }) = relabeled else {
        let what = if kept.is_empty() { "all platforms" } else { "all other platforms" };
        output.info(&format!("{what} are correct: {} is unchanged", node.digest()));
        return;
    };
    for change in images {
        let name = change.index_platform.as_ref().map_or("image".to_string(), ToString::to_string);
        let declared = match change.declared.architecture.as_str() {
            "" => "(none)".to_string(),
            _ => change.declared.to_string(),
        };
        output.info(&format!("{name}: declared platform {declared} -> {}", change.new));
        output.info(&format!("  config    {} -> {}", change.config.0, change.config.1));
        output.info(&format!("  manifest  {} -> {}", change.manifest.0, change.manifest.1));
    }
    for note in notes {
        output.info(&format!("note: {note}"));
    }
}

/// Prints the result of a fix.
pub struct FixReport<'a> {
    pub relabeled: &'a Relabeled,
    /// Why images keep their platforms.
    pub kept: &'a [String],
    pub node: &'a TreeNode,
    pub output: &'a Output,
}

impl FixReport<'_> {
    /// The result of `--check`: the exit code, and JSON if requested.
    pub fn print_check(&self, attached: &AttachedArtifacts) {
        print_attached(attached, self.output);
        if self.output.format == Format::Json {
            print_json(&self.json(attached, None, false).to_string());
        }
    }

    /// The digest of the fixed image or index, or JSON. `plan` has the writes, unless an archive was edited in place.
    pub fn print(&self, attached: &AttachedArtifacts, plan: Option<&Plan>, is_written: bool) {
        print_attached(attached, self.output);
        match self.output.format {
            Format::Text => print_line(self.new_digest().as_str()),
            Format::Json => print_json(&self.json(attached, plan, is_written).to_string()),
        }
    }

    fn changes(&self) -> Option<&Changes> {
        match self.relabeled {
            Relabeled::Unchanged => None,
            Relabeled::Changed(changes) => Some(changes),
        }
    }

    fn new_digest(&self) -> &Digest {
        self.changes().map_or(self.node.digest(), |changes| changes.root.digest())
    }

    /// The JSON form: `schemaVersion`, `changed`, `written`, `was`, `now`; `images`, each with `indexPlatform`,
    /// `declaredPlatform`, `newPlatform`, `config`, `manifest`; `referrers`, `signatureTags`, `notes`; and `writes`,
    /// unless the archive is edited in place.
    pub fn json(&self, attached: &AttachedArtifacts, plan: Option<&Plan>, is_written: bool) -> Value {
        let images = self.changes().map(|changes| changes.images.as_slice()).unwrap_or_default();
        let image = |change: &ImageChange| {
            json!({
                "indexPlatform": change.index_platform, "declaredPlatform": change.declared, "newPlatform": change.new,
                "config": {"was": change.config.0, "now": change.config.1},
                "manifest": {"was": change.manifest.0, "now": change.manifest.1},
            })
        };
        let referrer = |r: &Referrer| json!({"subject": r.subject, "was": r.digest, "now": r.copy, "artifactType": r.artifact_type});
        let tag = |(subject, tag): &(Digest, String)| json!({"subject": subject, "tag": tag});
        let notes = self.changes().into_iter().flat_map(|changes| &changes.notes);
        let notes = self.kept.iter().chain(notes).chain(&attached.notes);
        let mut text = json!({
            "schemaVersion": 2, "changed": self.changes().is_some(), "written": self.changes().is_some() && is_written,
            "was": self.node.digest(), "now": self.new_digest(),
            "images": images.iter().map(image).collect::<Vec<_>>(),
            "referrers": attached.referrers.iter().map(referrer).collect::<Vec<_>>(),
            "signatureTags": attached.tags.iter().map(tag).collect::<Vec<_>>(),
            "notes": notes.collect::<Vec<_>>(),
        });
        if let Some(plan) = plan {
            text["writes"] = writes(plan);
        }
        text
    }
}

/// The writes of a plan, in their order; `bytes` is an upper limit.
fn writes(plan: &Plan) -> Value {
    let tag = |step: &TagStep| json!({"image": plan.place, "tag": step.tag, "was": step.was, "now": step.document.digest()});
    json!({
        "blobs": plan.blobs.iter().map(|(blob, _)| json!({"digest": blob.digest, "size": blob.size})).collect::<Vec<_>>(),
        "manifests": plan.levels.iter().flatten().map(|document| document.digest()).collect::<Vec<_>>(),
        "tags": plan.tags.iter().map(tag).collect::<Vec<_>>(),
        "bytes": plan.bytes(),
    })
}

/// Prints referrers and signature tags of the old image.
fn print_attached(attached: &AttachedArtifacts, output: &Output) {
    for referrer in &attached.referrers {
        let (digest, kind, subject) = (&referrer.digest, &referrer.artifact_type, &referrer.subject);
        output.info(&match &referrer.copy {
            Some(copy) => {
                format!("note: referrer {digest} ({kind}) of {subject} was copied as {copy}; what it states still names the old image")
            }
            None => format!("note: referrer {digest} ({kind}) of {subject} refers to the old image; copy it with --carry-referrers"),
        });
    }
    for (subject, tag) in &attached.tags {
        output.info(&format!("note: tag {tag} belongs to {subject}, not to the new image"));
    }
    for note in &attached.notes {
        output.info(&format!("note: {note}"));
    }
}
