//! `config-patcher fix`: declares the right platform, in place or in a copy.

use super::verify::row::editable;
use crate::advice;
use crate::from_binaries::from_binaries;
use crate::plan::{Duplicate, Labels, Relabelled, relabel};
use crate::referrers::{Found, carry, find, moved};
use clap::Args;
use cli::Output;
use error::Error;
use error::Exit;
use error::text;
use image_model::reference::Reference;
use image_store::archive::{DockerArchive, OciArchive};
use image_store::open::Stores;
use image_store::plan::{MovedTag, Plan, apply, plan, plan_new};
use image_store::referrers;
use image_store::store::{ImageSource, ImageStore, Pointer, UNNAMED};
use image_store::tree::{TreeNode, read_tree_below};
use registry_client::meter::Meter;
use report::{Told, describe, report};
use source::{PlatformSource, SourceArgs};
use std::sync::Arc;

pub(super) mod report;
pub(super) mod source;

#[derive(Args)]
pub struct Fix {
    /// The image or index; `-` for a `docker save` stream on stdin
    pub(super) image: Reference,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// Write the result to this image; IMAGE is not changed
    #[arg(long, short, value_name = "IMAGE")]
    pub(super) output: Option<Reference>,
    /// Move this tag instead of the tag of IMAGE (repeatable)
    #[arg(long, value_name = "TAG", conflicts_with = "output")]
    pub(super) tag: Vec<String>,
    /// Write nothing; exit with 1 if there is something to fix
    #[arg(long)]
    pub(super) check: bool,
    /// Print every write with its digest and size; write nothing
    #[arg(long, conflicts_with = "check")]
    pub(super) dry_run: bool,
    /// Overwrite the changed parts of an archive within the file
    ///
    /// The time does not depend on the size of the archive. If the changed parts do not fit, a new archive is written
    /// and replaces the old one, as without this option.
    #[arg(long, conflicts_with_all = ["output", "tag", "check"])]
    pub(super) in_place: bool,
    /// Copy the referrers of the old image (signatures, SBOMs) to the new one
    ///
    /// The subject of each copy is the new image. What a referrer signs or states is not changed and still names the
    /// old digest. For registries and OCI layouts.
    #[arg(long, conflicts_with_all = ["output", "in_place"])]
    pub(super) carry_referrers: bool,
    /// Move a tag that another client has moved meanwhile; accept two images for one platform in an index
    #[arg(long)]
    pub(super) force: bool,
}

impl Fix {
    /// What comes on standard input goes by: it lies nowhere.
    pub fn is_filter(&self) -> bool {
        self.image == Reference::Stdin
    }

    /// Where the right platform comes from.
    pub(super) fn platform_source(&self, output: &Output) -> Result<PlatformSource, Error> {
        let (source, warning) = self.source.source(&self.image.to_string())?;
        if let Some(warning) = warning {
            output.warning_printer()(&warning);
        }
        Ok(source)
    }
}

pub fn run(args: &Fix, stores: &Stores, output: &Output) -> Result<Exit, Error> {
    for tag in &args.tag {
        args.image.check_tag(tag).map_err(|e| Error::new(Exit::Usage, "move the tag", e.to_string()))?;
    }
    refuse_what_cannot_be_carried(args)?;
    let platform_source = args.platform_source(output)?;
    let Lying { source, store, archive, pointer } = open(args, stores)?;
    let node = read(args, &platform_source, &*source, store.as_deref(), &pointer)?;
    let relabelled =
        relabel(&node, &labels(args, platform_source, &*source, &node, &pointer)?, &args.image.to_string())?;
    if !args.force {
        let way_out = "--force does it anyway";
        refuse_duplicates(
            &args.image,
            editable(&args.image, &pointer).as_deref(),
            &relabelled,
            &node,
            way_out,
        )?;
    }
    report(&relabelled, &node, output);
    let told = Told { relabelled: &relabelled, node: &node, output };
    let belongings = || belongings(args, &*source, &relabelled, &node);
    if args.check {
        told.checked(&belongings()?);
        return Ok(if matches!(relabelled, Relabelled::Unchanged) { Exit::Done } else { Exit::CheckFailed });
    }
    if args.in_place && overwritten(args, archive.as_deref(), &relabelled, &node, output)? {
        told.done(&belongings()?, None, !args.dry_run);
        return Ok(Exit::Done);
    }
    let (plan, store) = match (&args.output, store) {
        (Some(to), _) => {
            let target = stores.target(to)?;
            (plan_copy(&relabelled, &node, &source, &*target.store, &target.tags)?, target.store)
        }
        (None, Some(store)) => {
            let tags = tags_in_place(args, &*store, &pointer)?;
            (plan_in_place(&relabelled, &node, &pointer, &*store, tags)?, store)
        }
        (None, None) => return Ok(Exit::Done),
    };
    output.info_lines(&plan.to_string());
    let found = write(args, &plan, &*store, &stores.meter(), &belongings, output)?;
    told.done(&found, Some(&plan), !args.dry_run);
    Ok(Exit::Done)
}

fn refuse_what_cannot_be_carried(args: &Fix) -> Result<(), Error> {
    if !args.carry_referrers || matches!(args.image, Reference::Registry(_) | Reference::OciLayout { .. }) {
        return Ok(());
    }
    let why = "only registries and OCI layouts store referrers";
    let doing = format!("copy the referrers of \"{}\"", args.image);
    Err(Error::new(Exit::Usage, doing, why).hint("omit --carry-referrers"))
}

/// A relabel that gives an index two images for one platform makes one of the two unreachable.
pub(super) fn refuse_duplicates(
    image: &Reference,
    editable: Option<&str>,
    relabelled: &Relabelled,
    node: &TreeNode,
    way_out: &str,
) -> Result<(), Error> {
    let Relabelled::Changed(changes) = relabelled else { return Ok(()) };
    let Some(duplicate) = changes.duplicates.first() else { return Ok(()) };
    let Duplicate { member, was, wanted, twin, is_lost } = duplicate;
    let entry = node.images().into_iter().find_map(|(entry, _)| entry.filter(|entry| *entry == member));
    let doing = format!("fix {} ({was}) of \"{image}\"", member.digest);
    let why = format!("{}; the other one is {twin}", advice::consequence(was, wanted, true, *is_lost));
    let hint = advice::way_out(node, entry, was, editable);
    Err(Error::new(Exit::CheckFailed, doing, why).hint(format!("{hint}; {way_out}")))
}

/// Where the image lies. It can be written only where it will be.
struct Lying {
    source: Arc<dyn ImageSource>,
    store: Option<Arc<dyn ImageStore>>,
    /// The same, if it is an archive that is to be overwritten.
    archive: Option<Arc<DockerArchive>>,
    pointer: Pointer,
}

fn open(args: &Fix, stores: &Stores) -> Result<Lying, Error> {
    // With --output the source is only read: it may be one that nobody here may write.
    if args.output.is_some() || args.check {
        let opened = stores.source(&args.image)?;
        return Ok(Lying { source: opened.store, store: None, archive: None, pointer: opened.pointer });
    }
    if let Some(archive) = to_overwrite(args)? {
        let pointer = archive.only_image()?;
        let archive = Arc::new(archive);
        return Ok(Lying {
            source: archive.clone(),
            store: Some(archive.clone()),
            archive: Some(archive),
            pointer,
        });
    }
    let opened = stores.image(&args.image)?;
    let (store, pointer) = (opened.store, opened.pointer);
    Ok(Lying { source: store.clone(), store: Some(store), archive: None, pointer })
}

fn to_overwrite(args: &Fix) -> Result<Option<DockerArchive>, Error> {
    Ok(match &args.image {
        Reference::DockerArchive { file, name } if args.in_place => {
            Some(DockerArchive::open(file, name.as_deref())?)
        }
        Reference::OciArchive { file, tag } if args.in_place => {
            Some(OciArchive::open(file, tag.as_deref())?.into_archive())
        }
        _ => None,
    })
}

/// Carries the plan out, unless it was only to be shown, and says what belongs to the old image.
fn write(
    args: &Fix,
    plan: &Plan,
    store: &dyn ImageStore,
    meter: &Meter,
    belongings: &(dyn Fn() -> Result<Found, Error> + Sync),
    output: &Output,
) -> Result<Found, Error> {
    let write = || {
        let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
        apply(plan, store, moved, meter, &|progress| output.verbose_info(&describe(&progress)))
    };
    // What is only told is asked for while the new image is written: then it costs no time.
    if !args.carry_referrers && !args.dry_run {
        return std::thread::scope(|scope| {
            let asked = scope.spawn(belongings);
            write()?;
            asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
    }
    let found = belongings()?;
    output.info_lines(&referrers::describe(&found.steps, &plan.place));
    if !args.dry_run {
        // First: killed behind the tag, a second run would find every label right and carry nothing.
        referrers::apply(&found.steps, store)?;
        write()?;
    }
    Ok(found)
}

/// Reads the image. Where its config will most likely be replaced, the upload of the new one is begun meanwhile.
fn read(
    args: &Fix,
    platform_source: &PlatformSource,
    source: &dyn ImageSource,
    store: Option<&dyn ImageStore>,
    pointer: &Pointer,
) -> Result<TreeNode, Error> {
    let document = source.read_document(pointer)?;
    let is_requested = matches!(platform_source, PlatformSource::Requested(Labels::Platform(_)));
    let is_likely = is_requested && !document.is_index() && !args.dry_run && args.output.is_none();
    std::thread::scope(|scope| {
        if let (true, Some(store)) = (is_likely, store) {
            scope.spawn(|| store.prepare_blob_write());
        }
        read_tree_below(source, document, 0)
    })
}

/// What belongs to the old image. A fix does not depend on it unless it is to be carried.
fn belongings(
    args: &Fix,
    source: &dyn ImageSource,
    relabelled: &Relabelled,
    node: &TreeNode,
) -> Result<Found, Error> {
    let keeps_any = matches!(
        args.image,
        Reference::Registry(_) | Reference::OciLayout { .. } | Reference::OciArchive { .. }
    );
    let Relabelled::Changed(changes) = relabelled else { return Ok(Found::default()) };
    if args.carry_referrers {
        return carry(source, &moved(changes, node));
    }
    if !keeps_any {
        return Ok(Found::default());
    }
    Ok(find(source, &moved(changes, node)).unwrap_or_else(|error| {
        let note = format!("referrers of the old image are unknown: cannot {error}");
        Found { notes: vec![note], ..Found::default() }
    }))
}

fn labels(
    args: &Fix,
    platform_source: PlatformSource,
    source: &dyn ImageSource,
    node: &TreeNode,
    pointer: &Pointer,
) -> Result<Labels, Error> {
    match platform_source {
        PlatformSource::Requested(labels) => Ok(labels),
        PlatformSource::Binaries => from_binaries(source, node, editable(&args.image, pointer).as_deref()),
    }
}

/// Overwrites what changes, if it fits where it stands. False: the archive must be written anew.
fn overwritten(
    args: &Fix,
    archive: Option<&DockerArchive>,
    relabelled: &Relabelled,
    node: &TreeNode,
    output: &Output,
) -> Result<bool, Error> {
    let Some(archive) = archive else {
        let why = "only docker-archive: and oci-archive: can be edited in place";
        let doing = format!("fix \"{}\" in place", args.image);
        return Err(Error::new(Exit::Usage, doing, why).hint("omit --in-place"));
    };
    let Relabelled::Changed(changes) = relabelled else { return Ok(false) };
    match archive.plan_in_place(node.digest(), &changes.rewrite(node))? {
        Ok(place) => {
            let (members, size) = (place.members(), text::format_bytes(place.bytes()));
            output.info(&format!("  in place  {members} members, {size}, of {}", args.image));
            if !args.dry_run {
                archive.apply_in_place(&place)?;
            }
            Ok(true)
        }
        Err(why) => {
            output.info(&format!("not possible in place: {why}; a new archive is written"));
            Ok(false)
        }
    }
}

/// The tags that follow: those named, else the one that was read. An archive's image keeps all its names.
fn tags_in_place(args: &Fix, store: &dyn ImageStore, pointer: &Pointer) -> Result<Vec<String>, Error> {
    if !args.tag.is_empty() {
        return Ok(args.tag.clone());
    }
    match (&args.image, pointer) {
        (Reference::Registry(image), _) => Ok(match (&image.tag, &image.digest) {
            (None, Some(_)) => Vec::new(),
            (tag, _) => vec![tag.clone().unwrap_or_else(|| "latest".into())],
        }),
        (Reference::DockerArchive { name: None, .. } | Reference::OciArchive { tag: None, .. }, pointer) => {
            let found = store.resolve(pointer)?.map(|found| found.digest);
            let mut tags = Vec::new();
            // The image may stand there once more without a name.
            for tag in store.tags()?.into_iter().chain([UNNAMED.to_string()]) {
                if store.resolve(&Pointer::Tag(tag.clone()))?.map(|named| named.digest) == found {
                    tags.push(tag);
                }
            }
            if let (true, Pointer::Tag(tag)) = (tags.is_empty(), pointer) {
                tags.push(tag.clone());
            }
            Ok(tags)
        }
        // The tag that was asked for is the last to move: until then a second run finds work to do.
        (_, Pointer::Tag(tag)) => {
            let mut tags = store.tags_of_same_entry(tag)?;
            tags.push(tag.clone());
            Ok(tags)
        }
        (_, Pointer::Digest(_)) => Ok(Vec::new()),
    }
}

/// New parts for an image that was just read: the tag that it was read by is known to name it.
fn plan_in_place(
    relabelled: &Relabelled,
    node: &TreeNode,
    pointer: &Pointer,
    store: &dyn ImageStore,
    tags: Vec<String>,
) -> Result<Plan, Error> {
    let Relabelled::Changed(changes) = relabelled else {
        return Ok(Plan { place: store.display_name(), ..Plan::default() });
    };
    let was = |tag: String| match *pointer == Pointer::Tag(tag.clone()) {
        true => Ok((tag, Some(node.digest().clone()))),
        false => {
            let named = store.resolve(&Pointer::Tag(tag.clone()))?;
            Ok((tag, named.map(|named| named.digest)))
        }
    };
    let tags = tags.into_iter().map(was).collect::<Result<Vec<_>, Error>>()?;
    plan_new(changes.in_place(), store.display_name(), tags)
}

fn plan_copy(
    relabelled: &Relabelled,
    node: &TreeNode,
    source: &Arc<dyn ImageSource>,
    target: &dyn ImageStore,
    tags: &[String],
) -> Result<Plan, Error> {
    let wanted = match relabelled {
        Relabelled::Unchanged => image_store::plan::WantedImage::copy_of(node, source),
        Relabelled::Changed(changes) => changes.elsewhere(node, source),
    };
    plan(wanted, target, tags)
}
