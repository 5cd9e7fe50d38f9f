//! Help texts, manual pages and completion scripts, generated from the command line and a program's [`ProgramDocs`].

use crate::schema::{self, ResultSchema};
use crate::streams::{check_stdout, eprint_line, print_text};
use crate::suggest::called;
use crate::usage::exit_with_usage;
use clap::builder::PossibleValuesParser;
use clap::{Command, Parser};
use clap_complete::Shell;
use clap_mangen::Man;
use error::Error;
use error::Exit;
use std::ffi::OsString;
use std::io::{self, Write};

/// Two commands that every program has, for `#[command(flatten)]`.
#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub enum DocumentationCommand {
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, in roff
    #[command(hide = true)]
    Man,
}

/// A command line, and what it does: `("manifest-push push HOST/app:1", "publish the draft")`.
pub type Example = (&'static str, &'static str);

/// What help texts, the manual page and completions of a program need beside its command line.
///
/// ```
/// use clap::Parser;
/// use cli::ProgramDocs;
///
/// #[derive(Parser)]
/// #[command(name = "tool")]
/// enum Tool {
///     /// Publish a draft
///     Push { image: String },
/// }
///
/// const DOCS: ProgramDocs = ProgramDocs {
///     name: "tool",
///     more_examples: &[("tool push HOST/app:1", "publish the draft of HOST/app:1")],
///     ..ProgramDocs::DEFAULT
/// };
///
/// let help = DOCS.try_parse_from::<Tool>(["tool", "push", "--help"].map(Into::into)).err().unwrap().to_string();
/// assert!(help.contains("Examples:\n  # publish the draft of HOST/app:1\n  tool push HOST/app:1\n"));
/// assert!(help.contains("Exit status:\n  0   success"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ProgramDocs {
    /// The program's name, as it is typed.
    pub name: &'static str,
    /// The section of the manual: `1`, or `8` for administration.
    pub section: &'static str,
    /// The examples in the program's own help. The help of a subcommand shows those that call it.
    pub examples: &'static [Example],
    /// More examples, for subcommands and the manual page only.
    pub more_examples: &'static [Example],
    /// Programs whose subcommands this program has as well: their examples are shown under this program's name.
    pub included: &'static [&'static ProgramDocs],
    /// The commands with a JSON form of their own, which have the option `--schema`.
    pub schemas: &'static [ResultSchema],
    /// Exit codes and their meanings.
    pub exit_codes: &'static [(Exit, &'static str)],
    /// Paths, and what the program keeps there.
    pub files: &'static [(&'static str, &'static str)],
    /// Whether the program reads credentials and certificates for registries.
    pub uses_registries: bool,
    /// Other manual pages: `skopeo(1)`.
    pub see_also: &'static [&'static str],
    /// What completions offer for arguments whose value is named `PLATFORM`.
    pub platforms: &'static [&'static str],
}

/// The files that every program that uses registries reads.
const REGISTRY_FILES: [(&str, &str); 3] = [
    ("~/.docker/config.json", "credentials of docker login; $DOCKER_CONFIG sets another directory"),
    ("$XDG_RUNTIME_DIR/containers/auth.json", "credentials of podman login"),
    ("/etc/docker/certs.d/HOST/", "CA certificates and client certificates for HOST"),
];

impl ProgramDocs {
    /// No examples and files, all exit codes.
    pub const DEFAULT: Self = Self {
        name: "",
        section: "1",
        examples: &[],
        more_examples: &[],
        included: &[],
        schemas: &[],
        exit_codes: &Exit::MEANINGS,
        files: &[],
        uses_registries: false,
        see_also: &[],
        platforms: &[],
    };

    /// Parses the arguments of this process. Prints help, version or a usage error and exits if clap says so.
    pub fn parse<T: Parser>(&self) -> T {
        self.parse_from(&std::env::args_os().collect::<Vec<_>>())
    }

    /// Parses `words` as [`parse`](Self::parse) does the arguments of this process.
    pub fn parse_from<T: Parser>(&self, words: &[OsString]) -> T {
        self.try_parse_from(words.iter().cloned()).unwrap_or_else(|error| exit_with_usage::<T>(&error, words))
    }

    /// Parses `words`, the first of which is the name of the program. Prints the schema and exits if `--schema` is given.
    ///
    /// # Errors
    /// What clap reports, including `--help` and `--version`.
    pub fn try_parse_from<T: Parser>(
        &self,
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<T, clap::Error> {
        let mut command = self.command::<T>();
        let matches = command.try_get_matches_from_mut(words)?;
        if let Some(schema) = schema::requested(&matches, &self.all_schemas()) {
            // Before the arguments are converted: required ones are absent.
            let printed = schema
                .print(called(self.name))
                .map_err(|e| eprint_line(format!("{}: cannot {e}", self.name)));
            std::process::exit(if printed.is_ok() { Exit::Done as i32 } else { Exit::Local as i32 });
        }
        T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// Returns the command line of `T`, where the help of the program and of every subcommand ends with examples and
    /// exit codes.
    pub fn command<T: Parser>(&self) -> Command {
        let name = called(self.name);
        let manual =
            format!("\n`{name} man` prints the manual page, `{name} completions SHELL` a completion script.");
        let own = self.renamed(self.examples.iter(), name);
        let help = self.closing(&own) + &manual;
        let command = self.with_schemas(T::command());
        let command = if name == self.name { command } else { command.bin_name(name) };
        self.with_closings(command.after_help(help), name)
    }

    /// Adds examples and exit codes to the help of all subcommands. `path` is the command: `manifest-push push`.
    fn with_closings(&self, command: Command, path: &str) -> Command {
        command.mut_subcommands(|one| {
            let path = format!("{path} {}", one.get_name());
            let examples = self.all_examples();
            let calls = |(line, _): &&(String, &'static str)| {
                line.match_indices(&path).any(|(at, _)| !line[at + path.len()..].starts_with(|c| c != ' '))
            };
            let own: Vec<_> = examples.iter().filter(calls).cloned().collect();
            let help = self.closing(&own);
            self.with_closings(one.after_help(help), &path)
        })
    }

    /// The schemas of this program and of those that it includes. For commands of the same name the first one counts.
    fn all_schemas(&self) -> Vec<ResultSchema> {
        let included = self.included.iter().flat_map(|docs| docs.schemas);
        self.schemas.iter().chain(included).copied().collect()
    }

    fn with_schemas(&self, command: Command) -> Command {
        schema::with_option(command, "", &self.all_schemas())
    }

    /// Returns all examples, with those of included programs under the name of this program.
    fn all_examples(&self) -> Vec<(String, &'static str)> {
        let name = called(self.name);
        let mut all = Vec::new();
        for docs in std::iter::once(self).chain(self.included.iter().copied()) {
            for example in docs.renamed(docs.examples.iter().chain(docs.more_examples), name) {
                if all.iter().all(|(known, _)| *known != example.0) {
                    all.push(example);
                }
            }
        }
        all
    }

    /// Returns examples of this program with `name` in place of its own.
    fn renamed<'a>(
        &self,
        examples: impl Iterator<Item = &'a Example>,
        name: &str,
    ) -> Vec<(String, &'static str)> {
        examples.map(|(line, does)| (line.replace(self.name, name), *does)).collect()
    }

    fn closing(&self, examples: &[(String, &str)]) -> String {
        let mut text = String::new();
        if !examples.is_empty() {
            text.push_str("Examples:\n");
        }
        for (line, does) in examples {
            let (does, line) = (broken(&format!("# {does}"), "\n  # "), broken(line, " \\\n      "));
            text.push_str(&format!("  {does}\n  {line}\n\n"));
        }
        text.push_str("Exit status:\n");
        for (exit, meaning) in self.exit_codes {
            text.push_str(&format!("  {:<2}  {meaning}\n", *exit as u8));
        }
        text
    }

    /// Writes the sections of the manual page that clap knows nothing of.
    fn write_sections(&self, page: &mut Vec<u8>) -> io::Result<()> {
        writeln!(page, ".SH \"EXIT STATUS\"")?;
        for (exit, meaning) in self.exit_codes {
            writeln!(page, ".TP\n\\fB{}\\fR\n{}", *exit as u8, roff(meaning))?;
        }
        writeln!(page, ".SH FILES")?;
        let registry_files = if self.uses_registries { &REGISTRY_FILES[..] } else { &[] };
        for (path, what) in self.files.iter().chain(registry_files) {
            writeln!(page, ".TP\n\\fI{}\\fR\n{}", roff(path), roff(what))?;
        }
        writeln!(page, ".SH EXAMPLES")?;
        for (line, does) in self.all_examples() {
            writeln!(page, ".TP\n\\fB{}\\fR\n{}", roff(&line), roff(does))?;
        }
        Ok(())
    }

    fn write_see_also(&self, page: &mut Vec<u8>) -> io::Result<()> {
        if self.see_also.is_empty() {
            return Ok(());
        }
        let pages = self.see_also.iter().filter_map(|page| page.split_once('('));
        let pages: Vec<_> =
            pages.map(|(name, section)| format!("\\fB{}\\fR({section}", roff(name))).collect();
        writeln!(page, ".SH \"SEE ALSO\"\n{}", pages.join(",\n"))
    }
}

/// Breaks a line of an example at spaces, so that clap does not wrap it on a terminal of 60 columns: what is wrapped
/// cannot be pasted.
fn broken(line: &str, break_with: &str) -> String {
    const WIDTH: usize = 54;
    if line.len() <= WIDTH + 4 {
        return line.to_string();
    }
    let (mut text, mut width) = (String::new(), 0);
    for word in line.split(' ') {
        let separator = match width {
            0 => "",
            _ if width + 1 + word.len() > WIDTH => break_with,
            _ => " ",
        };
        // The indentation of a continued line is longer by 4.
        width = if separator == break_with { 4 } else { width + separator.len() } + word.len();
        text = text + separator + word;
    }
    text
}

/// Escapes text for roff: hyphens that can be copied, no escapes, no request at the start of a line.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

impl DocumentationCommand {
    /// Prints the completion script or the manual page of the program `T`.
    ///
    /// # Errors
    /// `Local` if stdout cannot be written.
    pub fn print<T: Parser>(self, docs: &ProgramDocs) -> Result<Exit, Error> {
        let mut text = Vec::new();
        match self {
            Self::Completions { shell } => {
                text = completions(shell, docs.with_schemas(T::command()), docs).into_bytes()
            }
            Self::Man => {
                let mut command = docs.with_schemas(T::command());
                command.build();
                write_manual(&command, docs, &mut text)
                    .map_err(|e| Error::from_io("write the manual page", e))?;
            }
        }
        print_text(&String::from_utf8_lossy(&text));
        check_stdout().map(|()| Exit::Done)
    }
}

/// Returns clap_complete's script, which offers platforms where an argument takes one.
fn completions(shell: Shell, command: Command, docs: &ProgramDocs) -> String {
    let mut command = with_platforms(command, docs.platforms);
    if shell == Shell::Zsh {
        command = with_subcommands_as_values(command);
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, docs.name, &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        // clap_complete 4.6 writes a hyphen in the program's name as "__" where it sets the command and as its
        // separator of commands where it compares it, so that no subcommand of manifest-push would be found.
        Shell::Bash => script.replace(&docs.name.replace('-', "__subcmd__"), &docs.name.replace('-', "__")),
        _ => script.into_owned(),
    }
}

/// Lists the platforms as the possible values of all arguments that take one. For completions only: a platform that is
/// not in the list is valid, too.
fn with_platforms(command: Command, platforms: &'static [&'static str]) -> Command {
    let takes_platform = |arg: &clap::Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        names.first().is_some_and(|name| name.starts_with("PLATFORM") && !name.contains('='))
    };
    let command = command.mut_args(|arg| {
        if takes_platform(&arg) { arg.value_parser(PossibleValuesParser::new(platforms)) } else { arg }
    });
    command.mut_subcommands(|one| with_platforms(one, platforms))
}

/// Lists the subcommands of a command as the possible values of its argument, if it has both: clap_complete's script for
/// zsh offers subcommands behind the argument only.
fn with_subcommands_as_values(command: Command) -> Command {
    // clap takes static names only. The process prints the script and exits, so leaking them is harmless.
    let names = command.get_subcommands().map(|one| one.get_name().to_string().leak() as &'static str);
    let names: Vec<&'static str> = names.collect();
    let command = command.mut_args(|arg| match arg.is_positional() && !names.is_empty() {
        true => arg.value_parser(PossibleValuesParser::new(names.clone())),
        false => arg,
    });
    command.mut_subcommands(with_subcommands_as_values)
}

/// Writes the program's page, with a heading for each command.
fn write_manual(command: &Command, docs: &ProgramDocs, page: &mut Vec<u8>) -> io::Result<()> {
    let program = Man::new(command.clone()).section(docs.section);
    program.render_title(page)?;
    program.render_name_section(page)?;
    program.render_synopsis_section(page)?;
    program.render_description_section(page)?;
    program.render_options_section(page)?;
    write_commands(command, "", page)?;
    docs.write_sections(page)?;
    program.render_version_section(page)?;
    docs.write_see_also(page)
}

fn write_commands(command: &Command, above: &str, page: &mut Vec<u8>) -> io::Result<()> {
    for one in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
        let name = format!("{above}{}", one.get_name());
        // Global options are listed once, in the options of the program.
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
        // One level below the heading of the command.
        let body = String::from_utf8_lossy(&body).replace("\n.SH ", "\n.SS ").replacen(".SH ", ".SS ", 1);
        page.write_all(body.as_bytes())?;
        write_commands(one, &format!("{name} "), page)?;
    }
    Ok(())
}
