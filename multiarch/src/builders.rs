//! Who makes an image. Each builder is a program that people have, run as they would run it, or the embedded one;
//! each gives back one image in the staging layout, as it was made: labels are put right later.
//!
//! Engines are found as their own command lines find them: DOCKER_HOST, contexts, CONTAINERS_STORAGE_CONF,
//! BUILDAH_ISOLATION and the like pass through untouched.

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

/// One image to be made.
#[derive(Clone, Debug)]
pub struct BuildJob {
    pub platform: Platform,
    pub recipe: Recipe,
    /// A folder for what is made on the way, of this job alone, made if it is not there. The builder leaves nothing
    /// large in it.
    pub work_dir: PathBuf,
    /// SOURCE_DATE_EPOCH, where it is set: the time that images say they were made.
    pub epoch: Option<u64>,
    /// What earlier runs found out.
    pub records: Records,
}

pub trait Builder: Send + Sync {
    /// As the spec names it.
    fn name(&self) -> String;

    /// `Err` says why it cannot be used on this host.
    fn available(&self) -> Result<(), String>;

    /// What the recipe asks for and this builder has no way for, as a reason with the way out.
    fn lacks(&self, _recipe: &DockerfileRecipe) -> Option<String> {
        None
    }

    /// Whether building runs programs of the image's platform, and this host's processor does not. Whether an
    /// emulator is there already is another question.
    fn needs_emulator(&self, job: &BuildJob) -> bool;

    /// The image that it has under the name of a base image already. `None` if it has none, or keeps none.
    fn local(&self, _base: &str) -> Option<Local> {
        None
    }

    /// Where it would pull a base image from. `None` if only it knows.
    fn registry_name(&self, base: &str) -> Option<RegistryRef>;

    /// The commands that `build` would run, for a person. Values of build arguments are not in them.
    fn describe(&self, job: &BuildJob) -> Vec<String>;

    /// Makes the image. `Ok` means that the document and all that it names is in `staging`. What programs say goes
    /// to the end of `log`.
    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error>;
}

/// An image in a builder's own storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    pub platform: Platform,
    /// It is taken for the base even if it is of another platform: nothing is pulled in its place.
    pub is_taken_blindly: bool,
    /// There may be images of other platforms under the same name, as containerd keeps them.
    pub may_have_others: bool,
}

/// Opens a base image that a spec names.
pub type OpenImage = Arc<dyn Fn(&Reference) -> Result<(Arc<dyn ImageSource>, Pointer), Error> + Send + Sync>;

/// The builder for a recipe, and why it is that one where the spec leaves it open.
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
        Recipe::Dockerfile(recipe) => match named.lacks(recipe) {
            Some(why) => Err(Error::bad_input(format!("build with {}", named.name()), why)),
            None => Ok((named, String::new())),
        },
        Recipe::Files(_) => Ok((named, String::new())),
    }
}

/// The embedded builder for files; for a Dockerfile the first engine that works.
fn auto(recipe: &Recipe, open: &OpenImage) -> Result<(Box<dyn Builder>, String), Error> {
    let recipe = match recipe {
        Recipe::Dockerfile(recipe) => recipe,
        Recipe::Files(_) => {
            return Ok((
                Box::new(rootfs::Rootfs::new(open.clone())),
                "it has files and no Dockerfile".into(),
            ));
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
        match engine.available().and_then(|()| engine.lacks(recipe).map_or(Ok(()), Err)) {
            Ok(()) if reasons.is_empty() => return Ok((engine, "it works, and is tried first".into())),
            Ok(()) => return Ok((engine, reasons.join("; "))),
            Err(why) => reasons.push(format!("{}: {why}", engine.name())),
        }
    }
    Err(Error::not_found("find a builder for a Dockerfile", "no engine works here")
        .hint("start docker, or install podman or buildah")
        .problems(reasons))
}

/// Whether this host's processor runs programs of a platform by itself.
pub fn runs_natively(platform: &Platform) -> bool {
    let platform = platform.normalized();
    // A level above the first may be there or not; nobody has an emulator registered for it, so it counts as native.
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
