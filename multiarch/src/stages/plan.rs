//! The plan of a release, made before anything is changed. `--dry-run` prints it.

use crate::builders;
use crate::context::ReleaseContext;
use crate::report::TagReport;
use crate::request::Request;
use crate::spec::{OnMismatch, Spec};
use crate::stages::build::{Build, job, refuse_missing_secrets};
use crate::stages::register_emulators::{Emulators, plan_emulators};
use crate::stages::verify::retained::{is_verified, other_images};
use crate::stages::verify_bases::{Base, inspect_bases};
use crate::work_dir::records::Records;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Index, ParsedDocument};
use image_model::platform::Platform;
use image_store::open::Target;
use image_store::parallel;
use image_store::plan::{DroppedPlatform, Plan};
use image_store::store::{ImageSource, Pointer};

mod text;

pub struct ReleasePlan {
    /// `docker.io/ckulka/multi-arch-example`, `oci:dist/out`.
    pub place: String,
    pub prepare: Vec<Vec<String>>,
    pub builds: Vec<Build>,
    /// The base images of the Dockerfiles that exist already.
    pub bases: Vec<Base>,
    /// Images of the published index that `--only` retains.
    pub retained: Vec<OtherImage>,
    /// Images of the published index that are no longer in the spec.
    pub removed: Vec<OtherImage>,
    pub emulators: Emulators,
    pub on_mismatch: OnMismatch,
    pub smoke: Vec<String>,
    /// Every tag that will be set, member tags first, with the digest that it has now.
    pub tags: Vec<(String, Option<Digest>)>,
    /// The index that the first tag refers to now.
    pub published: Option<Index>,
}

/// An image of the published index that is not built this time.
pub struct OtherImage {
    pub platform: Platform,
    /// `None`: the published index could not be read.
    pub digest: Option<Digest>,
    /// An earlier run verified it against its binaries.
    pub is_verified: bool,
}

impl OtherImage {
    fn from_entry(entry: &Descriptor, records: &Records) -> Self {
        let platform = entry.platform.clone().unwrap_or_default();
        let is_verified = is_verified(records, &entry.digest, &platform);
        Self { platform, digest: Some(entry.digest.clone()), is_verified }
    }

    fn unread(platform: Platform) -> Self {
        Self { platform, digest: None, is_verified: false }
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"platform": self.platform, "published": self.digest, "verified": self.is_verified})
    }
}

/// Reads the state of the engines, the emulators, the base images and the target, and decides. Nothing is written.
///
/// # Errors
/// `NotFound` for an engine, a secret or an emulator that is missing; otherwise as reads of the target.
pub fn plan(context: &ReleaseContext<'_>) -> Result<ReleasePlan, Error> {
    let ReleaseContext { request, target, records, open, binfmt, reporter, .. } = context;
    reporter.state.set_wanted_tags(tag_names(&request.spec));
    // Engines answer slowly, and several questions go to each.
    let builds = parallel::map(&request.spec.platforms, parallel::REQUESTS, |one| {
        refuse_missing_secrets(one)?;
        let (builder, why) = builders::choose(&one.builder, &one.recipe, open)?;
        let job = job(context, one);
        Ok::<_, Error>(Build {
            commands: builder.describe(&job),
            needs_emulator: builder.needs_emulator(&job),
            spec: one.clone(),
            builder,
            why,
        })
    })?;
    let tags = current_tags(&request.spec, &*target.store)?;
    let first = tags.iter().find(|(tag, _)| target.tags.first() == Some(tag));
    let published = published_index(first.and_then(|(_, digest)| digest.as_ref()), target);
    let others = published.as_ref().map(|index| {
        let others = other_images(index, &request.spec);
        others.into_iter().map(|entry| OtherImage::from_entry(entry, records)).collect::<Vec<_>>()
    });
    let (retained, removed) = if request.retains_others {
        let unread = || request.retained.iter().cloned().map(OtherImage::unread).collect();
        (others.unwrap_or_else(unread), Vec::new())
    } else {
        (Vec::new(), others.unwrap_or_default())
    };
    let plan = ReleasePlan {
        place: target.store.display_name(),
        prepare: request.spec.prepare.clone(),
        retained,
        removed,
        emulators: plan_emulators(&builds, binfmt.as_ref())?,
        on_mismatch: request.spec.on_mismatch,
        smoke: request.spec.smoke.clone(),
        bases: inspect_bases(context, &builds)?,
        published,
        tags,
        builds,
    };
    reporter.state.set_tags(&plan.tag_changes(&Plan::default()));
    Ok(plan)
}

/// Prints the plan; with `-v` every command and digest.
pub fn show(context: &ReleaseContext<'_>, plan: &ReleasePlan) {
    let output = context.reporter.output;
    output.info_lines(&plan.to_text(output.verbose));
}

impl ReleasePlan {
    /// Fails before anything is built, if the first tag would lose a platform that the command line does not name.
    ///
    /// # Errors
    /// `CheckFailed`, with the options that name the platforms.
    pub fn refuse_drops(&self, request: &Request) -> Result<(), Error> {
        let Some((tag, _)) = self.tags.iter().rev().find(|(tag, _)| request.spec.tags.first() == Some(tag))
        else {
            return Ok(());
        };
        let drops = self.removed.iter().filter_map(|removed| {
            let digest = removed.digest.clone()?;
            Some(DroppedPlatform { tag: tag.clone(), platform: removed.platform.clone(), digest })
        });
        let plan = Plan { place: self.place.clone(), drops: drops.collect(), ..Plan::default() };
        plan.refuse_drops(&request.drop)
    }

    /// The JSON document of `--dry-run --format json`.
    pub fn to_json(&self) -> serde_json::Value {
        let platforms: Vec<serde_json::Value> =
            self.builds.iter().map(|build| self.build_to_json(build)).collect();
        let tags: Vec<serde_json::Value> =
            self.tags.iter().map(|(tag, was)| serde_json::json!({"tag": tag, "was": was})).collect();
        serde_json::json!({
            "schemaVersion": 2,
            "image": self.place,
            "prepare": self.prepare,
            "emulators": {"missing": self.emulators.missing, "command": self.emulators.command},
            "platforms": platforms,
            "retained": self.retained.iter().map(OtherImage::to_json).collect::<Vec<_>>(),
            "removed": self.removed.iter().map(OtherImage::to_json).collect::<Vec<_>>(),
            "onMismatch": self.on_mismatch.name(),
            "smoke": self.smoke,
            "tags": tags,
        })
    }

    fn build_to_json(&self, build: &Build) -> serde_json::Value {
        let platform = &build.spec.platform;
        let bases = self.bases.iter().filter(|base| base.platform == *platform);
        serde_json::json!({
            "platform": platform,
            "builder": build.builder.name(),
            "why": build.why,
            "commands": build.commands,
            "needsEmulator": build.needs_emulator,
            "bases": bases.map(Base::to_string).collect::<Vec<_>>(),
            "published": self.published(platform),
        })
    }

    /// Returns the tags of the plan after these writes. A tag that they do not move keeps its digest.
    pub fn tag_changes(&self, writes: &Plan) -> Vec<TagReport> {
        let moved: Vec<TagReport> = writes.tags.iter().map(TagReport::from).collect();
        let unmoved = self.tags.iter().filter(|(tag, _)| !moved.iter().any(|step| step.tag == *tag));
        let unmoved = unmoved.filter_map(|(tag, was)| {
            let was = was.clone()?;
            Some(TagReport { tag: tag.clone(), was: Some(was.clone()), now: was, publish: None })
        });
        moved.iter().cloned().chain(unmoved).collect()
    }

    /// The digest that is published for a platform now.
    fn published(&self, platform: &Platform) -> Option<&Digest> {
        let fits = |said: &Platform| said.matches(platform);
        let entries = self.published.iter().flat_map(|index| &index.manifests);
        entries.filter(|entry| entry.platform.as_ref().is_some_and(fits)).map(|entry| &entry.digest).next()
    }
}

/// The tags of the spec, member tags first.
fn tag_names(spec: &Spec) -> Vec<String> {
    let members = spec.platforms.iter().filter_map(|one| one.tag.clone());
    members.chain(spec.tags.iter().cloned()).collect()
}

/// The tags of the spec, member tags first, with the digests that they have now.
fn current_tags(spec: &Spec, target: &dyn ImageSource) -> Result<Vec<(String, Option<Digest>)>, Error> {
    let tags = tag_names(spec);
    let at_once = target.concurrency(parallel::REQUESTS);
    let found = parallel::map(&tags, at_once, |tag| target.resolve(&Pointer::Tag(tag.clone())))?;
    Ok(tags.into_iter().zip(found.into_iter().map(|found| found.map(|found| found.digest))).collect())
}

/// The index with this digest, if it is one and can be read.
fn published_index(digest: Option<&Digest>, target: &Target) -> Option<Index> {
    match target.store.read_document(&Pointer::from(digest?)).ok()?.parse().ok()? {
        ParsedDocument::Index(index) => Some(index),
        ParsedDocument::Manifest(_) => None,
    }
}
