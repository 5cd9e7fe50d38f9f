//! The values of the OCI image-spec: digests, platforms, references, manifests, and JSON edited by byte ranges.
//!
//! Values only: nothing here reads files or the network. Start at [`platform::Platform`] and [`manifest::Document`], a
//! manifest or index with its bytes and digest. [`mod@patch`] changes the platform of an image and preserves every
//! other byte.
//!
//! ```
//! use image_model::patch::{MatchRule, Patched, patch_config};
//! use image_model::platform::Platform;
//!
//! let config = br#"{ "os": "linux",  "architecture": "amd64" }"#;
//! let platform = Platform::parse_known("linux/arm64")?;
//! let patched = patch_config(config, &platform, MatchRule::Explicit)?;
//! assert_eq!(patched, Patched::Changed(br#"{ "os": "linux",  "architecture": "arm64" }"#.to_vec()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::missing_errors_doc, missing_docs)]

pub mod date;
pub mod digest;
pub mod manifest;
pub mod patch;
pub mod platform;
pub mod raw_json;
pub mod reference;
