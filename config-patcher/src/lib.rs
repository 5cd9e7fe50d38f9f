//! Says the right platform in image configs, and keeps every other byte.

pub mod advice;
pub mod cli;
pub mod detect;
pub mod inspect;
pub mod plan;
pub mod referrers;
pub mod verify;
