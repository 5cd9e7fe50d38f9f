//! The stages of a release, in the order of the pipeline.

pub mod build;
pub mod fix_platform;
pub mod load;
pub mod plan;
pub mod prepare;
pub mod publish;
pub mod register_emulators;
pub mod report;
pub mod smoke;
pub mod verify;
pub mod verify_bases;
