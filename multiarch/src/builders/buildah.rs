//! The builder `buildah`: `buildah build` and `buildah push`. `--layers` keeps layers as a cache for the next release, which
//! is the default of podman only.

use super::common::needs_emulator;
use super::podman::{build, describe, local, registry_name};
use super::tool::Tool;
use super::{BuildJob, Builder, LocalImage};
use error::Error;
use image_model::manifest::Document;
use image_model::reference::RegistryRef;
use image_store::store::oci_layout::OciLayout;
use std::path::Path;

/// `bud` is the command's name in every version.
const BEGIN: [&str; 2] = ["bud", "--layers"];

pub struct Buildah {
    tool: Tool,
}

impl Buildah {
    pub fn new() -> Self {
        Self { tool: Tool::new("buildah", "MULTIARCH_BUILDAH") }
    }
}

impl Builder for Buildah {
    fn name(&self) -> String {
        self.tool.builder_name()
    }

    fn available(&self) -> Result<(), String> {
        self.tool.ask(&["info", "--format", "{{.store.GraphDriverName}}"]).map(drop)
    }

    fn needs_emulator(&self, job: &BuildJob) -> bool {
        needs_emulator(job)
    }

    fn local_image(&self, base: &str) -> Option<LocalImage> {
        local(
            &self.tool,
            &["inspect", "--type", "image", "--format", "{{.OCIv1.OS}}/{{.OCIv1.Architecture}}"],
            base,
        )
    }

    fn registry_name(&self, base: &str) -> Option<RegistryRef> {
        registry_name(base)
    }

    fn describe(&self, job: &BuildJob) -> Vec<String> {
        describe(&self.tool, &BEGIN, job)
    }

    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error> {
        build(&self.tool, &BEGIN, job, staging, log)
    }
}
