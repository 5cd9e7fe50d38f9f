//! Blob uploads and mounts: one POST that opens a session, one PUT with the whole blob.
//!
//! Uploads are not chunked: every registry that follows the specification accepts a blob of any size in one request, and
//! each chunk would cost a round trip. If a large PUT breaks off, a GET of the session tells how many bytes arrived, and
//! another PUT sends the rest. docker-registry 2.8 forgets an interrupted session (404); then the whole blob is sent in a
//! new one.

use super::RegistryStore;
use crate::store::{ImageSource, OpenContent};
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_model::manifest::Descriptor;
use registry_client::{
    ApiRequest, HttpResponse, RequestBody, RequestFailure, RequiredScopes, RetryAfter, Scopes, Url,
    api_error, retry, upload_location,
};

/// Up to this many bytes, a new session costs no more than resuming the old one.
const RESUME_ABOVE: u64 = 1 << 20;

/// Uploads a blob. It uses the session of a failed mount, or one that was opened in advance, if there is one.
pub fn write_blob(store: &RegistryStore, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
    let action = format!("write blob {} to \"{}\"", blob.digest, store.display_name());
    let mut session = store.sessions().remove(&blob.digest).or_else(|| store.prepared().take());
    let mut broken = None;
    let mut may_be_there = false;
    let written = retry(store.client.retry_policy(), || {
        // If only the response was lost, the blob is there.
        if may_be_there && store.has_blob(blob).map_err(RequestFailure::permanent)? {
            return Ok(());
        }
        let resumed = broken.take().and_then(|location| resume(store, blob, location));
        let (location, from) = match (resumed, session.take()) {
            (Some(resumed), _) => resumed,
            (None, Some(location)) => (location, 0),
            (None, None) => (open_session(store, &action).map_err(RequestFailure::permanent)?, 0),
        };
        may_be_there = true;
        put(store, &action, blob, &location, from, open).inspect_err(|failure| {
            // A blob of two parts that was refused is not resumed a second time.
            let can_resume = from == 0 && blob.size > RESUME_ABOVE && failure.retry != RetryAfter::Never;
            if can_resume { broken = Some(location) } else { cancel(store, &location) }
        })
    });
    if let Some(location) = broken {
        cancel(store, &location);
    }
    written
}

/// Returns the URL of an interrupted session, and the offset of the next byte. A session that received nothing or that
/// the registry does not know is canceled.
fn resume(store: &RegistryStore, blob: &Descriptor, location: Url) -> Option<(Url, u64)> {
    let action = "resume an upload";
    let response = store.client.attempt(&store.request(action, "GET", location.clone()));
    let found = response.ok().and_then(|response| {
        let received =
            response.header("range").and_then(received_bytes).filter(|received| *received < blob.size);
        let next = session_url(store, action, &response).unwrap_or_else(|_| location.clone());
        let is_open = matches!(response.status, 200 | 202 | 204);
        response.discard();
        received.filter(|_| is_open).map(|received| (next, received))
    });
    if found.is_none() {
        cancel(store, &location);
    }
    found
}

/// Parses the `Range` of a session: `0-6` means seven bytes. `0-0` means one byte or none, and counts as none.
fn received_bytes(range: &str) -> Option<u64> {
    let range = range.trim().strip_prefix("bytes=").unwrap_or(range.trim());
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    last.checked_add(1).filter(|bytes| *bytes > 1)
}

fn open_session(store: &RegistryStore, action: &str) -> Result<Url, Error> {
    let url = store.url("blobs/uploads/");
    let response = store.client.send(&store.request(action, "POST", url))?;
    match response.status {
        202 => session_url(store, action, &response),
        _ => Err(api_error::from_response(action, response)),
    }
}

/// Opens a session in advance, for the next blob. An error is ignored: the upload reports it.
pub fn prepare(store: &RegistryStore) {
    if let Ok(location) = open_session(store, "start an upload")
        && let Some(unused) = store.prepared().replace(location)
    {
        cancel(store, &unused);
    }
}

fn session_url(store: &RegistryStore, action: &str, response: &HttpResponse) -> Result<Url, Error> {
    upload_location(store.auth.registry(), &response.url, response.header("location"))
        .map_err(|reason| Error::not_permitted(action, format!("{}: {reason}", response.url.host_and_port())))
}

fn put(
    store: &RegistryStore,
    action: &str,
    blob: &Descriptor,
    location: &Url,
    from: u64,
    open: OpenContent<'_>,
) -> Result<(), RequestFailure> {
    let url = location.clone().with_query("digest", blob.digest.as_str());
    let mut request = store.request(action, "PUT", url);
    request.body = RequestBody::Blob { digest: &blob.digest, size: blob.size, from, open };
    request.headers.push(("Content-Type", "application/octet-stream".into()));
    if from > 0 {
        request.headers.push(("Content-Range", format!("{from}-{}", blob.size - 1)));
    }
    let response = store.client.attempt(&request)?;
    match response.status {
        200 | 201 | 204 => check_digest(action, response.header("docker-content-digest"), &blob.digest),
        // The session is gone: it timed out, or the registry restarted. A new one may work.
        404 | 410 | 416 => Err(RequestFailure::transient(api_error::from_response(action, response))),
        // It may have stored other bytes of the first part than it reported.
        400 if from > 0 => Err(RequestFailure::transient(api_error::from_response(action, response))),
        _ => Err(RequestFailure::permanent(api_error::from_response(action, response))),
    }
}

/// Compares the digest that a registry reports with the digest of what was sent.
pub fn check_digest(action: &str, stored: Option<&str>, sent: &Digest) -> Result<(), RequestFailure> {
    let Some(stored) = stored.and_then(|stored| stored.parse::<Digest>().ok()) else { return Ok(()) };
    if stored.algorithm() != sent.algorithm() || stored == *sent {
        return Ok(());
    }
    let reason = format!("the registry stored {stored}, {sent} was sent");
    Err(RequestFailure::permanent(Error::integrity(action, reason)))
}

/// Cancels a session. An error is ignored: registries remove unused sessions after some time.
pub fn cancel(store: &RegistryStore, location: &Url) {
    drop(store.client.attempt(&store.request("cancel an upload", "DELETE", location.clone())));
}

/// Mounts a blob from another repository of this registry. Returns `false` if the registry does not mount it; it may open
/// an upload session instead, which `write_blob` then uses.
pub fn mount(store: &RegistryStore, blob: &Descriptor, from: &str) -> Result<bool, Error> {
    if store.refused_mounts().contains(from) {
        return Ok(false);
    }
    let action = format!("mount blob {} from \"{from}\" in \"{}\"", blob.digest, store.display_name());
    let required = RequiredScopes { extra: Scopes::repository(from, &["pull"]), ..store.required.clone() };
    let url = store.url("blobs/uploads/").with_query("mount", blob.digest.as_str()).with_query("from", from);
    let request = ApiRequest { required: &required, ..store.request(&action, "POST", url) };
    let response = match store.client.send(&request) {
        Ok(response) => response,
        // There is no token for the other repository. Whether this one may be written is up to the upload.
        Err(error) if error.kind == Exit::NotPermitted => {
            store.refused_mounts().insert(from.into());
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    match response.status {
        201 => {
            let checked = check_digest(&action, response.header("docker-content-digest"), &blob.digest);
            checked.map(|()| true).map_err(|failure| failure.error)
        }
        202 => {
            // An invalid Location is reported by the upload itself.
            if let Ok(location) = session_url(store, &action, &response) {
                store.sessions().insert(blob.digest.clone(), location);
            }
            Ok(false)
        }
        status => {
            if matches!(status, 401 | 403) {
                store.refused_mounts().insert(from.into());
            }
            response.discard();
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_session_is_the_number_of_bytes() {
        let check = |range: &str, bytes: Option<u64>| assert_eq!(received_bytes(range), bytes, "{range}");
        check("0-6", Some(7));
        check("bytes=0-6", Some(7));
        check("0-0", None);
        check("3-6", None);
        check("0--1", None);
        check("0-18446744073709551615", None);
        check("", None);
    }
}
