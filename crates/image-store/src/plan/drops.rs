//! Platforms that a tag offers now and would not offer any more.

use super::{BlobContent, TagStep, WantedImage};
use crate::parallel;
use crate::store::{ImageSource, Pointer, read_blob};
use crate::tree::DEPTH_MAX;
use error::{Error, Exit};
use image_model::digest::Digest;
use image_model::manifest::{CONFIG_MAX, Config, Descriptor, Document, Manifest, ParsedDocument, media_type};
use image_model::platform::Platform;
use std::fmt;

/// A platform that a tag would lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedPlatform {
    /// The tag.
    pub tag: String,
    /// The platform.
    pub platform: Platform,
    /// The image for it.
    pub digest: Digest,
}

impl fmt::Display for DroppedPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.platform, self.digest)
    }
}

/// A tag to move, and what it refers to now, if that is known.
pub type ReplacedTag<'a> = (&'a TagStep, Option<Document>);

/// The images of a document, each with its platform; `None` where the platform is not known.
type OfferedImages = Vec<(Digest, Option<Platform>)>;

impl WantedImage {
    /// Returns the platforms that these tags offer now and will lose. Attestations do not count.
    ///
    /// # Errors
    /// As reads of the target; an absent or damaged image is no error.
    pub fn drops(
        &self,
        target: &dyn ImageSource,
        tags: &[ReplacedTag<'_>],
    ) -> Result<Vec<DroppedPlatform>, Error> {
        let lost = parallel::map(tags, target.concurrency(parallel::LOOKUPS), |(step, now)| {
            let Some(now) = now else { return Ok(Vec::new()) };
            let wanted = self.offered(&step.document);
            let now = offered_now(target, now, &wanted, 0)?;
            let stays = |platform: &Platform| {
                wanted.iter().any(|(_, wanted)| wanted.as_ref().is_some_and(|one| one.matches(platform)))
            };
            let lost = now.into_iter().filter(|(_, platform)| !stays(platform));
            let lost =
                lost.map(|(digest, platform)| DroppedPlatform { tag: step.tag.clone(), platform, digest });
            Ok::<_, Error>(lost.collect())
        })?;
        Ok(lost.into_iter().flatten().collect())
    }

    /// The images that a tag of this document, the root or a member, will offer.
    fn offered(&self, document: &Document) -> OfferedImages {
        let mut images = Vec::new();
        self.add_offered(document, None, 0, &mut images);
        images
    }

    fn add_offered(
        &self,
        document: &Document,
        entry: Option<&Descriptor>,
        depth: usize,
        images: &mut OfferedImages,
    ) {
        match document.parse() {
            Ok(ParsedDocument::Index(index)) if depth < DEPTH_MAX => {
                for entry in index.manifests.iter().filter(|entry| entry.attested_digest().is_none()) {
                    let child = self.levels.iter().flatten().find(|child| *child.digest() == entry.digest);
                    match child {
                        Some(child) if child.is_index() || entry.platform.is_none() => {
                            self.add_offered(child, Some(entry), depth + 1, images);
                        }
                        Some(_) | None => images.push((entry.digest.clone(), entry.platform.clone())),
                    }
                }
            }
            Ok(ParsedDocument::Manifest(manifest)) => {
                let said = entry.and_then(|entry| entry.platform.clone());
                images.push((
                    document.digest().clone(),
                    said.or_else(|| self.declared(document.digest(), &manifest)),
                ));
            }
            Ok(ParsedDocument::Index(_)) | Err(_) => {}
        }
    }

    /// The declared platform of a wanted image, from its config.
    fn declared(&self, digest: &Digest, manifest: &Manifest) -> Option<Platform> {
        if let Some(known) = self.declared.get(digest) {
            return Some(known.clone());
        }
        let is_config = |(blob, _): &&(Descriptor, BlobContent)| blob.digest == manifest.config.digest;
        let (blob, content) = self.blobs.iter().find(is_config)?;
        match content {
            BlobContent::Bytes(bytes) => Config::parse(bytes).ok().map(|config| config.platform),
            BlobContent::From(source) => declared_platform(&**source, blob).ok().flatten(),
        }
    }
}

/// The declared platform of a config; `None` if it is no image config, or is absent or invalid.
fn declared_platform(source: &dyn ImageSource, config: &Descriptor) -> Result<Option<Platform>, Error> {
    if !matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Ok(None);
    }
    let bytes = match read_blob(source, config, CONFIG_MAX) {
        Ok(bytes) => bytes,
        Err(error) => return usable(error),
    };
    Ok(Config::parse(&bytes).ok().map(|config| config.platform).filter(is_platform))
}

fn is_platform(platform: &Platform) -> bool {
    !platform.is_unknown() && !platform.os.is_empty() && !platform.architecture.is_empty()
}

/// An image that is absent or damaged runs nowhere, so nobody loses it.
fn usable<T>(error: Error) -> Result<Option<T>, Error> {
    match error.kind {
        Exit::NotFound | Exit::BadInput | Exit::Integrity => Ok(None),
        _ => Err(error),
    }
}

/// The images that a document of the target offers now. `kept` are digests that need no look, because they stay.
fn offered_now(
    target: &dyn ImageSource,
    document: &Document,
    kept: &OfferedImages,
    depth: usize,
) -> Result<Vec<(Digest, Platform)>, Error> {
    let stays = |digest: &Digest| kept.iter().any(|(kept, _)| kept == digest);
    if stays(document.digest()) {
        return Ok(Vec::new());
    }
    let index = match document.parse() {
        Ok(ParsedDocument::Index(index)) if depth < DEPTH_MAX => index,
        Ok(ParsedDocument::Manifest(manifest)) if manifest.artifact_type.is_none() => {
            let declared = declared_platform(target, &manifest.config)?;
            return Ok(declared.map(|platform| (document.digest().clone(), platform)).into_iter().collect());
        }
        _ => return Ok(Vec::new()),
    };
    let entries = index.manifests.iter();
    let images: Vec<&Descriptor> =
        entries.filter(|entry| entry.attested_digest().is_none() && !stays(&entry.digest)).collect();
    let found = parallel::map(&images, target.concurrency(parallel::LOOKUPS), |entry| {
        match entry.platform.as_ref().filter(|_| !media_type::is_index(&entry.media_type)) {
            Some(platform) if platform.is_unknown() => Ok(Vec::new()),
            Some(platform) => Ok(vec![(entry.digest.clone(), platform.clone())]),
            None => match target.read_document(&Pointer::from(&entry.digest)) {
                Ok(child) => offered_now(target, &child, kept, depth + 1),
                Err(error) => usable(error).map(Option::unwrap_or_default),
            },
        }
    })?;
    Ok(found.into_iter().flatten().collect())
}
