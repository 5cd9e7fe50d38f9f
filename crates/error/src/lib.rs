//! The error type of all packages, the exit codes that it carries, and escaping of foreign text.

mod exit;
mod failure;
pub mod text;

pub use exit::Exit;
pub use failure::{Error, uninterrupted};
