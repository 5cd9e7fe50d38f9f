//! How a run speaks: in which form, how much, and where.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};

use crate::error::Error;
use crate::exit::Exit;

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Global {
    /// For people, or one JSON object on stdout
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, hide_possible_values = true, value_name = "text|json")]
    pub format: Format,
    /// Suppress warnings and notes
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Print every write
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Colored words
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, hide_possible_values = true, value_name = "auto|always|never")]
    pub color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// Results on stdout; all else on stderr.
#[derive(Debug)]
pub struct Voice {
    global: Global,
}

impl Voice {
    pub fn new(global: Global) -> Self {
        Self { global }
    }

    pub fn result(&self, text: &str) -> Result<(), Error> {
        match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done.map_err(Error::Stdout),
        }
    }

    pub fn json(&self, value: &impl serde::Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Error::Stdout(error.into()))?;
        self.result(&(text + "\n"))
    }

    pub fn is_json(&self) -> bool {
        self.global.format == Format::Json
    }

    pub fn color(&self) -> bool {
        match self.global.color {
            Color::Always => true,
            Color::Never => false,
            // https://no-color.org
            Color::Auto => {
                io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
            }
        }
    }

    /// What a person should know, though it is no error.
    pub fn note(&self, text: &str) {
        if !self.global.quiet {
            eprintln!("binfmt-setup: {text}");
        }
    }

    pub fn detail(&self, text: &str) {
        if self.global.verbose {
            eprintln!("binfmt-setup: {text}");
        }
    }

    /// Says what went wrong.
    pub fn fail(&self, error: &Error) -> Exit {
        let exit = error.exit();
        let message = error.chain();
        if self.is_json() {
            let object = serde_json::json!({ "error": { "exit": exit as u8, "message": message } });
            // Where stdout is closed, stderr still says it.
            let _ = self.json(&object);
        }
        eprintln!("binfmt-setup: {message}");
        exit
    }
}
