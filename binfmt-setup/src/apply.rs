//! Execution of a plan: all of it or nothing.
//!
//! First every new rule is registered, a replacement under a temporary name; the kernel compares the entry that was
//! registered last first, so the new one is used from then on. Then the new rules are verified. Old entries are removed
//! only when all new ones work. A failure before that changes no old entry.

use std::ffi::OsString;

use error::{Error, Exit};

use crate::kernel::WriteTable;
use crate::plan::{HandlerRequest, Plan, Step, temporary_name};
use crate::rule::{Entry, Rule};

/// Executes the plan. `verify` is called once, when all new rules are registered, and returns why one does not work.
///
/// # Errors
/// The first error of the table or of `verify`, after the previous state was restored. `Local` if it could not be
/// restored completely; the reason then has what is left.
pub fn apply(
    plan: &Plan,
    table: &mut impl WriteTable,
    verify: &mut dyn FnMut(&[&HandlerRequest]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut done = vec![];
    let result = execute(plan.steps(), table, verify, &mut done);
    let Err(mut cause) = result else { return Ok(()) };
    let undone = done.into_iter().rev().map(|undo| undo.execute(table));
    let left: Vec<String> =
        undone.filter_map(Result::err).map(|error| format!("could not {error}")).collect();
    if left.is_empty() {
        cause.reason += "; the previous state was restored";
    } else {
        cause.reason += &format!("; the previous state was not restored: {}", left.join("; "));
        cause.kind = Exit::Local;
    }
    Err(cause)
}

/// The reverse of one write.
enum Undo {
    Remove(OsString),
    /// Undone in reverse order: by then the new entry under the same name is removed, and the one under the temporary
    /// name is still there.
    Restore(Entry),
    Disable(OsString),
}

fn execute(
    steps: &[Step],
    table: &mut impl WriteTable,
    verify: &mut dyn FnMut(&[&HandlerRequest]) -> Result<(), Error>,
    done: &mut Vec<Undo>,
) -> Result<(), Error> {
    let mut new_handlers = vec![];
    for step in steps {
        match step {
            Step::Register(new) => {
                register(table, &new.rule, done)?;
                new_handlers.push(new);
            }
            Step::Replace { new, .. } => {
                let temporary = under_temporary_name(&new.rule);
                // A run that was killed may have left it behind; the entry under the final name is still there.
                table.remove(&temporary.name)?;
                register(table, &temporary, done)?;
                new_handlers.push(new);
            }
            Step::Enable { name } => {
                done.push(Undo::Disable(name.clone()));
                table.enable(name)?;
            }
            Step::Remove { .. } => {}
        }
    }
    verify(&new_handlers)?;
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
    // Only this can fail from here on, and a temporary entry that is left is removed by the next run.
    for step in steps {
        if let Step::Replace { new, .. } = step {
            table.remove(&temporary_name(&new.rule.name))?;
        }
    }
    Ok(())
}

fn under_temporary_name(rule: &Rule) -> Rule {
    Rule { name: temporary_name(&rule.name), ..rule.clone() }
}

fn register(table: &mut impl WriteTable, rule: &Rule, done: &mut Vec<Undo>) -> Result<(), Error> {
    // Recorded first: the kernel may have registered the line even if the write failed.
    if table.entry(&rule.name)?.is_none() {
        done.push(Undo::Remove(rule.name.clone()));
    }
    table.register(rule)
}

fn remove(table: &mut impl WriteTable, old: &Entry, done: &mut Vec<Undo>) -> Result<(), Error> {
    done.push(Undo::Restore(old.clone()));
    table.remove(&old.rule.name)
}

impl Undo {
    fn execute(self, table: &mut impl WriteTable) -> Result<(), Error> {
        match self {
            Self::Remove(name) => table.remove(&name),
            Self::Restore(old) => restore(table, &old),
            Self::Disable(name) => table.disable(&name),
        }
    }
}

fn restore(table: &mut impl WriteTable, old: &Entry) -> Result<(), Error> {
    if table.entry(&old.rule.name)?.is_some() {
        return Ok(());
    }
    table.register(&old.rule)?;
    if old.enabled { Ok(()) } else { table.disable(&old.rule.name) }
}
