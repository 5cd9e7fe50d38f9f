//! The builder `buildx`: `docker buildx build` with any builder instance, local or remote.
//!
//! Most drivers write the image as an OCI archive, which is copied byte for byte. The driver `docker` does not: its image
//! stays in the engine and is saved from there.

use super::common::{Ids, copy_image, dockerfile_recipe, engine_id, find_image, make_work_dir};
use super::docker::{save_step, take};
use super::tool::{Step, Tool};
use super::{BuildJob, Builder};
use crate::spec::{DockerfileRecipe, Recipe};
use error::Error;
use image_model::manifest::Document;
use image_model::platform::Platform;
use image_model::reference::RegistryRef;
use image_store::archive::OciArchive;
use image_store::store::oci_layout::OciLayout;
use std::fs;
use std::path::Path;

pub struct Buildx {
    tool: Tool,
    /// The builder instance; by default the one of `docker buildx use`.
    builder: Option<String>,
}

/// Way in which the image is exported from a builder.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WayOut {
    Archive,
    /// `docker save` from the engine of this context.
    Engine(String),
}

impl Buildx {
    pub fn new(builder: Option<&str>) -> Self {
        Self { tool: Tool::new("docker", "MULTIARCH_DOCKER"), builder: builder.map(str::to_string) }
    }

    #[cfg(test)]
    pub(super) fn with(program: &Path, builder: &str) -> Self {
        Self { tool: Tool::at("docker", program), builder: Some(builder.into()) }
    }

    fn inspect(&self) -> Result<String, String> {
        let builder = self.builder.iter().map(String::as_str);
        self.tool.ask(&["buildx", "inspect"].into_iter().chain(builder).collect::<Vec<_>>())
    }

    fn way_out(&self) -> WayOut {
        // If this fails, the build fails with the reason.
        self.inspect().map_or(WayOut::Archive, |said| parse_way_out(&said))
    }

    /// The command, and the program that runs it.
    fn build_step(&self, job: &BuildJob, recipe: &DockerfileRecipe, way_out: &WayOut) -> (Tool, Step) {
        let step = Step::new(&["buildx", "build"]);
        let (tool, step) = match way_out {
            WayOut::Archive => {
                let builder = self.builder.iter().flat_map(|builder| ["--builder", builder]);
                let step = builder.fold(step, Step::arg);
                let archive = job.work_dir.join("image.tar");
                (self.tool.clone(), step.arg("--output").arg(format!("type=oci,dest={}", archive.display())))
            }
            // buildx accepts a context as its own builder only if it is the current one.
            WayOut::Engine(context) => {
                let step = step.without_env("BUILDX_BUILDER").arg("--load");
                let ids = Ids::of(job);
                let step = step.arg("--iidfile").arg(ids.id).arg("--metadata-file").arg(ids.metadata);
                (self.tool.clone().in_context(context), step)
            }
        };
        let step = step.arg("--platform").arg(job.platform.to_string()).arg("--progress").arg("plain");
        (tool, step.buildkit(job, recipe))
    }
}

impl Builder for Buildx {
    fn name(&self) -> String {
        match &self.builder {
            Some(builder) => format!("buildx:{builder}"),
            None => "buildx".into(),
        }
    }

    fn available(&self) -> Result<(), String> {
        self.inspect().map(drop).map_err(|why| match self.tool.ask(&["buildx", "version"]) {
            // Without the plugin, docker reports an unknown command and refers to its help.
            Err(_) if self.tool.ask(&["--version"]).is_ok() => "docker has no buildx plugin".to_string(),
            _ => why,
        })
    }

    /// Its nodes have emulators of their own.
    fn needs_emulator(&self, _job: &BuildJob) -> bool {
        false
    }

    /// Its images are not inspected: BuildKit reads the registry if one is for another platform.
    fn registry_name(&self, base: &str) -> Option<RegistryRef> {
        base.parse().ok()
    }

    fn describe(&self, job: &BuildJob) -> Vec<String> {
        let Recipe::Dockerfile(recipe) = &job.recipe else { return Vec::new() };
        let way_out = self.way_out();
        let (tool, build) = self.build_step(job, recipe, &way_out);
        let build = tool.shown(&build);
        match way_out {
            WayOut::Archive => vec![build],
            WayOut::Engine(_) => {
                let save = save_step("IMAGE-ID", &job.work_dir.join("image.tar"));
                vec![build, tool.shown(&save)]
            }
        }
    }

    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error> {
        let recipe = dockerfile_recipe(job, &self.name())?;
        make_work_dir(job)?;
        let (ids, archive) = (Ids::of(job), job.work_dir.join("image.tar"));
        // Files of a run that was killed would be mistaken for those of this one.
        ids.remove();
        let _ = fs::remove_file(&archive);
        let way_out = self.way_out();
        let (tool, step) = self.build_step(job, recipe, &way_out);
        tool.run(&step, log)?;
        let taken = match &way_out {
            WayOut::Archive => take_archive(&archive, &job.platform, staging),
            WayOut::Engine(_) => engine_id(&tool, &ids)
                .and_then(|id| tool.run(&save_step(&id, &archive), log))
                .and_then(|()| take(&archive, &job.platform, staging)),
        };
        let _ = fs::remove_file(&archive);
        taken
    }
}

fn take_archive(archive: &Path, platform: &Platform, staging: &OciLayout) -> Result<Document, Error> {
    let written = OciArchive::open(archive, None)?;
    let at = find_image(&written, written.only_image()?, platform)?;
    copy_image(&written, &at, staging)
}

/// Parses the output of `docker buildx inspect`: the driver, and for the driver `docker` its context, which is the endpoint
/// of its only node.
fn parse_way_out(said: &str) -> WayOut {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    match (value("Driver:"), value("Endpoint:")) {
        (Some("docker"), Some(context)) => WayOut::Engine(context.to_string()),
        _ => WayOut::Archive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_decides_how_to_get_the_image() {
        let check = |said: &str, way_out: WayOut| assert_eq!(parse_way_out(said), way_out, "{said}");
        // Output of buildx 0.29.
        let docker = "Name:   arm-node\nDriver: docker\n\nNodes:\nName:     arm-node\nEndpoint: arm-node\nStatus:   running\n";
        check(docker, WayOut::Engine("arm-node".into()));
        let container =
            "Name:   farm\nDriver: docker-container\n\nNodes:\nName:     farm0\nEndpoint: ssh://arm\n";
        check(container, WayOut::Archive);
        check("", WayOut::Archive);
    }
}
