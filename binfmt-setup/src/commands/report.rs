//! A plan on stdout: its writes before it is applied, a table afterwards; and notes on stderr.

use std::path::PathBuf;

use cli::{Format, Output, print_text, table};
use error::Error;

use super::print_pretty_json;
use crate::persist::Files;
use crate::plan::{Plan, Step, line_text};
use crate::request::Resolved;

/// The writes that a command planned or made.
pub(super) struct Report<'a> {
    pub plan: &'a Plan,
    pub files: &'a Files,
    pub resolved: &'a Resolved,
    /// Whether the plan was applied.
    pub is_applied: bool,
}

impl Report<'_> {
    /// Prints the report, with warnings and notes on stderr.
    pub fn print(&self, output: &Output) -> Result<(), Error> {
        let Self { plan, files, resolved, is_applied } = self;
        print_warnings(resolved, output);
        let native: Vec<&str> = resolved.native.iter().map(|target| target.name).collect();
        if output.format == Format::Json {
            let steps: Vec<_> = plan.steps().iter().map(step_json).collect();
            let path = |path: &PathBuf| path.display().to_string();
            return print_pretty_json(&serde_json::json!({
                "steps": steps,
                "native": native,
                "filesWritten": files.write.iter().map(|(file, _)| path(file)).collect::<Vec<_>>(),
                "filesDeleted": files.remove.iter().map(path).collect::<Vec<_>>(),
                "notes": plan.notes(),
            }));
        }
        plan.notes().iter().for_each(|note| output.info(note));
        if !native.is_empty() {
            output.info(&format!("{}: this CPU runs it, no emulator is required", native.join(" ")));
        }
        let steps = match plan {
            Plan::NothingToDo { .. } if !files.is_empty() => String::new(),
            Plan::Work { .. } if *is_applied => applied_table(plan),
            _ => plan.to_string(),
        };
        print_text(&format!("{steps}{files}"));
        Ok(())
    }
}

/// Prints the warnings on stderr.
pub(super) fn print_warnings(resolved: &Resolved, output: &Output) {
    let warn = output.warning_printer();
    resolved.warnings.iter().for_each(|warning| warn(warning));
}

fn applied_table(plan: &Plan) -> String {
    let row = |step: &Step| {
        let (done, name, new) = match step {
            Step::Register(new) => ("registered", &new.rule.name, Some(new)),
            Step::Replace { new, .. } => ("replaced", &new.rule.name, Some(new)),
            Step::Enable { name } => ("enabled", name, None),
            Step::Remove { old } => ("removed", &old.rule.name, None),
        };
        let platforms = new.map(|new| new.machine.platforms().collect::<Vec<_>>().join(","));
        vec![
            done.to_owned(),
            name.display().to_string(),
            new.map_or("-".to_owned(), |new| new.rule.flags.to_string()),
            new.map_or("-".to_owned(), |new| new.rule.interpreter.display().to_string()),
            platforms.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = plan.steps().iter().map(row).collect();
    table(&["DONE", "HANDLER", "FLAGS", "EMULATOR", "PLATFORMS"], &rows)
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
        "name": name.display().to_string(),
        "interpreter": rule.map(|rule| rule.interpreter.display().to_string()),
        "flags": rule.map(|rule| rule.flags.to_string()),
        "line": rule.map(line_text),
    })
}
