//! Stores of container images, the trees of images in them, and plans of what will be written.
//!
//! A store implements [`store::ImageSource`] (reads) and [`store::ImageStore`] (writes): registries, OCI layouts, archives,
//! the Docker Engine, and memory. [`tree::read_tree`] reads an image or index with everything below it;
//! [`plan::plan()`] compares it with a target and returns the missing writes; [`plan::apply()`] makes them. Start with
//! [`store`], whose traits are the contract, and [`store::memory`], the simplest store. [`open::Stores`] opens the store
//! of an image reference.
//!
//! ```
//! use image_model::manifest::{Document, media_type};
//! use image_store::check::{CheckDepth, check};
//! use image_store::plan::{MovedTag, WantedImage, apply, plan};
//! use image_store::store::memory::MemoryStore;
//! use image_store::store::{ImageSource, ImageStore, Pointer};
//! use image_store::tree::read_tree;
//! use registry_client::meter::Meter;
//! use std::sync::Arc;
//!
//! // An image without layers.
//! let source = MemoryStore::new();
//! let config = br#"{"os":"linux","architecture":"arm64","rootfs":{"type":"layers","diff_ids":[]}}"#;
//! let config = source.add_blob(media_type::OCI_CONFIG, config);
//! let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": []});
//! source.write_tag("v1", &Document::new(manifest.to_string().into_bytes(), None)?)?;
//!
//! // Copy it: read the tree, compare it with the target, apply the missing writes.
//! let source: Arc<dyn ImageSource> = Arc::new(source);
//! let v1 = Pointer::Tag("v1".into());
//! let tree = read_tree(&*source, &v1)?;
//! let target = MemoryStore::new();
//! let copy = plan(WantedImage::copy_of(&tree, &source)?, &target, &["v1".into()])?;
//! apply(&copy, &target, MovedTag::Refuse, &Meter::default(), &|_| {})?;
//! assert_eq!(check(&target, &v1, CheckDepth::Layers), []);
//!
//! // A second plan has no writes.
//! assert!(plan(WantedImage::copy_of(&tree, &source)?, &target, &["v1".into()])?.is_nothing());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(clippy::missing_errors_doc, missing_docs)]

pub mod archive;
pub mod atomic_file;
pub mod check;
pub mod compress;
pub mod directory;
mod file_metadata;
mod layout_tags;
pub mod open;
pub mod options;
pub mod parallel;
pub mod plan;
pub mod private_dir;
pub mod referrers;
pub mod store;
pub mod subject;
pub mod tree;
