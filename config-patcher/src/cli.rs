//! The command line: read what was typed, decide, show, write. Each command has a file of its own.

use clap::{Parser, Subcommand};
use cli::{Closing, Documentation, Output, ProgressDisplay};
use error::{Error, Exit};
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use registry_client::{Reporting, meter};
use std::process::ExitCode;
use std::sync::Arc;

mod filter;
mod fix;
mod inspect;
mod verify;

const TOOL: &str = "config-patcher";

const CLOSING: Closing = Closing {
    examples: &[
        ("config-patcher verify HOST/app:1", "labels against binaries, each platform"),
        ("config-patcher verify --all-tags HOST/app --html page.html", "a repository on one page"),
        ("config-patcher fix HOST/app:1 --from-binaries --dry-run", "show each write"),
        (
            "config-patcher fix docker-archive:app.tar --set-platform linux/arm/v7",
            "an archive of docker save",
        ),
        ("docker save app | config-patcher fix - --set-platform linux/arm64 | docker load", "on the way"),
    ],
    files: &[(
        "$XDG_CACHE_HOME/multiarch/layers/",
        "what layers showed, for verify; ~/.cache where XDG_CACHE_HOME is not set",
    )],
};

/// Says the right platform in image configs, and keeps every other byte
///
/// Images that are built for one machine on another are often labelled with the wrong one: the config says amd64,
/// the binaries are arm's. This tool writes the right label into the config and lets the manifests and indexes
/// above it follow. Layers do not move, an image whose label is right keeps its digest.
///
/// IMAGE is HOST/REPO[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME],
/// docker-daemon:NAME[:TAG] or, for fix,
/// `-`: docker save app | config-patcher fix - --set-platform linux/arm/v7 | docker load
#[derive(Parser)]
#[command(name = TOOL, version, max_term_width = 110, after_help = CLOSING.help(TOOL))]
struct Cli {
    #[command(subcommand)]
    command: AnyCommand,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Subcommand)]
enum AnyCommand {
    #[command(flatten)]
    Own(Command),
    #[command(flatten)]
    Documentation(Documentation),
}

/// The commands, which `multiarch` has as well.
#[derive(Subcommand)]
pub enum Command {
    /// Show what an image and its index say: labels, layers, digests
    Inspect(inspect::Inspect),
    /// Hold labels against what the binaries show; exit 1 where they differ
    Verify(verify::Verify),
    /// Put the label right, where the image lies or in a copy
    Fix(Box<fix::Fix>),
}

pub fn main() -> ExitCode {
    image_store::atomic_file::remove_temp_files_on_signal();
    let cli = Cli::parse();
    let result = match cli.command {
        AnyCommand::Own(command) => command.run(&cli.registry, &cli.output),
        AnyCommand::Documentation(what) => what.print(<Cli as clap::CommandFactory>::command(), &CLOSING),
    };
    cli.output.finish(TOOL, result)
}

impl Command {
    pub fn run(self, registry: &RegistryArgs, output: &Output) -> Result<Exit, Error> {
        let reporting = Reporting::new(output.warning_printer(), |line| ::cli::eprint_line(line.to_string()));
        let meter = Arc::clone(&reporting.meter);
        let stores = Stores::new(registry.options(reporting));
        let _display =
            ProgressDisplay::start(output, move |since, bar| meter::line(&meter.counts(), since, bar));
        match self {
            Self::Inspect(args) => inspect::run(&args, &stores, output),
            Self::Verify(args) => verify::run(&args, &stores, output),
            Self::Fix(args) if args.is_filter() => filter::run(&args, output),
            Self::Fix(args) => fix::run(&args, &stores, output),
        }
    }
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
    fn options_that_exclude_each_other_are_refused() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["config-patcher", "fix", "oci:x"], args].concat());
        assert!(parse(&["--platform", "linux/arm/v7"]).is_ok());
        assert!(parse(&["--set-platform", "linux/arm/v7"]).is_ok());
        assert!(parse(&["--from-index"]).is_ok());
        assert!(parse(&["--from-index", "--platform", "linux/arm"]).is_err());
        assert!(parse(&["--member", "linux/arm", "--from-index"]).is_err());
        assert!(parse(&["--platform", "arm"]).is_err());
        assert!(parse(&["--set-platform", "linux/arm/v7", "--check", "--dry-run"]).is_err());
    }
}
