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
    ("binfmt-setup status", "what is registered, and does it work?"),
    ("sudo binfmt-setup register linux/arm/v7 linux/arm64", "for the whole machine, until it reboots"),
    ("binfmt-setup run -- chroot ROOTFS /bin/sh", "for one command, without root"),
    ("binfmt-setup probe linux/arm64 || echo needs an emulator", "in a script"),
];

const EXIT_STATUS: [(Exit, &str); 8] = [
    (Exit::Done, "done, or nothing to do"),
    (Exit::Found, "a probed platform does not run"),
    (Exit::Usage, "wrong usage"),
    (Exit::BadInput, "bad input"),
    (Exit::NotPermitted, "not permitted"),
    (Exit::NotFound, "something named does not exist"),
    (Exit::Conflict, "another entry has the name, or a process the lock"),
    (Exit::Io, "the kernel refused; all is as it was"),
];

const FILES: [(&str, &str); 3] = [
    ("/proc/sys/fs/binfmt_misc/", "the kernel's table"),
    ("/etc/binfmt.d/", "what register --persist writes, for systemd-binfmt to read at each boot"),
    ("/usr/bin/qemu-*-static", "emulators; /usr/local/bin and /usr/libexec/qemu-binfmt are searched too"),
];

/// Of the help, in columns.
const WIDTH: usize = 100;

fn after_help() -> String {
    let mut text = "Examples:\n".to_string();
    for (line, does) in EXAMPLES {
        text.push_str(&format!("  {line:56}  {does}\n"));
    }
    // All of the help is to fit on a screen; the manual has them in a list.
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

/// Makes programs of other CPUs run on this machine: tells the kernel (binfmt_misc) which QEMU emulator runs programs of
/// which machine, and proves it by running one.
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
    /// Show what is registered and whether it works
    ///
    /// Shows each entry of the kernel's table: its emulator and the version that really runs, who registered it, and
    /// whether it works. An entry works when a tiny program of its machine runs; where it does not, the last column
    /// says why. Nothing is changed; needs no root.
    Status,
    /// Register emulators for the whole machine
    ///
    /// A PLATFORM is written like linux/arm64 or linux/arm/v7, a MACHINE like aarch64 or s390x; `all` is every
    /// machine of which an emulator is found. A platform that the CPU runs by itself is satisfied already; asking
    /// for an emulator of the CPU's own machine is an error.
    ///
    /// All entries or none: each is tried at once by running a tiny program of its machine in an empty folder, and if
    /// one fails, all is put back. An entry that is there already stays as it is. Entries last until the machine
    /// reboots, unless --persist is given.
    Register(RegisterArgs),
    /// Remove entries that this tool made
    ///
    /// Entries that somebody else made stay, unless they are named exactly as `status` shows them: qemu-arm.
    /// Nothing to remove is no error.
    Unregister(UnregisterArgs),
    /// Try which platforms really run
    ///
    /// Runs a tiny program of each platform in an empty folder, and says whether the CPU or which emulator ran it.
    /// Without PLATFORM: every platform that is known. Exit status 1 if one that was named does not run. Needs no
    /// root.
    ///
    /// The programs of linux/arm/v5 to v8 differ by instructions that the level below does not have; an emulator
    /// usually plays a CPU that has them all (QEMU_CPU changes that).
    Probe {
        /// Platforms (linux/arm/v7) or machines (s390x)
        #[arg(value_name = "PLATFORM|MACHINE")]
        targets: Vec<String>,
    },
    /// Run one command with emulators of its own
    ///
    /// Starts COMMAND in a new user and mount namespace with a table of its own: no root needed, and the table of the
    /// machine stays as it is. Everything that COMMAND starts can run foreign programs, in a chroot as well; when it
    /// ends, nothing is left. Its exit status is passed on.
    ///
    /// For a caller other than root, only the caller's own id exists inside, and it is root there. For root, all ids
    /// exist inside under their own numbers, so that container engines work.
    ///
    /// Needs Linux 6.7 and a policy that allows user namespaces; says which one does not.
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
    /// Look for emulators here instead; may be given more than once
    #[arg(long, value_name = "DIR")]
    emulator_dir: Vec<PathBuf>,
    /// Use this emulator; may be given more than once
    #[arg(long, value_name = "MACHINE=PATH", value_parser = parse_emulator)]
    emulator: Vec<(&'static Machine, PathBuf)>,
    /// Flags of the entries, letters of POCF [default: F, and P where the emulator understands it]
    #[arg(long, value_name = "FLAGS")]
    flags: Option<Flags>,
    /// Let emulated set-uid programs (sudo, su) become root: flag C
    ///
    /// Dangerous: whoever may start a set-uid program can steer its emulator by QEMU_* variables, which can write any
    /// file as root. For machines without other users. The emulator must belong to root, with every folder above it.
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
    /// Put the new entry in the place of one with another emulator, without a gap
    #[arg(long)]
    replace: bool,
    /// Write files to /etc/binfmt.d as well, so that the entries are back after a reboot
    #[arg(long)]
    persist: bool,
    /// Do not try whether the entries work
    #[arg(long)]
    no_probe: bool,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct UnregisterArgs {
    /// Platforms, machines, names of entries (qemu-arm), or `all`
    #[arg(value_name = "PLATFORM|MACHINE|NAME|all", required = true)]
    targets: Vec<String>,
    /// Delete the files in /etc/binfmt.d that register --persist made, too
    #[arg(long)]
    persist: bool,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Register this platform or machine only; may be given more than once [default: all that are found]
    #[arg(long, value_name = "PLATFORM|MACHINE")]
    platform: Vec<String>,
    #[command(flatten)]
    emulators: EmulatorArgs,
    /// Show what would be registered, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// What to run, and its arguments
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
            // Here even the name of a machine means that its programs must run, by whatever means.
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

/// The sections of manual pages that clap knows nothing of.
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
