//! `config-patcher inspect`: the platforms, layers and digests of an image or index.

use crate::inspect;
use crate::select::images_for;
use clap::Args;
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::open::Stores;
use image_store::tree::{read_sparse_tree, refuse_unreadable};

#[derive(Args)]
pub struct InspectArgs {
    /// The image or index
    image: Reference,
    /// Print only this platform of an index
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

pub fn run(args: &InspectArgs, stores: &Stores, output: &Output) -> Result<Exit, Error> {
    let opened = stores.source(&args.image)?;
    let node = read_sparse_tree(&*opened.store, &opened.pointer)?;
    let images = images_for(&node, args.platform.as_ref(), &args.image.to_string())?;
    match output.format {
        Format::Json => print_json(&inspect::json(&node, &images).to_string()),
        Format::Text => print_line(inspect::text(&node, &images).trim_end()),
    }
    refuse_unreadable(&images).map(|()| Exit::Done)
}
