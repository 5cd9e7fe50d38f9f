//! Builders: programs of the container engines, and the embedded builder. Each returns one image in the staging layout, whose
//! platform is fixed later.
//!
//! Engines are selected by their own command lines: DOCKER_HOST, contexts, CONTAINERS_STORAGE_CONF, BUILDAH_ISOLATION and
//! similar variables are passed on unchanged.

use crate::spec::{BuilderChoice, DockerfileRecipe, Recipe};
use crate::work_dir::records::Records;
use error::Error;
use image_model::manifest::Document;
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod buildah;
mod buildx;
pub(super) mod common;
mod docker;
pub(super) mod dockerfile;
mod podman;
mod rootfs;
mod tool;

#[cfg(test)]
mod tests;

/// The inputs of a builder for one image.
#[derive(Clone, Debug)]
pub struct BuildJob {
    pub platform: Platform,
    pub recipe: Recipe,
    /// A directory for intermediate files of this job. The builder creates it if it does not exist, and leaves nothing large
    /// in it.
    pub work_dir: PathBuf,
    /// SOURCE_DATE_EPOCH, if it is set: the creation time of images, in seconds since 1970.
    pub epoch: Option<u64>,
    /// Results of earlier runs.
    pub records: Records,
}

/// Turns a Dockerfile or files into an image.
pub trait Builder: Send + Sync {
    /// The name in the spec: `docker:arm-node`.
    fn name(&self) -> String;

    /// `Err` with the reason if it cannot be used on this host.
    fn available(&self) -> Result<(), String>;

    /// A key of the recipe that this builder does not support, as a reason with advice.
    fn unsupported(&self, _recipe: &DockerfileRecipe) -> Option<String> {
        None
    }

    /// Returns whether the build runs programs that this host's CPU cannot run natively, with or without a registered emulator.
    fn needs_emulator(&self, job: &BuildJob) -> bool;

    /// The image that the engine has under the name of a base image. `None` if it has none, or has no storage.
    fn local_image(&self, _base: &str) -> Option<LocalImage> {
        None
    }

    /// The reference from which it would pull a base image. `None` if only the engine knows.
    fn registry_name(&self, base: &str) -> Option<RegistryRef>;

    /// The commands that `build` would run, for the plan. They do not contain values of build arguments.
    fn describe(&self, job: &BuildJob) -> Vec<String>;

    /// Builds the image. `Ok` means that the manifest and all that it references is in `staging`. The output of programs is
    /// appended to `log`.
    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error>;
}

/// An image in the storage of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalImage {
    pub platform: Platform,
    /// The engine uses it even if it is for another platform, without pulling another one.
    pub is_used_unchecked: bool,
    /// There may be images for other platforms under the same name, as in containerd's store.
    pub may_have_others: bool,
}

/// Opens a base image of a spec.
pub type OpenImage = Arc<dyn Fn(&Reference) -> Result<(Arc<dyn ImageSource>, Pointer), Error> + Send + Sync>;

/// The builder for a recipe, and with `builder: auto` the reason why it was chosen.
///
/// # Errors
/// `NotFound` if it does not work on this host; `BadInput` if it does not support a key of the recipe.
pub fn choose(
    choice: &BuilderChoice,
    recipe: &Recipe,
    open: &OpenImage,
) -> Result<(Box<dyn Builder>, String), Error> {
    let named: Box<dyn Builder> = match choice {
        BuilderChoice::Docker(context) => Box::new(docker::Docker::new(context.as_deref())),
        BuilderChoice::Buildx(builder) => Box::new(buildx::Buildx::new(builder.as_deref())),
        BuilderChoice::Podman => Box::new(podman::Podman::new()),
        BuilderChoice::Buildah => Box::new(buildah::Buildah::new()),
        BuilderChoice::Rootfs => Box::new(rootfs::Rootfs::new(open.clone())),
        BuilderChoice::Auto => return auto(recipe, open),
    };
    if let Err(why) = named.available() {
        return Err(Error::not_found(format!("build with {}", named.name()), why)
            .hint("install or start it, or name another builder in the spec"));
    }
    match recipe {
        Recipe::Dockerfile(recipe) => match named.unsupported(recipe) {
            Some(why) => Err(Error::bad_input(format!("build with {}", named.name()), why)),
            None => Ok((named, String::new())),
        },
        Recipe::Files(_) => Ok((named, String::new())),
    }
}

/// The embedded builder for files; for a Dockerfile the first engine that works and supports the recipe.
fn auto(recipe: &Recipe, open: &OpenImage) -> Result<(Box<dyn Builder>, String), Error> {
    let recipe = match recipe {
        Recipe::Dockerfile(recipe) => recipe,
        Recipe::Files(_) => {
            return Ok((Box::new(rootfs::Rootfs::new(open.clone())), "files, no Dockerfile".into()));
        }
    };
    let engines: [Box<dyn Builder>; 3] = [
        Box::new(docker::Docker::new(None)),
        Box::new(podman::Podman::new()),
        Box::new(buildah::Buildah::new()),
    ];
    first_for(recipe, engines)
}

fn first_for(
    recipe: &DockerfileRecipe,
    engines: impl IntoIterator<Item = Box<dyn Builder>>,
) -> Result<(Box<dyn Builder>, String), Error> {
    let mut reasons = Vec::new();
    for engine in engines {
        match engine.available().and_then(|()| engine.unsupported(recipe).map_or(Ok(()), Err)) {
            Ok(()) if reasons.is_empty() => return Ok((engine, "it works, and is tried first".into())),
            Ok(()) => return Ok((engine, reasons.join("; "))),
            Err(why) => reasons.push(format!("{}: {why}", engine.name())),
        }
    }
    Err(Error::not_found("find a builder for a Dockerfile", "no engine works here")
        .hint("start docker, or install podman or buildah")
        .problems(reasons))
}

/// Returns whether this host's CPU runs programs of a platform natively.
pub fn runs_natively(platform: &Platform) -> bool {
    let platform = platform.normalized();
    // A CPU may lack a level above the first. No emulator is registered for levels, so they count as native.
    let native: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["amd64", "386"],
        "x86" => &["386"],
        "aarch64" => &["arm64"],
        "arm" => &["arm"],
        "powerpc64" => &["ppc64le"],
        "loongarch64" => &["loong64"],
        other => return platform.os == std::env::consts::OS && platform.architecture == other,
    };
    platform.os == std::env::consts::OS && native.contains(&platform.architecture.as_str())
}
