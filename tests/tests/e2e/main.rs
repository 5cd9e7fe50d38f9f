//! The tools as a user runs them, and the parts they are made of, against fakes with faults and the real world.
#![allow(clippy::unwrap_used)]

mod arrows;
mod attested;
mod bases;
mod ci_examples;
mod contract;
mod crash;
mod crash_local;
mod crash_registry;
mod dist;
mod docker_archive;
mod docker_daemon;
mod documentation;
mod exits;
mod filter;
mod fix_budgets;
mod fuzz_seeds;
mod in_place;
mod links;
mod local_calls;
mod local_files;
mod memory;
mod oci_archive;
mod patcher;
mod progress;
mod push;
mod referrers;
mod registry_client;
mod release;
mod rounds;
mod samples;
mod sweep;
mod tools;
mod verify;
mod world_fix;
mod world_release;
