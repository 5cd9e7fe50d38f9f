//! Parts of the end-to-end tests: a registry that fails on demand, and real registries, engines and programs.
//!
//! - [`fake_registry`]: an OCI registry inside the test process, with a log, protocol violations and scripted faults.
//! - [`world`]: Debian's docker-registry, Docker Engine, podman, buildah and foreign binaries, each ended when it is dropped.

pub mod fake_registry;
pub mod world;
