//! The SARIF 2.1.0 report: one result per image that is not consistent.

use super::image_report::ImageReport;
use super::json::in_ascii;
use super::results::Results;
use super::row::{NotJudged, Row};
use error::text::Escaped;
use image_evidence::verdict::{EvidenceFile, VerdictKind};
use serde_json::{Value, json};

/// A kind of result.
struct Rule {
    id: &'static str,
    /// What was found.
    text: &'static str,
    /// What to do about it.
    help: &'static str,
    /// `--strict` turns notes into errors.
    level: &'static str,
    /// The heading of [`PAGE`] about it.
    anchor: &'static str,
}

/// The page that explains the rules, in the repository.
const PAGE: &str = "docs/config-patcher.md";

const RULES: [Rule; 12] = [
    Rule {
        id: "mislabeled",
        text: "The binaries that a container would execute were built for another platform than the declared one",
        help: "Engines choose images by their platform metadata and then run binaries for another platform. Run the `fix` command \
               of the message: it changes the metadata and no layer.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "wrong-build",
        text: "The binaries that a container would execute were built for another platform, and the index has or needs both: the \
               image must be built again",
        help: "Usually a base image was pinned to the digest of one platform, a program of the host was copied, or GOARCH was not \
               set. Build the image again; until then, remove it from the index with the command of the message.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "mixed",
        text: "The binaries that a container would execute were built for several platforms",
        help: "No declared platform is right for such an image. Build it again, with all files for one platform.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "would-not-start",
        text: "A file that a container start executes is absent, or the kernel refuses to execute it",
        help: "The message names the file and what it needs. Add the absent file or loader, set the executable bit, or fix the \
               `#!` line, and build the image again.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "foreign-payload",
        text: "The image contains a program for another platform, outside the executed chain",
        help: "Nothing is wrong if the program is meant to be data, such as an emulator's or a test's. It is an error with \
               `--strict` only.",
        level: "note",
        anchor: "verdicts",
    },
    Rule {
        id: "undetermined",
        text: "The image contains no binary that shows its platform",
        help: "What the image executes could not be followed, or it has no programs. `verify --explain` prints where the executed \
               chain ended. It is an error with `--strict` only.",
        level: "note",
        anchor: "verdicts",
    },
    Rule {
        id: "needs-more",
        text: "A file that a container would execute needs a higher CPU level than --cpu allows",
        help: "On processors of the allowed level, the program ends with an illegal instruction. Build it for that level, or allow \
               a higher one with `--cpu`.",
        level: "error",
        anchor: "cpu-levels",
    },
    Rule {
        id: "index-differs",
        text: "The index platform and the declared platform differ",
        help: "Engines select by the index platform and unpack by the declared one; some refuse the image. Run the `fix` command of \
               the message.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "not-read",
        text: "The image could not be read",
        help: "The message has the reason. The exit code of `verify` says whether a retry can help: 6 is a failure of the network \
               or registry.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "incomplete",
        text: "A manifest, config or layer of the image is absent from the store",
        help: "It was deleted in the registry, or never saved. Copy it from where it still is, build it again, or remove it from \
               the index with the command of the message.",
        level: "error",
        anchor: "verdicts",
    },
    Rule {
        id: "compatibility",
        text: "Some programs cannot pull a member of the index, or none of it",
        help: "The message names these programs, in the versions that were measured. Run its `manifest-push edit` command: the images \
               keep their digests.",
        level: "error",
        anchor: "compatibility",
    },
    Rule {
        id: "missing-platform",
        text: "The image has no member for a required platform",
        help: "`--require` or the image of `--like` asks for this platform. Build it and add it with `manifest-push edit --add`.",
        level: "error",
        anchor: "questions-that-the-manifests-answer",
    },
];

impl Rule {
    /// As a `reportingDescriptor`. `repository` is the URL of the repository, if it has one.
    fn json(&self, repository: Option<&str>) -> Value {
        let Self { id, text, help, level, anchor } = self;
        let place = format!("{PAGE}#{anchor}");
        let uri = repository.map(|repository| format!("{repository}/blob/HEAD/{place}"));
        let link = uri.as_ref().map_or(format!("`{place}`"), |uri| format!("[{PAGE}]({uri})"));
        let mut rule = json!({
            "id": id, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level},
            "help": {"text": help.replace('`', ""), "markdown": format!("{help}\n\nMore: {link}")},
        });
        if let Some(uri) = uri {
            rule["helpUri"] = uri.into();
        }
        rule
    }
}

/// The tool with its rules. `repository` is the URL of the repository, if it has one.
fn driver(repository: Option<&str>) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let mut driver = json!({
        "name": super::super::TOOL, "version": version, "semanticVersion": version,
        "rules": RULES.iter().map(|rule| rule.json(repository)).collect::<Vec<_>>(),
    });
    if let Some(repository) = repository {
        driver["informationUri"] = repository.into();
    }
    driver
}

pub fn text(results: &Results<'_>) -> String {
    let unread = results.requested.iter().filter_map(|requested| {
        let error = requested.node.as_ref().err()?;
        let rule = if requested.is_absent() { "incomplete" } else { "not-read" };
        Some(result(
            rule,
            "error",
            &format!("{}: cannot {error}", requested.name),
            &requested.name,
            &[],
            None,
        ))
    });
    let rows = results.rows.iter().flat_map(|row| of(row, results.strict));
    let found: Vec<Value> = unread.chain(rows).chain(results.reports.iter().flat_map(of_report)).collect();
    let repository = Some(env!("CARGO_PKG_REPOSITORY")).filter(|url| !url.is_empty());
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver(repository)}, "results": found}],
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
    let index = RULES.iter().position(|known| known.id == rule);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_refers_to_its_heading_in_the_repository() {
        let driver = driver(Some("https://git.example.org/multiarch"));
        assert_eq!(driver["informationUri"], "https://git.example.org/multiarch");
        let rule = &driver["rules"][0];
        let uri = "https://git.example.org/multiarch/blob/HEAD/docs/config-patcher.md#verdicts";
        assert_eq!(rule["helpUri"], uri);
        assert!(
            rule["help"]["markdown"].as_str().unwrap().ends_with(&format!("[docs/config-patcher.md]({uri})"))
        );
        assert!(!rule["help"]["text"].as_str().unwrap().contains('`'));
        // A package without a repository has no URL to refer to.
        assert_eq!(RULES[0].json(None)["helpUri"], Value::Null);
    }
}
