//! Results as files: a page for people, and two forms for CI.

use super::row::{Named, Results, Row};
use super::{html, junit, sarif};
use clap::Args;
use error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(next_help_heading = "Reports")]
pub struct Reports {
    /// Write a page with the matrix of tags and platforms; it needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write SARIF 2.1.0, for code scanning
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Write JUnit's XML, for test reports of CI
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl Reports {
    fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.html, &self.sarif, &self.junit].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Can the files be written where they shall lie?
    pub fn check(&self) -> Result<(), Error> {
        for file in self.files() {
            if file.is_dir() {
                return Err(Error::bad_input(doing(file), "it is a folder").hint("name a file"));
            }
            tempfile::NamedTempFile::new_in(folder(file)).map_err(|e| failed(file, &e))?;
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
                keep(file, &text(&results)).map_err(|e| failed(file, &e))?;
            }
        }
        Ok(())
    }
}

/// Without the name of the temporary file, which nobody asked for.
fn failed(file: &Path, error: &std::io::Error) -> Error {
    let text = error.to_string();
    let why = text.split(" at path ").next().unwrap_or_default().to_string();
    Error::from_io(doing(file), std::io::Error::new(error.kind(), why))
}

fn doing(file: &Path) -> String {
    format!("write \"{}\"", file.display())
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A reader sees the old report or the new one, never half of one.
fn keep(file: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut new = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder(file))?;
    new.write_all(text.as_bytes())?;
    new.persist(file).map(drop).map_err(|error| error.error)
}
