//! Unique names of public types, and sizes of packages.

use super::sources::product;
use std::collections::{BTreeMap, BTreeSet};

/// Largest part of all lines that one package may have.
const PERCENT_MAX: usize = 22;

#[test]
fn a_public_type_name_belongs_to_one_package() {
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in product().iter().filter(|package| package.directory.starts_with("crates")) {
        for line in package.modules.values().flat_map(|module| module.code.lines()) {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let mut words = words.into_iter().filter(|word| !word.is_empty());
            let is_public = line.trim_start().starts_with("pub ") && words.next() == Some("pub");
            let kind = words.find(|word| *word != "unsafe");
            if is_public
                && kind.is_some_and(|kind| ["struct", "enum", "trait", "type", "union"].contains(&kind))
            {
                let name = words.next().unwrap().to_string();
                owners.entry(name).or_default().insert(package.name.clone());
            }
        }
    }
    assert!(owners.len() > 100, "only {} public types were found", owners.len());
    let shared: BTreeMap<_, _> = owners.iter().filter(|(_, owners)| owners.len() > 1).collect();
    assert!(shared.is_empty(), "rename these by their role: {shared:#?}");
}

#[test]
fn no_package_is_most_of_the_product() {
    let sizes: BTreeMap<String, usize> =
        product().into_iter().map(|package| (package.name.clone(), package.lines())).collect();
    let total: usize = sizes.values().sum();
    let (largest, lines) = sizes.iter().max_by_key(|(_, lines)| **lines).unwrap();
    eprintln!("{total} lines, {largest} has {lines}, {} %", lines * 100 / total);
    assert!(lines * 100 <= total * PERCENT_MAX, "{largest} has {lines} of {total} lines: {sizes:#?}");
}
