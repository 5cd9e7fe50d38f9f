//! The workspace itself: packages, programs to distribute, documents.

mod advice;
mod arrows;
mod ci_examples;
mod commands;
mod dist;
mod documentation;
mod exits;
mod fuzz_seeds;
mod help;
mod links;
mod modules;
mod packages;
mod quick_start;
mod sources;
mod tables;
mod words;
