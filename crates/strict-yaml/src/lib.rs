//! YAML read strictly: every key and value has its line, and all problems of a file are reported at once.
//!
//! Start at [`YamlReader::parse`], which returns the tree of a document and a reader. The reader takes values of the
//! expected shape from the tree and collects a [`Problem`] for each that has another one; the caller words it.
//!
//! ```
//! use strict_yaml::{YamlReader, find};
//!
//! let (root, mut reader) = YamlReader::parse("image: a/b\ntag: [1.10]\n")?;
//! let entries = reader.map(root.line, &root.value, |kind| format!("the file is a map, not {kind}")).unwrap();
//! reader.check_keys(entries, &["image", "tags"], "known are", |key| format!("unknown key \"{key}\""));
//! let image = find(entries, "image").unwrap();
//! let image = reader.text(image.line, &image.value.value, |kind| format!("\"image\" is one value, not {kind}"));
//! assert_eq!(image, Some("a/b"));
//! let problems = reader.into_problems();
//! assert_eq!(problems[0].to_string(), "2: unknown key \"tag\"; did you mean \"tags\"?");
//! # Ok::<(), strict_yaml::Problem>(())
//! ```

#![warn(clippy::missing_errors_doc, missing_docs)]

mod reader;
mod tree;

pub use reader::{YamlReader, find};
pub use tree::{Entry, Node, Problem, Value};
