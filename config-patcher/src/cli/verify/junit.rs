//! The JUnit report: one suite per requested image or index, one test case per image.

use super::image_report::ImageReport;
use super::results::Results;
use super::row::{NotJudged, Row};
use error::text::Escaped;
use image_evidence::verdict::VerdictKind;
use std::fmt::Write;

pub fn text(results: &Results<'_>) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"config-patcher verify\">\n",
    );
    for requested in results.requested {
        let rows: Vec<&Row<'_>> =
            results.rows.iter().filter(|row| std::ptr::eq(row.requested, requested)).collect();
        let mut cases = String::new();
        let (mut failures, mut errors, mut skipped) = (0, 0, 0);
        let name = xml(&requested.name);
        if let Err(error) = &requested.node {
            errors += 1;
            let _ = writeln!(
                cases,
                "    <testcase classname=\"{name}\" name=\"image\">\n      <error message=\"{}\"/>\n    </testcase>",
                xml(&format!("cannot {error}"))
            );
        }
        for row in &rows {
            let case = row.platform_text();
            let _ = write!(cases, "    <testcase classname=\"{name}\" name=\"{}\"", xml(&case));
            let inside = inside(row, results.strict);
            match &inside {
                Some(("failure", _)) => failures += 1,
                Some(("error", _)) => errors += 1,
                Some(_) => skipped += 1,
                None => {}
            }
            let _ = match inside {
                Some((_, element)) => writeln!(cases, ">\n      {element}\n    </testcase>"),
                None => writeln!(cases, "/>"),
            };
        }
        let report_cases = results.report(requested).map_or(Vec::new(), report_cases);
        for (case, failure) in &report_cases {
            failures += usize::from(failure.is_some());
            let _ = write!(cases, "    <testcase classname=\"{name}\" name=\"{case}\"");
            let _ = match failure {
                Some(text) => {
                    writeln!(cases, ">\n      <failure type=\"{case}\" message=\"{text}\"/>\n    </testcase>")
                }
                None => writeln!(cases, "/>"),
            };
        }
        let tests = rows.len() + usize::from(requested.node.is_err()) + report_cases.len();
        let _ = writeln!(
            out,
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">\n{cases}  </testsuite>"
        );
    }
    out.push_str("</testsuites>\n");
    out
}

/// The test cases about a whole image or index, with the text of those that fail.
fn report_cases(report: &ImageReport<'_>) -> Vec<(&'static str, Option<String>)> {
    let mut cases = Vec::new();
    if !report.compatibility.is_empty() {
        let wrong = report.compatibility.iter().filter(|(_, is_wrong)| *is_wrong);
        let mut texts: Vec<String> = wrong.map(|(finding, _)| finding.to_string()).collect();
        if !texts.is_empty() {
            texts.extend(report.mend.iter().map(|command| format!("to fix it, run: {command}")));
        }
        cases.push(("compatibility", (!texts.is_empty()).then(|| xml(&texts.join("; ")))));
    }
    if !report.required.is_empty() {
        cases.push(("required platforms", report.lacks_platforms().then(|| xml(&report.missing_text()))));
    }
    cases
}

/// The element inside a test case that did not pass.
fn inside(row: &Row<'_>, strict: bool) -> Option<(&'static str, String)> {
    if let Err(NotJudged::Failed(error)) = &row.finding {
        return Some(("error", format!("<error message=\"{}\"/>", xml(&format!("cannot {error}")))));
    }
    let verdict = xml(&row.verdict_text());
    if row.is_wrong(strict) {
        let lines = row.reasons().iter().cloned().chain(row.above_cpu_limit()).chain(row.advice_text());
        let lines: Vec<String> = lines.map(|line| xml(&line)).collect();
        let failure = row.finding.as_ref().ok().and_then(|finding| finding.verdict.failure.as_ref());
        let what = match (row.is_incomplete(), failure) {
            (true, _) => "a part of the image is absent".to_string(),
            (false, Some(failure)) => xml(&failure.to_string()),
            (false, None) => format!("the binaries are for {}", xml(&row.binaries_text())),
        };
        let element = format!(
            "<failure type=\"{verdict}\" message=\"{verdict}: {what}\">{}</failure>",
            lines.join("\n")
        );
        return Some(("failure", element));
    }
    let is_undetermined =
        row.finding.as_ref().is_ok_and(|finding| finding.verdict.kind == VerdictKind::Undetermined);
    is_undetermined.then(|| ("skipped", format!("<skipped message=\"{verdict}\"/>")))
}

/// Text for XML. Control characters, which XML cannot contain, are escaped as for a terminal.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in Escaped(text).to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
