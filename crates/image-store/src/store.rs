//! What every store can do. Reading and writing are two traits: who holds an [`ImageSource`] cannot write.

use error::Error;
use image_model::digest::{Digest, Verified};
use image_model::manifest::{Descriptor, Document};
use std::fmt;
use std::io::Read;
use std::ops::Range;

pub mod memory;
pub mod oci_layout;
pub mod registry;

/// What names a document in a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pointer {
    Tag(String),
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

/// The tag of the one image of a local store that has no name: `skopeo copy ... oci:DIR` writes such an entry,
/// `docker save IMAGE-ID` too. Registries have no such thing.
pub const UNNAMED: &str = "";

/// What a store says about the manifests that name a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// All of them: the store lists a manifest under its subject as it is written.
    ByStore(Vec<Descriptor>),
    /// Those that it has seen. A tag made of the subject's digest may name an index of more
    /// (distribution-spec 1.1, "Referrers Tag Schema").
    ByTag(Vec<Descriptor>),
}

/// Reads a store. Everything that comes out has been held against its digest and size.
pub trait ImageSource: Send + Sync {
    /// Names the store in messages, as a person would write it: `127.0.0.1:5000/app`, `oci:dist/out`.
    fn place(&self) -> String;

    /// The manifest or index that `at` names. A missing one is an error of kind `NotFound`.
    fn read_document(&self, at: &Pointer) -> Result<Document, Error>;

    /// What `at` names now, without fetching it; `None` if there is no such thing. A registry's answer about a
    /// tag is a hint, not a proof.
    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error>;

    /// The tags that the store has, sorted.
    fn tags(&self) -> Result<Vec<String>, Error>;

    /// The same, if they can be had in one round trip.
    fn tags_at_once(&self) -> Result<Option<Vec<String>>, Error> {
        self.tags().map(Some)
    }

    /// Other tags that stand for the same entry of the store's index as this one: only an archive has such tags.
    fn tags_of_same_entry(&self, _tag: &str) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// The manifests that name `subject` as theirs, as far as the store itself knows.
    fn referrers(&self, _subject: &Digest) -> Result<Listed, Error> {
        Ok(Listed::ByTag(Vec::new()))
    }

    /// `Ok(true)` means a blob of this digest and size can be read here.
    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error>;

    /// A blob's bytes. The reader fails at the end if they are not the promised ones.
    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error>;

    /// The same for [`ImageStore::write_blob`], which holds what it is given against digest and size itself: to hash
    /// a layer twice takes longer than to send it.
    fn open_unchecked(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.open_blob(blob)
    }

    /// Some bytes of a blob, which has more than one part. Nothing here can tell whether they are the right ones:
    /// the caller must hold them against a digest of their own. `None`: only whole blobs are to be had.
    fn open_part<'a>(
        &'a self,
        _blob: &Descriptor,
        _part: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, Error> {
        Ok(None)
    }

    /// Can it keep an index, with all its images? `Ok(false)`: one image under a name.
    fn keeps_indexes(&self) -> Result<bool, Error> {
        Ok(true)
    }

    /// The repository from which another repository of the same registry may mount blobs: `(host, repository)`.
    fn mount_origin(&self) -> Option<(String, String)> {
        None
    }
}

pub use registry_client::OpenContent;

/// Writes a store.
pub trait ImageStore: ImageSource {
    /// `Ok` means the store has the blob, not that this call put it there. What `open` gives is held against digest
    /// and size here.
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error>;

    /// Takes a blob over from another repository of the same registry. `Ok(false)`: not possible, write it.
    fn mount_blob(&self, _blob: &Descriptor, _host: &str, _repository: &str) -> Result<bool, Error> {
        Ok(false)
    }

    /// Stores a manifest or index under its digest alone. Everything it names must be there already.
    fn write_document(&self, document: &Document) -> Result<(), Error>;

    /// The same for a manifest that names a subject, which need not be there. `Ok(true)`: the store itself lists it
    /// under its subject from now on.
    fn write_referrer(&self, document: &Document) -> Result<bool, Error> {
        self.write_document(document).map(|()| false)
    }

    /// Says that a blob will probably be written soon, for a store where that begins with a round trip.
    fn expect_blob(&self) {}

    /// Makes `tag` name this document, which becomes visible as a whole or not at all. `Ok` means that a reader
    /// finds the document under the tag.
    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error>;

    /// The same, if `tag` names `was` still (`None`: nothing), or this document already. A store that has a lock looks
    /// while it holds it. The others are written whatever the tag names now: a registry can only be asked before.
    fn move_tag(&self, tag: &str, _was: Option<&Digest>, document: &Document) -> Result<Moved, Error> {
        self.write_tag(tag, document).map(|()| Moved::Yes)
    }
}

/// Did a tag move?
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Moved {
    Yes,
    /// It names this by now, and was left alone.
    Elsewhere(Option<Digest>),
}

/// A whole blob that is small by nature: a config, an attestation.
pub fn read_blob(source: &dyn ImageSource, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
    let doing = || format!("read blob {} of \"{}\"", blob.digest, source.place());
    if blob.size > limit {
        let why = format!("it says it is {} bytes long; at most {limit} are read here", blob.size);
        return Err(Error::bad_input(doing(), why));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
    let reader = source.open_blob(blob)?;
    // One byte more than promised: a blob that is too long must fail, not be cut.
    let mut reader = Verified::new(reader, &blob.digest, blob.size, "blob").take(blob.size + 1);
    reader.read_to_end(&mut bytes).map_err(|e| Error::from_io(doing(), e))?;
    Ok(bytes)
}
