//! The workspace itself: packages, programs to distribute, documents.

mod advice;
mod arrows;
mod bounds;
mod ci_examples;
mod commands;
mod dist;
mod documentation;
mod dry_runs;
mod exits;
mod fuzz_seeds;
mod help;
mod links;
mod modules;
mod packages;
mod page_examples;
mod schemas;
pub mod sources;
mod statics;
mod tables;
mod usage_errors;
mod words;
