//! What the programs share at the terminal: output conventions, progress, tables, man pages, completions.

mod display;
mod documentation;
mod output;
mod table;

pub use display::Display;
pub use documentation::{Closing, Documentation};
pub use output::{Color, Format, Output, print_json, print_line, print_text, tell};
pub use table::table;
