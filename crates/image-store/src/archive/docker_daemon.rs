//! Images in a Docker Engine, read with `docker save` and written with `docker load`.
//!
//! The user's own docker program runs, so contexts, `DOCKER_HOST=ssh://...` and rootless sockets work. The saved image is a
//! temporary [`DockerArchive`]; the archive is loaded when a tag moves in it, and not otherwise.

use super::docker_archive::DockerArchive;
use crate::atomic_file::TempFiles;
use crate::store::{ImageSource, ImageStore, OpenContent, Pointer, TaggedDocument};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, ParsedDocument};
use image_model::reference::Reference;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// Environment variable with another program than `docker`.
const PROGRAM: &str = "MULTIARCH_DOCKER";
const SAVED: &str = "saved.tar";

/// An image name in a Docker Engine.
pub struct DockerDaemon {
    /// `app:1`.
    name: String,
    archive: DockerArchive,
    /// The image that the engine had under the name when it was saved.
    saved: Mutex<Option<Saved>>,
    /// Contains the archive and is removed with this value.
    dir: TempDir,
}

struct Saved {
    id: Digest,
    document: Descriptor,
}

impl DockerDaemon {
    /// The same store, whose temporary files are in this list. A program whose store is not opened by
    /// [`Stores`](crate::open::Stores) calls this before the first write.
    #[must_use]
    pub fn with_temp_files(self, temp_files: &TempFiles) -> Self {
        Self { archive: self.archive.with_temp_files(temp_files), ..self }
    }

    /// Saves an existing image and opens it.
    ///
    /// # Errors
    /// `NotFound` if the engine or the program does not have it, `Conflict` if another image got the name meanwhile.
    pub fn open(name: &str) -> Result<Self, Error> {
        let place = place_of(name);
        let doing = || format!("read \"{place}\"");
        let id = id_of(name, &doing())?.ok_or_else(|| {
            Error::not_found(doing(), "the Docker Engine has no such image")
                .hint("list images with: docker image ls")
        })?;
        let dir = directory(&doing())?;
        let path = dir.path().join(SAVED);
        run(docker(&["image", "save", "--output"]).arg(&path).arg(name), &doing())?;
        let archive = DockerArchive::open(&path, Some(name))?;
        let document = archive.read_document(&Pointer::Tag(name.into()))?;
        if !is_id_of(&id, &document) {
            let why = format!("it was {id}, and another image was saved");
            return Err(
                Error::conflict(doing(), why).hint("run the command again when no build uses this name")
            );
        }
        let document = document.descriptor();
        Ok(Self { name: name.into(), archive, saved: Mutex::new(Some(Saved { id, document })), dir })
    }

    /// Prepares to write an image under a name, which may exist.
    ///
    /// # Errors
    /// Those of the temporary directory.
    pub fn open_or_create(name: &str) -> Result<Self, Error> {
        let doing = format!("write \"{}\"", place_of(name));
        let dir = directory(&doing)?;
        let archive = DockerArchive::open_or_create(&dir.path().join(SAVED))?;
        Ok(Self { name: name.into(), archive, saved: Mutex::new(None), dir })
    }
}

fn place_of(name: &str) -> String {
    Reference::DockerDaemon { name: name.into() }.to_string()
}

fn directory(doing: &str) -> Result<TempDir, Error> {
    tempfile::Builder::new().prefix("multiarch-").tempdir().map_err(|e| {
        Error::from_io(doing, e).hint("set TMPDIR to a directory with enough space for the image")
    })
}

fn docker(args: &[&str]) -> Command {
    let program = std::env::var_os(PROGRAM).filter(|program| !program.is_empty());
    let mut command = Command::new(program.unwrap_or_else(|| OsString::from("docker")));
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its output.
fn run(command: &mut Command, doing: &str) -> Result<String, Error> {
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(doing, "the program \"docker\" is not installed")
            .hint(format!("install it, or set {PROGRAM} to another program")),
        _ => Error::from_io(doing, error),
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let why =
        line.map_or_else(|| format!("docker failed: {}", output.status), |line| format!("docker: {line}"));
    Err(Error::local(doing, why))
}

/// Returns the engine's ID of an image: its config's digest, or its manifest's with containerd's image store. `None` if it
/// has no such image.
fn id_of(name: &str, doing: &str) -> Result<Option<Digest>, Error> {
    // `inspect` fails for an absent image as for an engine that is not running; `ls` distinguishes them. It lists all tags
    // for a name without one, and names here have one.
    let found = run(
        docker(&["image", "ls", "--no-trunc", "--quiet", "--filter"]).arg(format!("reference={name}")),
        doing,
    )?;
    if found.is_empty() {
        return Ok(None);
    }
    let id = run(docker(&["image", "inspect", "--format", "{{.Id}}"]).arg(name), doing)?;
    let strange = |_| Error::local(doing, format!("docker printed \"{id}\", which is not an image ID"));
    id.parse().map(Some).map_err(strange)
}

impl ImageSource for DockerDaemon {
    fn display_name(&self) -> String {
        place_of(&self.name)
    }

    fn read_document(&self, at: &Pointer) -> Result<Document, Error> {
        self.archive.read_document(at)
    }

    /// Asks the engine again, since another image may have got the name meanwhile.
    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        let Pointer::Tag(name) = at else { return self.archive.resolve(at) };
        let doing = format!("look for \"{}\"", place_of(name));
        let Some(now) = id_of(name, &doing)? else { return Ok(None) };
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let known = saved.as_ref().filter(|saved| *name == self.name && saved.id == now);
        // Of an image that was not saved, only the ID is known.
        Ok(Some(known.map_or_else(|| Descriptor::new("", now, 0), |saved| saved.document.clone())))
    }

    /// To read the document, the engine would have to save the whole image.
    fn read_tag(&self, tag: &str) -> Result<Option<TaggedDocument>, Error> {
        let found = self.resolve(&Pointer::Tag(tag.into()))?;
        Ok(found.map(|descriptor| TaggedDocument { descriptor, document: None }))
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        self.archive.tags()
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        self.archive.has_blob(blob)
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.archive.open_blob(blob)
    }

    /// Only containerd's image store holds indexes. `DriverStatus` shows it (docs.docker.com/engine/storage/containerd).
    fn supports_indexes(&self) -> Result<bool, Error> {
        let doing = format!("look for \"{}\"", place_of(&self.name));
        let driver = run(&mut docker(&["info", "--format", "{{.DriverStatus}}"]), &doing)?;
        Ok(driver.contains("io.containerd.snapshotter"))
    }
}

impl ImageStore for DockerDaemon {
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
        self.archive.write_blob(blob, open)
    }

    fn write_document(&self, document: &Document) -> Result<(), Error> {
        self.archive.write_document(document)
    }

    /// Writes the archive, loads it, and checks that the engine has this image under the name.
    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        self.archive.write_tag(tag, document)?;
        let doing = format!("load \"{}\"", place_of(tag));
        let path: &Path = &self.dir.path().join(SAVED);
        run(docker(&["image", "load", "--quiet", "--input"]).arg(path), &doing)?;
        let id = id_of(tag, &doing)?;
        if !id.as_ref().is_some_and(|id| is_id_of(id, document)) {
            let shown = id.as_ref().map_or("nothing".into(), Digest::to_string);
            let why = format!("it was loaded, and the name refers to {shown} now");
            return Err(
                Error::conflict(doing, why).hint("another client moved it, or the engine cannot store it")
            );
        }
        if let (Some(id), true) = (id, tag == self.name) {
            let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            *saved = Some(Saved { id, document: document.descriptor() });
        }
        Ok(())
    }
}

/// Returns whether an image ID is the document's digest or its config's. Of an index, an engine without containerd's image
/// store keeps one image.
fn is_id_of(id: &Digest, document: &Document) -> bool {
    id == document.digest()
        || match document.parse() {
            Ok(ParsedDocument::Manifest(manifest)) => *id == manifest.config.digest,
            Ok(ParsedDocument::Index(_)) => true,
            Err(_) => false,
        }
}
