//! Dependencies between the packages, which must be those in the drawing of ARCHITECTURE.md.

use super::sources::{metadata, workspace};
use std::collections::{BTreeMap, BTreeSet};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The lines `PACKAGE -> PACKAGE, PACKAGE` of the drawing.
fn drawn() -> Arrows {
    let text = std::fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("\n## Packages and arrows\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("    "));
    let arrows = lines.filter_map(|line| line.split_once(" ->"));
    let names = |list: &str| {
        list.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
    };
    arrows.map(|(from, to)| (from.trim().to_string(), names(to))).collect()
}

/// The packages of this workspace that each package depends on, in tests and builds, too.
fn found() -> Arrows {
    let dependencies = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let ours = all.filter(|dependency| !dependency["path"].is_null());
        ours.map(|dependency| dependency["name"].as_str().unwrap().to_string()).collect()
    };
    metadata()
        .iter()
        .map(|package| (package["name"].as_str().unwrap().to_string(), dependencies(package)))
        .collect()
}

#[test]
fn packages_depend_on_each_other_as_drawn() {
    let (drawn, found) = (drawn(), found());
    assert!(drawn.keys().eq(found.keys()), "drawn: {:?}\nfound: {:?}", drawn.keys(), found.keys());
    let without = |all: &Arrows, others: &Arrows| -> Vec<String> {
        let missing = |name: &String, to: &BTreeSet<String>| -> Vec<String> {
            to.difference(&others[name]).map(|to| format!("{name} -> {to}")).collect()
        };
        all.iter().flat_map(|(name, to)| missing(name, to)).collect()
    };
    assert_eq!(without(&found, &drawn), [""; 0], "these arrows are not drawn in ARCHITECTURE.md");
    assert_eq!(without(&drawn, &found), [""; 0], "these arrows of ARCHITECTURE.md do not exist");
}

/// The names in `[dependencies]` of a package's Cargo.toml.
fn direct_dependencies(directory: &str) -> Vec<String> {
    let text = std::fs::read_to_string(workspace().join(directory).join("Cargo.toml")).unwrap();
    let list =
        text.split_once("\n[dependencies]\n").map_or("", |(_, rest)| rest).split("\n[").next().unwrap();
    let names = list.lines().filter_map(|line| line.split(['.', ' ']).next()).filter(|name| !name.is_empty());
    names.map(str::to_string).collect()
}

/// Binfmt-setup runs as root, so everything that it is linked with must be easy to review: no network, no TLS, no parser
/// but JSON's. The lists are those of the package and of all packages of this workspace that it depends on.
#[test]
fn the_program_that_runs_as_root_has_few_dependencies() {
    let own = ["error", "cli", "tiny-elf", "clap", "nix", "serde", "serde_json", "thiserror"];
    assert_eq!(direct_dependencies("binfmt-setup"), own);
    assert_eq!(direct_dependencies("crates/error"), ["strsim", "thiserror"]);
    let cli = ["error", "clap", "clap_complete", "clap_mangen", "serde_json"];
    assert_eq!(direct_dependencies("crates/cli"), cli);
    assert_eq!(direct_dependencies("crates/tiny-elf"), [""; 0]);
    assert!(found()["binfmt-setup"].iter().eq(["cli", "error", "tiny-elf"]));
}

/// All packages that binfmt-setup is built with, the dependencies of dependencies included.
#[test]
fn the_program_that_runs_as_root_has_no_http_and_no_tls() {
    let tree = |package: &str| -> BTreeSet<String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = std::process::Command::new(cargo);
        command.args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
        let output = command.args(["--package", package]).current_dir(workspace()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect()
    };
    let is_forbidden = |name: &&String| {
        let parts =
            ["http", "tls", "ring", "hyper", "ureq", "reqwest", "curl", "openssl", "webpki", "quinn", "h2"];
        name.split(['-', '_']).any(|word| parts.iter().any(|part| word.contains(part) && word != "string"))
    };
    let forbidden = |package: &str| tree(package).iter().filter(is_forbidden).cloned().collect::<Vec<_>>();
    assert_eq!(forbidden("binfmt-setup"), [""; 0]);
    // The list recognizes the packages with which the other programs use registries.
    let names = forbidden("registry-client");
    assert!(names.contains(&"rustls".to_string()) && names.contains(&"httpdate".to_string()), "{names:?}");
}
