//! Selection of the images for one platform.

use error::Error;
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_store::tree::{Image, TreeNode};

/// An image and its index entry, if it has one.
pub type ImageWithEntry<'a> = (Option<&'a Descriptor>, &'a Image);

/// Returns whether the image is for `platform`, by its index platform, or by its declared platform outside an index.
pub fn is_for((entry, image): &ImageWithEntry<'_>, platform: &Platform) -> bool {
    platform_of(entry, image).is_some_and(|own| own.matches(platform))
}

/// The images of `node` for `platform`, or all of them. `name` is the name of the image for errors.
///
/// # Errors
/// Not found, if there is no image for `platform`.
pub fn images_for<'a>(
    node: &'a TreeNode,
    platform: Option<&Platform>,
    name: &str,
) -> Result<Vec<ImageWithEntry<'a>>, Error> {
    let mut images = node.images();
    let Some(platform) = platform else { return Ok(images) };
    images.retain(|image| is_for(image, platform));
    if images.is_empty() {
        let all = node.images();
        let platforms = all.iter().filter_map(|(entry, image)| platform_of(entry, image));
        let known: Vec<String> = platforms.filter(|p| !p.is_unknown()).map(ToString::to_string).collect();
        let error = Error::not_found(format!("read {platform} of \"{name}\""), "it has no such platform");
        return Err(error.hint(format!("it has {}", known.join(", "))));
    }
    Ok(images)
}

fn platform_of<'a>(entry: &Option<&'a Descriptor>, image: &'a Image) -> Option<&'a Platform> {
    entry
        .and_then(|entry| entry.platform.as_ref())
        .or_else(|| image.config.as_ref().map(|config| &config.parsed.platform))
}
