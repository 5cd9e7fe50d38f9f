//! `config-patcher fix`: declares the right platform, in place or in a copy.

use super::verify::row::editable;
use crate::TOOL;
use crate::advice;
use crate::from_binaries::{FromBinaries, from_binaries};
use crate::plan::{DuplicatePlatform, Relabeled, RequestedPlatforms, relabel};
use crate::referrers::{AttachedArtifacts, copy_referrers, find_referrers};
use crate::variants::proven_variants;
use clap::Args;
use cli::{Format, Output, suggest};
use error::{Error, Exit, text};
use image_model::manifest::Document;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::archive::{DockerArchive, InPlacePlan, OciArchive};
use image_store::open::{Stores, tags_to_move};
use image_store::plan::{MovedTag, Plan, Progress, TagStep, WantedImage, plan, plan_new};
use image_store::referrers;
use image_store::store::{ImageSource, ImageStore, Pointer};
use image_store::tree::{TreeNode, read_sparse_tree_below, refuse_unreadable};
use registry_client::meter::Meter;
use report::{FixReport, describe, print_changes};
use source::{PlatformSource, SourceArgs};
use std::collections::BTreeMap;
use std::sync::Arc;
use tag_journal::apply_recorded;

pub(super) mod report;
pub(super) mod source;

#[derive(Args)]
pub struct FixArgs {
    /// The image or index; `-` for a `docker save` stream on stdin
    pub(super) image: Reference,
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// Write the result to this image; IMAGE is not changed
    #[arg(long, short, value_name = "IMAGE")]
    pub(super) output: Option<Reference>,
    /// Format of the result on stdout; without the short form -o, which is --output here
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT", help_heading = "Output")]
    format: Format,
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
    /// Write although another tag loses this platform (repeatable)
    #[arg(long, value_name = "PLATFORM")]
    pub(super) drop: Vec<Platform>,
}

impl FixArgs {
    /// Returns whether the image is a stream on stdin, which goes to stdout.
    pub fn is_filter(&self) -> bool {
        self.image == Reference::Stdin
    }

    /// Returns the source of the right platform. Prints a warning if the options are deprecated.
    pub(super) fn platform_source(&self, output: &Output) -> Result<PlatformSource, Error> {
        let image = self.image.to_string();
        let (source, instead) = self.source.source(&image)?;
        if let Some(instead) = instead {
            let words = ["fix".into(), image].into_iter().chain(instead).chain(self.other_options());
            let words: Vec<String> = words.collect();
            let command = suggest(TOOL, &words.iter().map(String::as_str).collect::<Vec<_>>());
            output.warning_printer()(&format!(
                "--platform without --set-platform is deprecated and changes its meaning in 1.0; write: {command}"
            ));
        }
        Ok(source)
    }

    /// The options other than those of the platform source, as they are typed.
    fn other_options(&self) -> Vec<String> {
        let output = self.output.iter().map(|image| ["--output".into(), image.to_string()]);
        let tags = self.tag.iter().map(|tag| ["--tag".into(), tag.clone()]);
        let switches = [
            ("--check", self.check),
            ("--dry-run", self.dry_run),
            ("--in-place", self.in_place),
            ("--carry-referrers", self.carry_referrers),
            ("--force", self.force),
        ];
        let switches = switches.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name.to_string());
        let drops = self.drop.iter().map(|platform| ["--drop".into(), platform.to_string()]);
        output.chain(tags).chain(drops).flatten().chain(switches).collect()
    }

    /// # Errors
    /// Usage, if options do not go together with this kind of image.
    fn check(&self) -> Result<(), Error> {
        for tag in &self.tag {
            self.image.check_tag(tag).map_err(|e| Error::new(Exit::Usage, "move the tag", e.to_string()))?;
        }
        let stores_referrers = matches!(self.image, Reference::Registry(_) | Reference::OciLayout { .. });
        if self.carry_referrers && !stores_referrers {
            let doing = format!("copy the referrers of \"{}\"", self.image);
            let why = "only registries and OCI layouts store referrers";
            return Err(Error::new(Exit::Usage, doing, why).hint("omit --carry-referrers"));
        }
        let is_archive = matches!(self.image, Reference::DockerArchive { .. } | Reference::OciArchive { .. });
        if self.in_place && !is_archive {
            let doing = format!("fix \"{}\" in place", self.image);
            let why = "only docker-archive: and oci-archive: can be edited in place";
            return Err(Error::new(Exit::Usage, doing, why).hint("omit --in-place"));
        }
        Ok(())
    }
}

/// Fixes one image or index: reads it, decides what to write, shows that, and writes it.
pub fn run(args: &FixArgs, stores: &Stores, output: &Output) -> Result<Exit, Error> {
    args.check()?;
    let source = args.platform_source(output)?;
    let opened = open(args, stores)?;
    let node = read(args, &source, &opened)?;
    let fix = decide(args, source, stores, &opened, &node)?;
    show(&fix, &node, output);
    if let Some(plan) = fix.plan.store_plan() {
        plan.refuse_drops(&args.drop)?;
    }
    let attached = match &fix.plan {
        FixPlan::None => find_attached(args, &opened, &fix, &node)?,
        FixPlan::InPlace { .. } | FixPlan::Store { .. } if args.dry_run => {
            find_attached(args, &opened, &fix, &node)?
        }
        plan => {
            write(args, &node, plan, &stores.meter(), output, &|| find_attached(args, &opened, &fix, &node))?
        }
    };
    let report = FixReport { relabeled: &fix.relabeled, kept: &fix.kept, node: &node, output };
    if args.check {
        report.print_check(&attached);
        return Ok(if fix.relabeled.is_unchanged() { Exit::Done } else { Exit::CheckFailed });
    }
    report.print(&attached, fix.plan.store_plan(), !args.dry_run);
    if args.dry_run {
        output.end_dry_run();
    }
    Ok(Exit::Done)
}

/// The image or index of the command line, in its store.
struct OpenedImage {
    source: Arc<dyn ImageSource>,
    /// The store again, if the result is written to it.
    store: Option<Arc<dyn ImageStore>>,
    /// The store again, if it is an archive that is edited in place.
    archive: Option<Arc<DockerArchive>>,
    pointer: Pointer,
}

/// Opens the store of the image: for writing only if the result goes there.
fn open(args: &FixArgs, stores: &Stores) -> Result<OpenedImage, Error> {
    if args.output.is_some() || args.check {
        let opened = stores.source(&args.image)?;
        return Ok(OpenedImage { source: opened.store, store: None, archive: None, pointer: opened.pointer });
    }
    if let Some(archive) = open_for_edit(args, stores)? {
        let pointer = archive.only_image()?;
        let archive = Arc::new(archive);
        return Ok(OpenedImage {
            source: archive.clone(),
            store: Some(archive.clone()),
            archive: Some(archive),
            pointer,
        });
    }
    let opened = stores.image(&args.image)?;
    let (store, pointer) = (opened.store, opened.pointer);
    Ok(OpenedImage { source: store.clone(), store: Some(store), archive: None, pointer })
}

fn open_for_edit(args: &FixArgs, stores: &Stores) -> Result<Option<DockerArchive>, Error> {
    Ok(match &args.image {
        Reference::DockerArchive { file, name } if args.in_place => {
            Some(DockerArchive::open(file, name.as_deref())?.with_temp_files(stores.temp_files()))
        }
        Reference::OciArchive { file, tag, digest } if args.in_place => {
            let name = digest.as_ref().map(ToString::to_string).or(tag.clone());
            let archive = OciArchive::open(file, name.as_deref())?.with_temp_files(stores.temp_files());
            Some(archive.into_archive())
        }
        _ => None,
    })
}

/// Reads the image or index. If its config will most likely be replaced, the upload of the new one is begun meanwhile.
fn read(args: &FixArgs, source: &PlatformSource, opened: &OpenedImage) -> Result<TreeNode, Error> {
    let document = opened.source.read_document(&opened.pointer)?;
    let is_requested = matches!(source, PlatformSource::Requested(RequestedPlatforms::Image(_)));
    let is_likely = is_requested && !document.is_index() && !args.dry_run;
    std::thread::scope(|scope| {
        if let (true, Some(store)) = (is_likely, &opened.store) {
            scope.spawn(|| store.prepare_blob_write());
        }
        let node = read_sparse_tree_below(&*opened.source, document)?;
        refuse_unreadable(&node.leaves())?;
        Ok(node)
    })
}

/// The changes of a fix, and its writes.
struct FixDecision {
    relabeled: Relabeled,
    /// Why images keep their platform, each a sentence.
    kept: Vec<String>,
    plan: FixPlan,
}

/// The writes of a fix: [`show`] prints them, [`write`] makes them.
#[expect(clippy::large_enum_variant, reason = "one value per run")]
enum FixPlan {
    /// `--check`: no writes.
    None,
    /// The changed parts of an archive are overwritten.
    InPlace { edit: InPlacePlan, archive: Arc<DockerArchive>, image: String },
    /// Blobs, manifests and tags are written to a store; before them, copies of the referrers.
    Store {
        plan: Plan,
        /// Set with `--carry-referrers`.
        attached: Option<AttachedArtifacts>,
        store: Arc<dyn ImageStore>,
        /// Why the archive is not edited in place, although that was requested.
        not_in_place: Option<String>,
    },
}

impl FixPlan {
    fn store_plan(&self) -> Option<&Plan> {
        match self {
            Self::Store { plan, .. } => Some(plan),
            Self::None | Self::InPlace { .. } => None,
        }
    }
}

/// Decides what changes, and plans the writes. Nothing is written here.
///
/// # Errors
/// Check failed, if an index would have two images for one platform.
fn decide(
    args: &FixArgs,
    source: PlatformSource,
    stores: &Stores,
    opened: &OpenedImage,
    node: &TreeNode,
) -> Result<FixDecision, Error> {
    let editable = editable(&args.image, &opened.pointer);
    let FromBinaries { requested, kept } =
        requested_platforms(source, &*opened.source, node, editable.as_deref())?;
    let relabeled = relabel(node, &requested, &args.image.to_string())?;
    if !args.force {
        let way_out = "--force does it anyway";
        refuse_duplicates(&args.image, editable.as_deref(), &relabeled, node, way_out)?;
    }
    let plan = plan_writes(args, stores, opened, node, &relabeled)?;
    Ok(FixDecision { relabeled, kept, plan })
}

/// The platforms to declare, and why images keep theirs.
fn requested_platforms(
    platform_source: PlatformSource,
    source: &dyn ImageSource,
    node: &TreeNode,
    editable: Option<&str>,
) -> Result<FromBinaries, Error> {
    match platform_source {
        PlatformSource::Requested(requested) => Ok(FromBinaries { requested, kept: Vec::new() }),
        PlatformSource::Binaries => from_binaries(source, node, editable),
        PlatformSource::Variants => proven_variants(source, node, editable),
    }
}

/// Two images for one platform make one of the two unreachable.
pub(super) fn refuse_duplicates(
    image: &Reference,
    editable: Option<&str>,
    relabeled: &Relabeled,
    node: &TreeNode,
    way_out: &str,
) -> Result<(), Error> {
    let Relabeled::Changed(changes) = relabeled else { return Ok(()) };
    let Some(duplicate) = changes.duplicates.first() else { return Ok(()) };
    let DuplicatePlatform { member, old, new, twin, is_lost } = duplicate;
    let entry = node.images().into_iter().find_map(|(entry, _)| entry.filter(|entry| *entry == member));
    let doing = format!("fix {} ({old}) of \"{image}\"", member.digest);
    let why = format!("{}; the other one is {twin}", advice::consequence(old, new, true, *is_lost));
    let hint = advice::steps_text(&advice::way_out(node, entry, old, editable));
    Err(Error::new(Exit::CheckFailed, doing, why).hint(format!("{hint}; {way_out}")))
}

fn plan_writes(
    args: &FixArgs,
    stores: &Stores,
    opened: &OpenedImage,
    node: &TreeNode,
    relabeled: &Relabeled,
) -> Result<FixPlan, Error> {
    if args.check {
        return Ok(FixPlan::None);
    }
    let mut not_in_place = None;
    if let (Some(archive), Relabeled::Changed(changes)) = (&opened.archive, relabeled) {
        match archive.plan_in_place(node.digest(), &changes.for_archive(node))? {
            Ok(edit) => {
                let image = args.image.to_string();
                return Ok(FixPlan::InPlace { edit, archive: archive.clone(), image });
            }
            Err(why) => not_in_place = Some(why),
        }
    }
    let (plan, store) = match (&args.output, &opened.store) {
        (Some(to), _) => {
            let target = stores.target(to)?;
            (plan_copy(relabeled, node, &opened.source, &*target.store, &target.tags)?, target.store)
        }
        (None, Some(store)) => {
            let tags = match args.tag.as_slice() {
                [] => tags_to_move(&args.image, &**store, &opened.pointer)?,
                tags => tags.to_vec(),
            };
            (plan_update(relabeled, node, &opened.pointer, &**store, tags)?, store.clone())
        }
        (None, None) => return Ok(FixPlan::None),
    };
    let attached = match relabeled {
        Relabeled::Changed(changes) if args.carry_referrers => {
            Some(copy_referrers(&*opened.source, &changes.replaced(node))?)
        }
        Relabeled::Unchanged if args.carry_referrers => Some(AttachedArtifacts::default()),
        _ => None,
    };
    Ok(FixPlan::Store { plan, attached, store, not_in_place })
}

/// Prints the changes and the writes.
fn show(fix: &FixDecision, node: &TreeNode, output: &Output) {
    print_changes(&fix.relabeled, node, &fix.kept, output);
    match &fix.plan {
        FixPlan::None => {}
        FixPlan::InPlace { edit, image, .. } => {
            let (members, size) = (edit.members(), text::format_bytes(edit.bytes()));
            output.info(&format!("  in place  {members} members, {size}, of {image}"));
        }
        FixPlan::Store { plan, attached, not_in_place, .. } => {
            if let Some(why) = not_in_place {
                output.info(&format!("not possible in place: {why}; a new archive is written"));
            }
            output.info_lines(&plan.to_string());
            if let Some(attached) = attached {
                output.info_lines(&referrers::describe(&attached.steps, &plan.place));
            }
        }
    }
}

/// Makes the writes of the plan. Returns what is attached to the old image: `find` reads it.
fn write(
    args: &FixArgs,
    node: &TreeNode,
    plan: &FixPlan,
    meter: &Meter,
    output: &Output,
    find: &(dyn Fn() -> Result<AttachedArtifacts, Error> + Sync),
) -> Result<AttachedArtifacts, Error> {
    match plan {
        FixPlan::None => find(),
        FixPlan::InPlace { edit, archive, .. } => {
            archive.apply_in_place(edit)?;
            find()
        }
        FixPlan::Store { plan, attached, store, .. } => {
            let write = || {
                let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
                let target = args.output.as_ref().unwrap_or(&args.image);
                let report = |progress: Progress<'_>| output.verbose_info(&describe(&progress));
                apply_recorded(plan, &**store, target, moved, meter, &report)
                    .map_err(|error| with_removal(error, args, node))
            };
            if let Some(attached) = attached {
                // Before the tag moves: a second run finds all platforms correct and would copy nothing.
                referrers::apply(&attached.steps, &**store)?;
                write()?;
                return Ok(attached.clone());
            }
            // Reading and writing at the same time takes no longer than writing alone.
            std::thread::scope(|scope| {
                let found = scope.spawn(find);
                write()?;
                found.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        }
    }
}

/// Adds the way out to the error of a store that refuses an index with absent members.
fn with_removal(error: Error, args: &FixArgs, node: &TreeNode) -> Error {
    let removed = node.absent_platforms();
    if error.kind != Exit::BadInput || removed.is_empty() {
        return error;
    }
    let image = args.image.to_string();
    let mut words = vec!["edit", &image];
    words.extend(removed.iter().flat_map(|platform| ["--remove", platform]));
    let command = suggest("manifest-push", &words);
    error.hint(format!("members of the index are absent; to remove them, run: {command}"))
}

/// Finds what is attached to the old image, unless it is known. A fix does not depend on it: a failure is a note.
fn find_attached(
    args: &FixArgs,
    opened: &OpenedImage,
    fix: &FixDecision,
    node: &TreeNode,
) -> Result<AttachedArtifacts, Error> {
    if let FixPlan::Store { attached: Some(attached), .. } = &fix.plan {
        return Ok(attached.clone());
    }
    let Relabeled::Changed(changes) = &fix.relabeled else { return Ok(AttachedArtifacts::default()) };
    if args.carry_referrers {
        return copy_referrers(&*opened.source, &changes.replaced(node));
    }
    let may_have_any = matches!(
        args.image,
        Reference::Registry(_) | Reference::OciLayout { .. } | Reference::OciArchive { .. }
    );
    if !may_have_any {
        return Ok(AttachedArtifacts::default());
    }
    Ok(find_referrers(&*opened.source, &changes.replaced(node)).unwrap_or_else(|error| {
        let note = format!("referrers of the old image are unknown: cannot {error}");
        AttachedArtifacts { notes: vec![note], ..AttachedArtifacts::default() }
    }))
}

/// Plans the new parts of an image in its own store. The tag by which it was read gets the platform that the fix declares;
/// other tags may lose platforms.
fn plan_update(
    relabeled: &Relabeled,
    node: &TreeNode,
    pointer: &Pointer,
    store: &dyn ImageStore,
    tags: Vec<String>,
) -> Result<Plan, Error> {
    let Relabeled::Changed(changes) = relabeled else {
        return Ok(Plan { place: store.display_name(), ..Plan::default() });
    };
    let wanted = changes.new_parts();
    let mut with_old_digest = Vec::new();
    let mut others = BTreeMap::new();
    for tag in tags {
        if *pointer == Pointer::Tag(tag.clone()) {
            with_old_digest.push((tag, Some(node.digest().clone())));
            continue;
        }
        let now = store.read_tag(&tag)?;
        with_old_digest.push((tag.clone(), now.as_ref().map(|now| now.descriptor.digest.clone())));
        // Another tag of the image that is fixed is fixed, too.
        let other = now.and_then(|now| now.document).filter(|now| now.digest() != node.digest());
        others.insert(tag, other);
    }
    let mut plan = plan_new(wanted.clone(), store.display_name(), with_old_digest)?;
    let replaced: Vec<(&TagStep, Option<Document>)> =
        plan.tags.iter().filter_map(|step| others.remove(&step.tag).map(|now| (step, now))).collect();
    plan.drops = wanted.drops(store, &replaced)?;
    Ok(plan)
}

/// Plans a copy of the image, with its changes, in another store.
fn plan_copy(
    relabeled: &Relabeled,
    node: &TreeNode,
    source: &Arc<dyn ImageSource>,
    target: &dyn ImageStore,
    tags: &[String],
) -> Result<Plan, Error> {
    let hint = "the copy would be incomplete too; fix the image in its place, without --output";
    node.require_complete().map_err(|error| error.hint(hint))?;
    let wanted = match relabeled {
        Relabeled::Unchanged => WantedImage::copy_of(node, source)?,
        Relabeled::Changed(changes) => changes.complete(node, source),
    };
    let mut plan = plan(wanted, target, tags)?;
    // A copy of the image that is fixed is fixed, too.
    let copies: Vec<&str> = plan
        .tags
        .iter()
        .filter(|step| step.was.as_ref() == Some(node.digest()))
        .map(|step| step.tag.as_str())
        .collect();
    plan.drops.retain(|dropped| !copies.contains(&dropped.tag.as_str()));
    Ok(plan)
}
