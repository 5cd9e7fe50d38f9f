//! The section of the HTML report for one image: platforms, verdict, reasons and evidence.

use super::{Mark, shown};
use crate::cli::verify::row::{NotJudged, Row};
use crate::cli::verify::text::{by_table, programs};
use error::text::format_bytes;
use image_evidence::verdict::EvidenceFile;
use image_evidence::verify::Finding;
use std::fmt::Write;

pub fn section(out: &mut String, number: usize, row: &Row<'_>, mark: &Mark) {
    let column = super::column_of(row);
    let _ = writeln!(
        out,
        "<section class=\"evidence {0}\" id=\"e{number}\" aria-labelledby=\"t{number}\">\n<h3 id=\"t{number}\"><span class=\"sign\" aria-hidden=\"true\">{1}</span> {2} <span class=\"platform\">{3}</span></h3>",
        mark.key,
        mark.sign,
        shown(&row.requested.name),
        shown(&column)
    );
    let said = row.index_platform().map_or("no index".into(), ToString::to_string);
    let _ = writeln!(
        out,
        "<dl class=\"three\"><div><dt>Declared platform</dt><dd>{}</dd></div><div><dt>Index platform</dt><dd>{}</dd></div><div><dt>Binary platform</dt><dd>{}</dd></div><div><dt>Verdict</dt><dd class=\"verdict\">{}</dd></div></dl>",
        shown(&row.declared_text()),
        shown(&said),
        shown(&row.binaries_text()),
        shown(&row.verdict_text())
    );
    match &row.finding {
        Err(NotJudged::Incomplete(parts)) => list(out, "reasons", parts.iter()),
        Err(NotJudged::Failed(error)) => {
            let _ = writeln!(out, "<p>cannot {}</p>", shown(&error.to_string()));
        }
        Ok(finding) => found(out, finding),
    }
    if let Some(fix) = row.fix() {
        let _ = writeln!(out, "<p class=\"fix\">To fix it, run: <code>{}</code></p>", shown(fix));
    }
    if let Some(text) = row.rebuild() {
        let _ = writeln!(out, "<p class=\"fix\">{}</p>", shown(&text));
    }
    let _ = writeln!(out, "<p class=\"digest\">manifest <code>{}</code></p>\n</section>", row.node.digest());
}

fn found(out: &mut String, finding: &Finding) {
    if !finding.verdict.reasons.is_empty() {
        list(out, "reasons", finding.verdict.reasons.iter());
    }
    if !finding.chain.is_empty() {
        out.push_str("<table><caption>Executed chain: files that a container start executes or loads</caption><thead><tr><th scope=\"col\">Role</th><th scope=\"col\">File</th><th scope=\"col\">Layer</th><th scope=\"col\">Platform</th><th scope=\"col\">Evidence</th></tr></thead><tbody>\n");
        finding.chain.iter().for_each(|file| line(out, file));
        out.push_str("</tbody></table>\n");
    }
    let skipped = finding.skipped.iter().map(|(layer, why)| format!("layer {layer} was not read: {why}"));
    let notes: Vec<String> = finding.gaps.iter().cloned().chain(skipped).chain(by_table(finding)).collect();
    if !notes.is_empty() {
        list(out, "gaps", notes.iter());
    }
    let groups: Vec<String> = finding
        .programs
        .iter()
        .map(|group| format!("{} for {}", programs(group.count), group.platform))
        .collect();
    let groups = if groups.is_empty() { "no programs".to_string() } else { groups.join(", ") };
    let _ = writeln!(
        out,
        "<p class=\"read\">{} · {} of {} layers read, {}</p>",
        shown(&groups),
        finding.layers_read,
        finding.layers,
        format_bytes(finding.bytes_read)
    );
}

fn list<'a>(out: &mut String, class: &str, lines: impl Iterator<Item = &'a String>) {
    let _ = write!(out, "<ul class=\"{class}\">");
    for line in lines {
        let _ = write!(out, "<li>{}</li>", shown(line));
    }
    out.push_str("</ul>\n");
}

fn line(out: &mut String, file: &EvidenceFile) {
    let _ = writeln!(
        out,
        "<tr><td>{}</td><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
        file.role,
        shown(&file.path),
        file.layer,
        shown(&file.platform.to_string()),
        shown(&file.details.join(", "))
    );
}
