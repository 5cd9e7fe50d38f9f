//! The result as text: a table, and below it the details of every image that is not consistent.

use super::VerifyArgs;
use super::image_report::ImageReport;
use super::needs;
use super::results::Results;
use super::row::Row;
use cli::print_line;
use cli::table;
use error::text::{Escaped, format_bytes};
use image_evidence::verdict::EvidenceFile;
use image_evidence::verify::Finding;

/// The width of a terminal.
const WIDTH: usize = 80;

pub fn print(results: &Results<'_>, shows_image: bool, args: &VerifyArgs) {
    let rows: Vec<&Row<'_>> = results.shown_rows().collect();
    if !rows.is_empty() {
        print_line(overview(&rows, shows_image).trim_end());
    }
    let remarks = rows.into_iter().flat_map(|row| remarks(row, args.explain));
    let answers = results.reports.iter().flat_map(|report| answers(report, args));
    let absent = results.requested.iter().filter(|requested| requested.is_absent());
    let absent = absent.flat_map(|requested| {
        let reason = requested.node.as_ref().err().map(|error| format!("  cannot {error}"));
        [Some(format!("{}: incomplete", requested.name)), reason].into_iter().flatten()
    });
    for line in remarks.chain(answers).chain(absent) {
        print_line(&Escaped(&line).to_string());
    }
}

/// The lines about a whole image or index.
fn answers(report: &ImageReport<'_>, args: &VerifyArgs) -> Vec<String> {
    let name = &report.requested.name;
    let mut lines = Vec::new();
    if args.no_layers {
        lines.push(format!("{name}: {}", report.present_text()));
    }
    if !report.compatibility.is_empty() {
        lines.push(format!("{name}: compatibility"));
    }
    lines.extend(report.compatibility.iter().map(|(finding, is_wrong)| {
        let note = if *is_wrong { "" } else { "note: " };
        format!("  {note}{finding}")
    }));
    lines.extend(report.mend.iter().map(|command| format!("  to fix it, run: {command}")));
    if report.lacks_platforms() {
        lines.push(format!("{name}: {}", report.missing_text()));
    }
    lines
}

/// The table. It has the column NEEDS if a level is known, unless that makes it wider than a terminal.
fn overview(rows: &[&Row<'_>], shows_image: bool) -> String {
    let has_marks = rows.iter().any(|row| row.finding.as_ref().is_ok_and(|it| it.needs.level().is_some()));
    let plain = table_of(rows, shows_image, false);
    if !has_marks {
        return plain;
    }
    let full = table_of(rows, shows_image, true);
    let is_wide = |table: &str| table.lines().any(|line| line.chars().count() > WIDTH);
    if is_wide(&full) && !is_wide(&plain) { plain } else { full }
}

fn table_of(rows: &[&Row<'_>], shows_image: bool, shows_needs: bool) -> String {
    let mut heading = vec!["DECLARED", "INDEX", "BINARIES", "VERDICT"];
    if shows_image {
        heading.insert(0, "IMAGE");
    }
    if shows_needs {
        heading.insert(heading.len() - 1, "NEEDS");
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, shows_image, shows_needs)).collect();
    table(&heading, &cells)
}

fn cells(row: &Row<'_>, shows_image: bool, shows_needs: bool) -> Vec<String> {
    let said = row.index_platform().map_or("-".into(), ToString::to_string);
    let mut cells = vec![row.declared_text(), said, row.binaries_text()];
    if shows_image {
        cells.insert(0, row.requested.name.clone());
    }
    if shows_needs {
        cells.push(row.level_text().into());
    }
    cells.push(row.verdict_text());
    cells
}

/// The lines below the table about one image; none if it is consistent.
fn remarks(row: &Row<'_>, explain: bool) -> Vec<String> {
    let mut lines: Vec<String> = row.reasons().iter().map(|reason| format!("  {reason}")).collect();
    lines.extend(row.above_cpu_limit().iter().map(|line| format!("  {line}")));
    if let Ok(finding) = &row.finding {
        lines.extend(reading(finding, explain));
    }
    lines.extend(row.advice_text().map(|advice| format!("  {advice}")));
    if !lines.is_empty() {
        let member = row.index_platform().map_or(String::new(), |platform| format!(" {platform}"));
        let verdict = row.finding.as_ref().map_or("incomplete", |finding| finding.verdict.kind.text());
        lines.insert(0, format!("{}{member}: {verdict}", row.requested.name));
    }
    lines
}

/// The lines about what was read of an image.
fn reading(finding: &Finding, explain: bool) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(finding.skipped.iter().map(|(layer, why)| format!("  layer {layer} was not read: {why}")));
    lines.extend(by_table(finding).map(|line| format!("  {line}")));
    lines.extend(needs::notes(&finding.needs).map(|note| format!("  {note}")));
    if explain {
        lines.extend(needs::proof(&finding.needs).map(|line| format!("  {line}")));
        lines.extend(finding.chain.iter().map(explained));
        lines.extend(finding.gaps.iter().map(|gap| format!("  {gap}")));
        for group in &finding.programs {
            lines.push(format!("  {} for {}", programs(group.count), group.platform));
        }
        let read = format_bytes(finding.bytes_read);
        let kept = if finding.layers_cached > 0 {
            format!(", {} from the cache", finding.layers_cached)
        } else {
            String::new()
        };
        lines.push(format!("  read {} of {} layers{kept}, {read}", finding.layers_read, finding.layers));
    }
    lines
}

/// The layers of which only the table of contents was read.
pub fn by_table(finding: &Finding) -> Option<String> {
    let layers = match finding.layers_by_table {
        0 => return None,
        1 => "1 layer was verified by its table of contents".into(),
        count => format!("{count} layers were verified by their tables of contents"),
    };
    Some(format!("{layers}, which may differ from the layer; to read everything: --full"))
}

fn explained(shown: &EvidenceFile) -> String {
    let details =
        if shown.details.is_empty() { String::new() } else { format!(" ({})", shown.details.join(", ")) };
    format!("  {:<13} {} in layer {}: {}{details}", shown.role, shown.path, shown.layer, shown.platform)
}

pub fn programs(count: u64) -> String {
    if count == 1 { "1 program".into() } else { format!("{count} programs") }
}
