//! `copy`: one image or a whole index, between any two stores.

use super::Tools;
use super::gather::Looked;
use super::publish::{Write, publish};
use clap::Args;
use image_store::cli::{Format, Output, print_json, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::manifest::{Descriptor, media_type};
use image_store::plan::{Known, Wanted};
use image_store::reference::Reference;
use image_store::tree::{Node, read_tree};

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
    let target = stores.target(&args.destination)?;
    let node = read_tree(&*opened.store, &opened.pointer)?;
    let known = Known::look(&*target.store, &target.tags, &[])?;
    let target = Looked { reference: args.destination.clone(), target, known };
    if let (Node::Image(_), false) = (&node, args.write.force) {
        refuse_replacing_an_index(&target)?;
    }
    let done = publish(Wanted::copy_of(&node, &opened.store), vec![target], &args.write, output)?;
    match output.format {
        Format::Text => print_line(node.digest().as_str()),
        Format::Json => print_json(&done.json(node.digest())),
    }
    Ok(Exit::Done)
}

/// Whoever pulls the tag for another platform would get this one image.
fn refuse_replacing_an_index(looked: &Looked) -> Result<(), StoreError> {
    let is_index = |named: &Descriptor| media_type::is_index(&named.media_type);
    for (tag, named) in &looked.known.named {
        if named.as_ref().is_some_and(is_index) {
            let name = if tag.is_empty() {
                looked.target.store.place()
            } else {
                format!("{}:{tag}", looked.target.store.place())
            };
            return Err(StoreError::bad_input(
                format!("copy one image to \"{name}\""),
                "it names an index of several platforms now",
            )
            .hint(
                "change one member with `manifest-push edit`, name another tag, or replace it with --force",
            ));
        }
    }
    Ok(())
}
