//! End-to-end tests: the programs as a user runs them, and their libraries, with scripted faults and with real registries
//! and engines.
#![allow(clippy::unwrap_used)]

mod crash;
mod local_jobs;
mod patcher;
mod private_dirs;
mod push;
mod registry;
mod release;
mod samples;
mod stores;
mod tools;
mod verify;
mod workspace;
mod world;
