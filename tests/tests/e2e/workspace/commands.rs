//! Commands and options in README and docs, which must exist.

use super::help::{Help, PROGRAMS, all_helps, words_that_are_flags};
use super::sources::workspace;
use crate::tools::User;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Options of other programs, of Dockerfile instructions and of test tools that the pages mention.
const FOREIGN: [&str; 9] = [
    "--from",
    "--locked",
    "--mount",
    "--no-cache",
    "--path",
    "--platform",
    "--privileged",
    "--quiet",
    "--root",
];

/// Values of the placeholders in capitals.
const PLACEHOLDERS: [(&str, &str); 8] = [
    ("HOST/REPO", "registry.example.org/app"),
    ("HOST/", "registry.example.org/"),
    ("LIST", "registry.example.org/app:1"),
    ("sha256:OLD", "DIGEST"),
    ("IMAGE", "registry.example.org/app:1"),
    ("REPO", "registry.example.org/app"),
    ("DIGEST", "sha256:6bdc79894c2ba158a5d5516d1b250a56b6fdf6136d71a544cf67efe2f01d3559"),
    ("ARCH", "amd64"),
];

/// A command in a page, without the name of the program.
#[derive(Debug)]
struct Mention {
    place: String,
    program: &'static str,
    words: Vec<String>,
    /// All options in the line, including those in its explanation.
    flags: Vec<String>,
    /// Has brackets or alternatives, so that a shell cannot execute it.
    is_synopsis: bool,
}

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(workspace().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let other_pages = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "examples/multi-arch-example/README.md",
    ];
    docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain(other_pages.map(|name| workspace().join(name)))
        .collect()
}

/// Returns lines of code blocks and inline code, with line numbers.
fn code(text: &str) -> Vec<(usize, String)> {
    let mut code: Vec<(usize, String)> = Vec::new();
    let mut is_fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        } else if is_fenced || line.starts_with("    ") {
            let line = line.trim();
            // A continued line of a synopsis.
            match code.last_mut() {
                Some((last, before)) if *last == at && line.starts_with(['[', '-']) => {
                    *before += " ";
                    *before += line;
                    *last = at + 1;
                }
                _ => code.push((at + 1, line.to_string())),
            }
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(|span| (at + 1, span.to_string())));
        }
    }
    code
}

/// Returns the commands of this workspace in a line of code.
fn mentions(place: &str, line: &str) -> Vec<Mention> {
    let line = line.replace("cargo xtask", "xtask");
    let parts = line.split(" | ").flat_map(|part| part.split(" && "));
    let is_split_by_brackets = line.contains("] | [") || line.contains(" (");
    let parts: Vec<&str> =
        if is_split_by_brackets || line.contains('[') { vec![&line] } else { parts.collect() };
    parts.into_iter().filter_map(|part| mention(place, part)).collect()
}

/// Replaces placeholders and shortened digests.
fn shell_word(word: &str) -> String {
    let word = word.trim_matches(['"', '\'', '`', ',', ';']);
    let word = match word.split_once("sha256:") {
        Some((before, digest)) if digest.ends_with("...") => format!("{before}DIGEST"),
        _ => word.strip_suffix('.').filter(|_| !word.ends_with("..")).unwrap_or(word).to_string(),
    };
    PLACEHOLDERS.iter().fold(word, |word, (from, to)| word.replace(from, to))
}

fn mention(place: &str, part: &str) -> Option<Mention> {
    let all: Vec<&str> = part.split(' ').collect();
    let start = all.iter().position(|word| PROGRAMS.contains(word))?;
    // After the name of another program it is an argument: `docker run tools config-patcher`, `cargo run -p xtask`.
    let is_argument = all[..start].iter().any(|word| ["-p", "--path", "--package", "--tool"].contains(word));
    if is_argument {
        return None;
    }
    // A line of the drawing in ARCHITECTURE.md.
    if all[start + 1..].iter().any(|word| ["->", "..>"].contains(word)) {
        return None;
    }
    // `xtask bench` is a separate program.
    let start = start + usize::from(all[start] == "xtask" && all.get(start + 1) == Some(&"bench"));
    let program = PROGRAMS.into_iter().find(|program| *program == all[start])?;
    let rest = all[start + 1..].join(" ");
    let ends = ["  ", " #", " -- ", " > "];
    let command = ends.iter().fold(rest.as_str(), |command, end| command.split(end).next().unwrap());
    let words: Vec<String> = command.split_whitespace().map(shell_word).collect();
    let is_synopsis = words.iter().any(|word| word.contains(['[', '(', '|', '<']) || word.contains("..."));
    let flags = words_that_are_flags(rest.split(" -- ").next().unwrap());
    Some(Mention { place: place.to_string(), program, words, flags, is_synopsis })
}

/// Returns the words that are not in brackets: `push [--type T] from-spec FILE` is `push from-spec FILE`.
fn required(words: &[String]) -> Vec<&str> {
    let mut depth = 0;
    let mut required = Vec::new();
    for word in words {
        if depth == 0 && !word.starts_with(['[', '-', '(']) {
            required.push(word.as_str());
        }
        depth += word.matches('[').count();
        depth -= word.matches(']').count();
    }
    required
}

/// Returns the help of the program and of each subcommand in the words; the innermost one is the last.
fn helps_of<'a>(helps: &'a [Help], mention: &Mention) -> Vec<&'a Help> {
    let words = required(&mention.words);
    let fits = |help: &&Help| {
        help.program == mention.program
            && words.iter().map(|word| word.to_string()).collect::<Vec<_>>().starts_with(&help.path)
    };
    let mut fitting: Vec<&Help> = helps.iter().filter(fits).collect();
    fitting.sort_by_key(|help| help.path.len());
    fitting
}

#[test]
fn commands_in_the_documents_are_commands_of_the_programs() {
    let user = User::new();
    let helps = all_helps(&user);
    let known: BTreeSet<&String> = helps.iter().flat_map(|help| &help.flags).collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (number, line) in code(&text) {
            let place = format!("{}:{number}", page.strip_prefix(workspace()).unwrap().display());
            let mentions = mentions(&place, &line);
            if mentions.is_empty() && line.starts_with("--") {
                let flags = words_that_are_flags(&line);
                let unknown = flags.iter().filter(|f| !known.contains(f) && !FOREIGN.contains(&f.as_str()));
                wrong.extend(unknown.map(|flag| format!("{place}: no program has {flag}")));
            }
            for mention in mentions {
                seen += 1;
                let helps = helps_of(&helps, &mention);
                let unknown =
                    mention.flags.iter().filter(|flag| helps.iter().all(|help| !help.flags.contains(*flag)));
                let name = [mention.program, &helps[helps.len() - 1].path.join(" ")].join(" ");
                wrong.extend(unknown.map(|flag| format!("{place}: `{name}` has no {flag}")));
                if !mention.is_synopsis {
                    let words = mention.words.iter().map(String::as_str);
                    let ran = user.run(mention.program, &words.chain(["--help"]).collect::<Vec<_>>());
                    if ran.code != Some(0) {
                        wrong.push(format!("{}: {ran}", mention.place));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 60, "only {seen} commands were found");
}

#[test]
fn commands_are_found_in_a_page() {
    let page = "Run `cargo xtask ci --fuzz` or:\n\n    $ docker save a | config-patcher fix - --set-platform linux/arm64\n    \
                manifest-push edit IMAGE [--add P]\n                        [--remove P]   -q: quiet\n";
    let found: Vec<String> = code(page)
        .iter()
        .flat_map(|(at, line)| mentions(&at.to_string(), line))
        .map(|m| format!("{} {} {:?} {}", m.place, m.program, m.flags, m.is_synopsis))
        .collect();
    let expected = [
        "1 xtask [\"--fuzz\"] false",
        "3 config-patcher [\"--set-platform\"] false",
        "5 manifest-push [\"--add\", \"--remove\", \"-q\"] true",
    ];
    assert_eq!(found, expected);
}
