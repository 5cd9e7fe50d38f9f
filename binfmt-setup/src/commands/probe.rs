//! `binfmt-setup probe`: the platforms that run.

use std::path::Path;

use cli::{Format, Output, print_text, table};
use error::{Error, Exit};
use serde::Serialize;

use super::{print_pretty_json, print_way_to_run};
use crate::emulators::Target;
use crate::kernel::{ReadTable, Table};
use crate::probe::{Execution, ProbeOutcome, Prober};
use crate::rule::{Entry, first_match};

/// The result for one platform. Field names are keys of the JSON output.
#[derive(Serialize)]
struct ProbedPlatform {
    platform: &'static str,
    runs: bool,
    how: Option<&'static str>,
    /// The handler that matched, or else the emulator.
    entry: Option<String>,
    ms: f64,
    reason: Option<String>,
}

/// Probes `targets`, or every platform if there are none, and prints the results. Returns `CheckFailed` if a requested
/// platform does not run.
///
/// # Errors
/// `Local` if nothing can be probed.
pub fn probe(at: &Path, targets: &[Target], output: &Output) -> Result<Exit, Error> {
    let prober = Prober::new()?;
    // For the names of handlers only. Whether programs run does not depend on whether the table can be read.
    let entries = Table::open(at).and_then(|table| table.map_or(Ok(vec![]), |table| table.entries()));
    let entries = entries.unwrap_or_default();
    let requested: Vec<Target> = if targets.is_empty() { Target::all().collect() } else { targets.to_vec() };
    let results: Vec<ProbedPlatform> =
        requested.iter().map(|target| probed(*target, &prober.run(*target), &entries)).collect();
    match output.format {
        Format::Json => print_pretty_json(&serde_json::json!({ "platforms": results }))?,
        Format::Text => {
            print_text(&text(&results));
            let missing: Vec<&str> =
                results.iter().filter(|result| !result.runs).map(|result| result.platform).collect();
            print_way_to_run(&missing, output);
        }
    }
    let all_run = results.iter().all(|result| result.runs);
    Ok(if all_run || targets.is_empty() { Exit::Done } else { Exit::CheckFailed })
}

fn probed(target: Target, outcome: &ProbeOutcome, entries: &[Entry]) -> ProbedPlatform {
    let (how, entry, reason) = match &outcome.result {
        Ok(Execution::Native) => (Some("native"), None, None),
        Ok(Execution::Emulated(emulator)) => {
            let handler = first_match(entries, &target.file()).map(|entry| entry.rule.name.as_os_str());
            let name = handler.unwrap_or(emulator.path.as_os_str());
            (Some("emulated"), Some(name.display().to_string()), None)
        }
        Err(reason) => (None, None, Some(reason.to_string())),
    };
    let ms = (outcome.duration.as_secs_f64() * 10_000.0).round() / 10.0;
    ProbedPlatform { platform: target.name, runs: how.is_some(), how, entry, ms, reason }
}

fn text(results: &[ProbedPlatform]) -> String {
    let row = |result: &ProbedPlatform| {
        vec![
            result.platform.to_owned(),
            if result.runs { "yes" } else { "no" }.to_owned(),
            result.how.unwrap_or("-").to_owned(),
            result.entry.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{:.1}", result.ms),
            result.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = results.iter().map(row).collect();
    table(&["PLATFORM", "RUNS", "HOW", "HANDLER", "MS", ""], &rows)
}
