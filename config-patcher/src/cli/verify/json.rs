//! The result as JSON, in the form that `verify.schema.json` describes.

use super::row::{Named, Row};
use error::Error;
use serde_json::{Value, json};

/// What `--schema` prints.
pub const SCHEMA: &str = include_str!("verify.schema.json");

/// The whole result on one line.
pub fn text(named: &[Named], rows: &[Row<'_>]) -> String {
    in_ascii(&json!({"images": images(named, rows)}).to_string())
}

fn images(named: &[Named], rows: &[Row<'_>]) -> Vec<Value> {
    let error = |error: &Error| json!({"exit": error.kind as u8, "message": format!("cannot {error}")});
    let unread = named.iter().filter_map(|named| {
        let failed = named.node.as_ref().err()?;
        Some(json!({"image": named.name, "error": error(failed)}))
    });
    let rows = rows.iter().map(|row| {
        let common = json!({
            "image": row.named.name, "manifest": row.image.document.digest(), "entry": row.said(),
            "label": row.label(), "entryAgrees": row.entry_agrees(),
        });
        let more = match &row.finding {
            Err(failed) => json!({"error": error(failed)}),
            Ok(finding) => json!({
                "verdict": finding.verdict.kind, "binaries": finding.verdict.binaries,
                "reasons": finding.verdict.reasons, "files": finding.verdict.files, "chain": finding.chain,
                "gaps": finding.gaps, "programs": finding.programs, "layers": finding.layers,
                "layersRead": finding.layers_read, "layersKept": finding.layers_cached, "bytesRead": finding.bytes_read, "fix": row.fix(), "rebuild": row.rebuild(),
                "skipped": finding.skipped.iter().map(|(layer, why)| json!({"layer": layer, "why": why})).collect::<Vec<_>>(),
            }),
        };
        merged(common, more)
    });
    unread.chain(rows).collect()
}

/// JSON without a character that could steer a terminal: all beyond ASCII stand in strings, and as `\uXXXX` there.
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
