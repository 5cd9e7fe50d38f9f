//! Publishes the index over all members, and moves its tags.

use crate::context::{ReleaseContext, Reporter};
use crate::report::{self, PlatformReport, Report, SCHEMA_VERSION, Step};
use crate::request::Request;
use crate::stages::build::Member;
use crate::stages::plan::ReleasePlan;
use crate::stages::verify::VerifiedMembers;
use crate::stages::verify::retained::{RetainedMember, RetainedMembers, verify_retained};
use error::{Error, text};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, DocumentError};
use image_store::check::{CheckDepth, check};
use image_store::open::Target;
use image_store::plan::{
    MovedTag, Plan, Progress, TagGuard, TagStep, WantedImage, apply_content, apply_tags,
};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::TreeNode;
use manifest_push::index::{IndexKind, IndexStyle, build_index};
use reuse::reuse_published;
use std::sync::Arc;
use tag_journal::{Journal, JournalRun};

mod reuse;

/// Writes blobs, manifests by digest, the index, member tags and tags, in this order, and verifies the result.
///
/// # Errors
/// `Conflict` if a tag moved since the plan was made; `Integrity` if the result is incomplete.
pub fn publish(
    context: &ReleaseContext<'_>,
    plan: &ReleasePlan,
    VerifiedMembers { members, evidence, smoke }: VerifiedMembers,
    staging: Arc<OciLayout>,
) -> Result<Report, Error> {
    let ReleaseContext { request, target, paths, reporter: Reporter { output, state, .. }, .. } = context;
    context.begin(Step::VerifyRetained);
    let members = reuse_published(members, plan.published.as_ref(), target, output);
    let mut retained = RetainedMembers::read(request, target)?;
    verify_retained(context, &mut retained)?;
    let source: Arc<dyn ImageSource> = staging;
    let wanted = assemble(request, &members, &retained, &source, target)?;
    let root = wanted.root.clone();
    let writes = image_store::plan::plan(wanted, &*target.store, &target.tags)?;
    refuse_moved(&writes, plan, request.moved)?;
    writes.refuse_drops(&request.drop)?;
    output.info_lines(&if output.verbose { writes.to_string() } else { brief(&writes, &members) });
    let journal = Journal::of_user()?;
    let history = journal.read()?;
    let run = JournalRun::of_release(paths.id(), &history);
    let earlier = [paths.released(), request.report.clone()];
    let earlier = earlier.iter().find_map(|path| report::read(path, &paths.image));
    let tags = plan.tag_changes(&writes);
    let tags = report::with_previous_digests(tags, &paths.reference, &run, &history, earlier);
    state.set_tags(&tags);
    context.begin(Step::Publish);
    write(context, &writes, &journal, &run)?;
    context.begin(Step::ReadBack);
    read_back(target)?;
    let rows = members.iter().zip(evidence).zip(smoke);
    let mut platforms: Vec<PlatformReport> =
        rows.map(|((member, evidence), smoke)| member.report(Some(evidence), smoke)).collect();
    let has_smoke = !request.spec.smoke.is_empty();
    platforms.extend(retained.images().map(|member: &RetainedMember| member.report(has_smoke)));
    Ok(Report {
        schema_version: SCHEMA_VERSION,
        image: paths.image.clone(),
        digest: Some(root.digest().clone()),
        media_type: Some(root.media_type().to_string()),
        changed: !writes.is_nothing(),
        platforms,
        tags,
        seconds: context.started.elapsed().as_secs_f64(),
        failed: None,
    })
}

/// Applies the plan. Every move of a tag is in the journal, durably, before it is made: a rollback needs it, even if this
/// run is killed.
fn write(
    context: &ReleaseContext<'_>,
    writes: &Plan,
    journal: &Journal,
    run: &JournalRun,
) -> Result<(), Error> {
    let ReleaseContext { request, target, paths, reporter: Reporter { output, state, .. }, .. } = context;
    let on_progress = |progress: Progress<'_>| {
        state.record_progress(&progress);
        output.verbose_info(&describe(&progress));
    };
    let on_wait = || output.info("waiting for another process that moves the same tag");
    let _locks = journal.lock_tags(&[(writes, &paths.reference)], &on_wait)?;
    let resolved = apply_content(writes, &*target.store, &target.meter, &on_progress)?;
    let before = |step: &TagStep, now: Option<&Digest>| {
        journal.append(&run.entry(&paths.reference, &step.tag, now, step.document.digest()))
    };
    let guard = TagGuard { moved: request.moved, before: &before };
    apply_tags(writes, &*target.store, guard, resolved, &on_progress)
}

/// The new index, with everything that it references.
fn assemble(
    request: &Request,
    members: &[Member],
    retained: &RetainedMembers,
    staging: &Arc<dyn ImageSource>,
    target: &Target,
) -> Result<WantedImage, Error> {
    let mut entries: Vec<Descriptor> = members
        .iter()
        .map(|member| {
            let mut entry = member.image.document.descriptor();
            entry.platform = Some(member.platform.clone());
            entry
        })
        .collect();
    entries.extend(retained.members.iter().map(|member| member.entry.clone()));
    // Sorted, since the digest must not depend on which platforms were built this time.
    entries.sort_by_key(|entry| entry.platform.as_ref().map(ToString::to_string));
    let annotations = &request.spec.annotations;
    // Docker's manifest list has no annotations; an OCI index may list Docker manifests.
    let kind = if annotations.is_empty() { IndexKind::of(&entries) } else { IndexKind::Oci };
    let failed = |e: DocumentError| {
        Error::bad_input(format!("make the index of {}", request.spec.image), e.to_string())
    };
    let mut wanted = WantedImage::of_root(
        build_index(kind, IndexStyle::ManifestTool, &entries, annotations).map_err(failed)?,
    );
    let target_source: Arc<dyn ImageSource> = target.store.clone();
    for member in members {
        let source = if member.is_published { &target_source } else { staging };
        wanted.add(&TreeNode::Image(member.image.clone()), source, false);
        if let Some(tag) = &member.tag {
            wanted.member_tags.push((tag.clone(), member.image.document.clone()));
        }
    }
    for member in &retained.members {
        wanted.add(&member.node, retained.source.as_ref().unwrap_or(&target_source), false);
    }
    Ok(wanted)
}

/// Fails if a tag moved since the plan was made: builds take long, and another release may have finished meanwhile.
fn refuse_moved(writes: &Plan, plan: &ReleasePlan, moved: MovedTag) -> Result<(), Error> {
    let shown = |digest: &Option<Digest>| digest.as_ref().map_or("not there".into(), Digest::to_string);
    for step in &writes.tags {
        let planned = plan.tags.iter().find(|(tag, _)| *tag == step.tag).and_then(|(_, was)| was.clone());
        if planned != step.was && moved == MovedTag::Refuse {
            let doing = format!("move tag \"{}\" of \"{}\"", step.tag, writes.place);
            let why =
                format!("it was {} when the release began and is {} now", shown(&planned), shown(&step.was));
            return Err(Error::conflict(doing, why).hint("run again, or use --force"));
        }
    }
    Ok(())
}

/// The writes, one line for each image. `-v` prints every blob and manifest instead.
fn brief(writes: &Plan, members: &[Member]) -> String {
    if writes.is_nothing() {
        return writes.to_string();
    }
    let mut lines = String::new();
    for member in members {
        let manifest = &member.image.manifest;
        let is_of_member = |blob: &Descriptor| {
            manifest.layers.iter().chain([&manifest.config]).any(|one| one.digest == blob.digest)
        };
        let blobs: Vec<u64> =
            writes.blobs.iter().filter(|(blob, _)| is_of_member(blob)).map(|(blob, _)| blob.size).collect();
        let size = text::format_bytes(blobs.iter().sum());
        lines.push_str(&format!("  write     {}  {} blobs, {size}\n", member.platform, blobs.len()));
    }
    for step in &writes.tags {
        let was = step.was.as_ref().map_or("new".to_string(), |was| format!("was {}", was.short()));
        let now = step.document.digest();
        lines.push_str(&format!("  tag       {}:{}  {now}  {was}\n", writes.place, step.tag));
    }
    lines.push_str(&format!("  at most {} to {}\n", text::format_bytes(writes.bytes()), writes.place));
    lines
}

/// Verifies that each tag refers to a complete image.
fn read_back(target: &Target) -> Result<(), Error> {
    for tag in &target.tags {
        let problems = check(&*target.store, &Pointer::Tag(tag.clone()), CheckDepth::Documents);
        if !problems.is_empty() {
            let doing = format!("verify \"{}:{tag}\" after it was published", target.store.display_name());
            let lines = problems.iter().map(ToString::to_string).collect();
            return Err(Error::integrity(doing, "it is incomplete").problems(lines));
        }
    }
    Ok(())
}

/// The line for `-v`.
fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("wrote blob {}", blob.digest),
        Progress::Document(document) => format!("wrote manifest {}", document.digest()),
        Progress::Tag(tag, document) => format!("moved tag {tag} to {}", document.digest()),
    }
}
