//! Application of a plan: all blobs in parallel, then each level of documents in parallel, then each tag.

use super::{BlobContent, Plan, TagStep};
use crate::parallel;
use crate::store::{ImageStore, Pointer, TagMove};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use registry_client::meter::{BlobProgress, Meter};
use std::collections::BTreeMap;
use std::io::Cursor;

/// Handling of a tag that another client moved after the plan was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovedTag {
    /// Leave it alone and fail with `Conflict`.
    Refuse,
    /// Move it anyway (`--force`).
    Overwrite,
}

/// A finished write, for a progress display.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// A blob is in the store.
    Blob(&'a Descriptor),
    /// A manifest or index is in the store.
    Document(&'a Document),
    /// A tag refers to this document.
    Tag(&'a str, &'a Document),
}

/// Called with a step and the digest that its tag has now, just before the tag is moved. An error leaves the tag alone.
pub type BeforeTag<'a> = &'a dyn Fn(&TagStep, Option<&Digest>) -> Result<(), Error>;

/// Conditions under which a tag is moved.
#[derive(Clone, Copy)]
pub struct TagGuard<'a> {
    /// Handling of a tag that moved since the plan was made.
    pub moved: MovedTag,
    /// Called before each tag, for instance to record its digest in a journal.
    pub before: BeforeTag<'a>,
}

/// Applies the plan: all blobs in parallel, then each level of documents in parallel, then each tag. A tag is resolved just
/// before it is moved and read back just after.
///
/// # Errors
/// `Conflict` if a tag moved since the plan was made, or right after it was written; and the errors of both stores. What
/// was written stays; a second run completes it.
pub fn apply(
    plan: &Plan,
    store: &dyn ImageStore,
    moved: MovedTag,
    meter: &Meter,
    report: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(), Error> {
    let looked = apply_content(plan, store, meter, report)?;
    apply_tags(plan, store, TagGuard { moved, before: &|_, _| Ok(()) }, looked, report)
}

/// Digests that tags had one round trip ago. Tags that are absent here are resolved again.
#[derive(Clone, Debug, Default)]
pub struct ResolvedTags(BTreeMap<String, Option<Digest>>);

/// A write of the last level, or a tag that is resolved in the same round trip.
enum LastRequest<'a> {
    Write(&'a Document),
    Resolve(&'a str),
}

/// Writes blobs and documents, which no reader sees yet. The tag is resolved again together with the last of them.
///
/// # Errors
/// As [`ImageStore::write_blob`] and [`ImageStore::write_document`]. Blobs and documents that were written remain; no tag was
/// moved.
pub fn apply_content(
    plan: &Plan,
    store: &dyn ImageStore,
    meter: &Meter,
    report: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<ResolvedTags, Error> {
    meter.expect(plan.blobs.len() as u64, plan.blobs.iter().map(|(blob, _)| blob.size).sum());
    let at_once = store.concurrency(parallel::REQUESTS);
    parallel::map(&plan.blobs, at_once, |(blob, content)| {
        let progress = BlobProgress::of(meter, blob.size);
        apply_blob(blob, content, store, &progress)?;
        progress.done();
        report(Progress::Blob(blob));
        Ok::<_, Error>(())
    })?;
    let write = |document: &Document| {
        store.write_document(document)?;
        report(Progress::Document(document));
        Ok::<_, Error>(())
    };
    let Some((last, before)) = plan.levels.split_last() else {
        // Where nothing is written, the plan's last answers are as good as new ones.
        let looked = if plan.blobs.is_empty() { plan.rechecked_tags.clone() } else { BTreeMap::new() };
        return Ok(ResolvedTags(looked));
    };
    for level in before {
        parallel::map(level, at_once, write)?;
    }
    // A single tag is moved in the very next round trip. Of several, the others would be resolved too early.
    let looks = plan.tags.iter().take(1).map(|step| LastRequest::Resolve(&step.tag));
    let last: Vec<LastRequest<'_>> = last.iter().map(LastRequest::Write).chain(looks).collect();
    // One more than usual: eight members and their tag are one round trip, too.
    let looked = parallel::map(&last, store.concurrency(parallel::REQUESTS + 1), |one| match one {
        LastRequest::Write(document) => write(document).map(|()| None),
        LastRequest::Resolve(tag) => {
            let now = store.resolve(&Pointer::Tag((*tag).into()))?.map(|named| named.digest);
            Ok(Some(((*tag).to_string(), now)))
        }
    })?;
    Ok(ResolvedTags(looked.into_iter().flatten().collect()))
}

/// Moves the tags, in their order. The content must be there.
///
/// # Errors
/// As [`apply`].
pub fn apply_tags(
    plan: &Plan,
    store: &dyn ImageStore,
    guard: TagGuard<'_>,
    looked: ResolvedTags,
    report: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(), Error> {
    let ResolvedTags(mut looked) = looked;
    for step in &plan.tags {
        let now = match looked.remove(&step.tag) {
            Some(now) => now,
            None => store.resolve(&Pointer::Tag(step.tag.clone()))?.map(|named| named.digest),
        };
        apply_tag(step, now, store, guard)?;
        // The others were resolved before this one was written.
        looked.clear();
        report(Progress::Tag(&step.tag, &step.document));
    }
    Ok(())
}

fn apply_blob(
    blob: &Descriptor,
    content: &BlobContent,
    store: &dyn ImageStore,
    progress: &BlobProgress<'_>,
) -> Result<(), Error> {
    match content {
        BlobContent::Bytes(bytes) => {
            store.write_blob(blob, &|| Ok(Box::new(progress.read(Box::new(Cursor::new(bytes.clone()))))))
        }
        BlobContent::From(source) => {
            let here = store.mount_origin();
            if let (Some((host, repository)), Some((at, here))) = (source.mount_origin(), here)
                && host == at
                && repository != here
            {
                // The plan did not check blobs that can be mounted.
                if store.mount_blob(blob, &host, &repository)? || store.has_blob(blob)? {
                    return Ok(());
                }
            }
            store.write_blob(blob, &|| Ok(Box::new(progress.read(source.open_unverified(blob)?))))
        }
    }
}

fn apply_tag(
    step: &TagStep,
    now: Option<Digest>,
    store: &dyn ImageStore,
    guard: TagGuard<'_>,
) -> Result<(), Error> {
    let doing = || format!("move tag \"{}\" of \"{}\"", step.tag, store.display_name());
    let wanted = step.document.digest();
    if now.as_ref() == Some(wanted) {
        return Ok(());
    }
    let moved_meanwhile = |now: &Option<Digest>| {
        let shown = |digest: &Option<Digest>| digest.as_ref().map_or("nothing".into(), Digest::to_string);
        let why = format!(
            "it referred to {} when the plan was made and refers to {} now",
            shown(&step.was),
            shown(now)
        );
        Error::conflict(doing(), why).hint("run the command again, or overwrite it with --force")
    };
    if now != step.was && guard.moved == MovedTag::Refuse {
        return Err(moved_meanwhile(&now));
    }
    (guard.before)(step, now.as_ref())?;
    match guard.moved {
        MovedTag::Overwrite => store.write_tag(&step.tag, &step.document)?,
        // Another process may have moved the tag since it was resolved above.
        MovedTag::Refuse => match store.move_tag(&step.tag, step.was.as_ref(), &step.document)? {
            TagMove::Done => {}
            TagMove::Conflict(now) => return Err(moved_meanwhile(&now)),
        },
    }
    // Some servers answer 201 to everything: only reading the tag back proves that it is there.
    let found = store.read_document(&Pointer::Tag(step.tag.clone()))?;
    if found.digest() != wanted {
        let why =
            format!("it was set to {wanted} and refers to {} now: another client moved it", found.digest());
        return Err(Error::conflict(doing(), why));
    }
    Ok(())
}
