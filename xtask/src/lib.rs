//! What `cargo xtask` can do, one module for each verb.

pub mod bench;
pub mod ci;
pub mod cli;
pub mod dist;
pub mod example_programs;
pub mod release;
pub mod rollback;
