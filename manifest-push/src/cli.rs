//! The command line: the commands of manifest-tool and of `docker manifest`, and what neither has.

use crate::cli::account::Account;
use clap::{Parser, Subcommand};
use image_store::cli::{Display, Documentation, Output};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use image_store::reference::Reference;
use std::process::ExitCode;

mod account;
mod copy;
mod draft;
mod edit;
mod gather;
mod inspect;
mod publish;
mod push;
mod rollback;

pub(crate) const TOOL: &str = "manifest-push";

/// Makes one tag out of images of several platforms
///
/// Takes the commands of manifest-tool and of `docker manifest`. Everything is looked at first: what is wrong is told
/// all at once, and nothing is written. Then blobs that are missing, manifests by digest, the index, and the tag last.
///
/// IMAGE is HOST/REPO[:TAG][@DIGEST], oci:DIR[:TAG] or docker-archive:FILE[:NAME].
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
    account: Account,
}

#[derive(Subcommand)]
enum Command {
    /// Publish an index over images that are there
    Push(push::Push),
    /// Show what a name points to
    Inspect(inspect::Inspect),
    /// Draft a list of images, to be annotated and pushed
    Create(draft::Create),
    /// Say in a draft what an image is for
    Annotate(draft::Annotate),
    /// Remove drafts
    Rm(draft::Remove),
    /// Add, replace or remove members of a published index
    Edit(edit::EditArgs),
    /// Copy an image, or a whole index, between any two stores
    Copy(copy::Copy),
    /// Let a tag name again what it named before it was published
    Rollback(rollback::Rollback),
    #[command(flatten)]
    Documentation(Documentation),
}

pub fn main() -> ExitCode {
    image_store::half_done::end_cleanly();
    let cli = Cli::parse_from(account::as_clap_reads_it(std::env::args_os()));
    let display = Display::start(&cli.output);
    let result = run(&cli);
    drop(display);
    cli.output.finish(TOOL, result)
}

fn run(cli: &Cli) -> Result<Exit, StoreError> {
    let (tools, output) = (Tools { cli }, &cli.output);
    match &cli.command {
        Command::Push(args) => push::push(args, &tools, output),
        Command::Inspect(args) => inspect::inspect(args, &tools, output),
        Command::Create(args) => draft::create(args, &tools, output),
        Command::Annotate(args) => draft::annotate(args, output),
        Command::Rm(args) => draft::remove(args),
        Command::Edit(args) => edit::edit(args, &tools, output),
        Command::Copy(args) => copy::copy(args, &tools, output),
        Command::Rollback(args) => rollback::rollback(args, &tools, output),
        Command::Documentation(what) => what.print(<Cli as clap::CommandFactory>::command()),
    }
}

/// What opens stores, once it is known for which registry the name and password of the command line are.
pub(crate) struct Tools<'a> {
    cli: &'a Cli,
}

impl Tools<'_> {
    /// `subject` is the image that the command is about: `--username` is a user of its registry alone.
    pub fn stores(&self, subject: &Reference) -> Result<Stores, StoreError> {
        let mut options = self.cli.registry.options().quiet(self.cli.output.quiet);
        self.cli.account.add_to(&mut options, subject, &self.cli.output)?;
        Ok(Stores::new(options))
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

    fn parse(line: &str) -> Result<(), clap::Error> {
        let words = line.split(' ').map(std::ffi::OsString::from);
        Cli::try_parse_from(account::as_clap_reads_it(words)).map(|_| ())
    }

    #[test]
    fn manifest_tools_own_lines_are_understood() {
        for line in [
            "m push from-spec multi-arch-manifest.yaml",
            "m --plain-http push --type oci from-spec --ignore-missing x.yaml",
            "m --insecure inspect --raw a/b:1",
            "m --username ann --password s3cret --docker-cfg /x push from-args --platforms linux/amd64,linux/arm/v7 --template a/b:ARCH --target a/b:1",
            "m --debug push from-args --platforms linux/amd64 --template a/b:ARCH --tags 1,2 --tags 3 --target a/b:1 --annotations a=b",
            "m -debug=true -plain-http inspect -raw -expand-config a/b:1",
            "m push -type oci from-spec x.yaml",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "m push --type other from-spec x.yaml",
            "m push from-args --template x --target y",
            "m inspect --expand-config a/b:1",
            "m push",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_lines_of_docker_manifest_are_understood() {
        for line in [
            "m create a/b:1 a/b:amd64 a/b:arm",
            "m create --amend --insecure a/b:1 a/b:amd64",
            "m create a/b:1 -a a/b:amd64",
            "m annotate a/b:1 a/b:arm --arch arm --os linux --variant v7 --os-version 10.0.1 --os-features a,b",
            "m annotate --arch arm a/b:1 a/b:arm",
            "m inspect -v a/b:1",
            "m inspect a/b:1 a/b:arm",
            "m push a/b:1",
            "m push --purge --insecure a/b:1",
            "m push -p a/b:1",
            "m rm a/b:1 a/b:2",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(parse("m create a/b:1").is_err());
    }
}
