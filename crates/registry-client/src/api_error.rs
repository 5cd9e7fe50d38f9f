//! Error responses of registries: status and body as an [`Error`] with exit code and hint.

use crate::credentials::credential::login_hint;
use crate::http::transport::{HttpResponse, ResponseHead};
use crate::http::url::Url;
use crate::retry::{RequestFailure, RetryAfter, is_transient, retry_after};
use error::Error;
use error::Exit;
use error::text::Escaped;
use std::time::SystemTime;
use ureq::http::StatusCode;

/// Maximum length of the server's message in an error, in characters.
const SHOWN_MAX: usize = 1024;

/// Converts a response to an error, with the message in its body.
pub fn from_response(action: &str, response: HttpResponse) -> Error {
    let (head, body) = response.read_error_body();
    from_head(action, &head, &body)
}

/// The same for a response whose body was read already.
pub fn from_head(action: &str, head: &ResponseHead, body: &[u8]) -> Error {
    let message = message_in(body);
    let status = StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    let mut reason = format!("{} returned {}", head.url.host_and_port(), head.status);
    if let Some(phrase) = status {
        reason = format!("{reason} {phrase}");
    }
    if !message.is_empty() {
        reason = format!("{reason}: {message}");
    }
    let kind = kind_of(head.status, &message);
    let error = Error::new(kind, action, reason);
    match hint(head, kind, &message) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Returns the response, or a failure to retry if its status is transient.
///
/// # Errors
/// [`RequestFailure`] with the time to wait, if the server gave one.
pub(crate) fn check_transient(action: &str, response: HttpResponse) -> Result<HttpResponse, RequestFailure> {
    if !is_transient(response.status) {
        return Ok(response);
    }
    let asked = response.header("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
    let retry = asked.map_or(RetryAfter::Backoff, RetryAfter::Delay);
    Err(RequestFailure { error: from_response(action, response), retry })
}

fn kind_of(status: u16, message: &str) -> Exit {
    let says = |word: &str| message.to_ascii_lowercase().contains(word);
    match status {
        400 if says("digest_invalid") || says("size_invalid") => Exit::Integrity,
        400 if says("immutable") || says("cannot be overwritten") => Exit::Conflict,
        401 | 403 | 405 | 407 | 451 => Exit::NotPermitted,
        404 | 410 => Exit::NotFound,
        409 | 412 => Exit::Conflict,
        400..=499 if !is_transient(status) => Exit::BadInput,
        _ => Exit::Network,
    }
}

fn hint(head: &ResponseHead, kind: Exit, message: &str) -> Option<String> {
    match (head.status, kind) {
        (400, _) if message.contains("HTTPS") => {
            Some("the registry uses TLS: pass its CA certificate with --ca-file".to_string())
        }
        // The same status without a body, after a HEAD request.
        (400, _) if message.is_empty() && !head.url.is_tls() => {
            Some("if the registry uses TLS, pass its CA certificate with --ca-file".to_string())
        }
        (401, _) => Some(head.auth_hint.clone().unwrap_or_else(|| login_hint(&login_host(&head.url)))),
        (405, _) => Some("the registry may be read-only or not allow deletion".into()),
        (409 | 412 | 400, Exit::Conflict) => Some("if tags are immutable there, choose another tag".into()),
        _ => None,
    }
}

fn login_host(url: &Url) -> String {
    match url.host() {
        "registry-1.docker.io" => "docker.io".into(),
        _ => url.host_and_port(),
    }
}

/// Extracts codes and messages from an error body in the form of the distribution-spec, or the first line of any other
/// text.
fn message_in(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => {
            let one = |error: &serde_json::Value| {
                let part =
                    |key: &str| error.get(key).and_then(|part| part.as_str()).unwrap_or_default().to_string();
                let (code, message) = (part("code"), part("message"));
                let both = [code, message].into_iter().filter(|part| !part.is_empty());
                both.collect::<Vec<_>>().join(": ")
            };
            match value.get("errors").and_then(|errors| errors.as_array()) {
                Some(errors) => errors.iter().take(3).map(one).collect::<Vec<_>>().join("; "),
                // Token servers answer {"details": ..}, {"message": ..} or OAuth's {"error_description": ..}.
                None => ["error_description", "details", "message", "error"]
                    .iter()
                    .find_map(|key| value.get(key).and_then(|text| text.as_str()))
                    .unwrap_or_default()
                    .to_string(),
            }
        }
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
            // The first line of an HTML page has no message.
            if line.starts_with('<') { String::new() } else { line.to_string() }
        }
    };
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    Escaped(&cut).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::HeaderMap;

    fn error(status: u16, body: &str) -> Error {
        let url = Url::parse("https://registry-1.docker.io/v2/a/b").unwrap();
        from_head(
            "read \"a/b\"",
            &ResponseHead { status, headers: HeaderMap::new(), url, auth_hint: None },
            body.as_bytes(),
        )
    }

    #[test]
    fn statuses_map_to_exit_codes() {
        let check =
            |status: u16, body: &str, kind: Exit| assert_eq!(error(status, body).kind, kind, "{status}");
        check(400, "", Exit::BadInput);
        check(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"x"}]}"#, Exit::Integrity);
        check(400, r#"{"errors":[{"code":"TAG_INVALID","message":"tag is Immutable"}]}"#, Exit::Conflict);
        check(401, "", Exit::NotPermitted);
        check(403, "", Exit::NotPermitted);
        check(404, "", Exit::NotFound);
        check(405, "", Exit::NotPermitted);
        check(409, "", Exit::Conflict);
        check(413, "", Exit::BadInput);
        check(415, "", Exit::BadInput);
        check(418, "", Exit::BadInput);
        check(429, "", Exit::Network);
        check(500, "", Exit::Network);
        check(302, "", Exit::Network);
    }

    #[test]
    fn the_servers_message_is_cut_and_escaped() {
        let shown = |status: u16, body: &str| error(status, body).to_string();
        assert_eq!(
            shown(403, r#"{"errors":[{"code":"DENIED","message":"quota \u001b[31m"},{"code":"X"}]}"#),
            "read \"a/b\": registry-1.docker.io returned 403 Forbidden: DENIED: quota \\u{1b}[31m; X"
        );
        assert_eq!(
            shown(401, ""),
            "read \"a/b\": registry-1.docker.io returned 401 Unauthorized; if the repository exists, run: docker login docker.io"
        );
        assert!(shown(400, "\nClient sent an HTTP request to an HTTPS server.").contains("--ca-file"));
        assert!(!shown(502, "<html><body>bad gateway").contains('<'));
        assert!(shown(500, &"x".repeat(100_000)).len() < 1200);
        assert!(shown(418, r#"{"errors":"odd"}"#).contains("418 I'm a teapot"));
    }
}
