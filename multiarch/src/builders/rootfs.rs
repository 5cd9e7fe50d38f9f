//! The builder `rootfs`: the embedded builder, which needs no engine. See [`crate::rootfs`].

use super::{BuildJob, Builder, OpenImage};
use crate::rootfs::{Base, RootfsJob, build_image};
use crate::spec::{FilesRecipe, Recipe};
use error::Error;
use image_model::manifest::Document;
use image_model::reference::RegistryRef;
use image_store::store::oci_layout::OciLayout;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

pub struct Rootfs {
    open: OpenImage,
}

impl Rootfs {
    pub fn new(open: OpenImage) -> Self {
        Self { open }
    }
}

impl Builder for Rootfs {
    fn name(&self) -> String {
        "rootfs".into()
    }

    fn available(&self) -> Result<(), String> {
        Ok(())
    }

    fn needs_emulator(&self, _job: &BuildJob) -> bool {
        false
    }

    /// It has no Dockerfile. Its base image is checked when it is read.
    fn registry_name(&self, _base: &str) -> Option<RegistryRef> {
        None
    }

    fn describe(&self, job: &BuildJob) -> Vec<String> {
        let Recipe::Files(recipe) = &job.recipe else { return Vec::new() };
        steps(recipe)
    }

    fn build(&self, job: &BuildJob, staging: &OciLayout, log: &Path) -> Result<Document, Error> {
        let Recipe::Files(recipe) = &job.recipe else {
            let doing = format!("build {} with rootfs", job.platform);
            return Err(Error::bad_input(doing, "it has a Dockerfile").hint("write builder: auto"));
        };
        let base = recipe.from.as_ref().map(|from| (self.open)(from)).transpose()?;
        let base = match (&recipe.from, &base) {
            (Some(from), Some((source, at))) => {
                Some(Base { source: source.as_ref(), at: at.clone(), name: from.to_string() })
            }
            _ => None,
        };
        let epoch = job.epoch.unwrap_or(0);
        let made = RootfsJob { platform: &job.platform, recipe, epoch, records: &job.records };
        let document = build_image(&made, base, staging)?;
        let made = format!("made {} {}", job.platform, document.digest());
        write_log(log, &[steps(recipe), vec![made]].concat())
            .map_err(|e| Error::from_io(format!("write \"{}\"", log.display()), e))?;
        Ok(document)
    }
}

fn steps(recipe: &FilesRecipe) -> Vec<String> {
    let from = recipe.from.iter().map(|from| format!("from {from}"));
    from.chain(recipe.copy.iter().map(|(source, to)| format!("copy {} to {to}", source.display()))).collect()
}

fn write_log(log: &Path, lines: &[String]) -> std::io::Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).open(log)?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    Ok(())
}
