//! What all builders of Dockerfiles do alike: their folder, the image's id, the Dockerfile as far as it must be known.

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
        .map_err(|e| Error::from_io(format!("make the folder \"{}\"", job.work_dir.display()), e))
}

/// The image id that a builder wrote to a file.
pub fn read_id(file: &Path) -> Result<String, Error> {
    let doing = || format!("read the image id from \"{}\"", file.display());
    let text = fs::read_to_string(file).map_err(|e| Error::from_io(doing(), e))?;
    let id = text.trim();
    match id.parse::<Digest>() {
        Ok(_) => Ok(id.to_string()),
        Err(error) => Err(Error::local(doing(), error.to_string())),
    }
}

/// The name under which the engine has what was built. containerd's image store knows images by their manifests, not by
/// the id that `--iidfile` gets; then it stands in what `--metadata-file` got.
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

/// What a builder writes about an image that stays in the engine.
pub struct Ids {
    pub id: PathBuf,
    pub metadata: PathBuf,
}

impl Ids {
    pub fn of(job: &BuildJob) -> Self {
        Self { id: job.work_dir.join("image-id"), metadata: job.work_dir.join("metadata.json") }
    }

    /// What a run left that was killed would be taken for this one's.
    pub fn forget(&self) {
        for old in [&self.id, &self.metadata] {
            let _ = fs::remove_file(old);
        }
    }
}

/// The Dockerfile's part of a job. The spec gives this builder nothing else.
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

/// A RUN of a foreign platform. A Dockerfile that cannot be read yet, since a command makes it first, may have one.
pub fn needs_emulator(job: &BuildJob) -> bool {
    let Recipe::Dockerfile(recipe) = &job.recipe else { return false };
    !runs_natively(&job.platform)
        && read_dockerfile(job, recipe).is_ok_and(|dockerfile| dockerfile.runs_programs())
}

/// Where the image of a platform lies in what a builder gave: it, or a member of an index that attests it as well.
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

/// One image as it is, byte for byte.
pub fn copy_image(source: &dyn ImageSource, at: &Pointer, out: &OciLayout) -> Result<Document, Error> {
    let document = source.read_document(at)?;
    let content =
        document.parse().map_err(|e| e.at(&format!("what lies in \"{}\"", source.display_name())))?;
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
