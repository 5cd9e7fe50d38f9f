//! The sources of a distribution: which commit they are, and how old.

use image_store::error::StoreError;
use std::path::Path;
use std::process::{Command, Stdio};

/// Others shall be able to make the same: from a commit, and under a version that no other commit has.
pub fn refuse_unclean(root: &Path, version: &str) -> Result<(), StoreError> {
    let doing = || format!("make a distribution of \"{}\"", root.display());
    let hint = "or give --allow-dirty";
    let changed = git(root, &["status", "--porcelain"]).map_err(|why| {
        StoreError::bad_input(doing(), format!("git knows no commit of it: {why}")).hint(hint)
    })?;
    if !changed.is_empty() {
        let lines = changed.lines().map(str::to_string).collect();
        return Err(StoreError::bad_input(doing(), "it has changes that are not committed")
            .hint(format!("commit them, {hint}"))
            .problems(lines));
    }
    let tag = format!("v{version}");
    let is_tagged = !git(root, &["tag", "--list", &tag]).unwrap_or_default().is_empty();
    let is_here =
        git(root, &["tag", "--points-at", "HEAD"]).unwrap_or_default().lines().any(|line| line == tag);
    if is_tagged && !is_here {
        let why = format!("tag {tag} names another commit");
        return Err(
            StoreError::bad_input(doing(), why).hint(format!("raise the version in Cargo.toml, {hint}"))
        );
    }
    Ok(())
}

/// The time of all that is made: SOURCE_DATE_EPOCH, or that of the commit; without git 0.
pub fn epoch(root: &Path) -> Result<u64, StoreError> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().map_err(|_| {
            let why = format!("\"{text}\" is no number of seconds since 1970");
            StoreError::bad_input("read SOURCE_DATE_EPOCH", why)
        });
    }
    let time = git(root, &["log", "-1", "--format=%ct"]);
    Ok(time.ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn git(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_store::exit::Exit;

    #[test]
    fn a_dirty_tree_and_a_version_that_is_taken_stop_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let refused = |said: &str| {
            let error = refuse_unclean(root, "1.0").unwrap_err();
            assert_eq!(error.kind, Exit::BadInput);
            assert!(error.to_string().contains(said), "{error}");
        };
        if git(root, &["--version"]).is_err() {
            eprintln!("skipped: no git");
            return;
        }
        refused("git knows no commit of it");
        let commit = |message: &str| {
            let name = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", message];
            git(root, &["add", "--all"]).and_then(|_| git(root, &name)).unwrap();
        };
        git(root, &["init", "--quiet"]).unwrap();
        std::fs::write(root.join("a"), "1").unwrap();
        refused("it has changes that are not committed");
        commit("one");
        refuse_unclean(root, "1.0").unwrap();
        git(root, &["tag", "v1.0"]).unwrap();
        refuse_unclean(root, "1.0").unwrap();
        std::fs::write(root.join("a"), "2").unwrap();
        commit("two");
        refused("tag v1.0 names another commit");
        refuse_unclean(root, "1.1").unwrap();
    }
}
