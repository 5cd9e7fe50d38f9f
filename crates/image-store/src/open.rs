//! Opens the store of an image reference.

use crate::archive::{DockerArchive, DockerDaemon, OciArchive};
use crate::atomic_file::TempFiles;
use crate::store::oci_layout::OciLayout;
use crate::store::registry::RegistryStore;
use crate::store::{ImageSource, ImageStore, Pointer, UNNAMED};
use error::Error;
use error::Exit;
use image_model::reference::{Reference, RegistryRef};
use registry_client::meter::Meter;
use registry_client::{Client, RegistryOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Opens stores. All registries share one client: one connection pool, one cache of tokens.
pub struct Stores {
    options: RegistryOptions,
    temp_files: TempFiles,
    client: Mutex<Option<Client>>,
}

/// A store and the image in it.
pub struct Opened<S: ?Sized> {
    /// The store.
    pub store: Arc<S>,
    /// The image.
    pub pointer: Pointer,
}

/// A store to write an image to, with its tags. Without tags, the image is written under its digest alone.
pub struct Target {
    /// The store.
    pub store: Arc<dyn ImageStore>,
    /// Tags to move.
    pub tags: Vec<String>,
    /// Counts the bytes that are written.
    pub meter: Arc<Meter>,
}

impl Stores {
    /// Returns an opener with these options for registries. Local stores list their temporary files in `temp_files`.
    pub fn new(options: RegistryOptions, temp_files: TempFiles) -> Self {
        Self { options, temp_files, client: Mutex::new(None) }
    }

    /// Returns the list of the temporary files of all stores.
    pub fn temp_files(&self) -> &TempFiles {
        &self.temp_files
    }

    /// Returns the meter that counts what the stores transfer.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.options.reporting.meter)
    }

    /// Returns how many requests may run at once over all stores: `wanted`, or fewer if the user set a lower limit.
    pub fn concurrency(&self, wanted: usize) -> usize {
        self.options.concurrency(wanted)
    }

    /// Creates the client when the first registry is opened: local work needs no certificates.
    fn client(&self) -> Result<Client, Error> {
        let mut slot = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let client = Client::new(self.options.clone())?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Opens an image to read.
    ///
    /// # Errors
    /// `NotFound` if a local store is absent, `BadInput` if the reference is ambiguous or refers to a local file without
    /// its prefix, `Usage` for standard input.
    pub fn source(&self, reference: &Reference) -> Result<Opened<dyn ImageSource>, Error> {
        if let Reference::Registry(image) = reference {
            refuse_local_path(image)?;
            let store = RegistryStore::reading(&self.client()?, &image.host, &image.repository)?;
            return Ok(Opened { store: Arc::new(store), pointer: registry_pointer(image) });
        }
        let opened = self.image(reference)?;
        Ok(Opened { store: opened.store, pointer: opened.pointer })
    }

    /// Opens an image to read and to write in its own store.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn image(&self, reference: &Reference) -> Result<Opened<dyn ImageStore>, Error> {
        match reference {
            Reference::Registry(image) => {
                refuse_local_path(image)?;
                let store = RegistryStore::writing(&self.client()?, &image.host, &image.repository)?;
                Ok(Opened { store: Arc::new(store), pointer: registry_pointer(image) })
            }
            Reference::OciLayout { dir, tag } => {
                let layout = OciLayout::open(dir)?.with_temp_files(&self.temp_files);
                let pointer = match tag {
                    Some(tag) => Pointer::Tag(tag.clone()),
                    None => layout.only_image()?,
                };
                Ok(Opened { store: Arc::new(layout), pointer })
            }
            Reference::OciArchive { file, tag } => {
                let archive = OciArchive::open(file, tag.as_deref())?.with_temp_files(&self.temp_files);
                let pointer = archive.only_image()?;
                Ok(Opened { store: Arc::new(archive), pointer })
            }
            Reference::DockerArchive { file, name } => {
                let archive = DockerArchive::open(file, name.as_deref())?.with_temp_files(&self.temp_files);
                let pointer = archive.only_image()?;
                Ok(Opened { store: Arc::new(archive), pointer })
            }
            Reference::DockerDaemon { name } => {
                let daemon = DockerDaemon::open(name)?.with_temp_files(&self.temp_files);
                Ok(Opened { store: Arc::new(daemon), pointer: Pointer::Tag(name.clone()) })
            }
            Reference::Stdin => Err(stdin(reference)),
        }
    }

    fn writing(&self, store: Arc<dyn ImageStore>, tag: String) -> Target {
        Target { store, tags: vec![tag], meter: self.meter() }
    }

    /// Opens a store to write an image to. Local stores are created with the first write.
    ///
    /// # Errors
    /// `BadInput` for a digest, or a directory or file that holds something else; `Usage` for standard input.
    pub fn target(&self, reference: &Reference) -> Result<Target, Error> {
        match reference {
            Reference::Registry(image) => {
                if image.digest.is_some() {
                    let why = "the digest follows from the content and cannot be chosen";
                    return Err(Error::bad_input(format!("write \"{reference}\""), why).hint("use a tag"));
                }
                let store = RegistryStore::writing(&self.client()?, &image.host, &image.repository)?;
                let tag = image.tag.clone().unwrap_or_else(|| "latest".into());
                Ok(self.writing(Arc::new(store), tag))
            }
            Reference::OciLayout { dir, tag } => {
                let layout = OciLayout::open_or_create(dir)?.with_temp_files(&self.temp_files);
                let tag = tag.clone().unwrap_or_else(|| UNNAMED.into());
                Ok(self.writing(Arc::new(layout), tag))
            }
            Reference::OciArchive { file, tag } => {
                let archive = OciArchive::open_or_create(file)?.with_temp_files(&self.temp_files);
                let tag = tag.clone().unwrap_or_else(|| UNNAMED.into());
                Ok(self.writing(Arc::new(archive), tag))
            }
            Reference::DockerArchive { file, name } => {
                let archive = DockerArchive::open_or_create(file)?.with_temp_files(&self.temp_files);
                let tag = name.clone().unwrap_or_else(|| UNNAMED.into());
                Ok(self.writing(Arc::new(archive), tag))
            }
            Reference::DockerDaemon { name } => {
                let daemon = DockerDaemon::open_or_create(name)?.with_temp_files(&self.temp_files);
                Ok(self.writing(Arc::new(daemon), name.clone()))
            }
            Reference::Stdin => Err(stdin(reference)),
        }
    }
}

/// Refuses an archive or layout without its prefix, which would be requested from docker.io. A file or directory that
/// merely has the name of an image (`busybox`) is not meant.
fn refuse_local_path(image: &RegistryRef) -> Result<(), Error> {
    if image.host != "docker.io" || image.tag.is_some() || image.digest.is_some() {
        return Ok(());
    }
    let name = image.familiar_name();
    let path = Path::new(&name);
    let hint = if path.join("oci-layout").is_file() {
        format!("{name} is a directory here: oci:{name}")
    } else if path.is_file() && name.contains(['.', '/']) {
        format!("{name} is a file here: docker-archive:{name} (or oci-archive:{name})")
    } else {
        return Ok(());
    };
    Err(Error::bad_input(format!("open \"{name}\""), "it has no registry and no prefix").hint(hint))
}

fn registry_pointer(image: &RegistryRef) -> Pointer {
    match (&image.digest, &image.tag) {
        (Some(digest), _) => Pointer::from(digest),
        (None, Some(tag)) => Pointer::Tag(tag.clone()),
        (None, None) => Pointer::Tag("latest".into()),
    }
}

fn stdin(reference: &Reference) -> Error {
    let why = "standard input can be read only once, which only `fix -` supports";
    Error::new(Exit::Usage, format!("open \"{reference}\""), why)
        .hint("save it to a file and use docker-archive:FILE")
}
