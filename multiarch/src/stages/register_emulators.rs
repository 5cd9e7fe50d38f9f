//! QEMU emulators that the builds need and this host does not have yet.

use crate::binfmt_setup::{BinfmtSetup, Probed};
use crate::context::ReleaseContext;
use crate::report::Step;
use crate::stages::build::Build;
use error::Error;
use image_model::platform::Platform;

/// Emulators to register, and the command that does it.
#[derive(Clone, Debug, Default)]
pub struct Emulators {
    pub missing: Vec<Platform>,
    pub command: Vec<String>,
}

/// Which emulators these builds need and this host lacks. Runs `binfmt-setup probe` only if a build needs an emulator.
///
/// # Errors
/// `NotFound` if an emulator is needed and binfmt-setup is not installed.
pub fn plan_emulators(builds: &[Build], binfmt: Option<&BinfmtSetup>) -> Result<Emulators, Error> {
    let needed: Vec<Platform> =
        builds.iter().filter(|build| build.needs_emulator).map(|build| build.spec.platform.clone()).collect();
    if needed.is_empty() {
        return Ok(Emulators::default());
    }
    let Some(binfmt) = binfmt else {
        let names: Vec<String> = needed.iter().map(ToString::to_string).collect();
        let why = "binfmt-setup is neither beside this program nor in PATH";
        return Err(Error::not_found(format!("find out whether this host builds {}", names.join(", ")), why)
            .hint("install it: cargo install --path binfmt-setup"));
    };
    let probed: Vec<Probed> = binfmt.probe(&needed)?;
    let runs = |platform: &&Platform| {
        probed
            .iter()
            .any(|p| p.runs && p.platform.parse::<Platform>().is_ok_and(|said| said.matches(platform)))
    };
    let missing: Vec<Platform> = needed.iter().filter(|platform| !runs(platform)).cloned().collect();
    let command = if missing.is_empty() { Vec::new() } else { binfmt.register_command(&missing) };
    Ok(Emulators { missing, command })
}

/// Registers the emulators that are missing, through sudo if this user is not root.
///
/// # Errors
/// `NotPermitted` with the command to run.
pub fn register_emulators(context: &ReleaseContext<'_>, emulators: &Emulators) -> Result<(), Error> {
    let Emulators { missing, command } = emulators;
    let Some(binfmt) = context.binfmt.as_ref().filter(|_| !missing.is_empty()) else { return Ok(()) };
    context.begin(Step::RegisterEmulators);
    context.reporter.output.info(&format!("emulators: {}", command.join(" ")));
    binfmt.register(missing)
}
