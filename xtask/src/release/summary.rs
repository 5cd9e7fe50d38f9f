//! The page of a CI job: what a release did, in Markdown.

use super::report::{PlatformReport, Report};
use super::smoke::Smoke;
use image_store::error::StoreError;
use image_store::text;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Adds to the file: the page of a GitHub job is one file for all its steps.
pub fn append(path: &Path, text: &str) -> Result<(), StoreError> {
    let doing = || format!("write the summary \"{}\"", path.display());
    let append = || {
        if let Some(folder) = path.parent() {
            // As the report's is.
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
    };
    append().map_err(|e| StoreError::from_io(doing(), e))
}

pub fn of_report(report: &Report) -> String {
    let mut page = format!("### Release of {}\n\n", code(&report.image));
    let what = if report.changed { "published" } else { "nothing to do: it was published already" };
    page.push_str(&format!("{} {what}, {:.1} s\n\n", code(&report.digest.to_string()), report.seconds));
    page.push_str("| platform | builder | label | binaries | smoke | layers | manifest | time |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for platform in &report.platforms {
        let cells: Vec<String> = row(platform).iter().map(|cell| cell.replace('|', "\\|")).collect();
        page.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    page.push_str("\n| tag | before | now |\n|---|---|---|\n");
    for tag in &report.tags {
        // The page tells of this run; the report keeps what a rollback needs, from whichever run moved the tag.
        let was = if report.changed { tag.was.as_ref() } else { Some(&tag.now) };
        let before = was.map_or("new".to_string(), |was| code(&was.to_string()));
        page.push_str(&format!("| {} | {before} | {} |\n", code(&tag.tag), code(&tag.now.to_string())));
    }
    page.push('\n');
    page
}

pub fn of_error(image: &str, error: &StoreError) -> String {
    let mut page = format!("### Release of {} failed\n\n", code(image));
    page.push_str(&format!("{}\n\n", code(&format!("cannot {error}"))));
    for problem in &error.problems {
        page.push_str(&format!("- {}\n", code(problem)));
    }
    page.push('\n');
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
        platform.evidence.as_ref().map_or("-".into(), |evidence| evidence.verdict.clone()),
        smoke,
        text::bytes(platform.layer_bytes),
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

    #[test]
    fn foreign_text_is_text_on_the_page() {
        assert_eq!(code("a`<img src=x>\n# b"), "`a <img src=x> # b`");
        let error = StoreError::bad_input("release x", "why").problems(vec!["one|`two".into()]);
        let page = of_error("x", &error);
        assert_eq!(page, "### Release of `x` failed\n\n`cannot release x: why`\n\n- `one| two`\n\n");
    }
}
