//! `cargo xtask bench`: runs the package `bench` with the release profile.

use error::{Error, Exit};
use std::ffi::OsString;
use std::process::{Command, Stdio};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Arguments of the measurements; `cargo xtask bench help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<Exit, Error> {
    let doing = || "run the measurements".to_string();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--release", "--package", "bench", "--"]).args(&args.arguments);
    let status = cargo.stdin(Stdio::null()).status().map_err(|e| Error::from_io(doing(), e))?;
    match status.code() {
        Some(0) => Ok(Exit::Done),
        _ => Err(Error::new(Exit::CheckFailed, doing(), format!("it ended with {status}"))),
    }
}
