//! Looking up all that a spec names, and what its targets have, in as few round trips as can be.

use super::Tools;
use crate::plan::{Found, Misfit, Request, combine, refuse};
use crate::spec::{Asked, Member, Spec};
use cli::Output;
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::reference::Reference;
use image_store::open::{Opened, Stores, Target};
use image_store::parallel;
use image_store::plan::TargetInfo;
use image_store::store::ImageSource;
use image_store::tree::{TreeNode, read_tree_below};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use strict_yaml::Problem;

pub struct Gathered {
    pub spec: Spec,
    pub found: Vec<Found>,
    pub targets: Vec<Looked>,
}

/// A place to write to, and what was seen there just now.
pub struct Looked {
    /// Its name, without a tag.
    pub reference: Reference,
    pub target: Target,
    pub known: TargetInfo,
}

/// A member's place, opened before the first request: one token is then asked for all of them.
struct Place<'a> {
    member: &'a Member,
    opened: Result<Opened<dyn ImageSource>, Error>,
}

/// Reads every image, and meanwhile looks at the targets. What is wrong with the one does not keep the other from
/// being told.
pub fn gather(
    asked: &Asked,
    also: &[Reference],
    request: &Request,
    tools: &Tools<'_>,
    output: &Output,
) -> Result<Gathered, Error> {
    let Some(spec) = &asked.spec else { return Err(refuse(&asked.place, &misfits_of(&asked.problems))) };
    let stores = tools.stores(&spec.image)?;
    let mut targets = Vec::new();
    if asked.problems.is_empty() {
        for reference in std::iter::once(&spec.image).chain(also) {
            targets.push((reference, open_target(reference, spec, &stores)?));
        }
    }
    let (read, looks) = read_and_look(&spec.members, &targets, &stores, asked.problems.is_empty())?;
    let more = |found: &[Found]| combine(found, request).err().unwrap_or_default();
    let found = judge(asked, read, &more, output)?;
    let mut looks = looks?.into_iter();
    let looked = targets.into_iter().map(|(reference, target)| {
        let known = looks.next().unwrap_or_default();
        let mut looked = Looked { reference: reference.clone(), target, known };
        for one in &found {
            looked.know_of(&one.node, &*one.source);
        }
        looked
    });
    let targets = looked.collect();
    for note in &spec.notes {
        output.info(&asked.place.told(note.line, &note.text));
    }
    Ok(Gathered { spec: spec.clone(), found, targets })
}

/// The images alone, where nothing is to be written yet.
pub fn gather_members(asked: &Asked, stores: &Stores, output: &Output) -> Result<Vec<Found>, Error> {
    let Some(spec) = &asked.spec else { return Err(refuse(&asked.place, &misfits_of(&asked.problems))) };
    let (read, _) = read_and_look(&spec.members, &[], stores, asked.problems.is_empty())?;
    judge(asked, read, &|_| Vec::new(), output)
}

impl Looked {
    /// A place of which nothing is known yet.
    pub fn new(reference: &Reference, target: Target) -> Self {
        Self { reference: reference.clone(), target, known: TargetInfo::default() }
    }

    /// What was read there is there.
    pub fn know_of(&mut self, node: &TreeNode, source: &dyn ImageSource) {
        if source.display_name() == self.target.store.display_name() {
            add_all(node, &mut self.known);
        }
    }
}

fn open_target(reference: &Reference, spec: &Spec, stores: &Stores) -> Result<Target, Error> {
    let mut target = stores.target(reference)?;
    for tag in &spec.tags {
        // The image's own tag may be named among them.
        if !target.tags.contains(tag) {
            target.tags.push(tag.clone());
        }
    }
    Ok(target)
}

fn add_all(node: &TreeNode, known: &mut TargetInfo) {
    known.documents.insert(node.digest().clone(), true);
    if let TreeNode::Index(index) = node {
        index.members.iter().for_each(|member| add_all(member, known));
    }
}

type Read = Result<Found, (Member, Error)>;

/// Two things at once: the images, level by level, and the targets, for the second time when all manifests are there
/// and the configs are on the way. So the tags are looked at in the last round trip before they are written.
#[expect(clippy::type_complexity, reason = "two results of two jobs; a name would say less")]
fn read_and_look(
    members: &[Member],
    targets: &[(&Reference, Target)],
    stores: &Stores,
    spec_is_sound: bool,
) -> Result<(Vec<Read>, Result<Vec<TargetInfo>, Error>), Error> {
    let open = |member| Place { member, opened: stores.source(&member.image) };
    let places: Vec<Place<'_>> = members.iter().map(open).collect();
    let arrivals = Arrivals::new(places.len());
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| look_twice(targets, &arrivals));
        // However reading ends, nobody waits for more.
        let _end = End(&arrivals);
        let read = parallel::map(&places, stores.concurrency(parallel::LOOKUPS), |place| {
            match read_one(place, &arrivals) {
                Ok(found) => Ok(Ok(found)),
                // What is missing is the spec's fault and told with its line; what cannot be asked stops us.
                Err(error) if matches!(error.kind, Exit::NotFound | Exit::BadInput) || !spec_is_sound => {
                    Ok(Err((place.member.clone(), error)))
                }
                Err(error) => Err(error),
            }
        });
        arrivals.end();
        let looks = looks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        read.map(|read| (read, looks))
    })
}

fn read_one(place: &Place<'_>, arrivals: &Arrivals) -> Result<Found, Error> {
    let document = place.opened.as_ref().map_err(Clone::clone).and_then(|opened| {
        let document = opened.store.read_document(&opened.pointer);
        document.map(|document| (opened, document))
    });
    let arrived = document.as_ref().ok();
    arrivals.add(arrived.map(|(opened, document)| (opened.store.display_name(), document.digest().clone())));
    let (opened, document) = document?;
    let node = read_tree_below(&*opened.store, document, 0)?;
    Ok(Found { member: place.member.clone(), source: opened.store.clone(), node })
}

/// The tags at once; and again, with those manifests that come from elsewhere, when all manifests have come in.
fn look_twice(targets: &[(&Reference, Target)], arrivals: &Arrivals) -> Result<Vec<TargetInfo>, Error> {
    let mut looks = Vec::new();
    for (_, target) in targets {
        looks.push(TargetInfo::look(&*target.store, &target.tags, &[])?);
    }
    let arrived = arrivals.wait();
    for ((_, target), known) in targets.iter().zip(&mut looks) {
        let here = target.store.display_name();
        let foreign = arrived.iter().filter(|(place, _)| *place != here).map(|(_, digest)| digest.clone());
        known.look_again(&*target.store, &foreign.collect::<Vec<_>>())?;
    }
    Ok(looks)
}

/// Sorts what was found from what is wrong; with anything wrong, all of it is told.
///
/// `more` is what would be wrong with the rest: it is told with what is missing, if the spec itself is sound.
fn judge(
    asked: &Asked,
    read: Vec<Read>,
    more: &dyn Fn(&[Found]) -> Vec<Misfit>,
    output: &Output,
) -> Result<Vec<Found>, Error> {
    let mut misfits = misfits_of(&asked.problems);
    let mut only_missing = misfits.is_empty();
    let mut found = Vec::new();
    for one in read {
        match one {
            Ok(one) => found.push(one),
            Err((member, error)) if asked.ignore_missing && error.kind == Exit::NotFound => {
                let told = asked.place.told(member.line, &format!("cannot {error}"));
                output.info(&format!("skipped: {told}"));
            }
            Err((member, error)) => {
                only_missing &= error.kind == Exit::NotFound;
                misfits.push(Misfit { line: member.line, text: format!("cannot {error}") });
            }
        }
    }
    if found.is_empty() && misfits.is_empty() {
        misfits.push(Misfit { line: 1, text: "no image is left; an empty index is not published".into() });
        only_missing = false;
    }
    if misfits.is_empty() {
        return Ok(found);
    }
    let more = if asked.problems.is_empty() { more(&found) } else { Vec::new() };
    only_missing &= more.is_empty();
    misfits.extend(more);
    misfits.sort_by_key(|misfit| misfit.line);
    let mut error = refuse(&asked.place, &misfits);
    if only_missing {
        error.kind = Exit::NotFound;
    }
    Err(error)
}

fn misfits_of(problems: &[Problem]) -> Vec<Misfit> {
    problems.iter().map(|problem| Misfit { line: problem.line, text: problem.text.clone() }).collect()
}

/// The manifests that have come in so far, for somebody who waits for the last of them.
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

    /// One is answered, with a manifest or without.
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

struct End<'a>(&'a Arrivals);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
