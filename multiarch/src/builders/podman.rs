//! `podman build`, and `podman push` into a layout of its own. The image stays without a name as the build cache.

use super::common::{copy_image, dockerfile_recipe, make_work_dir, needs_emulator, read_dockerfile, read_id};
use super::tool::{Step, Tool};
use super::{BuildJob, Builder, Local};
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

    fn local(&self, base: &str) -> Option<Local> {
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

/// What the local storage has. Neither shows the variant, and both look into the registry if the platform differs.
pub(super) fn local(tool: &Tool, inspect: &[&str], base: &str) -> Option<Local> {
    let said = tool.ask(&[inspect, &["--", base]].concat()).ok()?;
    Some(Local { platform: said.parse().ok()?, is_taken_blindly: false, may_have_others: false })
}

/// A name without a host means what registries.conf and its aliases say.
pub(super) fn registry_name(base: &str) -> Option<RegistryRef> {
    let (host, _) = base.split_once('/')?;
    let is_host = host.contains(['.', ':']) || host == "localhost";
    is_host.then(|| base.parse().ok()).flatten()
}

/// podman and buildah are one program here but for the words that begin a build.
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
    // What a run left that was killed would be mixed up with this one's.
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

/// podman 4 and buildah 1 know a cached layer by what is below it and by the text of its instruction. Where several
/// platforms begin with the same, `ENV A=$TARGETARCH` of one is taken for another's.
fn may_mix(job: &BuildJob, recipe: &DockerfileRecipe) -> bool {
    let begins_alike =
        || read_dockerfile(job, recipe).is_ok_and(|read| read.begins_alike(recipe.target.as_deref()));
    recipe.is_shared && begins_alike()
}

fn push_step(id: &str, folder: &Path) -> Step {
    // Nothing is pushed anywhere, yet podman 4 and buildah 1 stop where DOCKER_CONFIG names a folder without a file.
    let step = Step::new(&["push", "--quiet"]).without_env("DOCKER_CONFIG").without_env("REGISTRY_AUTH_FILE");
    step.arg(id).arg(format!("oci:{}:image", folder.display()))
}
