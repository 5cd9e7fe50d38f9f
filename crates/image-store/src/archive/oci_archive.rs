//! OCI image layouts in a tar: what `skopeo copy ... oci-archive:FILE`, `podman save --format oci-archive` and
//! BuildKit's `--output type=oci` write.
//!
//! The code is that of `docker save` archives of Docker 25 and later, which are OCI layouts too. Only the names differ: a
//! tag is the annotation of an entry of `index.json`, as written, and there is no `manifest.json` to update.

use super::docker_archive::DockerArchive;
use super::format::names::Naming;
use crate::atomic_file::TempFiles;
use crate::store::{ImageSource, ImageStore, OpenContent, Pointer, ReferrerList};
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document};
use std::io::Read;
use std::path::Path;

/// An OCI archive.
pub struct OciArchive(DockerArchive);

impl OciArchive {
    /// Opens an existing archive. `tag` selects one of its images.
    ///
    /// # Errors
    /// As [`DockerArchive::open`].
    pub fn open(path: &Path, tag: Option<&str>) -> Result<Self, Error> {
        DockerArchive::open_as(path, tag, Naming::Layout).map(Self)
    }

    /// Opens an archive, or prepares a new one, which is created with the first tag.
    ///
    /// # Errors
    /// As [`DockerArchive::open`].
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        DockerArchive::open_or_create_as(path, Naming::Layout).map(Self)
    }

    /// The same store, whose temporary files are in this list. A program whose store is not opened by
    /// [`Stores`](crate::open::Stores) calls this before the first write.
    #[must_use]
    pub fn with_temp_files(self, temp_files: &TempFiles) -> Self {
        Self(self.0.with_temp_files(temp_files))
    }

    /// Returns the archive with the operations of a [`DockerArchive`]; its tags remain those of an OCI layout.
    pub fn into_archive(self) -> DockerArchive {
        self.0
    }

    /// Returns the image that the archive was opened for, or its only image.
    ///
    /// # Errors
    /// As [`DockerArchive::only_image`].
    pub fn only_image(&self) -> Result<Pointer, Error> {
        self.0.only_image()
    }
}

impl ImageSource for OciArchive {
    fn display_name(&self) -> String {
        self.0.display_name()
    }

    fn read_document(&self, at: &Pointer) -> Result<Document, Error> {
        self.0.read_document(at)
    }

    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        self.0.resolve(at)
    }

    fn untagged(&self) -> Result<Vec<Digest>, Error> {
        self.0.untagged()
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        self.0.tags()
    }

    fn tags_of_same_entry(&self, tag: &str) -> Result<Vec<String>, Error> {
        self.0.tags_of_same_entry(tag)
    }

    fn referrers(&self, subject: &Digest) -> Result<ReferrerList, Error> {
        self.0.referrers(subject)
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        self.0.has_blob(blob)
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.0.open_blob(blob)
    }

    fn open_unverified(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.0.open_unverified(blob)
    }
}

impl ImageStore for OciArchive {
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
        self.0.write_blob(blob, open)
    }

    fn write_document(&self, document: &Document) -> Result<(), Error> {
        self.0.write_document(document)
    }

    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        self.0.write_tag(tag, document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tar::TarFile;
    use crate::archive::tar::sample::{archive, file};
    use error::Exit;
    use image_model::digest::Digest;
    use image_model::manifest::media_type;
    use std::fs::{self, File};
    use std::sync::Arc;

    fn image(store: &OciArchive, note: &str) -> Document {
        let config = Descriptor::of(media_type::OCI_CONFIG, note.as_bytes());
        store.write_blob(&config, &|| Ok(Box::new(note.as_bytes()))).unwrap();
        let config = serde_json::to_string(&config).unwrap();
        let text = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[]}}");
        Document::new(text.into_bytes(), None).unwrap()
    }

    fn note(number: u8) -> String {
        format!(
            "{{\"architecture\":\"arm\",\"os\":\"linux\",\"note\":{number},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}}}}"
        )
    }

    fn names(path: &Path) -> Vec<String> {
        let tar = TarFile::read(Arc::new(File::open(path).unwrap())).unwrap();
        tar.members().iter().map(|m| crate::archive::tar::show(tar.name(m))).collect()
    }

    #[test]
    fn tags_are_not_interpreted_as_docker_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.tar");
        let store = OciArchive::open_or_create(&path).unwrap();
        let (one, two) = (image(&store, &note(1)), image(&store, &note(2)));
        store.write_tag("v1", &one).unwrap();
        store.write_tag("v1:latest", &two).unwrap();
        let store = OciArchive::open(&path, Some("v1")).unwrap();
        assert_eq!(store.tags().unwrap(), ["v1", "v1:latest"]);
        assert_eq!(store.read_document(&store.only_image().unwrap()).unwrap(), one);
        assert_eq!(OciArchive::open(&path, Some("v2")).err().map(|e| e.kind), Some(Exit::NotFound));
        assert!(!names(&path).contains(&"manifest.json".to_string()));
        // Blobs that no entry references any more are removed.
        store.write_tag("v1", &image(&store, &note(3))).unwrap();
        let gone = format!("blobs/sha256/{}", Digest::of(note(1).as_bytes()).hex());
        assert!(!names(&path).contains(&gone));
    }

    #[test]
    fn a_docker_save_archive_is_read_but_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.tar");
        let store = DockerArchive::open_or_create(&path).unwrap();
        let config = note(1);
        let blob = Descriptor::of(media_type::OCI_CONFIG, config.as_bytes());
        store.write_blob(&blob, &|| Ok(Box::new(config.as_bytes()))).unwrap();
        let text = format!(
            "{{\"schemaVersion\":2,\"config\":{},\"layers\":[]}}",
            serde_json::to_string(&blob).unwrap()
        );
        store.write_tag("app:1", &Document::new(text.into_bytes(), None).unwrap()).unwrap();
        let before = fs::read(&path).unwrap();
        let store = OciArchive::open(&path, None).unwrap();
        assert_eq!(store.tags().unwrap(), ["1"]);
        let error = store.write_tag("1", &image(&store, &note(2))).unwrap_err();
        assert!(error.kind == Exit::BadInput && error.to_string().contains("use docker-archive:"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_tar_that_is_no_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.tar");
        fs::write(&path, archive(&[file("manifest.json", b"[]")])).unwrap();
        let error = OciArchive::open(&path, None).err().unwrap();
        assert!(error.to_string().contains("no OCI layout in a tar"), "{error}");
    }
}
