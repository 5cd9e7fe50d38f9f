//! `config-patcher verify`: label and index entry against what the binaries show.

use crate::detect::verdict::{Kind, Shown};
use crate::verify::{Depth, Finding, Subject, verify_all};
use clap::Args;
use image_store::cli::{Format, Output, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::manifest::Descriptor;
use image_store::open::Stores;
use image_store::parallel;
use image_store::platform::Platform;
use image_store::reference::Reference;
use image_store::store::docker_archive::DockerArchive;
use image_store::store::oci_archive::OciArchive;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use image_store::text::{Escaped, bytes, table};
use image_store::tree::{Image, Node, read_tree};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Args)]
pub struct Verify {
    /// The images to look into
    #[arg(required_unless_present = "all_tags")]
    image: Vec<Reference>,
    /// All tags of this repository, layout or archive (repeat for several)
    #[arg(long, value_name = "REPO")]
    all_tags: Vec<Reference>,
    /// Fail on foreign payload and on what cannot be told, too
    #[arg(long)]
    strict: bool,
    /// Show each file that a container would execute, and what it is for
    #[arg(long)]
    explain: bool,
    /// Stop reading where the image's own program fits its label; the default for registries
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Read every layer to its last byte; the default for what lies here
    #[arg(long)]
    full: bool,
}

/// One name that was asked for, and what it names.
struct Named {
    name: String,
    source: Arc<dyn ImageSource>,
    depth: Depth,
    node: Result<Node, StoreError>,
}

/// One image of those, with its verdict.
struct Row<'a> {
    named: &'a Named,
    entry: Option<&'a Descriptor>,
    image: &'a Image,
    finding: Result<Finding, StoreError>,
}

pub fn run(args: &Verify, stores: &Stores, output: &Output) -> Result<Exit, StoreError> {
    let mut names = Vec::new();
    for reference in &args.image {
        let opened = stores.source(reference)?;
        names.push((reference.to_string(), opened.store, opened.pointer, depth(args, reference)));
    }
    for reference in &args.all_tags {
        let store = whole_store(stores, reference)?;
        for tag in store.tags()? {
            let name = format!("{}:{tag}", store.place());
            names.push((name, store.clone(), Pointer::Tag(tag), depth(args, reference)));
        }
    }
    let named = parallel::map(&names, parallel::REQUESTS, |(name, source, pointer, depth)| {
        let node = read_tree(&**source, pointer);
        Ok::<_, StoreError>(Named { name: name.clone(), source: source.clone(), depth: *depth, node })
    })?;
    let rows = judge_all(&named, output);
    match output.format {
        Format::Json => print_line(&in_ascii(&json!({"images": json(&named, &rows)}).to_string())),
        Format::Text => print_text(&named, &rows, args.explain),
    }
    let found = if rows.iter().any(|row| row.is_wrong(args.strict)) { Exit::Found } else { Exit::Done };
    let is_empty = rows.is_empty();
    let mut failed: Vec<StoreError> = rows.into_iter().filter_map(|row| row.finding.err()).collect();
    failed.extend(named.into_iter().filter_map(|named| named.node.err()));
    if failed.is_empty() && is_empty {
        return Err(
            StoreError::bad_input("verify", "there is no image to look into").hint("name an image that runs")
        );
    }
    outcome(found, failed, output)
}

/// The store of a reference that names no image in it.
fn whole_store(stores: &Stores, reference: &Reference) -> Result<Arc<dyn ImageSource>, StoreError> {
    let names_one = match reference {
        Reference::Registry(image) => image.tag.is_some() || image.digest.is_some(),
        Reference::OciLayout { tag, .. } | Reference::OciArchive { tag, .. } => tag.is_some(),
        Reference::DockerArchive { name, .. } => name.is_some(),
        _ => false,
    };
    if names_one {
        let doing = format!("verify all tags of \"{reference}\"");
        let error = StoreError::new(Exit::Usage, doing, "it names one image");
        return Err(error.hint("leave the tag away, or --all-tags"));
    }
    // A layout or archive of several images has none that it would open by itself.
    Ok(match reference {
        Reference::OciLayout { dir, .. } => Arc::new(OciLayout::open(dir)?),
        Reference::OciArchive { file, .. } => Arc::new(OciArchive::open(file, None)?),
        Reference::DockerArchive { file, .. } => Arc::new(DockerArchive::open(file, None)?),
        other => stores.source(other)?.store,
    })
}

fn depth(args: &Verify, reference: &Reference) -> Depth {
    let is_remote = matches!(reference, Reference::Registry(_));
    if args.quick || (is_remote && !args.full) { Depth::Quick } else { Depth::Full }
}

fn judge_all<'a>(named: &'a [Named], output: &Output) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for depth in [Depth::Quick, Depth::Full] {
        let mut wanted = Vec::new();
        let mut subjects = Vec::new();
        for named in named.iter().filter(|named| named.depth == depth) {
            let Ok(node) = &named.node else { continue };
            for (entry, image) in node.images() {
                let Some(config) = image.config.as_ref().filter(|_| image.is_runnable()) else { continue };
                wanted.push((named, entry, image));
                subjects.push(Subject { source: &*named.source, image, wanted: &config.parsed.platform });
            }
        }
        let say = |layer: &Descriptor| {
            output.detail(&format!("reading layer {} ({})", layer.digest, bytes(layer.size)))
        };
        let findings = verify_all(&subjects, depth, &say);
        rows.extend(wanted.into_iter().zip(findings).map(|((named, entry, image), finding)| Row {
            named,
            entry,
            image,
            finding,
        }));
    }
    rows
}

impl Row<'_> {
    fn label(&self) -> Platform {
        self.image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default()
    }

    fn said(&self) -> Option<&Platform> {
        self.entry.and_then(|entry| entry.platform.as_ref())
    }

    /// The index entry and the label say the same, or there is no entry.
    fn entry_agrees(&self) -> bool {
        self.said().is_none_or(|said| self.label().answers_entry(said))
    }

    fn is_wrong(&self, strict: bool) -> bool {
        let Ok(finding) = &self.finding else { return false };
        let kind = finding.verdict.kind;
        matches!(kind, Kind::Mislabelled | Kind::Mixed)
            || (strict && matches!(kind, Kind::ForeignPayload | Kind::Undetermined))
            || !self.entry_agrees()
    }

    /// The command that puts the label right, where there is one.
    fn fix(&self) -> Option<String> {
        let finding = self.finding.as_ref().ok()?;
        let name = quoted(&self.named.name);
        match (finding.verdict.kind, &finding.verdict.binaries) {
            (Kind::Mislabelled, Some(platform)) => {
                let member = self
                    .entry
                    .map_or(String::new(), |_| format!(" --member {}", self.image.document.digest()));
                Some(format!("config-patcher fix {name}{member} --platform {platform}"))
            }
            // The binaries agree with the label, so the index is what is wrong, and the other way round above.
            (Kind::Consistent | Kind::ForeignPayload, _) if !self.entry_agrees() => {
                let label = self.label();
                Some(format!(
                    "config-patcher fix {name} --member {} --platform {label}",
                    self.image.document.digest()
                ))
            }
            _ => None,
        }
    }
}

fn print_text(named: &[Named], rows: &[Row<'_>], explain: bool) {
    let several = named.len() > 1;
    let mut heading = vec!["LABEL", "INDEX ENTRY", "BINARIES", "VERDICT"];
    if several {
        heading.insert(0, "IMAGE");
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, several)).collect();
    if !rows.is_empty() {
        print_line(table(&heading, &cells).trim_end());
    }
    for row in rows {
        for line in remarks(row, explain) {
            print_line(&Escaped(&line).to_string());
        }
    }
}

fn cells(row: &Row<'_>, several: bool) -> Vec<String> {
    let label = row.label();
    let label = if label.architecture.is_empty() { "(none)".into() } else { label.to_string() };
    let said = row.said().map_or("-".into(), ToString::to_string);
    let (binaries, verdict) = match &row.finding {
        Err(_) => ("-".into(), "not read".into()),
        Ok(finding) => {
            let binaries = match (&finding.verdict.binaries, finding.verdict.kind) {
                (Some(platform), _) => platform.to_string(),
                (None, Kind::Mixed) => platforms(&finding.verdict.shown),
                (None, _) => "-".into(),
            };
            let mut verdict = finding.verdict.kind.text().to_string();
            if !row.entry_agrees() {
                verdict.push_str(", label differs from the index");
            }
            (binaries, verdict)
        }
    };
    let mut cells = vec![label, said, binaries, verdict];
    if several {
        cells.insert(0, row.named.name.clone());
    }
    cells
}

fn platforms(shown: &[Shown]) -> String {
    let names: BTreeSet<String> = shown.iter().map(|shown| shown.platform.to_string()).collect();
    names.into_iter().collect::<Vec<_>>().join(" + ")
}

/// What stands below the table about one image; nothing where all is well.
fn remarks(row: &Row<'_>, explain: bool) -> Vec<String> {
    let Ok(finding) = &row.finding else { return Vec::new() };
    let mut lines: Vec<String> = finding.verdict.reasons.iter().map(|reason| format!("  {reason}")).collect();
    lines.extend(finding.skipped.iter().map(|(layer, why)| format!("  layer {layer} was not read: {why}")));
    if explain {
        lines.extend(finding.chain.iter().map(explained));
        lines.extend(finding.gaps.iter().map(|gap| format!("  {gap}")));
        for group in &finding.programs {
            lines.push(format!("  {} for {}", programs(group.count), group.platform));
        }
        let read = bytes(finding.bytes_read);
        lines.push(format!("  read {} of {} layers, {read}", finding.layers_read, finding.layers));
    }
    if let Some(fix) = row.fix() {
        lines.push(format!("  to put it right: {fix}"));
    }
    if !lines.is_empty() {
        let member = row.said().map_or(String::new(), |said| format!(" {said}"));
        lines.insert(0, format!("{}{member}: {}", row.named.name, finding.verdict.kind.text()));
    }
    lines
}

fn explained(shown: &Shown) -> String {
    let details =
        if shown.details.is_empty() { String::new() } else { format!(" ({})", shown.details.join(", ")) };
    format!("  {:<13} {} in layer {}: {}{details}", shown.role, shown.path, shown.layer, shown.platform)
}

fn programs(count: u64) -> String {
    if count == 1 { "1 program".into() } else { format!("{count} programs") }
}

/// Each image an object: `image`, `manifest`, `entry`, `label`, `entryAgrees`, `verdict`, `binaries`, `reasons`,
/// `files` (`path`, `role`, `layer`, `platform`, `details`), `chain` (the same), `gaps`, `programs` (`platform`,
/// `count`, `examples`), `layers`, `layersRead`, `bytesRead`, `skipped` (`layer`, `why`), `fix`; or `image` and
/// `error` (`exit`, `message`).
fn json(named: &[Named], rows: &[Row<'_>]) -> Vec<Value> {
    let error = |error: &StoreError| json!({"exit": error.kind as u8, "message": format!("cannot {error}")});
    let unread = named.iter().filter_map(|named| {
        let failed = named.node.as_ref().err()?;
        Some(json!({"image": named.name, "error": error(failed)}))
    });
    let rows = rows.iter().map(|row| {
        let common = json!({
            "image": row.named.name, "manifest": row.image.document.digest(), "entry": row.said(),
            "label": row.label(), "entryAgrees": row.entry_agrees(),
        });
        let more = match &row.finding {
            Err(failed) => json!({"error": error(failed)}),
            Ok(finding) => json!({
                "verdict": finding.verdict.kind, "binaries": finding.verdict.binaries,
                "reasons": finding.verdict.reasons, "files": finding.verdict.shown, "chain": finding.chain,
                "gaps": finding.gaps, "programs": finding.programs, "layers": finding.layers,
                "layersRead": finding.layers_read, "bytesRead": finding.bytes_read, "fix": row.fix(),
                "skipped": finding.skipped.iter().map(|(layer, why)| json!({"layer": layer, "why": why})).collect::<Vec<_>>(),
            }),
        };
        merged(common, more)
    });
    unread.chain(rows).collect()
}

/// JSON without a character that could steer a terminal: all beyond ASCII stand in strings, and as `\uXXXX` there.
fn in_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => out.push(c),
            other => {
                let mut units = [0; 2];
                out.extend(other.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    out
}

fn merged(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

/// What could not be read decides the exit status: the check is not whole. Else what was found.
fn outcome(found: Exit, mut failed: Vec<StoreError>, output: &Output) -> Result<Exit, StoreError> {
    if failed.is_empty() {
        return Ok(found);
    }
    let first = failed.remove(0);
    let others: Vec<String> = failed.iter().map(|error| format!("cannot {error}")).collect();
    if output.format == Format::Text {
        return Err(first.problems(others));
    }
    // The object on stdout has them already; a second one would be no JSON.
    for line in others.into_iter().chain([format!("cannot {first}")]) {
        output.say(&format!("{}: {line}", super::TOOL));
    }
    Ok(first.kind)
}

/// A reference as a shell takes it for one word.
fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@=+,%".contains(&b));
    if is_plain && !name.is_empty() { name.into() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}
