//! The result as JSON, as specified by `verify.schema.json`.

use super::image_report::ImageReport;
use super::needs;
use super::results::Results;
use super::row::{NotJudged, RequestedImage, Row};
use error::Error;
use serde_json::{Value, json};

/// The result, on one line.
pub fn text(results: &Results<'_>) -> String {
    let compatibility: Vec<Value> = results.reports.iter().flat_map(compatibility).collect();
    let platforms = results.reports.iter().map(|report| {
        json!({
            "image": report.requested.name, "present": report.present, "required": report.required,
            "missing": report.missing,
        })
    });
    let result = json!({
        "schemaVersion": 2, "images": images(results.requested, results.rows), "compatibility": compatibility,
        "platforms": platforms.collect::<Vec<_>>(), "summary": results.summary(),
    });
    in_ascii(&result.to_string())
}

fn compatibility<'a>(report: &'a ImageReport<'_>) -> impl Iterator<Item = Value> + 'a {
    report.compatibility.iter().map(|(finding, is_wrong)| {
        let readers: Vec<&str> = finding.form.readers().map(|reader| reader.name).collect();
        json!({
            "image": report.requested.name, "kind": finding.form.key(), "isProblem": is_wrong, "readers": readers,
            "members": finding.members, "message": finding.to_string(),
            "fix": report.mend.as_ref().filter(|_| !finding.form.is_note()),
        })
    })
}

fn images(requested: &[RequestedImage], rows: &[Row<'_>]) -> Vec<Value> {
    let error = |error: &Error| json!({"exit": error.kind as u8, "message": format!("cannot {error}")});
    let unread = requested.iter().filter_map(|requested| {
        let failed = requested.node.as_ref().err()?;
        Some(json!({"image": requested.name, "error": error(failed)}))
    });
    let rows = rows.iter().map(|row| {
        let common = json!({
            "image": row.requested.name, "manifest": row.node.digest(), "indexPlatform": row.index_platform(),
            "declaredPlatform": row.config_platform(), "indexAgrees": row.index_agrees(),
        });
        let more = match &row.finding {
            Err(NotJudged::Failed(failed)) => json!({"error": error(failed)}),
            Err(NotJudged::Incomplete(parts)) => {
                json!({"verdict": "incomplete", "reasons": parts, "fix": row.fix(), "rebuild": row.rebuild()})
            }
            Ok(finding) => json!({
                "verdict": finding.verdict.kind, "binaryPlatform": finding.verdict.binaries,
                "reasons": finding.verdict.reasons, "evidence": finding.verdict.files, "executedChain": finding.chain,
                "startFailure": finding.verdict.failure,
                "gaps": finding.gaps, "programs": finding.programs, "needs": needs::json(&finding.needs, row.cpu_limit()), "layers": finding.layers,
                "layersRead": finding.layers_read, "layersCached": finding.layers_cached, "layersByTable": finding.layers_by_table,
                "bytesRead": finding.bytes_read, "fix": row.fix(), "rebuild": row.rebuild(),
                "skipped": finding.skipped.iter().map(|(layer, why)| json!({"layer": layer, "why": why})).collect::<Vec<_>>(),
            }),
        };
        merged(common, more)
    });
    unread.chain(rows).collect()
}

/// Escapes everything but printable ASCII as `\uXXXX`, so that foreign text cannot control a terminal. Such characters
/// occur in JSON strings only.
pub fn in_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => out.push(c),
            other => {
                let mut units = [0; 2];
                out.extend(other.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
        }
    }
    out
}

fn merged(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
