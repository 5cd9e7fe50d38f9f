//! The five commands: read, decide, show, write, in that order.

pub mod probe;
pub mod register;
pub mod run;
mod show;
pub mod status;
pub mod unregister;
