//! Carrying a plan out: blobs at once, then each level of documents at once, then each tag.

use super::{BlobContent, Plan, TagStep};
use crate::parallel;
use crate::store::{ImageStore, Pointer, TagMove};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use registry_client::meter::{BlobProgress, Meter};
use std::collections::BTreeMap;
use std::io::Cursor;

/// What to do with a tag that moved between plan and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovedTag {
    Refuse,
    /// `--force`.
    Overwrite,
}

/// Something that was done, for a progress display.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    Blob(&'a Descriptor),
    Document(&'a Document),
    Tag(&'a str, &'a Document),
}

/// Called with a step and what its tag names now, just before the tag is moved. An error leaves the tag alone.
pub type BeforeTag<'a> = &'a dyn Fn(&TagStep, Option<&Digest>) -> Result<(), Error>;

/// What stands between a plan and a tag.
#[derive(Clone, Copy)]
pub struct TagGuard<'a> {
    pub moved: MovedTag,
    pub before: BeforeTag<'a>,
}

/// Carries the plan out: blobs at once, then each level of documents at once, then each tag, which is looked at
/// again just before and read back just after.
pub fn apply(
    plan: &Plan,
    store: &dyn ImageStore,
    moved: MovedTag,
    meter: &Meter,
    tell: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(), Error> {
    let looked = apply_content(plan, store, meter, tell)?;
    apply_tags(plan, store, TagGuard { moved, before: &|_, _| Ok(()) }, looked, tell)
}

/// What tags named a round trip ago. Those that are not in it are looked at.
#[derive(Clone, Debug, Default)]
pub struct ResolvedTags(BTreeMap<String, Option<Digest>>);

/// A write of the last level, or a look that travels with it.
enum Last<'a> {
    Write(&'a Document),
    Look(&'a str),
}

/// Blobs and documents: all that nobody sees yet. With the last of them, the tags are looked at again.
pub fn apply_content(
    plan: &Plan,
    store: &dyn ImageStore,
    meter: &Meter,
    tell: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<ResolvedTags, Error> {
    meter.expect(plan.blobs.len() as u64, plan.blobs.iter().map(|(blob, _)| blob.size).sum());
    let at_once = store.concurrency(parallel::REQUESTS);
    parallel::map(&plan.blobs, at_once, |(blob, content)| {
        let progress = BlobProgress::of(meter, blob.size);
        apply_blob(blob, content, store, &progress)?;
        progress.done();
        tell(Progress::Blob(blob));
        Ok::<_, Error>(())
    })?;
    let write = |document: &Document| {
        store.write_document(document)?;
        tell(Progress::Document(document));
        Ok::<_, Error>(())
    };
    let Some((last, before)) = plan.levels.split_last() else {
        // Where nothing is written, the plan's last look is as good as another one.
        let looked = if plan.blobs.is_empty() { plan.again.clone() } else { BTreeMap::new() };
        return Ok(ResolvedTags(looked));
    };
    for level in before {
        parallel::map(level, at_once, write)?;
    }
    // One tag alone is moved in the very next round trip; of several, the others would be looked at too early.
    let looks = plan.tags.iter().take(1).map(|step| Last::Look(&step.tag));
    let last: Vec<Last<'_>> = last.iter().map(Last::Write).chain(looks).collect();
    // The look is one more than these: eight members and their tag are one round trip, too.
    let looked = parallel::map(&last, store.concurrency(parallel::REQUESTS + 1), |one| match one {
        Last::Write(document) => write(document).map(|()| None),
        Last::Look(tag) => {
            let now = store.resolve(&Pointer::Tag((*tag).into()))?.map(|named| named.digest);
            Ok(Some(((*tag).to_string(), now)))
        }
    })?;
    Ok(ResolvedTags(looked.into_iter().flatten().collect()))
}

/// The tags, in their order. The content must be there.
pub fn apply_tags(
    plan: &Plan,
    store: &dyn ImageStore,
    guard: TagGuard<'_>,
    looked: ResolvedTags,
    tell: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<(), Error> {
    let ResolvedTags(mut looked) = looked;
    for step in &plan.tags {
        let now = match looked.remove(&step.tag) {
            Some(now) => now,
            None => store.resolve(&Pointer::Tag(step.tag.clone()))?.map(|named| named.digest),
        };
        apply_tag(step, now, store, guard)?;
        // The others were looked at before this one was written.
        looked.clear();
        tell(Progress::Tag(&step.tag, &step.document));
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
                // The plan did not ask for what can be mounted.
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
        let why = format!("it named {} when we looked and names {} now", shown(&step.was), shown(now));
        Error::conflict(doing(), why).hint("run again to see what changed, or use --force")
    };
    if now != step.was && guard.moved == MovedTag::Refuse {
        return Err(moved_meanwhile(&now));
    }
    (guard.before)(step, now.as_ref())?;
    match guard.moved {
        MovedTag::Overwrite => store.write_tag(&step.tag, &step.document)?,
        // Between the look above and this write is time for another process.
        MovedTag::Refuse => match store.move_tag(&step.tag, step.was.as_ref(), &step.document)? {
            TagMove::Done => {}
            TagMove::Conflict(now) => return Err(moved_meanwhile(&now)),
        },
    }
    // Some servers answer 201 to everything: only reading the tag back shows that it is there.
    let found = store.read_document(&Pointer::Tag(step.tag.clone()))?;
    if found.digest() != wanted {
        let why = format!("it was set to {wanted} and names {} now: somebody else moved it", found.digest());
        return Err(Error::conflict(doing(), why));
    }
    Ok(())
}
