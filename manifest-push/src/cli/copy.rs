//! `copy`: one image or a whole index, between any two stores.

use super::Tools;
use super::gather::Looked;
use super::publish::{Write, publish};
use clap::Args;
use image_store::cli::{Format, Output, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::plan::Wanted;
use image_store::reference::Reference;
use image_store::tree::read_tree;

#[derive(Args)]
pub struct Copy {
    /// The image to read
    source: Reference,
    /// Where to write it
    destination: Reference,
    #[command(flatten)]
    write: Write,
}

pub fn copy(args: &Copy, tools: &Tools<'_>, output: &Output) -> Result<Exit, StoreError> {
    let subject = match (&args.destination, &args.source) {
        (Reference::Registry(_), _) => &args.destination,
        (_, source) => source,
    };
    let stores = tools.stores(subject)?;
    let opened = stores.source(&args.source)?;
    // Both before the first request: one token is then asked for all of it.
    let target = Looked::new(&args.destination, stores.target(&args.destination)?);
    let node = read_tree(&*opened.store, &opened.pointer)?;
    let done = publish(Wanted::copy_of(&node, &opened.store), vec![target], &args.write, output)?;
    match output.format {
        Format::Text => print_line(node.digest().as_str()),
        Format::Json => print_line(&done.json(node.digest())),
    }
    Ok(Exit::Done)
}
