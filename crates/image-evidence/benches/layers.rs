//! Layers read one after the other on one core, against the bare gzip crate over the same files; then together.
//!
//! `cargo bench --package config-patcher -- LAYOUT`: a directory with an OCI layout that has an image under the tag `1`.

use error::Error;
use flate2::bufread::MultiGzDecoder;
use image_evidence::layer::{self, NameHasher};
use image_evidence::verify::verify_image;
use image_store::store::Pointer;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::{Image, TreeNode, read_tree};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

fn main() -> Result<(), Error> {
    let Some(dir) = std::env::args_os().skip(1).map(PathBuf::from).find(|path| path.is_dir()) else {
        println!("no layout was named: cargo xtask bench verify makes one");
        return Ok(());
    };
    let layout = OciLayout::open(&dir)?;
    let TreeNode::Image(image) = read_tree(&layout, &Pointer::Tag("1".into()))? else {
        return Err(Error::bad_input("measure", "tag 1 is an index"));
    };
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(timed(|| bare(&layout, &image))?);
        times[1].push(timed(|| one_by_one(&layout, &image))?);
        times[2].push(timed(|| whole(&layout, &image))?);
    }
    times.iter_mut().for_each(|times| times.sort());
    let base = times[0][ROUNDS / 2].as_secs_f64();
    println!("layers in memory of the disk, median of {ROUNDS} rounds");
    for (name, times) in ["flate2 alone", "layers read, one core", "verify, all cores"].iter().zip(&times) {
        let median = times[ROUNDS / 2];
        println!("  {name:<22} {:>6} ms  {:.2} x", median.as_millis(), median.as_secs_f64() / base);
    }
    println!();
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), Error>) -> Result<Duration, Error> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

fn bare(layout: &OciLayout, image: &Image) -> Result<(), Error> {
    let failed = |e| Error::from_io("unpack a blob", e);
    for blob in &image.manifest.layers {
        let path = layout.dir().join("blobs").join(blob.digest.algorithm()).join(blob.digest.hex());
        let file = BufReader::with_capacity(64 << 10, File::open(path).map_err(failed)?);
        io::copy(&mut MultiGzDecoder::new(file), &mut io::sink()).map_err(failed)?;
    }
    Ok(())
}

/// With every check: the digest, the diff_id, the tar, each program.
fn one_by_one(layout: &OciLayout, image: &Image) -> Result<(), Error> {
    let hasher = NameHasher::random();
    let diff_ids = image.config.iter().flat_map(|config| &config.parsed.diff_ids);
    for (blob, diff_id) in image.manifest.layers.iter().zip(diff_ids) {
        layer::read(layout, blob, Some(diff_id), &hasher)?;
    }
    Ok(())
}

fn whole(layout: &OciLayout, image: &Image) -> Result<(), Error> {
    let label = image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default();
    verify_image(layout, image, &label).map(drop)
}
