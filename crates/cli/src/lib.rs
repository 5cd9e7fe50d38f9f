//! What the programs share at the terminal: output options, messages and errors, tables, progress, help texts, manual
//! pages and completions.
//!
//! Start at [`Output`], the options of every command: it prints messages, and its [`Output::finish`] prints the error
//! and returns the exit status. [`ProgramDocs`] describes a program for its help, manual page and completions.
//!
//! ```
//! let rows = [vec!["linux/amd64".to_string(), "1.5 KiB".to_string()]];
//! assert_eq!(cli::table(&["PLATFORM", "SIZE"], &rows), "PLATFORM     SIZE\nlinux/amd64  1.5 KiB\n");
//! ```

#![warn(missing_docs)]

mod documentation;
mod output;
#[cfg(feature = "progress")]
mod progress;
mod schema;
mod streams;
mod suggest;
mod table;
mod usage;

pub use documentation::{DocumentationCommand, Example, ProgramDocs};
pub use output::{Color, Format, Output};
#[cfg(feature = "progress")]
pub use progress::ProgressDisplay;
pub use schema::ResultSchema;
pub use streams::{eprint_line, print_json, print_line, print_text};
pub use suggest::{set_front_end, suggest};
pub use table::table;
pub use usage::exit_with_usage;
