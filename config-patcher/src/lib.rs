//! Verifies and fixes the platform metadata of container images: the library behind `config-patcher`.
//!
//! Start with [`cli`] for the commands, with [`plan::relabel`] for what a fix changes, and with [`advice::decide`] for
//! which images can be fixed at all.

pub mod advice;
pub mod cli;
pub mod compatibility;
pub mod from_binaries;
pub mod inspect;
pub mod plan;
pub mod referrers;
pub mod select;
pub mod variants;

const TOOL: &str = "config-patcher";
