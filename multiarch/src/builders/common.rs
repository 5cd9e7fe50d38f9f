//! Functions shared by the builders of Dockerfiles: work directories, image IDs, and the Dockerfile.

use super::dockerfile::Dockerfile;
use super::tool::Tool;
use super::{BuildJob, runs_natively};
use crate::spec::{DockerfileRecipe, Recipe};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, ParsedDocument};
use image_model::platform::Platform;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

pub fn make_work_dir(job: &BuildJob) -> Result<(), Error> {
    fs::create_dir_all(&job.work_dir)
        .map_err(|e| Error::from_io(format!("create the directory \"{}\"", job.work_dir.display()), e))
}

/// The image ID that a builder wrote to a file.
pub fn read_id(file: &Path) -> Result<String, Error> {
    let doing = || format!("read the image id from \"{}\"", file.display());
    let text = fs::read_to_string(file).map_err(|e| Error::from_io(doing(), e))?;
    let id = text.trim();
    match id.parse::<Digest>() {
        Ok(_) => Ok(id.to_string()),
        Err(error) => Err(Error::local(doing(), error.to_string())),
    }
}

/// The name by which the engine finds the built image. containerd's image store finds images by the digest of the manifest,
/// which is in the metadata file, not by the ID in the ID file.
pub fn engine_id(tool: &Tool, ids: &Ids) -> Result<String, Error> {
    let id = read_id(&ids.id)?;
    let metadata = fs::read(&ids.metadata).ok();
    let metadata: Option<Metadata> = metadata.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(Metadata { digest }) = metadata else { return Ok(id) };
    let is_known = |id: &str| tool.ask(&["image", "inspect", "--format", "{{.Id}}", "--", id]).is_ok();
    Ok(if !is_known(&id) && is_known(digest.as_str()) { digest.to_string() } else { id })
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "containerimage.digest")]
    digest: Digest,
}

/// Files in which a builder writes the ID of an image that stays in the engine.
pub struct Ids {
    pub id: PathBuf,
    pub metadata: PathBuf,
}

impl Ids {
    pub fn of(job: &BuildJob) -> Self {
        Self { id: job.work_dir.join("image-id"), metadata: job.work_dir.join("metadata.json") }
    }

    /// Removes files of a run that was killed, which would be mistaken for those of this one.
    pub fn remove(&self) {
        for old in [&self.id, &self.metadata] {
            let _ = fs::remove_file(old);
        }
    }
}

/// The recipe of a job with a Dockerfile.
///
/// # Errors
/// `BadInput` for a job with files.
pub fn dockerfile_recipe<'a>(job: &'a BuildJob, builder: &str) -> Result<&'a DockerfileRecipe, Error> {
    match &job.recipe {
        Recipe::Dockerfile(recipe) => Ok(recipe),
        Recipe::Files(_) => Err(Error::bad_input(
            format!("build {} with {builder}", job.platform),
            "it has files and no Dockerfile",
        )
        .hint("write builder: rootfs")),
    }
}

pub fn read_dockerfile(job: &BuildJob, recipe: &DockerfileRecipe) -> Result<Dockerfile, Error> {
    let doing = || format!("read \"{}\"", recipe.dockerfile.display());
    let text = fs::read_to_string(&recipe.dockerfile).map_err(|e| Error::from_io(doing(), e))?;
    Ok(Dockerfile::parse(&text, &recipe.build_args, &job.platform))
}

/// Returns whether the Dockerfile has a RUN of a foreign platform. One that does not exist yet, since a command writes it, has none.
pub fn needs_emulator(job: &BuildJob) -> bool {
    let Recipe::Dockerfile(recipe) = &job.recipe else { return false };
    !runs_natively(&job.platform)
        && read_dockerfile(job, recipe).is_ok_and(|dockerfile| dockerfile.runs_programs())
}

/// The image for a platform in the output of a builder, which may be an index with attestations.
pub fn find_image(given: &dyn ImageSource, at: Pointer, platform: &Platform) -> Result<Pointer, Error> {
    let document = given.read_document(&at)?;
    let content = document
        .parse()
        .map_err(|e| e.at(&format!("what the builder wrote to \"{}\"", given.display_name())))?;
    let ParsedDocument::Index(index) = content else { return Ok(at) };
    let images: Vec<&Descriptor> =
        index.manifests.iter().filter(|member| member.attested_digest().is_none()).collect();
    let fits = |member: &&&Descriptor| member.platform.as_ref().is_some_and(|said| said.matches(platform));
    let only = if images.len() == 1 { images.first() } else { None };
    match images.iter().find(fits).or(only) {
        Some(member) => Ok(Pointer::from(&member.digest)),
        None => {
            let doing = format!("take the image for {platform} from \"{}\"", given.display_name());
            Err(Error::not_found(doing, "the builder wrote an index without it"))
        }
    }
}

/// Copies one image unchanged.
pub fn copy_image(source: &dyn ImageSource, at: &Pointer, out: &OciLayout) -> Result<Document, Error> {
    let document = source.read_document(at)?;
    let content =
        document.parse().map_err(|e| e.at(&format!("the image in \"{}\"", source.display_name())))?;
    let ParsedDocument::Manifest(image) = content else {
        let doing = format!("take the image from \"{}\"", source.display_name());
        return Err(Error::bad_input(doing, "it is an index, not one image"));
    };
    for blob in std::iter::once(&image.config).chain(&image.layers) {
        out.write_blob(blob, &|| source.open_blob(blob))?;
    }
    out.write_document(&document)?;
    Ok(document)
}
