//! `config-patcher verify`: platform metadata verified against the binaries.

mod html;
mod image_report;
mod json;
mod junit;
mod needs;
mod reports;
mod results;
pub(super) mod row;
mod sarif;
mod text;

use crate::compatibility::ReaderSelector;
use crate::select::{images_for, is_for};
use clap::Args;
use cli::{Format, Output, print_json};
use error::Error;
use error::Exit;
use error::text::format_bytes;
use image_evidence::verify::cache::LayerCache;
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::manifest::Descriptor;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_report::{ImageReport, Questions};
use image_store::archive::{DockerArchive, OciArchive};
use image_store::open::Stores;
use image_store::parallel;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{TreeNode, read_manifests, read_sparse_tree};
use reports::Reports;
use results::Results;
use row::{NotJudged, RequestedImage, Row};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Args)]
pub struct VerifyArgs {
    /// The images or indexes
    #[arg(required_unless_present = "all_tags")]
    image: Vec<Reference>,
    /// Verify all tags of this repository; of a layout or archive, images without a tag as well (repeatable)
    #[arg(long, value_name = "REPO")]
    all_tags: Vec<Reference>,
    /// Verify only this platform of an index
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Exit with 1 unless the image has these platforms, separated by commas (repeatable)
    ///
    /// The manifests answer: the layers need not be readable. Attestations do not count.
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    require: Vec<Platform>,
    /// Exit with 1 unless the image has all platforms of this image
    #[arg(long, value_name = "IMAGE")]
    like: Option<Reference>,
    /// Exit with 1 also for notes about what these readers cannot pull: podman, docker-20.10, ... (repeatable)
    ///
    /// Separated by commas. A name without a version means all versions that were measured.
    #[arg(long, value_name = "READER", value_delimiter = ',')]
    readers: Vec<ReaderSelector>,
    /// Read no layers: check required platforms and compatibility only
    #[arg(long, conflicts_with_all = ["strict", "explain", "quick", "full", "cpu", "deep"])]
    no_layers: bool,
    /// Print only the rows of images that need attention; JSON, SARIF and JUnit are not affected
    #[arg(long)]
    only_problems: bool,
    /// Exit with 1 for "foreign payload" and "undetermined" as well, and do not use tables of contents of layers
    #[arg(long)]
    strict: bool,
    /// Print the executed chain: every file that a container start would execute or load
    #[arg(long)]
    explain: bool,
    /// The highest CPU level that the executed chain may need, such as linux/amd64/v2 (repeatable, one for each architecture)
    ///
    /// A file that records a higher level, by a property note, build attributes or the settings of Go, is exit code 1. Every
    /// layer is read, unless --quick is given.
    #[arg(long, value_name = "PLATFORM", value_parser = needs::parse_limit)]
    cpu: Vec<Platform>,
    /// Stop reading once the program and its loader are found and match [default for registries]
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Read every layer completely, unless an earlier run did [default for local images]
    #[arg(long)]
    full: bool,
    /// Also read archives: report natives in .jar, .war, .ear and .whl files that the image's platform cannot load
    #[arg(long, conflicts_with = "quick")]
    deep: bool,
    /// Do not use or update the cache of what earlier runs found in layers
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    reports: Reports,
}

pub fn run(args: &VerifyArgs, stores: &Stores, output: &Output) -> Result<Exit, Error> {
    needs::check_limits(&args.cpu)?;
    // Before the layers are read, which may take minutes.
    args.reports.check(stores.temp_files())?;
    let references = references(args, stores)?;
    let (requested, required) = read(args, &references, stores)?;
    let platform = args.platform.as_ref();
    let questions = Questions { required: &required, readers: &args.readers, selected: platform };
    let mut reports: Vec<ImageReport<'_>> =
        requested.iter().filter_map(|requested| ImageReport::new(requested, &questions)).collect();
    let cache = if args.no_cache || args.no_layers { None } else { cache(stores, output) };
    let rows = if args.no_layers { Vec::new() } else { judge_all(&requested, args, cache.as_ref(), output) };
    let chunks = rows.chunk_by(|a, b| std::ptr::eq(a.requested, b.requested));
    let chunks: BTreeMap<_, _> = chunks.map(|rows| (std::ptr::from_ref(rows[0].requested), rows)).collect();
    for report in &mut reports {
        report.advise(chunks.get(&std::ptr::from_ref(report.requested)).copied().unwrap_or_default());
    }
    drop(chunks);
    let has_images =
        if args.no_layers { reports.iter().any(ImageReport::has_images) } else { !rows.is_empty() };
    let is_empty = !has_images && requested.iter().all(|requested| requested.node.is_ok());
    let (strict, only_problems) = (args.strict, args.only_problems);
    let results = Results { requested: &requested, rows: &rows, reports: &reports, strict, only_problems };
    let shows_image = requested.len() > 1 || !args.all_tags.is_empty();
    match output.format {
        _ if is_empty => {}
        Format::Json => print_json(&json::text(&results)),
        Format::Text => text::print(&results, shows_image, args),
    }
    args.reports.write(stores.temp_files(), &results)?;
    if shows_image && !args.no_layers {
        output.info(&results.summary().to_string());
    }
    let found = if results.is_wrong() { Exit::CheckFailed } else { Exit::Done };
    let mut failed: Vec<Error> = rows
        .into_iter()
        .filter_map(|row| match row.finding {
            Err(NotJudged::Failed(error)) => Some(error),
            Ok(_) | Err(NotJudged::Incomplete(_)) => None,
        })
        .collect();
    drop(reports);
    let unread = requested.into_iter().filter(|requested| !requested.is_absent());
    failed.extend(unread.filter_map(|requested| requested.node.err()));
    if is_empty {
        return Err(
            Error::bad_input("verify", "it contains no image").hint("specify an image, not an artifact")
        );
    }
    outcome(found, failed)
}

/// Reads all images, and the image of `--like`, at once. Returns them with the platforms that each must have.
///
/// # Errors
/// Those of the image of `--like`.
fn read(
    args: &VerifyArgs,
    references: &[ToRead],
    stores: &Stores,
) -> Result<(Vec<RequestedImage>, Vec<Platform>), Error> {
    let at_once = stores.concurrency(parallel::REQUESTS);
    let like = args.like.as_ref().map(|image| stores.source(image)).transpose()?;
    std::thread::scope(|scope| {
        let like = like.as_ref().map(|like| scope.spawn(|| read_manifests(&*like.store, &like.pointer)));
        let requested = parallel::map(references, at_once, |reference| Ok::<_, Error>(reference.read(args)))?;
        let mut required = args.require.clone();
        if let Some(like) = like {
            let node = like.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let more = image_report::platforms(&node);
            required.extend(more.into_iter().filter(|platform| !args.require.contains(platform)));
        }
        Ok((requested, required))
    })
}

/// The cache of the user, if it can be used.
pub(super) fn cache(stores: &Stores, output: &Output) -> Option<LayerCache> {
    let cache = LayerCache::for_user(stores.temp_files());
    cache.map_err(|error| output.verbose_info(&format!("no cache is used: cannot {error}"))).ok()
}

/// An image or index that will be read.
struct ToRead {
    name: String,
    source: Arc<dyn ImageSource>,
    pointer: Pointer,
    depth: VerifyDepth,
    editable: Option<String>,
    /// Not one of `--all-tags`: it must have the platform of `--platform`.
    is_explicit: bool,
}

fn references(args: &VerifyArgs, stores: &Stores) -> Result<Vec<ToRead>, Error> {
    let mut references = Vec::new();
    for reference in &args.image {
        let opened = stores.source(reference)?;
        references.push(ToRead {
            name: reference.to_string(),
            editable: row::editable(reference, &opened.pointer),
            source: opened.store,
            pointer: opened.pointer,
            depth: depth(args, reference),
            is_explicit: true,
        });
    }
    for reference in &args.all_tags {
        let store = whole_store(stores, reference)?;
        for tag in store.tags()? {
            let name = format!("{}:{tag}", store.display_name());
            let pointer = Pointer::Tag(tag);
            references.push(ToRead {
                editable: name.parse().ok().and_then(|parsed| row::editable(&parsed, &pointer)),
                name,
                source: store.clone(),
                pointer,
                depth: depth(args, reference),
                is_explicit: false,
            });
        }
        references.extend(store.untagged()?.into_iter().map(|digest| ToRead {
            name: format!("{}@{digest}", store.display_name()),
            editable: None,
            source: store.clone(),
            pointer: Pointer::Digest(digest),
            depth: depth(args, reference),
            is_explicit: false,
        }));
    }
    Ok(references)
}

impl ToRead {
    fn read(&self, args: &VerifyArgs) -> RequestedImage {
        let platform = args.platform.as_ref();
        let read = if args.no_layers { read_manifests } else { read_sparse_tree };
        let mut node = read(&*self.source, &self.pointer);
        if self.is_explicit {
            node = node.and_then(|node| images_for(&node, platform, &self.name).map(drop).map(|()| node));
        }
        let (name, source, editable) = (self.name.clone(), self.source.clone(), self.editable.clone());
        RequestedImage { name, source, depth: self.depth, node, is_explicit: self.is_explicit, editable }
    }
}

/// The store of a reference without a tag or digest.
///
/// # Errors
/// Usage, if the reference has a tag or digest.
fn whole_store(stores: &Stores, reference: &Reference) -> Result<Arc<dyn ImageSource>, Error> {
    if reference.tag().is_some() || reference.digest().is_some() {
        let doing = format!("verify all tags of \"{reference}\"");
        let error = Error::new(Exit::Usage, doing, "it has a tag or digest");
        return Err(error.hint("omit the tag, or --all-tags"));
    }
    // `stores.source` would choose the only image of a layout or archive, and fail if there are several.
    Ok(match reference {
        Reference::OciLayout { dir, .. } => Arc::new(OciLayout::open(dir)?),
        Reference::OciArchive { file, .. } => Arc::new(OciArchive::open(file, None)?),
        Reference::DockerArchive { file, .. } => Arc::new(DockerArchive::open(file, None)?),
        other => stores.source(other)?.store,
    })
}

fn depth(args: &VerifyArgs, reference: &Reference) -> VerifyDepth {
    let is_remote = matches!(reference, Reference::Registry(_));
    // A library in a layer that is not read may need more than --cpu allows.
    let is_complete = args.full || args.deep || !args.cpu.is_empty();
    if args.quick || (is_remote && !is_complete) { VerifyDepth::Quick } else { VerifyDepth::Full }
}

fn judge_all<'a>(
    requested: &'a [RequestedImage],
    args: &VerifyArgs,
    kept: Option<&LayerCache>,
    output: &Output,
) -> Vec<Row<'a>> {
    let platform = args.platform.as_ref();
    let mut placed = Vec::new();
    for depth in [VerifyDepth::Quick, VerifyDepth::Full] {
        let mut wanted = Vec::new();
        let mut subjects = Vec::new();
        let of_depth = requested.iter().enumerate().filter(|(_, requested)| requested.depth == depth);
        for (number, requested) in of_depth {
            let Ok(node) = &requested.node else { continue };
            for (at, (entry, node)) in node.leaves().into_iter().enumerate() {
                if platform.is_some_and(|platform| !is_for(&(entry, node), platform)) {
                    continue;
                }
                let place = (number, at);
                match node {
                    TreeNode::Image(image) => {
                        let config = image.config.as_ref().filter(|_| image.is_runnable());
                        let Some(config) = config else { continue };
                        wanted.push((place, requested, entry, node));
                        let platform = &config.parsed.platform;
                        subjects.push(VerifyTarget { source: &*requested.source, image, platform });
                    }
                    // Containers start without their attestations.
                    TreeNode::Unread(unread) if entry.is_none_or(|e| e.attested_digest().is_none()) => {
                        let finding = Err(row::not_judged(unread));
                        placed.push((place, Row::new(requested, entry, node, finding)));
                    }
                    TreeNode::Unread(_) | TreeNode::Index(_) => {}
                }
            }
        }
        let say = |layer: &Descriptor| {
            output.verbose_info(&format!("reading layer {} ({})", layer.digest, format_bytes(layer.size)))
        };
        let options =
            VerifyOptions { depth, on_layer: &say, cache: kept, tables: !args.strict, deep: args.deep };
        let findings = verify_all(&subjects, &options);
        let found = wanted.into_iter().zip(&subjects).zip(findings);
        placed.extend(found.map(|(((place, requested, entry, node), subject), finding)| {
            let finding = finding.map_err(|error| absent_layers(subject, error));
            (place, Row::new(requested, entry, node, finding))
        }));
    }
    // In the order of the request; members in the order of their index.
    placed.sort_by_key(|(place, _)| *place);
    let mut rows: Vec<Row<'_>> = placed.into_iter().map(|(_, row)| row).collect();
    rows.iter_mut().for_each(|row| row.limit_cpu(&args.cpu));
    for rows in rows.chunk_by_mut(|a, b| std::ptr::eq(a.requested, b.requested)) {
        row::advise(rows, platform);
    }
    rows
}

/// What is missing of an image of which a layer was not found. Only then the store is asked for each layer.
pub(super) fn absent_layers(target: &VerifyTarget<'_>, error: Error) -> NotJudged {
    if error.kind != Exit::NotFound {
        return NotJudged::Failed(error);
    }
    let layers = &target.image.manifest.layers;
    let at_once = target.source.concurrency(parallel::LOOKUPS);
    let present = match parallel::map(layers, at_once, |layer| target.source.has_blob(layer)) {
        Ok(present) => present,
        Err(error) => return NotJudged::Failed(error),
    };
    let absent = layers.iter().zip(present).filter(|(_, present)| !present);
    let absent: Vec<String> = absent.map(|(layer, _)| format!("layer {} is absent", layer.digest)).collect();
    if absent.is_empty() { NotJudged::Failed(error) } else { NotJudged::Incomplete(absent) }
}

/// The exit code: that of the first error if something could not be read, because the result is incomplete then.
fn outcome(found: Exit, mut failed: Vec<Error>) -> Result<Exit, Error> {
    if failed.is_empty() {
        return Ok(found);
    }
    let first = failed.remove(0);
    Err(first.problems(failed.iter().map(|error| format!("cannot {error}")).collect()))
}
