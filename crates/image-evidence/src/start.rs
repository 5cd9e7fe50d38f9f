//! Reasons for which Linux refuses to start the container of an image, as data.

use crate::file::DataKind;
use error::text::Escaped;
use image_model::platform::Platform;
use serde::Serialize;
use std::fmt;

/// The file at which the start of a container fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StartFailure {
    /// An absolute path, or a name that is looked up in PATH.
    pub file: String,
    /// Its role in the executed chain, such as `entrypoint` or `loader`.
    pub role: &'static str,
    /// The index of its layer; `None` for a file that is not in the image.
    pub layer: Option<usize>,
    /// The file that needs it: the script of an interpreter, the program of a loader, the wrapper of a program.
    pub needed_by: Option<NeedingFile>,
    /// Why the kernel refuses it.
    #[serde(flatten)]
    pub cause: FailureCause,
}

/// A file that needs another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NeedingFile {
    /// The absolute path in the image.
    pub path: String,
    /// The index of its layer; 0 is the lowest.
    pub layer: usize,
}

/// Why the kernel refuses a file. Source: execve(2), and fs/binfmt_elf.c and fs/binfmt_script.c of Linux.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum FailureCause {
    /// ENOENT: the image has no such file.
    Absent,
    /// The name is empty.
    EmptyName,
    /// No directory of PATH has an executable file of this name.
    NotInPath,
    /// ENOENT: the line `#!` ends with a carriage return, which is a part of the name.
    CarriageReturn,
    /// ENOENT: the image has no such loader.
    LoaderAbsent {
        /// The loaders for this architecture that the image has.
        present: Vec<String>,
    },
    /// ELIBBAD: the loader is not an ELF file.
    LoaderInvalid,
    /// EACCES: it is a directory or a device.
    NotRegular,
    /// EACCES: no execute bit is set.
    NotExecutable,
    /// ENOEXEC: it is not a program, and has no `#!` line.
    NoFormat {
        /// The kind of its content.
        content: DataKind,
    },
    /// ENOEXEC: it is a program for another operating system.
    OtherSystem {
        /// The platform of the program.
        platform: Platform,
    },
    /// ENOEXEC: an ELF file that is neither a program nor a library.
    NotProgram,
    /// ELOOP: too many scripts are interpreters of each other.
    TooManyInterpreters,
}

impl StartFailure {
    /// The programs that were built for another operating system, which no metadata for Linux fits.
    pub fn other_system(&self) -> Option<&Platform> {
        match &self.cause {
            FailureCause::OtherSystem { platform } => Some(platform),
            _ => None,
        }
    }

    /// Returns whether the content of one file decides, so that no other layer can change the result.
    pub fn is_about_content(&self) -> bool {
        matches!(
            self.cause,
            FailureCause::NoFormat { .. } | FailureCause::OtherSystem { .. } | FailureCause::NotProgram
        )
    }

    /// What to do, in the imperative.
    pub fn advice(&self) -> String {
        let file = Escaped(&self.file);
        let by = self.needed_by.as_ref();
        let own_layer =
            |layer: Option<usize>| layer.map_or(String::new(), |layer| format!(" in layer {layer}"));
        match &self.cause {
            FailureCause::Absent | FailureCause::NotInPath | FailureCause::EmptyName => {
                if self.file.contains(' ') && by.is_none() {
                    return "write the command and its arguments as separate words of the JSON array".into();
                }
                if self.file.contains('$') && by.is_none() {
                    return "write the path: no shell expands variables in the JSON form".into();
                }
                match (by, self.role) {
                    (Some(by), "interpreter") => format!(
                        "add {file} in a layer, or change the first line of {} in layer {}",
                        Escaped(&by.path),
                        by.layer
                    ),
                    _ if self.file.is_empty() => "set ENTRYPOINT or CMD to a program of the image".into(),
                    _ => {
                        format!("add {file} in a layer, for example with COPY, or correct ENTRYPOINT or CMD")
                    }
                }
            }
            FailureCause::CarriageReturn => {
                let script = by.map_or_else(String::new, |by| format!("{} in layer {}", by.path, by.layer));
                format!("convert {} to Unix line endings (LF)", Escaped(&script))
            }
            FailureCause::LoaderAbsent { present } => {
                let (program, layer) = by.map_or(("the program", 0), |by| (by.path.as_str(), by.layer));
                let libc = match present.first().map(|loader| libc(loader)) {
                    Some(own) if own != libc(&self.file) => {
                        format!("build {} in layer {layer} for {own} or static", Escaped(program))
                    }
                    _ => format!("build {} in layer {layer} static", Escaped(program)),
                };
                format!("{libc}, or add {file} in layer {layer} or below, in the base image")
            }
            FailureCause::LoaderInvalid => format!("replace {file}{} by a loader", own_layer(self.layer)),
            FailureCause::NotRegular => format!("name a program in place of {file}"),
            FailureCause::NotExecutable => {
                format!(
                    "set the execute permission of {file}{}: chmod +x, or COPY --chmod=755",
                    own_layer(self.layer)
                )
            }
            FailureCause::NoFormat { content } => match content {
                DataKind::Text | DataKind::NoInterpreter => {
                    format!("add a first line such as #!/bin/sh to {file}{}", own_layer(self.layer))
                }
                DataKind::ByteOrderMark => {
                    format!("remove the byte order mark from {file}{}", own_layer(self.layer))
                }
                DataKind::JavaClass | DataKind::Zip => {
                    format!("start {file} with its interpreter, such as java")
                }
                _ => format!("replace {file}{} by a program", own_layer(self.layer)),
            },
            FailureCause::OtherSystem { platform } => {
                let (name, os) =
                    if platform.os == "linux" { ("Windows", "windows") } else { ("Linux", "linux") };
                format!("build {file}{} for {name}, for Go with GOOS={os}", own_layer(self.layer))
            }
            FailureCause::NotProgram => {
                format!("replace {file}{} by a linked program", own_layer(self.layer))
            }
            FailureCause::TooManyInterpreters => format!("name a program in the first line of {file}"),
        }
    }
}

/// The C library of a loader.
fn libc(loader: &str) -> &'static str {
    if loader.contains("musl") { "musl" } else { "glibc" }
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = self.layer.map_or(String::new(), |layer| format!(", layer {layer}"));
        let file = Escaped(&self.file);
        match &self.needed_by {
            Some(by) => {
                write!(f, "{} (layer {}) ", Escaped(&by.path), by.layer)?;
                match self.role {
                    "started program" => f.write_str("starts")?,
                    role => write!(f, "needs the {role}")?,
                }
                write!(f, " {file}, which ")?;
            }
            None if self.file.is_empty() => return write!(f, "the {} is an empty word", self.role),
            None => write!(f, "{file} ({}{layer}) ", self.role)?,
        }
        match &self.cause {
            FailureCause::Absent | FailureCause::EmptyName => f.write_str("is not in the image"),
            FailureCause::NotInPath => f.write_str("is in no directory of PATH"),
            FailureCause::CarriageReturn => f.write_str(
                "is not in the image: the first line ends with a carriage return (Windows line ending)",
            ),
            FailureCause::LoaderAbsent { present } => match present.first() {
                Some(own) => {
                    write!(f, "is not in the image; the image has {}'s, {}", libc(own), present.join(", "))
                }
                None => f.write_str("is not in the image; the image has no loader for it"),
            },
            FailureCause::LoaderInvalid => f.write_str("is not an ELF file"),
            FailureCause::NotRegular => f.write_str("is not a regular file"),
            FailureCause::NotExecutable => f.write_str("has no execute permission"),
            FailureCause::NoFormat { content } => write!(f, "cannot be executed: it is {}", content.text()),
            FailureCause::OtherSystem { platform } => {
                let system = if platform.os == "linux" { "Windows" } else { "Linux" };
                write!(f, "is a program for {platform}, which no {system} kernel runs")
            }
            FailureCause::NotProgram => f.write_str("is an ELF file that is not a program"),
            FailureCause::TooManyInterpreters => {
                f.write_str("starts more interpreters than the kernel follows")
            }
        }
    }
}
