//! A plan on stdout: before it is carried out its lines, afterwards a table; and what a person should know on stderr.

use std::path::PathBuf;

use crate::error::Error;
use crate::escape::escaped;
use crate::persist::Files;
use crate::plan::{Plan, Step, shown_line};
use crate::request::Resolved;
use crate::text::columns;
use crate::voice::Voice;

/// Whether the plan shown is to be carried out or was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tense {
    Future,
    Past,
}

pub(super) struct Shown<'a> {
    pub plan: &'a Plan,
    pub files: &'a Files,
    pub resolved: &'a Resolved,
    pub tense: Tense,
}

pub(super) fn show(shown: &Shown, voice: &Voice) -> Result<(), Error> {
    let Shown { plan, files, resolved, tense } = shown;
    resolved.warnings.iter().for_each(|warning| voice.note(&format!("warning: {warning}")));
    let native: Vec<&str> = resolved.native.iter().map(|target| target.label).collect();
    if voice.is_json() {
        let steps: Vec<_> = plan.steps().iter().map(step_json).collect();
        let paths = |paths: Vec<&PathBuf>| paths.into_iter().map(escaped).collect::<Vec<_>>();
        return voice.json(&serde_json::json!({
            "steps": steps,
            "native": native,
            "files_written": paths(files.write.iter().map(|(path, _)| path).collect()),
            "files_deleted": paths(files.remove.iter().collect()),
            "notes": plan.notes(),
        }));
    }
    plan.notes().iter().for_each(|note| voice.note(note));
    if !native.is_empty() {
        voice.note(&format!("{}: this CPU runs it itself", native.join(" ")));
    }
    let table = match (plan, tense) {
        (Plan::NothingToDo { .. }, _) if !files.is_empty() => String::new(),
        (Plan::Work { .. }, Tense::Past) => done_table(plan, voice.color()),
        _ => plan.to_string(),
    };
    voice.result(&format!("{table}{files}"))
}

fn done_table(plan: &Plan, color: bool) -> String {
    let mut rows = vec![["DONE", "ENTRY", "FLAGS", "EMULATOR", "PLATFORMS"].map(String::from)];
    rows.extend(plan.steps().iter().map(|step| {
        let (done, name, wish) = match step {
            Step::Register(new) => ("registered", &new.rule.name, Some(new)),
            Step::Replace { new, .. } => ("replaced", &new.rule.name, Some(new)),
            Step::Enable { name } => ("enabled", name, None),
            Step::Remove { old } => ("removed", &old.rule.name, None),
        };
        let platforms = wish.map(|wish| wish.machine.platforms().collect::<Vec<_>>().join(","));
        [
            done.to_owned(),
            escaped(name),
            wish.map_or("-".to_owned(), |wish| wish.rule.flags.to_string()),
            wish.map_or("-".to_owned(), |wish| escaped(&wish.rule.interpreter)),
            platforms.unwrap_or_default(),
        ]
    }));
    columns(&rows, color)
}

fn step_json(step: &Step) -> serde_json::Value {
    let (action, name, rule) = match step {
        Step::Register(new) => ("register", &new.rule.name, Some(&new.rule)),
        Step::Replace { new, .. } => ("replace", &new.rule.name, Some(&new.rule)),
        Step::Enable { name } => ("enable", name, None),
        Step::Remove { old } => ("remove", &old.rule.name, None),
    };
    serde_json::json!({
        "action": action,
        "name": escaped(name),
        "interpreter": rule.map(|rule| escaped(&rule.interpreter)),
        "flags": rule.map(|rule| rule.flags.to_string()),
        "line": rule.map(shown_line),
    })
}
