//! Reading of layers: from the cache, by their table of contents, or whole.

use super::{VerifyDepth, VerifyOptions, VerifyTarget};
use crate::layer::{self, LayerOutcome, NameHasher, toc};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::Descriptor;
use image_store::parallel;
use image_store::store::ImageSource;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// A layer: its digest and its diff ID.
pub type LayerKey = (Digest, Option<Digest>);
/// The layers that were read.
pub struct LayersRead {
    /// The hasher of all of them; that of the cache, if there is one.
    pub hasher: NameHasher,
    pub layers: BTreeMap<LayerKey, Result<LayerOutcome, Error>>,
}

/// A layer to read.
#[derive(Clone)]
pub struct LayerRequest {
    /// The index of a target that has it.
    target: usize,
    layer: Descriptor,
    how: How,
}

#[derive(Clone)]
enum How {
    Whole,
    /// Its table of contents, if it has one.
    Names,
    Files(Vec<Vec<u8>>),
}

impl LayerRequest {
    /// The whole layer, or its table of contents.
    pub fn layer(number: usize, target: &VerifyTarget<'_>, layer: usize, depth: VerifyDepth) -> Self {
        let how = if depth == VerifyDepth::Quick { How::Names } else { How::Whole };
        Self { target: number, layer: target.image.manifest.layers[layer].clone(), how }
    }

    /// One file of a layer.
    pub fn file(number: usize, target: &VerifyTarget<'_>, layer: usize, path: Vec<u8>) -> Self {
        let layer = target.image.manifest.layers[layer].clone();
        Self { target: number, layer, how: How::Files(vec![path]) }
    }

    /// Adds what another image needs of the same layer.
    pub fn merge(&mut self, other: &Self) {
        match (&mut self.how, &other.how) {
            (How::Files(files), How::Files(more)) => {
                files.extend(more.iter().cloned());
                files.sort();
                files.dedup();
            }
            (How::Whole, _) | (How::Names, How::Names | How::Files(_)) => {}
            (How::Names | How::Files(_), _) => *self = other.clone(),
        }
    }
}

/// Reads these layers, several at once, and adds them to `known`.
pub fn read(
    targets: &[VerifyTarget<'_>],
    wanted: BTreeMap<LayerKey, LayerRequest>,
    options: &VerifyOptions<'_>,
    known: &mut LayersRead,
) {
    let wanted: Vec<(LayerKey, LayerRequest, std::sync::Mutex<Option<LayerOutcome>>)> = wanted
        .into_iter()
        .map(|(key, wanted)| {
            let before = known.layers.remove(&key).and_then(Result::ok);
            (key, wanted, std::sync::Mutex::new(before))
        })
        .collect();
    let hasher = &known.hasher;
    let at_once = std::thread::available_parallelism().map_or(2, usize::from).min(parallel::REQUESTS);
    let at_once = targets.iter().map(|target| target.source.concurrency(at_once)).min().unwrap_or(at_once);
    let read = parallel::map(&wanted, at_once, |(key, wanted, before)| {
        let source = targets[wanted.target].source;
        let before = before.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        Ok::<_, Infallible>(match (&wanted.how, before) {
            (How::Files(files), Some(before)) => {
                read_files(source, before, files, wanted, key, hasher, options)
            }
            (How::Names, _) if options.tables && !options.deep => {
                read_names(source, wanted, key, hasher, options)
            }
            (How::Whole | How::Names | How::Files(_), _) => read_whole(source, wanted, key, hasher, options),
        })
    });
    let Ok(read) = read;
    known.layers.extend(wanted.into_iter().map(|(key, ..)| key).zip(read));
}

fn read_whole(
    source: &dyn ImageSource,
    wanted: &LayerRequest,
    key: &LayerKey,
    hasher: &NameHasher,
    options: &VerifyOptions<'_>,
) -> Result<LayerOutcome, Error> {
    let diff_id = key.1.as_ref();
    let known = options.cache.and_then(|cache| match options.deep {
        true => cache.read_deep(&key.0, diff_id),
        false => cache.read(&key.0, diff_id),
    });
    if let Some(facts) = known {
        return Ok(LayerOutcome::Read(Box::new(facts)));
    }
    (options.on_layer)(&wanted.layer);
    let read = layer::read_as(source, &wanted.layer, diff_id, hasher, options.deep)?;
    if let (Some(cache), LayerOutcome::Read(facts)) = (options.cache, &read) {
        cache.write(&key.0, diff_id, facts);
    }
    Ok(read)
}

fn read_names(
    source: &dyn ImageSource,
    wanted: &LayerRequest,
    key: &LayerKey,
    hasher: &NameHasher,
    options: &VerifyOptions<'_>,
) -> Result<LayerOutcome, Error> {
    let diff_id = key.1.as_ref();
    let known = options
        .cache
        .and_then(|cache| cache.read(&key.0, diff_id).or_else(|| cache.read_part(&key.0, diff_id)));
    if let Some(facts) = known {
        return Ok(LayerOutcome::Read(Box::new(facts)));
    }
    match toc::read(source, &wanted.layer, hasher)? {
        Some(facts) => Ok(LayerOutcome::Read(Box::new(facts))),
        None => read_whole(source, wanted, key, hasher, options),
    }
}

fn read_files(
    source: &dyn ImageSource,
    before: LayerOutcome,
    files: &[Vec<u8>],
    wanted: &LayerRequest,
    key: &LayerKey,
    hasher: &NameHasher,
    options: &VerifyOptions<'_>,
) -> Result<LayerOutcome, Error> {
    let LayerOutcome::Read(mut facts) = before else { return Ok(before) };
    // Cached facts do not have the locations of files that were not read.
    if facts.toc.is_none() {
        match toc::read(source, &wanted.layer, hasher)? {
            Some(anew) => *facts = anew,
            None => return read_whole(source, wanted, key, hasher, options),
        }
    }
    for path in files {
        if !toc::fetch(source, &mut facts, path)? {
            return read_whole(source, wanted, key, hasher, options);
        }
    }
    if let Some(cache) = options.cache {
        cache.write(&key.0, key.1.as_ref(), &facts);
    }
    Ok(LayerOutcome::Read(facts))
}
