//! Registers QEMU emulators in the kernel's binfmt_misc: the library behind `binfmt-setup`.
//!
//! Start with [`cli`] for the commands. [`kernel`] reads and writes the table, [`plan`] decides without writing, [`apply`]
//! executes a plan, and [`probe`] runs a program to see whether a handler works.

#![warn(missing_docs)]

pub mod apply;
pub mod cli;
pub mod commands;
pub mod elf;
pub mod emulators;
pub mod entry_owner;
pub mod host;
pub mod kernel;
pub mod namespace;
pub mod persist;
pub mod plan;
pub mod platform;
pub mod probe;
mod probe_programs;
pub mod request;
pub mod rule;
pub mod status;
mod trusted_path;

const TOOL: &str = "binfmt-setup";
