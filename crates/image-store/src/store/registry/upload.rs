//! A blob on its way up: one POST that opens a session, one PUT with all of it. It is not cut into chunks: every
//! registry that follows the specification takes a blob in one piece, of any size, and each chunk would cost a round
//! trip. Where a large PUT breaks off, the session is asked how far it came, and the rest follows. docker-registry 2.8
//! forgets a session that broke (404); then all of it goes into a new one.

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

/// Below this, a new session costs no more than asking how far the old one came.
const RESUME_ABOVE: u64 = 1 << 20;

/// Brings a blob up. A session that a failed mount left open, or that was begun in advance, is used first.
pub fn write_blob(store: &RegistryStore, blob: &Descriptor, open: OpenContent<'_>) -> Result<(), Error> {
    let action = format!("write blob {} to \"{}\"", blob.digest, store.display_name());
    let mut session = store.sessions().remove(&blob.digest).or_else(|| store.expected().take());
    let mut broken = None;
    let mut doubtful = false;
    let written = retry(store.client.retry_policy(), || {
        // An answer that was lost may have been a yes.
        if doubtful && store.has_blob(blob).map_err(RequestFailure::permanent)? {
            return Ok(());
        }
        let resumed = broken.take().and_then(|place| resume(store, blob, place));
        let (place, from) = match (resumed, session.take()) {
            (Some(resumed), _) => resumed,
            (None, Some(place)) => (place, 0),
            (None, None) => (begin(store, &action).map_err(RequestFailure::permanent)?, 0),
        };
        doubtful = true;
        put(store, &action, blob, &place, from, open).inspect_err(|failure| {
            // What was put together from two pieces and is wrong is not put together from three.
            let may_go_on = from == 0 && blob.size > RESUME_ABOVE && failure.retry != RetryAfter::Never;
            if may_go_on { broken = Some(place) } else { cancel(store, &place) }
        })
    });
    if let Some(place) = broken {
        cancel(store, &place);
    }
    written
}

/// Where a session goes on, and from which byte. A session that came nowhere, or that nobody knows any more, is ended.
fn resume(store: &RegistryStore, blob: &Descriptor, place: Url) -> Option<(Url, u64)> {
    let action = "resume an upload";
    let response = store.client.attempt(&request(
        store,
        action,
        "GET",
        place.clone(),
        RequestBody::Empty,
        &store.required,
    ));
    let found = response.ok().and_then(|response| {
        let has = response.header("range").and_then(has_bytes).filter(|has| *has < blob.size);
        let next = session_of(store, action, &response).unwrap_or_else(|_| place.clone());
        let is_open = matches!(response.status, 200 | 202 | 204);
        response.discard();
        has.filter(|_| is_open).map(|has| (next, has))
    });
    if found.is_none() {
        cancel(store, &place);
    }
    found
}

/// `0-6` stands for seven bytes; `0-0` for one, or for none: it is not worth to find out.
fn has_bytes(range: &str) -> Option<u64> {
    let range = range.trim().strip_prefix("bytes=").unwrap_or(range.trim());
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    last.checked_add(1).filter(|bytes| *bytes > 1)
}

fn begin(store: &RegistryStore, action: &str) -> Result<Url, Error> {
    let url = store.url("blobs/uploads/");
    let response =
        store.client.send(&request(store, action, "POST", url, RequestBody::Empty, &store.required))?;
    match response.status {
        202 => session_of(store, action, &response),
        _ => Err(api_error::from_response(action, response)),
    }
}

/// Opens a session for a blob that is not known yet. Whether one may be opened at all, the upload will tell.
pub fn expect(store: &RegistryStore) {
    if let Ok(place) = begin(store, "start an upload")
        && let Some(unused) = store.expected().replace(place)
    {
        cancel(store, &unused);
    }
}

fn session_of(store: &RegistryStore, action: &str, response: &HttpResponse) -> Result<Url, Error> {
    upload_location(store.auth.registry(), &response.url, response.header("location"))
        .map_err(|reason| Error::not_permitted(action, format!("{}: {reason}", response.url.host_and_port())))
}

fn put(
    store: &RegistryStore,
    action: &str,
    blob: &Descriptor,
    place: &Url,
    from: u64,
    open: OpenContent<'_>,
) -> Result<(), RequestFailure> {
    let url = place.clone().with_query("digest", blob.digest.as_str());
    let body = RequestBody::Blob { digest: &blob.digest, size: blob.size, from, open };
    let mut request = request(store, action, "PUT", url, body, &store.required);
    request.headers.push(("Content-Type", "application/octet-stream".into()));
    if from > 0 {
        request.headers.push(("Content-Range", format!("{from}-{}", blob.size - 1)));
    }
    let response = store.client.attempt(&request)?;
    match response.status {
        200 | 201 | 204 => check_digest(action, response.header("docker-content-digest"), &blob.digest),
        // The session is gone: it timed out, or the registry was started anew. A new one may do.
        404 | 410 | 416 => Err(RequestFailure::transient(api_error::from_response(action, response))),
        // It may have kept other bytes of the first piece than it said.
        400 if from > 0 => Err(RequestFailure::transient(api_error::from_response(action, response))),
        _ => Err(RequestFailure::permanent(api_error::from_response(action, response))),
    }
}

/// A registry that says what it stored must have stored what we sent.
pub fn check_digest(action: &str, said: Option<&str>, sent: &Digest) -> Result<(), RequestFailure> {
    let Some(said) = said.and_then(|said| said.parse::<Digest>().ok()) else { return Ok(()) };
    if said.algorithm() != sent.algorithm() || said == *sent {
        return Ok(());
    }
    let reason = format!("the registry stored {said}, {sent} was sent");
    Err(RequestFailure::permanent(Error::integrity(action, reason)))
}

/// Lets go of a session. Registries clean up behind us in any case, so a failure is of no matter.
pub fn cancel(store: &RegistryStore, place: &Url) {
    let request =
        request(store, "cancel an upload", "DELETE", place.clone(), RequestBody::Empty, &store.required);
    drop(store.client.attempt(&request));
}

/// Takes a blob over from another repository of this registry. A registry that cannot, or must not, opens a session
/// instead, which `write_blob` then uses.
pub fn mount(store: &RegistryStore, blob: &Descriptor, from: &str) -> Result<bool, Error> {
    if store.refused_mounts().contains(from) {
        return Ok(false);
    }
    let action = format!("mount blob {} from \"{from}\" in \"{}\"", blob.digest, store.display_name());
    let required = RequiredScopes { extra: Scopes::repository(from, &["pull"]), ..store.required.clone() };
    let url = store.url("blobs/uploads/").with_query("mount", blob.digest.as_str()).with_query("from", from);
    let response =
        match store.client.send(&request(store, &action, "POST", url, RequestBody::Empty, &required)) {
            Ok(response) => response,
            // No token for the other repository; what is allowed in this one, the upload will tell.
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
            // An upload elsewhere than is allowed is told by the upload itself.
            if let Ok(place) = session_of(store, &action, &response) {
                store.sessions().insert(blob.digest.clone(), place);
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

fn request<'a, 'c>(
    store: &'a RegistryStore,
    action: &'a str,
    method: &'static str,
    url: Url,
    body: RequestBody<'a, 'c>,
    required: &'a RequiredScopes,
) -> ApiRequest<'a, 'c> {
    ApiRequest { action, method, url, headers: Vec::new(), body, required, auth: &store.auth }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_how_far_an_upload_came() {
        let check = |range: &str, bytes: Option<u64>| assert_eq!(has_bytes(range), bytes, "{range}");
        check("0-6", Some(7));
        check("bytes=0-6", Some(7));
        check("0-0", None);
        check("3-6", None);
        check("0--1", None);
        check("0-18446744073709551615", None);
        check("", None);
    }
}
