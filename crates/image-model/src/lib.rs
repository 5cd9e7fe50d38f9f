//! The values of the OCI image-spec: digests, platforms, references, manifests, and JSON edited by byte ranges.

pub mod digest;
pub mod manifest;
pub mod patch;
pub mod platform;
pub mod raw_json;
pub mod reference;
