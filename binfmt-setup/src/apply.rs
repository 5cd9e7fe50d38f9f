//! Carries a plan out: all of it or nothing.
//!
//! First every new rule is registered, a replacement under a temporary name; the entry registered last is compared
//! first, so it serves from then on. Then the new rules are tried. Only when all work do old entries go. A failure
//! before that leaves every old entry as it was: it was never touched.

use std::ffi::OsString;

use crate::escape::escaped;
use crate::exit::Exit;
use crate::kernel::{KernelError, WriteTable};
use crate::plan::{Plan, Step, Wish, temporary_name};
use crate::rule::{Entry, Rule};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{0}; the previous state was restored")]
    Kernel(KernelError),
    #[error("{name} is registered but does not work: {reason}; the previous state was restored")]
    DoesNotRun { name: String, reason: String },
    #[error("{cause}; and {}", .left.join("; "))]
    NotRestored { cause: Box<ApplyError>, left: Vec<String> },
}

impl ApplyError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Kernel(cause) => cause.exit(),
            Self::DoesNotRun { .. } | Self::NotRestored { .. } => Exit::Io,
        }
    }
}

/// `try_out` says why a rule that was just registered does not work; it is called once all are registered.
pub fn apply(
    plan: &Plan,
    table: &mut impl WriteTable,
    try_out: &mut dyn FnMut(&[&Wish]) -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    let mut done = vec![];
    let result = carry_out(plan.steps(), table, try_out, &mut done);
    let Err(cause) = result else { return Ok(()) };
    let left: Vec<String> = done.into_iter().rev().filter_map(|undo| undo.carry_out(table).err()).collect();
    Err(if left.is_empty() { cause } else { ApplyError::NotRestored { cause: Box::new(cause), left } })
}

/// How to take back one write.
enum Undo {
    Remove(OsString),
    /// Undone in reverse order, so the new entry under the same name is gone by then and its stand-in still serves.
    PutBack(Entry),
    Disable(OsString),
}

fn carry_out(
    steps: &[Step],
    table: &mut impl WriteTable,
    try_out: &mut dyn FnMut(&[&Wish]) -> Result<(), ApplyError>,
    done: &mut Vec<Undo>,
) -> Result<(), ApplyError> {
    let mut new = vec![];
    for step in steps {
        match step {
            Step::Register(wish) => {
                register(table, &wish.rule, done)?;
                new.push(wish);
            }
            Step::Replace { new: wish, .. } => {
                let temporary = under_temporary_name(&wish.rule);
                // Left behind by a run that was killed: the entry under the right name serves meanwhile.
                table.remove(&temporary.name).map_err(ApplyError::Kernel)?;
                register(table, &temporary, done)?;
                new.push(wish);
            }
            Step::Enable { name } => {
                done.push(Undo::Disable(name.clone()));
                table.enable(name).map_err(ApplyError::Kernel)?;
            }
            Step::Remove { .. } => {}
        }
    }
    try_out(&new)?;
    for step in steps {
        match step {
            Step::Replace { old, new } => {
                remove(table, old, done)?;
                register(table, &new.rule, done)?;
            }
            Step::Remove { old } => remove(table, old, done)?,
            Step::Register(_) | Step::Enable { .. } => {}
        }
    }
    // Nothing can fail any more but this; and a temporary name that stays is found by the next run.
    for step in steps {
        if let Step::Replace { new, .. } = step {
            table.remove(&temporary_name(&new.rule.name)).map_err(ApplyError::Kernel)?;
        }
    }
    Ok(())
}

fn under_temporary_name(rule: &Rule) -> Rule {
    Rule { name: temporary_name(&rule.name), ..rule.clone() }
}

fn register(table: &mut impl WriteTable, rule: &Rule, done: &mut Vec<Undo>) -> Result<(), ApplyError> {
    // Noted first: the kernel may have taken the line even where we were told otherwise.
    let already = table.entry(&rule.name).map_err(ApplyError::Kernel)?;
    if already.is_none() {
        done.push(Undo::Remove(rule.name.clone()));
    }
    table.register(rule).map_err(ApplyError::Kernel)
}

fn remove(table: &mut impl WriteTable, old: &Entry, done: &mut Vec<Undo>) -> Result<(), ApplyError> {
    done.push(Undo::PutBack(old.clone()));
    table.remove(&old.rule.name).map_err(ApplyError::Kernel)
}

impl Undo {
    /// Or a sentence on what could not be taken back.
    fn carry_out(self, table: &mut impl WriteTable) -> Result<(), String> {
        match self {
            Self::Remove(name) => table
                .remove(&name)
                .map_err(|error| format!("{} could not be removed: {error}", escaped(&name))),
            Self::PutBack(old) => put_back(table, &old)
                .map_err(|error| format!("{} could not be restored: {error}", escaped(&old.rule.name))),
            Self::Disable(name) => table
                .disable(&name)
                .map_err(|error| format!("{} could not be disabled again: {error}", escaped(&name))),
        }
    }
}

fn put_back(table: &mut impl WriteTable, old: &Entry) -> Result<(), KernelError> {
    if table.entry(&old.rule.name)?.is_some() {
        return Ok(());
    }
    table.register(&old.rule)?;
    if old.enabled { Ok(()) } else { table.disable(&old.rule.name) }
}
