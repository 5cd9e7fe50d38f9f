//! Tests with real engines, registries and emulators.

mod docker_daemon;
#[cfg(feature = "full")]
mod entrypoints;
mod fix;
mod readers;
mod release;
mod starts;
