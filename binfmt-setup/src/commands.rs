//! The commands: each reads, decides, prints and writes, in that order.

pub mod probe;
pub mod register;
mod report;
pub mod run;
pub mod status;
pub mod unregister;

use std::path::PathBuf;

use cli::{Output, print_json, suggest};
use error::Error;
use serde::Serialize;

use crate::TOOL;
use crate::emulators::Target;
use crate::emulators::search::{EMULATOR_DIRS, Found, search};

/// A result with the version of its schema.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    result: &'a T,
}

/// Prints how programs for these platforms, which do not run, can be run. Without an emulator, what to install.
fn print_way_to_run(missing: &[&str], output: &Output) {
    let directories: Vec<PathBuf> = EMULATOR_DIRS.iter().map(PathBuf::from).collect();
    let has_emulator = |target: &Target| matches!(search(target.machine, &directories), Found::Emulator(_));
    let missing: Vec<Target> = Target::all().filter(|target| missing.contains(&target.name)).collect();
    let found: Vec<&str> =
        missing.iter().filter(|target| has_emulator(target)).map(|target| target.name).collect();
    let words = match found.as_slice() {
        _ if missing.is_empty() => return,
        [] => {
            return output.info("to run them, install their emulators (Debian package qemu-user-static)");
        }
        few @ ([_] | [_, _] | [_, _, _]) => few,
        _ => &["all"],
    };
    let register = suggest(TOOL, &[&["register"], words].concat());
    let run = suggest(TOOL, &["run", "--", "COMMAND"]);
    output.info(&format!("to run them: sudo {register}, or without root: {run}"));
}

/// Prints a result as indented JSON.
fn print_pretty_json(result: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&Versioned { schema_version: 2, result });
    print_json(&text.map_err(|error| Error::local("print the result as JSON", error.to_string()))?);
    Ok(())
}
