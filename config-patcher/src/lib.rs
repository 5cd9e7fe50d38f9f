//! Says the right platform in image configs, and keeps every other byte.

pub mod patch;
pub mod plan;
