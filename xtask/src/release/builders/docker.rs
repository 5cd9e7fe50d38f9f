//! `docker build`: the classic builder or BuildKit, as the person's docker decides.
//!
//! The image gets no name. It stays in the engine as its build cache, as after any `docker build` without `-t`, so
//! that a second release finds everything built; `docker image prune` takes it away.

use super::dockerfile::Dockerfile;
use super::tool::{Step, Tool};
use super::{BuildJob, Builder, Local, runs_natively};
use crate::release::spec::{DockerfileRecipe, Recipe};
use image_store::compress::{Flavour, import_compressed};
use image_store::error::StoreError;
use image_store::manifest::{Content, Document};
use image_store::platform::Platform;
use image_store::reference::RegistryRef;
use image_store::store::docker_archive::DockerArchive;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use std::fs;
use std::path::Path;

pub struct Docker {
    tool: Tool,
}

impl Docker {
    pub fn new() -> Self {
        Self { tool: Tool::new("docker", "MULTIARCH_DOCKER") }
    }

    #[cfg(test)]
    pub(super) fn with(program: &Path) -> Self {
        Self { tool: Tool::at("docker", program) }
    }

    /// Whether `docker build` is BuildKit's: the variable says so, or else it is the default since client 23.
    fn has_buildkit(&self) -> bool {
        match std::env::var("DOCKER_BUILDKIT").as_deref() {
            // Go's strconv.ParseBool
            Ok("0" | "f" | "F" | "false" | "False" | "FALSE") => return false,
            Ok(said) if !said.is_empty() => return true,
            _ => {}
        }
        let version = self.tool.ask(&["version", "--format", "{{.Client.Version}}"]).unwrap_or_default();
        version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 23)
    }

    /// Builds; the image's id is in the file `id` afterwards.
    fn run_build(
        &self,
        job: &BuildJob,
        recipe: &DockerfileRecipe,
        id: &Path,
        log: &Path,
    ) -> Result<(), StoreError> {
        let refused = match self.tool.run(&build_step(job, recipe, id, true), log) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !refused.problems.iter().any(|line| is_about_platform(line)) {
            return Err(refused);
        }
        // The classic builder takes --platform for a filter of images, its own intermediate ones among them, which
        // it labels with its own platform; engines before 20.10 do not take it at all. Without the flag they would
        // pull base images of the wrong platform, but from nothing nothing is pulled.
        if read_dockerfile(job, recipe)?.bases().next().is_some() {
            return Err(refused.hint("this builder takes no foreign platform here; set DOCKER_BUILDKIT=1, or use podman or buildah"));
        }
        self.tool.run(&build_step(job, recipe, id, false), log)
    }
}

impl Builder for Docker {
    fn name(&self) -> &'static str {
        self.tool.name
    }

    fn available(&self) -> Result<(), String> {
        self.tool.ask(&["version", "--format", "{{.Server.Version}}"]).map(drop)
    }

    fn needs_emulator(&self, job: &BuildJob) -> bool {
        needs_emulator(job)
    }

    fn local(&self, base: &str) -> Option<Local> {
        const FORMAT: &str = "{{.Os}}/{{.Architecture}}/{{.Variant}}";
        let said = self.tool.ask(&["image", "inspect", "--format", FORMAT, "--", base]).ok()?;
        Some(Local {
            platform: said.trim_end_matches('/').parse().ok()?,
            is_taken_blindly: !self.has_buildkit(),
        })
    }

    fn registry_name(&self, base: &str) -> Option<RegistryRef> {
        base.parse().ok()
    }

    fn describe(&self, job: &BuildJob) -> Vec<String> {
        let Recipe::Dockerfile(recipe) = &job.recipe else { return Vec::new() };
        let (id, archive) = (job.work_dir.join("image-id"), job.work_dir.join("image.tar"));
        let build = build_step(job, recipe, &id, true).shown(self.tool.name);
        vec![build, save_step("IMAGE-ID", &archive).shown(self.tool.name)]
    }

    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, StoreError> {
        let recipe = dockerfile_recipe(job, self.tool.name)?;
        let id_file = job.work_dir.join("image-id");
        let archive = job.work_dir.join("image.tar");
        make_work_dir(job)?;
        // One that a run left that was killed would be taken for this one's.
        let _ = fs::remove_file(&id_file);
        self.run_build(job, recipe, &id_file, log)?;
        let id = read_id(&id_file)?;
        let saved = self
            .tool
            .run(&save_step(&id, &archive), log)
            .and_then(|()| take(&archive, &job.platform, staging));
        let _ = fs::remove_file(&archive);
        saved
    }
}

fn build_step(job: &BuildJob, recipe: &DockerfileRecipe, id: &Path, with_platform: bool) -> Step {
    let mut step = Step::new(&["build"]);
    if with_platform {
        step = step.arg("--platform").arg(job.platform.to_string());
    }
    step = step.arg("--iidfile").arg(id).recipe(recipe);
    if let Some(epoch) = job.epoch {
        // BuildKit takes it from here; the classic builder does not.
        step = step.env("SOURCE_DATE_EPOCH", &epoch.to_string());
    }
    // One image is wanted, not an index of an image and what attests it.
    step.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").arg("--file").arg(&recipe.dockerfile).arg(&recipe.context)
}

fn save_step(id: &str, archive: &Path) -> Step {
    Step::new(&["save", "--output"]).arg(archive).arg(id)
}

/// What docker says when it is `--platform` that it does not take.
/// Source: cli/command/image/build.go and daemon/images/image.go of Docker 19.03 to 28.
fn is_about_platform(line: &str) -> bool {
    line.contains("does not match the specified platform")
        || line.contains(
            "\"--platform\" is only supported on a Docker daemon with experimental features enabled",
        )
        || line.contains("\"--platform\" requires API version")
}

/// The saved image, compressed into the layout. Newer engines save an index; the member of this platform is it.
fn take(archive: &Path, platform: &Platform, staging: &OciLayout) -> Result<Document, StoreError> {
    let saved = DockerArchive::open(archive, None)?;
    let at = saved.only_image()?;
    let document = saved.read_document(&at)?;
    let content =
        document.parse().map_err(|e| e.at(&format!("what docker saved in \"{}\"", archive.display())))?;
    let at = match content {
        Content::Manifest(_) => at,
        Content::Index(index) => {
            let images: Vec<_> = index.manifests.iter().filter(|member| member.attests().is_none()).collect();
            let fits = |said: &&&image_store::manifest::Descriptor| {
                said.platform.as_ref().is_some_and(|said| said.fits(platform))
            };
            let chosen = images.iter().find(fits).or(if images.len() == 1 { images.first() } else { None });
            let Some(member) = chosen else {
                let doing = format!("take the image for {platform} from \"{}\"", archive.display());
                return Err(StoreError::not_found(doing, "docker saved an index without it"));
            };
            Pointer::from(&member.digest)
        }
    };
    import_compressed(&saved, &at, staging, Flavour::Docker)
}

pub(super) fn make_work_dir(job: &BuildJob) -> Result<(), StoreError> {
    fs::create_dir_all(&job.work_dir)
        .map_err(|e| StoreError::from_io(format!("make the folder \"{}\"", job.work_dir.display()), e))
}

/// The image id that a builder wrote to a file.
pub(super) fn read_id(file: &Path) -> Result<String, StoreError> {
    let doing = || format!("read the image id from \"{}\"", file.display());
    let text = fs::read_to_string(file).map_err(|e| StoreError::from_io(doing(), e))?;
    let id = text.trim();
    match id.parse::<image_store::digest::Digest>() {
        Ok(_) => Ok(id.to_string()),
        Err(error) => Err(StoreError::local(doing(), error.to_string())),
    }
}

/// The Dockerfile's part of a job. The spec gives this builder nothing else.
pub(super) fn dockerfile_recipe<'a>(
    job: &'a BuildJob,
    builder: &str,
) -> Result<&'a DockerfileRecipe, StoreError> {
    match &job.recipe {
        Recipe::Dockerfile(recipe) => Ok(recipe),
        Recipe::Files(_) => Err(StoreError::bad_input(
            format!("build {} with {builder}", job.platform),
            "it has files and no Dockerfile",
        )
        .hint("write builder: rootfs")),
    }
}

pub(in crate::release) fn read_dockerfile(
    job: &BuildJob,
    recipe: &DockerfileRecipe,
) -> Result<Dockerfile, StoreError> {
    let doing = || format!("read \"{}\"", recipe.dockerfile.display());
    let text = fs::read_to_string(&recipe.dockerfile).map_err(|e| StoreError::from_io(doing(), e))?;
    Ok(Dockerfile::parse(&text, &recipe.build_args, &job.platform))
}

/// A RUN of a foreign platform. A Dockerfile that cannot be read yet, since a command makes it first, may have one.
pub(super) fn needs_emulator(job: &BuildJob) -> bool {
    let Recipe::Dockerfile(recipe) = &job.recipe else { return false };
    !runs_natively(&job.platform)
        && read_dockerfile(job, recipe).is_ok_and(|dockerfile| dockerfile.runs_programs())
}
