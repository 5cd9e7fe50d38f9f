//! The release pipeline: builds, verifies and publishes multi-platform images.
//!
//! Start at [`release::run`]: it reads like a table of contents. Each step of a release is a module of [`stages`], in
//! the order of the pipeline. [`spec`] reads release.yaml, [`builders`] drive the engines, [`rootfs`] is the embedded
//! builder, and [`work_dir`] contains what outlives a run.

pub mod binfmt_setup;
pub mod builders;
pub mod cli;
pub mod context;
pub mod docker_plugin;
pub mod example;
pub mod example_binaries;
pub mod progress;
pub mod release;
pub mod report;
pub mod request;
pub mod rollback;
pub mod rootfs;
pub mod run_state;
pub mod spec;
pub mod stages;
pub mod unpack;
pub mod work_dir;
