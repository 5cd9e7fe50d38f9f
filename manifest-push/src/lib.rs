//! Makes one tag out of images of several platforms.

pub mod index;
pub mod plan;
pub mod spec;
pub mod yaml;
