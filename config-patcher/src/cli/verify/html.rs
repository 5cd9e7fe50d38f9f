//! The HTML report: a table of images and platforms with problems first, and the evidence for each verdict.
//!
//! The page is complete without its script, which only collapses the evidence, filters the table and copies commands. The
//! template escapes markup; [`shown`] escapes control characters. The Content-Security-Policy allows no loading, and no
//! script but this one.

use super::image_report::ImageReport;
use super::needs;
use super::results::Results;
use super::row::{NotJudged, RequestedImage, Row};
use super::text::{by_table, programs};
use crate::TOOL;
use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cli::suggest;
use error::text::{Escaped, format_bytes};
use image_evidence::verdict::{EvidenceFile, VerdictKind};
use image_evidence::verify::Finding;
use image_model::digest::Digest;
use image_model::reference::Reference;
use std::collections::BTreeMap;

const STYLE: &str = include_str!("../../../templates/page.css");
const SCRIPT: &str = include_str!("../../../templates/page.js");

/// Presentation of a verdict: key, symbol and text.
#[derive(PartialEq)]
struct Mark {
    key: &'static str,
    sign: &'static str,
    words: &'static str,
}

/// The worst first, in the order of the table and of the filters.
const MARKS: [Mark; 11] = [
    Mark { key: "wrong-build", sign: "⇄", words: "wrong build" },
    Mark { key: "mislabeled", sign: "✕", words: "mislabeled" },
    Mark { key: "would-not-start", sign: "⊘", words: "would not start" },
    Mark { key: "mixed", sign: "⚠", words: "mixed" },
    Mark { key: "index-differs", sign: "≠", words: "index platform differs" },
    Mark { key: "needs-more", sign: "↑", words: "needs more" },
    Mark { key: "incomplete", sign: "∅", words: "incomplete" },
    Mark { key: "not-read", sign: "!", words: "not read" },
    Mark { key: "foreign-payload", sign: "◆", words: "foreign payload" },
    Mark { key: "undetermined", sign: "?", words: "undetermined" },
    Mark { key: "consistent", sign: "✓", words: "consistent" },
];

fn mark(row: &Row<'_>) -> &'static Mark {
    by_key(match &row.finding {
        Err(NotJudged::Incomplete(_)) => "incomplete",
        Err(NotJudged::Failed(_)) => "not-read",
        Ok(finding) => match finding.verdict.kind {
            VerdictKind::Mislabeled => "mislabeled",
            VerdictKind::WrongBuild => "wrong-build",
            VerdictKind::WouldNotStart => "would-not-start",
            VerdictKind::Mixed => "mixed",
            _ if !row.index_agrees() => "index-differs",
            _ if row.needs_more() => "needs-more",
            VerdictKind::Consistent => "consistent",
            VerdictKind::ForeignPayload => "foreign-payload",
            VerdictKind::Undetermined => "undetermined",
        },
    })
}

fn by_key(key: &str) -> &'static Mark {
    MARKS.iter().find(|mark| mark.key == key).unwrap_or(&MARKS[0])
}

/// The place of a mark in [`MARKS`]: 0 for the worst.
fn severity(mark: &Mark) -> usize {
    MARKS.iter().position(|other| other == mark).unwrap_or(MARKS.len())
}

/// The page as the template has it. All texts have passed [`shown`].
#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    subject: String,
    attention: String,
    needs_attention: bool,
    date: String,
    tool: String,
    command: String,
    policy: String,
    style: &'static str,
    script: &'static str,
    tiles: Vec<(&'static Mark, usize)>,
    columns: Vec<String>,
    repositories: Vec<Repository>,
    sections: Vec<(usize, Section)>,
    answers: Vec<Answer>,
}

/// What the manifests show about one requested image or index.
struct Answer {
    name: String,
    lines: Vec<String>,
    command: Option<String>,
}

/// The images of one repository, layout or archive.
struct Repository {
    name: String,
    attention: String,
    images: Vec<ImageRow>,
}

/// The row of one requested image or index.
struct ImageRow {
    name: String,
    /// The tag or digest.
    short: String,
    worst: &'static Mark,
    error: Option<String>,
    /// For each column, the verdicts of that platform.
    cells: Vec<Vec<Cell>>,
}

/// One verdict. `number` is that of its section.
struct Cell {
    number: usize,
    mark: &'static Mark,
    /// Platforms that differ from the heading of the column.
    more: Vec<(&'static str, String)>,
}

/// The evidence for one image.
struct Section {
    mark: &'static Mark,
    name: String,
    platform: String,
    facts: Vec<(&'static str, String)>,
    verdict: String,
    reasons: Vec<String>,
    /// Words, and the command that they introduce.
    advice: Vec<(String, Option<String>)>,
    chain: Vec<ChainFile>,
    notes: Vec<String>,
    read: Option<String>,
    digest: String,
}

/// One file of the executed chain.
struct ChainFile {
    role: &'static str,
    path: String,
    layer: usize,
    platform: String,
    details: String,
}

/// The page. `time` is shown as it is, and `command` is the command line without the program.
pub fn page(results: &Results<'_>, time: &str, command: &[String]) -> String {
    let page = Page::new(results, time, command);
    // Writing to a string fails only if a Display implementation fails, and these are strings and numbers.
    page.render().unwrap_or_else(|error| format!("<!doctype html><title>{error}</title>"))
}

impl Page {
    fn new(results: &Results<'_>, time: &str, command: &[String]) -> Self {
        let rows: Vec<&Row<'_>> = results.shown_rows().collect();
        let needing = results.summary().need_attention;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let columns = columns(&rows);
        let repositories = repositories(results, &rows, &columns);
        let mut sections: Vec<(usize, Section)> =
            rows.iter().enumerate().map(|(number, row)| (number, Section::new(row))).collect();
        sections.sort_by_key(|(_, section)| severity(section.mark));
        let count = |mark: &Mark| rows.iter().filter(|row| self::mark(row) == mark).count();
        Self {
            subject: subject(&repositories),
            attention: attention(needing, results.summary().images),
            needs_attention: needing > 0,
            date: time.to_string(),
            tool: format!("{TOOL} {}", env!("CARGO_PKG_VERSION")),
            command: shown(&suggest(TOOL, &words)),
            policy: format!(
                "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
                hash(STYLE),
                hash(SCRIPT)
            ),
            style: STYLE,
            script: SCRIPT,
            tiles: MARKS.iter().map(|mark| (mark, count(mark))).filter(|(_, count)| *count > 0).collect(),
            columns,
            repositories,
            sections,
            answers: results.reports.iter().filter_map(Answer::new).collect(),
        }
    }
}

fn attention(needing: usize, total: usize) -> String {
    let images = if total == 1 { "1 image" } else { &format!("{total} images") };
    let need = if needing == 1 { "needs" } else { "need" };
    match needing {
        0 if total == 1 => "the image needs no attention".into(),
        0 => format!("none of {images} needs attention"),
        _ => format!("{needing} of {images} {need} attention"),
    }
}

/// What was verified: one or two repositories, or their number.
fn subject(repositories: &[Repository]) -> String {
    match repositories {
        [] => "no image".into(),
        [one] => match one.images.as_slice() {
            [image] => image.name.clone(),
            _ => one.name.clone(),
        },
        [first, second] => format!("{} and {}", first.name, second.name),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
    }
}

fn repositories(results: &Results<'_>, shown_rows: &[&Row<'_>], columns: &[String]) -> Vec<Repository> {
    let mut rows: BTreeMap<*const RequestedImage, Vec<(usize, &Row<'_>)>> = BTreeMap::new();
    for (number, row) in shown_rows.iter().enumerate() {
        rows.entry(row.requested).or_default().push((number, row));
    }
    // Of all rows, also those that are not shown.
    let mut counts: BTreeMap<*const RequestedImage, (usize, usize)> = BTreeMap::new();
    for row in results.rows {
        let (needing, total) = counts.entry(row.requested).or_default();
        *needing += usize::from(row.needs_attention(results.strict));
        *total += 1;
    }
    // By name; the images keep the requested order among equals.
    let mut by_name: BTreeMap<String, (Vec<ImageRow>, usize, usize)> = BTreeMap::new();
    for requested in results.requested {
        let own = rows.get(&std::ptr::from_ref(requested)).map_or(&[][..], Vec::as_slice);
        let (own_needing, own_total) =
            counts.get(&std::ptr::from_ref(requested)).copied().unwrap_or_default();
        let (repository, short) = split_name(&requested.name);
        let (images, needing, total) = by_name.entry(repository.to_string()).or_default();
        let failed = usize::from(requested.node.is_err());
        *needing += own_needing + failed;
        *total += own_total + failed;
        if !results.only_problems || !own.is_empty() || failed > 0 {
            images.push(ImageRow::new(requested, short, own, columns));
        }
    }
    let mut repositories: Vec<Repository> = by_name
        .into_iter()
        .filter(|(_, (images, ..))| !images.is_empty())
        .map(|(name, (mut images, needing, total))| {
            images.sort_by_key(|image| severity(image.worst));
            Repository { name: shown(&name), attention: attention(needing, total), images }
        })
        .collect();
    let worst = |repository: &Repository| {
        repository.images.first().map_or(MARKS.len(), |image| severity(image.worst))
    };
    repositories.sort_by_key(worst);
    repositories
}

/// The repository, layout or archive of a name, and the tag or digest in it; the whole name twice if it has none.
fn split_name(name: &str) -> (&str, &str) {
    let parsed: Option<Reference> = name.parse().ok();
    let Some(parsed) = parsed else { return (name, name) };
    let digest = parsed.digest().map_or(0, |digest| digest.as_str().len() + 1);
    let tag = parsed.tag().map_or(0, |tag| tag.len() + 1);
    let cut = name.len().saturating_sub(digest + tag);
    match (name.get(..cut), name.get(cut + 1..)) {
        (Some(repository), Some(short)) if !repository.is_empty() && !short.is_empty() => (repository, short),
        _ => (name, name),
    }
}

impl Answer {
    fn new(report: &ImageReport<'_>) -> Option<Self> {
        let lines = report.compatibility.iter().map(|(finding, is_wrong)| {
            let note = if *is_wrong { "" } else { "note: " };
            shown(&format!("{note}{finding}"))
        });
        let missing = report.lacks_platforms().then(|| shown(&report.missing_text()));
        let lines: Vec<String> = lines.chain(missing).collect();
        let command = report.mend.as_deref().map(shown);
        (!lines.is_empty()).then(|| Self { name: shown(&report.requested.name), lines, command })
    }
}

impl ImageRow {
    fn new(requested: &RequestedImage, short: &str, rows: &[(usize, &Row<'_>)], columns: &[String]) -> Self {
        let of_column = |column: &String| -> Vec<Cell> {
            let own = rows.iter().filter(|(_, row)| column_of(row) == *column);
            own.map(|(number, row)| Cell::new(*number, row)).collect()
        };
        let marks = rows.iter().map(|(_, row)| mark(row));
        let error = requested.node.as_ref().err();
        let worst = match error {
            Some(_) => by_key("not-read"),
            None => marks.min_by_key(|mark| severity(mark)).unwrap_or(by_key("consistent")),
        };
        Self {
            name: shown(&requested.name),
            short: shown(short),
            worst,
            error: error.map(|error| shown(&format!("cannot {error}"))),
            cells: columns.iter().map(of_column).collect(),
        }
    }
}

impl Cell {
    fn new(number: usize, row: &Row<'_>) -> Self {
        let mark = mark(row);
        let is_about_platforms = matches!(mark.key, "mislabeled" | "wrong-build" | "mixed" | "index-differs");
        let platforms = [("declared", row.declared_text()), ("binaries", row.binaries_text())];
        let differing =
            platforms.into_iter().filter(|(_, text)| is_about_platforms && *text != column_of(row));
        Self { number, mark, more: differing.map(|(what, text)| (what, shown(&text))).collect() }
    }
}

/// The column of an image: its index platform, or its declared platform outside an index, in the form in which platforms
/// are compared: `linux/arm64/v8` is in the column of `linux/arm64`.
fn column_of(row: &Row<'_>) -> String {
    let platform = row.index_platform().or_else(|| row.config_platform());
    match platform.filter(|platform| !platform.architecture.is_empty()) {
        Some(platform) => shown(&platform.normalized().to_string()),
        None => row.platform_text(),
    }
}

fn columns(rows: &[&Row<'_>]) -> Vec<String> {
    let mut columns: Vec<String> = rows.iter().map(|row| column_of(row)).collect();
    columns.sort();
    columns.dedup();
    columns
}

impl Section {
    fn new(row: &Row<'_>) -> Self {
        let in_index = row.index_platform().map_or("no index".into(), ToString::to_string);
        let facts = [
            ("Declared platform", row.declared_text()),
            ("Index platform", in_index),
            ("Binary platform", row.binaries_text()),
            ("CPU level", row.level_text().into()),
        ];
        let reasons = match &row.finding {
            Err(NotJudged::Failed(error)) => vec![shown(&format!("cannot {error}"))],
            Ok(_) | Err(NotJudged::Incomplete(_)) => {
                row.reasons().iter().chain(&row.above_cpu_limit()).map(|text| shown(text)).collect()
            }
        };
        let advice = row.advice_steps().into_iter();
        let finding = row.finding.as_ref().ok();
        Self {
            mark: mark(row),
            name: shown(&row.requested.name),
            platform: shown(&row.platform_text()),
            facts: facts.into_iter().map(|(term, text)| (term, shown(&text))).collect(),
            verdict: shown(&row.verdict_text()),
            reasons,
            advice: advice.map(|step| (shown(&step.words), step.command.map(|line| shown(&line)))).collect(),
            chain: finding.map_or(Vec::new(), |finding| finding.chain.iter().map(ChainFile::new).collect()),
            notes: finding.map_or(Vec::new(), notes),
            read: finding.map(read),
            digest: row.node.digest().to_string(),
        }
    }
}

impl ChainFile {
    fn new(file: &EvidenceFile) -> Self {
        Self {
            role: file.role,
            path: shown(&file.path),
            layer: file.layer,
            platform: shown(&file.platform.to_string()),
            details: shown(&file.details.join(", ")),
        }
    }
}

fn notes(finding: &Finding) -> Vec<String> {
    let skipped = finding.skipped.iter().map(|(layer, why)| format!("layer {layer} was not read: {why}"));
    let notes = finding.gaps.iter().cloned().chain(skipped).chain(by_table(finding));
    let notes = notes.chain(needs::notes(&finding.needs)).chain(needs::proof(&finding.needs));
    notes.map(|note| shown(&note)).collect()
}

/// What the image contains, and how much of it was read.
fn read(finding: &Finding) -> String {
    let groups = finding.programs.iter();
    let groups: Vec<String> =
        groups.map(|group| format!("{} for {}", programs(group.count), group.platform)).collect();
    let groups = if groups.is_empty() { "no programs".to_string() } else { groups.join(", ") };
    let (read, layers, bytes) = (finding.layers_read, finding.layers, format_bytes(finding.bytes_read));
    shown(&format!("{groups} · {read} of {layers} layers read, {bytes}"))
}

fn hash(text: &str) -> String {
    let hex = Digest::of(text.as_bytes()).hex().to_string();
    let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    let bytes: Vec<u8> =
        hex.as_bytes().chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect();
    STANDARD.encode(bytes)
}

/// Foreign text with control characters escaped.
fn shown(text: &str) -> String {
    Escaped(text).to_string()
}
