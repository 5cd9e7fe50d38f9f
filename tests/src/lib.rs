//! What the end-to-end tests are made of: a registry that fails on demand, and the real parts that a user has.
//!
//! - [`fake_registry`]: an OCI registry inside the test process, with a log, violations and scripted faults.
//! - [`world`]: Debian's docker-registry, Docker Engine, podman, buildah and foreign binaries, each with a guard that ends it.

pub mod fake_registry;
pub mod world;
