//! The command line of `multiarch`: the release, and every command of config-patcher and manifest-push.

use crate::docker_plugin::{self, DockerCall};
use crate::release::{self, Host};
use crate::rollback;
use clap::{Parser, Subcommand};
use cli::{Color, DocumentationCommand, Format, Output, ProgramDocs, ResultSchema};
use error::{Error, Exit};
use image_model::platform::COMMON_PLATFORMS;
use image_model::reference::Reference;
use image_store::atomic_file::TempFiles;
use image_store::options::RegistryArgs;
use manifest_push::cli::Session;
use manifest_push::cli::account::{AccountArgs, normalize_go_flags};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const TOOL: &str = "multiarch";

const DOCS: ProgramDocs = ProgramDocs {
    name: TOOL,
    examples: &[
        ("multiarch release --example", "build an example for twelve platforms in oci:multi-arch-example"),
        ("multiarch release --dry-run", "print the plan of ./release.yaml, change nothing"),
        ("multiarch verify HOST/app:1", "verify platform metadata against the binaries"),
        ("multiarch fix HOST/app:1 --from-binaries", "write the platform of the binaries"),
        ("multiarch copy HOST/app:1 oci:backup:1", "copy an index with all its images"),
        ("multiarch rollback HOST/app:1", "restore the tags of the last push"),
    ],
    more_examples: &[
        ("multiarch release app.yaml", "build, verify and publish what app.yaml describes"),
        ("multiarch rollback report.json", "restore the tags of a release, on any host"),
        ("multiarch binfmt status", "print the registered emulators"),
    ],
    included: &[&config_patcher::cli::DOCS, &manifest_push::cli::DOCS],
    schemas: &[ResultSchema { command: "release", text: include_str!("release.schema.json") }],
    files: &[
        (
            "$XDG_CACHE_HOME/multiarch/",
            "work directories, and evidence from layers; ~/.cache if XDG_CACHE_HOME is not set",
        ),
        (
            "$XDG_STATE_HOME/multiarch/",
            "the journal for rollback, and drafts; ~/.local/state if XDG_STATE_HOME is not set",
        ),
    ],
    uses_registries: true,
    see_also: &["config-patcher(1)", "manifest-push(1)", "binfmt-setup(8)"],
    platforms: &COMMON_PLATFORMS,
    ..ProgramDocs::DEFAULT
};

/// Build, verify, repair and publish multi-platform images
///
/// IMAGE is HOST/REPO[:TAG][@DIGEST], oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG][@DIGEST],
/// docker-archive:FILE[:NAME] or docker-daemon:NAME[:TAG].
#[derive(Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    account: AccountArgs,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one value per run")]
enum Command {
    /// Build, verify, test and publish the images of a release.yaml under one tag
    Release(Box<release::Args>),
    /// Restore tags to the digests they had before the last push or release
    Rollback(Rollback),
    #[command(flatten)]
    Check(config_patcher::cli::Command),
    #[command(flatten)]
    Publish(Box<manifest_push::cli::Command>),
    /// Run binfmt-setup: QEMU handlers in the kernel's binfmt_misc
    #[command(disable_help_flag = true)]
    Binfmt {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the command of a smoke test isolated from the host (called by `release`)
    #[command(hide = true)]
    SmokeInside,
    #[command(flatten)]
    Documentation(DocumentationCommand),
}

#[derive(clap::Args)]
struct Rollback {
    /// The image whose last push is rolled back, or the report of a release [default: the image
    /// of the newest push not yet rolled back]
    #[arg(value_name = "IMAGE|REPORT")]
    subject: Option<String>,
    /// Print the digest that each tag will have, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Restore a tag even if another client has moved it since
    #[arg(long)]
    force: bool,
}

/// Runs the program that `argv[0]` names: a link to this file with the name of another program is that program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let name = Path::new(&called).file_name().and_then(|name| name.to_str());
    match name {
        Some("config-patcher") => config_patcher::cli::main(),
        Some("manifest-push") => manifest_push::cli::main(),
        Some("docker-multiarch") => run_as_docker_plugin(&called, words.collect()),
        Some("kubectl-multiarch") => run("kubectl multiarch", words),
        _ => run(TOOL, words),
    }
}

fn run_as_docker_plugin(called: &OsString, words: Vec<OsString>) -> ExitCode {
    if words.first().is_some_and(|word| word == docker_plugin::METADATA_COMMAND) {
        ::cli::print_line(&docker_plugin::metadata());
        return ExitCode::SUCCESS;
    }
    let call = DockerCall::parse(words);
    if let Err(error) = call.apply_environment(called) {
        ::cli::eprint_line(format!("{TOOL}: cannot {error}"));
        return error.kind.into();
    }
    run("docker multiarch", call.arguments.into_iter())
}

/// Runs `multiarch`, which the user called as `name`.
fn run(name: &'static str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    ::cli::set_front_end(name);
    let words = std::iter::once(TOOL.into()).chain(arguments);
    let cli: Cli = DOCS.parse_from(&normalize_go_flags(words));
    // The supervisor of a sandbox must have one thread.
    let temp_files = match cli.command {
        Command::SmokeInside => TempFiles::default(),
        _ => TempFiles::removed_on_signal(),
    };
    let Cli { command, output, registry, account } = cli;
    let result = match command {
        Command::Release(args) => {
            release::run(&args, &registry, &Host { temp_files, ..Host::default() }, &output)
        }
        Command::Rollback(args) => roll_back(args, &registry, &account, temp_files, &output),
        Command::Check(command) => command.run(&registry, temp_files, &output),
        Command::Publish(command) => {
            command.run(&Session::new(&registry, &account, &output, temp_files), &output)
        }
        Command::Binfmt { arguments } => Err(run_binfmt_setup(&arguments, &output)),
        Command::SmokeInside => sandbox::supervise()
            .map(|()| Exit::Done)
            .map_err(|e| Error::from_io("read the description of a sandbox", e)),
        Command::Documentation(what) => what.print::<Cli>(&DOCS),
    };
    output.finish(TOOL, result)
}

/// Rolls back a release if the argument is a file, its report; otherwise a push to an image.
fn roll_back(
    args: Rollback,
    registry: &RegistryArgs,
    account: &AccountArgs,
    temp_files: TempFiles,
    output: &Output,
) -> Result<Exit, Error> {
    let Rollback { subject, dry_run, force } = args;
    let report = subject.as_ref().map(PathBuf::from).filter(|path| path.is_file());
    if let Some(report) = report {
        return rollback::run(&rollback::Args { report, dry_run, force }, registry, temp_files, output);
    }
    let image = subject.map(|text| {
        text.parse::<Reference>().map_err(|error| {
            Error::new(Exit::Usage, format!("roll back \"{text}\""), error.to_string())
                .hint("name an image, or the report of a release")
        })
    });
    let args = manifest_push::cli::rollback::Rollback { image: image.transpose()?, dry_run, force };
    let session = Session::new(registry, account, output, temp_files);
    manifest_push::cli::rollback::rollback(&args, &session, output)
}

/// Replaces this process by binfmt-setup, with the output options in front of its arguments. Returns only if that failed.
fn run_binfmt_setup(arguments: &[OsString], output: &Output) -> Error {
    let doing = "run binfmt-setup";
    let options = [
        ("--format=json", output.format == Format::Json),
        ("--quiet", output.quiet),
        ("--verbose", output.verbose),
        ("--color=always", output.color == Color::Always),
        ("--color=never", output.color == Color::Never),
    ];
    let options = options.into_iter().filter(|(_, is_set)| *is_set).map(|(option, _)| option);
    match crate::binfmt_setup::BinfmtSetup::find(None) {
        Some(binfmt) => {
            let mut command = std::process::Command::new(binfmt.program());
            Error::from_io(doing, command.args(options).args(arguments).exec())
        }
        None => Error::not_found(doing, "it is neither beside multiarch nor in PATH")
            .hint("install it: cargo install --path binfmt-setup"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }
}
