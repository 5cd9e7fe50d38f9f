//! Assembles, publishes, edits, copies and restores multi-platform images.
//!
//! [`spec`] and [`draft`] are what users write, [`plan`] combines their images, [`index`] has the exact bytes of the result,
//! [`edit`] changes an existing index. [`rollback`] undoes moves of tags. The commands are in
//! [`cli`].

pub mod cli;
pub mod draft;
pub mod edit;
pub mod index;
pub mod inspect;
pub mod normalize;
pub mod plan;
pub mod rollback;
pub mod spec;

const TOOL: &str = "manifest-push";
