//! What the binaries in an image show, read without extracting or running anything.
//!
//! [`elf`], [`shell`] and [`mod@file`] read one file, [`layer`] streams one layer, [`tree`] lays layers over each other,
//! [`chain`] follows what a container would execute, [`verdict`] holds all that against the label.

pub mod chain;
pub mod elf;
pub mod file;
pub mod layer;
pub mod overlay;
pub mod shell;
pub mod verdict;
pub mod verify;
