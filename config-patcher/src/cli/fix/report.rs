//! The output of `fix`: changes and notes for people, the result as text or JSON.

use crate::plan::{Change, Changes, Relabelled};
use crate::referrers::{Found, Referrer};
use cli::{Format, Output, print_json, print_line};
use image_model::digest::Digest;
use image_store::plan::{Plan, Progress, TagStep};
use image_store::tree::TreeNode;
use serde_json::{Value, json};

pub fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("wrote blob {}", blob.digest),
        Progress::Document(document) => format!("wrote manifest {}", document.digest()),
        Progress::Tag(tag, document) => format!("moved tag {tag} to {}", document.digest()),
    }
}

/// Prints what changes in each image.
pub fn report(relabelled: &Relabelled, node: &TreeNode, output: &Output) {
    let Relabelled::Changed(Changes { images, notes, .. }) = relabelled else {
        output.info(&format!("all platforms are correct: {} is unchanged", node.digest()));
        return;
    };
    for change in images {
        let name = change.entry.as_ref().map_or("image".to_string(), ToString::to_string);
        output.info(&format!("{name}: declared platform {} -> {}", change.label, change.wanted));
        output.info(&format!("  config    {} -> {}", change.config.0, change.config.1));
        output.info(&format!("  manifest  {} -> {}", change.manifest.0, change.manifest.1));
    }
    for note in notes {
        output.info(&format!("note: {note}"));
    }
}

/// A fix that was decided, for its last words.
pub struct Told<'a> {
    pub relabelled: &'a Relabelled,
    pub node: &'a TreeNode,
    pub output: &'a Output,
}

impl Told<'_> {
    /// `--check` tells by its exit code. Only JSON has more to say.
    pub fn checked(&self, found: &Found) {
        report_belongings(found, self.output);
        if self.output.format == Format::Json {
            print_json(&self.json(found, None, false).to_string());
        }
    }

    /// stdout: the digest, or all of it.
    pub fn done(&self, found: &Found, plan: Option<&Plan>, is_written: bool) {
        report_belongings(found, self.output);
        match self.output.format {
            Format::Text => print_line(self.now().as_str()),
            Format::Json => print_json(&self.json(found, plan, is_written).to_string()),
        }
    }

    fn changes(&self) -> Option<&Changes> {
        match self.relabelled {
            Relabelled::Unchanged => None,
            Relabelled::Changed(changes) => Some(changes),
        }
    }

    fn now(&self) -> &Digest {
        self.changes().map_or(self.node.digest(), |changes| changes.root.digest())
    }

    /// The JSON form: `schemaVersion`, `changed`, `written`, `was`, `now`; `images`, each with `indexPlatform`,
    /// `declaredPlatform`, `newPlatform`, `config`, `manifest`; `referrers`, `signatureTags`, `notes`; and `writes`,
    /// unless the archive is edited in place.
    pub fn json(&self, found: &Found, plan: Option<&Plan>, is_written: bool) -> Value {
        let images = self.changes().map(|changes| changes.images.as_slice()).unwrap_or_default();
        let image = |change: &Change| {
            json!({
                "indexPlatform": change.entry, "declaredPlatform": change.label, "newPlatform": change.wanted,
                "config": {"was": change.config.0, "now": change.config.1},
                "manifest": {"was": change.manifest.0, "now": change.manifest.1},
            })
        };
        let referrer = |r: &Referrer| json!({"subject": r.subject, "was": r.digest, "now": r.carried, "artifactType": r.kind});
        let tag = |(subject, tag): &(Digest, String)| json!({"subject": subject, "tag": tag});
        let notes = self.changes().into_iter().flat_map(|changes| &changes.notes).chain(&found.notes);
        let mut text = json!({
            "schemaVersion": 2, "changed": self.changes().is_some(), "written": self.changes().is_some() && is_written,
            "was": self.node.digest(), "now": self.now(),
            "images": images.iter().map(image).collect::<Vec<_>>(),
            "referrers": found.referrers.iter().map(referrer).collect::<Vec<_>>(),
            "signatureTags": found.tags.iter().map(tag).collect::<Vec<_>>(),
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
fn report_belongings(found: &Found, output: &Output) {
    for referrer in &found.referrers {
        let (digest, kind, subject) = (&referrer.digest, &referrer.kind, &referrer.subject);
        output.info(&match &referrer.carried {
            Some(copy) => {
                format!("note: referrer {digest} ({kind}) of {subject} was copied as {copy}; what it states still names the old image")
            }
            None => format!("note: referrer {digest} ({kind}) of {subject} refers to the old image; copy it with --carry-referrers"),
        });
    }
    for (subject, tag) in &found.tags {
        output.info(&format!("note: tag {tag} belongs to {subject}, not to the new image"));
    }
    for note in &found.notes {
        output.info(&format!("note: {note}"));
    }
}
