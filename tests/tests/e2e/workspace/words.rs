//! Replaced sentences, which no help text, manual page, message or document may contain.

use super::help::all_helps;
use super::sources::workspace;
use crate::tools::User;
use std::fs;
use std::path::{Path, PathBuf};

const REPLACED: [&str; 24] = [
    "Say nothing on stderr but errors",
    "Say each write as it is done",
    "Believe any certificate",
    "Speak plain HTTP to this registry",
    "Ask for so many things at once at most",
    "Give a request up that has not got through after so many seconds",
    "Take credentials from this file alone",
    "Hold labels against what the binaries show",
    "Let a tag name again what it named before it was published",
    "Runs it all: from Dockerfiles to one published image of many platforms",
    "is none that engines know",
    "this is no YAML",
    "one thing in it is wrong",
    "no entry of the kernel's table takes it",
    "the kernel refused; all is as it was",
    "put that right, or log in anew",
    "Bytes that were only read are never written anew",
    "Killed at any point, it names what it named",
    "What cannot be looked at is said so",
    "Bytes on their way: up, all of them and the right ones",
    "What it takes to get in",
    "Folders that outlast a power cut, and files that are files",
    "What came of it.",
    "the image with a label that does not contradict it",
];

/// Returns the text in lowercase, with single spaces and without comment signs.
fn plain(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !["//", "///", "//!"].contains(word));
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Documents and sources, without this file.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![workspace().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_ours = !name.starts_with('.') && !["target", "dist"].contains(&name.as_str());
            if path.is_dir() && is_ours {
                directories.push(path);
            } else if ["rs", "md", "yaml", "yml", "html", "toml"]
                .iter()
                .any(|e| path.extension() == Some(e.as_ref()))
            {
                files.push(path);
            }
        }
    }
    files.retain(|path| {
        !path.ends_with(Path::new(file!()).file_name().unwrap()) && !path.ends_with("CHANGELOG.md")
    });
    files
}

#[test]
fn replaced_sentences_do_not_come_back() {
    let user = User::new();
    let mut texts: Vec<(String, String)> = Vec::new();
    for help in all_helps(&user) {
        texts.push((format!("{} {} --help", help.program, help.path.join(" ")), plain(&help.text)));
    }
    for program in ["binfmt-setup", "config-patcher", "manifest-push", "multiarch"] {
        let page = user.run(program, &["man"]).exits(0).stdout.replace("\\-", "-").replace("\\'", "'");
        texts.push((format!("{program} man"), plain(&page)));
    }
    let read = |path: PathBuf| (path.display().to_string(), plain(&fs::read_to_string(&path).unwrap()));
    texts.extend(files().into_iter().map(read));
    assert!(texts.len() > 300, "only {} texts were found", texts.len());
    let mut found = Vec::new();
    for sentence in REPLACED {
        let sentence = sentence.to_lowercase();
        let places =
            texts.iter().filter(|(_, text)| text.contains(&sentence)).map(|(place, _)| place.as_str());
        let places: Vec<&str> = places.collect();
        if !places.is_empty() {
            found.push(format!("\"{sentence}\" in {}", places.join(", ")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
