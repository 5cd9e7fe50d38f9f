//! Stores of images, what is in them, and what will change.

pub mod archive;
pub mod atomic_file;
mod attributes;
pub mod check;
pub mod compress;

pub mod open;
pub mod options;
pub mod parallel;
pub mod plan;
pub mod referrers;
mod regular_file;
pub mod store;
pub mod subject;
pub mod tree;
