//! The command line; [`crate::request`] turns it into handlers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cli::{DocumentationCommand, Output, ProgramDocs, ResultSchema};
use error::{Error, Exit};

use crate::TOOL;
use crate::commands;
use crate::commands::register::RegisterOptions;
use crate::emulators::search::EMULATOR_DIRS;
use crate::emulators::{Machine, Target};
use crate::kernel::MOUNT_POINT;
use crate::request::Request;
use crate::rule::Flags;

const PLAN_SCHEMA: &str = include_str!("commands/plan.schema.json");

/// Examples and files for help texts and the manual page.
pub const DOCS: ProgramDocs = ProgramDocs {
    name: TOOL,
    section: "8",
    examples: &[
        ("binfmt-setup status", "print the handlers and whether they work"),
        ("sudo binfmt-setup register linux/arm/v7 linux/arm64", "register emulators until the next reboot"),
        ("binfmt-setup run -- chroot ROOTFS /bin/sh", "run one command with private handlers, without root"),
        ("binfmt-setup probe linux/arm64", "exit with 1 if programs of linux/arm64 do not run"),
    ],
    more_examples: &[
        (
            "sudo binfmt-setup register all --persist",
            "register every emulator that is installed, also after a reboot",
        ),
        (
            "sudo binfmt-setup register --emulator aarch64=/opt/qemu/qemu-aarch64 --replace",
            "use another emulator for a machine",
        ),
        ("sudo binfmt-setup register s390x --dry-run", "print the plan, write nothing"),
        ("sudo binfmt-setup unregister all", "remove all handlers that binfmt-setup registered"),
        ("sudo binfmt-setup unregister qemu-arm", "remove this handler, whichever program registered it"),
        ("binfmt-setup run --platform linux/s390x -- ./hello", "register one platform only"),
        ("binfmt-setup probe --format json", "print which platforms run, as JSON"),
    ],
    schemas: &[
        ResultSchema { command: "status", text: include_str!("commands/status.schema.json") },
        ResultSchema { command: "probe", text: include_str!("commands/probe.schema.json") },
        ResultSchema { command: "register", text: PLAN_SCHEMA },
        ResultSchema { command: "unregister", text: PLAN_SCHEMA },
    ],
    files: &[
        ("/proc/sys/fs/binfmt_misc/", "the registered handlers"),
        ("/etc/binfmt.d/", "files of register --persist, which systemd-binfmt reads at boot"),
        (
            "/usr/bin/qemu-*-static",
            "emulators; /usr/local/bin and /usr/libexec/qemu-binfmt are searched as well",
        ),
    ],
    see_also: &["multiarch(1)", "update-binfmts(8)", "binfmt.d(5)", "systemd-binfmt.service(8)"],
    ..ProgramDocs::DEFAULT
};

/// Run programs of other CPUs on this host
///
/// Registers QEMU emulators as handlers in the kernel's binfmt_misc, and verifies that they work by running a tiny
/// program of each machine.
///
/// PLATFORM is written like linux/arm64 or linux/arm/v7, MACHINE like aarch64 or s390x.
#[derive(Debug, Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the registered handlers and whether they work
    ///
    /// Prints the emulator of each handler with the version that runs, the program that registered it, and whether it
    /// works. A handler works if a tiny program of its machine runs; otherwise the last column has the reason. Nothing is
    /// changed, and root is not required.
    Status,
    /// Register emulators for the whole host
    ///
    /// `all` is every machine whose emulator is found. A platform that the CPU runs requires no handler; an emulator for
    /// the CPU's own machine is an error.
    ///
    /// Either all handlers are registered or none: each is verified by running a tiny program of its machine in an empty
    /// directory, and if one fails, the previous state is restored. A handler that is registered already is unchanged.
    /// Handlers last until the next reboot, unless --persist is given.
    Register(RegisterArgs),
    /// Remove handlers that this program registered
    ///
    /// Handlers of other programs are removed only by their exact name in `status`, like qemu-arm. If there is nothing to
    /// remove, the command succeeds.
    Unregister(UnregisterArgs),
    /// Print which platforms run
    ///
    /// Runs a tiny program of each platform in an empty directory, and prints whether the CPU or an emulator ran it.
    /// Without arguments, probes every known platform. Exits with 1 if a requested platform does not run. Root is not
    /// required.
    ///
    /// The programs of linux/arm/v5 to v8 use instructions that the level below does not have. An emulator usually
    /// emulates a CPU that has them all; QEMU_CPU selects another one.
    Probe {
        /// Platforms (linux/arm/v7) or machines (s390x)
        #[arg(value_name = "PLATFORM|MACHINE")]
        targets: Vec<String>,
    },
    /// Run a command with private handlers
    ///
    /// Starts COMMAND in a new user and mount namespace with a private binfmt_misc: root is not required, and the handlers of
    /// the host are unchanged. All processes that COMMAND starts can run programs of other machines, also in a chroot. The
    /// handlers end with the last process. The exit status is that of COMMAND.
    ///
    /// For a user other than root, only that user's id exists inside, as root. For root, all ids exist inside with their
    /// own numbers, so that container engines work.
    ///
    /// Requires Linux 6.7 or later and permission to create user namespaces; an error reports the setting that forbids
    /// it.
    Run(RunArgs),
    #[command(flatten)]
    Documentation(DocumentationCommand),
}

#[derive(Debug, Args)]
struct EmulatorArgs {
    /// Directory to search for emulators instead of the defaults (repeatable)
    #[arg(long, value_name = "DIR")]
    emulator_dir: Vec<PathBuf>,
    /// Emulator to use for a machine (repeatable)
    #[arg(long, value_name = "MACHINE=PATH", value_parser = parse_emulator)]
    emulator: Vec<(&'static Machine, PathBuf)>,
    /// Flags of the handlers, letters of POCF [default: F, and P if supported]
    #[arg(long, value_name = "FLAGS")]
    flags: Option<Flags>,
    /// Allow emulated set-uid programs (sudo, su) to become root: flag C
    ///
    /// Dangerous: every user who can start a set-uid program controls its emulator with QEMU_* variables, which can write
    /// any file as root. Use it only on machines without other users. The emulator and its parent directories must belong
    /// to root.
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
    /// Replace handlers of other programs or with another emulator
    #[arg(long)]
    replace: bool,
    /// Also write files to /etc/binfmt.d, so that the handlers are registered at boot
    #[arg(long)]
    persist: bool,
    /// Do not verify that the handlers work
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
    /// Platform or machine to register (repeatable) [default: all emulators found]
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
    let target = Target::parse(name).map_err(|error| format!("cannot {error}"))?;
    Ok((target.machine, path.into()))
}

impl EmulatorArgs {
    fn request(self, targets: Vec<Target>, all: bool, for_everybody: bool) -> Request {
        let emulator_dirs = match self.emulator_dir {
            none if none.is_empty() => EMULATOR_DIRS.iter().map(PathBuf::from).collect(),
            given => given,
        };
        let Self { emulator, flags, credentials, .. } = self;
        Request { targets, all, emulator_dirs, emulators: emulator, flags, credentials, for_everybody }
    }
}

/// Runs the program with the arguments of this process and returns its exit status.
pub fn main() -> ExitCode {
    let Cli { command, output } = DOCS.parse();
    let result = run(command, &output);
    output.finish(TOOL, result)
}

fn run(command: Command, output: &Output) -> Result<Exit, Error> {
    let at = Path::new(MOUNT_POINT);
    match command {
        Command::Documentation(what) => {
            let platforms: Vec<&str> = Target::platforms().map(|target| target.name).collect();
            what.print::<Cli>(&ProgramDocs { platforms: platforms.leak(), ..DOCS })
        }
        Command::Status => commands::status::status(at, output),
        Command::Probe { targets } => {
            let targets = targets.iter().map(|text| Target::parse(text)).collect::<Result<Vec<_>, _>>()?;
            commands::probe::probe(at, &targets, output)
        }
        Command::Register(RegisterArgs { targets, emulators, replace, persist, no_probe, dry_run }) => {
            let (all, targets): (Vec<String>, Vec<String>) =
                targets.into_iter().partition(|text| text == "all");
            let targets = targets.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
            let request = emulators.request(targets, !all.is_empty(), true);
            let options = RegisterOptions { replace, persist, probe: !no_probe, dry_run };
            let exit = commands::register::register(at, &request, options, output)?;
            Ok(end(exit, dry_run, output))
        }
        Command::Unregister(UnregisterArgs { targets, persist, dry_run }) => {
            let exit = commands::unregister::unregister(at, &targets, persist, dry_run, output)?;
            Ok(end(exit, dry_run, output))
        }
        Command::Run(RunArgs { platform, emulators, dry_run, command }) => {
            let all = platform.is_empty() && emulators.emulator.is_empty();
            // Here the name of a machine means that its programs must run, by the CPU or an emulator.
            let as_platform =
                |text: &String| Target::parse(text).map(|target| Target { as_platform: true, ..target });
            let platforms = platform.iter().map(as_platform).collect::<Result<_, _>>()?;
            let request = emulators.request(platforms, all, false);
            let exit = match dry_run {
                true => commands::run::print_plan(&request, output)?,
                false => commands::run::run(at, &request, &command, output)?,
            };
            Ok(end(exit, dry_run, output))
        }
    }
}

/// Prints the last line of a dry run.
fn end(exit: Exit, is_dry_run: bool, output: &Output) -> Exit {
    if is_dry_run {
        output.end_dry_run();
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_is_a_command_as_well() {
        for words in [&["binfmt-setup", "help"][..], &["binfmt-setup", "help", "register"]] {
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{words:?}");
        }
    }
}
