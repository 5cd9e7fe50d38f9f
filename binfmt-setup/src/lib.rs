//! Tells the kernel which emulator runs which machine: binfmt_misc and QEMU's user mode for people who build images.
//!
//! Read, decide, show, write: [`cli`] takes the command line, [`kernel`] reads the table, [`plan`] decides without
//! touching anything, [`apply`] carries the plan out, and [`probe`] executes a program to see whether it works.

pub mod apply;
pub mod cli;
pub mod commands;
pub mod elf;
pub mod emulators;
pub mod error;
pub mod escape;
pub mod exit;
pub mod facts;
pub mod kernel;
pub mod namespace;
pub mod owner;
pub mod persist;
pub mod plan;
pub mod platform;
pub mod probe;
pub mod probe_programs;
pub mod request;
pub mod rule;
pub mod status;
pub mod text;
pub mod voice;
