//! Verification of images: their layers are read, and the evidence is compared with the declared platform.
//!
//! Layers are read through [`ImageSource`] and never extracted, each once, even if several images share it.

pub mod cache;
mod reading;

use crate::chain::{self, ChainRole, ChainStep, ExecutedChain, display_path};
use crate::cpu::CpuMark;
use crate::file::FileFacts;
use crate::layer::{LayerFacts, LayerOutcome, NameHasher};
use crate::needs::{Needs, needs};
use crate::overlay::{LOOKUPS_MAX, LookupBudget, OverlayTree};
use crate::verdict::{
    ArchiveEvidence, Evidence, EvidenceFile, LevelGroup, ProgramGroup, Verdict, VerdictKind, is_wasm, judge,
};
use cache::LayerCache;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Config, Descriptor};
use image_model::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::Image;
use reading::{LayerKey, LayerRequest, LayersRead};
use std::collections::{BTreeMap, BTreeSet};

/// Amount of data that is read of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// From the top layer down, until the program of the image is known and was built for the declared platform. Any other
    /// verdict requires all layers.
    Quick,
    /// Every layer, to its last byte.
    Full,
}

/// An image to verify.
#[derive(Clone, Copy)]
pub struct VerifyTarget<'a> {
    /// The store that has its layers.
    pub source: &'a dyn ImageSource,
    /// The image.
    pub image: &'a Image,
    /// The platform that it should be for, usually the declared one.
    pub platform: &'a Platform,
}

/// The result for one image.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// The executed chain: what a container executes and loads, in the order in which it was found.
    pub chain: Vec<EvidenceFile>,
    /// The files that are executed one after the other, scripts included.
    pub steps: Vec<ChainStep>,
    /// The places where the chain could not be followed further.
    pub gaps: Vec<String>,
    /// All programs by platform, in the layers that were read.
    pub programs: Vec<ProgramGroup>,
    /// The CPU level that the image needs.
    pub needs: Needs,
    /// The number of layers.
    pub layers: usize,
    /// The number of layers that were read, in this run or an earlier one.
    pub layers_read: usize,
    /// Number of those that came from the cache.
    pub layers_cached: usize,
    /// Number of those of which only the table of contents and some files were read. The table is what the image says about
    /// itself: engines that do not read it may find other files.
    pub layers_by_table: usize,
    /// Layers that cannot be read, with the reason.
    pub skipped: Vec<(Digest, String)>,
    /// Bytes of stored layers that were read in this run.
    pub bytes_read: u64,
}

/// The number of layers of an image. Linux mounts at most 500 as an overlay; Docker has at most 127.
const LAYERS_MAX: usize = 1_000;
/// The number of images that are verified together. Layers that they share stay in memory until the last of them is done.
const BATCH: usize = 16;
/// The number of examples in a [`ProgramGroup`].
const EXAMPLES: usize = 5;

/// Verifies one image and reads all of its layers. `platform` is what its metadata declares or will declare.
///
/// # Errors
/// `BadInput` for an image without a config or with invalid layers; `Integrity` for a layer that differs from its digest;
/// otherwise as the store.
pub fn verify_image(source: &dyn ImageSource, image: &Image, platform: &Platform) -> Result<Finding, Error> {
    let target = VerifyTarget { source, image, platform };
    let mut findings = verify_all(&[target], &VerifyOptions::new(VerifyDepth::Full));
    findings.pop().unwrap_or_else(|| Err(Error::bad_input("verify an image", "there is no finding")))
}

/// Options of [`verify_all`].
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Amount of data to read.
    pub depth: VerifyDepth,
    /// Called for each layer that is about to be read.
    pub on_layer: &'a (dyn Fn(&Descriptor) + Sync),
    /// Evidence of earlier runs.
    pub cache: Option<&'a LayerCache>,
    /// Whether a quick verification may read the table of contents of a layer instead of the layer.
    pub tables: bool,
    /// Whether archives in the layers (jar, war, ear, wheel) are read as well. They are weak evidence.
    pub deep: bool,
}

impl VerifyOptions<'_> {
    /// Options without a callback and without a cache.
    pub fn new(depth: VerifyDepth) -> Self {
        Self { depth, on_layer: &|_| {}, cache: None, tables: true, deep: false }
    }
}

/// Verifies images and returns the results in the same order. A layer that several images share is read once. An image that
/// cannot be read does not stop the others.
pub fn verify_all(targets: &[VerifyTarget<'_>], options: &VerifyOptions<'_>) -> Vec<Result<Finding, Error>> {
    let hasher = options.cache.map_or_else(NameHasher::random, |cache| cache.hasher().clone());
    let mut cache = LayersRead { hasher, layers: BTreeMap::new() };
    let mut findings = Vec::with_capacity(targets.len());
    let mut rest = targets;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(BATCH));
        findings.extend(verify_some(now, options, &mut cache));
        rest = later;
        let needed: BTreeSet<LayerKey> = rest.iter().flat_map(|target| keys(target.image)).collect();
        cache.layers.retain(|key, _| needed.contains(key));
    }
    findings
}

fn keys(image: &Image) -> Vec<LayerKey> {
    let diff_ids = image.config.as_ref().map_or(&[][..], |config| &config.parsed.diff_ids);
    image
        .manifest
        .layers
        .iter()
        .enumerate()
        .map(|(i, layer)| (layer.digest.clone(), diff_ids.get(i).cloned()))
        .collect()
}

/// An image that is being verified.
struct Work<'a> {
    target: VerifyTarget<'a>,
    keys: Vec<LayerKey>,
    /// For all steps together.
    budget: LookupBudget,
    done: Option<Result<Finding, Error>>,
}

fn verify_some(
    targets: &[VerifyTarget<'_>],
    options: &VerifyOptions<'_>,
    cache: &mut LayersRead,
) -> Vec<Result<Finding, Error>> {
    let mut works: Vec<Work<'_>> = targets
        .iter()
        .map(|target| Work {
            target: *target,
            keys: keys(target.image),
            budget: LookupBudget::default(),
            done: check_counts(target).err().map(Err),
        })
        .collect();
    let mut depths = vec![options.depth; works.len()];
    loop {
        // Decide what can be decided, and collect what must be read for the others, each layer once.
        let mut wanted: BTreeMap<LayerKey, LayerRequest> = BTreeMap::new();
        for (number, work) in works.iter_mut().enumerate() {
            if work.done.is_some() {
                continue;
            }
            match step(work, &mut depths[number], cache) {
                Step::Done(result) => work.done = Some(*result),
                Step::Read(layers) => {
                    for layer in layers {
                        let key = work.keys[layer].clone();
                        let more = LayerRequest::layer(number, &work.target, layer, depths[number]);
                        wanted.entry(key).and_modify(|wanted| wanted.merge(&more)).or_insert(more);
                    }
                }
                Step::Files(files) => {
                    for (layer, path) in files {
                        let key = work.keys[layer].clone();
                        let more = LayerRequest::file(number, &work.target, layer, path);
                        wanted.entry(key).and_modify(|wanted| wanted.merge(&more)).or_insert(more);
                    }
                }
            }
        }
        if wanted.is_empty() {
            break;
        }
        reading::read(targets, wanted, options, cache);
    }
    let unfinished = || Err(Error::bad_input("verify an image", "there is no finding"));
    works.into_iter().map(|work| work.done.unwrap_or_else(unfinished)).collect()
}

fn check_counts(target: &VerifyTarget<'_>) -> Result<(), Error> {
    let image = target.image;
    let doing = || format!("verify {} of \"{}\"", image.document.digest(), target.source.display_name());
    let Some(config) = &image.config else {
        return Err(Error::bad_input(doing(), "it has no image config").hint("name a container image"));
    };
    let (layers, diff_ids) = (image.manifest.layers.len(), config.parsed.diff_ids.len());
    if layers != diff_ids {
        let why = format!("its manifest has {layers} layers, its config lists {diff_ids}");
        return Err(Error::bad_input(doing(), why));
    }
    if layers > LAYERS_MAX {
        let why = format!("it has {layers} layers; an image has at most {LAYERS_MAX}");
        return Err(Error::bad_input(doing(), why));
    }
    Ok(())
}

enum Step {
    Done(Box<Result<Finding, Error>>),
    /// These layers must be read next.
    Read(Vec<usize>),
    /// These files must be read next, each from a layer whose table of contents was read.
    Files(Vec<(usize, Vec<u8>)>),
}

/// The layers of an image, as far as they were read.
struct KnownLayers<'a> {
    /// Lowest first; `None` for a layer that must be read, an empty one for a layer that cannot be read.
    layers: Vec<Option<&'a LayerFacts>>,
    /// Those that must be read, as indexes.
    missing: Vec<usize>,
    /// Those that cannot be read, with the reason.
    skipped: Vec<(usize, String)>,
}

impl<'a> KnownLayers<'a> {
    fn new(
        work: &Work<'_>,
        depth: VerifyDepth,
        cache: &'a LayersRead,
        empty: &'a LayerFacts,
    ) -> Result<Self, Error> {
        let mut known = Self { layers: Vec::new(), missing: Vec::new(), skipped: Vec::new() };
        for (number, key) in work.keys.iter().enumerate() {
            known.layers.push(match cache.layers.get(key) {
                // A table of contents is enough only for a quick verification.
                Some(Ok(LayerOutcome::Read(facts))) if !facts.is_partial || depth != VerifyDepth::Full => {
                    Some(facts)
                }
                // Its contents are unknown, so it is treated as empty.
                Some(Ok(LayerOutcome::Skipped(why))) => {
                    known.skipped.push((number, why.clone()));
                    Some(empty)
                }
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(LayerOutcome::Read(_))) | None => {
                    known.missing.push(number);
                    None
                }
            });
        }
        Ok(known)
    }
}

/// Decides with the layers that were read, or says what must be read next. A quick verification that finds a problem
/// continues as a full one.
fn step(work: &Work<'_>, depth: &mut VerifyDepth, cache: &LayersRead) -> Step {
    let empty = &LayerFacts::empty(&cache.hasher);
    let KnownLayers { layers, missing, skipped } = match KnownLayers::new(work, *depth, cache, empty) {
        Ok(known) => known,
        Err(error) => return Step::Done(Box::new(Err(error))),
    };
    if *depth == VerifyDepth::Full && !missing.is_empty() {
        return Step::Read(missing);
    }
    let tree = OverlayTree::with_budget(layers.clone(), work.budget.clone());
    let no_config = Config::default();
    let config = work.target.image.config.as_ref().map_or(&no_config, |config| &config.parsed);
    let mut chain = follow(&tree, config, work.target.platform);
    if chain.unread_files.is_empty() && chain.is_reached && chain.lacks_loader && !missing.is_empty() {
        // Loaders are in the base image, usually in the lowest layer. The layers between are assumed not to change them.
        let as_if_empty = layers.iter().map(|layer| Some(layer.unwrap_or(empty))).collect();
        let as_if_read = OverlayTree::with_budget(as_if_empty, work.budget.clone());
        chain = follow(&as_if_read, config, work.target.platform);
        if chain.lacks_loader && !work.budget.is_spent() {
            return Step::Read(vec![missing[0]]);
        }
    }
    if !chain.unread_files.is_empty() && !work.budget.is_spent() {
        return Step::Files(chain.unread_files);
    }
    if !missing.is_empty() && !chain.is_reached && !work.budget.is_spent() {
        // One layer at a time from the top, or all of them if no single one would decide.
        return match chain.unread {
            Some(layer) => Step::Read(vec![layer]),
            None => Step::Read(missing),
        };
    }
    let mut evidence = evidence(&tree, &chain, work.target.platform);
    // A layer that cannot be read may have what is absent, or another file in place of the one that is refused.
    evidence.failure = chain.failure.clone().filter(|failure| {
        skipped
            .iter()
            .all(|(layer, _)| failure.is_about_content() && failure.layer.is_some_and(|own| own > *layer))
    });
    let verdict = match work.budget.is_spent() {
        true => too_many_lookups(),
        false => judge(work.target.platform, &evidence),
    };
    let is_partial = |number: &usize| layers[*number].is_none_or(|layer| layer.is_partial);
    let unread: Vec<usize> = (0..layers.len()).filter(is_partial).collect();
    let is_fine = matches!(verdict.kind, VerdictKind::Consistent | VerdictKind::ForeignPayload);
    if !unread.is_empty() && !is_fine && !work.budget.is_spent() {
        *depth = VerifyDepth::Full;
        return Step::Read(unread);
    }
    let layers_read = layers.iter().flatten().count() - skipped.len();
    let layers_cached = layers.iter().flatten().filter(|layer| layer.is_cached).count();
    let bytes_read = layers.iter().flatten().filter(|layer| !layer.is_cached).map(|layer| layer.stored).sum();
    let mut finding = Finding {
        needs: needs(&evidence, verdict.binaries.as_ref()),
        verdict,
        chain: chain.links.iter().filter_map(evidence_file).collect(),
        steps: chain.steps(),
        gaps: chain.gaps,
        programs: evidence.programs,
        layers: layers.len(),
        layers_read,
        layers_cached,
        layers_by_table: layers.iter().flatten().filter(|layer| layer.is_partial).count(),
        skipped: skipped.iter().map(|(number, why)| (work.keys[*number].0.clone(), why.clone())).collect(),
        bytes_read,
    };
    let unlisted = tree.unlisted();
    if unlisted > 0 {
        finding.gaps.push(format!("{unlisted} more programs are not listed"));
    }
    let archives_unread = tree.archives_unread();
    if archives_unread > 0 {
        finding.gaps.push(format!(
            "archives (jar, war, ear, wheel) that could not be read to their end: {archives_unread}"
        ));
    }
    // A layer that was not read may contain anything, and may hide files of lower layers.
    let is_hidden = |skipped: usize| chain.links.iter().any(|link| link.file.layer < skipped);
    let may_decide = skipped.last().is_some_and(|(number, _)| !chain.is_reached || is_hidden(*number));
    if may_decide && matches!(finding.verdict.kind, VerdictKind::Consistent | VerdictKind::ForeignPayload) {
        finding.verdict.kind = VerdictKind::Undetermined;
        finding.verdict.reasons.push("layers that could not be read may change the result".into());
    }
    Step::Done(Box::new(Ok(finding)))
}

/// Follows the executed chain, in Windows layers as Windows does.
fn follow<'a>(tree: &OverlayTree<'a>, config: &Config, declared: &Platform) -> ExecutedChain<'a> {
    if is_wasm(declared) {
        return chain::follow(tree, &of_module(config));
    }
    let is_windows = || chain::windows::has_windows_layers(tree, declared);
    if declared.os.eq_ignore_ascii_case("windows") && is_windows() {
        return chain::windows::follow(tree, config);
    }
    let chain = chain::follow(tree, config);
    match !chain.is_reached && chain.unread.is_none() && is_windows() {
        true => chain::windows::follow(tree, config),
        false => chain,
    }
}

/// The config with the path of the module as the first word, which is `PATH#FUNCTION` for containerd's shims; they look for a
/// bare name in the working directory. Source: runwasi, "RuntimeContext".
fn of_module(config: &Config) -> Config {
    let mut config = config.clone();
    let words = if config.entrypoint.is_empty() { &mut config.cmd } else { &mut config.entrypoint };
    if let Some(first) = words.first_mut() {
        let path = first.split('#').next().unwrap_or_default();
        *first = if path.contains('/') { path.to_string() } else { format!("./{path}") };
    }
    config
}

/// The verdict on an image that was not followed to its end.
fn too_many_lookups() -> Verdict {
    let reason = format!("the image needs more than {LOOKUPS_MAX} look-ups");
    Verdict {
        kind: VerdictKind::Undetermined,
        binaries: None,
        reasons: vec![reason],
        files: Vec::new(),
        failure: None,
    }
}

fn evidence(tree: &OverlayTree<'_>, chain: &ExecutedChain<'_>, wanted: &Platform) -> Evidence {
    // An emulator that was built for the image's platform reads the emulated program as data. One for another platform is
    // there for hosts of that platform, and then the emulated program is the image's own.
    let is_for = |link: &chain::ChainLink<'_>, architecture: &str| {
        link.file.facts.and_then(platform).is_some_and(|(own, _)| own.architecture == architecture)
    };
    let wanted = wanted.normalized().architecture;
    // box86 is a 32-bit program, which arm64 kernels with 32-bit support run.
    let runs_as_32_bit = |link: &chain::ChainLink<'_>| wanted == "arm64" && is_for(link, "arm");
    let mut emulators = chain.links.iter().filter(|link| link.role == ChainRole::Emulator);
    let emulates_others = emulators.any(|link| is_for(link, &wanted) || runs_as_32_bit(link));
    let decides = |link: &&chain::ChainLink<'_>| match link.role {
        ChainRole::Emulator => emulates_others && is_for(link, &wanted),
        _ => !(emulates_others && link.emulated),
    };
    let executed = chain.links.iter().filter(decides).filter_map(evidence_file).collect();
    let mut all: BTreeMap<Platform, ProgramGroup> = BTreeMap::new();
    let mut levels: BTreeMap<Platform, LevelGroup> = BTreeMap::new();
    for (path, layer, facts) in tree.programs() {
        let Some((platform, details)) = platform(facts) else { continue };
        // The loader chooses among these by CPU level, so their level is not required.
        if path.windows(14).any(|part| part == b"/glibc-hwcaps/") {
            continue;
        }
        let group = all.entry(platform.clone()).or_insert_with(|| ProgramGroup {
            platform: platform.clone(),
            count: 0,
            executable: 0,
            examples: Vec::new(),
        });
        group.count += 1;
        let may_be_data = [&b".so"[..], b".dll", b"firmware/"]
            .iter()
            .any(|part| path.windows(part.len()).any(|at| at == *part));
        group.executable += u64::from(!may_be_data && tree.is_executable(path, layer));
        let shown = || EvidenceFile {
            path: format!("/{}", display_path(path)),
            role: "",
            layer,
            platform: platform.clone(),
            details: details.to_vec(),
            mark: mark(facts).cloned(),
        };
        if group.examples.len() < EXAMPLES {
            group.examples.push(shown());
        }
        if let Some(mark) = mark(facts) {
            let level = Platform::new(&platform.os, &platform.architecture, Some(&mark.level));
            levels.entry(level).or_insert_with(|| LevelGroup { count: 0, example: shown() }).count += 1;
        }
    }
    let (programs, levels) = (all.into_values().collect(), levels.into_values().collect());
    let archives = tree.archives().map(|(path, layer, platforms)| ArchiveEvidence {
        path: format!("/{}", display_path(path)),
        layer,
        platforms: platforms.to_vec(),
    });
    Evidence { executed, programs, levels, failure: None, archives: archives.collect() }
}

fn evidence_file(link: &chain::ChainLink<'_>) -> Option<EvidenceFile> {
    let (platform, details) = platform(link.file.facts?)?;
    Some(EvidenceFile {
        path: display_path(&link.file.path),
        role: link.role.text(),
        layer: link.file.layer,
        platform: platform.clone(),
        details: details.to_vec(),
        mark: link.file.facts.and_then(mark).cloned(),
    })
}

/// The CPU level that a file records.
fn mark(facts: &FileFacts) -> Option<&CpuMark> {
    match facts {
        FileFacts::Elf(elf) => elf.mark.as_ref(),
        FileFacts::Foreign(_)
        | FileFacts::WebAssembly(_)
        | FileFacts::Script(_)
        | FileFacts::Data(_)
        | FileFacts::Unread => None,
    }
}

/// The platform of a file with its details, if the file has machine code that a container can execute.
fn platform(facts: &FileFacts) -> Option<(&Platform, &[String])> {
    match facts {
        FileFacts::Elf(elf) if elf.kind == crate::elf::ElfKind::Other => None,
        FileFacts::Elf(elf) => Some((&elf.platform, &elf.details)),
        FileFacts::Foreign(platform) | FileFacts::WebAssembly(platform) => Some((platform, &[])),
        FileFacts::Script(_) | FileFacts::Unread | FileFacts::Data(_) => None,
    }
}

#[cfg(test)]
mod tests;
