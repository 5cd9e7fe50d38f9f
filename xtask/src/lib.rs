//! Automation of this repository, one module for each verb.

pub mod bench;
pub mod ci;
pub mod cli;
pub mod dist;
