//! The SARIF 2.1.0 report: one result per image that is not consistent.

use super::image_report::ImageReport;
use super::json::in_ascii;
use super::results::Results;
use super::row::{NotJudged, Row};
use error::text::Escaped;
use image_evidence::verdict::{EvidenceFile, VerdictKind};
use serde_json::{Value, json};

/// Rules with their descriptions and levels; `--strict` turns notes into errors.
const RULES: [(&str, &str, &str); 12] = [
    (
        "mislabeled",
        "The binaries that a container would execute were built for another platform than the declared one",
        "error",
    ),
    (
        "wrong-build",
        "The binaries that a container would execute were built for another platform, and the index has or needs both: the image \
         must be built again",
        "error",
    ),
    ("mixed", "The binaries that a container would execute were built for several platforms", "error"),
    (
        "would-not-start",
        "A file that a container start executes is absent, or the kernel refuses to execute it",
        "error",
    ),
    (
        "foreign-payload",
        "The image contains a program for another platform, outside the executed chain",
        "note",
    ),
    ("undetermined", "The image contains no binary that shows its platform", "note"),
    (
        "needs-more",
        "A file that a container would execute needs a higher CPU level than --cpu allows",
        "error",
    ),
    ("index-differs", "The index platform and the declared platform differ", "error"),
    ("not-read", "The image could not be read", "error"),
    ("incomplete", "A manifest, config or layer of the image is absent from the store", "error"),
    ("compatibility", "Some programs cannot pull a member of the index, or none of it", "error"),
    ("missing-platform", "The image has no member for a required platform", "error"),
];

pub fn text(results: &Results<'_>) -> String {
    let unread = results.requested.iter().filter_map(|requested| {
        let error = requested.node.as_ref().err()?;
        Some(result(
            "not-read",
            "error",
            &format!("{}: cannot {error}", requested.name),
            &requested.name,
            &[],
            None,
        ))
    });
    let rows = results.rows.iter().flat_map(|row| of(row, results.strict));
    let found: Vec<Value> = unread.chain(rows).chain(results.reports.iter().flat_map(of_report)).collect();
    let rules: Vec<Value> = RULES
        .iter()
        .map(|(id, text, level)| {
            json!({"id": id, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}})
        })
        .collect();
    let driver =
        json!({"name": super::super::TOOL, "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules});
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    });
    in_ascii(&log.to_string()) + "\n"
}

fn of_report(report: &ImageReport<'_>) -> Vec<Value> {
    let name = &report.requested.name;
    let digest = report.requested.node.as_ref().ok().map(|node| node.digest().as_str());
    let fix = report.mend.as_ref().map_or(String::new(), |command| format!(". To fix it, run: {command}"));
    let mut found: Vec<Value> = report
        .compatibility
        .iter()
        .map(|(finding, is_wrong)| {
            let level = if *is_wrong { "error" } else { "note" };
            let fix = if finding.form.is_note() { "" } else { fix.as_str() };
            let mut result =
                result("compatibility", level, &format!("{name}: {finding}{fix}"), name, &[], digest);
            // One image may have several.
            let mark = format!("{} {}", finding.form.key(), digest.unwrap_or_default());
            result["partialFingerprints"] = json!({"manifest/v1": mark});
            result
        })
        .collect();
    if report.lacks_platforms() {
        let text = format!("{name}: {}", report.missing_text());
        found.push(result("missing-platform", "error", &text, name, &[], digest));
    }
    found
}

fn of(row: &Row<'_>, strict: bool) -> Vec<Value> {
    let name = &row.requested.name;
    let member = row.platform_text();
    let digest = Some(row.node.digest().as_str());
    let finding = match &row.finding {
        Err(NotJudged::Incomplete(parts)) => {
            let advice = row.rebuild().map_or(String::new(), |text| format!(". {text}"));
            let text = format!("{name} {member}: incomplete: {}{advice}", parts.join("; "));
            return vec![result("incomplete", "error", &text, name, &[], digest)];
        }
        Err(NotJudged::Failed(error)) => {
            return vec![result(
                "not-read",
                "error",
                &format!("{name} {member}: cannot {error}"),
                name,
                &[],
                digest,
            )];
        }
        Ok(finding) => finding,
    };
    let fix = match (row.fix(), row.rebuild()) {
        (Some(fix), _) => format!(". To fix it, run: {fix}"),
        (None, Some(text)) => format!(". {text}"),
        (None, None) => String::new(),
    };
    let note = if strict { "error" } else { "note" };
    let mut found = Vec::new();
    let rule = match finding.verdict.kind {
        VerdictKind::Consistent => None,
        VerdictKind::Mislabeled => Some(("mislabeled", "error")),
        VerdictKind::WrongBuild => Some(("wrong-build", "error")),
        VerdictKind::Mixed => Some(("mixed", "error")),
        VerdictKind::WouldNotStart => Some(("would-not-start", "error")),
        VerdictKind::ForeignPayload => Some(("foreign-payload", note)),
        VerdictKind::Undetermined => Some(("undetermined", note)),
    };
    if let Some((rule, level)) = rule {
        let why = finding.verdict.reasons.join("; ");
        let verdict = match finding.verdict.kind {
            VerdictKind::WouldNotStart => "would not start".into(),
            kind => format!("{}, the binaries are for {}", kind.text(), row.binaries_text()),
        };
        let text = format!("{name} {member}: {verdict}: {why}{fix}");
        found.push(result(rule, level, &text, name, &finding.verdict.files, digest));
    }
    let above = row.above_cpu_limit();
    if let (Some(limit), false) = (row.cpu_limit(), above.is_empty()) {
        let text = format!("{name} {member}: {}", above.join("; "));
        let files: Vec<EvidenceFile> = finding.needs.above(limit).cloned().collect();
        found.push(result("needs-more", "error", &text, name, &files, digest));
    }
    if !row.index_agrees() {
        let text = format!(
            "{name}: the index platform is {member}, the declared platform is {}{fix}",
            row.declared_text()
        );
        found.push(result("index-differs", "error", &text, name, &[], digest));
    }
    found
}

fn result(
    rule: &str,
    level: &str,
    text: &str,
    image: &str,
    files: &[EvidenceFile],
    digest: Option<&str>,
) -> Value {
    let logical: Vec<Value> = files
        .iter()
        .map(|file| json!({"name": file.path, "fullyQualifiedName": format!("{image}:layer {}:{}", file.layer, file.path), "kind": "resource"}))
        .collect();
    let mut location = json!({"physicalLocation": {"artifactLocation": {"uri": uri(image)}}});
    if !logical.is_empty() {
        location["logicalLocations"] = Value::Array(logical);
    }
    let index = RULES.iter().position(|(id, ..)| *id == rule);
    let mut result = json!({
        "ruleId": rule, "ruleIndex": index, "level": level,
        "message": {"text": Escaped(text).to_string()}, "locations": [location],
    });
    if let Some(digest) = digest {
        result["partialFingerprints"] = json!({"manifest/v1": format!("{rule} {digest}")});
    }
    result
}

/// An image reference as a relative reference of RFC 3986: a colon in the first segment would end a scheme.
fn uri(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
