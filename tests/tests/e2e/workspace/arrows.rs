//! The arrows between the packages are the ones that ARCHITECTURE.md draws. One that is not drawn there fails here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The packages of this workspace that each package depends on. `multiarch` runs `binfmt-setup` as a program and does
/// not link it.
const DRAWN: [(&str, &[&str]); 15] = [
    ("error", &[]),
    ("cli", &["error"]),
    ("strict-yaml", &["error"]),
    ("sandbox", &[]),
    ("image-model", &["error"]),
    ("registry-client", &["error", "image-model"]),
    ("image-store", &["error", "image-model", "registry-client"]),
    ("image-evidence", &["error", "image-model", "image-store"]),
    ("binfmt-setup", &[]),
    ("config-patcher", &["cli", "error", "image-evidence", "image-model", "image-store", "registry-client"]),
    ("manifest-push", &["cli", "error", "image-model", "image-store", "registry-client", "strict-yaml"]),
    (
        "multiarch",
        &[
            "cli",
            "config-patcher",
            "error",
            "image-evidence",
            "image-model",
            "image-store",
            "manifest-push",
            "registry-client",
            "sandbox",
            "strict-yaml",
        ],
    ),
    ("xtask", &["cli", "error", "image-evidence", "image-model", "image-store", "multiarch", "sandbox"]),
    ("bench", &["cli", "error", "image-model", "image-store", "multiarch"]),
    (
        "multiarch-tests",
        &[
            "binfmt-setup",
            "cli",
            "config-patcher",
            "error",
            "image-evidence",
            "image-model",
            "image-store",
            "manifest-push",
            "multiarch",
            "registry-client",
        ],
    ),
];

#[test]
fn packages_use_only_whom_the_drawing_says() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let ours = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| !dependency["path"].is_null());
        let mut names: Vec<&str> = ours.map(|dependency| dependency["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        found.insert(package["name"].as_str().unwrap(), names);
    }
    let drawn: BTreeMap<&str, Vec<&str>> = DRAWN.iter().map(|(name, uses)| (*name, uses.to_vec())).collect();
    assert_eq!(found, drawn);
}

/// The one tool for root must be readable at a glance: no network, no TLS, no parser but JSON's. clap's two
/// companions print completions and the manual page.
#[test]
fn the_tool_for_root_has_few_dependencies() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("binfmt-setup/Cargo.toml");
    let text = std::fs::read_to_string(manifest).unwrap();
    let list = text.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names: Vec<&str> =
        list.lines().filter_map(|line| line.split('.').next()).filter(|n| !n.is_empty()).collect();
    assert_eq!(names, ["clap", "clap_complete", "clap_mangen", "nix", "serde", "serde_json", "thiserror"]);
}
