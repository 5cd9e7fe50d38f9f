//! Process-wide state: only the crate of the terminal has some, since a process has one terminal.

use super::sources::product;

/// Types whose value changes behind a shared reference.
const MUTABLE: [&str; 9] =
    ["Mutex", "RwLock", "Once", "LazyLock", "Lazy", "Atomic", "Cell", "Condvar", "static mut"];

/// The items of this code that are process-wide state or state of a thread.
fn global_state(code: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '\'';
    let mut found = Vec::new();
    for word in ["static", "thread_local!"] {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].chars().next_back();
            let item = code[at..].split(';').next().unwrap_or_default();
            let is_item = !before.is_some_and(is_word) && !item[word.len()..].starts_with(is_word);
            let declaration = item.split('=').next().unwrap_or_default();
            let is_mutable = MUTABLE.iter().any(|name| declaration.contains(name));
            if is_item && (word != "static" || is_mutable) {
                found.push(declaration.trim());
            }
        }
    }
    found
}

#[test]
fn no_shared_crate_but_cli_has_process_wide_state() {
    let mut found = Vec::new();
    let mut files = 0;
    for package in product().iter().filter(|package| package.directory.starts_with("crates")) {
        for (path, module) in &package.modules {
            files += 1;
            let items = global_state(&module.code).into_iter();
            found.extend(items.map(|item| format!("{} {}: {item}", package.name, path.join("::"))));
        }
    }
    assert!(files > 80, "only {files} files were read");
    let (allowed, refused): (Vec<_>, Vec<_>) = found.iter().partition(|item| item.starts_with("cli "));
    assert!(!allowed.is_empty(), "the statics of cli are not found, so no others would be");
    assert!(refused.is_empty(), "pass this state in, as TempFiles and NameHasher: {refused:#?}");
}

#[test]
fn items_with_changing_state_are_recognized() {
    let check = |code: &str, wanted: &[&str]| assert_eq!(global_state(code), wanted, "{code}");
    check("static A: Mutex<u8> = Mutex::new(0);", &["static A: Mutex<u8>"]);
    check("pub static B: std::sync::OnceLock<u8> = x();", &["static B: std::sync::OnceLock<u8>"]);
    check("static C: AtomicU64 = AtomicU64::new(0);", &["static C: AtomicU64"]);
    check("static D: LazyLock<\n    u8,\n> = x;", &["static D: LazyLock<\n    u8,\n>"]);
    check("static mut E: u8 = 0;", &["static mut E: u8"]);
    check("thread_local! { static F: u8 = 1; }", &["thread_local! { static F: u8"]);
    check("static ZEROS: [u8; 512] = [0; 512];", &[]);
    check("fn f(_: &'static Mutex<u8>) {} struct S { is_static: Mutex<u8> }", &[]);
}
