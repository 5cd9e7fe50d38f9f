//! What a release will do, decided before anything is done. `--dry-run` prints it.

use super::bases::Base;
use super::builders::Builder;
use super::emulation::{BinfmtSetup, Probed};
use super::spec::{PlatformSpec, Spec};
use image_store::digest::Digest;
use image_store::error::StoreError;
use image_store::manifest::Index;
use image_store::parallel;
use image_store::platform::Platform;
use image_store::store::{ImageSource, Pointer};
use std::fmt;

/// One image that will be built.
pub struct Build {
    pub spec: PlatformSpec,
    pub builder: Box<dyn Builder>,
    /// Why it is this builder, where the spec left that open.
    pub why: String,
    /// The commands that will be run, or what the embedded builder will do.
    pub commands: Vec<String>,
    /// Programs of its platform are run by the build.
    pub needs_emulator: bool,
}

pub struct ReleasePlan {
    /// `docker.io/ckulka/multi-arch-example`, `oci:dist/out`.
    pub place: String,
    pub prepare: Vec<Vec<String>>,
    pub builds: Vec<Build>,
    /// The base images of the Dockerfiles that are there.
    pub bases: Vec<Base>,
    /// Members of the published index that stay as they are.
    pub kept: Vec<Platform>,
    /// Members of the published index that are not in the spec any more.
    pub going: Vec<Platform>,
    pub emulators: Emulators,
    pub labels_are_fixed: bool,
    pub smoke: Vec<String>,
    /// Every tag that will be set, member tags first, with what it names now.
    pub tags: Vec<(String, Option<Digest>)>,
    /// What the first tag of the index names now.
    pub published: Option<Index>,
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
            "kept": self.kept,
            "going": self.going,
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

/// Which emulators the builds need, and how they come to be there.
#[derive(Clone, Debug, Default)]
pub struct Emulators {
    pub missing: Vec<Platform>,
    pub command: Vec<String>,
}

/// Which emulators are missing for these builds. Asks only if a build needs one.
pub fn plan_emulators(builds: &[Build], binfmt: &BinfmtSetup) -> Result<Emulators, StoreError> {
    let needed: Vec<Platform> =
        builds.iter().filter(|build| build.needs_emulator).map(|build| build.spec.platform.clone()).collect();
    if needed.is_empty() {
        return Ok(Emulators::default());
    }
    let probed: Vec<Probed> = binfmt.probe(&needed)?;
    let runs = |platform: &&Platform| {
        probed.iter().any(|p| p.runs && p.platform.parse::<Platform>().is_ok_and(|said| said.fits(platform)))
    };
    let missing: Vec<Platform> = needed.iter().filter(|platform| !runs(platform)).cloned().collect();
    let command = if missing.is_empty() { Vec::new() } else { binfmt.register_command(&missing) };
    Ok(Emulators { missing, command })
}

/// The tags of the spec, member tags first, with what they name now.
pub fn plan_tags(
    spec: &Spec,
    builds: &[Build],
    target: &dyn ImageSource,
) -> Result<Vec<(String, Option<Digest>)>, StoreError> {
    let members = builds.iter().filter_map(|build| build.spec.tag.clone());
    let tags: Vec<String> = members.chain(spec.tags.iter().cloned()).collect();
    let named = parallel::map(&tags, parallel::REQUESTS, |tag| target.resolve(&Pointer::Tag(tag.clone())))?;
    Ok(tags.into_iter().zip(named.into_iter().map(|named| named.map(|named| named.digest))).collect())
}

impl fmt::Display for ReleasePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan for {}", self.place)?;
        for command in &self.prepare {
            writeln!(f, "  prepare   {}", command.join(" "))?;
        }
        if !self.emulators.missing.is_empty() {
            writeln!(f, "  emulators {}", self.emulators.command.join(" "))?;
        }
        for build in &self.builds {
            let why = if build.why.is_empty() { String::new() } else { format!(" ({})", build.why) };
            writeln!(f, "  build     {}  {}{why}", build.spec.platform, build.builder.name())?;
            for command in &build.commands {
                writeln!(f, "              {command}")?;
            }
            if let Some(digest) = self.published(&build.spec.platform) {
                writeln!(f, "              now   published as {digest}")?;
            }
            for base in self.bases.iter().filter(|base| base.platform == build.spec.platform) {
                writeln!(f, "              base  {}", base.shown())?;
            }
        }
        for platform in &self.kept {
            writeln!(f, "  keep      {platform}, as it is published")?;
        }
        for platform in &self.going {
            writeln!(f, "  remove    {platform} is published and not in the spec: it goes away")?;
        }
        match self.labels_are_fixed {
            true => writeln!(f, "  label     each image says its platform; a wrong label is put right")?,
            false => {
                writeln!(f, "  label     each image says its platform; a wrong label stops the release")?
            }
        }
        writeln!(
            f,
            "  binaries  what each image would execute is for its platform; else nothing is published"
        )?;
        if !self.smoke.is_empty() {
            writeln!(
                f,
                "  smoke     {}  in each image, under its emulator, without network",
                self.smoke.join(" ")
            )?;
        }
        for (tag, was) in &self.tags {
            let was = was.as_ref().map_or("new".to_string(), |was| format!("is {was} now"));
            writeln!(f, "  tag       {}:{tag}  {was}", self.place)?;
        }
        Ok(())
    }
}
