//! Traits of image stores. Reading and writing are two traits: code that holds an [`ImageSource`] cannot write.

use error::{Error, Exit};
use image_model::digest::{Digest, Verified};
use image_model::manifest::{Descriptor, Document};
use std::fmt;
use std::io::Read;
use std::ops::Range;

pub mod memory;
pub mod oci_layout;
pub mod registry;

/// A tag or digest that refers to a document of a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pointer {
    /// A tag. In archives and in the Docker Engine it is a whole image name, `app:1`.
    Tag(String),
    /// The digest of a manifest or index.
    Digest(Digest),
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<&Digest> for Pointer {
    fn from(digest: &Digest) -> Self {
        Self::Digest(digest.clone())
    }
}

pub use crate::layout_tags::UNNAMED;

/// Manifests whose subject is a given document, as a store lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferrerList {
    /// All of them: the store lists a manifest under its subject when it is written.
    Complete(Vec<Descriptor>),
    /// Those that the store has seen. The tag that is made of the subject's digest may refer to an index of more
    /// (distribution-spec 1.1, "Referrers Tag Schema").
    TagSchema(Vec<Descriptor>),
}

/// What a tag refers to.
#[derive(Clone, Debug)]
pub struct TaggedDocument {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// `None` if the document is damaged, or the store cannot read it quickly.
    pub document: Option<Document>,
}

impl From<&Document> for TaggedDocument {
    fn from(document: &Document) -> Self {
        Self { descriptor: document.descriptor(), document: Some(document.clone()) }
    }
}

/// Reads a store. Everything that it returns was verified against its digest and size.
pub trait ImageSource: Send + Sync {
    /// The store as messages refer to it: `127.0.0.1:5000/app`, `oci:dist/out`.
    fn display_name(&self) -> String;

    /// Returns the manifest or index that `at` refers to.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Integrity` if its content has another digest or size.
    fn read_document(&self, at: &Pointer) -> Result<Document, Error>;

    /// Returns the descriptor of what `at` refers to, without fetching it; `None` if there is no such document. What
    /// a registry answers about a tag was not verified.
    ///
    /// # Errors
    /// `Network` or `NotPermitted` from a registry; `Local`, `BadInput` or `Integrity` if a local store cannot be read. An
    /// absent document is no error.
    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error>;

    /// Returns what a tag refers to; `None` if there is no such tag. A document that is damaged is left out.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    fn read_tag(&self, tag: &str) -> Result<Option<TaggedDocument>, Error> {
        let at = Pointer::Tag(tag.into());
        match self.read_document(&at) {
            Ok(document) => Ok(Some(TaggedDocument::from(&document))),
            Err(error) if error.kind == Exit::NotFound => Ok(None),
            Err(error) if matches!(error.kind, Exit::BadInput | Exit::Integrity) => {
                let found = self.resolve(&at)?;
                Ok(found.map(|descriptor| TaggedDocument { descriptor, document: None }))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns all tags of the store, sorted.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `NotFound` for a repository that does not exist.
    fn tags(&self) -> Result<Vec<String>, Error>;

    /// Returns the images of a local store that have no tag.
    ///
    /// # Errors
    /// As [`Self::tags`].
    fn untagged(&self) -> Result<Vec<Digest>, Error> {
        Ok(Vec::new())
    }

    /// Returns all tags, or `None` if that takes more than one request.
    ///
    /// # Errors
    /// As [`Self::tags`].
    fn tags_in_one_request(&self) -> Result<Option<Vec<String>>, Error> {
        self.tags().map(Some)
    }

    /// Returns the other tags that belong to the same entry of the store's index as this one. Only archives have such
    /// tags.
    ///
    /// # Errors
    /// As [`Self::tags`].
    fn tags_of_same_entry(&self, _tag: &str) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Returns the manifests whose subject is `subject`, as far as the store lists them.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    fn referrers(&self, _subject: &Digest) -> Result<ReferrerList, Error> {
        Ok(ReferrerList::TagSchema(Vec::new()))
    }

    /// Returns whether a blob of this digest and size can be read here.
    ///
    /// # Errors
    /// As [`Self::resolve`]. An absent blob is no error.
    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error>;

    /// Returns a reader of a blob. It fails at the end if the content has another digest or size.
    ///
    /// # Errors
    /// `NotFound` if there is no such blob.
    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error>;

    /// Returns a reader of a blob that need not verify it. It is for [`ImageStore::write_blob`], which verifies what it
    /// reads: to hash a layer twice takes longer than to send it.
    ///
    /// # Errors
    /// As [`Self::open_blob`].
    fn open_unverified(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.open_blob(blob)
    }

    /// Returns a reader of these bytes of a blob, or `None` if the store gives out whole blobs only. The bytes are not
    /// verified: the caller must compare them with a digest of their own.
    ///
    /// # Errors
    /// As [`Self::open_blob`].
    fn open_blob_range<'a>(
        &'a self,
        _blob: &Descriptor,
        _part: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, Error> {
        Ok(None)
    }

    /// Returns whether the store can hold an index with all its images, not only single images.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    fn supports_indexes(&self) -> Result<bool, Error> {
        Ok(true)
    }

    /// Returns how many requests to the store may run at once: `wanted`, or fewer if the user set a lower limit.
    fn concurrency(&self, wanted: usize) -> usize {
        wanted
    }

    /// Returns the host and repository from which another repository of the same registry may mount blobs.
    fn mount_origin(&self) -> Option<(String, String)> {
        None
    }
}

pub use registry_client::OpenContent;

/// Writes a store.
pub trait ImageStore: ImageSource {
    /// Writes a blob. `Ok` means that the store has the blob, not that this call wrote it.
    ///
    /// # Errors
    /// `Integrity` if the content that `open` returns has another digest or size.
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error>;

    /// Mounts a blob from another repository of the same registry. `Ok(false)` means that it must be written instead.
    ///
    /// # Errors
    /// As [`Self::write_blob`]. A registry that refuses to mount is no error.
    fn mount_blob(&self, _blob: &Descriptor, _host: &str, _repository: &str) -> Result<bool, Error> {
        Ok(false)
    }

    /// Writes a manifest or index under its digest, without a tag. Everything it references must be there already.
    ///
    /// # Errors
    /// `BadInput` if something that it references is absent.
    fn write_document(&self, document: &Document) -> Result<(), Error>;

    /// Writes a manifest that has a subject, which need not be there. `Ok(true)` means that the store lists it under
    /// its subject from now on.
    ///
    /// # Errors
    /// As [`Self::write_document`].
    fn write_referrer(&self, document: &Document) -> Result<bool, Error> {
        self.write_document(document).map(|()| false)
    }

    /// Prepares to write a blob soon: for stores where that begins with a round trip.
    fn prepare_blob_write(&self) {}

    /// Writes a document and makes `tag` refer to it. A reader sees the old document or the new one. `Ok` means that
    /// it is found under the tag.
    ///
    /// # Errors
    /// As [`Self::write_document`]; `BadInput` for a tag that the store cannot have,
    /// `Conflict` if another process has the lock of a local store or changed it.
    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error>;

    /// Does what [`Self::write_tag`] does if `tag` still refers to `was` (`None`: to nothing), or to this document
    /// already. Stores with a lock compare while they hold it. The others write whatever the tag refers to: a registry
    /// can only be asked before.
    ///
    /// # Errors
    /// As [`Self::write_tag`]. A tag that was moved is no error.
    fn move_tag(&self, tag: &str, _was: Option<&Digest>, document: &Document) -> Result<TagMove, Error> {
        self.write_tag(tag, document).map(|()| TagMove::Done)
    }
}

/// Result of [`ImageStore::move_tag`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum TagMove {
    /// The tag refers to the document.
    Done,
    /// The tag refers to this digest now, and was left alone.
    Conflict(Option<Digest>),
}

/// Reads a whole blob of at most `limit` bytes, such as a config.
///
/// # Errors
/// `BadInput` if it is larger, `Integrity` if its content has another digest or size.
pub fn read_blob(source: &dyn ImageSource, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
    let doing = || format!("read blob {} of \"{}\"", blob.digest, source.display_name());
    if blob.size > limit {
        let why = format!("it has {} bytes; the limit is {limit}", blob.size);
        return Err(Error::bad_input(doing(), why));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
    let reader = source.open_blob(blob)?;
    // One byte more than the descriptor says: a blob that is too long must fail, not be cut.
    let mut reader = Verified::new(reader, &blob.digest, blob.size, "blob").take(blob.size + 1);
    reader.read_to_end(&mut bytes).map_err(|e| Error::from_io(doing(), e))?;
    Ok(bytes)
}
