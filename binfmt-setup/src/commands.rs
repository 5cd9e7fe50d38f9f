//! The commands: each reads, decides, prints and writes, in that order.

pub mod probe;
pub mod register;
mod report;
pub mod run;
pub mod status;
pub mod unregister;

use cli::print_json;
use error::Error;
use serde::Serialize;

/// A result with the version of its schema.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    result: &'a T,
}

/// Prints a result as indented JSON.
fn print_pretty_json(result: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&Versioned { schema_version: 2, result });
    print_json(&text.map_err(|error| Error::local("print the result as JSON", error.to_string()))?);
    Ok(())
}
