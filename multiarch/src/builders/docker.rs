//! The builder `docker`: `docker build` with the classic builder or BuildKit, as docker itself decides.
//!
//! The image gets no name. It stays in the engine as a build cache for the next release, as after any `docker build` without
//! `-t`; `docker image prune` removes it.

use super::common::{
    Ids, dockerfile_recipe, engine_id, find_image, make_work_dir, needs_emulator, read_dockerfile,
};
use super::tool::{Step, Tool};
use super::{BuildJob, Builder, LocalImage};
use crate::spec::{DockerfileRecipe, Recipe};
use error::Error;
use image_model::manifest::Document;
use image_model::platform::Platform;
use image_model::reference::RegistryRef;
use image_store::archive::DockerArchive;
use image_store::compress::{ManifestFormat, import_compressed};
use image_store::store::oci_layout::OciLayout;
use std::fs;
use std::path::Path;

pub struct Docker {
    tool: Tool,
    /// A context was given: it may be an engine on another machine.
    has_context: bool,
}

/// The implementation behind `docker build`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    Classic,
    /// BuildKit in the engine, without buildx.
    BuildKit,
    /// BuildKit through buildx.
    Buildx,
}

impl Docker {
    pub fn new(context: Option<&str>) -> Self {
        let tool = Tool::new("docker", "MULTIARCH_DOCKER");
        match context {
            Some(context) => Self { tool: tool.in_context(context), has_context: true },
            None => Self { tool, has_context: false },
        }
    }

    #[cfg(test)]
    pub(super) fn with(program: &Path) -> Self {
        Self { tool: Tool::at("docker", program), has_context: false }
    }

    /// Depends on DOCKER_BUILDKIT and the version: BuildKit through buildx is the default since client 23.
    fn generation(&self) -> Generation {
        let version = self.tool.ask(&["version", "--format", "{{.Client.Version}}"]).unwrap_or_default();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        let is_new = major.is_some_and(|major| major >= 23);
        match (std::env::var("DOCKER_BUILDKIT").as_deref(), is_new) {
            // Go's strconv.ParseBool
            (Ok("0" | "f" | "F" | "false" | "False" | "FALSE"), _) => Generation::Classic,
            (_, true) => Generation::Buildx,
            (Ok(said), false) if !said.is_empty() => Generation::BuildKit,
            (_, false) => Generation::Classic,
        }
    }

    /// Builds the image. Its ID is in files afterwards.
    fn run_build(&self, job: &BuildJob, recipe: &DockerfileRecipe, log: &Path) -> Result<(), Error> {
        let refused = match self.tool.run(&self.build_step(job, recipe, true), log) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !refused.problems.iter().any(|line| is_about_platform(line)) {
            return Err(refused);
        }
        // The classic builder uses --platform as a filter of images, including its intermediate ones, which declare its
        // own platform; engines before 20.10 reject the flag. Without the flag they would pull base images for the wrong
        // platform, but `FROM scratch` pulls nothing.
        if read_dockerfile(job, recipe)?.bases().next().is_some() {
            return Err(refused.hint("this builder does not support a foreign platform here; set DOCKER_BUILDKIT=1, or use podman or buildah"));
        }
        self.tool.run(&self.build_step(job, recipe, false), log)
    }

    fn build_step(&self, job: &BuildJob, recipe: &DockerfileRecipe, with_platform: bool) -> Step {
        let ids = Ids::of(job);
        let mut step = Step::new(&["build"]);
        if with_platform {
            step = step.arg("--platform").arg(job.platform.to_string());
        }
        step = step.arg("--iidfile").arg(ids.id);
        if self.generation() == Generation::Buildx {
            step = step.arg("--metadata-file").arg(ids.metadata);
        }
        step.buildkit(job, recipe)
    }
}

impl Builder for Docker {
    fn name(&self) -> String {
        self.tool.builder_name()
    }

    fn available(&self) -> Result<(), String> {
        self.tool.ask(&["version", "--format", "{{.Server.Version}}"]).map(drop)
    }

    fn unsupported(&self, recipe: &DockerfileRecipe) -> Option<String> {
        let newer = [
            ("build-contexts", !recipe.build_contexts.is_empty()),
            ("cache-to", !recipe.cache_to.is_empty()),
        ];
        let newer = newer.into_iter().find_map(|(key, is_there)| is_there.then_some(key));
        match (self.generation(), newer) {
            (Generation::Classic, _) if !recipe.secrets.is_empty() => {
                Some("its classic builder has no \"secrets\": set DOCKER_BUILDKIT=1".into())
            }
            (Generation::Classic | Generation::BuildKit, Some(key)) => {
                Some(format!("it has no \"{key}\" without buildx: write builder: buildx, or use docker 23"))
            }
            (Generation::Classic | Generation::BuildKit, None) | (Generation::Buildx, _) => None,
        }
    }

    /// An engine on another machine has emulators of its own.
    fn needs_emulator(&self, job: &BuildJob) -> bool {
        !self.has_context && needs_emulator(job)
    }

    fn local_image(&self, base: &str) -> Option<LocalImage> {
        const FORMAT: &str = "{{.Os}}/{{.Architecture}}/{{.Variant}}";
        let said = self.tool.ask(&["image", "inspect", "--format", FORMAT, "--", base]).ok()?;
        let generation = self.generation();
        Some(LocalImage {
            platform: said.trim_end_matches('/').parse().ok()?,
            is_used_unchecked: generation == Generation::Classic,
            may_have_others: generation == Generation::Buildx,
        })
    }

    fn registry_name(&self, base: &str) -> Option<RegistryRef> {
        base.parse().ok()
    }

    fn describe(&self, job: &BuildJob) -> Vec<String> {
        let Recipe::Dockerfile(recipe) = &job.recipe else { return Vec::new() };
        let build = self.tool.shown(&self.build_step(job, recipe, true));
        vec![build, self.tool.shown(&save_step("IMAGE-ID", &job.work_dir.join("image.tar")))]
    }

    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error> {
        let recipe = dockerfile_recipe(job, &self.name())?;
        let archive = job.work_dir.join("image.tar");
        let ids = Ids::of(job);
        make_work_dir(job)?;
        ids.remove();
        self.run_build(job, recipe, log)?;
        let id = engine_id(&self.tool, &ids)?;
        let saved = self
            .tool
            .run(&save_step(&id, &archive), log)
            .and_then(|()| take(&archive, &job.platform, staging));
        let _ = fs::remove_file(&archive);
        saved
    }
}

pub(super) fn save_step(id: &str, archive: &Path) -> Step {
    Step::new(&["save", "--output"]).arg(archive).arg(id)
}

/// Returns whether this line of docker's output is an error about `--platform`. Source: cli/command/image/build.go and daemon/images/image.go of Docker 19.03 to 28.
fn is_about_platform(line: &str) -> bool {
    line.contains("does not match the specified platform")
        // The error of containerd's image store.
        || line.contains("does not provide the specified platform")
        || line.contains(
            "\"--platform\" is only supported on a Docker daemon with experimental features enabled",
        )
        || line.contains("\"--platform\" requires API version")
}

/// Imports a saved image into the layout, with compressed layers. Newer engines save an index.
pub(super) fn take(archive: &Path, platform: &Platform, staging: &OciLayout) -> Result<Document, Error> {
    let saved = DockerArchive::open(archive, None)?;
    let at = find_image(&saved, saved.only_image()?, platform)?;
    import_compressed(&saved, &at, staging, ManifestFormat::Docker)
}
