//! Checks of the work directory, which outlives a release.
//!
//! Records in it say what was verified and tested, and reports say what a rollback restores. So nobody else may write
//! in it: not in the directory itself, and not in `multiarch` of the cache, where default work directories are.

pub mod lock;
pub mod paths;
pub mod prune;
pub mod records;

use crate::request::Request;
use error::Error;
use image_store::atomic_file::create_dir_durably;
use nix::unistd::geteuid;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const WRITABLE_BY_OTHERS: u32 = 0o022;
const OPEN_TO_OTHERS: u32 = 0o077;
/// Contents of a work directory.
const PARTS: [&str; 6] = ["build", "logs", "records", "released", "smoke", "staging"];

/// Fails with `NotPermitted` if another user can write in the work directory. One that does not exist is fine.
pub fn check(request: &Request) -> Result<(), Error> {
    for dir in guarded(request) {
        match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::from_io(doing(dir), error)),
            Ok(meta) => check_one(dir, &meta)?,
        }
    }
    for part in PARTS.map(|part| request.work_dir.join(part)) {
        match fs::symlink_metadata(&part) {
            Ok(meta) if !meta.is_dir() => {
                return Err(Error::not_permitted(doing(&part), "it is not a directory").hint(OTHER));
            }
            Ok(meta) => check_owner(&part, &meta)?,
            Err(_) => {}
        }
    }
    Ok(())
}

/// Creates the work directory, durably, open to its owner only, and checks it.
pub fn make(request: &Request) -> Result<(), Error> {
    check(request)?;
    for dir in guarded(request) {
        let made = create_dir_durably(dir).and_then(|()| {
            let meta = fs::metadata(dir)?;
            if meta.uid() == geteuid().as_raw() && meta.mode() & OPEN_TO_OTHERS != 0 {
                fs::set_permissions(dir, fs::Permissions::from_mode(meta.mode() & 0o700))?;
            }
            Ok(())
        });
        made.map_err(|error| Error::from_io(doing(dir), error))?;
    }
    // Another process may have created it first.
    check(request)
}

fn guarded(request: &Request) -> impl Iterator<Item = &Path> {
    let home = request.work_dir.parent().filter(|_| request.is_beside_others);
    home.into_iter().chain([request.work_dir.as_path()])
}

const OTHER: &str = "name another directory with --work-dir";

fn doing(dir: &Path) -> String {
    format!("use the work directory \"{}\"", dir.display())
}

fn check_one(dir: &Path, meta: &Metadata) -> Result<(), Error> {
    if !meta.is_dir() {
        return Err(Error::bad_input(doing(dir), "it is not a directory").hint(OTHER));
    }
    check_owner(dir, meta)?;
    if meta.mode() & WRITABLE_BY_OTHERS != 0 {
        let why = format!("other users can write in it (mode {:04o})", meta.mode() & 0o7777);
        let hint =
            format!("if you trust its contents, run: chmod -R go-w \"{}\"; otherwise {OTHER}", dir.display());
        return Err(Error::not_permitted(doing(dir), why).hint(hint));
    }
    Ok(())
}

fn check_owner(dir: &Path, meta: &Metadata) -> Result<(), Error> {
    let user = geteuid().as_raw();
    if meta.uid() == user {
        return Ok(());
    }
    let why = format!("it belongs to user {}, and this is user {user}", meta.uid());
    Err(Error::not_permitted(doing(dir), why).hint(OTHER))
}
