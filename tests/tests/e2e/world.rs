//! Tests with real engines, registries and emulators.

mod docker_daemon;
mod fix;
mod release;
