//! Every image says its platform before it leaves.

use crate::spec::LabelPolicy;
use config_patcher::plan::{Labels, Relabelled, relabel};
use error::Error;
use image_model::manifest::Document;
use image_model::platform::Platform;
use image_store::plan::{MovedTag, apply, plan};
use image_store::store::oci_layout::OciLayout;
use image_store::tree::{Image, TreeNode, read_tree_below};
use registry_client::meter::Meter;

/// An image whose label was looked at, and what the label said before.
#[derive(Clone, Debug)]
pub struct Labelled {
    pub image: Image,
    pub built: Platform,
    /// The label is wrong, and `labels: check` leaves it as it is.
    pub is_wrong: bool,
}

/// Holds the built image's label against the spec's platform; puts it right where the spec wants that.
pub fn settle(
    built: Document,
    platform: &Platform,
    policy: LabelPolicy,
    staging: &OciLayout,
) -> Result<Labelled, Error> {
    let node = read_tree_below(staging, built, 0)?;
    let before = label_of(&node);
    if policy == LabelPolicy::Check {
        // To be told wrong it must mean another machine: BuildKit writes arm64 where the spec says arm64/v8.
        let is_wrong = !before.answers_entry(platform);
        return Ok(Labelled { image: single(node, platform)?, built: before, is_wrong });
    }
    let changes =
        match relabel(&node, &Labels::Platform(platform.clone()), &format!("the image for {platform}"))? {
            Relabelled::Unchanged => {
                return Ok(Labelled { image: single(node, platform)?, built: before, is_wrong: false });
            }
            Relabelled::Changed(changes) => changes,
        };
    let steps = plan(changes.in_place(), staging, &[])?;
    apply(&steps, staging, MovedTag::Refuse, &Meter::default(), &|_| {})?;
    let image = single(read_tree_below(staging, changes.root, 0)?, platform)?;
    Ok(Labelled { image, built: before, is_wrong: false })
}

fn label_of(node: &TreeNode) -> Platform {
    let image = node.images().into_iter().find_map(|(_, image)| image.config.as_ref());
    image.map(|config| config.parsed.platform.clone()).unwrap_or_default()
}

fn single(node: TreeNode, platform: &Platform) -> Result<Image, Error> {
    match node {
        TreeNode::Image(image) => Ok(image),
        TreeNode::Index(_) => {
            let doing = format!("release the image for {platform}");
            Err(Error::bad_input(doing, "its builder made an index, not one image"))
        }
    }
}
