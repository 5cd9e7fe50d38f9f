//! What the binaries of images say, held against what their labels say.
//!
//! Layers are read through [`ImageSource`], never extracted, each once however many images share it.

pub mod cache;
mod reading;

use crate::chain::{self, ChainRole, ExecutedChain, shown};
use crate::file::FileFacts;
use crate::layer::{LayerFacts, LayerOutcome};
use crate::overlay::OverlayTree;
use crate::verdict::{Evidence, EvidenceFile, ProgramGroup, Verdict, VerdictKind, judge};
use cache::LayerCache;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Config, Descriptor};
use image_model::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::Image;
use reading::{Key, LayersRead, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// From the top layer down, until the image's own program is known and fits its label. Anything else is
    /// decided only when all is read.
    Quick,
    /// Every layer, to its last byte.
    Full,
}

/// An image, and the platform that it should be for.
#[derive(Clone, Copy)]
pub struct VerifyTarget<'a> {
    pub source: &'a dyn ImageSource,
    pub image: &'a Image,
    pub platform: &'a Platform,
}

/// What came of one image.
#[derive(Clone, Debug)]
pub struct Finding {
    pub verdict: Verdict,
    /// What a container executes and loads, in the order in which it was found.
    pub chain: Vec<EvidenceFile>,
    /// Where that could not be followed further.
    pub gaps: Vec<String>,
    /// All programs by platform, as far as layers were read.
    pub programs: Vec<ProgramGroup>,
    pub layers: usize,
    pub layers_read: usize,
    /// Of those, the ones that an earlier run has read.
    pub layers_cached: usize,
    /// Layers that cannot be read here, with the reason.
    pub skipped: Vec<(Digest, String)>,
    /// Bytes of the layers that were read in this run, as they are stored.
    pub bytes_read: u64,
}

/// Images that are decided together. What they share is read once and dropped with the last of them.
const TOGETHER: usize = 16;
/// Programs that are shown of each platform.
const EXAMPLES: usize = 5;

/// Verifies one image, reading every layer. `platform` is what its metadata declares or will declare.
pub fn verify_image(source: &dyn ImageSource, image: &Image, platform: &Platform) -> Result<Finding, Error> {
    let target = VerifyTarget { source, image, platform };
    let mut findings = verify_all(&[target], &VerifyOptions::new(VerifyDepth::Full));
    findings.pop().unwrap_or_else(|| Err(Error::bad_input("verify an image", "there is no finding")))
}

/// How [`verify_all`] reads images.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    pub depth: VerifyDepth,
    /// Called for each layer that is about to be read.
    pub on_layer: &'a (dyn Fn(&Descriptor) + Sync),
    /// Evidence of earlier runs.
    pub cache: Option<&'a LayerCache>,
}

impl VerifyOptions<'_> {
    /// Options without a callback and without a cache.
    pub fn new(depth: VerifyDepth) -> Self {
        Self { depth, on_layer: &|_| {}, cache: None }
    }
}

/// Verifies images and returns their findings in the same order. A layer that several of them share is read once.
pub fn verify_all(targets: &[VerifyTarget<'_>], options: &VerifyOptions<'_>) -> Vec<Result<Finding, Error>> {
    let mut cache = LayersRead::new();
    let mut findings = Vec::with_capacity(targets.len());
    let mut rest = targets;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(TOGETHER));
        findings.extend(verify_some(now, options, &mut cache));
        rest = later;
        let needed: BTreeSet<Key> = rest.iter().flat_map(|target| keys(target.image)).collect();
        cache.retain(|key, _| needed.contains(key));
    }
    findings
}

fn keys(image: &Image) -> Vec<Key> {
    let diff_ids = image.config.as_ref().map_or(&[][..], |config| &config.parsed.diff_ids);
    image
        .manifest
        .layers
        .iter()
        .enumerate()
        .map(|(i, layer)| (layer.digest.clone(), diff_ids.get(i).cloned()))
        .collect()
}

/// An image on its way to a verdict.
struct Work<'a> {
    target: VerifyTarget<'a>,
    keys: Vec<Key>,
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
            done: check_counts(target).err().map(Err),
        })
        .collect();
    let mut depths = vec![options.depth; works.len()];
    loop {
        // Decide what can be decided, and collect what must be read for the rest: each layer once.
        let mut wanted: BTreeMap<Key, Wanted> = BTreeMap::new();
        for (number, work) in works.iter_mut().enumerate() {
            if work.done.is_some() {
                continue;
            }
            match step(work, &mut depths[number], cache) {
                Step::Done(result) => work.done = Some(*result),
                Step::Read(layers) => {
                    for layer in layers {
                        let key = work.keys[layer].clone();
                        let more = Wanted::layer(number, &work.target, layer, depths[number]);
                        wanted.entry(key).and_modify(|wanted| wanted.merge(&more)).or_insert(more);
                    }
                }
                Step::Files(files) => {
                    for (layer, path) in files {
                        let key = work.keys[layer].clone();
                        let more = Wanted::file(number, &work.target, layer, path);
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
    let unfinished = || Err(Error::bad_input("verify an image", "nothing came of it"));
    works.into_iter().map(|work| work.done.unwrap_or_else(unfinished)).collect()
}

fn check_counts(target: &VerifyTarget<'_>) -> Result<(), Error> {
    let image = target.image;
    let doing = || format!("verify {} of \"{}\"", image.document.digest(), target.source.display_name());
    let Some(config) = &image.config else {
        return Err(Error::bad_input(doing(), "it has no image config").hint("name an image that runs"));
    };
    let (layers, diff_ids) = (image.manifest.layers.len(), config.parsed.diff_ids.len());
    if layers != diff_ids {
        let why = format!("its manifest has {layers} layers, its config speaks of {diff_ids}");
        return Err(Error::bad_input(doing(), why));
    }
    Ok(())
}

enum Step {
    Done(Box<Result<Finding, Error>>),
    /// These layers are wanted next.
    Read(Vec<usize>),
    /// These files of layers of which the table of contents was read.
    Files(Vec<(usize, Vec<u8>)>),
}

/// What can be said with the layers that were read. A quick look that finds trouble becomes a full one.
fn step(work: &Work<'_>, depth: &mut VerifyDepth, cache: &LayersRead) -> Step {
    let mut layers: Vec<Option<&LayerFacts>> = Vec::new();
    let mut skipped = Vec::new();
    let mut highest_skipped = None;
    let mut missing = Vec::new();
    let empty: &LayerFacts = &EMPTY;
    for (number, key) in work.keys.iter().enumerate() {
        layers.push(match cache.get(key) {
            // A table of contents is enough for a quick look alone.
            Some(Ok(LayerOutcome::Read(facts))) if facts.is_partial && *depth == VerifyDepth::Full => {
                missing.push(number);
                None
            }
            Some(Ok(LayerOutcome::Read(facts))) => Some(facts),
            // Nothing is known of it; what lies under it is looked at as if it brought nothing.
            Some(Ok(LayerOutcome::Skipped(why))) => {
                skipped.push((key.0.clone(), why.clone()));
                highest_skipped = Some(number);
                Some(empty)
            }
            Some(Err(error)) => return Step::Done(Box::new(Err(error.clone()))),
            None => {
                missing.push(number);
                None
            }
        });
    }
    if *depth == VerifyDepth::Full && !missing.is_empty() {
        return Step::Read(missing);
    }
    let tree = OverlayTree::new(layers.clone());
    let config = work.target.image.config.as_ref().map_or(&*NO_CONFIG, |config| &config.parsed);
    let mut chain = chain::follow(&tree, config);
    if chain.unread_files.is_empty() && chain.is_reached && chain.lacks_loader && !missing.is_empty() {
        // Loaders lie in the base, mostly the lowest layer. What lies between is taken to leave them alone.
        let as_if_empty = layers.iter().map(|layer| Some(layer.unwrap_or(empty))).collect();
        chain = chain::follow(&OverlayTree::new(as_if_empty), config);
        if chain.lacks_loader {
            return Step::Read(vec![missing[0]]);
        }
    }
    if !chain.unread_files.is_empty() {
        return Step::Files(chain.unread_files);
    }
    if !missing.is_empty() && !chain.is_reached {
        // One at a time from the top, or all where no single one would tell.
        return match chain.unread {
            Some(layer) => Step::Read(vec![layer]),
            None => Step::Read(missing),
        };
    }
    let evidence = evidence(&tree, &chain, work.target.platform);
    let verdict = judge(work.target.platform, &evidence);
    let is_partial = |number: &usize| layers[*number].is_none_or(|layer| layer.is_partial);
    let unread: Vec<usize> = (0..layers.len()).filter(is_partial).collect();
    if !unread.is_empty() && !matches!(verdict.kind, VerdictKind::Consistent | VerdictKind::ForeignPayload) {
        *depth = VerifyDepth::Full;
        return Step::Read(unread);
    }
    let layers_read = layers.iter().flatten().count() - skipped.len();
    let layers_cached = layers.iter().flatten().filter(|layer| layer.is_cached).count();
    let bytes_read = layers.iter().flatten().filter(|layer| !layer.is_cached).map(|layer| layer.stored).sum();
    let mut finding = Finding {
        verdict,
        chain: chain.links.iter().filter_map(shown_link).collect(),
        gaps: chain.gaps,
        programs: evidence.programs,
        layers: layers.len(),
        layers_read,
        layers_cached,
        skipped,
        bytes_read,
    };
    let unlisted = tree.unlisted();
    if unlisted > 0 {
        finding.gaps.push(format!("{unlisted} more programs lie in it than are listed"));
    }
    // What a layer that was not read brings may be anything, and may hide what lies below it.
    let is_hidden = |skipped: usize| chain.links.iter().any(|link| link.file.layer < skipped);
    let may_decide = highest_skipped.is_some_and(|number| !chain.is_reached || is_hidden(number));
    if may_decide && matches!(finding.verdict.kind, VerdictKind::Consistent | VerdictKind::ForeignPayload) {
        finding.verdict.kind = VerdictKind::Undetermined;
        finding.verdict.reasons.push("layers that could not be read may decide".into());
    }
    Step::Done(Box::new(Ok(finding)))
}

static EMPTY: std::sync::LazyLock<LayerFacts> = std::sync::LazyLock::new(LayerFacts::default);
static NO_CONFIG: std::sync::LazyLock<Config> = std::sync::LazyLock::new(Config::default);

fn evidence(tree: &OverlayTree<'_>, chain: &ExecutedChain<'_>, wanted: &Platform) -> Evidence {
    // An emulator for the image's machine executes what it is given as data. One for another machine lies there for
    // hosts of that machine, and what it is given is what the image is about.
    let is_for_image = |link: &&chain::ChainLink<'_>| {
        let own = link.file.facts.and_then(platform);
        own.is_some_and(|(own, _)| own.architecture == wanted.normalized().architecture)
    };
    let mut emulators = chain.links.iter().filter(|link| link.role == ChainRole::Emulator);
    let emulates_others = emulators.any(|link| is_for_image(&link));
    let decides = |link: &&chain::ChainLink<'_>| match emulates_others {
        true => !link.emulated,
        false => link.role != ChainRole::Emulator,
    };
    let executed = chain.links.iter().filter(decides).filter_map(shown_link).collect();
    let mut all: BTreeMap<Platform, ProgramGroup> = BTreeMap::new();
    for (path, layer, facts) in tree.programs() {
        let Some((platform, details)) = platform(facts) else { continue };
        // The loader chooses among these by itself; higher levels are what they are for.
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
        let may_be_data =
            [&b".so"[..], b"firmware/"].iter().any(|part| path.windows(part.len()).any(|at| at == *part));
        group.executable += u64::from(!may_be_data && tree.is_executable(path, layer));
        if group.examples.len() < EXAMPLES {
            let path = format!("/{}", shown(path));
            let platform = platform.clone();
            group.examples.push(EvidenceFile { path, role: "", layer, platform, details: details.to_vec() });
        }
    }
    Evidence { executed, programs: all.into_values().collect() }
}

fn shown_link(link: &chain::ChainLink<'_>) -> Option<EvidenceFile> {
    let (platform, details) = platform(link.file.facts?)?;
    Some(EvidenceFile {
        path: shown(&link.file.path),
        role: link.role.text(),
        layer: link.file.layer,
        platform: platform.clone(),
        details: details.to_vec(),
    })
}

/// What a file is for, if it is something that a machine executes.
fn platform(facts: &FileFacts) -> Option<(&Platform, &[String])> {
    match facts {
        FileFacts::Elf(elf) if elf.kind == crate::elf::ElfKind::Other => None,
        FileFacts::Elf(elf) => Some((&elf.platform, &elf.details)),
        FileFacts::Foreign(platform) => Some((platform, &[])),
        FileFacts::Script(_) | FileFacts::Unread => None,
    }
}

#[cfg(test)]
mod tests;
