//! Makes one tag out of images of several platforms.

pub mod cli;
pub mod index;
pub mod inspect;
pub mod plan;
pub mod spec;
pub mod yaml;
