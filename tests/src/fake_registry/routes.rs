//! The distribution API: effect and response of each method.

use std::io::Read;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::http::{Payload, Request, Response};
use super::state::{Manifest, Upload, digest_like};
use super::{Shared, lock};

/// The meaning of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Version,
    Catalog,
    Manifest(&'a str, &'a str),
    Blob(&'a str, &'a str),
    /// `.../blobs/uploads/`: a new upload.
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Tags(&'a str),
    Referrers(&'a str, &'a str),
    Unknown,
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Self {
        let Some(rest) = path.strip_prefix("/v2") else { return Route::Unknown };
        let rest = match rest {
            "" | "/" => return Route::Version,
            "/_catalog" => return Route::Catalog,
            _ => rest.trim_start_matches('/'),
        };
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Route::Tags(name);
        }
        if let Some((name, id)) = rest.rsplit_once("/blobs/uploads/") {
            return if id.is_empty() { Route::Uploads(name) } else { Route::Upload(name, id) };
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            return Route::Uploads(name);
        }
        let parts = [
            ("/manifests/", Route::Manifest as fn(&'a str, &'a str) -> Route<'a>),
            ("/blobs/", Route::Blob),
            ("/referrers/", Route::Referrers),
        ];
        for (separator, route) in parts {
            if let Some((name, last)) = rest.rsplit_once(separator) {
                return route(name, last);
            }
        }
        Route::Unknown
    }

    pub(super) fn repository(&self) -> Option<&'a str> {
        match self {
            Route::Manifest(name, _)
            | Route::Blob(name, _)
            | Route::Uploads(name)
            | Route::Upload(name, _)
            | Route::Tags(name)
            | Route::Referrers(name, _) => Some(name),
            Route::Version | Route::Catalog | Route::Unknown => None,
        }
    }
}

pub(super) fn answer(shared: &Shared, request: &Request, body: &mut dyn Read) -> Response {
    let path = request.route();
    let route = Route::of(path);
    if let Some(name) = route.repository()
        && !is_name(name)
    {
        return Response::error(400, "NAME_INVALID", format!("invalid repository name {name:?}"));
    }
    match (request.method.as_str(), route) {
        ("GET" | "HEAD", Route::Version) => {
            let version = Response::new(200).with("Docker-Distribution-API-Version", "registry/2.0");
            version.with("Content-Type", "application/json").bytes(b"{}".to_vec())
        }
        ("GET", Route::Catalog) => {
            let state = lock(&shared.state);
            json_answer(&json!({ "repositories": state.repositories.keys().collect::<Vec<_>>() }))
        }
        ("GET" | "HEAD", Route::Manifest(name, reference)) => get_manifest(shared, name, reference),
        ("PUT", Route::Manifest(name, reference)) => put_manifest(shared, request, name, reference, body),
        ("DELETE", Route::Manifest(name, reference)) => delete_manifest(shared, name, reference),
        ("GET" | "HEAD", Route::Blob(name, digest)) => get_blob(shared, request, name, digest),
        ("DELETE", Route::Blob(name, digest)) => delete_blob(shared, name, digest),
        ("POST", Route::Uploads(name)) => start_upload(shared, request, name, body),
        (method, Route::Upload(name, id)) => {
            let held = lock(&shared.state).uploads.get(id).cloned();
            let held = held.filter(|upload| lock(upload).repository == name);
            let Some(upload) = held else {
                return Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload session");
            };
            continue_upload(shared, request, method, (name, id), &upload, body)
        }
        ("GET", Route::Tags(name)) => list_tags(shared, request, name),
        ("GET", Route::Referrers(name, digest)) if shared.options.referrers => {
            list_referrers(shared, request, name, digest)
        }
        (_, Route::Unknown | Route::Referrers(..)) => Response::error(404, "NOT_FOUND", path),
        (method, _) => Response::error(405, "UNSUPPORTED", format!("{method} is not for {path}")),
    }
}

/// The storage behind a redirect: any blob by digest, without authentication.
pub(super) fn storage(shared: &Shared, request: &Request) -> Response {
    let digest = request.route().rsplit('/').next().unwrap_or_default();
    let state = lock(&shared.state);
    match state.any_blob(digest) {
        Some(blob) => ranged(shared.options.ranges, request, blob.path.clone(), blob.size),
        None => Response::error(404, "BLOB_UNKNOWN", digest),
    }
}

// --- manifests

fn get_manifest(shared: &Shared, name: &str, reference: &str) -> Response {
    let state = lock(&shared.state);
    if !state.repositories.contains_key(name) {
        return Response::error(404, "NAME_UNKNOWN", format!("repository {name} is not known"));
    }
    match state.resolve(name, reference) {
        Some((digest, manifest)) => Response::new(200)
            .with("Content-Type", manifest.media_type.clone())
            .with("Docker-Content-Digest", digest.clone())
            .with("ETag", format!("\"{digest}\""))
            .bytes(manifest.bytes.clone()),
        None => Response::error(404, "MANIFEST_UNKNOWN", format!("manifest {reference} is not known")),
    }
}

fn put_manifest(
    shared: &Shared,
    request: &Request,
    name: &str,
    reference: &str,
    body: &mut dyn Read,
) -> Response {
    let invalid = |why: String| Response::error(400, "MANIFEST_INVALID", why);
    let limit = shared.options.manifest_limit;
    let mut bytes = Vec::new();
    if let Err(error) = body.take(limit + 1).read_to_end(&mut bytes) {
        return invalid(error.to_string());
    }
    if bytes.len() as u64 > limit {
        // Debian's docker-registry 2.8.2 responds with 400; the distribution spec asks for 413.
        return Response::error(413, "SIZE_INVALID", format!("a manifest has at most {limit} bytes"));
    }
    let Some(media_type) = request.header("content-type") else {
        return invalid("no Content-Type".to_owned());
    };
    let value: Value = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        Err(error) => return invalid(error.to_string()),
    };
    if let Some(inside) = value.get("mediaType")
        && inside.as_str() != Some(media_type)
    {
        return invalid(format!("mediaType {inside} was sent as {media_type}"));
    }
    let digest = digest_like(reference, &bytes);
    if reference.contains(':') && reference != digest {
        shared.violation(format!("{name}: manifest {digest} was sent as {reference}"));
        return Response::error(400, "DIGEST_INVALID", format!("the bytes hash to {digest}"));
    }
    if !reference.contains(':') && !is_tag(reference) {
        return Response::error(400, "TAG_INVALID", reference);
    }
    let mut state = lock(&shared.state);
    let missing = state.missing_of(name, &value);
    if !missing.is_empty() {
        let all = missing.join(", ");
        shared.violation(format!("{name}:{reference} was put before what it names: {all}"));
        return Response::error(400, "MANIFEST_BLOB_UNKNOWN", all);
    }
    for contradiction in state.contradictions_of(name, &value) {
        shared.violation(format!("{name}:{reference}: {contradiction}"));
    }
    let repository = state.repository(name);
    repository.manifests.insert(digest.clone(), Manifest { media_type: media_type.to_owned(), bytes });
    if !reference.contains(':') {
        repository.tags.insert(reference.to_owned(), digest.clone());
    }
    drop(state);
    let location = location(shared, request, &format!("/v2/{name}/manifests/{digest}"));
    let mut created =
        Response::new(201).with("Location", location).with("Docker-Content-Digest", digest.clone());
    if let (true, Some(subject)) = (shared.options.referrers, value["subject"]["digest"].as_str()) {
        created = created.with("OCI-Subject", subject);
    }
    created
}

fn delete_manifest(shared: &Shared, name: &str, reference: &str) -> Response {
    if !shared.options.deletes {
        return Response::error(405, "UNSUPPORTED", "deletes are off");
    }
    let mut state = lock(&shared.state);
    let repository = state.repository(name);
    let gone = if reference.contains(':') {
        repository.tags.retain(|_, digest| digest != reference);
        repository.manifests.remove(reference).is_some()
    } else {
        repository.tags.remove(reference).is_some()
    };
    if gone { Response::new(202) } else { Response::error(404, "MANIFEST_UNKNOWN", reference) }
}

// --- blobs

fn get_blob(shared: &Shared, request: &Request, name: &str, digest: &str) -> Response {
    let state = lock(&shared.state);
    let Some(blob) = state.blob(name, digest) else {
        return Response::error(404, "BLOB_UNKNOWN", digest);
    };
    if *lock(&shared.redirect_blobs) {
        // A signature in the query is a secret: clients must not print it.
        let to = format!("http://{}/storage/{digest}?signature=s3cr3t", shared.blobs_host);
        return Response::new(307).with("Location", to);
    }
    ranged(shared.options.ranges, request, blob.path.clone(), blob.size)
        .with("Docker-Content-Digest", digest)
        .with("ETag", format!("\"{digest}\""))
}

/// The complete file, or the one requested range.
fn ranged(ranges: bool, request: &Request, path: std::path::PathBuf, size: u64) -> Response {
    let answer = |status, offset, length| {
        let mut answer = Response::new(status).with("Content-Type", "application/octet-stream");
        answer.payload = Payload::File { path, offset, length };
        answer
    };
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some(range) = range.filter(|_| ranges) else {
        let whole = answer(200, 0, size);
        return if ranges { whole.with("Accept-Ranges", "bytes") } else { whole };
    };
    let (first, last) = match range.split_once('-') {
        Some(("", tail)) => {
            (tail.parse().ok().map(|tail: u64| size.saturating_sub(tail)), size.checked_sub(1))
        }
        Some((first, "")) => (first.parse().ok(), size.checked_sub(1)),
        Some((first, last)) => {
            (first.parse().ok(), last.parse::<u64>().ok().map(|last| last.min(size.saturating_sub(1))))
        }
        None => (None, None),
    };
    match (first, last) {
        (Some(first), Some(last)) if first <= last => answer(206, first, last - first + 1)
            .with("Content-Range", format!("bytes {first}-{last}/{size}"))
            .with("Accept-Ranges", "bytes"),
        _ => Response::error(416, "SIZE_INVALID", range).with("Content-Range", format!("bytes */{size}")),
    }
}

fn delete_blob(shared: &Shared, name: &str, digest: &str) -> Response {
    if !shared.options.deletes {
        return Response::error(405, "UNSUPPORTED", "deletes are off");
    }
    if lock(&shared.state).repository(name).blobs.remove(digest) {
        return Response::new(202);
    }
    Response::error(404, "BLOB_UNKNOWN", digest)
}

// --- uploads

fn start_upload(shared: &Shared, request: &Request, name: &str, body: &mut dyn Read) -> Response {
    if let Some(digest) = request.query("mount") {
        let mut state = lock(&shared.state);
        let from = request.query("from").unwrap_or_default();
        if shared.options.mounts && state.blob(&from, &digest).is_some() {
            state.repository(name).blobs.insert(digest.clone());
            drop(state);
            return blob_created(shared, request, name, &digest);
        }
    }
    let opened = lock(&shared.state).open_upload(name);
    let id = match opened {
        Ok(id) => id,
        Err(error) => return Response::error(500, "UNKNOWN", error.to_string()),
    };
    let Some(upload) = lock(&shared.state).uploads.get(&id).cloned() else {
        return Response::error(500, "UNKNOWN", "the new session is gone");
    };
    if request.query("digest").is_some() {
        if !shared.options.single_post {
            // The spec allows a registry to ignore the body and to respond as to a plain POST.
            return session(shared, request, name, &id, &lock(&upload), 202);
        }
        return finish_upload(shared, request, (name, &id), &upload, body);
    }
    let answer = session(shared, request, name, &id, &lock(&upload), 202);
    match shared.options.chunk_minimum {
        Some(minimum) => answer.with("OCI-Chunk-Min-Length", minimum.to_string()),
        None => answer,
    }
}

fn continue_upload(
    shared: &Shared,
    request: &Request,
    method: &str,
    (name, id): (&str, &str),
    upload: &Arc<Mutex<Upload>>,
    body: &mut dyn Read,
) -> Response {
    let stale = request.query("_state") != Some(lock(upload).size.to_string());
    if stale && !shared.options.resumable && method != "DELETE" {
        // docker-registry 2.8.2 keeps the offset in a signed `_state`: only the latest Location works.
        return Response::error(404, "BLOB_UPLOAD_INVALID", "upload resumed at wrong offset");
    }
    match method {
        "GET" | "HEAD" => session(shared, request, name, id, &lock(upload), 204),
        "PATCH" => {
            let mut held = lock(upload);
            if let Some(range) = request.header("content-range")
                && range.split('-').next().and_then(|first| first.parse().ok()) != Some(held.size)
            {
                shared.violation(format!("{name}: PATCH of {range} to {} bytes", held.size));
                let refused = session(shared, request, name, id, &held, 416);
                return refused;
            }
            if let Some(short) = held.short_chunk {
                shared.violation(format!("{name}: a chunk of {short} bytes is under the announced minimum"));
            }
            let added = match held.append(body) {
                Ok(added) => added,
                Err(error) => return Response::error(400, "BLOB_UPLOAD_INVALID", error.to_string()),
            };
            held.short_chunk = shared.options.chunk_minimum.filter(|minimum| added < *minimum).map(|_| added);
            session(shared, request, name, id, &held, 202)
        }
        "PUT" => finish_upload(shared, request, (name, id), upload, body),
        "DELETE" => {
            lock(&shared.state).uploads.remove(id);
            Response::new(204)
        }
        _ => Response::error(405, "UNSUPPORTED", method),
    }
}

fn finish_upload(
    shared: &Shared,
    request: &Request,
    (name, id): (&str, &str),
    upload: &Arc<Mutex<Upload>>,
    body: &mut dyn Read,
) -> Response {
    let Some(wanted) = request.query("digest").filter(|digest| is_digest(digest)) else {
        return Response::error(400, "DIGEST_INVALID", "no digest, or none that is understood");
    };
    let mut held = lock(upload);
    if let Some(range) = request.header("content-range")
        && range.split('-').next().and_then(|first| first.parse().ok()) != Some(held.size)
    {
        shared.violation(format!("{name}: PUT of {range} to {} bytes", held.size));
        return session(shared, request, name, id, &held, 416);
    }
    let found = held.append(body).and_then(|_| held.digest(&wanted));
    let path = held.path.clone();
    drop(held);
    let found = match found {
        Ok(found) => found,
        Err(error) => return Response::error(400, "BLOB_UPLOAD_INVALID", error.to_string()),
    };
    let mut state = lock(&shared.state);
    state.uploads.remove(id);
    if found != wanted {
        shared.violation(format!("{name}: a blob was finished as {wanted} and hashes to {found}"));
        return Response::error(400, "DIGEST_INVALID", format!("the bytes hash to {found}"));
    }
    if let Err(error) = state.adopt_blob(name, &found, path) {
        return Response::error(500, "UNKNOWN", error.to_string());
    }
    drop(state);
    blob_created(shared, request, name, &found)
}

fn blob_created(shared: &Shared, request: &Request, name: &str, digest: &str) -> Response {
    let location = location(shared, request, &format!("/v2/{name}/blobs/{digest}"));
    Response::new(201).with("Location", location).with("Docker-Content-Digest", digest)
}

/// Location and range of the session. `0-0` means no byte or one byte, as in real registries.
fn session(
    shared: &Shared,
    request: &Request,
    name: &str,
    id: &str,
    upload: &Upload,
    status: u16,
) -> Response {
    let path = format!("/v2/{name}/blobs/uploads/{id}?_state={}", upload.size);
    Response::new(status)
        .with("Location", location(shared, request, &path))
        .with("Range", format!("0-{}", upload.size.saturating_sub(1)))
        .with("Docker-Upload-UUID", id)
}

fn location(shared: &Shared, request: &Request, path: &str) -> String {
    match request.header("host") {
        Some(host) if !shared.options.relative_locations => format!("http://{host}{path}"),
        _ => path.to_owned(),
    }
}

// --- lists

fn list_tags(shared: &Shared, request: &Request, name: &str) -> Response {
    let state = lock(&shared.state);
    let Some(repository) = state.repositories.get(name) else {
        return Response::error(404, "NAME_UNKNOWN", name);
    };
    let requested = request.query("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let most = requested.min(shared.options.tag_page);
    let last = request.query("last").unwrap_or_default();
    let mut tags: Vec<&String> = repository.tags.keys().filter(|tag| **tag > last).take(most + 1).collect();
    let more = tags.len() > most;
    tags.truncate(most);
    let page = json_answer(&json!({ "name": name, "tags": tags }));
    match tags.last().filter(|_| more) {
        Some(last) => page.with("Link", format!("</v2/{name}/tags/list?last={last}&n={most}>; rel=\"next\"")),
        None => page,
    }
}

fn list_referrers(shared: &Shared, request: &Request, name: &str, digest: &str) -> Response {
    let wanted = request.query("artifactType");
    let state = lock(&shared.state);
    let mut found = Vec::new();
    for (own, manifest) in state.repositories.get(name).into_iter().flat_map(|held| &held.manifests) {
        let Ok(value) = serde_json::from_slice::<Value>(&manifest.bytes) else { continue };
        if value["subject"]["digest"].as_str() != Some(digest) {
            continue;
        }
        let kind = value["artifactType"].as_str().or_else(|| value["config"]["mediaType"].as_str());
        if wanted.is_some() && kind != wanted.as_deref() {
            continue;
        }
        let mut descriptor = json!({
            "mediaType": manifest.media_type, "size": manifest.bytes.len(), "digest": own, "artifactType": kind,
        });
        if let Some(annotations) = value.get("annotations") {
            descriptor["annotations"] = annotations.clone();
        }
        found.push(descriptor);
    }
    let index = "application/vnd.oci.image.index.v1+json";
    let mut answer = json_answer(&json!({ "schemaVersion": 2, "mediaType": index, "manifests": found }));
    answer.set_header("Content-Type", index);
    if wanted.is_some() { answer.with("OCI-Filters-Applied", "artifactType") } else { answer }
}

fn json_answer(value: &Value) -> Response {
    Response::new(200).with("Content-Type", "application/json").bytes(value.to_string().into_bytes())
}

// --- syntax of the distribution spec

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/...)*`, at most 255 bytes.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        ends(part.as_bytes().first())
            && ends(part.as_bytes().last())
            && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
            && !part.contains("..")
    };
    name.len() <= 255 && name.split('/').all(part)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(digest: &str) -> bool {
    let (length, hex) = match digest.split_once(':') {
        Some(("sha256", hex)) => (64, hex),
        Some(("sha512", hex)) => (128, hex),
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
