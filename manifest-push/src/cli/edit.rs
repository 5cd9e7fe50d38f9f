//! `edit`: adds, replaces and removes members of a published index.

use super::Session;
use super::fetch::{TargetState, fetch_members};
use super::publish::{PublishArgs, publish};
use crate::TOOL;
use crate::edit::{IndexChanges, edit_index};
use crate::index::IndexKind;
use crate::normalize::{flattened, normalized};
use crate::plan::{
    FetchedMember, IndexOptions, PreparedMember, prepare_member, refuse_problems, same_platform,
};
use crate::spec::{Member, PublishRequest, Spec, SpecSource, canonical_platform};
use clap::Args;
use cli::{Format, Output, print_json, print_line, suggest};
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, DocumentError};
use image_model::platform::{Platform, PlatformError};
use image_model::reference::Reference;
use image_store::open::{Stores, tags_to_move};
use image_store::plan::WantedImage;
use image_store::store::{Pointer, TaggedDocument};
use image_store::tree::{IndexNode, NestedMember, TreeNode, matching, read_sparse_tree};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use strict_yaml::Problem;

#[derive(Args)]
pub struct Edit {
    /// Index to edit
    image: Reference,
    /// Add an image; PLATFORM= sets a platform that it does not declare (repeatable)
    #[arg(long, value_name = "[PLATFORM=]IMAGE")]
    add: Vec<String>,
    /// Replace the image for this platform (repeatable)
    #[arg(long, value_name = "PLATFORM=IMAGE")]
    replace: Vec<String>,
    /// Remove the image for this platform, or with this digest, with its attestations (repeatable)
    #[arg(long, value_name = "PLATFORM|DIGEST")]
    remove: Vec<EntrySelector>,
    /// Replace nested indexes by their entries: podman, skopeo and older Docker do not pull from nested ones
    ///
    /// The images keep their digests.
    #[arg(long)]
    flatten: bool,
    /// Replace platform aliases in entries (aarch64, Linux/AMD64), and fill in absent platforms from the images
    ///
    /// The images keep their digests. What an image declares is not changed: for that, use `config-patcher fix`.
    #[arg(long)]
    normalize: bool,
    /// Set an annotation of the index (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Convert the index between Docker and OCI; its images are unchanged
    #[arg(long, value_enum, value_name = "TYPE")]
    r#type: Option<IndexKind>,
    /// Tag for the result, instead of the tag in IMAGE (repeatable)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Fix images that declare another platform: they get a new config, layers are unchanged
    #[arg(long)]
    relabel: bool,
    #[command(flatten)]
    write: PublishArgs,
}

/// Selects an entry to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EntrySelector {
    Platform(Platform),
    Digest(Digest),
}

impl FromStr for EntrySelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("sha256:") || text.starts_with("sha512:") {
            return text
                .parse()
                .map(Self::Digest)
                .map_err(|e: image_model::digest::DigestError| e.to_string());
        }
        text.parse().map(Self::Platform).map_err(|e: PlatformError| e.to_string())
    }
}

/// A new image, and the platform of the entry that it replaces.
struct Incoming {
    replaces: Option<Platform>,
    member: Member,
}

pub fn edit(args: &Edit, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    let doing = format!("edit \"{}\"", args.image);
    for tag in &args.tag {
        args.image.check_tag(tag).map_err(|e| Error::new(Exit::Usage, doing.clone(), e.to_string()))?;
    }
    let (incoming, annotations) = from_args(args, &doing)?;
    let stores = session.stores(&args.image)?;
    if args.image.digest().is_some() && args.image.tag().is_none() && args.tag.is_empty() {
        let why = "the image is given by digest, which cannot be moved";
        return Err(Error::new(Exit::Usage, doing, why).hint("set a tag for the result with --tag"));
    }
    // Both are opened before the first request, so that one token is requested for both.
    let opened = stores.source(&args.image)?;
    let mut target = stores.target_with_tags(&args.image, args.tag.clone())?;
    if target.tags.is_empty() {
        target.tags = tags_to_move(&args.image, &*target.store, &opened.pointer)?;
    }
    let node = read_sparse_tree(&*opened.store, &opened.pointer)?;
    let TreeNode::Index(index) = &node else {
        let create = suggest(TOOL, &["create"]);
        let hint = format!("to make an index of it, use `{create}` or `push from-args`");
        return Err(Error::bad_input(doing, "it is a single image").hint(hint));
    };
    let source = SpecSource::command_line(doing.clone());
    let found = fetch_incoming(args, &incoming, &source, &stores, output)?;
    let options = IndexOptions { force: args.write.force, relabel: args.relabel, ..IndexOptions::default() };
    let parts = parts(&found, &options, &source)?;
    let failed = |e: DocumentError| Error { action: doing.clone(), ..e.at("") };
    let ordered = in_order(args, index).map_err(failed)?;
    let changes = plan_changes(&doing, &ordered, args, &incoming, &parts, annotations)?;
    let root = edit_index(&ordered.document, &changes).map_err(failed)?;
    let mut wanted = WantedImage::of_root(root.clone());
    for part in &parts {
        part.add_to(&mut wanted);
        part.notes.iter().for_each(|note| output.info(note));
    }
    let mut looked = TargetState::new(&args.image, target);
    looked.mark_present(&node, &*opened.store);
    // The result is based on this digest. A tag that was moved since must not be overwritten.
    if let Pointer::Tag(tag) = opened.pointer {
        looked.known.tags.insert(tag, Some(TaggedDocument::from(&index.document)));
    }
    for one in &found {
        looked.mark_present(&one.node, &*one.source);
    }
    let absent: Vec<String> = node.absent_platforms().iter().map(|p| format!("--remove {p}")).collect();
    // A platform that is removed is named.
    let drop = args.write.drop.iter().cloned().chain(removed_platforms(&ordered, &changes)).collect();
    let write = PublishArgs { drop, ..args.write.clone() };
    let done = publish(wanted, vec![looked], &write, output).map_err(|error| match error.kind {
        Exit::BadInput if !absent.is_empty() => error.hint(format!(
            "members of the index are absent; remove them with the same command: {}",
            absent.join(" ")
        )),
        _ => error,
    })?;
    match output.format {
        Format::Text => print_line(root.digest().as_str()),
        Format::Json => print_json(&done.json(root.digest())),
    }
    done.finish(output);
    Ok(Exit::Done)
}

/// Returns the index as the other changes find it: flat and normalized, if that is requested.
fn in_order<'a>(args: &Edit, index: &'a IndexNode) -> Result<Cow<'a, IndexNode>, DocumentError> {
    let mut ordered = Cow::Borrowed(index);
    if args.flatten
        && let Some(flat) = flattened(&ordered)?
    {
        ordered = Cow::Owned(flat);
    }
    if args.normalize
        && let Some(normal) = normalized(&ordered)?
    {
        ordered = Cow::Owned(normal);
    }
    Ok(ordered)
}

/// Parses the arguments: the new images, and annotations of the index.
fn from_args(args: &Edit, doing: &str) -> Result<(Vec<Incoming>, BTreeMap<String, String>), Error> {
    let usage = |why: String| Error::new(Exit::Usage, doing, why);
    let mut incoming = Vec::new();
    for text in &args.replace {
        let pair = text
            .split_once('=')
            .ok_or_else(|| usage(format!("invalid value \"{text}\": expected PLATFORM=IMAGE")))?;
        let platform: Platform = pair.0.parse().map_err(|e| usage(format!("{e}")))?;
        let member = member(pair.1, platform.clone(), incoming.len() + 1).map_err(usage)?;
        incoming.push(Incoming { replaces: Some(platform), member });
    }
    for text in &args.add {
        let (platform, image) = match text.split_once('=') {
            Some((platform, image)) => {
                (Platform::parse_known(platform).map_err(|e| usage(format!("{e}")))?, image)
            }
            None => (Platform::default(), text.as_str()),
        };
        let member = member(image, platform, incoming.len() + 1).map_err(usage)?;
        incoming.push(Incoming { replaces: None, member });
    }
    let mut annotations = BTreeMap::new();
    for text in &args.annotation {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) =
            pair.ok_or_else(|| usage(format!("invalid value \"{text}\": expected KEY=VALUE")))?;
        annotations.insert(key.to_string(), value.to_string());
    }
    let is_ordered = args.flatten || args.normalize;
    let is_changed = !incoming.is_empty() || !args.remove.is_empty() || !annotations.is_empty();
    if !is_changed && !is_ordered && args.r#type.is_none() {
        return Err(usage("no change was requested".into())
            .hint("use --add, --replace, --remove, --flatten, --normalize, --annotation or --type"));
    }
    Ok((incoming, annotations))
}

fn member(image: &str, platform: Platform, line: usize) -> Result<Member, String> {
    let image = image.parse().map_err(|e: image_model::reference::ReferenceError| e.to_string())?;
    let platform = if platform.architecture.is_empty() { platform } else { canonical_platform(platform)? };
    Ok(Member { image, platform, annotations: BTreeMap::new(), line })
}

fn fetch_incoming(
    args: &Edit,
    incoming: &[Incoming],
    source: &SpecSource,
    stores: &Stores,
    output: &Output,
) -> Result<Vec<FetchedMember>, Error> {
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
    let request = PublishRequest {
        source: source.clone(),
        spec: Some(spec),
        problems: Vec::new(),
        ignore_missing: false,
    };
    fetch_members(&request, stores, output)
}

fn parts<'a>(
    found: &'a [FetchedMember],
    options: &IndexOptions,
    source: &SpecSource,
) -> Result<Vec<PreparedMember<'a>>, Error> {
    let mut parts = Vec::new();
    let mut problems = Vec::new();
    for one in found {
        match prepare_member(one, options) {
            Ok(part) => parts.push(part),
            Err(text) => problems.push(Problem { line: one.member.line, text }),
        }
    }
    if problems.is_empty() { Ok(parts) } else { Err(refuse_problems(source, &problems)) }
}

/// Returns the entries to remove, replace and add. `parts` are the incoming images, in their order.
/// The platforms of the images that these changes remove, those of nested indexes as well.
fn removed_platforms(index: &IndexNode, changes: &IndexChanges) -> Vec<Platform> {
    let members = index.index.manifests.iter().zip(&index.members).enumerate();
    let removed = members.filter(|(at, _)| changes.removed.contains(at));
    removed
        .flat_map(|(_, (entry, node))| {
            let below = node.images().into_iter().map(|(entry, image)| {
                let declared = || image.config.as_ref().map(|config| config.parsed.platform.clone());
                entry.and_then(|entry| entry.platform.clone()).or_else(declared)
            });
            below.chain([entry.platform.clone()]).flatten().collect::<Vec<_>>()
        })
        .collect()
}

fn plan_changes(
    doing: &str,
    index: &IndexNode,
    args: &Edit,
    incoming: &[Incoming],
    parts: &[PreparedMember<'_>],
    annotations: BTreeMap<String, String>,
) -> Result<IndexChanges, Error> {
    let entries = &index.index.manifests;
    let mut changes = IndexChanges { annotations, kind: args.r#type, ..IndexChanges::default() };
    for selector in &args.remove {
        let at = match selector {
            EntrySelector::Platform(platform) => find_entry(doing, index, platform)?,
            EntrySelector::Digest(digest) => find_digest(doing, index, digest)?,
        };
        changes.removed.insert(at);
        changes.removed.extend(attestations_of(entries, &entries[at]));
    }
    for (one, part) in incoming.iter().zip(parts) {
        match &one.replaces {
            Some(platform) => {
                let at = find_entry(doing, index, platform)?;
                changes.removed.extend(attestations_of(entries, &entries[at]));
                changes.replaced.insert(at, part.entry.clone());
            }
            None => changes.added.push(part.entry.clone()),
        }
    }
    changes.added.extend(parts.iter().flat_map(|part| part.attestations.clone()));
    check_changes(doing, index, &changes)?;
    Ok(changes)
}

fn check_changes(doing: &str, index: &IndexNode, changes: &IndexChanges) -> Result<(), Error> {
    let entries = &index.index.manifests;
    let stays = |i: &usize| !changes.removed.contains(i) && !changes.replaced.contains_key(i);
    let kept = (0..entries.len()).filter(stays).map(|i| &entries[i]);
    let incoming =
        || changes.replaced.values().chain(&changes.added).filter(|entry| entry.attested_digest().is_none());
    // Clients resolve nested indexes, so their images count as well.
    for nested in index
        .nested_members()
        .iter()
        .filter(|nested| nested.is_nested() && nested.path.first().is_some_and(stays))
    {
        if let Some(platform) = incoming()
            .find(|entry| same_platform(nested.entry, entry))
            .and_then(|entry| entry.platform.as_ref())
        {
            return Err(nested_index_error(
                doing,
                nested,
                &format!("platform {platform} would be a duplicate: one"),
            ));
        }
    }
    let mut images: Vec<&Descriptor> = Vec::new();
    for entry in kept.filter(|entry| entry.attested_digest().is_none()).chain(incoming()) {
        if let (Some(_), Some(platform)) =
            (images.iter().find(|other| same_platform(other, entry)), &entry.platform)
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

/// Returns the one image for a platform, in the index or in a nested one.
///
/// # Errors
/// `NotFound` if there is none, `BadInput` if there are several.
pub fn find_image<'a>(
    doing: &str,
    index: &'a IndexNode,
    platform: &Platform,
) -> Result<NestedMember<'a>, Error> {
    let all = index.nested_members();
    let fits = |entry: &Descriptor| entry.platform.as_ref().is_some_and(|listed| listed.matches(platform));
    // Entries of the index itself take precedence over those of nested indexes.
    let own: Vec<&NestedMember<'_>> =
        all.iter().filter(|nested| !nested.is_nested() && fits(nested.entry)).collect();
    let found = if own.is_empty() { matching(&all, fits) } else { own };
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let platforms: Vec<String> = all
                .iter()
                .filter_map(|nested| nested.entry.platform.as_ref().map(ToString::to_string))
                .collect();
            let why = format!("there is no image for {platform}; it has {}", platforms.join(", "));
            Err(Error::not_found(doing, why))
        }
        several => {
            let why = format!("{} images are for {platform}", several.len());
            let digests: Vec<&str> = several.iter().map(|nested| nested.entry.digest.as_str()).collect();
            let hint =
                format!("add the os.version: OS/ARCH:OS.VERSION; or --remove one of {}", digests.join(", "));
            Err(Error::bad_input(doing, why).hint(hint))
        }
    }
}

/// Returns the position of the entry for a platform.
fn find_entry(doing: &str, index: &IndexNode, platform: &Platform) -> Result<usize, Error> {
    let nested = find_image(doing, index, platform)?;
    match nested.path.as_slice() {
        [at] => Ok(*at),
        _ => Err(nested_index_error(doing, &nested, &format!("the image for {platform}"))),
    }
}

/// Returns the position of the only entry with this digest.
fn find_digest(doing: &str, index: &IndexNode, digest: &Digest) -> Result<usize, Error> {
    let entries = index.index.manifests.iter().enumerate();
    let found: Vec<usize> = entries.filter(|(_, entry)| entry.digest == *digest).map(|(at, _)| at).collect();
    match found.as_slice() {
        [at] => Ok(*at),
        [] => Err(Error::not_found(doing, format!("the index has no entry with digest {digest}"))),
        several => {
            let why = format!("{} entries have digest {digest}", several.len());
            Err(Error::bad_input(doing, why).hint("select one by its platform"))
        }
    }
}

/// A nested index has a digest of its own, which others may refer to. It is not changed from outside.
fn nested_index_error(doing: &str, nested: &NestedMember<'_>, what: &str) -> Error {
    let inner = nested.index.document.digest();
    Error::bad_input(doing, format!("{what} is in {inner}, an index nested in this one"))
        .hint("add --flatten, or edit the nested index by its tag or (in a registry) by its digest")
}

/// The positions of the attestations of an image.
fn attestations_of<'a>(entries: &'a [Descriptor], image: &'a Descriptor) -> impl Iterator<Item = usize> + 'a {
    let attests = |entry: &Descriptor| entry.attested_digest() == Some(image.digest.as_str());
    (0..entries.len()).filter(move |i| attests(&entries[*i]))
}
