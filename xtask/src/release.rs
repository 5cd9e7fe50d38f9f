//! From a release.yaml to one published multi-arch image.

pub mod builders;
pub mod rootfs;
pub mod spec;
