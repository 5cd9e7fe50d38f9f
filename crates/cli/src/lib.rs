//! What the programs share at the terminal: output conventions, progress, tables, man pages, completions.

mod documentation;
mod output;
mod progress;
mod table;

pub use documentation::{Closing, Documentation};
pub use output::{Color, Format, Output, eprint_line, print_json, print_line, print_text};
pub use progress::ProgressDisplay;
pub use table::table;
