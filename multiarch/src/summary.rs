//! The page of a CI job: what a release did, in Markdown.

use crate::stages::report::{EvidenceReport, Failure, PlatformReport, Report};
use crate::stages::smoke::Smoke;
use error::Error;
use error::text;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Adds to the file: the page of a GitHub job is one file for all its steps.
pub fn append(path: &Path, text: &str) -> Result<(), Error> {
    let doing = || format!("write the summary \"{}\"", path.display());
    let append = || {
        if let Some(folder) = path.parent() {
            // As the report's is.
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
    };
    append().map_err(|e| Error::from_io(doing(), e))
}

pub fn of_report(report: &Report) -> String {
    let mut page = match &report.failed {
        Some(failure) => of_failure(report, failure),
        None => {
            let what = if report.changed { "published" } else { "nothing to do: it was published already" };
            let digest = report.digest.as_ref().map(ToString::to_string).unwrap_or_default();
            let image = code(&report.image);
            format!("### Release of {image}\n\n{} {what}, {:.1} s\n\n", code(&digest), report.seconds)
        }
    };
    if !report.platforms.is_empty() {
        page.push_str("| platform | builder | label | binaries | smoke | layers | manifest | time |\n");
        page.push_str("|---|---|---|---|---|---|---|---|\n");
    }
    for platform in &report.platforms {
        let cells: Vec<String> = row(platform).iter().map(|cell| cell.replace('|', "\\|")).collect();
        page.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    if report.failed.is_none() {
        page.push_str("\n| tag | before | now |\n|---|---|---|\n");
        for tag in &report.tags {
            // The page tells of this run; the report keeps what a rollback needs, from whichever run moved the tag.
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
    let mut told: Vec<String> = Vec::new();
    if !failure.moved.is_empty() || !failure.unknown.is_empty() {
        let lists = [
            ("moved", &failure.moved),
            ("not moved", &failure.not_moved),
            ("may have moved", &failure.unknown),
        ];
        for (what, tags) in lists.into_iter().filter(|(_, tags)| !tags.is_empty()) {
            let tags: Vec<String> = tags.iter().map(|tag| code(tag)).collect();
            told.push(format!("{what}: {}", tags.join(", ")));
        }
    }
    let tags = if told.is_empty() { "no tag moved".to_string() } else { format!("tags {}", told.join("; ")) };
    page.push_str(&format!("It failed at the {}; {tags}.\n\n", failure.step.text()));
    page
}

fn row(platform: &PlatformReport) -> Vec<String> {
    let label = match platform.label.built == platform.label.published {
        true => "right".to_string(),
        false => format!("{} put right", code(&platform.label.built.to_string())),
    };
    let smoke = match &platform.smoke {
        Some(Smoke::Passed { milliseconds, .. }) => format!("passed, {milliseconds} ms"),
        Some(Smoke::Failed { why, .. }) => format!("failed: {}", code(why)),
        Some(Smoke::NotRun { why }) => format!("not run: {}", code(why)),
        None => "-".to_string(),
    };
    let builder = if platform.builder.is_empty() { "published before" } else { &platform.builder };
    vec![
        code(&platform.platform.to_string()),
        builder.to_string(),
        label,
        platform.evidence.as_ref().map_or("-".into(), EvidenceReport::shown),
        smoke,
        text::format_bytes(platform.layer_bytes),
        code(platform.manifest.short()),
        format!("{:.1} s", platform.seconds),
    ]
}

/// Foreign text as it is: no markup, no links, no line ends.
fn code(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect();
    format!("`{plain}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_state::Trace;
    use std::time::Duration;

    #[test]
    fn foreign_text_is_text_on_the_page() {
        assert_eq!(code("a`<img src=x>\n# b"), "`a <img src=x> # b`");
        let error = Error::bad_input("release x", "why").problems(vec!["one|`two".into()]);
        let report = Trace::default().failed("x", &error, None, |_| None, Duration::ZERO);
        let page = of_report(&report);
        let told = "- `one| two`\n\nIt failed at the plan; no tag moved.\n\n\n";
        assert_eq!(page, format!("### Release of `x` failed\n\n`cannot release x: why`\n\n{told}"));
    }
}
