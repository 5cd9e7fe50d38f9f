//! The work directory, which outlives a release.
//!
//! Records in it say what was verified and tested, and reports say what a rollback restores. So nobody else may write
//! in it: not in the directory itself, and not in `multiarch` of the cache, where default work directories are. If the
//! default one cannot be used, a temporary one takes its place.

pub mod lock;
pub mod paths;
pub mod prune;
pub mod records;

use crate::request::Request;
use cli::Output;
use error::Error;
use image_store::private_dir::{DirPurpose, PrivateDir};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Contents of a work directory.
const PARTS: [&str; 6] = ["build", "logs", "records", "released", "smoke", "staging"];
const WORK: DirPurpose =
    DirPurpose { name: "work directory", way_out: "name another directory with --work-dir" };

/// Opens the work directory of a release, or a temporary one in place of a default one that cannot be used. `None` in a
/// dry run, which changes nothing, if it does not exist.
///
/// # Errors
/// As `make`, for a directory that was named.
pub fn open(request: &mut Request, dry_run: bool, output: &Output) -> Result<Option<PrivateDir>, Error> {
    let opened = if dry_run { check(request) } else { make(request).map(Some) };
    let Err(error) = opened else { return opened };
    if !request.is_default_work_dir {
        return Err(error);
    }
    let temporary = tempfile::Builder::new().prefix("multiarch-").tempdir();
    let temporary = temporary.map_err(|e| Error::from_io("create a temporary work directory", e))?;
    output.warning_printer()(&format!(
        "cannot {}: {}; this release does not use it and begins from scratch; {}",
        error.action,
        error.reason,
        error.hint.as_deref().unwrap_or(WORK.way_out)
    ));
    request.use_temporary_work_dir(temporary);
    make(request).map(Some)
}

/// Opens the work directory and checks that no other user can write in it. `None`: it does not exist.
fn check(request: &Request) -> Result<Option<PrivateDir>, Error> {
    let dir = match home(request) {
        Some((home, name)) => match PrivateDir::open(home, WORK)? {
            Some(home) => home.subdir(name)?,
            None => None,
        },
        None => PrivateDir::open(&request.work_dir, WORK)?,
    };
    dir.iter().try_for_each(check_parts)?;
    Ok(dir)
}

/// Creates the work directory, durably, open to its owner only, and checks it.
///
/// # Errors
/// `NotPermitted` if another user owns it or can write in it.
fn make(request: &Request) -> Result<PrivateDir, Error> {
    let dir = match home(request) {
        Some((home, name)) => PrivateDir::create(home, WORK)?.create_subdir(name)?,
        None => PrivateDir::create(&request.work_dir, WORK)?,
    };
    check_parts(&dir)?;
    Ok(dir)
}

fn check_parts(dir: &PrivateDir) -> Result<(), Error> {
    PARTS.iter().try_for_each(|part| dir.subdir(part).map(drop))
}

/// The directory of all default work directories, and the name of this one in it.
fn home(request: &Request) -> Option<(&Path, &str)> {
    let dir = request.work_dir.as_path();
    Some((dir.parent()?, dir.file_name()?.to_str()?)).filter(|_| request.is_beside_others)
}

/// Removes a temporary work directory, except for a report in it and for logs that the report refers to.
pub fn remove_temporary(dir: TempDir, report: &Path) {
    let text = fs::read_to_string(report).unwrap_or_default();
    let has_report = report.starts_with(dir.path());
    let has_logs = text.contains(&*dir.path().to_string_lossy());
    if !has_report && !has_logs {
        return;
    }
    let dir = dir.keep();
    for part in PARTS.iter().filter(|part| !has_logs || **part != "logs") {
        drop(fs::remove_dir_all(dir.join(part)));
    }
    drop(fs::remove_file(dir.join("lock")));
}
