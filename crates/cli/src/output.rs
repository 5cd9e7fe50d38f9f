//! What every tool's command line has in common: how results and errors are shown, and the exit code.

use error::Error;
use error::Exit;
use error::text::Escaped;
use std::io::IsTerminal;
use std::process::ExitCode;

/// The options of every command, for `#[command(flatten)]`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// How to print the result on stdout
    #[arg(long, value_enum, default_value_t = Format::Text, global = true, value_name = "FORMAT")]
    pub format: Format,
    /// Say nothing on stderr but errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say each write as it is done
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Colour what is for people
    #[arg(long, value_enum, default_value_t = Color::Auto, global = true, value_name = "WHEN")]
    pub color: Color,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Output {
    /// A line for people, on stderr. Foreign text in it is escaped here.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            tell(format!("{}", Escaped(line)));
        }
    }

    /// A line for people who asked for more.
    pub fn detail(&self, line: &str) {
        if self.verbose {
            self.say(line);
        }
    }

    /// Several lines for people, each escaped for itself.
    pub fn say_lines(&self, lines: &str) {
        for line in lines.lines() {
            self.say(line);
        }
    }

    /// For code that has warnings and does not know how they are shown.
    pub fn warner(&self) -> impl Fn(&str) + Send + Sync + use<> {
        let quiet = self.quiet;
        move |text| {
            if !quiet {
                tell(format!("warning: {}", Escaped(text)));
            }
        }
    }

    fn is_coloured(&self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        }
    }

    /// Says how it ended, and gives the process its exit status.
    pub fn finish(&self, tool: &str, result: Result<Exit, Error>) -> ExitCode {
        let error = match (result, LOST.get()) {
            (Ok(exit), None) => return exit.into(),
            (Ok(_), Some(lost)) => Error::local("print the result on stdout", lost.to_string()),
            (Err(error), _) => error,
        };
        let line = format!("cannot {error}");
        if self.format == Format::Json {
            let text = serde_json::json!({
                "error": {"exit": error.kind as u8, "message": line, "problems": error.problems}
            });
            print_json(&text.to_string());
        }
        let (red, plain) = if self.is_coloured() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        for problem in &error.problems {
            tell(format!("{red}{tool}:{plain} {}", Escaped(problem)));
        }
        tell(format!("{red}{tool}:{plain} {}", Escaped(&line)));
        error.kind.into()
    }
}

/// A line on stderr, in one piece: stderr has no buffer, and every letter would be a write of its own. If nobody
/// reads it, the work goes on.
pub fn tell(mut line: String) {
    use std::io::Write;
    line.push('\n');
    crate::display::above(|| {
        let _ = std::io::stderr().write_all(line.as_bytes());
    });
}

/// The first failure of stdout. A result that did not arrive must not end with 0; [`Output::finish`] says so.
pub(crate) static LOST: std::sync::OnceLock<std::io::Error> = std::sync::OnceLock::new();

/// A line of the result, on stdout. A reader that went away has seen enough; a full disk is a failure.
pub fn print_line(line: &str) {
    print_text(&format!("{line}\n"));
}

/// JSON of the result. It may carry text of images, and stdout may be a terminal.
pub fn print_json(json: &str) {
    print_line(&error::text::harmless_json(json));
}

/// Several lines of the result.
pub fn print_text(text: &str) {
    use std::io::Write;
    match crate::display::above(|| std::io::stdout().write_all(text.as_bytes())) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => drop(LOST.set(error)),
        _ => {}
    }
}
