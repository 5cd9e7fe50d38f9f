//! The index over all members, and the tags that will name it.

use crate::request::Request;
use crate::stages::build::Member;
use crate::stages::plan::ReleasePlan;
use crate::stages::report::TagReport;
use crate::stages::retained::Published;
use error::Error;
use error::text;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, DocumentError};
use image_store::open::Target;
use image_store::plan::{MovedTag, Plan, WantedImage};
use image_store::store::ImageSource;
use image_store::tree::TreeNode;
use manifest_push::index::{Kind, Style, build_index};
use std::sync::Arc;

/// The index over all members, in the order of their platforms, with everything it needs.
pub fn combine(
    request: &Request,
    members: &[Member],
    published: &Published,
    staging: &Arc<dyn ImageSource>,
    target: &Target,
) -> Result<WantedImage, Error> {
    let mut entries: Vec<Descriptor> = members
        .iter()
        .map(|member| {
            let mut entry = member.labelled.image.document.descriptor();
            entry.platform = Some(member.platform.clone());
            entry
        })
        .collect();
    entries.extend(published.kept.iter().map(|kept| kept.entry.clone()));
    // The same order whatever was built this time: the digest must not depend on it.
    entries.sort_by_key(|entry| entry.platform.as_ref().map(ToString::to_string));
    let annotations = &request.spec.annotations;
    // Docker's list has no annotations; an OCI index holds Docker's manifests just as well.
    let kind = if annotations.is_empty() { Kind::of(&entries) } else { Kind::Oci };
    let failed = |e: DocumentError| {
        Error::bad_input(format!("make the index of {}", request.spec.image), e.to_string())
    };
    let mut wanted =
        WantedImage::of_root(build_index(kind, Style::ManifestTool, &entries, annotations).map_err(failed)?);
    let target_source: Arc<dyn ImageSource> = target.store.clone();
    for member in members {
        let source = if member.is_published { &target_source } else { staging };
        wanted.add(&TreeNode::Image(member.labelled.image.clone()), source, false);
        if let Some(tag) = &member.tag {
            wanted.member_tags.push((tag.clone(), member.labelled.image.document.clone()));
        }
    }
    for kept in &published.kept {
        wanted.add(&kept.node, published.source.as_ref().unwrap_or(&target_source), false);
    }
    Ok(wanted)
}

/// The tags were looked at when the plan was made. Builds take long; somebody may have released meanwhile.
pub fn refuse_moved(steps: &Plan, plan: &ReleasePlan, moved: MovedTag) -> Result<(), Error> {
    let shown = |digest: &Option<Digest>| digest.as_ref().map_or("nothing".into(), Digest::to_string);
    for step in &steps.tags {
        let planned = plan.tags.iter().find(|(tag, _)| *tag == step.tag).and_then(|(_, was)| was.clone());
        if planned != step.was && moved == MovedTag::Refuse {
            let doing = format!("move tag \"{}\" of \"{}\"", step.tag, steps.place);
            let why = format!(
                "it named {} when the release began and names {} now",
                shown(&planned),
                shown(&step.was)
            );
            return Err(Error::conflict(doing, why).hint("run again, or use --force"));
        }
    }
    Ok(())
}

/// What will be written, a line for each image. Every blob and manifest is for who asks.
pub fn brief(steps: &Plan, members: &[Member]) -> String {
    if steps.is_nothing() {
        return steps.to_string();
    }
    let mut lines = String::new();
    for member in members {
        let manifest = &member.labelled.image.manifest;
        let of_it = |blob: &Descriptor| {
            manifest.layers.iter().chain([&manifest.config]).any(|own| own.digest == blob.digest)
        };
        let blobs: Vec<u64> =
            steps.blobs.iter().filter(|(blob, _)| of_it(blob)).map(|(blob, _)| blob.size).collect();
        let size = text::format_bytes(blobs.iter().sum());
        lines.push_str(&format!("  write     {}  {} blobs, {size}\n", member.platform, blobs.len()));
    }
    for step in &steps.tags {
        let was = step.was.as_ref().map_or("new".to_string(), |was| format!("was {}", was.short()));
        let now = step.document.digest();
        lines.push_str(&format!("  tag       {}:{}  {now}  {was}\n", steps.place, step.tag));
    }
    lines.push_str(&format!("  at most {} to {}\n", text::format_bytes(steps.bytes()), steps.place));
    lines
}

pub fn tags_report(plan: &ReleasePlan, steps: &Plan) -> Vec<TagReport> {
    let moved: Vec<TagReport> = steps.tags.iter().map(TagReport::from).collect();
    let stayed = plan.tags.iter().filter(|(tag, _)| !moved.iter().any(|step| step.tag == *tag));
    let stayed = stayed.filter_map(|(tag, was)| {
        let was = was.clone()?;
        Some(TagReport { tag: tag.clone(), was: Some(was.clone()), now: was })
    });
    moved.iter().cloned().chain(stayed).collect()
}
