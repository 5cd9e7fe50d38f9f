//! The table of bounds in SECURITY.md: each row has tests, and they exist.

use super::sources::workspace;
use std::fs;
use std::path::Path;

/// All Rust files below a directory, one after the other.
fn code(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            text += &code(&path);
        } else if name.ends_with(".rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn each_bound_has_a_test() {
    let text = fs::read_to_string(workspace().join("SECURITY.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Bounds\n")).unwrap();
    let code = code(workspace());
    let is_test = |name: &str| {
        let before = code.find(&format!("fn {name}()")).map(|at| &code[..at]);
        before.is_some_and(|before| before.trim_end().ends_with("#[test]"))
    };
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows: Vec<&str> = rows.filter(|row| !row.starts_with("| **")).collect();
    let mut wrong = Vec::new();
    for row in &rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let tests: Vec<&str> = cells.last().unwrap().split('`').skip(1).step_by(2).collect();
        if cells.len() != 4 || tests.is_empty() {
            wrong.push(format!("not a row of four cells with a test: {row}"));
        }
        wrong.extend(tests.iter().filter(|name| !is_test(name)).map(|name| format!("no such test: {name}")));
    }
    assert_eq!(wrong, [""; 0]);
    assert!(rows.len() > 45, "only {} rows", rows.len());
}
