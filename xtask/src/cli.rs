//! The command line of `cargo xtask`, with one module per command.

use crate::{bench, ci, dist};
use clap::{Parser, Subcommand};
use cli::Output;
use error::{Error, Exit};
use image_store::atomic_file::TempFiles;
use image_store::options::RegistryArgs;
use multiarch::release::{self, Host};
use multiarch::{example_binaries, rollback};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

const TOOL: &str = "cargo xtask";
/// From the root of the workspace.
const EXAMPLE: &str = "examples/multi-arch-example/release.yaml";

/// Automation of this repository: releases from a clone, checks, measurements and distributions
#[derive(Parser)]
#[command(name = "xtask", bin_name = TOOL, version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// Build, verify, test and publish the images of a release.yaml under one tag
    Release(Box<WithRegistry<release::Args>>),
    /// Restore tags to the digests they had before a release
    Rollback(WithRegistry<rollback::Args>),
    /// Check format and lints, and run all tests
    Ci(ci::Args),
    /// Measure the programs and their peers
    Bench(bench::Args),
    /// Build static programs, Debian packages, man pages, completions and an image
    Dist(dist::Args),
    /// Write the binaries of the example: one tiny static ELF file for each platform
    #[command(visible_alias = "example-programs")]
    ExampleBinaries {
        /// The directory to write to: DIR/linux-arm-v7/hello and so on
        dir: PathBuf,
    },
    /// Run the command of a smoke test isolated from the host (called by `release`)
    #[command(hide = true)]
    SmokeInside,
}

/// A command with the options for registries.
#[derive(clap::Args)]
struct WithRegistry<T: clap::Args> {
    #[command(flatten)]
    command: T,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// The example of this workspace as the default spec. Builds binfmt-setup, so that it is never older than its source.
fn host(temp_files: TempFiles) -> Result<Host, Error> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    // `cargo run` sets the variable to this package; a test harness sets it to another one.
    let is_run_by_cargo =
        std::env::var_os("CARGO_MANIFEST_DIR").is_some_and(|dir| dir == *package.as_os_str());
    if is_run_by_cargo && std::env::var_os("MULTIARCH_BINFMT_SETUP").is_none() {
        build_binfmt_setup(package)?;
    }
    let workspace = package.parent().unwrap_or(package);
    let example = Path::new(EXAMPLE);
    let default_spec = if example.is_file() { example.into() } else { workspace.join(example) };
    Ok(Host { default_spec: Some(default_spec), binfmt_setup: None, temp_files })
}

fn build_binfmt_setup(package: &Path) -> Result<(), Error> {
    let doing = || "build the program binfmt-setup".to_string();
    let mut build = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", "binfmt-setup"]);
    build.args((!cfg!(debug_assertions)).then_some("--release"));
    build.current_dir(package).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = build.status().map_err(|e| Error::from_io(doing(), e))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("cargo ended with {status}"))),
    }
}

pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let cli =
        Cli::try_parse_from(&words).unwrap_or_else(|error| ::cli::exit_with_usage::<Cli>(&error, &words));
    // The other programs are in this clone, but may not be installed.
    ::cli::set_front_end("cargo run --quiet --package multiarch --");
    // The supervisor of a sandbox must have one thread.
    let temp_files = match &cli.command {
        Command::Release(_) | Command::Rollback(_) => TempFiles::removed_on_signal(),
        _ => TempFiles::default(),
    };
    let result = match cli.command {
        Command::Release(args) => {
            host(temp_files).and_then(|host| release::run(&args.command, &args.registry, &host, &cli.output))
        }
        Command::Rollback(args) => rollback::run(&args.command, &args.registry, temp_files, &cli.output),
        Command::Bench(args) => bench::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Dist(args) => dist::run(&args, &cli.output),
        Command::ExampleBinaries { dir } => {
            let doing = format!("write the example's binaries to \"{}\"", dir.display());
            example_binaries::write_all(&dir).map(|()| Exit::Done).map_err(|e| Error::from_io(doing, e))
        }
        Command::SmokeInside => sandbox::supervise()
            .map(|()| Exit::Done)
            .map_err(|e| Error::from_io("read the description of a sandbox", e)),
    };
    cli.output.finish(TOOL, result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
