//! The error type of all packages, the exit codes that it carries, and escaping of foreign text.
//!
//! Start at [`Error`]: it names what failed, why, and what the user can do, and its kind is the exit code of the program.
//! [`text`] makes text from images, registries and file names safe to print.
//!
//! ```
//! use error::{Error, Exit};
//!
//! let error = Error::not_found("read \"oci:images:1\"", "no such tag").hint("run: manifest-push ls oci:images");
//! assert_eq!(error.kind, Exit::NotFound);
//! assert_eq!(error.to_string(), "read \"oci:images:1\": no such tag; run: manifest-push ls oci:images");
//! ```

#![warn(missing_docs)]

mod error;
mod exit;
pub mod text;

pub use error::{Error, io_reason, retry_interrupted};
pub use exit::Exit;
