//! `binfmt-setup status`: the registered handlers.

use std::path::Path;

use cli::{Format, Output, print_text};
use error::{Error, Exit};

use super::{print_pretty_json, print_way_to_run};
use crate::probe::Prober;
use crate::status;

/// Prints the handlers in the table at `at`, and whether they work.
///
/// # Errors
/// `NotPermitted` or `Local` if the table cannot be read.
pub fn status(at: &Path, output: &Output) -> Result<Exit, Error> {
    let status = status::status(at, &Prober::new()?)?;
    match output.format {
        Format::Json => print_pretty_json(&status)?,
        Format::Text => {
            print_text(&status.to_text());
            print_way_to_run(&status.missing, output);
        }
    }
    Ok(Exit::Done)
}
