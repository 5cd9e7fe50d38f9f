//! `push`: publishes an index from a spec, from arguments or from a draft.

use super::Session;
use super::draft::draft_name;
use super::fetch::fetch;
use super::publish::{self, PublishArgs};
use crate::draft::Drafts;
use crate::index::{IndexKind, IndexStyle};
use crate::plan::{IndexOptions, combine, refuse_problems};
use crate::spec::{self, Member, PublishRequest, SpecSource, TemplateArguments};
use clap::{Args, Subcommand};
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use error::text::nearest;
use image_model::reference::{Reference, RegistryRef};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(subcommand_negates_reqs = true)]
pub struct Push {
    /// Type of the index [default: docker if all members are Docker manifests, otherwise oci]
    #[arg(long, value_enum, value_name = "TYPE", global = true)]
    r#type: Option<IndexKind>,
    /// Name of the draft to push, as in `docker manifest push`
    #[arg(value_name = "LIST", required = true, value_parser = list)]
    list: Option<RegistryRef>,
    /// Remove the draft after it was published
    #[arg(long, short)]
    purge: bool,
    #[command(flatten)]
    options: PushOptions,
    #[command(subcommand)]
    how: Option<PushHow>,
}

#[derive(Args)]
struct PushOptions {
    /// Fix images that declare another platform: they get a new config, layers are unchanged
    #[arg(long, global = true)]
    relabel: bool,
    /// Also publish the index under this name (repeatable)
    #[arg(long, value_name = "IMAGE", global = true)]
    also: Vec<Reference>,
    #[command(flatten)]
    write: PublishArgs,
}

#[derive(Subcommand)]
enum PushHow {
    /// Publish an index described by a YAML file
    ///
    /// image: NAME; tags: [TAG...]; manifests: a list of image: NAME with platform: {os, architecture, variant,
    /// osversion, osfeatures} and annotations: {KEY: VALUE}; annotations: {KEY: VALUE}. Prints "Digest: DIGEST
    /// LENGTH", as manifest-tool does.
    FromSpec(FromSpec),
    /// Publish an index described by arguments
    ///
    /// The first ARCH, OS and VARIANT in the template are replaced for each platform. Prints "Digest: DIGEST LENGTH",
    /// as manifest-tool does.
    FromArgs(FromArgs),
}

#[derive(Args)]
struct FromSpec {
    /// YAML file to read
    file: PathBuf,
    /// Skip images that do not exist (404 only), with a warning
    #[arg(long)]
    ignore_missing: bool,
}

#[derive(Args)]
struct FromArgs {
    /// Platforms, as OS/ARCH[/VARIANT], separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "PLATFORM,...")]
    platforms: Vec<String>,
    /// Name of the images, with the placeholders ARCH, OS and VARIANT
    #[arg(long, value_name = "TEMPLATE")]
    template: String,
    /// Name of the index
    #[arg(long, value_name = "IMAGE")]
    target: String,
    /// Additional tags for the index
    #[arg(long, value_delimiter = ',', value_name = "TAG,...")]
    tags: Vec<String>,
    /// Annotations for the index (OCI only)
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,...")]
    annotations: Vec<String>,
    /// Skip images that do not exist (404 only), with a warning
    #[arg(long)]
    ignore_missing: bool,
}

/// Parses the name of a draft. A misspelled subcommand is an error.
fn list(text: &str) -> Result<RegistryRef, String> {
    match near(text) {
        Some(near) => Err(format!("did you mean {near}? Otherwise, add a tag: {text}:latest")),
        None => draft_name(text),
    }
}

fn near(word: &str) -> Option<&'static str> {
    nearest(word, &["from-spec", "from-args"]).filter(|near| *near != word)
}

/// The error for a command line with a misspelled subcommand of `push`.
pub fn misspelled_subcommand(words: &[OsString]) -> Option<String> {
    let behind = words.iter().skip_while(|word| *word != "push").skip(1);
    let word = behind.filter_map(|word| word.to_str()).find(|word| near(word).is_some())?;
    near(word).map(|near| format!("unrecognized subcommand '{word}'; did you mean {near}?"))
}

pub fn push(args: &Push, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    match (&args.how, &args.list) {
        (Some(_), list) if args.purge || list.is_some() => {
            let why = "LIST and --purge cannot be used with from-spec or from-args";
            Err(Error::new(Exit::Usage, "push", why))
        }
        (Some(PushHow::FromSpec(from)), _) => {
            let request = read_spec(&from.file)?;
            let request = PublishRequest { ignore_missing: from.ignore_missing, ..request };
            publish(&request, args, IndexStyle::ManifestTool, session, output)
        }
        (Some(PushHow::FromArgs(from)), _) => {
            let (spec, problems) = spec::from_template(&TemplateArguments {
                platforms: &from.platforms,
                template: &from.template,
                target: &from.target,
                tags: &from.tags,
                annotations: &from.annotations,
            });
            let source = SpecSource::command_line(format!("publish \"{}\"", from.target));
            let request = PublishRequest { source, spec, problems, ignore_missing: from.ignore_missing };
            publish(&request, args, IndexStyle::ManifestTool, session, output)
        }
        (None, Some(list)) => {
            let drafts = Drafts::of_user()?;
            let request = drafts.read(list)?.ok_or_else(|| drafts.missing("push", list))?;
            let done = publish(&request, args, IndexStyle::Docker, session, output)?;
            if args.purge && !args.options.write.dry_run {
                drafts.remove(list)?;
            }
            Ok(done)
        }
        // clap requires one of the two.
        (None, None) => Err(Error::new(Exit::Usage, "push", "no draft, from-spec or from-args was given")),
    }
}

fn read_spec(path: &Path) -> Result<PublishRequest, Error> {
    let file = path.display().to_string();
    let text = std::fs::read(path).map_err(|e| Error::from_io(format!("read \"{file}\""), e))?;
    let (spec, problems) = spec::parse(&String::from_utf8_lossy(&text));
    Ok(PublishRequest { source: SpecSource::file(file), spec, problems, ignore_missing: false })
}

fn publish(
    request: &PublishRequest,
    args: &Push,
    style: IndexStyle,
    session: &Session<'_>,
    output: &Output,
) -> Result<Exit, Error> {
    let PushOptions { also, relabel, write } = &args.options;
    let options = IndexOptions {
        kind: args.r#type,
        style,
        annotations: request.spec.as_ref().map(|spec| spec.annotations.clone()).unwrap_or_default(),
        force: write.force,
        relabel: *relabel,
    };
    let fetched = fetch(request, also, &options, session, output)?;
    let combined = combine(&fetched.members, &options)
        .map_err(|problems| refuse_problems(&request.source, &problems))?;
    for note in &combined.notes {
        output.info(note);
    }
    let root = combined.wanted.root.clone();
    let done = publish::publish(combined.wanted, fetched.targets, write, output)?;
    match (output.format, style) {
        (Format::Json, _) => print_json(&done.json(root.digest())),
        // The line of manifest-tool, which scripts parse.
        (Format::Text, IndexStyle::ManifestTool) => {
            print_line(&format!("Digest: {} {}", root.digest(), root.bytes().len()));
        }
        (Format::Text, IndexStyle::Docker) => {
            for line in pushed_refs(&fetched.spec.image, fetched.members.iter().map(|f| (&f.member, &f.node)))
            {
                print_line(&line);
            }
            print_line(root.digest().as_str());
        }
    }
    done.finish(output);
    Ok(Exit::Done)
}

/// docker's lines for images that are copied from other repositories.
fn pushed_refs<'a>(
    target: &Reference,
    found: impl Iterator<Item = (&'a Member, &'a image_store::tree::TreeNode)>,
) -> Vec<String> {
    let Reference::Registry(target) = target else { return Vec::new() };
    let name = target.name();
    let is_elsewhere =
        |member: &Member| !matches!(&member.image, Reference::Registry(image) if image.name() == name);
    let line = |digest| format!("Pushed ref {name}@{digest} with digest: {digest}");
    found.filter(|(member, _)| is_elsewhere(member)).map(|(_, node)| line(node.digest())).collect()
}
