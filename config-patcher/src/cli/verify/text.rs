//! The result as text: a table, and below it the details of every image that is not consistent.

use super::row::Row;
use cli::print_line;
use cli::table;
use error::text::{Escaped, format_bytes};
use image_evidence::verdict::EvidenceFile;
use image_evidence::verify::Finding;

pub fn print(rows: &[Row<'_>], shows_image: bool, explain: bool) {
    let mut heading = vec!["DECLARED", "INDEX", "BINARIES", "VERDICT"];
    if shows_image {
        heading.insert(0, "IMAGE");
    }
    let cells: Vec<Vec<String>> = rows.iter().map(|row| cells(row, shows_image)).collect();
    if !rows.is_empty() {
        print_line(table(&heading, &cells).trim_end());
    }
    for row in rows {
        for line in remarks(row, explain) {
            print_line(&Escaped(&line).to_string());
        }
    }
}

fn cells(row: &Row<'_>, shows_image: bool) -> Vec<String> {
    let said = row.index_platform().map_or("-".into(), ToString::to_string);
    let mut cells = vec![row.declared_text(), said, row.binaries_text(), row.verdict_text()];
    if shows_image {
        cells.insert(0, row.requested.name.clone());
    }
    cells
}

/// The lines below the table about one image; none if it is consistent.
fn remarks(row: &Row<'_>, explain: bool) -> Vec<String> {
    let mut lines: Vec<String> = row.reasons().iter().map(|reason| format!("  {reason}")).collect();
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
    if explain {
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
