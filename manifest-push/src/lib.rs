//! Makes one tag out of images of several platforms.

pub mod cli;
pub mod draft;
pub mod edit;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod plan;
pub mod rollback;
pub mod spec;
pub mod state;
