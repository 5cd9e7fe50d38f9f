//! State that all stages of a release share: the request, the target, and how progress is reported.

use crate::binfmt_setup::BinfmtSetup;
use crate::builders::OpenImage;
use crate::progress::Board;
use crate::report::Step;
use crate::request::Request;
use crate::run_state::RunState;
use crate::work_dir::paths::ReleasePaths;
use crate::work_dir::records::Records;
use cli::Output;
use error::Error;
use image_store::open::{Stores, Target};
use std::sync::Arc;
use std::time::Instant;

/// State that all stages of a release share.
pub struct ReleaseContext<'a> {
    pub request: Request,
    pub target: Target,
    pub paths: ReleasePaths,
    /// Results of earlier runs.
    pub records: Records,
    /// Opens the base images of builds.
    pub open: OpenImage,
    /// Opens base images that are only inspected; gives up soon where there is no network.
    pub open_base: OpenImage,
    /// The stores behind `open_base`.
    pub quick_stores: Arc<Stores>,
    /// `None`: it is not installed.
    pub binfmt: Option<BinfmtSetup>,
    pub reporter: Reporter<'a>,
    pub started: Instant,
}

/// Reports the progress of a release to the terminal and to [`RunState`].
pub struct Reporter<'a> {
    pub output: &'a Output,
    pub board: Board,
    pub state: RunState,
}

impl ReleaseContext<'_> {
    /// Records that a step begins: a failure is reported with the step in which it occurred.
    pub fn begin(&self, step: Step) {
        self.reporter.state.begin(step);
    }
}

/// The target of a request, with the tags of its spec.
///
/// # Errors
/// As [`Stores::target`].
pub fn open_target(request: &Request, stores: &Stores) -> Result<Target, Error> {
    stores.target_with_tags(&request.spec.image, request.spec.tags.clone())
}
