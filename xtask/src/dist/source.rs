//! The sources of a distribution: their commit, branch, version and time.

use error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

/// Branches of releases, if neither `--branch` nor origin/HEAD is there.
const BRANCHES: [&str; 2] = ["main", "master"];

/// Fails unless others can build the same: a commit that is in the branch of releases, with a version that no other
/// commit has. The default of `branch` is origin/HEAD, main or master.
pub fn refuse_unclean(root: &Path, version: &str, branch: Option<&str>) -> Result<(), Error> {
    let doing = || format!("build a distribution of \"{}\"", root.display());
    let hint = "or give --allow-dirty";
    let changed = git(root, &["status", "--porcelain"]).map_err(|why| {
        Error::bad_input(doing(), format!("it is not in a git repository with a commit: {why}")).hint(hint)
    })?;
    if !changed.is_empty() {
        let lines = changed.lines().map(str::to_string).collect();
        return Err(Error::bad_input(doing(), "it has uncommitted changes")
            .hint(format!("commit them, {hint}"))
            .problems(lines));
    }
    let tag = format!("v{version}");
    let is_tagged = !git(root, &["tag", "--list", &tag]).unwrap_or_default().is_empty();
    let is_here =
        git(root, &["tag", "--points-at", "HEAD"]).unwrap_or_default().lines().any(|line| line == tag);
    if is_tagged && !is_here {
        let why = format!("tag {tag} is another commit");
        return Err(Error::bad_input(doing(), why).hint(format!("raise the version in Cargo.toml, {hint}")));
    }
    refuse_other_branch(root, branch)
}

/// Fails if no branch of releases contains the commit: it might be lost.
fn refuse_other_branch(root: &Path, branch: Option<&str>) -> Result<(), Error> {
    let doing = || format!("build a distribution of \"{}\"", root.display());
    let of_origin = git(root, &["symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD"]).ok();
    let of_origin = of_origin.as_deref().and_then(|name| name.strip_prefix("origin/"));
    let names: Vec<&str> = match branch.or(of_origin) {
        Some(name) => vec![name],
        None => BRANCHES.to_vec(),
    };
    let places =
        names.iter().flat_map(|name| ["refs/heads", "refs/remotes/origin"].map(|at| format!("{at}/{name}")));
    let known: Vec<String> =
        places.filter(|place| git(root, &["rev-parse", "--verify", "--quiet", place]).is_ok()).collect();
    let names = names.join(" or ");
    let hint = "name the branch with --branch, or give --allow-dirty";
    if known.is_empty() {
        return Err(Error::bad_input(doing(), format!("there is no branch {names}")).hint(hint));
    }
    if known.iter().any(|place| git(root, &["merge-base", "--is-ancestor", "HEAD", place]).is_ok()) {
        return Ok(());
    }
    let commit = git(root, &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let here = git(root, &["rev-parse", "--abbrev-ref", "HEAD"]).unwrap_or_default();
    let why = format!("commit {commit} of {here} is not in {names}");
    Err(Error::bad_input(doing(), why).hint(format!("merge it; or {hint}")))
}

/// Fails unless all crates of the workspace have this version, which programs, packages and the image show.
pub fn refuse_other_versions(root: &Path, version: &str) -> Result<(), Error> {
    let doing = || format!("build a distribution of \"{}\"", root.display());
    let failed = |why: String| Error::bad_input(doing(), format!("cargo cannot list its versions: {why}"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root).stdin(Stdio::null());
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(String::from_utf8_lossy(&output.stderr).trim().to_string()))?;
    let packages = said["packages"].as_array().into_iter().flatten();
    let shown =
        |package: &serde_json::Value, key: &str| package[key].as_str().unwrap_or_default().to_string();
    let others: Vec<String> = packages
        .filter(|package| package["version"] != version)
        .map(|package| format!("{} is {}", shown(package, "name"), shown(package, "version")))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let why = format!("its crates have several versions; this program is {version}");
    Err(Error::bad_input(doing(), why).hint("write `version.workspace = true` in each").problems(others))
}

/// The time of all that is made: SOURCE_DATE_EPOCH, or that of the commit; without git 0.
pub fn epoch(root: &Path) -> Result<u64, Error> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().map_err(|_| {
            let why = format!("\"{text}\" is no number of seconds since 1970");
            Error::bad_input("read SOURCE_DATE_EPOCH", why)
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
    use error::Exit;

    #[test]
    fn a_dirty_tree_and_a_version_that_is_taken_stop_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let refused = |said: &str| {
            let error = refuse_unclean(root, "1.0", None).unwrap_err();
            assert_eq!(error.kind, Exit::BadInput);
            assert!(error.to_string().contains(said), "{error}");
        };
        if git(root, &["--version"]).is_err() {
            eprintln!("skipped: no git");
            return;
        }
        refused("it is not in a git repository with a commit");
        let commit = |message: &str| {
            let name = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", message];
            git(root, &["add", "--all"]).and_then(|_| git(root, &name)).unwrap();
        };
        git(root, &["init", "--quiet", "--initial-branch=main"]).unwrap();
        std::fs::write(root.join("a"), "1").unwrap();
        refused("it has uncommitted changes");
        commit("one");
        refuse_unclean(root, "1.0", None).unwrap();
        git(root, &["tag", "v1.0"]).unwrap();
        refuse_unclean(root, "1.0", None).unwrap();
        std::fs::write(root.join("a"), "2").unwrap();
        commit("two");
        refused("tag v1.0 is another commit");
        refuse_unclean(root, "1.1", None).unwrap();

        // A commit of another branch, seen from there and with nothing checked out.
        git(root, &["checkout", "--quiet", "-b", "feature"]).unwrap();
        refuse_unclean(root, "1.1", None).unwrap();
        std::fs::write(root.join("a"), "3").unwrap();
        commit("three");
        let check = |branch: Option<&str>, said: Option<&str>| {
            let found = refuse_unclean(root, "1.1", branch).map_err(|error| error.to_string());
            match said {
                None => found.unwrap(),
                Some(said) => assert!(found.clone().unwrap_err().contains(said), "{found:?}"),
            }
        };
        check(None, Some("of feature is not in main or master; merge it; or name the branch with --branch"));
        check(Some("feature"), None);
        check(Some("main"), Some("is not in main;"));
        check(Some("stable"), Some("there is no branch stable; name the branch"));
        git(root, &["checkout", "--quiet", "--detach"]).unwrap();
        check(None, Some("of HEAD is not in main or master"));
        // What a checkout of another repository's default branch has.
        git(root, &["update-ref", "refs/remotes/origin/stable", "HEAD"]).unwrap();
        check(None, Some("is not in main or master"));
        git(root, &["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/stable"]).unwrap();
        check(None, None);
    }

    #[test]
    fn crates_of_several_versions_stop_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let package = |name: &str, version: &str| {
            std::fs::create_dir_all(root.join(name).join("src")).unwrap();
            std::fs::write(root.join(name).join("src/lib.rs"), "").unwrap();
            let text = format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\n");
            std::fs::write(root.join(name).join("Cargo.toml"), text).unwrap();
        };
        std::fs::write(root.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"a\", \"b\"]\n")
            .unwrap();
        package("a", "1.0.0");
        package("b", "1.0.0");
        refuse_other_versions(root, "1.0.0").unwrap();
        package("b", "1.0.1");
        let error = refuse_other_versions(root, "1.0.0").unwrap_err();
        assert_eq!((error.kind, error.problems), (Exit::BadInput, vec!["b is 1.0.1".to_string()]));
    }
}
