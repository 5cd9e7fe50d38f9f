//! Stores on disk: archives, layouts, and what a failing disk leaves of them.

mod archive_shapes;
mod contract;
mod docker_archive;
mod filter;
mod full_names;
mod in_place;
mod local_calls;
mod local_files;
mod memory;
mod named_wrongly;
mod oci_archive;
mod short_writes;
