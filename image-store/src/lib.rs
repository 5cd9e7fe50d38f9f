//! What a container image is, where it lies, and what will change.

mod attributes;
pub mod check;
pub mod cli;
pub mod compress;
pub mod digest;
pub mod error;
pub mod exit;
pub mod half_done;
pub mod manifest;
pub mod open;
pub mod options;
pub mod parallel;
pub mod patch;
pub mod plan;
pub mod platform;
pub mod progress;
pub mod raw_json;
pub mod reference;
pub mod referrers;
pub mod store;
pub mod tar_file;
pub mod text;
pub mod tree;
