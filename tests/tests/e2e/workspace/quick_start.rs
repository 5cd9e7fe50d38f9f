//! The README's quick start, run command by command: the programs print what it shows.

use super::sources::workspace;
use crate::tools::{User, program, run};
use std::fs;
use std::process::Command;

/// A command of the README, and the lines below it.
struct Step {
    command: String,
    shown: String,
}

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).unwrap()
}

/// The indented blocks of a part of the README, without the indent.
fn blocks(part: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in part.lines() {
        match (line.strip_prefix("    "), blocks.last_mut().unwrap()) {
            (Some(line), block) => *block += &format!("{line}\n"),
            (None, block) if !block.is_empty() => blocks.push(String::new()),
            (None, _) => {}
        }
    }
    blocks
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step { command: command.to_string(), shown: String::new() }),
            (None, Some(step)) => step.shown += &format!("{line}\n"),
            (None, None) => panic!("no command above {line:?}"),
        }
    }
    steps
}

/// `...` stands for any text.
fn fits(shown: &str, found: &str) -> bool {
    let mut parts: Vec<&str> = shown.split("...").collect();
    let last = parts.pop().unwrap();
    if parts.is_empty() {
        return found == last;
    }
    let Some(mut rest) = found.strip_prefix(parts.remove(0)) else { return false };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn user() -> User {
    let user = User::new();
    user.script("multiarch", &format!("exec '{}' \"$@\"", program("multiarch").display()));
    user
}

/// Runs a command line in bash. Returns stdout and stderr in the order in which they were written.
fn seen(user: &User, line: &str) -> String {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{line} 2>&1")]).current_dir(user.work()).env_clear();
    let variables = user.command("multiarch", &[]);
    shell.envs(variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(shell).stdout
}

#[test]
fn the_quick_start_prints_what_the_readme_shows() {
    let readme = readme();
    let part = readme.split("\n## Quick start\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let user = user();
    let mut count = 0;
    for step in blocks(part).iter().flat_map(|block| steps(block)) {
        if let Some(file) = step.command.strip_prefix("cat ") {
            user.write(file, &step.shown);
        }
        let found = seen(&user, &step.command);
        assert!(fits(&step.shown, &found), "$ {}\n--- README\n{}--- now\n{found}", step.command, step.shown);
        count += 1;
    }
    assert!(count > 10, "only {count} commands were found");
}

/// The first output of the README is that of an index with an image that declares the wrong platform.
#[test]
fn the_first_example_is_what_verify_prints() {
    let user = user();
    let commands = [
        "multiarch release --example",
        "multiarch copy oci:multi-arch-example oci:app:1-amd64 --platform linux/amd64",
        "multiarch copy oci:multi-arch-example oci:app:1-armv7 --platform linux/arm/v7",
        "multiarch fix oci:app:1-armv7 --set-platform linux/amd64",
        "multiarch push from-args --force --platforms linux/amd64,linux/arm/v7 --template oci:app:1-ARCHVARIANT --target oci:app:1",
    ];
    for command in commands {
        seen(&user, command);
    }
    let shown = blocks(&readme()).swap_remove(0);
    let found = seen(&user, "multiarch verify oci:app:1");
    assert!(fits(&shown, &found), "--- README\n{shown}--- now\n{found}");
}

#[test]
fn three_dots_stand_for_any_text() {
    for (shown, found) in
        [("a\n", "a\n"), ("...\nc\n", "a\nb\nc\n"), ("a sha256:12...\n...\nc", "a sha256:1234\nb\nc")]
    {
        assert!(fits(shown, found), "{shown:?} {found:?}");
    }
    for (shown, found) in [("a\n", "a\nb\n"), ("a...c", "abd"), ("...b...c", "ac")] {
        assert!(!fits(shown, found), "{shown:?} {found:?}");
    }
}
