//! The release pipeline: builds, verifies and publishes multi-platform images.

pub mod builders;
pub mod cli;
pub mod context;
pub mod emulation;
pub mod example;
pub mod example_binaries;
pub mod progress;
pub mod release;
pub mod request;
pub mod rollback;
pub mod rootfs;
pub mod run_state;
pub mod spec;
pub mod stages;
pub mod summary;
pub mod unpack;
pub mod work_dir;
