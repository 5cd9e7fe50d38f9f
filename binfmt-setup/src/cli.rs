//! The command line: as typed here, as meant in [`crate::request`].

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::emulators::search::FOLDERS;
use crate::emulators::{Machine, Target, TargetError};
use crate::error::Error;
use crate::exit::Exit;
use crate::kernel::MOUNT_POINT;
use crate::request::Request;
use crate::rule::Flags;
use crate::voice::{Global, Voice};

const EXAMPLES: [(&str, &str); 4] = [
    ("binfmt-setup status", "handlers, and whether they work"),
    ("sudo binfmt-setup register linux/arm/v7 linux/arm64", "for this machine, until a reboot"),
    ("binfmt-setup run -- chroot ROOTFS /bin/sh", "for one command, without root"),
    ("binfmt-setup probe linux/arm64 || echo needs an emulator", "in a script"),
];

const EXIT_STATUS: [(Exit, &str); 8] = [
    (Exit::Done, "success, or nothing to do"),
    (Exit::Found, "a probed platform does not run"),
    (Exit::Usage, "invalid command line"),
    (Exit::BadInput, "invalid input"),
    (Exit::NotPermitted, "not permitted"),
    (Exit::NotFound, "not found"),
    (Exit::Conflict, "conflict: name taken, or lock held"),
    (Exit::Io, "operation failed; no changes were made"),
];

const FILES: [(&str, &str); 3] = [
    ("/proc/sys/fs/binfmt_misc/", "registered handlers"),
    ("/etc/binfmt.d/", "files of register --persist, read by systemd-binfmt at boot"),
    ("/usr/bin/qemu-*-static", "emulators; /usr/local/bin and /usr/libexec/qemu-binfmt are searched too"),
];

/// Width of the help, in columns.
const WIDTH: usize = 100;

fn after_help() -> String {
    let mut text = "Examples:\n".to_string();
    for (line, does) in EXAMPLES {
        text.push_str(&format!("  {line:56}  {does}\n"));
    }
    // Several in a line, so that the help fits on a screen; the manual page has a list.
    let mut line = "\nExit status:".to_string();
    for (number, (exit, means)) in EXIT_STATUS.into_iter().enumerate() {
        let end = if number + 1 == EXIT_STATUS.len() { "." } else { ";" };
        let word = format!(" {} {means}{end}", exit as u8);
        if line.len() + word.len() > WIDTH {
            text.push_str(&line);
            line = "\n ".into();
        }
        line.push_str(&word);
    }
    text.push_str(&line);
    text + "\n\n`binfmt-setup man` prints the manual page, `binfmt-setup completions SHELL` a completion script."
}

/// Run programs of other CPUs on this machine: register QEMU emulators as handlers in the kernel's binfmt_misc, and verify
/// that they work.
#[derive(Debug, Parser)]
#[command(name = "binfmt-setup", version, max_term_width = WIDTH, after_help = after_help())]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show registered handlers and whether they work
    ///
    /// For each handler: its emulator and the version that runs, who registered it, and whether it works. A handler works if
    /// a tiny program of its machine runs; otherwise the last column has the reason. Nothing is changed; root is not
    /// required.
    Status,
    /// Register emulators for the whole machine
    ///
    /// A PLATFORM is written like linux/arm64 or linux/arm/v7, a MACHINE like aarch64 or s390x; `all` is every
    /// machine whose emulator is found. A platform that the CPU runs natively needs no handler; an emulator of the
    /// CPU's own machine is an error.
    ///
    /// All handlers are registered or none: each is tested by running a tiny program of its machine in an empty directory,
    /// and if one fails, the previous state is restored. A handler that is registered already is unchanged. Handlers last
    /// until the next reboot, unless --persist is given.
    Register(RegisterArgs),
    /// Remove handlers that this program registered
    ///
    /// Handlers of other programs are kept, unless they are given by their exact name in `status`: qemu-arm. If there is
    /// nothing to remove, the command succeeds.
    Unregister(UnregisterArgs),
    /// Test which platforms run
    ///
    /// Runs a tiny program of each platform in an empty directory, and prints whether the CPU or which emulator ran it.
    /// Without PLATFORM: every known platform. Exit status 1 if a requested platform does not run. Root is not required.
    ///
    /// The programs of linux/arm/v5 to v8 differ by instructions that the level below does not have; an emulator
    /// usually emulates a CPU that has them all (QEMU_CPU changes that).
    Probe {
        /// Platforms (linux/arm/v7) or machines (s390x)
        #[arg(value_name = "PLATFORM|MACHINE")]
        targets: Vec<String>,
    },
    /// Run a command with private handlers
    ///
    /// Starts COMMAND in a new user and mount namespace with a binfmt_misc of its own: root is not required, and the handlers
    /// of the host are unchanged. Everything that COMMAND starts can run programs of other machines, also in a chroot; when
    /// it ends, nothing remains. Its exit status is passed on.
    ///
    /// For a user other than root, only that user's id exists inside, as root. For root, all ids exist inside with their own
    /// numbers, so that container engines work.
    ///
    /// Requires Linux 6.7 or later and permission to create user namespaces; the error names what is missing.
    Run(RunArgs),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, in roff
    #[command(hide = true)]
    Man,
}

#[derive(Debug, Args)]
struct EmulatorArgs {
    /// Directory to search for emulators instead of the defaults (repeatable)
    #[arg(long, value_name = "DIR")]
    emulator_dir: Vec<PathBuf>,
    /// Emulator to use for a machine (repeatable)
    #[arg(long, value_name = "MACHINE=PATH", value_parser = parse_emulator)]
    emulator: Vec<(&'static Machine, PathBuf)>,
    /// Flags of the handlers, letters of POCF [default: F, and P if the emulator supports it]
    #[arg(long, value_name = "FLAGS")]
    flags: Option<Flags>,
    /// Allow emulated set-uid programs (sudo, su) to become root: flag C
    ///
    /// Dangerous: every user who can start a set-uid program controls its emulator with QEMU_* variables, which can write
    /// any file as root. For machines without other users. The emulator and its parent directories must belong to root.
    #[arg(long)]
    credentials: bool,
}

#[derive(Debug, Args)]
struct RegisterArgs {
    /// Platforms (linux/arm/v7), machines (s390x), or `all`
    #[arg(value_name = "PLATFORM|MACHINE|all", required_unless_present = "emulator")]
    targets: Vec<String>,
    #[command(flatten)]
    emulators: EmulatorArgs,
    /// Replace a handler that has another emulator, without a moment without handler
    #[arg(long)]
    replace: bool,
    /// Also write files to /etc/binfmt.d, so that the handlers are registered at boot
    #[arg(long)]
    persist: bool,
    /// Do not test whether the handlers work
    #[arg(long)]
    no_probe: bool,
    /// Print the plan, write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct UnregisterArgs {
    /// Platforms, machines, names of handlers (qemu-arm), or `all`
    #[arg(value_name = "PLATFORM|MACHINE|NAME|all", required = true)]
    targets: Vec<String>,
    /// Also delete the files in /etc/binfmt.d that register --persist wrote
    #[arg(long)]
    persist: bool,
    /// Print the plan, remove nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Platform or machine to register (repeatable) [default: all with an emulator]
    #[arg(long, value_name = "PLATFORM|MACHINE")]
    platform: Vec<String>,
    #[command(flatten)]
    emulators: EmulatorArgs,
    /// Print the plan, run nothing
    #[arg(long)]
    dry_run: bool,
    /// Command to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn parse_emulator(text: &str) -> Result<(&'static Machine, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write it like aarch64=/usr/bin/qemu-aarch64")?;
    let target = Target::parse(name).map_err(|error| error.to_string())?;
    Ok((target.machine, path.into()))
}

impl EmulatorArgs {
    fn request(self, targets: Vec<Target>, all: bool) -> Request {
        let folders = match self.emulator_dir {
            none if none.is_empty() => FOLDERS.iter().map(PathBuf::from).collect(),
            folders => folders,
        };
        Request {
            targets,
            all,
            folders,
            named: self.emulator,
            flags: self.flags,
            credentials: self.credentials,
        }
    }
}

pub fn main() -> ExitCode {
    let Cli { command, global } = Cli::parse();
    let voice = Voice::new(global);
    match run(command, &voice) {
        Ok(exit) => exit.into(),
        Err(error) => voice.fail(&error).into(),
    }
}

fn run(command: Command, voice: &Voice) -> Result<Exit, Error> {
    let at = Path::new(MOUNT_POINT);
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "binfmt-setup", &mut script);
            let mut script = String::from_utf8_lossy(&script).into_owned();
            if shell == clap_complete::Shell::Bash {
                // clap_complete (4.6) sets one name of a command and asks for another where the tool's has a hyphen.
                script = script.replace("binfmt__subcmd__setup", "binfmt__setup");
            }
            voice.result(&script).map(|()| Exit::Done)
        }
        Command::Man => voice.result(&manual()?).map(|()| Exit::Done),
        Command::Status => commands::status::status(at, voice),
        Command::Probe { targets } => {
            let targets = targets.iter().map(|text| Target::parse(text)).collect::<Result<Vec<_>, _>>()?;
            commands::probe::probe(at, &targets, voice)
        }
        Command::Register(RegisterArgs { targets, emulators, replace, persist, no_probe, dry_run }) => {
            let (targets, all) = parse_targets(&targets)?;
            let request = emulators.request(targets, all);
            let how = commands::register::How { replace, persist, probe: !no_probe, dry_run };
            commands::register::register(at, &request, &how, voice)
        }
        Command::Unregister(UnregisterArgs { targets, persist, dry_run }) => {
            commands::unregister::unregister(at, &targets, persist, dry_run, voice)
        }
        Command::Run(RunArgs { platform, emulators, dry_run, command }) => {
            let all = platform.is_empty() && emulators.emulator.is_empty();
            // For `run`, the name of a machine also means that its programs must run, natively or emulated.
            let as_platform =
                |text: &String| Target::parse(text).map(|target| Target { as_platform: true, ..target });
            let platforms = platform.iter().map(as_platform).collect::<Result<_, _>>()?;
            let request = emulators.request(platforms, all);
            if dry_run {
                commands::run::show_run(&request, voice)
            } else {
                commands::run::run(at, &request, &command, voice)
            }
        }
    }
}

/// The manual page: the tool, then each command under a heading of its own.
fn manual() -> Result<String, Error> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let tool = clap_mangen::Man::new(command.clone()).section("8");
    let render = |page: &mut Vec<u8>| {
        tool.render_title(page)?;
        tool.render_name_section(page)?;
        tool.render_synopsis_section(page)?;
        tool.render_description_section(page)?;
        for one in command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help") {
            let man = clap_mangen::Man::new(one.clone());
            writeln!(page, ".SH COMMAND {}", one.get_name().to_uppercase())?;
            let mut body = Vec::new();
            man.render_synopsis_section(&mut body)?;
            man.render_description_section(&mut body)?;
            man.render_options_section(&mut body)?;
            // One level below the command's heading.
            page.write_all(
                String::from_utf8_lossy(&body)
                    .replace("\n.SH ", "\n.SS ")
                    .replacen(".SH ", ".SS ", 1)
                    .as_bytes(),
            )?;
        }
        closing_sections(page)?;
        tool.render_version_section(page)?;
        writeln!(page, ".SH \"SEE ALSO\"\n\\fBupdate\\-binfmts\\fR(8)")
    };
    render(&mut page).map_err(Error::Stdout)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// The sections of manual pages that clap does not write.
fn closing_sections(page: &mut Vec<u8>) -> std::io::Result<()> {
    let item = |page: &mut Vec<u8>, term: &str, text: &str| {
        // A hyphen that can be copied.
        let roff = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
        writeln!(page, ".TP\n\\fB{}\\fR\n{}", roff(term), roff(text))
    };
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (exit, means) in EXIT_STATUS {
        item(page, &(exit as u8).to_string(), means)?;
    }
    for (heading, items) in [("FILES", &FILES[..]), ("EXAMPLES", &EXAMPLES)] {
        writeln!(page, ".SH {heading}")?;
        for (term, text) in items {
            item(page, term, text)?;
        }
    }
    Ok(())
}

fn parse_targets(texts: &[String]) -> Result<(Vec<Target>, bool), TargetError> {
    let all = texts.iter().any(|text| text == "all");
    let targets = texts
        .iter()
        .filter(|text| *text != "all")
        .map(|text| Target::parse(text))
        .collect::<Result<_, _>>()?;
    Ok((targets, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_has_every_command_and_its_options() {
        let page = manual().unwrap();
        for wanted in [".TH binfmt-setup 8", ".SH COMMAND REGISTER", "\\-\\-replace", ".SH COMMAND RUN"] {
            assert!(page.contains(wanted), "{wanted} is not in:\n{page}");
        }
        assert!(!page.contains("COMPLETIONS"));
        for heading in ["\"EXIT STATUS\"", "FILES", "EXAMPLES"] {
            assert_eq!(page.matches(&format!(".SH {heading}\n")).count(), 1, "{heading}:\n{page}");
        }
        assert!(!page.contains("EXTRA"));
        for (exit, means) in EXIT_STATUS {
            assert!(page.contains(&format!("\\fB{}\\fR\n{means}", exit as u8)), "{means}:\n{page}");
        }
    }

    #[test]
    fn help_is_a_command_too() {
        for words in [&["binfmt-setup", "help"][..], &["binfmt-setup", "help", "register"]] {
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{words:?}");
        }
    }
}
