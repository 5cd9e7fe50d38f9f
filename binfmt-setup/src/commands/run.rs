//! `binfmt-setup run`: one command with private handlers.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use cli::Output;
use error::{Error, Exit};

use super::register::{
    LOCK_TIMEOUT, PlannedRegistration, RegisterOptions, plan_registration, platform_does_not_run,
    verify_handlers,
};
use super::report::{Report, print_warnings};
use crate::apply::apply;
use crate::namespace;
use crate::persist::Files;
use crate::probe::Prober;
use crate::request::Request;

/// Prints the plan of [`run`].
///
/// # Errors
/// As [`Request::resolve`].
pub fn print_plan(request: &Request, output: &Output) -> Result<Exit, Error> {
    let options = RegisterOptions { dry_run: true, ..RegisterOptions::default() };
    let PlannedRegistration { plan, resolved, .. } =
        plan_registration(request, vec![], options, &Prober::new()?)?;
    Report { plan: &plan, files: &Files::default(), resolved: &resolved, is_applied: false }.print(output)?;
    Ok(Exit::Done)
}

/// Replaces this process by `command`, in namespaces with private handlers.
///
/// # Errors
/// `NotPermitted` if namespaces are forbidden, `Local` if a requested platform does not run, `NotFound` without the
/// command, or as [`Request::resolve`].
pub fn run(at: &Path, request: &Request, command: &[OsString], output: &Output) -> Result<Exit, Error> {
    let mut table = namespace::enter(at)?.lock(LOCK_TIMEOUT)?;
    // The new table is empty, so a program that runs now is run by the CPU.
    let prober = Prober::new()?;
    let PlannedRegistration { plan, resolved, .. } =
        plan_registration(request, vec![], RegisterOptions::default(), &prober)?;
    print_warnings(&resolved, output);
    plan.steps().iter().for_each(|step| output.verbose_info(&step.to_string()));
    // Only requested platforms must run, not every emulator that was found.
    apply(&plan, &mut table, &mut |new| if request.all { Ok(()) } else { verify_handlers(new, &prober) })?;
    for target in &request.targets {
        prober
            .run(*target)
            .result
            .map_err(|reason| platform_does_not_run(target.name, reason.to_string()))?;
    }
    drop((prober, table));
    let [program, arguments @ ..] = command else { return Ok(Exit::Done) };
    let error = Command::new(program).args(arguments).exec();
    Err(Error::from_io(format!("start {}", program.display()), error))
}
