//! The tools as a user runs them, and the parts they are made of, against fakes with faults and the real world.
#![allow(clippy::unwrap_used)]

mod crash;
mod local_jobs;
mod patcher;
mod push;
mod registry;
mod release;
mod samples;
mod stores;
mod tools;
mod verify;
mod workspace;
mod world;
