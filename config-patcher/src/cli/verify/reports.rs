//! Report files: HTML for people, SARIF and JUnit for CI.

use super::row::{Named, Results, Row};
use super::{html, junit, sarif};
use clap::Args;
use error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

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
    pub fn check(&self) -> Result<(), Error> {
        for file in self.files() {
            if file.is_dir() {
                return Err(Error::bad_input(doing(file), "it is a directory").hint("specify a file"));
            }
            tempfile::NamedTempFile::new_in(directory(file)).map_err(|e| failed(file, &e))?;
        }
        Ok(())
    }

    pub fn write(&self, named: &[Named], rows: &[Row<'_>], strict: bool) -> Result<(), Error> {
        let results = Results { named, rows, strict };
        let made = [
            (&self.html, html::page as fn(&Results<'_>) -> String),
            (&self.sarif, sarif::text),
            (&self.junit, junit::text),
        ];
        for (file, text) in made {
            if let Some(file) = file {
                replace_file(file, &text(&results)).map_err(|e| failed(file, &e))?;
            }
        }
        Ok(())
    }
}

/// The error without the name of the temporary file, which the user does not know.
fn failed(file: &Path, error: &std::io::Error) -> Error {
    let text = error.to_string();
    let why = text.split(" at path ").next().unwrap_or_default().to_string();
    Error::from_io(doing(file), std::io::Error::new(error.kind(), why))
}

fn doing(file: &Path) -> String {
    format!("write \"{}\"", file.display())
}

fn directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Replaces the file atomically.
fn replace_file(file: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut new = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory(file))?;
    new.write_all(text.as_bytes())?;
    new.persist(file).map(drop).map_err(|error| error.error)
}
