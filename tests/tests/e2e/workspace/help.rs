//! The help of every command of every program, as the programs print it.

use crate::tools::User;
use std::collections::BTreeSet;

pub const PROGRAMS: [&str; 6] =
    ["bench", "binfmt-setup", "config-patcher", "manifest-push", "multiarch", "xtask"];

/// Output of `PROGRAM PATH... --help`.
pub struct Help {
    pub program: &'static str,
    pub path: Vec<String>,
    pub text: String,
    /// Long and short options, with their dashes.
    pub flags: BTreeSet<String>,
}

pub fn all_helps(user: &User) -> Vec<Help> {
    let mut all = Vec::new();
    let mut next: Vec<(&str, Vec<String>)> = PROGRAMS.map(|program| (program, vec![])).to_vec();
    while let Some((program, path)) = next.pop() {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let text = user.run(program, &words).exits(0).stdout;
        next.extend(subcommands(&text).into_iter().map(|name| (program, [&path[..], &[name]].concat())));
        let flags = flags(&text);
        all.push(Help { program, path, text, flags });
    }
    all
}

/// Returns the names below `Commands:`, without those that clap adds.
fn subcommands(help: &str) -> Vec<String> {
    let section =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // The name of a command is indented by two spaces, continued lines of its description by more.
    let names = section.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !["", "help"].contains(name)).map(str::to_string).collect()
}

/// Returns the options in a help text, including aliases.
fn flags(help: &str) -> BTreeSet<String> {
    // Continued lines of an example may begin with an option.
    let listed = help
        .lines()
        .take_while(|line| *line != "Examples:")
        .filter(|line| line.trim_start().starts_with('-'))
        .flat_map(words_that_are_flags);
    let aliases = help.split("[alias").skip(1).filter_map(|rest| rest.split(']').next());
    listed.chain(aliases.flat_map(words_that_are_flags)).collect()
}

/// `--flag` and `-f`, without values and brackets.
pub fn words_that_are_flags(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c.is_whitespace() || "[](){}|,;=`\"'".contains(c));
    let flags = words.map(|word| word.trim_end_matches(['.', ':'])).filter(|word| {
        let name = word.trim_start_matches('-');
        let dashes = word.len() - name.len();
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && (dashes == 2 || dashes == 1 && name.len() == 1)
    });
    flags.map(str::to_string).collect()
}
