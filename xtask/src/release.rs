//! From a release.yaml to one published multi-arch image.

pub mod rootfs;
pub mod spec;
