//! The builder `podman`: `podman build`, and `podman push` into an OCI layout. The image stays in the storage without a name,
//! as a build cache.

use super::common::{copy_image, dockerfile_recipe, make_work_dir, needs_emulator, read_dockerfile, read_id};
use super::tool::{Step, Tool};
use super::{BuildJob, Builder, LocalImage};
use crate::spec::{DockerfileRecipe, Recipe};
use error::Error;
use image_model::manifest::Document;
use image_model::reference::RegistryRef;
use image_store::store::oci_layout::OciLayout;
use std::fs;
use std::path::Path;

pub struct Podman {
    tool: Tool,
}

impl Podman {
    pub fn new() -> Self {
        Self { tool: Tool::new("podman", "MULTIARCH_PODMAN") }
    }

    #[cfg(test)]
    pub(super) fn with(program: &Path) -> Self {
        Self { tool: Tool::at("podman", program) }
    }
}

impl Builder for Podman {
    fn name(&self) -> String {
        self.tool.builder_name()
    }

    fn available(&self) -> Result<(), String> {
        self.tool.ask(&["info", "--format", "{{.Store.GraphDriverName}}"]).map(drop)
    }

    fn needs_emulator(&self, job: &BuildJob) -> bool {
        needs_emulator(job)
    }

    fn local_image(&self, base: &str) -> Option<LocalImage> {
        local(&self.tool, &["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}"], base)
    }

    fn registry_name(&self, base: &str) -> Option<RegistryRef> {
        registry_name(base)
    }

    fn describe(&self, job: &BuildJob) -> Vec<String> {
        describe(&self.tool, &["build"], job)
    }

    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error> {
        build(&self.tool, &["build"], job, staging, log)
    }
}

/// The image in the local storage. podman and buildah do not print the variant, and read the registry if the platform
/// differs.
pub(super) fn local(tool: &Tool, inspect: &[&str], base: &str) -> Option<LocalImage> {
    let said = tool.ask(&[inspect, &["--", base]].concat()).ok()?;
    Some(LocalImage { platform: said.parse().ok()?, is_used_unchecked: false, may_have_others: false })
}

/// The reference of a name with a host. The meaning of other names depends on registries.conf.
pub(super) fn registry_name(base: &str) -> Option<RegistryRef> {
    let (host, _) = base.split_once('/')?;
    let is_host = host.contains(['.', ':']) || host == "localhost";
    is_host.then(|| base.parse().ok()).flatten()
}

/// The commands of podman or buildah, which differ only in the words that begin a build.
pub(super) fn describe(tool: &Tool, begin: &[&str], job: &BuildJob) -> Vec<String> {
    let Recipe::Dockerfile(recipe) = &job.recipe else { return Vec::new() };
    let build = build_step(begin, job, recipe, &job.work_dir.join("image-id"));
    vec![tool.shown(&build), tool.shown(&push_step("IMAGE-ID", &job.work_dir.join("image")))]
}

pub(super) fn build(
    tool: &Tool,
    begin: &[&str],
    job: &BuildJob,
    staging: &OciLayout,
    log: &Path,
) -> Result<Document, Error> {
    let recipe = dockerfile_recipe(job, &tool.builder_name())?;
    let id_file = job.work_dir.join("image-id");
    let pushed = job.work_dir.join("image");
    make_work_dir(job)?;
    // Files of a run that was killed would be mistaken for those of this one.
    let _ = fs::remove_file(&id_file);
    let _ = fs::remove_dir_all(&pushed);
    tool.run(&build_step(begin, job, recipe, &id_file), log)?;
    let id = read_id(&id_file)?;
    let taken = tool.run(&push_step(&id, &pushed), log).and_then(|()| {
        let layout = OciLayout::open(&pushed)?;
        copy_image(&layout, &layout.only_image()?, staging)
    });
    let _ = fs::remove_dir_all(&pushed);
    taken
}

fn build_step(begin: &[&str], job: &BuildJob, recipe: &DockerfileRecipe, id: &Path) -> Step {
    let mut step = Step::new(begin).arg("--platform").arg(job.platform.to_string()).arg("--iidfile").arg(id);
    if let Some(epoch) = job.epoch {
        step = step.arg("--timestamp").arg(epoch.to_string());
    }
    if may_mix(job, recipe) {
        step = step.arg("--no-cache");
    }
    step.recipe(recipe)
}

/// Returns whether cached layers of one platform may be used for another. podman 4 and buildah 1 identify a cached layer by the
/// layers below it and the text of its instruction, so that `ENV A=$TARGETARCH` of two platforms is the same for them if both
/// begin with the same layers.
fn may_mix(job: &BuildJob, recipe: &DockerfileRecipe) -> bool {
    let begins_alike =
        || read_dockerfile(job, recipe).is_ok_and(|read| read.begins_alike(recipe.target.as_deref()));
    recipe.is_shared && begins_alike()
}

fn push_step(id: &str, dir: &Path) -> Step {
    // No registry is used, but podman 4 and buildah 1 fail if DOCKER_CONFIG is a directory without a file.
    let step = Step::new(&["push", "--quiet"]).without_env("DOCKER_CONFIG").without_env("REGISTRY_AUTH_FILE");
    step.arg(id).arg(format!("oci:{}:image", dir.display()))
}
