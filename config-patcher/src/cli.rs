//! The command line, with one module per command.

use crate::TOOL;
use clap::{Parser, Subcommand};
use cli::{DocumentationCommand, Output, ProgramDocs, ProgressDisplay, ResultSchema};
use error::{Error, Exit};
use image_model::platform::COMMON_PLATFORMS;
use image_store::atomic_file::TempFiles;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use registry_client::{Reporting, meter};
use std::process::ExitCode;
use std::sync::Arc;

mod filter;
mod fix;
mod inspect;
mod verify;
mod why;

/// Examples and files for help texts and the manual page.
pub const DOCS: ProgramDocs = ProgramDocs {
    name: TOOL,
    examples: &[
        ("config-patcher inspect HOST/app:1", "print the declared and the index platform of every member"),
        ("config-patcher verify HOST/app:1", "verify every member of an index"),
        ("config-patcher verify --all-tags HOST/app --html page.html", "verify a repository, report as HTML"),
        ("config-patcher verify docker-archive:app.tar --explain", "print the executed chain"),
        ("config-patcher why HOST/app:1 --platform linux/arm64", "find out why a container does not start"),
        ("config-patcher fix HOST/app:1 --from-binaries --dry-run", "print every write, write nothing"),
        ("config-patcher fix HOST/app:1 --from-index", "declare the platforms of the index entries"),
        (
            "config-patcher fix HOST/app:1 --set-platform linux/arm/v7 --platform linux/arm64",
            "fix one member of an index",
        ),
        (
            "config-patcher fix docker-archive:app.tar --set-platform linux/arm/v7",
            "fix an archive of docker save",
        ),
        (
            "docker save app | config-patcher fix - --set-platform linux/arm64 | docker load",
            "fix an image of the Docker Engine without a file",
        ),
    ],
    schemas: &[
        ResultSchema { command: "inspect", text: include_str!("cli/inspect.schema.json") },
        ResultSchema { command: "verify", text: include_str!("cli/verify/verify.schema.json") },
        ResultSchema { command: "why", text: include_str!("cli/why.schema.json") },
        ResultSchema { command: "fix", text: include_str!("cli/fix.schema.json") },
    ],
    files: &[(
        "$XDG_CACHE_HOME/multiarch/layers/",
        "what verify found in layers; ~/.cache if XDG_CACHE_HOME is not set",
    )],
    uses_registries: true,
    see_also: &["manifest-push(1)", "binfmt-setup(8)"],
    platforms: &COMMON_PLATFORMS,
    ..ProgramDocs::DEFAULT
};

/// Verify and fix the platform metadata of container images
///
/// The platform that an image declares may differ from the platform that its binaries were built for, for example
/// because an old builder wrote amd64 into the config of an arm image. `verify` finds such images. `fix` writes the
/// right platform into the config and updates the manifests and indexes above it: no layer is transferred, all
/// other bytes are preserved, and a correct image keeps its digest.
///
/// IMAGE is HOST/REPO[:TAG][@DIGEST], oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG][@DIGEST],
/// docker-archive:FILE[:NAME] or docker-daemon:NAME[:TAG]. `fix -` reads a `docker save` stream from stdin and writes the fixed one to stdout.
#[derive(Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: AnyCommand,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one value per run")]
enum AnyCommand {
    #[command(flatten)]
    Own(Command),
    #[command(flatten)]
    Documentation(DocumentationCommand),
}

/// The commands, which `multiarch` offers as well.
#[derive(Subcommand)]
pub enum Command {
    /// Print the platforms, layers and digests of an image or index
    Inspect(inspect::InspectArgs),
    /// Verify platform metadata against the binaries
    ///
    /// Reads the layers and finds the files that a container start would execute, but extracts and runs nothing.
    /// The verdicts:
    ///
    /// * consistent: the binaries match the declared platform
    ///
    /// * mislabeled: the binaries are for another platform, or need a higher variant; a command fixes it
    ///
    /// * wrong build: the same in an index that has or needs both platforms: rebuild the image
    ///
    /// * mixed: the binaries are for several platforms
    ///
    /// * would not start: the kernel refuses to execute a file, for example because its loader is absent
    ///
    /// * incomplete: the manifest, the config or a layer is absent
    ///
    /// * foreign payload: the binaries match; other files are for another platform
    ///
    /// * undetermined: there is no program, only scripts or data
    ///
    /// Exits with 0 for consistent, and without --strict for the last two; with 1 for the others, and if the index
    /// platform differs.
    Verify(verify::VerifyArgs),
    /// Declare the right platform, in place or in a copy
    ///
    /// Prints the digest of the fixed image or index. If the platform metadata is correct already, nothing is written.
    Fix(Box<fix::FixArgs>),
    /// Print what a container of one image would execute, and why it would not start
    ///
    /// Answers "exec format error", and "no such file or directory" for a file that is there: each file that the start
    /// executes, with its layer and platform, and where the start fails. Nothing is run. Exits with 1 if the image
    /// would not start, or is for another platform than it declares.
    Why(why::WhyArgs),
}

pub fn main() -> ExitCode {
    let temp_files = TempFiles::removed_on_signal();
    let cli: Cli = DOCS.parse();
    let result = match cli.command {
        AnyCommand::Own(command) => command.run(&cli.registry, temp_files, &cli.output),
        AnyCommand::Documentation(what) => what.print::<Cli>(&DOCS),
    };
    cli.output.finish(TOOL, result)
}

impl Command {
    pub fn run(self, registry: &RegistryArgs, temp_files: TempFiles, output: &Output) -> Result<Exit, Error> {
        let reporting = Reporting::new(output.warning_printer(), |line| ::cli::eprint_line(line.to_string()));
        let meter = Arc::clone(&reporting.meter);
        let stores = Stores::new(registry.options(reporting), temp_files);
        let _display =
            ProgressDisplay::start(output, move |since, bar| meter::line(&meter.counts(), since, bar));
        match self {
            Self::Inspect(args) => inspect::run(&args, &stores, output),
            Self::Verify(args) => verify::run(&args, &stores, output),
            Self::Fix(args) if args.is_filter() => filter::run(&args, output),
            Self::Fix(args) => fix::run(&args, &stores, output),
            Self::Why(args) => why::run(&args, &stores, output),
        }
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

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["config-patcher", "fix", "oci:x"], args].concat());
        assert!(parse(&["--platform", "linux/arm/v7"]).is_ok());
        assert!(parse(&["--set-platform", "linux/arm/v7"]).is_ok());
        assert!(parse(&["--from-index"]).is_ok());
        assert!(parse(&["--from-index", "--platform", "linux/arm"]).is_err());
        assert!(parse(&["--member", "linux/arm", "--from-index"]).is_err());
        assert!(parse(&["--set-platform", "arm/v99"]).is_err());
        assert!(parse(&["--set-platform", "linux/arm/v7", "--check", "--dry-run"]).is_err());
    }
}
