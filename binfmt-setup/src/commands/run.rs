//! `run`: one command with a table of its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::register::{Decision, How, LOCK_PATIENCE, plan_from, try_out};
use super::show::{Shown, Tense, show};
use crate::apply::apply;
use crate::error::Error;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::namespace;
use crate::persist::Files;
use crate::probe::Prober;
use crate::request::Request;
use crate::voice::Voice;

pub fn show_run(request: &Request, voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    let how = How { replace: false, persist: false, probe: false, dry_run: true };
    let Decision { plan, resolved, .. } = plan_from(request, vec![], &how, &prober)?;
    show(&Shown { plan: &plan, files: &Files::default(), resolved: &resolved, tense: Tense::Future }, voice)?;
    Ok(Exit::Done)
}

/// Returns only when COMMAND could not be started.
pub fn run(at: &Path, request: &Request, command: &[OsString], voice: &Voice) -> Result<Exit, Error> {
    let how = How { replace: false, persist: false, probe: false, dry_run: false };
    let table = namespace::enter(at)?;
    let mut table = table.lock(LOCK_PATIENCE)?;
    // The new table is empty, so what runs now runs natively, or by nobody.
    let prober = Prober::new().map_err(Error::Prober)?;
    let Decision { plan, resolved, .. } = plan_from(request, vec![], &how, &prober)?;
    resolved.warnings.iter().for_each(|warning| voice.note(&format!("warning: {warning}")));
    plan.steps().iter().for_each(|step| voice.detail(&step.to_string()));
    // What was asked for by name must run; what merely was found need not be tried.
    apply(&plan, &mut table, &mut |new| if request.all { Ok(()) } else { try_out(new, &prober) })?;
    for target in &request.targets {
        if let Err(reason) = prober.run(*target).verdict {
            return Err(Error::DoesNotRun(target.label, reason.to_string()));
        }
    }
    drop((prober, table));
    let [program, arguments @ ..] = command else { return Ok(Exit::Done) };
    let source = Command::new(program).args(arguments).exec();
    Err(Error::Command { command: escaped(program), source })
}
