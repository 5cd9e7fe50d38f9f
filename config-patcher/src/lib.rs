//! Says the right platform in image configs, and keeps every other byte.

pub mod advice;
pub mod cli;
pub mod from_binaries;
pub mod inspect;
pub mod plan;
pub mod referrers;
