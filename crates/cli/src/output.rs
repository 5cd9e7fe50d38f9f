//! The output options of every command, and printing of messages and errors.

use crate::streams::{check_stdout, eprint_line, has_json, print_json};
use error::Error;
use error::Exit;
use error::text::Escaped;
use std::io::IsTerminal;
use std::process::ExitCode;

/// The output options of every command, for `#[command(flatten)]`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Format of the result on stdout
    #[arg(long, short = 'o', value_enum, default_value_t = Format::Text, global = true, value_name = "FORMAT")]
    pub format: Format,
    /// Suppress output except errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print every write
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// When to color messages
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true, value_name = "WHEN")]
    pub color: Color,
}

/// Format of the result on stdout.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON value.
    Json,
}

/// When to color messages on stderr.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// If stderr is a terminal and `NO_COLOR` is not set.
    Auto,
    /// Even if stderr is not a terminal.
    Always,
    /// Never.
    Never,
}

impl Output {
    /// Prints a message on stderr, unless `--quiet` is given. Foreign text in it is escaped here.
    pub fn info(&self, line: &str) {
        if !self.quiet {
            eprint_line(format!("{}", Escaped(line)));
        }
    }

    /// Prints a message on stderr if `--verbose` is given.
    pub fn verbose_info(&self, line: &str) {
        if self.verbose {
            self.info(line);
        }
    }

    /// Prints the last line of every `--dry-run`.
    pub fn end_dry_run(&self) {
        self.info("dry run: nothing was written");
    }

    /// Prints several lines on stderr, each escaped separately, unless `--quiet` is given.
    pub fn info_lines(&self, lines: &str) {
        for line in lines.lines() {
            self.info(line);
        }
    }

    /// Returns a function that prints warnings on stderr, for packages that know nothing of these options.
    pub fn warning_printer(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let quiet = self.quiet;
        move |text| {
            if !quiet {
                eprint_line(format!("warning: {}", Escaped(text)));
            }
        }
    }

    fn is_colored(&self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        }
    }

    /// Prints the error, if any, on stderr, and returns the exit status of the process. With `--format json`, prints it
    /// on stdout as well, unless a result is there: two values would be invalid. A result that could not be printed is an
    /// error.
    pub fn finish(&self, tool: &str, result: Result<Exit, Error>) -> ExitCode {
        let error = match (result, check_stdout()) {
            (Ok(exit), Ok(())) => return exit.into(),
            (Ok(_), Err(error)) | (Err(error), _) => error,
        };
        if self.format == Format::Json && !has_json() {
            print_json(&error_json(&error));
        }
        let (red, plain) = if self.is_colored() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        for problem in &error.problems {
            eprint_line(format!("{red}{tool}:{plain} {}", Escaped(problem)));
        }
        eprint_line(format!("{red}{tool}:{plain} {}", Escaped(&format!("cannot {error}"))));
        error.kind.into()
    }
}

/// Returns the result of a command that failed, as JSON.
pub(crate) fn error_json(error: &Error) -> String {
    let message = format!("cannot {error}");
    let error = serde_json::json!({"exit": error.kind as u8, "message": message, "problems": error.problems});
    serde_json::json!({"schemaVersion": 2, "error": error}).to_string()
}
