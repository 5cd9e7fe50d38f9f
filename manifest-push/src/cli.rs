//! The command line: manifest-tool's `push from-spec` and `inspect`, and `copy`.

use crate::index::Kind;
use crate::inspect;
use crate::plan::{Found, Misfit, Request, combine, refuse};
use crate::spec::{self, Spec};
use clap::{Args, Parser, Subcommand};
use image_store::cli::{Format, Output, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::open::{Stores, Target};
use image_store::options::RegistryArgs;
use image_store::parallel;
use image_store::plan::{MovedTag, Plan, Progress, Wanted, apply, plan};
use image_store::reference::Reference;
use image_store::tree::{Node, read_tree};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const TOOL: &str = "manifest-push";

/// Makes one tag out of images of several platforms
///
/// Takes manifest-tool's commands and specs. Everything is looked at first: what is wrong is told all at once, and
/// nothing is written. Then blobs that are missing, manifests by digest, the index, and the tag last.
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
}

#[derive(Subcommand)]
enum Command {
    /// Publish an index over images that are there
    Push(Push),
    /// Show what a name points to
    Inspect(Inspect),
    /// Copy an image, or a whole index, between any two stores
    Copy(Copy),
}

#[derive(Args)]
struct Push {
    /// The kind of index; without it Docker's list over Docker's manifests, else OCI's index
    #[arg(long, value_enum, value_name = "TYPE")]
    r#type: Option<Kind>,
    #[command(subcommand)]
    how: PushHow,
}

#[derive(Subcommand)]
enum PushHow {
    /// Read what to publish from a YAML file
    ///
    /// image: NAME; tags: [TAG...]; manifests: a list of image: NAME with platform: {os, architecture, variant,
    /// os.version, os.features}; annotations: {KEY: VALUE}. Prints "Digest: DIGEST LENGTH", as manifest-tool does.
    FromSpec(FromSpec),
}

#[derive(Args)]
struct FromSpec {
    /// The spec
    file: PathBuf,
    /// Leave out images that do not exist (404 only), and say so
    #[arg(long)]
    ignore_missing: bool,
    #[command(flatten)]
    write: Write,
}

#[derive(Args)]
struct Write {
    /// Show every write with its digest and size, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Publish although a label contradicts the spec, or the tag moved meanwhile
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct Inspect {
    /// The image to look at
    image: Reference,
    /// Print the manifest's bytes as they are stored
    #[arg(long)]
    raw: bool,
}

#[derive(Args)]
struct Copy {
    /// The image to read
    source: Reference,
    /// Where to write it
    destination: Reference,
    #[command(flatten)]
    write: Write,
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = run(&cli);
    cli.output.finish(TOOL, result)
}

fn run(cli: &Cli) -> Result<Exit, StoreError> {
    let stores = Stores::new(cli.registry.options());
    match &cli.command {
        Command::Push(Push { r#type, how: PushHow::FromSpec(args) }) => {
            push(args, *r#type, &stores, &cli.output)
        }
        Command::Inspect(args) => run_inspect(args, &stores, cli.output.format),
        Command::Copy(args) => copy(args, &stores, &cli.output),
    }
}

fn push(args: &FromSpec, kind: Option<Kind>, stores: &Stores, output: &Output) -> Result<Exit, StoreError> {
    let file = args.file.display().to_string();
    let spec = read_spec(&args.file, &file, stores, args.ignore_missing, output)?;
    let request = Request { kind, annotations: spec.spec.annotations.clone(), force: args.write.force };
    let wanted = combine(&spec.found, &request).map_err(|misfits| refuse(&file, &misfits))?;
    let mut target = stores.target(&spec.spec.image)?;
    for tag in &spec.spec.tags {
        // The image's own tag may be named among them.
        if !target.tags.contains(tag) {
            target.tags.push(tag.clone());
        }
    }
    refuse_replacing_an_image(&target, args.write.force)?;
    let root = wanted.root.clone();
    let plan = publish(wanted, &target, &args.write, output)?;
    match output.format {
        // manifest-tool's line, which scripts read.
        Format::Text => print_line(&format!("Digest: {} {}", root.digest(), root.bytes().len())),
        Format::Json => print_line(&result(&plan, root.digest().as_str(), &args.write)),
    }
    Ok(Exit::Done)
}

struct ReadSpec {
    spec: Spec,
    found: Vec<Found>,
}

/// Reads the spec and looks every image up. What is wrong with the one does not keep the other from being told.
fn read_spec(
    path: &Path,
    file: &str,
    stores: &Stores,
    ignore_missing: bool,
    output: &Output,
) -> Result<ReadSpec, StoreError> {
    let text = std::fs::read(path).map_err(|e| StoreError::from_io(format!("read \"{file}\""), e))?;
    let (spec, problems) = spec::parse(&String::from_utf8_lossy(&text));
    let mut misfits: Vec<Misfit> =
        problems.into_iter().map(|problem| Misfit { line: problem.line, text: problem.text }).collect();
    let spec_is_sound = misfits.is_empty();
    let members = spec.as_ref().map(|spec| spec.members.clone()).unwrap_or_default();
    let looked_up = parallel::map(&members, parallel::REQUESTS, |member| {
        let found = stores.source(&member.image).and_then(|opened| {
            let node = read_tree(&*opened.store, &opened.pointer)?;
            Ok(Found { member: member.clone(), source: opened.store, node })
        });
        match found {
            Ok(found) => Ok(Ok(found)),
            // What is missing is the spec's fault and told with its line; what cannot be asked stops us.
            Err(error) if matches!(error.kind, Exit::NotFound | Exit::BadInput) || !spec_is_sound => {
                Ok(Err((member.clone(), error)))
            }
            Err(error) => Err(error),
        }
    })?;
    let mut found = Vec::new();
    let mut only_missing = spec_is_sound;
    for one in looked_up {
        match one {
            Ok(one) => found.push(one),
            Err((member, error)) if ignore_missing && error.kind == Exit::NotFound => {
                output.say(&format!("left out: {file}:{}: cannot {error}", member.line));
            }
            Err((member, error)) => {
                only_missing &= error.kind == Exit::NotFound;
                misfits.push(Misfit { line: member.line, text: format!("cannot {error}") });
            }
        }
    }
    if found.is_empty() && misfits.is_empty() {
        misfits.push(Misfit { line: 1, text: "no image is left: a list of nothing is not published".into() });
        only_missing = false;
    }
    match spec {
        Some(spec) if misfits.is_empty() => Ok(ReadSpec { spec, found }),
        _ => {
            misfits.sort_by_key(|misfit| misfit.line);
            let mut error = refuse(file, &misfits);
            if only_missing {
                error.kind = Exit::NotFound;
            }
            Err(error)
        }
    }
}

/// The tag of an index may be replaced by another index. A tag that names one image is somebody's image.
fn refuse_replacing_an_image(target: &Target, force: bool) -> Result<(), StoreError> {
    for tag in &target.tags {
        let named = target.store.resolve(&image_store::store::Pointer::Tag(tag.clone()))?;
        let is_image =
            named.is_some_and(|named| image_store::manifest::media_type::is_manifest(&named.media_type));
        if is_image && !force {
            let doing = format!("publish an index as \"{}:{tag}\"", target.store.place());
            return Err(StoreError::conflict(doing, "the tag names a single image now")
                .hint("name another tag, or replace it with --force"));
        }
    }
    Ok(())
}

fn publish(wanted: Wanted, target: &Target, write: &Write, output: &Output) -> Result<Plan, StoreError> {
    let plan = plan(wanted, &*target.store, &target.tags)?;
    output.say_lines(&plan.to_string());
    if !write.dry_run {
        let moved = if write.force { MovedTag::Overwrite } else { MovedTag::Refuse };
        apply(&plan, &*target.store, moved, &|progress| output.detail(&describe(&progress)))?;
    }
    Ok(plan)
}

fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("blob {} is there", blob.digest),
        Progress::Document(document) => format!("manifest {} is there", document.digest()),
        Progress::Tag(tag, document) => format!("tag {tag} names {}", document.digest()),
    }
}

fn run_inspect(args: &Inspect, stores: &Stores, format: Format) -> Result<Exit, StoreError> {
    let opened = stores.source(&args.image)?;
    if args.raw {
        use std::io::Write;
        let document = opened.store.read_document(&opened.pointer)?;
        let written = std::io::stdout().write_all(document.bytes());
        return match written {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(StoreError::from_io("write to stdout", e))
            }
            _ => Ok(Exit::Done),
        };
    }
    let node = read_tree(&*opened.store, &opened.pointer)?;
    match format {
        Format::Text => print_line(inspect::text(&args.image.to_string(), &node).trim_end()),
        Format::Json => print_line(&inspect::json(&args.image.to_string(), &node).to_string()),
    }
    Ok(Exit::Done)
}

fn copy(args: &Copy, stores: &Stores, output: &Output) -> Result<Exit, StoreError> {
    let opened = stores.source(&args.source)?;
    let node: Node = read_tree(&*opened.store, &opened.pointer)?;
    let target = stores.target(&args.destination)?;
    let plan = publish(Wanted::copy_of(&node, &opened.store), &target, &args.write, output)?;
    match output.format {
        Format::Text => print_line(node.digest().as_str()),
        Format::Json => print_line(&result(&plan, node.digest().as_str(), &args.write)),
    }
    Ok(Exit::Done)
}

/// `digest`, `changed`, `written`, `bytes` (at most), and `tags`, each with `tag`, `was`, `now`.
fn result(plan: &Plan, digest: &str, write: &Write) -> String {
    let tags: Vec<serde_json::Value> = plan
        .tags
        .iter()
        .map(|step| serde_json::json!({"tag": step.tag, "was": step.was, "now": step.document.digest()}))
        .collect();
    let changed = !plan.is_nothing();
    serde_json::json!({
        "digest": digest, "changed": changed, "written": changed && !write.dry_run, "bytes": plan.bytes(), "tags": tags,
    })
    .to_string()
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
    fn manifest_tools_own_lines_are_understood() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ());
        assert!(parse("manifest-push push from-spec multi-arch-manifest.yaml").is_ok());
        assert!(
            parse("manifest-push --plain-http push --type oci from-spec --ignore-missing x.yaml").is_ok()
        );
        assert!(parse("manifest-push --insecure inspect --raw a/b:1").is_ok());
        assert!(parse("manifest-push push --type other from-spec x.yaml").is_err());
    }
}
