//! The platform that the binaries of an image were built for, found without extracting or running anything.
//!
//! Start at [`verify::verify_image`] for one image, or [`verify::verify_all`] for many. The steps, from bottom to top:
//! [`mod@file`], [`elf`] and [`shell`] read the facts from one file, [`layer`] reads one layer, [`overlay`] puts layers on
//! top of each other, [`chain`] follows what a container start executes, [`verdict`] compares the result with the
//! declared platform, and [`needs`] finds the CPU level that it needs. [`verify::cache`] keeps the facts from layers between runs.
//!
//! ```
//! use image_evidence::verdict::VerdictKind;
//! use image_evidence::verify::verify_image;
//! use image_model::manifest::{Document, media_type};
//! use image_store::store::memory::MemoryStore;
//! use image_store::store::{ImageStore, Pointer};
//! use image_store::tree::{TreeNode, read_tree};
//!
//! // An image that declares linux/arm64 and has an empty layer.
//! let store = MemoryStore::new();
//! let tar = [0; 1024];
//! let layer = store.add_blob(media_type::OCI_LAYER, &tar);
//! let config = format!(
//!     r#"{{"os":"linux","architecture":"arm64","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
//!     layer.digest
//! );
//! let config = store.add_blob(media_type::OCI_CONFIG, config.as_bytes());
//! let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
//! let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
//! store.write_tag("latest", &document).unwrap();
//!
//! let TreeNode::Image(image) = read_tree(&store, &Pointer::Tag("latest".into())).unwrap() else { panic!() };
//! let finding = verify_image(&store, &image, &"linux/arm64".parse().unwrap()).unwrap();
//! assert_eq!(finding.verdict.kind, VerdictKind::Undetermined);
//! assert_eq!(finding.verdict.reasons, ["it contains no programs"]);
//! ```

#![warn(clippy::missing_errors_doc, missing_docs)]

pub mod chain;
pub mod cpu;
pub mod elf;
pub mod file;
mod known_wrappers;
pub mod layer;
pub mod needs;
pub mod overlay;
pub mod secret;
pub mod shell;
pub mod start;
pub mod verdict;
pub mod verify;
