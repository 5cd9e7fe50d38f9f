//! Everything that stops a command, with its exit code and its one line.

use std::io;

use crate::apply::ApplyError;
use crate::emulators::TargetError;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::kernel::KernelError;
use crate::namespace::NamespaceError;
use crate::persist::PersistError;
use crate::plan::PlanError;
use crate::request::RequestError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot understand the request: {0}")]
    Target(#[from] TargetError),
    #[error("cannot choose emulators: {0}")]
    Request(#[from] RequestError),
    #[error("cannot use the kernel's table: {0}")]
    Kernel(#[from] KernelError),
    #[error("cannot change the kernel's table: {0}")]
    Plan(#[from] PlanError),
    #[error("cannot change the kernel's table: {0}")]
    Apply(#[from] ApplyError),
    #[error("cannot make entries last: {0}")]
    Persist(#[from] PersistError),
    #[error("cannot change the kernel's table: {0}")]
    SwitchedOff(String),
    #[error("cannot make a private table: {0}")]
    Namespace(#[from] NamespaceError),
    #[error("cannot unregister \"{0}\": no machine, platform or entry named qemu-... is called so")]
    NoSuchEntry(String),
    #[error("cannot run {0}: its programs do not run: {1}")]
    DoesNotRun(&'static str, String),
    #[error("cannot start {command}")]
    Command { command: String, source: io::Error },
    #[error("cannot prepare the probe")]
    Prober(#[source] io::Error),
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
}

impl Error {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Target(_) | Self::NoSuchEntry(_) => Exit::BadInput,
            Self::Request(error) => error.exit(),
            Self::Kernel(error) => error.exit(),
            Self::Plan(error) => error.exit(),
            Self::Apply(error) => error.exit(),
            Self::Persist(error) => error.exit(),
            Self::Namespace(error) => error.exit(),
            Self::Command { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                io::ErrorKind::PermissionDenied => Exit::NotPermitted,
                _ => Exit::Io,
            },
            Self::SwitchedOff(_) | Self::DoesNotRun(..) | Self::Prober(_) | Self::Stdout(_) => Exit::Io,
        }
    }

    /// The whole chain in one line, safe for a terminal.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let text = error.to_string();
            // Some say what their source says.
            if !line.contains(&text) {
                line += &format!(": {text}");
            }
            source = error.source();
        }
        escaped_line(&line)
    }
}

/// Foreign text was escaped where it was put in, so here only what would break the line is.
fn escaped_line(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { escaped(c.to_string()) } else { c.to_string() }).collect()
}
