//! `cargo xtask COMMAND`: one verb, one file.

use crate::{bench, ci, dist, example_programs, release, rollback};
use clap::{Parser, Subcommand};
use image_store::cli::Output;
use image_store::error::StoreError;
use image_store::exit::Exit;
use std::path::PathBuf;
use std::process::ExitCode;

const TOOL: &str = "cargo xtask";

/// Runs it all: from Dockerfiles to one published image of many platforms
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
    /// Build every platform of a release.yaml, put the labels right, run each image, publish
    Release(Box<release::Args>),
    /// Let the tags of a release name again what they named before it
    Rollback(rollback::Args),
    /// Format, lints and every test, as the hosted checks run them
    Ci(ci::Args),
    /// Measure against named peers, in one run
    Bench(bench::Args),
    /// The tools as programs, Debian packages and an image, with manual pages, completions and sums
    Dist(dist::Args),
    /// Write the example's programs: one tiny static ELF file for each platform
    ExamplePrograms {
        /// The folder to write to: DIR/linux-arm-v7/hello and so on
        dir: PathBuf,
    },
    /// Run the command of a smoke test isolated from the host (called by `release`)
    #[command(hide = true)]
    SmokeInside,
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // The supervisor of a sandbox must have one thread.
    if let Command::Release(_) | Command::Rollback(_) = &cli.command {
        image_store::half_done::end_cleanly();
    }
    let result = match cli.command {
        Command::Release(args) => release::run(&args, &cli.output),
        Command::Rollback(args) => rollback::run(&args, &cli.output),
        Command::Bench(args) => bench::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::Dist(args) => dist::run(&args, &cli.output),
        Command::ExamplePrograms { dir } => {
            let doing = format!("write the example's programs to \"{}\"", dir.display());
            example_programs::write_all(&dir).map(|()| Exit::Done).map_err(|e| StoreError::from_io(doing, e))
        }
        Command::SmokeInside => release::sandbox::supervise()
            .map(|()| Exit::Done)
            .map_err(|e| StoreError::from_io("read the description of a sandbox", e)),
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
