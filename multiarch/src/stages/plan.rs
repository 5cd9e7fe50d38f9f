//! What a release will do, decided before anything is done. `--dry-run` prints it.

use crate::emulation::{BinfmtSetup, Probed};
use crate::spec::Spec;
use crate::stages::build::Build;
use crate::stages::retained::is_proven;
use crate::stages::verify_bases::Base;
use crate::work_dir::records::Records;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Index};
use image_model::platform::Platform;
use image_store::parallel;
use image_store::store::{ImageSource, Pointer};

mod shown;

pub struct ReleasePlan {
    /// `docker.io/ckulka/multi-arch-example`, `oci:dist/out`.
    pub place: String,
    pub prepare: Vec<Vec<String>>,
    pub builds: Vec<Build>,
    /// The base images of the Dockerfiles that are there.
    pub bases: Vec<Base>,
    /// Members of the published index that stay as they are.
    pub kept: Vec<Other>,
    /// Members of the published index that are not in the spec any more.
    pub going: Vec<Other>,
    pub emulators: Emulators,
    pub labels_are_fixed: bool,
    pub smoke: Vec<String>,
    /// Every tag that will be set, member tags first, with what it names now.
    pub tags: Vec<(String, Option<Digest>)>,
    /// What the first tag of the index names now.
    pub published: Option<Index>,
}

/// A member of the published index that is not built this time.
pub struct Other {
    pub platform: Platform,
    /// `None`: what is published could not be read.
    pub digest: Option<Digest>,
    /// An earlier run held it against its binaries.
    pub is_proven: bool,
}

impl Other {
    pub fn of(entry: &Descriptor, records: &Records) -> Self {
        let platform = entry.platform.clone().unwrap_or_default();
        let is_proven = is_proven(records, &entry.digest, &platform);
        Self { platform, digest: Some(entry.digest.clone()), is_proven }
    }

    pub fn unknown(platform: Platform) -> Self {
        Self { platform, digest: None, is_proven: false }
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"platform": self.platform, "published": self.digest, "proven": self.is_proven})
    }
}

impl ReleasePlan {
    /// The same for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let platforms: Vec<serde_json::Value> =
            self.builds.iter().map(|build| self.build_json(build)).collect();
        let tags: Vec<serde_json::Value> =
            self.tags.iter().map(|(tag, was)| serde_json::json!({"tag": tag, "was": was})).collect();
        serde_json::json!({
            "plan": 1,
            "image": self.place,
            "prepare": self.prepare,
            "emulators": {"missing": self.emulators.missing, "command": self.emulators.command},
            "platforms": platforms,
            "kept": platforms_of(&self.kept),
            "kept_images": self.kept.iter().map(Other::to_json).collect::<Vec<_>>(),
            "going": platforms_of(&self.going),
            "labels": if self.labels_are_fixed { "fix" } else { "check" },
            "smoke": self.smoke,
            "tags": tags,
        })
    }

    fn build_json(&self, build: &Build) -> serde_json::Value {
        let platform = &build.spec.platform;
        let bases = self.bases.iter().filter(|base| base.platform == *platform);
        serde_json::json!({
            "platform": platform,
            "builder": build.builder.name(),
            "why": build.why,
            "commands": build.commands,
            "needs_emulator": build.needs_emulator,
            "bases": bases.map(Base::shown).collect::<Vec<_>>(),
            "published": self.published(platform),
        })
    }

    /// What is published for a platform now.
    fn published(&self, platform: &Platform) -> Option<&Digest> {
        let fits = |said: &Platform| said.fits(platform);
        let entries = self.published.iter().flat_map(|index| &index.manifests);
        entries.filter(|entry| entry.platform.as_ref().is_some_and(fits)).map(|entry| &entry.digest).next()
    }
}

fn platforms_of(others: &[Other]) -> Vec<&Platform> {
    others.iter().map(|other| &other.platform).collect()
}

/// Which emulators the builds need, and how they come to be there.
#[derive(Clone, Debug, Default)]
pub struct Emulators {
    pub missing: Vec<Platform>,
    pub command: Vec<String>,
}

/// Which emulators are missing for these builds. Asks only if a build needs one.
pub fn plan_emulators(builds: &[Build], binfmt: Option<&BinfmtSetup>) -> Result<Emulators, Error> {
    let needed: Vec<Platform> =
        builds.iter().filter(|build| build.needs_emulator).map(|build| build.spec.platform.clone()).collect();
    if needed.is_empty() {
        return Ok(Emulators::default());
    }
    let Some(binfmt) = binfmt else {
        let names: Vec<String> = needed.iter().map(ToString::to_string).collect();
        let why = "binfmt-setup is neither beside this program nor in PATH";
        return Err(Error::not_found(format!("find out whether this host builds {}", names.join(", ")), why)
            .hint("install it: cargo install --path binfmt-setup"));
    };
    let probed: Vec<Probed> = binfmt.probe(&needed)?;
    let runs = |platform: &&Platform| {
        probed.iter().any(|p| p.runs && p.platform.parse::<Platform>().is_ok_and(|said| said.fits(platform)))
    };
    let missing: Vec<Platform> = needed.iter().filter(|platform| !runs(platform)).cloned().collect();
    let command = if missing.is_empty() { Vec::new() } else { binfmt.register_command(&missing) };
    Ok(Emulators { missing, command })
}

/// The tags of the spec, member tags first.
pub fn tags(spec: &Spec) -> Vec<String> {
    let members = spec.platforms.iter().filter_map(|one| one.tag.clone());
    members.chain(spec.tags.iter().cloned()).collect()
}

/// The same, with what they name now.
pub fn plan_tags(spec: &Spec, target: &dyn ImageSource) -> Result<Vec<(String, Option<Digest>)>, Error> {
    let tags = tags(spec);
    let named = parallel::map(&tags, parallel::REQUESTS, |tag| target.resolve(&Pointer::Tag(tag.clone())))?;
    Ok(tags.into_iter().zip(named.into_iter().map(|named| named.map(|named| named.digest))).collect())
}
