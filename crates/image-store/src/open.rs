//! Opens the store of an image reference.

use crate::archive::{DockerArchive, DockerDaemon, OciArchive};
use crate::atomic_file::TempFiles;
use crate::plan::name_of;
use crate::store::oci_layout::OciLayout;
use crate::store::registry::RegistryStore;
use crate::store::{ImageSource, ImageStore, Pointer, UNNAMED};
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::ParsedDocument;
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
            Reference::OciLayout { dir, tag, digest } => {
                let layout = OciLayout::open(dir)?.with_temp_files(&self.temp_files);
                let pointer = match (digest, tag) {
                    (Some(digest), _) => Pointer::from(digest),
                    (None, Some(tag)) => Pointer::Tag(tag.clone()),
                    (None, None) => layout.only_image()?,
                };
                Ok(Opened { store: Arc::new(layout), pointer })
            }
            Reference::OciArchive { file, tag, digest } => {
                let archive = OciArchive::open(file, tag.as_deref())?.with_temp_files(&self.temp_files);
                let pointer = digest.as_ref().map_or_else(|| archive.only_image(), |one| Ok(one.into()))?;
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

    /// Opens a store to write an image to, under the tag of the reference. Local stores are created with the first
    /// write. Without a tag, the image is `latest` in a registry. In a layout or archive, it replaces the image without
    /// a tag, or that of the only tag.
    ///
    /// # Errors
    /// `BadInput` for a digest, for a directory or file that holds something else, and if the tag is ambiguous; `Usage`
    /// for standard input.
    pub fn target(&self, reference: &Reference) -> Result<Target, Error> {
        if reference.digest().is_some() {
            let why = "the digest follows from the content and cannot be chosen";
            return Err(Error::bad_input(format!("write \"{reference}\""), why).hint("use a tag"));
        }
        let target = self.target_with_tags(reference, Vec::new())?;
        let tag = match (reference, reference.tag()) {
            (_, Some(tag)) => tag.to_string(),
            (Reference::Registry(_), None) => "latest".into(),
            (Reference::DockerDaemon { name }, None) => name.clone(),
            (_, None) => tag_to_replace(reference, &*target.store)?,
        };
        Ok(Target { tags: vec![tag], ..target })
    }

    /// Opens a store to write an image to, under these tags instead of that of the reference.
    ///
    /// # Errors
    /// `BadInput` for a directory or file that holds something else; `Usage` for standard input.
    pub fn target_with_tags(&self, reference: &Reference, tags: Vec<String>) -> Result<Target, Error> {
        let temp_files = &self.temp_files;
        let store: Arc<dyn ImageStore> = match reference {
            Reference::Registry(image) => {
                Arc::new(RegistryStore::writing(&self.client()?, &image.host, &image.repository)?)
            }
            Reference::OciLayout { dir, .. } => {
                Arc::new(OciLayout::open_or_create(dir)?.with_temp_files(temp_files))
            }
            Reference::OciArchive { file, .. } => {
                Arc::new(OciArchive::open_or_create(file)?.with_temp_files(temp_files))
            }
            Reference::DockerArchive { file, .. } => {
                Arc::new(DockerArchive::open_or_create(file)?.with_temp_files(temp_files))
            }
            Reference::DockerDaemon { name } => {
                Arc::new(DockerDaemon::open_or_create(name)?.with_temp_files(temp_files))
            }
            Reference::Stdin => return Err(stdin(reference)),
        };
        Ok(Target { store, tags, meter: self.meter() })
    }
}

/// Returns the tag under which an image is written to a layout or archive without one: [`UNNAMED`] if there is such an
/// image, or no tag; otherwise the only tag.
fn tag_to_replace(reference: &Reference, store: &dyn ImageStore) -> Result<String, Error> {
    let tags = store.tags()?;
    if tags.is_empty() || store.resolve(&Pointer::Tag(UNNAMED.into()))?.is_some() {
        return Ok(UNNAMED.into());
    }
    match tags.as_slice() {
        [only] => Ok(only.clone()),
        many => {
            let why = format!("it has {} tags", many.len());
            Err(Error::bad_input(format!("choose the tag to write in \"{reference}\""), why)
                .hint(format!("add a tag, an existing one ({}) or a new one", many.join(", "))))
        }
    }
}

/// Returns the tags that refer to an image that was opened in its own store, and that move when it changes: that of the
/// reference, or all of the only image of an archive or layout. A digest in a registry needs no tag.
///
/// # Errors
/// `BadInput` if no tag, or several tags, refer to a digest in a layout or archive.
pub fn tags_to_move(
    reference: &Reference,
    store: &dyn ImageStore,
    pointer: &Pointer,
) -> Result<Vec<String>, Error> {
    match (reference, pointer) {
        (Reference::Registry(_), Pointer::Digest(_)) => {
            Ok(reference.tag().map(Into::into).into_iter().collect())
        }
        (Reference::Registry(_), Pointer::Tag(tag)) => Ok(vec![tag.clone()]),
        (_, Pointer::Digest(digest)) if reference.digest().is_some() => match reference.tag() {
            Some(tag) => Ok(vec![tag.into()]),
            None => tag_of_digest(reference, store, digest).map(|tag| vec![tag]),
        },
        (Reference::DockerArchive { name: None, .. } | Reference::OciArchive { tag: None, .. }, pointer) => {
            let digest = store.resolve(pointer)?.map(|found| found.digest);
            let mut tags = tags_of_digest(store, digest.as_ref())?;
            if let (true, Pointer::Tag(tag)) = (tags.is_empty(), pointer) {
                tags.push(tag.clone());
            }
            Ok(tags)
        }
        (Reference::OciLayout { tag: None, .. }, Pointer::Tag(tag)) => {
            let digest = store.resolve(pointer)?.map(|found| found.digest);
            refuse_several_tags(reference, &tags_of_digest(store, digest.as_ref())?)?;
            Ok(vec![tag.clone()])
        }
        // The requested tag moves last: until then, a second run finds something to fix.
        (_, Pointer::Tag(tag)) => {
            let mut tags = store.tags_of_same_entry(tag)?;
            tags.push(tag.clone());
            Ok(tags)
        }
        (_, Pointer::Digest(_)) => Ok(Vec::new()),
    }
}

fn tags_of_digest(store: &dyn ImageStore, digest: Option<&Digest>) -> Result<Vec<String>, Error> {
    let mut tags = Vec::new();
    // An archive may list the image once more without a name.
    for tag in store.tags()?.into_iter().chain([UNNAMED.to_string()]) {
        if store.resolve(&Pointer::Tag(tag.clone()))?.map(|found| found.digest).as_ref() == digest {
            tags.push(tag);
        }
    }
    Ok(tags)
}

fn refuse_several_tags(reference: &Reference, tags: &[String]) -> Result<(), Error> {
    if tags.len() <= 1 {
        return Ok(());
    }
    let doing = format!("choose the tag to move for \"{reference}\"");
    Err(Error::bad_input(doing, format!("{} tags refer to it", tags.len()))
        .hint(format!("add one of the tags: {}", tags.join(", "))))
}

/// Returns the only tag of a digest. The error names the index that the digest is a member of.
fn tag_of_digest(reference: &Reference, store: &dyn ImageStore, digest: &Digest) -> Result<String, Error> {
    let doing = format!("choose the tag to move for \"{reference}\"");
    let mut tags = tags_of_digest(store, Some(digest))?;
    refuse_several_tags(reference, &tags)?;
    if let Some(tag) = tags.pop() {
        return Ok(tag);
    }
    for tag in store.tags()?.into_iter().chain([UNNAMED.to_string()]) {
        let pointer = Pointer::Tag(tag.clone());
        if store.resolve(&pointer)?.is_none() {
            continue;
        }
        let document = store.read_document(&pointer)?.parse().map_err(|e| e.at(&doing))?;
        if matches!(document, ParsedDocument::Index(index) if index.manifests.iter().any(|m| m.digest == *digest))
        {
            let name = name_of(&store.display_name(), &tag);
            let hint = format!("use {name}; with --set-platform, add --platform {digest}");
            return Err(Error::bad_input(doing, format!("it is a member of {name}")).hint(hint));
        }
    }
    Err(Error::bad_input(doing, "no tag refers to it").hint("use --tag, or --output"))
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
