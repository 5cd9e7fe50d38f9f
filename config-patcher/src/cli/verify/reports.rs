//! Report files: HTML for people, SARIF and JUnit for CI.

use super::results::Results;
use super::{html, junit, sarif};
use clap::Args;
use error::Error;
use image_model::date::rfc3339;
use image_store::atomic_file::TempFiles;
use image_store::directory::parent_dir;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Args)]
#[command(next_help_heading = "Reports")]
pub struct Reports {
    /// Write an HTML page with a table of tags and platforms; it loads nothing from the network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write SARIF 2.1.0 for code scanning
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Write JUnit XML for test reports
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl Reports {
    fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.html, &self.sarif, &self.junit].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Checks that the files can be written.
    ///
    /// # Errors
    /// Bad input, if one is a directory; not found or not permitted, if its directory cannot be written in.
    pub fn check(&self, temp_files: &TempFiles) -> Result<(), Error> {
        for file in self.files() {
            if file.is_dir() {
                return Err(Error::bad_input(doing(file), "it is a directory").hint("specify a file"));
            }
            temp_files.create_in(parent_dir(file), 0o600).map_err(|e| failed(file, e))?;
        }
        Ok(())
    }

    pub fn write(&self, temp_files: &TempFiles, results: &Results<'_>) -> Result<(), Error> {
        let made = [
            (&self.html, html_page as fn(&Results<'_>) -> String),
            (&self.sarif, sarif::text),
            (&self.junit, junit::text),
        ];
        for (file, text) in made {
            if let Some(file) = file {
                temp_files.write(file, text(results).as_bytes(), 0o666).map_err(|e| failed(file, e))?;
            }
        }
        Ok(())
    }
}

/// The page with the time and the command line of this run. Options of this program have no secrets.
fn html_page(results: &Results<'_>) -> String {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()) {
        Some(seconds) => seconds,
        None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    // Docker passes the name of the plugin.
    let words: Vec<String> = words.skip_while(|word| word == "multiarch").collect();
    html::page(results, &rfc3339(seconds).unwrap_or_default(), &words)
}

fn failed(file: &Path, error: std::io::Error) -> Error {
    Error::from_io(doing(file), error)
}

fn doing(file: &Path) -> String {
    format!("write \"{}\"", file.display())
}
