//! `copy`: copies one image or a whole index between any two stores.

use super::Session;
use super::edit::find_image;
use super::fetch::TargetState;
use super::publish::{PublishArgs, publish};
use clap::Args;
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::plan::{TargetInfo, WantedImage};
use image_store::tree::{TreeNode, read_sparse_tree};

#[derive(Args)]
pub struct Copy {
    /// Image to copy
    source: Reference,
    /// Destination
    destination: Reference,
    /// Copy only the image for this platform
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse_known)]
    platform: Option<Platform>,
    #[command(flatten)]
    write: PublishArgs,
}

pub fn copy(args: &Copy, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    let subject = match (&args.destination, &args.source) {
        (Reference::Registry(_), _) => &args.destination,
        (_, source) => source,
    };
    let stores = session.stores(subject)?;
    let opened = stores.source(&args.source)?;
    // Both are opened before the first request, so that one token is requested for both.
    let target = stores.target(&args.destination)?;
    let mut node = read_sparse_tree(&*opened.store, &opened.pointer)?;
    if let Some(platform) = &args.platform {
        node = image_for(node, platform, &args.source)?;
    }
    let wanted = WantedImage::copy_of(&node, &opened.store).map_err(|error| with_way_out(error, &node))?;
    let known = TargetInfo::of_tags(&*target.store, &target.tags)?;
    let target = TargetState { reference: args.destination.clone(), target, known };
    let done = publish(wanted, vec![target], &args.write, output)?;
    match output.format {
        Format::Text => print_line(node.digest().as_str()),
        Format::Json => print_json(&done.json(node.digest())),
    }
    done.finish(output);
    Ok(Exit::Done)
}

/// Adds the platforms that can be copied to the error for an incomplete index.
fn with_way_out(error: Error, node: &TreeNode) -> Error {
    let entries =
        node.images().into_iter().filter_map(|(entry, image)| entry.filter(|_| image.is_runnable()));
    let platforms: Vec<String> =
        entries.filter_map(|entry| entry.platform.as_ref().map(ToString::to_string)).collect();
    match platforms.is_empty() {
        true => error,
        false => {
            let hint =
                format!("copy one of the platforms that are there with --platform: {}", platforms.join(", "));
            error.hint(hint)
        }
    }
}

/// Returns the image for a platform. A single image must declare it.
fn image_for(node: TreeNode, platform: &Platform, source: &Reference) -> Result<TreeNode, Error> {
    let doing = format!("copy \"{source}\"");
    match node {
        TreeNode::Index(index) => Ok(find_image(&doing, &index, platform)?.node.clone()),
        TreeNode::Image(image) => {
            let declared =
                image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default();
            if !declared.matches(platform) {
                let why = format!("it is a single image that declares {declared}, not {platform}");
                return Err(Error::not_found(doing, why));
            }
            Ok(TreeNode::Image(image))
        }
        TreeNode::Unread(unread) => Err(unread.error),
    }
}
