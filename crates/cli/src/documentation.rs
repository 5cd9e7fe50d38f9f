//! Completion scripts and the manual page, made from the command line itself.

use crate::output::{check_stdout, print_text};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use error::Error;
use error::Exit;
use std::io::{self, Write};

/// Two commands that every tool has, for `#[command(flatten)]`.
#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub enum Documentation {
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions { shell: Shell },
    /// Print the manual page, in roff
    #[command(hide = true)]
    Man,
}

/// What stands behind the options, in `--help` and in the manual page.
pub struct Closing {
    /// Command lines, and what each does.
    pub examples: &'static [(&'static str, &'static str)],
    /// Paths, and what lies there, before those that all tools have.
    pub files: &'static [(&'static str, &'static str)],
}

/// What every tool that speaks to registries reads.
const FILES: [(&str, &str); 3] = [
    (
        "~/.docker/config.json",
        "credentials, as docker login writes them; $DOCKER_CONFIG names another folder",
    ),
    ("$XDG_RUNTIME_DIR/containers/auth.json", "credentials, as podman login writes them"),
    ("/etc/docker/certs.d/HOST/", "certificates that are trusted for HOST, and those that are shown to it"),
];

impl Closing {
    /// For `#[command(after_help = ...)]`.
    pub fn help(&self, tool: &str) -> String {
        let width = self.examples.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
        let mut text = "Examples:\n".to_string();
        for (line, does) in self.examples {
            text.push_str(&format!("  {line:width$}  {does}\n"));
        }
        text.push_str("\nExit status:\n");
        for (exit, means) in Exit::MEANINGS {
            text.push_str(&format!("  {}  {means}\n", exit as u8));
        }
        text.push_str(&format!(
            "\n`{tool} man` prints the manual page, `{tool} completions SHELL` a completion script."
        ));
        text
    }

    fn sections(&self, page: &mut Vec<u8>) -> io::Result<()> {
        writeln!(page, ".SH \"EXIT STATUS\"")?;
        for (exit, means) in Exit::MEANINGS {
            writeln!(page, ".TP\n\\fB{}\\fR\n{}", exit as u8, roff(means))?;
        }
        writeln!(page, ".SH FILES")?;
        for (path, what) in self.files.iter().chain(&FILES) {
            writeln!(page, ".TP\n\\fI{}\\fR\n{}", roff(path), roff(what))?;
        }
        writeln!(page, ".SH EXAMPLES")?;
        for (line, does) in self.examples {
            writeln!(page, ".TP\n\\fB{}\\fR\n{}", roff(line), roff(does))?;
        }
        Ok(())
    }
}

/// Text as roff takes it for itself: a hyphen that can be copied, no escapes, no request at the start of a line.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

impl Documentation {
    /// `command` is the whole tool's.
    pub fn print(self, mut command: Command, closing: &Closing) -> Result<Exit, Error> {
        let name = command.get_name().to_string();
        let mut text = Vec::new();
        match self {
            Self::Completions { shell } => text = completions(shell, &mut command, &name).into_bytes(),
            Self::Man => {
                command.build();
                manual(&command, closing, &mut text)
                    .map_err(|e| Error::from_io("make the manual page", e))?;
            }
        }
        print_text(&String::from_utf8_lossy(&text));
        check_stdout().map(|()| Exit::Done)
    }
}

/// clap_complete's script. For bash it writes the tool's own name with "__" for each hyphen where it sets the command,
/// and with its separator of commands where it asks for it (4.6): in a tool of two words no command would be found.
fn completions(shell: Shell, command: &mut Command, name: &str) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__")),
        _ => script.into_owned(),
    }
}

/// The tool, then each command under a heading of its own.
fn manual(command: &Command, closing: &Closing, page: &mut Vec<u8>) -> io::Result<()> {
    let tool = Man::new(command.clone()).section("1");
    tool.render_title(page)?;
    tool.render_name_section(page)?;
    tool.render_synopsis_section(page)?;
    tool.render_description_section(page)?;
    tool.render_options_section(page)?;
    commands(command, "", page)?;
    closing.sections(page)?;
    tool.render_version_section(page)
}

fn commands(command: &Command, above: &str, page: &mut Vec<u8>) -> io::Result<()> {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        let name = format!("{above}{}", one.get_name());
        // The options of all commands stand at the top, once.
        let own = one.clone().mut_args(|arg| {
            let is_global = arg.is_global_set();
            if is_global { arg.hide(true) } else { arg }
        });
        let man = Man::new(own);
        writeln!(page, ".SH COMMAND {}", name.to_uppercase())?;
        let mut body = Vec::new();
        man.render_synopsis_section(&mut body)?;
        man.render_description_section(&mut body)?;
        man.render_options_section(&mut body)?;
        // One level below the command's heading.
        let body = String::from_utf8_lossy(&body).replace("\n.SH ", "\n.SS ").replacen(".SH ", ".SS ", 1);
        page.write_all(body.as_bytes())?;
        commands(one, &format!("{name} "), page)?;
    }
    Ok(())
}
