//! `config-patcher why`: what a container of one image would execute, and where its start fails.

use super::verify::row::{self, NotJudged, RequestedImage, Row};
use super::verify::{absent_layers, cache};
use crate::select::{LeafWithEntry, images_for, is_for};
use clap::Args;
use cli::{Format, Output, print_json, print_line};
use error::text::Escaped;
use error::{Error, Exit};
use image_evidence::chain::ChainStep;
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::manifest::Config;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::open::Stores;
use image_store::tree::{TreeNode, read_sparse_tree};
use serde_json::json;

/// The number of files that are printed; JSON has all of them.
const STEPS_SHOWN: usize = 5;

#[derive(Args)]
pub struct WhyArgs {
    /// The image or index
    image: Reference,
    /// The platform of an index [default: that of this host]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// The command in place of that of the image, as in `docker run`; the entrypoint stays
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(args: &WhyArgs, stores: &Stores, output: &Output) -> Result<Exit, Error> {
    let opened = stores.source(&args.image)?;
    let mut node = read_sparse_tree(&*opened.store, &opened.pointer)?;
    if !args.command.is_empty() {
        set_command(&mut node, &args.command);
    }
    let is_remote = matches!(args.image, Reference::Registry(_));
    let requested = RequestedImage {
        is_explicit: true,
        name: args.image.to_string(),
        editable: row::editable(&args.image, &opened.pointer),
        source: opened.store,
        depth: if is_remote { VerifyDepth::Quick } else { VerifyDepth::Full },
        node: Ok(node),
    };
    let Ok(node) = &requested.node else { return Ok(Exit::Done) };
    let (entry, node) = choose(node, args.platform.as_ref(), &requested.name)?;
    let finding = match node {
        TreeNode::Image(image) => {
            let platform = image.config.as_ref().map_or(Platform::default(), |c| c.parsed.platform.clone());
            let target = VerifyTarget { source: &*requested.source, image, platform: &platform };
            let cache = cache(stores, output);
            let options = VerifyOptions { cache: cache.as_ref(), ..VerifyOptions::new(requested.depth) };
            let found = verify_all(&[target], &options).pop();
            let nothing = || Err(Error::bad_input("verify an image", "there is no finding"));
            found.unwrap_or_else(nothing).map_err(|error| absent_layers(&target, error))
        }
        TreeNode::Unread(unread) => Err(row::not_judged(unread)),
        TreeNode::Index(_) => return Err(no_image(&requested.name)),
    };
    let mut rows = [Row::new(&requested, entry, node, finding)];
    let platform = rows[0].index_platform().cloned();
    row::advise(&mut rows, platform.as_ref());
    let [row] = rows;
    match output.format {
        Format::Json => print_json(&json(&row)),
        Format::Text => text(&row).iter().for_each(|line| print_line(&Escaped(line).to_string())),
    }
    let is_wrong = row.is_wrong(false);
    match row.finding {
        Err(NotJudged::Failed(error)) => Err(error),
        Ok(_) | Err(NotJudged::Incomplete(_)) => Ok(if is_wrong { Exit::CheckFailed } else { Exit::Done }),
    }
}

/// Sets the command of all images, whose entrypoints stay.
fn set_command(node: &mut TreeNode, command: &[String]) {
    match node {
        TreeNode::Image(image) => {
            if let Some(config) = &mut image.config {
                config.parsed.cmd = command.to_vec();
            }
        }
        TreeNode::Index(index) => index.members.iter_mut().for_each(|member| set_command(member, command)),
        TreeNode::Unread(_) => {}
    }
}

/// The image for the platform: without `--platform`, the only image, or the one for this host.
///
/// # Errors
/// Not found, if there is no image for `platform`; bad input, if none of several is for this host.
fn choose<'a>(
    node: &'a TreeNode,
    platform: Option<&Platform>,
    name: &str,
) -> Result<LeafWithEntry<'a>, Error> {
    let mut images = images_for(node, platform, name)?;
    images.retain(|(entry, node)| {
        let is_image = match node {
            TreeNode::Image(image) => image.is_runnable(),
            TreeNode::Unread(_) => true,
            TreeNode::Index(_) => false,
        };
        is_image && entry.is_none_or(|entry| entry.attested_digest().is_none())
    });
    let own: Option<Platform> = std::env::consts::ARCH.parse().ok();
    let is_own = |image: &&LeafWithEntry<'a>| own.as_ref().is_some_and(|own| is_for(image, own));
    match (images.as_slice(), platform) {
        ([], _) => Err(no_image(name)),
        ([image], _) | ([image, ..], Some(_)) => Ok(*image),
        (several, None) => several.iter().find(is_own).copied().ok_or_else(|| {
            let platforms = several.iter().filter_map(|(entry, _)| entry.as_ref()?.platform.as_ref());
            let platforms: Vec<String> = platforms.map(ToString::to_string).collect();
            let why = format!("it has images for {}, and none for this host", platforms.join(", "));
            let way = format!("specify --platform {}", platforms.first().map_or("PLATFORM", String::as_str));
            Error::bad_input(format!("choose an image of \"{name}\""), why).hint(way)
        }),
    }
}

fn no_image(name: &str) -> Error {
    Error::bad_input(format!("read \"{name}\""), "it contains no image")
        .hint("specify an image, not an artifact")
}

fn config<'a>(row: &Row<'a>) -> Option<&'a Config> {
    match row.node {
        TreeNode::Image(image) => image.config.as_ref().map(|config| &config.parsed),
        TreeNode::Index(_) | TreeNode::Unread(_) => None,
    }
}

/// The words that the container executes.
fn command(row: &Row<'_>) -> Vec<String> {
    let Some(config) = config(row) else { return Vec::new() };
    config.entrypoint.iter().chain(&config.cmd).cloned().collect()
}

/// At most ten lines.
fn text(row: &Row<'_>) -> Vec<String> {
    let starts = row.index_agrees()
        && row.finding.as_ref().is_ok_and(|finding| {
            matches!(finding.verdict.kind, VerdictKind::Consistent | VerdictKind::ForeignPayload)
        });
    let result = if starts { "starts, as far as can be seen".into() } else { row.verdict_text() };
    let mut lines = vec![format!("{} {}: {result}", row.requested.name, row.platform_text())];
    let command = command(row);
    if !command.is_empty() {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        lines.push(format!("  executes     {}", words.join(" ")));
    }
    let mut gap = None;
    if let Ok(finding) = &row.finding {
        lines.extend(finding.steps.iter().take(STEPS_SHOWN).map(step));
        if finding.steps.len() > STEPS_SHOWN {
            lines.push(format!("  and {} more", finding.steps.len() - STEPS_SHOWN));
        }
        gap = finding.gaps.first().filter(|_| finding.verdict.failure.is_none());
        lines.extend(gap.map(|gap| format!("  ends where   {gap}")));
    }
    let is_reason_wanted = row.is_wrong(false) || gap.is_none();
    let reason = row.reasons().first().filter(|_| is_reason_wanted && !starts);
    lines.extend(reason.map(|reason| format!("  because      {reason}")));
    lines.extend(row.advice_text().map(|advice| format!("  to do        {advice}")));
    lines
}

/// A word as in a shell.
fn quoted(word: &str) -> String {
    match word.is_empty() || word.contains([' ', '"', '\'', '$', '\\', '\n']) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word.to_string(),
    }
}

fn step(step: &ChainStep) -> String {
    let name = if step.name == step.path { String::new() } else { format!(" ({})", step.name) };
    let content = match (&step.platform, &step.interpreter) {
        (Some(platform), _) => platform.to_string(),
        (None, Some(line)) => format!("script for {line}"),
        (None, None) => "data".into(),
    };
    format!("  {:<12} {}{name} in layer {}: {content}", short(step.role), step.path, step.layer)
}

/// A role in at most twelve letters.
fn short(role: &str) -> &str {
    if role == "started program" { "started" } else { role }
}

/// As `why.schema.json` specifies.
fn json(row: &Row<'_>) -> String {
    let finding = row.finding.as_ref().ok();
    let verdict = finding.map(|finding| &finding.verdict);
    let is_failed = matches!(row.finding, Err(NotJudged::Failed(_)));
    json!({
        "schemaVersion": 2, "image": row.requested.name, "manifest": row.node.digest(),
        "indexPlatform": row.index_platform(), "declaredPlatform": row.config_platform(), "command": command(row),
        "starts": !row.is_wrong(false) && !is_failed,
        "verdict": verdict.map_or_else(|| json!("incomplete"), |verdict| json!(verdict.kind)),
        "steps": finding.map_or(&[][..], |finding| &finding.steps),
        "gaps": finding.map_or(&[][..], |finding| &finding.gaps), "reasons": row.reasons(),
        "startFailure": verdict.and_then(|verdict| verdict.failure.as_ref()), "fix": row.fix(), "rebuild": row.rebuild(),
    })
    .to_string()
}
