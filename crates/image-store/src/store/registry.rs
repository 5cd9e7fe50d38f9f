//! The store of a repository in a registry (OCI distribution-spec).
//!
//! This file has the operations that take one request; `upload`, `tags` and `referrers` are those of several requests.
//! Authentication, redirects and retries are in the package `registry-client`.

use super::{ImageSource, ImageStore, OpenContent, Pointer, ReferrerList};
use error::Error;
use error::text;
use image_model::digest::{Digest, Verified};
use image_model::manifest::{DOCUMENT_MAX, Descriptor, Document, PUSH_MAX, media_type};
use image_model::reference::{ReferenceError, RegistryRef};
use registry_client::{
    ApiRequest, Client, Download, RegistryAuth, RequestBody, RequestFailure, RequiredScopes, Scopes, Url,
    api_error, retry,
};
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod referrers;
mod tags;
mod upload;

/// A repository of a registry.
pub struct RegistryStore {
    client: Client,
    auth: Arc<RegistryAuth>,
    host: String,
    repository: String,
    required: RequiredScopes,
    /// Unused upload sessions, which the registry opened in place of a mount.
    sessions: Mutex<HashMap<Digest, Url>>,
    /// An upload session that was opened in advance, for the next blob.
    prepared: Mutex<Option<Url>>,
    /// Whether the registry has shown that it has no referrers API.
    has_no_referrers_api: AtomicBool,
    /// Repositories that blobs may not be mounted from.
    refused_mounts: Mutex<HashSet<String>>,
}

impl RegistryStore {
    /// Opens a repository for reading, without a request. `host` is as in an image reference: `docker.io`,
    /// `127.0.0.1:5000`.
    ///
    /// Open all stores of a job before the first request, so that one token is requested for all of them.
    ///
    /// # Errors
    /// `BadInput` if host or repository are invalid.
    pub fn reading(client: &Client, host: &str, repository: &str) -> Result<Self, Error> {
        Self::new(client, host, repository, &["pull"])
    }

    /// Opens a repository for reading and writing; else as [`RegistryStore::reading`].
    ///
    /// # Errors
    /// As [`RegistryStore::reading`].
    pub fn writing(client: &Client, host: &str, repository: &str) -> Result<Self, Error> {
        Self::new(client, host, repository, &["pull", "push"])
    }

    fn new(client: &Client, host: &str, repository: &str, actions: &[&str]) -> Result<Self, Error> {
        // Both become parts of URLs.
        let name = format!("{host}/{repository}");
        let RegistryRef { host, repository, .. } = name.parse().map_err(|e: ReferenceError| {
            Error::bad_input(format!("use repository \"{name}\""), e.to_string())
        })?;
        let scopes = Scopes::repository(&repository, actions);
        Ok(Self {
            client: client.clone(),
            auth: client.auth(&host, &scopes)?,
            required: RequiredScopes { repository: repository.clone(), scopes, extra: Scopes::default() },
            host,
            repository,
            sessions: Mutex::default(),
            prepared: Mutex::default(),
            has_no_referrers_api: AtomicBool::new(false),
            refused_mounts: Mutex::default(),
        })
    }

    /// The URL of `path` in this repository.
    fn url(&self, path: &str) -> Url {
        self.auth.registry().with_path(&format!("/v2/{}/{path}", self.repository))
    }

    /// A request without headers and body.
    fn request<'a, 'c>(&'a self, action: &'a str, method: &'static str, url: Url) -> ApiRequest<'a, 'c> {
        let (body, headers) = (RequestBody::Empty, Vec::new());
        let (required, auth) = (&self.required, &*self.auth);
        ApiRequest { action, method, url, headers, body, response_size: 0, required, auth }
    }

    fn manifest_request<'a>(
        &'a self,
        action: &'a str,
        method: &'static str,
        at: &Pointer,
    ) -> ApiRequest<'a, 'a> {
        let mut request = self.request(action, method, self.url(&format!("manifests/{at}")));
        request.headers.push(("Accept", media_type::SUPPORTED.join(", ")));
        request
    }

    fn action(&self, verb: &str, at: &Pointer) -> String {
        match at {
            Pointer::Tag(tag) => format!("{verb} \"{}:{tag}\"", self.display_name()),
            Pointer::Digest(digest) => format!("{verb} \"{}@{digest}\"", self.display_name()),
        }
    }

    /// Writes a document. Returns its subject if the registry confirms that it lists the document as a referrer.
    fn put_document(&self, action: &str, at: &str, document: &Document) -> Result<Option<Digest>, Error> {
        let size = document.bytes().len() as u64;
        if size > PUSH_MAX {
            let reason = format!(
                "it has {}; registries accept at most {}",
                text::format_bytes(size),
                text::format_bytes(PUSH_MAX)
            );
            return Err(Error::bad_input(action, reason));
        }
        let mut request = self.request(action, "PUT", self.url(&format!("manifests/{at}")));
        request.headers.push(("Content-Type", document.media_type().into()));
        request.body = RequestBody::Bytes(document.bytes());
        let response = retry(self.client.retry_policy(), || {
            let response = self.client.attempt(&request)?;
            if (200..300).contains(&response.status) {
                return Ok(response);
            }
            let status = response.status;
            let error = api_error::from_response(action, response);
            // The files of distribution's file system driver are not replaced atomically: while another client pushes the same
            // image, blobs that are there are unknown for a moment.
            let is_race = matches!(status, 400 | 404) && error.reason.contains("MANIFEST_BLOB_UNKNOWN");
            Err(if is_race { RequestFailure::transient(error) } else { RequestFailure::permanent(error) })
        })?;
        let checked =
            upload::check_digest(action, response.header("docker-content-digest"), document.digest());
        checked.map_err(|failure| failure.error)?;
        Ok(response.header("oci-subject").and_then(|subject| subject.parse().ok()))
    }

    fn prepared(&self) -> MutexGuard<'_, Option<Url>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Digest, Url>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused_mounts(&self) -> MutexGuard<'_, HashSet<String>> {
        self.refused_mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RegistryStore {
    fn drop(&mut self) {
        let prepared = self.prepared().take();
        let left: Vec<Url> = self.sessions().drain().map(|(_, location)| location).chain(prepared).collect();
        for location in left {
            upload::cancel(self, &location);
        }
    }
}

impl ImageSource for RegistryStore {
    fn display_name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    fn read_document(&self, at: &Pointer) -> Result<Document, Error> {
        let action = self.action("read", at);
        let (head, bytes) = self.client.fetch(&self.manifest_request(&action, "GET", at), DOCUMENT_MAX)?;
        if head.status != 200 {
            return Err(api_error::from_head(&action, &head, &bytes));
        }
        // A digest of an unknown algorithm is ignored.
        let announced = head.header("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
        let requested = match at {
            Pointer::Digest(digest) => Some(digest.clone()),
            Pointer::Tag(_) => None,
        };
        // Check the digest before parsing: altered bytes must not be reported as an invalid image.
        for expected in requested.iter().chain(&announced) {
            if !expected.matches(&bytes) {
                let reason = format!("expected digest {expected}, received {}", Digest::of(&bytes));
                return Err(Error::integrity(action, reason));
            }
        }
        let document = Document::new(bytes, head.header("content-type"))
            .map_err(|e| Error { action: action.clone(), ..e.at("") })?;
        match requested.or(announced) {
            Some(digest) if digest != *document.digest() => document
                .with_digest(&digest)
                .ok_or_else(|| Error::integrity(action, format!("its digest is not {digest}"))),
            _ => Ok(document),
        }
    }

    fn resolve(&self, at: &Pointer) -> Result<Option<Descriptor>, Error> {
        let action = self.action("look up", at);
        let response = self.client.send(&self.manifest_request(&action, "HEAD", at))?;
        match response.status {
            404 => return Ok(None),
            200 | 405 => {}
            _ => return Err(api_error::from_response(&action, response)),
        }
        let announced =
            response.header("docker-content-digest").and_then(|digest| digest.parse::<Digest>().ok());
        if let (Pointer::Digest(requested), Some(announced)) = (at, &announced)
            && requested.algorithm() == announced.algorithm()
            && requested != announced
        {
            let reason = format!("requested digest {requested}, received {announced}");
            return Err(Error::integrity(action, reason));
        }
        let digest = match at {
            Pointer::Digest(requested) => Some(requested.clone()),
            Pointer::Tag(_) => announced,
        };
        let media_type = response.header("content-type").and_then(|value| value.split(';').next());
        match (response.status, digest, response.content_length(), media_type) {
            (200, Some(digest), Some(size), Some(media_type)) => {
                Ok(Some(Descriptor::new(media_type.trim(), digest, size)))
            }
            // A registry without HEAD, or with an incomplete response to it.
            _ => match self.read_document(at) {
                Ok(document) => Ok(Some(document.descriptor())),
                Err(error) if error.kind == error::Exit::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    fn tags(&self) -> Result<Vec<String>, Error> {
        tags::list(self)
    }

    fn tags_in_one_request(&self) -> Result<Option<Vec<String>>, Error> {
        tags::first_page(self)
    }

    fn referrers(&self, subject: &Digest) -> Result<ReferrerList, Error> {
        if self.has_no_referrers_api.load(Ordering::Relaxed) {
            return Ok(ReferrerList::TagSchema(Vec::new()));
        }
        let listed = referrers::list(self, subject)?;
        self.has_no_referrers_api.fetch_or(matches!(listed, ReferrerList::TagSchema(_)), Ordering::Relaxed);
        Ok(listed)
    }

    fn has_blob(&self, blob: &Descriptor) -> Result<bool, Error> {
        let action = format!("look up blob {} of \"{}\"", blob.digest, self.display_name());
        let response =
            self.client.send(&self.request(&action, "HEAD", self.url(&format!("blobs/{}", blob.digest))))?;
        match response.status {
            200 => Ok(response.content_length().is_none_or(|length| length == blob.size)),
            404 => Ok(false),
            _ => Err(api_error::from_response(&action, response)),
        }
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let what = format!("blob of \"{}\"", self.display_name());
        Ok(Box::new(Verified::new(self.open_unverified(blob)?, &blob.digest, blob.size, what)))
    }

    fn open_unverified(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let action = format!("read blob {} of \"{}\"", blob.digest, self.display_name());
        let url = self.url(&format!("blobs/{}", blob.digest));
        let content = Download::open(&self.client, &self.auth, &self.required, action, url, blob.size)?;
        Ok(Box::new(content))
    }

    fn open_blob_range<'a>(
        &'a self,
        blob: &Descriptor,
        part: Range<u64>,
    ) -> Result<Option<Box<dyn Read + Send + 'a>>, Error> {
        let action = format!("read a part of blob {} of \"{}\"", blob.digest, self.display_name());
        let url = self.url(&format!("blobs/{}", blob.digest));
        let whole = Download::new(&self.client, &self.auth, &self.required, action, url, blob.size);
        Ok(whole.part(part)?.map(|part| Box::new(part) as Box<dyn Read + Send>))
    }

    fn concurrency(&self, wanted: usize) -> usize {
        self.client.concurrency(wanted)
    }

    fn mount_origin(&self) -> Option<(String, String)> {
        Some((self.host.clone(), self.repository.clone()))
    }
}

impl ImageStore for RegistryStore {
    fn write_blob(&self, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
        upload::write_blob(self, blob, open)
    }

    fn mount_blob(&self, blob: &Descriptor, host: &str, repository: &str) -> Result<bool, Error> {
        if host != self.host || repository == self.repository {
            return Ok(false);
        }
        upload::mount(self, blob, repository)
    }

    fn write_document(&self, document: &Document) -> Result<(), Error> {
        let action = format!("write manifest {} to \"{}\"", document.digest(), self.display_name());
        self.put_document(&action, document.digest().as_str(), document).map(drop)
    }

    fn write_referrer(&self, document: &Document) -> Result<bool, Error> {
        let action = format!("write manifest {} to \"{}\"", document.digest(), self.display_name());
        let listed = self.put_document(&action, document.digest().as_str(), document)?;
        Ok(listed.is_some())
    }

    fn prepare_blob_write(&self) {
        upload::prepare(self);
    }

    fn write_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        let action = format!("write \"{}:{tag}\"", self.display_name());
        self.put_document(&action, tag, document).map(drop)
    }
}
