//! `binfmt-setup unregister`: removes handlers of this program, and others by their exact name.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use cli::Output;
use error::{Error, Exit};

use super::register::open_for_writing;
use super::report::Report;
use crate::apply::apply;
use crate::emulators::{Machine, Target};
use crate::kernel::{ReadTable, Table};
use crate::persist::{self, Files};
use crate::plan::{Plan, plan_unregister};
use crate::request::Resolved;
use crate::rule::Entry;

/// Removes handlers from the table at `at`, and with `persist` their files in `/etc/binfmt.d`.
///
/// # Errors
/// `BadInput` for an unknown name, `Conflict` for a handler of another program, `NotPermitted`, or `Local`.
pub fn unregister(
    at: &Path,
    names: &[String],
    persist: bool,
    dry_run: bool,
    output: &Output,
) -> Result<Exit, Error> {
    let (plan, table) = match Table::open(at)? {
        // Names are checked even if there is nothing to remove.
        None => (plan_removal(names, &[])?, None),
        Some(table) if dry_run => (plan_removal(names, &table.entries()?)?, None),
        Some(_) => {
            let table = open_for_writing(at, output)?;
            (plan_removal(names, &table.entries()?)?, Some(table))
        }
    };
    plan.steps().iter().for_each(|step| output.verbose_info(&step.to_string()));
    let files = if persist { files_to_remove(names) } else { Files::default() };
    if let Some(mut table) = table {
        apply(&plan, &mut table, &mut |_| Ok(()))?;
    }
    if !dry_run {
        persist::stage(files.clone())?.commit()?;
    }
    let resolved = Resolved::default();
    Report { plan: &plan, files: &files, resolved: &resolved, is_applied: !dry_run }.print(output)?;
    Ok(Exit::Done)
}

fn files_to_remove(names: &[String]) -> Files {
    if names.iter().any(|name| name == "all") {
        return persist::plan_removal_of_all();
    }
    let entry_name = |name: &String| match Target::parse(name) {
        Ok(target) => target.machine.entry_name(),
        Err(_) => name.clone(),
    };
    persist::plan_removal(&names.iter().map(entry_name).collect::<Vec<_>>())
}

fn plan_removal(names: &[String], entries: &[Entry]) -> Result<Plan, Error> {
    let (mut own, mut exact) = (BTreeSet::new(), BTreeSet::new());
    for name in names {
        let is_entry = entries.iter().any(|entry| entry.rule.name == OsStr::new(name));
        let machine_of_name = name.strip_prefix("qemu-").and_then(Machine::by_name);
        if name == "all" {
            let ours = entries.iter().filter(|entry| entry.rule.is_ours());
            own.extend(ours.map(|entry| entry.rule.name.clone()));
        } else if let Ok(target) = Target::parse(name) {
            own.insert(OsString::from(target.machine.entry_name()));
        } else if name.starts_with("qemu-") && (is_entry || machine_of_name.is_some()) {
            exact.insert(OsString::from(name));
        } else {
            let why = "there is no such platform, machine, or handler named qemu-*";
            let hint = "to list the handlers, run: binfmt-setup status";
            return Err(Error::bad_input(format!("unregister \"{name}\""), why).hint(hint));
        }
    }
    plan_unregister(&own, &exact, entries)
}
