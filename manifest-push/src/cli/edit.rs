//! `edit`: members of a published index, one by one.

use super::Tools;
use super::gather::{Looked, gather_members};
use super::publish::{Write, publish};
use crate::edit::{Changes, edit_index};
use crate::index::Kind;
use crate::plan::{Found, Misfit, Part, Request, are_one_platform, part, refuse};
use crate::spec::{Asked, Member, Place, Spec, spelled};
use clap::Args;
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::open::Stores;
use image_store::plan::WantedImage;
use image_store::store::Pointer;
use image_store::tree::{IndexNode, NestedMember, TreeNode, matching, read_tree};
use std::collections::BTreeMap;

#[derive(Args)]
pub struct EditArgs {
    /// Index to edit
    image: Reference,
    /// Add an image; PLATFORM= sets a platform that the image does not declare
    #[arg(long, value_name = "[PLATFORM=]IMAGE")]
    add: Vec<String>,
    /// Replace the image for this platform
    #[arg(long, value_name = "PLATFORM=IMAGE")]
    replace: Vec<String>,
    /// Remove the image for this platform, with its attestations
    #[arg(long, value_name = "PLATFORM")]
    remove: Vec<Platform>,
    /// Set an annotation of the index
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Convert the index between Docker and OCI; its images are unchanged
    #[arg(long, value_enum, value_name = "TYPE")]
    r#type: Option<Kind>,
    /// Tag for the result, instead of the tag in IMAGE; can be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Fix images that declare another platform: they get a new config, layers are unchanged
    #[arg(long)]
    relabel: bool,
    #[command(flatten)]
    write: Write,
}

/// An image that comes in: what it replaces, if it does.
struct Incoming {
    instead_of: Option<Platform>,
    member: Member,
}

pub fn edit(args: &EditArgs, tools: &Tools<'_>, output: &Output) -> Result<Exit, Error> {
    let doing = format!("edit \"{}\"", args.image);
    for tag in &args.tag {
        args.image.check_tag(tag).map_err(|e| Error::new(Exit::Usage, doing.clone(), e.to_string()))?;
    }
    let (incoming, annotations) = mean(args, &doing)?;
    let stores = tools.stores(&args.image)?;
    // Both before the first request: one token is then asked for all of it.
    let opened = stores.source(&args.image)?;
    let mut target = stores.target(&place_to_write(args, &doing)?)?;
    if !args.tag.is_empty() {
        target.tags = args.tag.clone();
    }
    let node = read_tree(&*opened.store, &opened.pointer)?;
    let TreeNode::Index(index) = &node else {
        let hint = "to make an index of it, use manifest-push create or push from-args";
        return Err(Error::bad_input(doing, "it is a single image").hint(hint));
    };
    let place = Place::command_line(doing.clone());
    let found = look_up(args, &incoming, &place, &stores, output)?;
    let request = Request { force: args.write.force, relabel: args.relabel, ..Request::default() };
    let parts = parts(&found, &request, &place)?;
    let changes = decide(&doing, index, args, &incoming, &parts, annotations)?;
    let root =
        edit_index(&index.document, &changes).map_err(|e| Error { action: doing.clone(), ..e.at("") })?;
    let mut wanted = WantedImage::of_root(root.clone());
    for part in &parts {
        part.add_to(&mut wanted);
        part.notes.iter().for_each(|note| output.info(note));
    }
    let mut looked = Looked::new(&args.image, target);
    looked.know_of(&node, &*opened.store);
    // What is written was made of what the tag named then: a later look would let it take another's edit back.
    if let Pointer::Tag(tag) = opened.pointer {
        looked.known.named.insert(tag, Some(node.document().descriptor()));
    }
    for one in &found {
        looked.know_of(&one.node, &*one.source);
    }
    let done = publish(wanted, vec![looked], &args.write, output)?;
    match output.format {
        Format::Text => print_line(root.digest().as_str()),
        Format::Json => print_json(&done.json(root.digest())),
    }
    Ok(Exit::Done)
}

/// The image's own tag, unless it was named by digest: then a tag must be said.
fn place_to_write(args: &EditArgs, doing: &str) -> Result<Reference, Error> {
    let mut place = args.image.clone();
    if let Reference::Registry(image) = &mut place
        && image.digest.take().is_some()
        && args.tag.is_empty()
        && image.tag.is_none()
    {
        let why = "the image is given by digest, which cannot be moved";
        return Err(Error::new(Exit::Usage, doing, why).hint("set a tag for the result with --tag"));
    }
    Ok(place)
}

/// What was meant by the arguments.
fn mean(args: &EditArgs, doing: &str) -> Result<(Vec<Incoming>, BTreeMap<String, String>), Error> {
    let usage = |why: String| Error::new(Exit::Usage, doing, why);
    let mut incoming = Vec::new();
    for text in &args.replace {
        let pair = text
            .split_once('=')
            .ok_or_else(|| usage(format!("invalid value \"{text}\": expected PLATFORM=IMAGE")))?;
        let platform: Platform = pair.0.parse().map_err(|e| usage(format!("{e}")))?;
        let member = member(pair.1, platform.clone(), incoming.len() + 1).map_err(usage)?;
        incoming.push(Incoming { instead_of: Some(platform), member });
    }
    for text in &args.add {
        let (platform, image) = match text.split_once('=') {
            Some((platform, image)) => {
                (Platform::parse_known(platform).map_err(|e| usage(format!("{e}")))?, image)
            }
            None => (Platform::default(), text.as_str()),
        };
        let member = member(image, platform, incoming.len() + 1).map_err(usage)?;
        incoming.push(Incoming { instead_of: None, member });
    }
    let mut annotations = BTreeMap::new();
    for text in &args.annotation {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) =
            pair.ok_or_else(|| usage(format!("invalid value \"{text}\": expected KEY=VALUE")))?;
        annotations.insert(key.to_string(), value.to_string());
    }
    if incoming.is_empty() && args.remove.is_empty() && annotations.is_empty() && args.r#type.is_none() {
        return Err(usage("no change was requested".into())
            .hint("use --add, --replace, --remove, --annotation or --type"));
    }
    Ok((incoming, annotations))
}

fn member(image: &str, platform: Platform, line: usize) -> Result<Member, String> {
    let image = image.parse().map_err(|e: image_model::reference::ReferenceError| e.to_string())?;
    let platform = if platform.architecture.is_empty() { platform } else { spelled(platform)? };
    Ok(Member { image, platform, annotations: BTreeMap::new(), line })
}

fn look_up(
    args: &EditArgs,
    incoming: &[Incoming],
    place: &Place,
    stores: &Stores,
    output: &Output,
) -> Result<Vec<Found>, Error> {
    if incoming.is_empty() {
        return Ok(Vec::new());
    }
    let spec = Spec {
        image: args.image.clone(),
        tags: Vec::new(),
        members: incoming.iter().map(|one| one.member.clone()).collect(),
        annotations: BTreeMap::new(),
        notes: Vec::new(),
    };
    let asked = Asked { place: place.clone(), spec: Some(spec), problems: Vec::new(), ignore_missing: false };
    gather_members(&asked, stores, output)
}

fn parts<'a>(found: &'a [Found], request: &Request, place: &Place) -> Result<Vec<Part<'a>>, Error> {
    let mut parts = Vec::new();
    let mut misfits = Vec::new();
    for one in found {
        match part(one, request) {
            Ok(part) => parts.push(part),
            Err(text) => misfits.push(Misfit { line: one.member.line, text }),
        }
    }
    if misfits.is_empty() { Ok(parts) } else { Err(refuse(place, &misfits)) }
}

/// Which entries go, which come, and where. `parts` are the incoming images, in their order.
fn decide(
    doing: &str,
    index: &IndexNode,
    args: &EditArgs,
    incoming: &[Incoming],
    parts: &[Part<'_>],
    annotations: BTreeMap<String, String>,
) -> Result<Changes, Error> {
    let entries = &index.index.manifests;
    let mut changes = Changes { annotations, kind: args.r#type, ..Changes::default() };
    for platform in &args.remove {
        let at = entry_for(doing, index, platform)?;
        changes.removed.insert(at);
        changes.removed.extend(attesting(entries, &entries[at]));
    }
    for (one, part) in incoming.iter().zip(parts) {
        match &one.instead_of {
            Some(platform) => {
                let at = entry_for(doing, index, platform)?;
                changes.removed.extend(attesting(entries, &entries[at]));
                changes.replaced.insert(at, part.entry.clone());
            }
            None => changes.added.push(part.entry.clone()),
        }
    }
    changes.added.extend(parts.iter().flat_map(|part| part.attestations.clone()));
    refuse_misfits(doing, index, &changes)?;
    Ok(changes)
}

fn refuse_misfits(doing: &str, index: &IndexNode, changes: &Changes) -> Result<(), Error> {
    let entries = &index.index.manifests;
    let stays = |i: &usize| !changes.removed.contains(i) && !changes.replaced.contains_key(i);
    let kept = (0..entries.len()).filter(stays).map(|i| &entries[i]);
    let incoming =
        || changes.replaced.values().chain(&changes.added).filter(|entry| entry.attested_digest().is_none());
    // An index within this one stands for its images: clients go through both.
    for seat in
        index.nested_members().iter().filter(|seat| seat.is_nested() && seat.path.first().is_some_and(stays))
    {
        if let Some(platform) = incoming()
            .find(|entry| are_one_platform(seat.entry, entry))
            .and_then(|entry| entry.platform.as_ref())
        {
            return Err(lies_within(doing, seat, &format!("platform {platform} would be a duplicate: one")));
        }
    }
    let mut images: Vec<&Descriptor> = Vec::new();
    for entry in kept.filter(|entry| entry.attested_digest().is_none()).chain(incoming()) {
        if let (Some(_), Some(platform)) =
            (images.iter().find(|other| are_one_platform(other, entry)), &entry.platform)
        {
            return Err(Error::bad_input(doing, format!("platform {platform} would be a duplicate"))
                .hint(format!("to replace the existing image, use --replace {platform}=IMAGE")));
        }
        images.push(entry);
    }
    if images.is_empty() {
        return Err(Error::bad_input(doing, "no image would be left; an empty index is not published"));
    }
    Ok(())
}

/// The one image for a platform, in the index or in one within it.
pub fn one_of<'a>(doing: &str, index: &'a IndexNode, platform: &Platform) -> Result<NestedMember<'a>, Error> {
    let all = index.nested_members();
    let fits = |entry: &Descriptor| entry.platform.as_ref().is_some_and(|said| said.matches(platform));
    // What the index itself names is meant before what lies deeper.
    let own: Vec<&NestedMember<'_>> =
        all.iter().filter(|seat| !seat.is_nested() && fits(seat.entry)).collect();
    let found = if own.is_empty() { matching(&all, fits) } else { own };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let said: Vec<String> =
                all.iter().filter_map(|seat| seat.entry.platform.as_ref().map(ToString::to_string)).collect();
            let why = format!("there is no image for {platform}; it has {}", said.join(", "));
            Err(Error::not_found(doing, why))
        }
        several => {
            let why = format!("{} images are for {platform}", several.len());
            Err(Error::bad_input(doing, why).hint("add the os.version: OS/ARCH:OS.VERSION"))
        }
    }
}

/// Which entry of the index is for a platform.
fn entry_for(doing: &str, index: &IndexNode, platform: &Platform) -> Result<usize, Error> {
    let seat = one_of(doing, index, platform)?;
    match seat.path.as_slice() {
        [at] => Ok(*at),
        _ => Err(lies_within(doing, &seat, &format!("the image for {platform}"))),
    }
}

/// An index within another has a digest of its own, by which others may know it: it is not changed from outside.
fn lies_within(doing: &str, seat: &NestedMember<'_>, what: &str) -> Error {
    let inner = seat.index.document.digest();
    Error::bad_input(doing, format!("{what} is in {inner}, an index nested in this one"))
        .hint("edit the nested index, by its tag or (in a registry) by its digest; or create a flat index with push from-spec")
}

/// The entries that speak of this one.
fn attesting<'a>(entries: &'a [Descriptor], image: &'a Descriptor) -> impl Iterator<Item = usize> + 'a {
    let speaks = |entry: &Descriptor| entry.attested_digest() == Some(image.digest.as_str());
    (0..entries.len()).filter(move |i| speaks(&entries[*i]))
}
