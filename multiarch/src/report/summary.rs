//! The report as a Markdown summary, for the page of a CI job.

use super::{EvidenceReport, Failure, PlatformReport, Report, SmokeResult};
use error::Error;
use error::text;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Appends to the file: GitHub's job summary is one file for all steps of the job.
pub fn append(path: &Path, text: &str) -> Result<(), Error> {
    let doing = || format!("write the summary \"{}\"", path.display());
    let append = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
    };
    append().map_err(|e| Error::from_io(doing(), e))
}

pub fn of_report(report: &Report) -> String {
    let mut page = match &report.failed {
        Some(failure) => of_failure(report, failure),
        None => {
            let what = if report.changed { "published" } else { "already published, nothing to do" };
            let digest = report.digest.as_ref().map(ToString::to_string).unwrap_or_default();
            let image = code(&report.image);
            format!("### Release of {image}\n\n{} {what}, {:.1} s\n\n", code(&digest), report.seconds)
        }
    };
    if !report.platforms.is_empty() {
        page.push_str("| platform | builder | declared | binaries | smoke | layers | manifest | time |\n");
        page.push_str("|---|---|---|---|---|---|---|---|\n");
    }
    for platform in &report.platforms {
        let cells: Vec<String> = row(platform).iter().map(|cell| cell.replace('|', "\\|")).collect();
        page.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    if report.failed.is_none() {
        page.push_str("\n| tag | before | now |\n|---|---|---|\n");
        for tag in &report.tags {
            // The summary describes this run. The report keeps the digest that a rollback restores, whichever run moved
            // the tag.
            let was = if report.changed { tag.was.as_ref() } else { Some(&tag.now) };
            let before = was.map_or("new".to_string(), |was| code(&was.to_string()));
            page.push_str(&format!("| {} | {before} | {} |\n", code(&tag.tag), code(&tag.now.to_string())));
        }
    }
    page.push('\n');
    page
}

fn of_failure(report: &Report, failure: &Failure) -> String {
    let mut page = format!("### Release of {} failed\n\n{}\n\n", code(&report.image), code(&failure.error));
    for problem in &failure.problems {
        page.push_str(&format!("- {}\n", code(problem)));
    }
    if !failure.problems.is_empty() {
        page.push('\n');
    }
    let mut states: Vec<String> = Vec::new();
    if !failure.moved.is_empty() || !failure.unknown.is_empty() {
        let lists = [
            ("moved", &failure.moved),
            ("not moved", &failure.not_moved),
            ("may have moved", &failure.unknown),
        ];
        for (what, tags) in lists.into_iter().filter(|(_, tags)| !tags.is_empty()) {
            let tags: Vec<String> = tags.iter().map(|tag| code(tag)).collect();
            states.push(format!("{what}: {}", tags.join(", ")));
        }
    }
    let tags =
        if states.is_empty() { "no tag moved".to_string() } else { format!("tags {}", states.join("; ")) };
    page.push_str(&format!("It failed in the {}; {tags}.\n\n", failure.step.display_name()));
    page
}

fn row(platform: &PlatformReport) -> Vec<String> {
    let declared = if platform.declared.is_fixed() {
        format!("fixed, was {}", code(&platform.declared.built.to_string()))
    } else {
        "ok".to_string()
    };
    let smoke = match &platform.smoke {
        Some(SmokeResult::Passed { milliseconds, .. }) => format!("passed, {milliseconds} ms"),
        Some(SmokeResult::Failed { why, .. }) => format!("failed: {}", code(why)),
        Some(SmokeResult::NotRun { why }) => format!("not run: {}", code(why)),
        None => "-".to_string(),
    };
    let builder = if platform.builder.is_empty() { "published before" } else { &platform.builder };
    vec![
        code(&platform.platform.to_string()),
        builder.to_string(),
        declared,
        platform.evidence.as_ref().map_or("-".into(), EvidenceReport::to_text),
        smoke,
        text::format_bytes(platform.layer_bytes),
        code(platform.manifest.short()),
        format!("{:.1} s", platform.seconds),
    ]
}

/// Foreign text as a code span: without markup, links and line breaks.
fn code(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect();
    format!("`{plain}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_state::RunState;
    use std::time::Duration;

    #[test]
    fn foreign_text_is_a_code_span() {
        assert_eq!(code("a`<img src=x>\n# b"), "`a <img src=x> # b`");
        let error = Error::bad_input("release x", "why").problems(vec!["one|`two".into()]);
        let report = RunState::default().failure_report("x", &error, None, |_| None, Duration::ZERO);
        let page = of_report(&report);
        let expected = "- `one| two`\n\nIt failed in the plan; no tag moved.\n\n\n";
        assert_eq!(page, format!("### Release of `x` failed\n\n`cannot release x: why`\n\n{expected}"));
    }
}
