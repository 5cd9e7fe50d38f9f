//! Images in tar files: the two forms of `docker save` archives, OCI archives, and the Docker Engine, which saves and
//! loads such archives.

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
