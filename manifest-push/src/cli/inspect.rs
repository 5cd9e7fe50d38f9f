//! `inspect`: a table, JSON, and the output formats of manifest-tool and docker.

use super::Session;
use super::fetch::fetch;
use crate::TOOL;
use crate::draft::{Drafts, refers_to, valid_spec};
use crate::index::IndexStyle;
use crate::inspect;
use crate::plan::{IndexOptions, combine, refuse_problems};
use clap::Args;
use cli::{Format, Output, print_json, print_line, suggest};
use error::Error;
use error::Exit;
use image_model::reference::{Reference, ReferenceError, RegistryRef};
use image_store::tree::{TreeNode, read_sparse_tree, refuse_unreadable};
use std::io::Write;
use std::str::FromStr;

#[derive(Args)]
pub struct Inspect {
    /// Image or draft to print; for an image in a draft: the draft, then the image
    #[arg(required = true, num_args = 1..=2, value_name = "[LIST] IMAGE")]
    images: Vec<Typed>,
    /// Print JSON as `manifest-tool inspect --raw` does
    #[arg(long)]
    raw: bool,
    /// With --raw: print the config instead of its descriptor
    #[arg(long, requires = "raw")]
    expand_config: bool,
    /// Print the manifest exactly as it is stored
    #[arg(long, conflicts_with = "raw")]
    bytes: bool,
}

/// An image reference with the text that was typed.
#[derive(Clone, Debug)]
struct Typed {
    text: String,
    image: Reference,
}

impl FromStr for Typed {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Ok(Self { text: text.into(), image: text.parse()? })
    }
}

pub fn inspect(args: &Inspect, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    match args.images.as_slice() {
        [list, member] => inspect_member(list, member, args, session, output),
        [named] => match draft_of(named)? {
            Some(list) if !args.raw && !args.bytes => inspect_draft(named, &list, session, output),
            _ => inspect_image(named, args, session, output),
        },
        _ => Err(Error::new(Exit::Usage, "inspect", "expected one image, or a draft and an image in it")),
    }
}

/// The name as that of a draft, if such a draft exists.
fn draft_of(named: &Typed) -> Result<Option<RegistryRef>, Error> {
    let (Reference::Registry(list), Ok(drafts)) = (&named.image, Drafts::of_user()) else { return Ok(None) };
    Ok(drafts.read(list)?.map(|_| list.clone()))
}

fn inspect_image(
    named: &Typed,
    args: &Inspect,
    session: &Session<'_>,
    output: &Output,
) -> Result<Exit, Error> {
    let stores = session.stores(&named.image)?;
    let opened = stores.source(&named.image)?;
    if args.bytes {
        let document = opened.store.read_document(&opened.pointer)?;
        return print_bytes(document.bytes());
    }
    let node = read_sparse_tree(&*opened.store, &opened.pointer)?;
    if args.raw {
        let text = inspect::tool::raw(&named.text, &node, args.expand_config)?;
        print_json(&text);
        note_unread(&node, output);
        return refuse_unreadable(&node.leaves()).map(|()| Exit::Done);
    }
    let remedy = suggest("config-patcher", &["fix", &named.image.to_string(), "--from-index"]);
    show(named, &node, &remedy, output)
}

fn show(named: &Typed, node: &TreeNode, remedy: &str, output: &Output) -> Result<Exit, Error> {
    let name = named.image.to_string();
    match (output.format, output.verbose) {
        (Format::Json, _) => print_json(&inspect::json(&name, node).to_string()),
        (Format::Text, true) => {
            print_json(&inspect::docker::verbose(&name, node)?);
            note_unread(node, output);
        }
        (Format::Text, false) => print_line(inspect::text(&name, node, remedy).trim_end()),
    }
    refuse_unreadable(&node.leaves()).map(|()| Exit::Done)
}

/// Names on stderr what docker's and manifest-tool's formats cannot show.
fn note_unread(node: &TreeNode, output: &Output) {
    for (entry, unread) in node.unread() {
        let platform = entry.and_then(|entry| entry.platform.as_ref());
        let member = platform.map_or(String::new(), |platform| format!("{platform}: "));
        if let Some(part) = unread.absent_part() {
            output.info(&format!("note: {member}{part}"));
        }
    }
}

/// Prints a draft as the index that pushing it now would publish.
fn inspect_draft(
    named: &Typed,
    list: &RegistryRef,
    session: &Session<'_>,
    output: &Output,
) -> Result<Exit, Error> {
    let drafts = Drafts::of_user()?;
    let mut request = drafts.read(list)?.ok_or_else(|| drafts.missing("inspect", list))?;
    request.source.doing = format!("inspect the draft of \"{list}\"");
    let file = request.source.file.clone().unwrap_or_default();
    let options = IndexOptions { style: IndexStyle::Docker, force: true, ..IndexOptions::default() };
    let annotate = |error: Error| match error.kind {
        Exit::BadInput => {
            let list = list.to_string();
            error.hint(suggest(TOOL, &["annotate", &list, "IMAGE", "--os", "OS", "--arch", "ARCH"]))
        }
        _ => error,
    };
    let fetched = fetch(&request, &[], &options, session, output).map_err(annotate)?;
    let combined = combine(&fetched.members, &options);
    let combined = combined.map_err(|problems| annotate(refuse_problems(&request.source, &problems)))?;
    output.info(&format!("draft, as it would be published now: {file}"));
    let nodes = fetched.members.into_iter().map(|found| found.node).collect();
    let node =
        inspect::index_node(combined.wanted.root, nodes).map_err(|e| e.at(&format!("draft \"{file}\"")))?;
    show(named, &node, "push --relabel", output)
}

/// `inspect LIST IMAGE` of docker: prints the manifest of an image in a draft.
fn inspect_member(
    list: &Typed,
    member: &Typed,
    args: &Inspect,
    session: &Session<'_>,
    output: &Output,
) -> Result<Exit, Error> {
    let drafts = Drafts::of_user()?;
    let (Reference::Registry(name), Reference::Registry(image)) = (&list.image, &member.image) else {
        let why = "drafts and their images are names in registries";
        return Err(Error::new(Exit::Usage, format!("inspect \"{}\"", list.text), why));
    };
    let draft = valid_spec(drafts.read(name)?.ok_or_else(|| drafts.missing("inspect", name))?)?;
    if !draft.members.iter().any(|known| refers_to(known, image)) {
        let doing = format!("inspect \"{}\" in \"{}\"", member.text, list.text);
        return Err(Error::not_found(doing, "the draft does not contain this image"));
    }
    if args.raw || args.bytes || output.verbose || output.format == Format::Json {
        return inspect_image(member, args, session, output);
    }
    let opened = session.stores(&member.image)?.source(&member.image)?;
    let document = opened.store.read_document(&opened.pointer)?;
    print_json(&inspect::docker::indented(document.bytes())?);
    Ok(Exit::Done)
}

fn print_bytes(bytes: &[u8]) -> Result<Exit, Error> {
    match std::io::stdout().write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::from_io("write to stdout", e)),
        _ => Ok(Exit::Done),
    }
}
