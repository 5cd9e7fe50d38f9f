//! `unregister`: removes what this tool made, and what is named exactly.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::register::open_for_writing;
use super::show::{Shown, Tense, show};
use crate::apply::apply;
use crate::emulators::{Machine, Target};
use crate::error::Error;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::kernel::{KernelError, ReadTable, Table};
use crate::persist::{self, Files};
use crate::plan::{Plan, plan_unregister};
use crate::request::Resolved;
use crate::rule::Entry;
use crate::voice::Voice;

pub fn unregister(
    at: &Path,
    texts: &[String],
    persist: bool,
    dry_run: bool,
    voice: &Voice,
) -> Result<Exit, Error> {
    let is_mounted = !matches!(Table::open(at), Err(KernelError::NotMounted(_)));
    let (plan, table) = if !is_mounted {
        // What is not mounted holds nothing; but what was typed is still to make sense.
        (plan_removal(texts, &[])?, None)
    } else if dry_run {
        (plan_removal(texts, &Table::open(at)?.entries()?)?, None)
    } else {
        let table = open_for_writing(at, voice)?;
        (plan_removal(texts, &table.entries()?)?, Some(table))
    };
    plan.steps().iter().for_each(|step| voice.detail(&step.to_string()));
    let files = if persist { files_of(texts) } else { Files::default() };
    if let Some(mut table) = table {
        apply(&plan, &mut table, &mut |_| Ok(()))?;
    }
    if !dry_run {
        persist::stage(files.clone())?.commit()?;
    }
    let tense = if dry_run { Tense::Future } else { Tense::Past };
    show(&Shown { plan: &plan, files: &files, resolved: &Resolved::default(), tense }, voice)?;
    Ok(Exit::Done)
}

fn files_of(texts: &[String]) -> Files {
    if texts.iter().any(|text| text == "all") {
        return persist::plan_removal_of_all();
    }
    let name = |text: &String| match Target::parse(text) {
        Ok(target) => target.machine.entry_name(),
        Err(_) => text.clone(),
    };
    persist::plan_removal(&texts.iter().map(name).collect::<Vec<_>>())
}

fn plan_removal(texts: &[String], entries: &[Entry]) -> Result<Plan, Error> {
    let (mut names, mut exact) = (BTreeSet::new(), BTreeSet::new());
    for text in texts {
        let is_entry = entries.iter().any(|entry| entry.rule.name == OsStr::new(text));
        let machine_of_name = text.strip_prefix("qemu-").and_then(Machine::by_name);
        if text == "all" {
            let ours = entries.iter().filter(|entry| entry.rule.is_ours());
            names.extend(ours.map(|entry| entry.rule.name.clone()));
        } else if let Ok(target) = Target::parse(text) {
            names.insert(OsString::from(target.machine.entry_name()));
        } else if text.starts_with("qemu-") && (is_entry || machine_of_name.is_some()) {
            exact.insert(OsString::from(text));
        } else {
            return Err(Error::NoSuchEntry(escaped(text)));
        }
    }
    Ok(plan_unregister(&names, &exact, entries)?)
}
