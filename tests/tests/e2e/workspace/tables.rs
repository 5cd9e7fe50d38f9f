//! The tables of modules in ARCHITECTURE.md: each top-level module of each package, and no other. The glossary.

use super::sources::{product, workspace};
use std::collections::BTreeSet;
use std::fs;

/// The section of ARCHITECTURE.md under this heading.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no section \"{heading}\""));
    let section = &text[start + 1..];
    &section[..section.find("\n#").unwrap_or(section.len())]
}

/// The first cell of each row.
fn first_cells(section: &str) -> impl Iterator<Item = &str> {
    section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
}

#[test]
fn tables_list_the_modules_of_each_package() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let mut wrong = Vec::new();
    for package in product() {
        let found: BTreeSet<&str> =
            package.modules.keys().filter(|path| path.len() == 1).map(|path| &*path[0]).collect();
        let section = section(&text, &format!("### {}", package.name));
        let listed: BTreeSet<&str> =
            first_cells(section).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        wrong.extend(
            found.difference(&listed).map(|module| format!("{}: {module} is not listed", package.name)),
        );
        wrong.extend(
            listed.difference(&found).map(|module| format!("{}: {module} does not exist", package.name)),
        );
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn files_in_architecture_exist() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let mut seen = 0;
    for name in text.split('`').skip(1).step_by(2) {
        let first = name.split('/').next().unwrap();
        let is_path =
            name.contains('/') && !name.contains([' ', ':', '$']) && workspace().join(first).is_dir();
        assert!(!is_path || workspace().join(name).exists(), "{name} does not exist");
        seen += usize::from(is_path);
    }
    assert!(seen > 20, "only {seen} files were found");
}

#[test]
fn the_glossary_has_at_most_sixty_words_each_once() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let words: Vec<&str> = first_cells(section(&text, "## Glossary")).skip(1).collect();
    let unique: BTreeSet<&&str> = words.iter().collect();
    assert_eq!(unique.len(), words.len());
    assert!((30..=60).contains(&words.len()), "{} words", words.len());
}
