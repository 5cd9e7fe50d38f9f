//! JSON Schemas of what commands print with `--format json`, and the option `--schema` that prints them.

use crate::streams::{check_stdout, print_text};
use clap::{Arg, ArgAction, ArgMatches, Command};
use error::Error;
use serde_json::{Value, json};

/// The schema of a command's result, without the parts that all schemas share.
///
/// The text may refer to `#/$defs/digest`, `#/$defs/platform` and `#/$defs/tag`. An error object is added as the
/// alternative to the result.
#[derive(Clone, Copy, Debug)]
pub struct ResultSchema {
    /// The command, without the name of the program: `push`.
    pub command: &'static str,
    /// A JSON Schema of the result, with definitions of its own in `$defs`.
    pub text: &'static str,
}

const OPTION: &str = "schema";

/// Definitions for all schemas.
const SHARED: &str = include_str!("shared.schema.json");

impl ResultSchema {
    /// Returns the complete schema (draft 2020-12) of the output of the command in `program`.
    ///
    /// # Errors
    /// `Local` if the text is not JSON; the programs' own texts are tested.
    pub fn document(&self, program: &str) -> Result<Value, Error> {
        let parse = |text: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|e| Error::local(format!("read the schema of {}", self.command), e.to_string()))
        };
        let (mut result, mut definitions) = (parse(self.text)?, parse(SHARED)?);
        if let (Some(Value::Object(own)), Value::Object(all)) =
            (result.as_object_mut().and_then(|result| result.remove("$defs")), &mut definitions)
        {
            all.extend(own);
        }
        definitions["result"] = result;
        let command = self.command.replace(' ', "-");
        Ok(json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": format!("urn:multiarch:{command}:2"),
            "title": format!("The output of `{program} {} --format json`", self.command),
            "oneOf": [{"$ref": "#/$defs/result"}, {"$ref": "#/$defs/failure"}],
            "$defs": definitions,
        }))
    }

    /// Prints the schema on stdout.
    ///
    /// # Errors
    /// `Local` if stdout cannot be written.
    pub(crate) fn print(&self, program: &str) -> Result<(), Error> {
        print_text(&format!("{:#}\n", self.document(program)?));
        check_stdout()
    }
}

/// Adds `--schema` to every command in `schemas`. `path` is the command without the program: empty, or `push`.
pub(crate) fn with_option(command: Command, path: &str, schemas: &[ResultSchema]) -> Command {
    command.mut_subcommands(|one| {
        let path = format!("{path} {}", one.get_name());
        let path = path.trim_start();
        let help = "Print the JSON Schema of `--format json` and exit";
        let option = Arg::new(OPTION).long(OPTION).exclusive(true).action(ArgAction::SetTrue);
        let option = option.help_heading("Output").help(help);
        let has_schema = schemas.iter().any(|schema| schema.command == path);
        let one = if has_schema { one.arg(option) } else { one };
        with_option(one, path, schemas)
    })
}

/// Returns the schema that the arguments request.
pub(crate) fn requested(matches: &ArgMatches, schemas: &[ResultSchema]) -> Option<ResultSchema> {
    let (mut matches, mut path) = (matches, String::new());
    while let Some((name, inner)) = matches.subcommand() {
        path = format!("{path} {name}");
        matches = inner;
    }
    let is_set = matches.try_get_one::<bool>(OPTION).ok().flatten() == Some(&true);
    schemas.iter().find(|schema| is_set && schema.command == path.trim_start()).copied()
}
