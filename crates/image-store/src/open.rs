//! From a reference to the store it means, and to the image in it.

use crate::archive::{DockerArchive, DockerDaemon, OciArchive};
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
    client: Mutex<Option<Client>>,
}

/// A store and the image in it.
pub struct Opened<S: ?Sized> {
    pub store: Arc<S>,
    pub pointer: Pointer,
}

/// A store that will be written, and the tags that are to be moved there; none: the image is stored under its
/// digest alone.
pub struct Target {
    pub store: Arc<dyn ImageStore>,
    pub tags: Vec<String>,
    /// Counts what is written.
    pub meter: Arc<Meter>,
}

impl Stores {
    pub fn new(options: RegistryOptions) -> Self {
        Self { options, client: Mutex::new(None) }
    }

    /// Counts what the stores transfer.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.options.reporting.meter)
    }

    /// Returns how many requests may run at once over all stores: `wanted`, or fewer if the user set a lower limit.
    pub fn concurrency(&self, wanted: usize) -> usize {
        self.options.concurrency(wanted)
    }

    /// The client is made when the first registry is named: local work needs no certificates.
    fn client(&self) -> Result<Client, Error> {
        let mut slot = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let client = Client::new(self.options.clone())?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// To read an image.
    pub fn source(&self, reference: &Reference) -> Result<Opened<dyn ImageSource>, Error> {
        if let Reference::Registry(image) = reference {
            refuse_what_lies_here(image)?;
            let store = RegistryStore::reading(&self.client()?, &image.host, &image.repository)?;
            return Ok(Opened { store: Arc::new(store), pointer: registry_pointer(image) });
        }
        let opened = self.image(reference)?;
        Ok(Opened { store: opened.store, pointer: opened.pointer })
    }

    /// To read an image and to write it where it lies.
    pub fn image(&self, reference: &Reference) -> Result<Opened<dyn ImageStore>, Error> {
        match reference {
            Reference::Registry(image) => {
                refuse_what_lies_here(image)?;
                let store = RegistryStore::writing(&self.client()?, &image.host, &image.repository)?;
                Ok(Opened { store: Arc::new(store), pointer: registry_pointer(image) })
            }
            Reference::OciLayout { dir, tag } => {
                let layout = OciLayout::open(dir)?;
                let pointer = match tag {
                    Some(tag) => Pointer::Tag(tag.clone()),
                    None => layout.only_image()?,
                };
                Ok(Opened { store: Arc::new(layout), pointer })
            }
            Reference::OciArchive { file, tag } => {
                let archive = OciArchive::open(file, tag.as_deref())?;
                let pointer = archive.only_image()?;
                Ok(Opened { store: Arc::new(archive), pointer })
            }
            Reference::DockerArchive { file, name } => {
                let archive = DockerArchive::open(file, name.as_deref())?;
                let pointer = archive.only_image()?;
                Ok(Opened { store: Arc::new(archive), pointer })
            }
            Reference::DockerDaemon { name } => {
                let daemon = DockerDaemon::open(name)?;
                Ok(Opened { store: Arc::new(daemon), pointer: Pointer::Tag(name.clone()) })
            }
            Reference::Stdin => Err(stdin(reference)),
        }
    }

    fn writing(&self, store: Arc<dyn ImageStore>, tag: String) -> Target {
        Target { store, tags: vec![tag], meter: self.meter() }
    }

    /// To write an image, into a store that may not be there yet.
    pub fn target(&self, reference: &Reference) -> Result<Target, Error> {
        match reference {
            Reference::Registry(image) => {
                if image.digest.is_some() {
                    let why = "a digest is made from the content; it cannot be chosen";
                    return Err(Error::bad_input(format!("write \"{reference}\""), why).hint("name a tag"));
                }
                let store = RegistryStore::writing(&self.client()?, &image.host, &image.repository)?;
                let tag = image.tag.clone().unwrap_or_else(|| "latest".into());
                Ok(self.writing(Arc::new(store), tag))
            }
            Reference::OciLayout { dir, tag } => {
                let layout = OciLayout::open_or_create(dir)?;
                let tag = tag.clone().unwrap_or_else(|| UNNAMED.into());
                Ok(self.writing(Arc::new(layout), tag))
            }
            Reference::OciArchive { file, tag } => {
                let archive = OciArchive::open_or_create(file)?;
                let tag = tag.clone().unwrap_or_else(|| UNNAMED.into());
                Ok(self.writing(Arc::new(archive), tag))
            }
            Reference::DockerArchive { file, name } => {
                let archive = DockerArchive::open_or_create(file)?;
                let tag = name.clone().unwrap_or_else(|| UNNAMED.into());
                Ok(self.writing(Arc::new(archive), tag))
            }
            Reference::DockerDaemon { name } => {
                let daemon = DockerDaemon::open_or_create(name)?;
                Ok(self.writing(Arc::new(daemon), name.clone()))
            }
            Reference::Stdin => Err(stdin(reference)),
        }
    }
}

/// A file or layout that was named without its prefix would be asked of docker.io. A file or folder that merely has
/// the name of an image (`busybox`) is not meant.
fn refuse_what_lies_here(image: &RegistryRef) -> Result<(), Error> {
    if image.host != "docker.io" || image.tag.is_some() || image.digest.is_some() {
        return Ok(());
    }
    let name = image.familiar_name();
    let path = Path::new(&name);
    let hint = if path.join("oci-layout").is_file() {
        format!("{name} is a folder here: oci:{name}")
    } else if path.is_file() && name.contains(['.', '/']) {
        format!("{name} is a file here: docker-archive:{name} (or oci-archive:{name})")
    } else {
        return Ok(());
    };
    Err(Error::bad_input(format!("open \"{name}\""), "it names no registry").hint(hint))
}

fn registry_pointer(image: &RegistryRef) -> Pointer {
    match (&image.digest, &image.tag) {
        (Some(digest), _) => Pointer::from(digest),
        (None, Some(tag)) => Pointer::Tag(tag.clone()),
        (None, None) => Pointer::Tag("latest".into()),
    }
}

fn stdin(reference: &Reference) -> Error {
    let why = "standard input can be read once, and only `config-patcher fix -` makes do with that";
    Error::new(Exit::Usage, format!("open \"{reference}\""), why)
        .hint("save it to a file and name docker-archive:FILE")
}
