//! What is printed instead of a result if clap does not accept the command line.

use crate::output::error_json;
use crate::streams::print_json;
use clap::error::ErrorKind;
use clap::{Command, CommandFactory};
use error::{Error, Exit};
use std::ffi::OsString;

/// Prints help, version or a usage error, as clap does, and exits. A usage error is printed on stdout as well if `words`,
/// which are the arguments of `T` and the name of the program, request JSON.
pub fn exit_with_usage<T: CommandFactory>(error: &clap::Error, words: &[OsString]) -> ! {
    if error.use_stderr() && requests_json(&T::command(), words) {
        print_json(&error_json(&Error::new(Exit::Usage, "parse the command line", reason(error))));
    }
    error.exit()
}

/// Returns whether `words` contain `--format json`, also where clap did not parse it, because it stops at the first error.
fn requests_json(command: &Command, words: &[OsString]) -> bool {
    let mut command = command;
    let mut short = None;
    let mut previous = "";
    for word in words.iter().map(|word| word.to_str().unwrap_or_default()).take_while(|word| *word != "--") {
        command = command.find_subcommand(word).unwrap_or(command);
        // A command whose -o is another option has its own --format.
        let format = command.get_arguments().find(|arg| arg.get_id() == "format");
        short = format.map_or(short, |arg| arg.get_short().map(|letter| format!("-{letter}")));
        let is_format = |option: &str| option == "--format" || short.as_deref() == Some(option);
        let joined = word.strip_suffix("json").map(|rest| rest.strip_suffix('=').unwrap_or(rest));
        if (word == "json" && is_format(previous)) || joined.is_some_and(is_format) {
            return true;
        }
        previous = word;
    }
    false
}

/// Returns what clap reports without the usage and the reference to `--help`, in one line.
fn reason(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "arguments are required".into();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let is_reason = |part: &&str| !part.starts_with("Usage:") && !part.starts_with("For more information");
    let parts = text.split("\n\n").take_while(is_reason);
    let lines = parts.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, Output};
    use clap::Parser;

    #[derive(Parser)]
    struct Tool {
        #[command(subcommand)]
        _command: Sub,
        #[command(flatten)]
        _output: Output,
    }

    #[derive(clap::Subcommand)]
    enum Sub {
        Verify {
            _image: String,
        },
        Fix {
            #[arg(long, short)]
            _output: Option<String>,
            #[arg(long)]
            format: Option<Format>,
        },
    }

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn json_is_requested_by_each_form_of_the_option() {
        let check = |line: &str, expected: bool| {
            assert_eq!(requests_json(&Tool::command(), &words(line)), expected, "{line}");
        };
        check("tool verify --bad --format json", true);
        check("tool --format=json verify --bad", true);
        check("tool verify -o json --bad", true);
        check("tool verify -o=json", true);
        check("tool verify -ojson", true);
        check("tool fix --bad --format json", true);
        check("tool fix --bad -o json", false);
        check("tool verify --bad --format text", false);
        check("tool verify json --bad", false);
        check("tool verify -- --format json", false);
        check("tool verify --xformat json --format=jsonx", false);
    }

    #[test]
    fn reason_is_one_line_without_the_usage() {
        let check = |line: &str, expected: &str| {
            let error = Tool::try_parse_from(words(line)).err().unwrap();
            assert_eq!(reason(&error), expected, "{line}");
        };
        check("tool", "arguments are required");
        check("tool verify -q", "the following required arguments were not provided: <IMAGE>");
        check(
            "tool verify x --formt",
            "unexpected argument '--formt' found; tip: a similar argument exists: '--format'",
        );
    }
}
