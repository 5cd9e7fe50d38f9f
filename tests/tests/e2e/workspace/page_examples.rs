//! Examples in README.md and docs/manifest-push.md: their commands are executed, and the output is compared with the page.

use super::sources::workspace;
use crate::tools::{User, program, run};
use multiarch_tests::fake_registry::FakeRegistry;
use std::fs;
use std::process::Command;

/// The host of registries in the pages.
const EXAMPLE_HOST: &str = "registry.example.org";

/// A command in a page, and the lines below it.
struct Step {
    command: String,
    shown: String,
}

fn page(name: &str) -> String {
    fs::read_to_string(workspace().join(name)).unwrap()
}

/// Returns the indented blocks of a part of a page, without the indentation. As in Markdown, blank lines do not end a block.
fn blocks(part: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut blank = 0;
    for line in part.lines() {
        let block = blocks.last_mut().unwrap();
        match line.strip_prefix("    ") {
            Some(line) => {
                if !block.is_empty() {
                    *block += &"\n".repeat(blank);
                }
                *block += &format!("{line}\n");
                blank = 0;
            }
            None if line.is_empty() => blank += 1,
            None => {
                if !block.is_empty() {
                    blocks.push(String::new());
                }
                blank = 0;
            }
        }
    }
    blocks
}

fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            // The lines of a file that the command writes belong to the command.
            (None, Some(step)) if step.command.contains("<<'EOF'") && !step.command.ends_with("\nEOF") => {
                step.command += &format!("\n{line}");
            }
            (Some(command), _) => steps.push(Step { command: command.to_string(), shown: String::new() }),
            (None, Some(step)) => step.shown += &format!("{line}\n"),
            (None, None) => panic!("no command above {line:?}"),
        }
    }
    steps
}

/// Compares the text of a page with an output. `...` in the page stands for any text.
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
    for name in ["multiarch", "manifest-push"] {
        user.script(name, &format!("exec '{}' \"$@\"", program(name).display()));
    }
    user
}

/// Runs a command line in bash. Returns stdout and stderr in the order in which they were written.
fn output_of(user: &User, line: &str) -> String {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec 2>&1\n{line}")]).current_dir(user.work()).env_clear();
    let variables = user.command("multiarch", &[]);
    shell.envs(variables.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(shell).stdout
}

/// Executes the commands of a part of a page and asserts that their output is that of the page. `host` takes the place of
/// `registry.example.org`. Returns the number of commands.
fn check_examples(user: &User, part: &str, host: &str) -> usize {
    let mut count = 0;
    for step in blocks(part).iter().filter(|block| block.starts_with("$ ")).flat_map(|block| steps(block)) {
        if let Some(file) = step.command.strip_prefix("cat ").filter(|rest| !rest.contains("<<")) {
            user.write(file, step.shown.replace(EXAMPLE_HOST, host));
        }
        let found = output_of(user, &step.command.replace(EXAMPLE_HOST, host)).replace(host, EXAMPLE_HOST);
        assert!(fits(&step.shown, &found), "$ {}\n--- page\n{}--- now\n{found}", step.command, step.shown);
        count += 1;
    }
    count
}

#[test]
fn the_quick_start_prints_what_the_readme_shows() {
    let readme = page("README.md");
    let part = readme.split("\n## Quick start\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let count = check_examples(&user(), part, EXAMPLE_HOST);
    assert!(count > 10, "only {count} commands were found");
}

/// The page assumes images in a registry, of which the one for arm/v7 declares amd64.
#[test]
fn manifest_push_prints_what_its_page_shows() {
    let registry = FakeRegistry::start();
    let (user, host) = (user(), registry.host());
    output_of(&user, "multiarch release --example");
    for (tag, platform) in [
        ("1.0-amd64", "linux/amd64"),
        ("1.0-arm32v7", "linux/arm/v7"),
        ("1.0-riscv64", "linux/riscv64"),
        ("arm32v7-fixed", "linux/arm/v7"),
    ] {
        let to = format!("{host}/team/app:{tag}");
        output_of(&user, &format!("multiarch copy oci:multi-arch-example {to} --platform {platform}"));
    }
    output_of(&user, &format!("multiarch fix {host}/team/app:1.0-arm32v7 --set-platform linux/amd64"));
    let count = check_examples(&user, &page("docs/manifest-push.md"), &host);
    assert!(count > 10, "only {count} commands were found");
    assert_eq!(registry.violations(), [""; 0]);
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
        output_of(&user, command);
    }
    let shown = blocks(&page("README.md")).swap_remove(0);
    let found = output_of(&user, "multiarch verify oci:app:1");
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
