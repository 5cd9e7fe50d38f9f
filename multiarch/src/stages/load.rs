//! Reads the spec, opens the work directory and the target. Nothing else is written.

use crate::binfmt_setup::BinfmtSetup;
use crate::builders::OpenImage;
use crate::context::{ReleaseContext, Reporter, open_target};
use crate::progress::Board;
use crate::request::{Args, Host, Request};
use crate::run_state::RunState;
use crate::work_dir;
use crate::work_dir::paths::ReleasePaths;
use crate::work_dir::records::Records;
use cli::Output;
use error::Error;
use image_store::open::Stores;
use image_store::options::RegistryArgs;
use registry_client::{RegistryOptions, Reporting};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads the spec, opens the work directory and the target.
///
/// # Errors
/// `BadInput` for a spec with problems, all of them listed; `NotPermitted` for a work directory that other users can
/// write in.
pub fn load<'a>(
    args: &Args,
    registry: &RegistryArgs,
    host: &Host,
    output: &'a Output,
) -> Result<ReleaseContext<'a>, Error> {
    let started = Instant::now();
    let mut request = Request::from_args(args, host)?;
    let work_dir = work_dir::open(&mut request, args.dry_run, output)?;
    let records = Records::new(work_dir, args.dry_run, &request.temp_files)?;
    let reporting = Reporting::new(output.warning_printer(), |line| cli::eprint_line(line.to_string()));
    let stores = Arc::new(Stores::new(registry.options(reporting.clone()), host.temp_files.clone()));
    let target = open_target(&request, &stores)?;
    let paths = ReleasePaths::new(
        &request.work_dir,
        &request.file,
        &request.spec.image,
        &target.store.display_name(),
    );
    let quick_stores = Arc::new(Stores::new(quick_options(registry, &reporting), host.temp_files.clone()));
    Ok(ReleaseContext {
        request,
        target,
        paths,
        records,
        binfmt: BinfmtSetup::find(host.binfmt_setup.as_deref()),
        open: opener(stores),
        open_base: opener(Arc::clone(&quick_stores)),
        quick_stores,
        reporter: Reporter { output, board: Board::default(), state: RunState::default() },
        started,
    })
}

fn opener(stores: Arc<Stores>) -> OpenImage {
    Arc::new(move |image| stores.source(image).map(|opened| (opened.store, opened.pointer)))
}

/// Options for requests that a release can do without: without a network they must fail soon.
fn quick_options(registry: &RegistryArgs, reporting: &Reporting) -> RegistryOptions {
    let mut options = registry.options(reporting.clone());
    options.idle_timeout = options.idle_timeout.min(Duration::from_secs(5));
    options.backoff = options.backoff.min(Duration::from_millis(20));
    options
}
