//! Reads all images of a spec and the state of its targets, in as few round trips as possible.

use super::Session;
use crate::plan::{FetchedMember, IndexOptions, combine, refuse_problems, unread_selection};
use crate::spec::{Member, PublishRequest, Spec};
use cli::Output;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::reference::Reference;
use image_store::open::{Opened, Stores, Target};
use image_store::parallel;
use image_store::plan::TargetInfo;
use image_store::store::ImageSource;
use image_store::tree::{TreeNode, read_sparse_tree_below};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use strict_yaml::Problem;

/// The images of a spec, and the targets to write to.
pub struct FetchedImages {
    pub spec: Spec,
    pub members: Vec<FetchedMember>,
    pub targets: Vec<TargetState>,
}

/// A store to write to, and what is known to exist in it.
pub struct TargetState {
    /// Its name, with or without a tag.
    pub reference: Reference,
    pub target: Target,
    pub known: TargetInfo,
}

/// The store of a member. All are opened before the first request, so that one token is requested for all of them.
struct OpenedMember<'a> {
    member: &'a Member,
    opened: Result<Opened<dyn ImageSource>, Error>,
}

/// Reads every image of the request and, at the same time, the state of the targets.
///
/// # Errors
/// All problems of the spec and its images at once: `NotFound` if images are missing and nothing else is wrong,
/// otherwise `BadInput`. Any other error of a store is returned as it is.
pub fn fetch(
    request: &PublishRequest,
    also: &[Reference],
    options: &IndexOptions,
    session: &Session<'_>,
    output: &Output,
) -> Result<FetchedImages, Error> {
    let Some(spec) = &request.spec else {
        return Err(refuse_problems(&request.source, &request.problems));
    };
    let stores = session.stores(&spec.image)?;
    let mut targets = Vec::new();
    if request.problems.is_empty() {
        for reference in std::iter::once(&spec.image).chain(also) {
            targets.push((reference, open_target(reference, spec, &stores)?));
        }
    }
    let (read, looks) = fetch_and_resolve(&spec.members, &targets, &stores, request.problems.is_empty())?;
    let more = |found: &[FetchedMember]| combine(found, options).err().unwrap_or_default();
    let members = collect(request, read, &more, output)?;
    let mut looks = looks?.into_iter();
    let looked = targets.into_iter().map(|(reference, target)| {
        let known = looks.next().unwrap_or_default();
        let mut looked = TargetState { reference: reference.clone(), target, known };
        for one in &members {
            looked.mark_present(&one.node, &*one.source);
        }
        looked
    });
    let targets = looked.collect();
    for note in &spec.notes {
        output.info(&request.source.format_problem(note.line, &note.text));
    }
    Ok(FetchedImages { spec: spec.clone(), members, targets })
}

/// Reads the images only, for commands that do not write yet. Errors as in [`fetch`].
pub fn fetch_members(
    request: &PublishRequest,
    stores: &Stores,
    output: &Output,
) -> Result<Vec<FetchedMember>, Error> {
    let Some(spec) = &request.spec else {
        return Err(refuse_problems(&request.source, &request.problems));
    };
    let (read, _) = fetch_and_resolve(&spec.members, &[], stores, request.problems.is_empty())?;
    collect(request, read, &|_| Vec::new(), output)
}

impl TargetState {
    /// A target of which nothing is known yet.
    pub fn new(reference: &Reference, target: Target) -> Self {
        Self { reference: reference.clone(), target, known: TargetInfo::default() }
    }

    /// Records that an image exists in the target, if it was read from there.
    pub fn mark_present(&mut self, node: &TreeNode, source: &dyn ImageSource) {
        if source.display_name() == self.target.store.display_name() {
            mark_tree(node, &mut self.known);
        }
    }
}

fn open_target(reference: &Reference, spec: &Spec, stores: &Stores) -> Result<Target, Error> {
    let mut target = stores.target(reference)?;
    for tag in &spec.tags {
        // The spec may repeat the tag of the image.
        if !target.tags.contains(tag) {
            target.tags.push(tag.clone());
        }
    }
    Ok(target)
}

fn mark_tree(node: &TreeNode, known: &mut TargetInfo) {
    if matches!(node, TreeNode::Unread(_)) {
        return;
    }
    known.documents.insert(node.digest().clone(), true);
    if let TreeNode::Index(index) = node {
        index.members.iter().for_each(|member| mark_tree(member, known));
    }
}

type FetchResult = Result<FetchedMember, (Member, Error)>;

/// Reads the images, level by level, and resolves the tags of the targets at the same time: at once, and again when all
/// manifests have arrived. The tags are then resolved in the last round trip before they are written.
#[expect(clippy::type_complexity, reason = "the results of two jobs")]
fn fetch_and_resolve(
    members: &[Member],
    targets: &[(&Reference, Target)],
    stores: &Stores,
    spec_is_sound: bool,
) -> Result<(Vec<FetchResult>, Result<Vec<TargetInfo>, Error>), Error> {
    let open = |member| OpenedMember { member, opened: stores.source(&member.image) };
    let opened: Vec<OpenedMember<'_>> = members.iter().map(open).collect();
    let arrivals = Arrivals::new(opened.len());
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| resolve_twice(targets, &arrivals));
        // Ends the other thread's waiting, however reading ends.
        let _end = EndOnDrop(&arrivals);
        let read = parallel::map(&opened, stores.concurrency(parallel::LOOKUPS), |one| {
            match fetch_one(one, &arrivals) {
                Ok(found) => Ok(Ok(found)),
                // A missing image is a problem of the spec, with its line. A store that cannot be read is an error.
                Err(error) if matches!(error.kind, Exit::NotFound | Exit::BadInput) || !spec_is_sound => {
                    Ok(Err((one.member.clone(), error)))
                }
                Err(error) => Err(error),
            }
        });
        arrivals.end();
        let looks = looks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map(|read| (read, looks))
    })
}

fn fetch_one(one: &OpenedMember<'_>, arrivals: &Arrivals) -> Result<FetchedMember, Error> {
    let document = one.opened.as_ref().map_err(Clone::clone).and_then(|opened| {
        let document = opened.store.read_document(&opened.pointer);
        document.map(|document| (opened, document))
    });
    let arrived = document.as_ref().ok();
    arrivals.add(arrived.map(|(opened, document)| (opened.store.display_name(), document.digest().clone())));
    let (opened, document) = document?;
    let node = match read_sparse_tree_below(&*opened.store, document)? {
        TreeNode::Unread(unread) => return Err(unread.error),
        node => node,
    };
    let found = FetchedMember { member: one.member.clone(), source: opened.store.clone(), node };
    unread_selection(&found).map_or(Ok(found), Err)
}

/// Resolves the tags at once and, when all manifests have arrived, again, together with the manifests that come from
/// other stores.
fn resolve_twice(targets: &[(&Reference, Target)], arrivals: &Arrivals) -> Result<Vec<TargetInfo>, Error> {
    let mut looks = Vec::new();
    for (_, target) in targets {
        looks.push(TargetInfo::of_tags(&*target.store, &target.tags)?);
    }
    let arrived = arrivals.wait();
    for ((_, target), known) in targets.iter().zip(&mut looks) {
        let here = target.store.display_name();
        let foreign = arrived.iter().filter(|(store, _)| *store != here).map(|(_, digest)| digest.clone());
        known.recheck(&*target.store, &foreign.collect::<Vec<_>>())?;
    }
    Ok(looks)
}

/// Returns the images that were read, or all problems as one error.
///
/// `more` returns the problems of the images that were read. They are reported together with missing images if the spec
/// itself is valid.
fn collect(
    request: &PublishRequest,
    read: Vec<FetchResult>,
    more: &dyn Fn(&[FetchedMember]) -> Vec<Problem>,
    output: &Output,
) -> Result<Vec<FetchedMember>, Error> {
    let mut problems = request.problems.clone();
    let mut only_missing = problems.is_empty();
    let mut found = Vec::new();
    for one in read {
        match one {
            Ok(one) => found.push(one),
            Err((member, error)) if request.ignore_missing && error.kind == Exit::NotFound => {
                let problem = request.source.format_problem(member.line, &format!("cannot {error}"));
                output.info(&format!("skipped: {problem}"));
            }
            Err((member, error)) => {
                only_missing &= error.kind == Exit::NotFound;
                problems.push(Problem { line: member.line, text: format!("cannot {error}") });
            }
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push(Problem { line: 1, text: "no image is left; an empty index is not published".into() });
        only_missing = false;
    }
    if problems.is_empty() {
        return Ok(found);
    }
    let more = if request.problems.is_empty() { more(&found) } else { Vec::new() };
    only_missing &= more.is_empty();
    problems.extend(more);
    problems.sort_by_key(|problem| problem.line);
    let mut error = refuse_problems(&request.source, &problems);
    if only_missing {
        error.kind = Exit::NotFound;
    }
    Err(error)
}

/// The manifests that have arrived so far, for a thread that waits for the last of them.
struct Arrivals {
    state: Mutex<Arrived>,
    all: Condvar,
}

struct Arrived {
    awaited: usize,
    found: Vec<(String, Digest)>,
}

impl Arrivals {
    fn new(awaited: usize) -> Self {
        Self { state: Mutex::new(Arrived { awaited, found: Vec::new() }), all: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, Arrived> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records one answer, with a manifest or without.
    fn add(&self, arrived: Option<(String, Digest)>) {
        let mut state = self.state();
        state.awaited = state.awaited.saturating_sub(1);
        state.found.extend(arrived);
        if state.awaited == 0 {
            self.all.notify_all();
        }
    }

    fn end(&self) {
        self.state().awaited = 0;
        self.all.notify_all();
    }

    fn wait(&self) -> Vec<(String, Digest)> {
        let mut state = self.state();
        while state.awaited > 0 {
            state = self.all.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.found.clone()
    }
}

struct EndOnDrop<'a>(&'a Arrivals);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
