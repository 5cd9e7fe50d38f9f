//! `probe`: says which platforms really run.

use std::path::Path;

use serde::Serialize;

use crate::emulators::Target;
use crate::error::Error;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::kernel::{ReadTable, Table};
use crate::probe::{Outcome, Prober, Ran};
use crate::rule::{Entry, first_match};
use crate::text::columns;
use crate::voice::Voice;

#[derive(Serialize)]
struct Probed {
    platform: &'static str,
    runs: bool,
    how: Option<&'static str>,
    /// The entry of the table that took it, or else the emulator.
    entry: Option<String>,
    ms: f64,
    reason: Option<String>,
}

pub fn probe(at: &Path, targets: &[Target], voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    // Only for the names of entries; programs run or do not, whether or not the table can be read.
    let entries = Table::open(at).and_then(|table| table.entries());
    let entries = entries.unwrap_or_default();
    let wanted: Vec<Target> = if targets.is_empty() { Target::all().collect() } else { targets.to_vec() };
    let results: Vec<Probed> =
        wanted.iter().map(|target| probed(*target, &prober.run(*target), &entries)).collect();
    if voice.is_json() {
        voice.json(&serde_json::json!({ "platforms": results }))?;
    } else {
        voice.result(&probe_table(&results, voice.color()))?;
    }
    let all_run = results.iter().all(|result| result.runs);
    // Without names it is a question, not a demand.
    Ok(if all_run || targets.is_empty() { Exit::Done } else { Exit::Found })
}

fn probed(target: Target, outcome: &Outcome, entries: &[Entry]) -> Probed {
    let (how, entry, reason) = match &outcome.verdict {
        Ok(Ran::Native) => (Some("native"), None, None),
        Ok(Ran::Emulated(emulator)) => {
            let entry = first_match(entries, &target.file()).map(|entry| escaped(&entry.rule.name));
            (Some("emulated"), Some(entry.unwrap_or_else(|| escaped(&emulator.path))), None)
        }
        Err(reason) => (None, None, Some(reason.to_string())),
    };
    let ms = (outcome.took.as_secs_f64() * 10_000.0).round() / 10.0;
    Probed { platform: target.label, runs: how.is_some(), how, entry, ms, reason }
}

fn probe_table(results: &[Probed], color: bool) -> String {
    let mut rows = vec![["PLATFORM", "RUNS", "HOW", "ENTRY", "MS", ""].map(String::from)];
    rows.extend(results.iter().map(|result| {
        [
            result.platform.to_owned(),
            if result.runs { "yes" } else { "no" }.to_owned(),
            result.how.unwrap_or("-").to_owned(),
            result.entry.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{:.1}", result.ms),
            result.reason.clone().unwrap_or_default(),
        ]
    }));
    columns(&rows, color)
}
