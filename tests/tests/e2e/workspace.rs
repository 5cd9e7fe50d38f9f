//! The workspace itself: packages, programs to distribute, documents.

mod arrows;
mod ci_examples;
mod dist;
mod documentation;
mod exits;
mod fuzz_seeds;
mod links;
