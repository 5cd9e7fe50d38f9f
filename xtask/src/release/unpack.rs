//! A throw-away root file system out of an image's layers, for a smoke test. Never used for anything else.

use flate2::read::MultiGzDecoder;
use image_store::error::StoreError;
use image_store::manifest::{Descriptor, media_type};
use image_store::store::ImageSource;
use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Lays the layers over each other in `root`, which is empty. Entries that would leave `root` are refused.
pub fn unpack(source: &dyn ImageSource, layers: &[Descriptor], root: &Path) -> Result<(), StoreError> {
    for layer in layers {
        let doing = format!("unpack layer {} for the smoke test", layer.digest);
        let content = source.open_blob(layer)?;
        let content: Box<dyn Read> = match layer.media_type.as_str() {
            media_type::OCI_LAYER | media_type::DOCKER_LAYER => content,
            media_type::OCI_LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => {
                Box::new(MultiGzDecoder::new(content))
            }
            other => return Err(StoreError::bad_input(doing, format!("\"{other}\" is not unpacked here"))),
        };
        unpack_layer(content, root).map_err(|e| StoreError::from_io(doing, e))?;
    }
    Ok(())
}

fn unpack_layer(content: impl Read, root: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(content);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(false);
    archive.set_preserve_ownerships(nix::unistd::geteuid().is_root());
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some(hidden) = name.strip_prefix(".wh.")
        {
            hide(root, &path, hidden)?;
            continue;
        }
        // A device needs rights that a smoke test has no use for.
        if matches!(entry.header().entry_type(), EntryType::Block | EntryType::Char | EntryType::Fifo) {
            continue;
        }
        make_room(root, &path, entry.header().entry_type())?;
        if !entry.unpack_in(root)? {
            return Err(io::Error::other(format!("entry \"{}\" leads out of the image", path.display())));
        }
    }
    // The bytes behind the end marker belong to the digest as well.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

/// A whiteout: `.wh.NAME` hides what lower layers put there, `.wh..wh..opq` all of a folder.
fn hide(root: &Path, path: &Path, hidden: &str) -> io::Result<()> {
    let Some(folder) = inside(root, path.parent().unwrap_or(Path::new(""))) else { return Ok(()) };
    if hidden == ".wh..opq" {
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
        for entry in entries {
            remove(&entry?.path())?;
        }
        return Ok(());
    }
    remove(&folder.join(hidden))
}

/// A file takes the place of a folder of lower layers, and the other way round.
fn make_room(root: &Path, path: &Path, kind: EntryType) -> io::Result<()> {
    let Some(parent) = inside(root, path.parent().unwrap_or(Path::new(""))) else { return Ok(()) };
    let Some(name) = path.file_name() else { return Ok(()) };
    let place = parent.join(name);
    match fs::symlink_metadata(&place) {
        Ok(meta) if meta.is_dir() != (kind == EntryType::Directory) => remove(&place),
        _ => Ok(()),
    }
}

/// The folder below `root`, if it is there and no link leads out of it.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let plain =
        path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir | Component::RootDir));
    let below = path.strip_prefix("/").unwrap_or(path);
    let found = fs::canonicalize(root.join(below)).ok()?;
    (plain && found.starts_with(fs::canonicalize(root).ok()?)).then_some(found)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(if path.ends_with('/') { 0 } else { text.len() as u64 });
            header.set_entry_type(if path.ends_with('/') {
                EntryType::Directory
            } else {
                EntryType::Regular
            });
            if path.ends_with('/') {
                header.set_mode(0o755);
            }
            // Written raw: the builder refuses the names that this is about.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, if path.ends_with('/') { &b""[..] } else { text.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn whiteouts_and_opaque_folders_hide_what_lies_below() {
        let root = tempfile::tempdir().unwrap();
        unpack_layer(
            &layer(&[("a/", ""), ("a/x", "1"), ("a/y", "1"), ("b/", ""), ("b/z", "1")])[..],
            root.path(),
        )
        .unwrap();
        unpack_layer(&layer(&[("a/.wh.x", ""), ("b/.wh..wh..opq", ""), ("b/new", "2")])[..], root.path())
            .unwrap();
        let there = |path: &str| root.path().join(path).exists();
        assert_eq!((there("a/x"), there("a/y"), there("b/z"), there("b/new")), (false, true, false, true));
    }

    #[test]
    fn a_file_takes_the_place_of_a_folder() {
        let root = tempfile::tempdir().unwrap();
        unpack_layer(&layer(&[("a/", ""), ("a/x", "1")])[..], root.path()).unwrap();
        unpack_layer(&layer(&[("a", "file")])[..], root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "file");
    }

    #[test]
    fn nothing_leaves_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(outer.path().join("precious"), "mine").unwrap();
        assert!(unpack_layer(&layer(&[("../escaped", "1")])[..], &root).is_err());
        unpack_layer(&layer(&[("../.wh.precious", "")])[..], &root).unwrap();
        assert!(outer.path().join("precious").exists() && !outer.path().join("escaped").exists());
    }
}
