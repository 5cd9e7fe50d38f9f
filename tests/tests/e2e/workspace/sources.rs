//! The Rust sources of the workspace's packages, without comments, text literals and test code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A module's path inside its package; the crate root is empty.
pub type ModulePath = Vec<String>;

pub struct Package {
    pub name: String,
    /// Relative to the workspace.
    pub directory: PathBuf,
    pub modules: BTreeMap<ModulePath, Module>,
}

/// One source file.
pub struct Module {
    /// The code, with spaces instead of comments, text literals and tests.
    pub code: String,
    /// Lines of the file without its tests; comments count.
    pub lines: usize,
}

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// `cargo metadata` of the workspace's own packages.
pub fn metadata() -> Vec<serde_json::Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// The packages that are shipped: all but the tests and the measurements.
pub fn product() -> Vec<Package> {
    let names = metadata().into_iter().map(|package| {
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
        (package["name"].as_str().unwrap().to_string(), manifest.parent().unwrap().to_path_buf())
    });
    let shipped = names.filter(|(name, _)| !["bench", "multiarch-tests"].contains(&name.as_str()));
    shipped.map(|(name, directory)| Package::read(name, &directory)).collect()
}

impl Package {
    fn read(name: String, directory: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut test_modules = BTreeSet::new();
        let source = directory.join("src");
        for file in rust_files(&source) {
            let path = module_path(file.strip_prefix(&source).unwrap());
            let text = fs::read_to_string(&file).unwrap();
            let mut code = without_text(&text);
            let tests = test_items(&code);
            for range in &tests {
                let item = &code[range.clone()];
                if let Some(module) = item.strip_suffix(';').and_then(|item| item.split("mod ").nth(1)) {
                    test_modules.insert([&path[..], &[module.trim().to_string()]].concat());
                }
            }
            let in_tests: usize =
                tests.iter().map(|range| code[range.clone()].matches('\n').count() + 1).sum();
            for range in tests {
                let blanks = blanks(&code[range.clone()]);
                code.replace_range(range, &blanks);
            }
            let lines = text.lines().count() - in_tests;
            // A package that is library and program: the program's file is the root, too.
            modules
                .entry(path)
                .and_modify(|root: &mut Module| {
                    root.code += &code;
                    root.lines += lines;
                })
                .or_insert(Module { code, lines });
        }
        modules.retain(|path, _| !test_modules.iter().any(|tests| path.starts_with(tests)));
        Self { name, directory: directory.strip_prefix(workspace()).unwrap().to_path_buf(), modules }
    }

    pub fn lines(&self) -> usize {
        self.modules.values().map(|module| module.lines).sum()
    }
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn module_path(file: &Path) -> ModulePath {
    let file = file.with_extension("");
    let names: ModulePath = file.iter().map(|name| name.to_str().unwrap().to_string()).collect();
    if names == ["lib"] || names == ["main"] { Vec::new() } else { names }
}

/// Replaces all characters except line breaks by spaces, so that offsets and line numbers do not change.
fn blanks(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Returns the code with spaces instead of comments and of the content of text and character literals.
fn without_text(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = text_length(rest);
        if length > 0 {
            code += &blanks(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        // A complete word, so that the last letter of `for` does not begin a raw string.
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let length = word.max(c.len_utf8());
        code += &rest[..length];
        rest = &rest[length..];
    }
    code
}

/// Length of the comment or literal that `text` begins with; 0 if it begins with something else.
fn text_length(text: &str) -> usize {
    if !text.starts_with(['/', '"', '\'', 'b', 'c', 'r']) {
        return 0;
    }
    let until =
        |start: usize, end: &str| text[start..].find(end).map_or(text.len(), |at| start + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until(2, "*/");
    }
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    });
    let prefix = prefix.unwrap_or_default();
    let hashes = text[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let start = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        return until(start, &format!("\"{}", "#".repeat(hashes)));
    }
    if hashes == 0 && text[prefix.len()..].starts_with('"') {
        return escaped_end(text, start, '"');
    }
    let mut chars = text.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\''), Some('\\'), _) => escaped_end(text, 1, '\''),
        // A character literal and not a lifetime.
        (Some('\''), Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

fn escaped_end(text: &str, start: usize, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text[start..].char_indices() {
        if c == quote && !is_escaped {
            return start + at + 1;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

/// Returns the ranges of items after `#[cfg(test)]`, including the attribute.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find("#[cfg(test)]").map(|at| from + at) {
        let mut depth = 0;
        let end = code[start..].char_indices().find_map(|(at, c)| {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == ';' || c == '}')).then_some(start + at + 1)
        });
        from = end.unwrap_or(code.len());
        items.push(start..from);
    }
    items
}

#[test]
fn comments_literals_and_tests_are_not_code() {
    let code = without_text("a /* b */ \"c\\\"\" r#\"d\"e\"# 'f' '\\'' <'g> b\"h\" for \"i\" // j\nk");
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "<'g>", "for", "k"]);
    let code = "a #[cfg(test)] mod b; c #[cfg(test)]\nmod d { fn e() {} } f";
    let tests: Vec<&str> = test_items(code).into_iter().map(|range| &code[range]).collect();
    assert_eq!(tests, ["#[cfg(test)] mod b;", "#[cfg(test)]\nmod d { fn e() {} }"]);
}
