//! The arrows between the packages are the ones that ARCHITECTURE.md draws.

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

/// The one tool for root must be readable at a glance: no network, no TLS, no parser but JSON's. clap's two
/// companions print completions and the manual page; tiny-elf writes the programs of `probe`.
#[test]
fn the_tool_for_root_has_few_dependencies() {
    let text = std::fs::read_to_string(workspace().join("binfmt-setup/Cargo.toml")).unwrap();
    let list = text.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<&str> =
        list.lines().filter_map(|line| line.split('.').next()).filter(|n| !n.is_empty()).collect();
    assert_eq!(
        names,
        ["clap", "clap_complete", "clap_mangen", "nix", "serde", "serde_json", "thiserror", "tiny-elf"]
    );
}
