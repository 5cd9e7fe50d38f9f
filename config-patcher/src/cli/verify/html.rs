//! The HTML report: a table of images and platforms, and the evidence for each verdict.
//!
//! The page is complete without its script, which only collapses the evidence and filters the table. Foreign text is
//! escaped here; the script never turns text into markup. The Content-Security-Policy allows no loading, and no script
//! but this one.

mod evidence;

use super::row::{NotJudged, Results, Row};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use error::text::Escaped;
use image_evidence::verdict::VerdictKind;
use image_model::digest::Digest;
use std::collections::BTreeMap;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Presentation of a verdict: key, symbol and text.
struct Mark {
    key: &'static str,
    sign: &'static str,
    words: &'static str,
}

/// In the order of the filters: what must be fixed comes first.
const MARKS: [Mark; 10] = [
    Mark { key: "mislabeled", sign: "✕", words: "mislabeled" },
    Mark { key: "wrong-build", sign: "⇄", words: "wrong build" },
    Mark { key: "mixed", sign: "⚠", words: "mixed" },
    Mark { key: "would-not-start", sign: "⊘", words: "would not start" },
    Mark { key: "index-differs", sign: "≠", words: "index platform differs" },
    Mark { key: "incomplete", sign: "∅", words: "incomplete" },
    Mark { key: "not-read", sign: "!", words: "not read" },
    Mark { key: "foreign-payload", sign: "◆", words: "foreign payload" },
    Mark { key: "undetermined", sign: "?", words: "undetermined" },
    Mark { key: "consistent", sign: "✓", words: "consistent" },
];

pub fn page(results: &Results<'_>) -> String {
    let columns = columns(results.rows);
    let mut out = String::new();
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{} of {} images need attention · config-patcher verify</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        results.rows.iter().filter(|row| row.is_wrong(results.strict) || row.finding.is_err()).count(),
        results.rows.len()
    );
    head(&mut out, results, &columns);
    matrix(&mut out, results, &columns);
    out.push_str("<section id=\"evidence\" aria-label=\"Evidence\">\n<h2>Evidence</h2>\n");
    for (number, row) in results.rows.iter().enumerate() {
        evidence::section(&mut out, number, row, mark(row));
    }
    let _ = write!(out, "</section>\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n");
    out
}

fn head(out: &mut String, results: &Results<'_>, columns: &[String]) {
    out.push_str("<header>\n<h1>Platform verification</h1>\n<p class=\"lead\">The declared platform and the index platform of every image, compared with the binaries that a container would execute.</p>\n");
    out.push_str("<form id=\"filters\" role=\"search\" aria-label=\"Filter the table\">\n<fieldset class=\"tiles\"><legend>Verdicts</legend>\n");
    for mark in &MARKS {
        let count = results.rows.iter().filter(|row| self::mark(row).key == mark.key).count();
        if count > 0 {
            let _ = writeln!(
                out,
                "<label class=\"tile {0}\"><input type=\"checkbox\" name=\"verdict\" value=\"{0}\" checked><span class=\"count\">{count}</span><span class=\"words\"><span aria-hidden=\"true\">{1}</span> {2}</span></label>",
                mark.key, mark.sign, mark.words
            );
        }
    }
    out.push_str("</fieldset>\n<div class=\"fields\"><label>Name <input type=\"search\" name=\"q\" placeholder=\"any\" autocomplete=\"off\"></label>\n<label>Platform <select name=\"platform\"><option value=\"\">all</option>");
    for column in columns {
        let _ = write!(out, "<option>{}</option>", shown(column));
    }
    out.push_str("</select></label>\n<output id=\"status\" role=\"status\"></output></div>\n</form>\n</header>\n<main>\n");
}

fn matrix(out: &mut String, results: &Results<'_>, columns: &[String]) {
    out.push_str("<div class=\"scroll\" role=\"region\" aria-label=\"Verdicts\" tabindex=\"0\">\n<table id=\"matrix\">\n<caption>Verdicts by name and platform. Columns are index platforms, or declared platforms of images outside an index.</caption>\n<thead><tr><th scope=\"col\">Name</th>");
    for column in columns {
        let _ = write!(out, "<th scope=\"col\" data-platform=\"{0}\">{0}</th>", shown(column));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let mut by_name: BTreeMap<*const super::row::RequestedImage, Vec<(usize, &Row<'_>)>> = BTreeMap::new();
    for (number, row) in results.rows.iter().enumerate() {
        by_name.entry(row.requested).or_default().push((number, row));
    }
    for requested in results.requested {
        let cut = requested.name.rfind('/').map_or(0, |at| at + 1);
        let cut = requested.name[cut..].find(':').map_or(cut, |at| cut + at + 1);
        let (place, tag) = requested.name.split_at(cut);
        let _ = write!(
            out,
            "<tr data-name=\"{}\"><th scope=\"row\"><span class=\"place\">{}</span>{}</th>",
            shown(&requested.name),
            shown(place),
            shown(tag)
        );
        if let Err(error) = &requested.node {
            let _ = write!(
                out,
                "<td class=\"unread\" colspan=\"{}\">cannot {}</td>",
                columns.len().max(1),
                shown(&error.to_string())
            );
        } else {
            let own = by_name.get(&std::ptr::from_ref(requested)).map_or(&[][..], Vec::as_slice);
            for column in columns {
                let _ = write!(out, "<td data-platform=\"{}\">", shown(column));
                for (number, row) in own.iter().filter(|(_, row)| column_of(row) == *column) {
                    cell(out, *number, row);
                }
                out.push_str("</td>");
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</tbody>\n</table>\n</div>\n<p id=\"nothing\" hidden>No image matches these filters.</p>\n",
    );
}

fn cell(out: &mut String, number: usize, row: &Row<'_>) {
    let mark = mark(row);
    // Platforms that differ from the column heading.
    let mut more = String::new();
    if matches!(mark.key, "mislabeled" | "mixed" | "index-differs") {
        for (what, said) in [("declared", row.declared_text()), ("binaries", row.binaries_text())] {
            if said != column_of(row) {
                let _ = write!(more, "<span class=\"more\">{what} {}</span>", shown(&said));
            }
        }
    }
    let _ = write!(
        out,
        "<a class=\"cell {0}\" data-verdict=\"{0}\" href=\"#e{number}\"><span aria-hidden=\"true\">{1}</span> {2}{more}</a>",
        mark.key, mark.sign, mark.words
    );
}

/// The column of an image: its index platform, or its declared platform outside an index.
fn column_of(row: &Row<'_>) -> String {
    row.platform_text()
}

fn columns(rows: &[Row<'_>]) -> Vec<String> {
    let mut columns: Vec<String> = rows.iter().map(column_of).collect();
    columns.sort();
    columns.dedup();
    columns
}

fn mark(row: &Row<'_>) -> &'static Mark {
    let key = match &row.finding {
        Err(NotJudged::Incomplete(_)) => "incomplete",
        Err(NotJudged::Failed(_)) => "not-read",
        Ok(finding) => match finding.verdict.kind {
            VerdictKind::Mislabeled => "mislabeled",
            VerdictKind::WrongBuild => "wrong-build",
            VerdictKind::Mixed => "mixed",
            VerdictKind::WouldNotStart => "would-not-start",
            _ if !row.index_agrees() => "index-differs",
            VerdictKind::Consistent => "consistent",
            VerdictKind::ForeignPayload => "foreign-payload",
            VerdictKind::Undetermined => "undetermined",
        },
    };
    MARKS.iter().find(|mark| mark.key == key).unwrap_or(&MARKS[0])
}

fn hash(text: &str) -> String {
    let hex = Digest::of(text.as_bytes()).hex().to_string();
    let nibble = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    let bytes: Vec<u8> =
        hex.as_bytes().chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect();
    STANDARD.encode(bytes)
}

/// Foreign text for the page, with control characters and HTML markup escaped.
fn shown(text: &str) -> String {
    escaped(&Escaped(text).to_string())
}

/// Escapes the five characters that are markup in HTML and XML.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
