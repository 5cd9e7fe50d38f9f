//! Images to verify, with layers of this machine's files, which are like those of a distribution.

use error::Error;
use flate2::Compression;
use flate2::write::GzEncoder;
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::store::ImageStore;
use image_store::store::oci_layout::OciLayout;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Directories of the files.
pub const SOURCE: &str = "/usr";
/// Files that the command needs to start, in the lowest layer.
const LOADERS: [&str; 2] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// An image with this number of layers and the tag `1`. The command is a program of the top layer, its loader is in the
/// lowest.
pub fn build(layout: &OciLayout, layers: usize, size: u64) -> Result<Vec<Descriptor>, Error> {
    let failed = |e: io::Error| Error::from_io("make layers of this machine's files", e);
    let mut files = Vec::new();
    collect(Path::new(SOURCE), &mut files);
    files.sort();
    // Distributed evenly, so that no layer has documentation only.
    let mut turns = (0..).map(|turn| files[turn * 7919 % files.len()].clone());
    let mut made = Vec::new();
    for number in 0..layers {
        let mut tar = tar::Builder::new(Packed::new(Vec::new()));
        if number == 0 {
            loader(&mut tar).map_err(failed)?;
        }
        if number + 1 == layers {
            append(&mut tar, Path::new("app"), &std::env::current_exe().map_err(failed)?).map_err(failed)?;
        }
        while tar.get_ref().unpacked < size {
            let Some(file) = turns.next() else { break };
            let name = Path::new(&format!("layer{number}")).join(file.strip_prefix("/").unwrap_or(&file));
            // A file that cannot be read or no longer exists is skipped.
            drop(append(&mut tar, &name, &file));
        }
        let (stored, diff_id) = tar.into_inner().and_then(Packed::finish).map_err(failed)?;
        made.push((layout.add_blob(media_type::OCI_LAYER_GZIP, stored.as_slice())?, diff_id));
    }
    tag(layout, &made, "1", "")?;
    Ok(made.into_iter().map(|(layer, _)| layer).collect())
}

/// Images that share three of those layers and have a small layer of their own.
pub fn tags(layout: &OciLayout, count: usize) -> Result<(), Error> {
    let failed = |e: io::Error| Error::from_io("make a small layer", e);
    let mut shared = Vec::new();
    for number in 0..3 {
        let mut tar = tar::Builder::new(Packed::new(Vec::new()));
        let own = std::env::current_exe().map_err(failed)?;
        if number == 0 {
            loader(&mut tar).map_err(failed)?;
        }
        append(&mut tar, Path::new(&format!("opt/{number}/app")), &own).map_err(failed)?;
        if number == 2 {
            append(&mut tar, Path::new("app"), &own).map_err(failed)?;
        }
        let (stored, diff_id) = tar.into_inner().and_then(Packed::finish).map_err(failed)?;
        shared.push((layout.add_blob(media_type::OCI_LAYER_GZIP, stored.as_slice())?, diff_id));
    }
    for number in 0..count {
        tag(layout, &shared, &number.to_string(), &format!("image {number}"))?;
    }
    Ok(())
}

fn tag(layout: &OciLayout, layers: &[(Descriptor, Digest)], tag: &str, note: &str) -> Result<(), Error> {
    let (blobs, diff_ids): (Vec<_>, Vec<_>) = layers.iter().map(|(blob, id)| (blob, id)).unzip();
    let config = serde_json::json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "author": note, "config": {"Entrypoint": ["/app"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = layout.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes())?;
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": blobs,
    });
    let document =
        Document::new(manifest.to_string().into_bytes(), None).map_err(|e| e.at("the manifest"))?;
    layout.write_tag(tag, &document)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

fn loader(tar: &mut tar::Builder<Packed>) -> io::Result<()> {
    let mut here = LOADERS.iter().map(Path::new).filter(|loader| loader.exists());
    here.try_for_each(|loader| append(tar, loader.strip_prefix("/").unwrap_or(loader), loader))
}

fn append(tar: &mut tar::Builder<Packed>, name: &Path, path: &Path) -> io::Result<()> {
    let content = fs::read(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content.as_slice())
}

/// A compressed layer, with its diff ID.
struct Packed {
    encoder: GzEncoder<Vec<u8>>,
    hasher: Hasher,
    unpacked: u64,
}

impl Packed {
    fn new(out: Vec<u8>) -> Self {
        Self { encoder: GzEncoder::new(out, Compression::default()), hasher: Hasher::sha256(), unpacked: 0 }
    }

    fn finish(self) -> io::Result<(Vec<u8>, Digest)> {
        Ok((self.encoder.finish()?, self.hasher.finish()))
    }
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.encoder.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.unpacked += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}
