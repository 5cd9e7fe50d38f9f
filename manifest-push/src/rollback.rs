//! Rollback of tag moves, from the journal or from the report of a release: all tags are restored, or none.

use error::{Error, Exit};
use image_model::digest::Digest;
use image_model::reference::{Reference, ReferenceError};
use image_store::open::Target;
use image_store::plan::{MovedTag, Plan, ResolvedTags, TagGuard, TagStep, apply_tags, name_of};
use image_store::store::{ImageStore, Pointer};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use tag_journal::{Journal, JournalEntry, JournalRun};

/// Opens the store of an image.
pub type OpenTarget<'a> = &'a dyn Fn(&Reference) -> Result<Target, Error>;

type NamedStore = (Reference, Arc<dyn ImageStore>);

/// The stores of a rollback, and what their tags refer to. Each is opened and resolved once.
pub struct CurrentTags<'a> {
    open: OpenTarget<'a>,
    stores: RefCell<BTreeMap<String, NamedStore>>,
    tags: RefCell<BTreeMap<(String, String), Option<Digest>>>,
}

impl<'a> CurrentTags<'a> {
    pub fn new(open: OpenTarget<'a>) -> Self {
        Self { open, stores: RefCell::default(), tags: RefCell::default() }
    }

    fn store(&self, entry: &JournalEntry) -> Result<NamedStore, Error> {
        if let Some(known) = self.stores.borrow().get(&entry.image) {
            return Ok(known.clone());
        }
        let invalid = |e: ReferenceError| Error::bad_input(doing(entry), e.to_string());
        let reference: Reference = entry.image.parse().map_err(invalid)?;
        let store = (self.open)(&reference)?.store;
        self.stores.borrow_mut().insert(entry.image.clone(), (reference.clone(), store.clone()));
        Ok((reference, store))
    }

    /// The digest that the tag of an entry refers to; `None` if the tag does not exist.
    ///
    /// # Errors
    /// Those of the store; `BadInput` if the entry's image is no reference.
    pub fn digest(&self, entry: &JournalEntry) -> Result<Option<Digest>, Error> {
        let key = (entry.image.clone(), entry.tag.clone());
        if let Some(known) = self.tags.borrow().get(&key) {
            return Ok(known.clone());
        }
        let (_, store) = self.store(entry)?;
        let digest = store.resolve(&Pointer::Tag(entry.tag.clone()))?.map(|found| found.digest);
        self.tags.borrow_mut().insert(key, digest.clone());
        Ok(digest)
    }
}

/// The tags that a rollback restores, by store.
#[derive(Default)]
pub struct RollbackPlan {
    pub stores: Vec<StoreRollback>,
    /// Names of tags that the push created. They stay: registries cannot remove a tag without its image.
    pub created: Vec<String>,
}

/// The tags that are restored in one store.
pub struct StoreRollback {
    pub plan: Plan,
    reference: Reference,
    store: Arc<dyn ImageStore>,
    /// The run that each tag's move belongs to.
    runs: Vec<String>,
}

/// Plans the rollback of these moves, in their order. Every tag is checked; nothing is written.
///
/// # Errors
/// `Conflict` if another client moved one of the tags since, unless `force`; `NotFound` if the previous digest of one
/// does not exist any more; `BadInput` for tags of a Docker Engine, which only `docker image tag` can restore.
pub fn plan_rollback(
    moves: &[JournalEntry],
    tags: &CurrentTags<'_>,
    force: bool,
) -> Result<RollbackPlan, Error> {
    let mut rollback = RollbackPlan::default();
    let (mut moved, mut missing) = (Vec::new(), Vec::new());
    for entry in moves {
        let name = name_of(&entry.image, &entry.tag);
        let now = tags.digest(entry)?;
        let Some(old) = &entry.old else {
            // A push that failed may not have created it.
            rollback.created.extend(now.map(|_| name));
            continue;
        };
        // Reports also list tags that the release did not move.
        if now.as_ref() == Some(old) || *old == entry.new {
            continue;
        }
        let (reference, store) = tags.store(entry)?;
        refuse_docker_engine(entry, old, &reference)?;
        if now.as_ref() != Some(&entry.new) {
            let now = now.map_or("nothing".to_string(), |now| now.to_string());
            moved.push(format!("\"{name}\" refers to {now}, not to {} as after the push", entry.new));
        }
        let document = match store.read_document(&Pointer::from(old)) {
            Ok(document) => document,
            Err(error) if error.kind == Exit::NotFound => {
                missing.push(format!("\"{name}\" referred to {old}, which does not exist any more"));
                continue;
            }
            Err(error) => return Err(error),
        };
        // The digest after the push, not the current one: `apply` refuses a tag that moves now.
        let step = TagStep { tag: entry.tag.clone(), document, was: Some(entry.new.clone()) };
        let at = match rollback.stores.iter().position(|one| one.reference == reference) {
            Some(at) => at,
            None => {
                let plan = Plan { place: store.display_name(), ..Plan::default() };
                rollback.stores.push(StoreRollback { plan, reference, store, runs: Vec::new() });
                rollback.stores.len() - 1
            }
        };
        rollback.stores[at].plan.tags.push(step);
        rollback.stores[at].runs.push(entry.publish.clone());
    }
    refuse_problems(moves, moved, missing, force)?;
    Ok(rollback)
}

fn refuse_problems(
    moves: &[JournalEntry],
    moved: Vec<String>,
    missing: Vec<String>,
    force: bool,
) -> Result<(), Error> {
    let Some(first) = moves.first() else { return Ok(()) };
    let fail = |kind: Exit, hint: &str, problems: Vec<String>| {
        let error = match problems.as_slice() {
            [only] => Error::new(kind, doing(first), only),
            several => Error::new(kind, doing(first), format!("{} errors", several.len())).problems(problems),
        };
        Err(error.hint(format!("no tag was moved{hint}")))
    };
    if !missing.is_empty() {
        return fail(Exit::NotFound, "", missing);
    }
    if !moved.is_empty() && !force {
        return fail(Exit::Conflict, "; to overwrite what another client pushed, use --force", moved);
    }
    Ok(())
}

/// `roll back "NAME"`, for messages.
pub fn doing(entry: &JournalEntry) -> String {
    format!("roll back \"{}\"", name_of(&entry.image, &entry.tag))
}

/// A Docker Engine keeps the previous image under its id, and only docker can tag it again.
fn refuse_docker_engine(entry: &JournalEntry, old: &Digest, reference: &Reference) -> Result<(), Error> {
    let Reference::DockerDaemon { name } = reference else { return Ok(()) };
    let why = "a Docker Engine does not return images by digest";
    Err(Error::bad_input(doing(entry), why).hint(format!("docker image tag {old} {name}")))
}

impl RollbackPlan {
    pub fn is_nothing(&self) -> bool {
        self.stores.iter().all(|store| store.plan.is_nothing())
    }

    /// Restores the tags, each recorded in the journal before it moves.
    ///
    /// # Errors
    /// `Conflict` if a tag moves meanwhile, unless `force`; those of the store.
    pub fn apply(&self, force: bool) -> Result<(), Error> {
        if self.is_nothing() {
            return Ok(());
        }
        let (journal, run) = (Journal::of_user()?, JournalRun::new());
        journal.check()?;
        let plans: Vec<(&Plan, &Reference)> =
            self.stores.iter().map(|store| (&store.plan, &store.reference)).collect();
        let _locks = journal.lock_tags(&plans, &|| ())?;
        let moved = if force { MovedTag::Overwrite } else { MovedTag::Refuse };
        for StoreRollback { plan, reference, store, runs } in &self.stores {
            let before = |step: &TagStep, now: Option<&Digest>| {
                let at = plan.tags.iter().position(|one| one.tag == step.tag);
                let undoes = at.and_then(|at| runs.get(at)).filter(|run| !run.is_empty()).cloned();
                let entry = run.entry(reference, &step.tag, now, step.document.digest());
                journal.append(&JournalEntry { undoes, ..entry })
            };
            apply_tags(
                plan,
                &**store,
                TagGuard { moved, before: &before },
                ResolvedTags::default(),
                &|_| {},
            )?;
        }
        Ok(())
    }

    /// `schemaVersion`, `written`, `tags`, each with `image`, `tag`, `was` and `now`, and `left`: the tags that the
    /// push created.
    pub fn json(&self, dry_run: bool) -> serde_json::Value {
        let tags: Vec<serde_json::Value> = self
            .steps()
            .map(|(image, step)| {
                serde_json::json!({
                    "image": image, "tag": step.tag, "was": step.was, "now": step.document.digest(),
                })
            })
            .collect();
        let written = !tags.is_empty() && !dry_run;
        serde_json::json!({"schemaVersion": 2, "written": written, "tags": tags, "left": self.created})
    }

    /// Each tag with the name of its store.
    pub fn steps(&self) -> impl Iterator<Item = (&str, &TagStep)> {
        self.stores.iter().flat_map(|one| one.plan.tags.iter().map(|step| (one.plan.place.as_str(), step)))
    }
}
