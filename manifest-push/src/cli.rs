//! The command line: the commands of manifest-tool and of `docker manifest`, and commands that neither has.

use crate::TOOL;
use crate::cli::account::AccountArgs;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use cli::{DocumentationCommand, Output, ProgramDocs, ProgressDisplay, ResultSchema};
use error::Error;
use error::Exit;
use image_model::platform::COMMON_PLATFORMS;
use image_model::reference::Reference;
use image_store::atomic_file::TempFiles;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use registry_client::{Reporting, meter};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

pub mod account;
mod copy;
mod draft;
mod edit;
mod fetch;
mod inspect;
mod publish;
mod push;
pub mod rollback;

const PUBLISH_SCHEMA: &str = include_str!("cli/publish.schema.json");

/// Examples and files for help texts and the manual page.
pub const DOCS: ProgramDocs = ProgramDocs {
    name: TOOL,
    examples: &[
        ("manifest-push push from-spec app.yaml --dry-run", "print every write, write nothing"),
        ("manifest-push create HOST/app:1 HOST/app:1-amd64 HOST/app:1-arm64", "create a draft of an index"),
        ("manifest-push push HOST/app:1", "publish the draft"),
        ("manifest-push inspect HOST/app:1", "print one row per platform"),
        ("manifest-push edit HOST/app:1 --remove linux/386", "remove one image from the index"),
        ("manifest-push copy HOST/app:1 oci:backup:1", "copy an index with all its images"),
        ("manifest-push rollback HOST/app:1", "restore the tag of the last push"),
    ],
    more_examples: &[
        (
            "manifest-push push from-args --platforms linux/amd64,linux/arm64 --template HOST/app:ARCH --target HOST/app:1",
            "publish an index of images whose names follow a template",
        ),
        (
            "manifest-push annotate HOST/app:1 HOST/app:1-arm64 --os linux --arch arm64",
            "set the platform of an image in a draft",
        ),
        ("manifest-push rm HOST/app:1", "remove a draft"),
        (
            "manifest-push edit HOST/app:1 --replace linux/arm64=HOST/app:1-arm64",
            "replace the image for a platform",
        ),
        ("manifest-push rollback HOST/app:1 --dry-run", "print the previous digests, change nothing"),
    ],
    schemas: &[
        ResultSchema { command: "push", text: PUBLISH_SCHEMA },
        ResultSchema { command: "create", text: include_str!("cli/create.schema.json") },
        ResultSchema { command: "inspect", text: include_str!("cli/inspect.schema.json") },
        ResultSchema { command: "edit", text: PUBLISH_SCHEMA },
        ResultSchema { command: "copy", text: PUBLISH_SCHEMA },
        ResultSchema { command: "rollback", text: include_str!("cli/rollback.schema.json") },
    ],
    files: &[
        (
            "$XDG_STATE_HOME/multiarch/journal.jsonl",
            "the journal: the previous digest of every tag that was moved",
        ),
        ("$XDG_STATE_HOME/multiarch/drafts/", "drafts; ~/.local/state if XDG_STATE_HOME is not set"),
    ],
    uses_registries: true,
    see_also: &["config-patcher(1)", "docker-manifest(1)", "skopeo(1)"],
    platforms: &COMMON_PLATFORMS,
    ..ProgramDocs::DEFAULT
};

/// Assemble, publish, edit, copy and restore multi-platform images
///
/// Accepts the commands of manifest-tool and of `docker manifest`. All images are read and checked before anything is
/// written: if there are problems, all of them are reported and nothing is written. Missing blobs are written first,
/// then manifests by digest, the index, and the tag last.
///
/// IMAGE is HOST/REPO[:TAG][@DIGEST], oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG][@DIGEST],
/// docker-archive:FILE[:NAME] or docker-daemon:NAME[:TAG].
#[derive(Parser)]
#[command(name = TOOL, version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: AnyCommand,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    account: AccountArgs,
}

#[derive(Subcommand)]
enum AnyCommand {
    #[command(flatten)]
    Own(Box<Command>),
    /// Print the platforms, digests and sizes of an image or index
    Inspect(inspect::Inspect),
    /// Restore tags to the digests they had before the last push
    ///
    /// `push`, `edit`, `copy`, `fix` and `multiarch release` record every tag that they move, with its previous digest, in
    /// $XDG_STATE_HOME/multiarch/journal.jsonl (default: ~/.local/state/multiarch/journal.jsonl). A tag that the push
    /// created has no previous digest: it is reported and left unchanged. A second rollback undoes the push before.
    Rollback(rollback::Rollback),
    #[command(flatten)]
    Documentation(DocumentationCommand),
}

/// The commands that `multiarch` has as well. Its own `inspect` and `rollback` differ.
#[derive(Subcommand)]
pub enum Command {
    /// Publish an index of existing images
    Push(push::Push),
    /// Create a draft of an index, to annotate and push later
    Create(draft::Create),
    /// Set the platform of an image in a draft
    Annotate(draft::Annotate),
    /// Remove drafts
    Rm(draft::Remove),
    /// Add, replace or remove members of a published index
    Edit(edit::Edit),
    /// Copy an image or a whole index between any two stores
    ///
    /// Bytes and digests do not change. `copy HOST/REPO@DIGEST HOST/REPO:TAG` points a tag at any existing digest.
    Copy(copy::Copy),
}

pub fn main() -> ExitCode {
    let temp_files = TempFiles::removed_on_signal();
    let words = account::normalize_go_flags(std::env::args_os());
    let cli = DOCS
        .try_parse_from::<Cli>(words.clone())
        .unwrap_or_else(|error| ::cli::exit_with_usage::<Cli>(&with_suggestion(error, &words), &words));
    let output = &cli.output;
    let session = Session::new(&cli.registry, &cli.account, output, temp_files);
    let result = match &cli.command {
        AnyCommand::Own(command) => command.run(&session, output),
        AnyCommand::Inspect(args) => inspect::inspect(args, &session, output),
        AnyCommand::Rollback(args) => rollback::rollback(args, &session, output),
        AnyCommand::Documentation(what) => what.print::<Cli>(&DOCS),
    };
    drop(session);
    cli.output.finish(TOOL, result)
}

/// Reports a misspelled `from-spec` itself, where clap would report an argument behind it.
fn with_suggestion(error: clap::Error, words: &[OsString]) -> clap::Error {
    match push::misspelled_subcommand(words) {
        Some(why) if error.kind() == ErrorKind::UnknownArgument => {
            Cli::command().error(ErrorKind::InvalidSubcommand, why)
        }
        _ => error,
    }
}

impl Command {
    pub fn run(&self, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
        match self {
            Self::Push(args) => push::push(args, session, output),
            Self::Create(args) => draft::create(args, session, output),
            Self::Annotate(args) => draft::annotate(args, session, output),
            Self::Rm(args) => draft::remove(args),
            Self::Edit(args) => edit::edit(args, session, output),
            Self::Copy(args) => copy::copy(args, session, output),
        }
    }
}

/// Options, credentials and progress of one command. Progress is shown until it is dropped.
pub struct Session<'a> {
    registry: &'a RegistryArgs,
    account: &'a AccountArgs,
    output: &'a Output,
    reporting: Reporting,
    temp_files: TempFiles,
    _display: ProgressDisplay,
}

impl<'a> Session<'a> {
    pub fn new(
        registry: &'a RegistryArgs,
        account: &'a AccountArgs,
        output: &'a Output,
        temp_files: TempFiles,
    ) -> Self {
        let reporting = Reporting::new(output.warning_printer(), |line| ::cli::eprint_line(line.to_string()));
        let meter = Arc::clone(&reporting.meter);
        let display =
            ProgressDisplay::start(output, move |since, bar| meter::line(&meter.counts(), since, bar));
        Self { registry, account, output, reporting, temp_files, _display: display }
    }

    /// The stores of a command. `--username` and its password are for the registry of `subject` only.
    pub fn stores(&self, subject: &Reference) -> Result<Stores, Error> {
        let mut options = self.registry.options(self.reporting.clone());
        self.account.add_to(&mut options, subject, self.output)?;
        Ok(Stores::new(options, self.temp_files.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    fn parse(line: &str) -> Result<(), clap::Error> {
        let words = line.split(' ').map(std::ffi::OsString::from);
        Cli::try_parse_from(account::normalize_go_flags(words)).map(|_| ())
    }

    #[test]
    fn command_lines_of_manifest_tool_are_accepted() {
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
    fn command_lines_of_docker_manifest_are_accepted() {
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
