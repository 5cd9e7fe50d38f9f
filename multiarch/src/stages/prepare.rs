//! Commands of the spec that run before the builds.

use crate::context::ReleaseContext;
use crate::report::Step;
use error::{Error, Exit};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs the `prepare` commands one after the other in the spec's directory.
///
/// # Errors
/// `CommandFailed` if a command fails; the rest is not run.
pub fn prepare(context: &ReleaseContext<'_>, commands: &[Vec<String>]) -> Result<(), Error> {
    context.begin(Step::Prepare);
    for command in commands {
        context.reporter.output.info(&format!("prepare: {}", command.join(" ")));
        run(command, &context.request.spec.dir)?;
    }
    Ok(())
}

fn run(command: &[String], dir: &Path) -> Result<(), Error> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let doing = || format!("prepare with \"{}\"", command.join(" "));
    // stdout is for the result of the release, so the command's output goes to stderr.
    let status = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| Error::from_io(doing(), e))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Exit::CommandFailed, doing(), format!("it ended with {status}"))
        .hint("nothing was published"))
}
