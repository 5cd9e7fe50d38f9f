//! Selection of the images for one platform.

use error::Error;
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_store::tree::TreeNode;

/// An image, or what could not be read, and its index entry, if it has one.
pub type LeafWithEntry<'a> = (Option<&'a Descriptor>, &'a TreeNode);

/// Returns whether the image is for `platform`, by its index platform, or by its declared platform outside an index.
pub fn is_for((entry, node): &LeafWithEntry<'_>, platform: &Platform) -> bool {
    platform_of(entry, node).is_some_and(|own| own.matches(platform))
}

/// The images of `node` for `platform`, or all of them. `name` is the name of the image for errors.
///
/// # Errors
/// Not found, if there is no image for `platform`.
pub fn images_for<'a>(
    node: &'a TreeNode,
    platform: Option<&Platform>,
    name: &str,
) -> Result<Vec<LeafWithEntry<'a>>, Error> {
    let mut images = node.leaves();
    let Some(platform) = platform else { return Ok(images) };
    images.retain(|image| is_for(image, platform));
    if images.is_empty() {
        let all = node.leaves();
        let platforms = all.iter().filter_map(|(entry, node)| platform_of(entry, node));
        let known: Vec<String> = platforms.filter(|p| !p.is_unknown()).map(ToString::to_string).collect();
        let error = Error::not_found(format!("read {platform} of \"{name}\""), "it has no such platform");
        return Err(error.hint(format!("it has {}", known.join(", "))));
    }
    Ok(images)
}

fn platform_of<'a>(entry: &Option<&'a Descriptor>, node: &'a TreeNode) -> Option<&'a Platform> {
    let config = match node {
        TreeNode::Image(image) => image.config.as_ref(),
        TreeNode::Index(_) | TreeNode::Unread(_) => None,
    };
    let declared = || config.map(|config| &config.parsed.platform);
    entry.and_then(|entry| entry.platform.as_ref()).or_else(declared)
}
