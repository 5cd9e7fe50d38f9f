//! What `fix` tells: before and after for people, the result for programs.

use crate::plan::{Changes, Relabelled};
use crate::referrers::Found;
use image_store::cli::{Format, Output, print_line};
use image_store::plan::Progress;
use image_store::tree::Node;
use serde_json::{Value, json};

pub fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("wrote blob {}", blob.digest),
        Progress::Document(document) => format!("wrote manifest {}", document.digest()),
        Progress::Tag(tag, document) => format!("tag {tag} names {}", document.digest()),
    }
}

/// What changes, as a small before and after for each image.
pub fn report(relabelled: &Relabelled, node: &Node, output: &Output) {
    let Relabelled::Changed(Changes { images, notes, .. }) = relabelled else {
        output.say(&format!("every label is right: {} stays", node.digest()));
        return;
    };
    for change in images {
        let name = change.entry.as_ref().map_or("image".to_string(), ToString::to_string);
        output.say(&format!("{name}: label {} -> {}", change.label, change.wanted));
        output.say(&format!("  config    {} -> {}", change.config.0, change.config.1));
        output.say(&format!("  manifest  {} -> {}", change.manifest.0, change.manifest.1));
    }
    for note in notes {
        output.say(&format!("note: {note}"));
    }
}

/// What belongs to the old image and not, or not by itself, to the new one.
pub fn report_belongings(found: &Found, output: &Output) {
    for referrer in &found.referrers {
        let (digest, kind, subject) = (&referrer.digest, &referrer.kind, &referrer.subject);
        output.say(&match &referrer.carried {
            Some(copy) => {
                format!("note: referrer {digest} ({kind}) of {subject} is carried as {copy}; what it says still speaks of the old image")
            }
            None => format!("note: referrer {digest} ({kind}) of {subject} does not belong to the new image; --carry-referrers copies it"),
        });
    }
    for (subject, tag) in &found.tags {
        output.say(&format!("note: tag {tag} is about {subject}, not about the new image"));
    }
    for note in &found.notes {
        output.say(&format!("note: {note}"));
    }
}

/// stdout: the digest, or all of it as JSON. `--check` tells by its exit code, and prints only JSON.
pub fn print_result(
    relabelled: &Relabelled,
    found: &Found,
    node: &Node,
    written: bool,
    is_check: bool,
    format: Format,
) {
    let (changes, now): (Option<&Changes>, _) = match relabelled {
        Relabelled::Unchanged => (None, node.digest()),
        Relabelled::Changed(changes) => (Some(changes), changes.root.digest()),
    };
    match format {
        Format::Text if is_check => return,
        Format::Text => return print_line(now.as_str()),
        Format::Json => {}
    }
    let images: Vec<Value> = changes
        .iter()
        .flat_map(|changes| &changes.images)
        .map(|change| {
            json!({
                "entry": change.entry, "label": change.label, "wanted": change.wanted,
                "config": {"was": change.config.0, "now": change.config.1},
                "manifest": {"was": change.manifest.0, "now": change.manifest.1},
            })
        })
        .collect();
    let referrers: Vec<Value> = found
        .referrers
        .iter()
        .map(|r| json!({"subject": r.subject, "was": r.digest, "now": r.carried, "artifactType": r.kind}))
        .collect();
    let tags: Vec<Value> =
        found.tags.iter().map(|(subject, tag)| json!({"subject": subject, "tag": tag})).collect();
    let notes: Vec<&String> = changes.iter().flat_map(|changes| &changes.notes).chain(&found.notes).collect();
    let text = json!({
        "changed": changes.is_some(), "written": changes.is_some() && written,
        "was": node.digest(), "now": now, "images": images,
        "referrers": referrers, "signatureTags": tags, "notes": notes,
    });
    print_line(&text.to_string());
}
