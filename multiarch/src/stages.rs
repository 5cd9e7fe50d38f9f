//! The steps of a release, in the order of the pipeline.

pub mod build;
mod execute;
pub mod fix_platform;
pub mod plan;
pub mod publish;
pub mod report;
pub mod retained;
pub mod smoke;
pub mod unchanged;
pub mod verify;
pub mod verify_bases;
