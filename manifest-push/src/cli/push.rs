//! `push`: from a spec, from arguments, or from a draft.

use super::Tools;
use super::gather::gather;
use super::publish::{self, Write};
use crate::draft::Drafts;
use crate::index::{Kind, Style};
use crate::plan::{Request, combine, refuse};
use crate::spec::{self, Arguments, Asked, Member, Place};
use clap::{Args, Subcommand};
use cli::{Format, Output, print_json, print_line};
use error::Error;
use error::Exit;
use error::text::nearest;
use image_model::reference::{Reference, ReferenceError, RegistryRef};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(subcommand_negates_reqs = true)]
pub struct Push {
    /// The kind of index; without it Docker's list over Docker's manifests, else OCI's index
    #[arg(long, value_enum, value_name = "TYPE", global = true)]
    r#type: Option<Kind>,
    /// Push the draft of this name, as `docker manifest push` does
    #[arg(value_name = "LIST", required = true, value_parser = list)]
    list: Option<RegistryRef>,
    /// Remove the draft when it is published
    #[arg(long, short)]
    purge: bool,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    how: Option<PushHow>,
}

#[derive(Args)]
struct Options {
    /// Put a label right that contradicts what is asked for: the image gets a new config, its layers stay
    #[arg(long, global = true)]
    relabel: bool,
    /// Publish the same index under this name as well
    #[arg(long, value_name = "IMAGE", global = true)]
    also: Vec<Reference>,
    #[command(flatten)]
    write: Write,
}

#[derive(Subcommand)]
enum PushHow {
    /// Read what to publish from a YAML file
    ///
    /// image: NAME; tags: [TAG...]; manifests: a list of image: NAME with platform: {os, architecture, variant,
    /// osversion, osfeatures} and annotations: {KEY: VALUE}; annotations: {KEY: VALUE}. Prints "Digest: DIGEST
    /// LENGTH", as manifest-tool does.
    FromSpec(FromSpec),
    /// Say what to publish in arguments
    ///
    /// In the template, the first ARCH, OS and VARIANT are replaced by the words of each platform. Prints "Digest:
    /// DIGEST LENGTH", as manifest-tool does.
    FromArgs(FromArgs),
}

#[derive(Args)]
struct FromSpec {
    /// The spec
    file: PathBuf,
    /// Leave out images that do not exist (404 only), and say so
    #[arg(long)]
    ignore_missing: bool,
}

#[derive(Args)]
struct FromArgs {
    /// The platforms, OS/ARCH[/VARIANT], with commas between
    #[arg(long, required = true, value_delimiter = ',', value_name = "PLATFORM,...")]
    platforms: Vec<String>,
    /// The names of the images, with ARCH, OS and VARIANT in them
    #[arg(long, value_name = "TEMPLATE")]
    template: String,
    /// The name of the index
    #[arg(long, value_name = "IMAGE")]
    target: String,
    /// More tags for the index
    #[arg(long, value_delimiter = ',', value_name = "TAG,...")]
    tags: Vec<String>,
    /// Annotations of an OCI index
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE,...")]
    annotations: Vec<String>,
    /// Leave out images that do not exist (404 only), and say so
    #[arg(long)]
    ignore_missing: bool,
}

/// The name of a draft, unless it is one of the ways to push with a letter wrong.
fn list(text: &str) -> Result<RegistryRef, String> {
    match near(text) {
        Some(near) => Err(format!("did you mean {near}? If not, say the tag: {text}:latest")),
        None => text.parse().map_err(|e: ReferenceError| e.to_string()),
    }
}

fn near(word: &str) -> Option<&'static str> {
    nearest(word, &["from-spec", "from-args"]).filter(|near| *near != word)
}

/// What is to be said of a command line that has such a word behind `push`.
pub fn misspelt(words: &[OsString]) -> Option<String> {
    let behind = words.iter().skip_while(|word| *word != "push").skip(1);
    let word = behind.filter_map(|word| word.to_str()).find(|word| near(word).is_some())?;
    near(word).map(|near| format!("there is no way to push '{word}'; did you mean {near}?"))
}

pub fn push(args: &Push, tools: &Tools<'_>, output: &Output) -> Result<Exit, Error> {
    match (&args.how, &args.list) {
        (Some(_), list) if args.purge || list.is_some() => {
            let why = "LIST and --purge are for drafts; a spec or arguments were given";
            Err(Error::new(Exit::Usage, "push", why))
        }
        (Some(PushHow::FromSpec(from)), _) => {
            let asked = read_spec(&from.file)?;
            let asked = Asked { ignore_missing: from.ignore_missing, ..asked };
            publish(&asked, args, Style::ManifestTool, tools, output)
        }
        (Some(PushHow::FromArgs(from)), _) => {
            let (spec, problems) = spec::from_arguments(&Arguments {
                platforms: &from.platforms,
                template: &from.template,
                target: &from.target,
                tags: &from.tags,
                annotations: &from.annotations,
            });
            let place = Place::command_line(format!("publish \"{}\"", from.target));
            let asked = Asked { place, spec, problems, ignore_missing: from.ignore_missing };
            publish(&asked, args, Style::ManifestTool, tools, output)
        }
        (None, Some(list)) => {
            let drafts = Drafts::of_user()?;
            let asked = drafts.read(list)?.ok_or_else(|| drafts.missing("push", list))?;
            let done = publish(&asked, args, Style::Docker, tools, output)?;
            if args.purge && !args.options.write.dry_run {
                drafts.remove(list)?;
            }
            Ok(done)
        }
        // clap asks for one of the two.
        (None, None) => Err(Error::new(Exit::Usage, "push", "name a draft, or from-spec, or from-args")),
    }
}

fn read_spec(path: &Path) -> Result<Asked, Error> {
    let file = path.display().to_string();
    let text = std::fs::read(path).map_err(|e| Error::from_io(format!("read \"{file}\""), e))?;
    let (spec, problems) = spec::parse(&String::from_utf8_lossy(&text));
    Ok(Asked { place: Place::file(file), spec, problems, ignore_missing: false })
}

fn publish(
    asked: &Asked,
    args: &Push,
    style: Style,
    tools: &Tools<'_>,
    output: &Output,
) -> Result<Exit, Error> {
    let options = &args.options;
    let request = Request {
        kind: args.r#type,
        style,
        annotations: asked.spec.as_ref().map(|spec| spec.annotations.clone()).unwrap_or_default(),
        force: options.write.force,
        relabel: options.relabel,
    };
    let gathered = gather(asked, &options.also, &request, tools, output)?;
    let combined = combine(&gathered.found, &request).map_err(|misfits| refuse(&asked.place, &misfits))?;
    for note in &combined.notes {
        output.say(note);
    }
    let root = combined.wanted.root.clone();
    let done = publish::publish(combined.wanted, gathered.targets, &options.write, output)?;
    match (output.format, style) {
        (Format::Json, _) => print_json(&done.json(root.digest())),
        // manifest-tool's line, which scripts read.
        (Format::Text, Style::ManifestTool) => {
            print_line(&format!("Digest: {} {}", root.digest(), root.bytes().len()));
        }
        (Format::Text, Style::Docker) => {
            for line in pushed_refs(&gathered.spec.image, gathered.found.iter().map(|f| (&f.member, &f.node)))
            {
                print_line(&line);
            }
            print_line(root.digest().as_str());
        }
    }
    Ok(Exit::Done)
}

/// docker's lines for the images that it brings over from other repositories.
fn pushed_refs<'a>(
    target: &Reference,
    found: impl Iterator<Item = (&'a Member, &'a image_store::tree::Node)>,
) -> Vec<String> {
    let Reference::Registry(target) = target else { return Vec::new() };
    let name = target.name();
    let is_elsewhere =
        |member: &Member| !matches!(&member.image, Reference::Registry(image) if image.name() == name);
    let line = |digest| format!("Pushed ref {name}@{digest} with digest: {digest}");
    found.filter(|(member, _)| is_elsewhere(member)).map(|(_, node)| line(node.digest())).collect()
}
