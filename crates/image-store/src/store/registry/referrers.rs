//! Requests to the referrers API, with pagination.

use super::RegistryStore;
use super::tags::{EMPTY_PAGES_MAX, next_page};
use crate::store::ImageSource;
use crate::store::ReferrerList;
use error::Error;
use image_model::digest::Digest;
use image_model::manifest::{DOCUMENT_MAX, Document, ParsedDocument, media_type};
use registry_client::api_error;

/// Maximum number of pages: an image has a few signatures and SBOMs.
const PAGES_MAX: usize = 100;
const ENTRIES_MAX: usize = 10_000;

/// Returns what the registry lists as referrers of `subject`.
pub fn list(store: &RegistryStore, subject: &Digest) -> Result<ReferrerList, Error> {
    let action = format!("list the referrers of \"{}@{subject}\"", store.display_name());
    let wrong = |reason: String| Error::bad_input(&*action, reason);
    let mut found = Vec::new();
    let mut next = Some(store.url(&format!("referrers/{subject}")));
    let mut empty_pages = 0;
    for _ in 0..PAGES_MAX {
        let Some(url) = next else { return Ok(ReferrerList::Complete(found)) };
        if empty_pages >= EMPTY_PAGES_MAX {
            break;
        }
        let mut request = store.request(&action, "GET", url.clone());
        request.headers.push(("Accept", media_type::OCI_INDEX.into()));
        let (head, body) = store.client.fetch(&request, DOCUMENT_MAX)?;
        match head.status {
            200 => {}
            // The specification has 404 for a registry without the API; some registries return the others.
            400 | 404 | 405 | 501 => return Ok(ReferrerList::TagSchema(found)),
            _ => return Err(api_error::from_head(&action, &head, &body)),
        }
        let page = Document::new(body, head.header("content-type")).and_then(|page| page.parse());
        match page.map_err(|e| wrong(e.to_string()))? {
            ParsedDocument::Index(index) => {
                empty_pages = if index.manifests.is_empty() { empty_pages + 1 } else { 0 };
                found.extend(index.manifests);
                if found.len() > ENTRIES_MAX {
                    return Err(wrong(format!("there are more than {ENTRIES_MAX}")));
                }
            }
            ParsedDocument::Manifest(_) => {
                return Err(wrong("the response is an image manifest, not an index".into()));
            }
        }
        next = next_page(store, &url, &head).map_err(wrong)?;
    }
    Err(wrong("the list did not end".into()))
}
