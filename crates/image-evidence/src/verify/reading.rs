//! Layers on their way in: from an earlier run, by their table of contents, or whole.

use super::{VerifyDepth, VerifyOptions, VerifyTarget};
use crate::layer::{self, LayerOutcome, toc};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::Descriptor;
use image_store::parallel;
use image_store::store::ImageSource;
use std::collections::BTreeMap;
use std::convert::Infallible;

/// A layer, and what the config says that it unpacks to.
pub type Key = (Digest, Option<Digest>);
pub type LayersRead = BTreeMap<Key, Result<LayerOutcome, Error>>;

/// What is wanted of a layer.
#[derive(Clone)]
pub struct Wanted {
    /// The number of a target that has it.
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

impl Wanted {
    pub fn layer(number: usize, target: &VerifyTarget<'_>, layer: usize, depth: VerifyDepth) -> Self {
        let how = if depth == VerifyDepth::Quick { How::Names } else { How::Whole };
        Self { target: number, layer: target.image.manifest.layers[layer].clone(), how }
    }

    pub fn file(number: usize, target: &VerifyTarget<'_>, layer: usize, path: Vec<u8>) -> Self {
        let layer = target.image.manifest.layers[layer].clone();
        Self { target: number, layer, how: How::Files(vec![path]) }
    }

    /// The same layer for another image: whoever wants most decides.
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

/// Reads what is wanted, several layers at once.
pub fn read(
    targets: &[VerifyTarget<'_>],
    wanted: BTreeMap<Key, Wanted>,
    options: &VerifyOptions<'_>,
    known: &mut LayersRead,
) {
    let wanted: Vec<(Key, Wanted, std::sync::Mutex<Option<LayerOutcome>>)> = wanted
        .into_iter()
        .map(|(key, wanted)| {
            let before = known.remove(&key).and_then(Result::ok);
            (key, wanted, std::sync::Mutex::new(before))
        })
        .collect();
    let at_once = std::thread::available_parallelism().map_or(2, usize::from).min(parallel::REQUESTS);
    let at_once = targets.iter().map(|target| target.source.concurrency(at_once)).min().unwrap_or(at_once);
    let read = parallel::map(&wanted, at_once, |(key, wanted, before)| {
        let source = targets[wanted.target].source;
        let before = before.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        Ok::<_, Infallible>(match (&wanted.how, before) {
            (How::Files(files), Some(before)) => read_files(source, before, files, wanted, key, options),
            (How::Names, _) => read_names(source, wanted, key, options),
            (How::Whole | How::Files(_), _) => read_whole(source, wanted, key, options),
        })
    });
    let Ok(read) = read;
    known.extend(wanted.into_iter().map(|(key, ..)| key).zip(read));
}

fn read_whole(
    source: &dyn ImageSource,
    wanted: &Wanted,
    key: &Key,
    options: &VerifyOptions<'_>,
) -> Result<LayerOutcome, Error> {
    let diff_id = key.1.as_ref();
    if let Some(facts) = options.cache.and_then(|kept| kept.read(&key.0, diff_id)) {
        return Ok(LayerOutcome::Read(Box::new(facts)));
    }
    (options.on_layer)(&wanted.layer);
    let read = layer::read(source, &wanted.layer, diff_id)?;
    if let (Some(kept), LayerOutcome::Read(facts)) = (options.cache, &read) {
        kept.write(&key.0, diff_id, facts);
    }
    Ok(read)
}

fn read_names(
    source: &dyn ImageSource,
    wanted: &Wanted,
    key: &Key,
    options: &VerifyOptions<'_>,
) -> Result<LayerOutcome, Error> {
    let diff_id = key.1.as_ref();
    let known =
        options.cache.and_then(|kept| kept.read(&key.0, diff_id).or_else(|| kept.read_part(&key.0, diff_id)));
    if let Some(facts) = known {
        return Ok(LayerOutcome::Read(Box::new(facts)));
    }
    match toc::read(source, &wanted.layer)? {
        Some(facts) => Ok(LayerOutcome::Read(Box::new(facts))),
        None => read_whole(source, wanted, key, options),
    }
}

fn read_files(
    source: &dyn ImageSource,
    before: LayerOutcome,
    files: &[Vec<u8>],
    wanted: &Wanted,
    key: &Key,
    options: &VerifyOptions<'_>,
) -> Result<LayerOutcome, Error> {
    let LayerOutcome::Read(mut facts) = before else { return Ok(before) };
    // What is kept between runs does not say where the files lie that nobody asked for.
    if facts.toc.is_none() {
        match toc::read(source, &wanted.layer)? {
            Some(anew) => *facts = anew,
            None => return read_whole(source, wanted, key, options),
        }
    }
    for path in files {
        if !toc::fetch(source, &mut facts, path)? {
            return read_whole(source, wanted, key, options);
        }
    }
    if let Some(kept) = options.cache {
        kept.write(&key.0, key.1.as_ref(), &facts);
    }
    Ok(LayerOutcome::Read(facts))
}
