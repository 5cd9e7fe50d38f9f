//! The registry client against a fake registry with faults.

mod client;
mod progress;
pub mod referrers;
pub mod rounds;
