//! What all stages of a release share: the request, the target, and how progress is reported.

use crate::builders::OpenImage;
use crate::emulation::BinfmtSetup;
use crate::progress::Board;
use crate::request::Request;
use crate::run_state::Trace;
use crate::work_dir::paths::Own;
use cli::Output;
use image_store::open::Target;

/// What all stages of a release share.
pub struct ReleaseContext<'a> {
    pub request: Request,
    pub target: Target,
    pub own: Own,
    pub open: OpenImage,
    pub open_base: OpenImage,
    /// `None`: it is not installed.
    pub binfmt: Option<BinfmtSetup>,
    pub reporter: Reporter<'a>,
}

/// Reports the work while it is done.
pub struct Reporter<'a> {
    pub output: &'a Output,
    pub board: Board,
    pub trace: Trace,
}
