//! `cargo xtask bench`: measures the programs and their peers in one run. It prints ratios and has no limits that fail.

mod fix;
pub mod measure;
mod push;
mod registry;
mod relay;
mod release;
mod soak;
mod verify;

use error::Error;
use error::Exit;
use std::process::{Command, Stdio};

/// Measure the programs and their peers in one run
#[derive(clap::Parser, Debug)]
#[command(name = "cargo xtask bench", max_term_width = 110)]
pub struct Args {
    /// Measurements to run
    #[arg(value_enum)]
    what: What,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum What {
    /// binfmt-setup register all, compared with update-binfmts and a shell loop, in a private namespace
    Binfmt,
    /// config-patcher fix of `docker save` archives: to a new file, in place, as a filter; compared with cp, cat, skopeo, docker
    Fix,
    /// manifest-push of an index and of a 1 GiB image, compared with crane, oras, docker manifest and skopeo
    Push,
    /// release of the example for eight platforms, cold and warm, compared with loops of crane and buildah
    Release,
    /// Five minutes of random commands, some killed, with a registry that pauses; then many of one kind at once
    Soak,
    /// config-patcher verify of a large image in docker-registry, compared with skopeo, umoci and file; and of 1,000 tags
    Verify,
}

pub fn run(args: &Args) -> Result<Exit, Error> {
    match args.what {
        What::Binfmt => cargo_bench("binfmt-setup"),
        What::Fix => fix::run().map(|()| Exit::Done),
        What::Push => push::run().map(|()| Exit::Done),
        What::Release => release::run().map(|()| Exit::Done),
        What::Soak => soak::run().map(|()| Exit::Done),
        What::Verify => verify::run().map(|()| Exit::Done),
    }
}

fn cargo_bench(package: &str) -> Result<Exit, Error> {
    let doing = || format!("run the bench of {package}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status =
        Command::new(cargo).args(["bench", "--quiet", "--package", package]).stdin(Stdio::null()).status();
    match status.map_err(|e| Error::from_io(doing(), e))? {
        status if status.success() => Ok(Exit::Done),
        status => Err(Error::new(Exit::CheckFailed, doing(), format!("cargo ended with {status}"))),
    }
}
