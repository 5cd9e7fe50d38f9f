//! Archives: both forms of `docker save` tars, OCI archives, and the Docker Engine, which saves and loads such tars.
//!
//! [`DockerArchive`] is the store of all of them. `format` parses and edits what is written in an archive, `snapshot` is an
//! archive as it was read, `edit` plans what a tag changes, `write` replaces the file, `in_place` overwrites parts of it,
//! and [`stream`] relabels an archive in a pipe.

mod beside;
mod docker_archive;
mod docker_daemon;
mod edit;
mod expected;
mod format;
mod in_place;
mod oci_archive;
mod pending;
mod relabel;
mod snapshot;
pub mod stream;
pub mod tar;
mod write;

pub use docker_archive::DockerArchive;
pub use docker_daemon::DockerDaemon;
pub use in_place::InPlacePlan;
pub use oci_archive::OciArchive;
pub use relabel::Relabel;
