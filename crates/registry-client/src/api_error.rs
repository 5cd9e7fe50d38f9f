//! What a registry's refusal means: its status and its error body as one of our errors.

use crate::http::transport::{HttpResponse, ResponseHead};
use crate::http::url::Url;
use crate::retry::{RequestFailure, RetryAfter, is_transient, retry_after};
use error::Error;
use error::Exit;
use error::text::Escaped;
use std::time::SystemTime;
use ureq::http::StatusCode;

/// Most of an error body that is shown.
const SHOWN_MAX: usize = 1024;

/// The answer as an error. Its body is read for the server's own words.
pub fn from_response(doing: &str, answer: HttpResponse) -> Error {
    let (head, body) = answer.read_words();
    from_head(doing, &head, &body)
}

/// The same for an answer that has been read.
pub fn from_head(doing: &str, head: &ResponseHead, body: &[u8]) -> Error {
    let words = words(body);
    let status = StatusCode::from_u16(head.status).ok().and_then(|status| status.canonical_reason());
    let mut why = format!("{} returned {}", head.url.host_and_port(), head.status);
    if let Some(reason) = status {
        why = format!("{why} {reason}");
    }
    if !words.is_empty() {
        why = format!("{why}: {words}");
    }
    let kind = kind_of(head.status, &words);
    let error = Error::new(kind, doing, why);
    match hint(head, kind, &words) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// An answer that may be another one the next time, as a failure; any other is given back.
pub fn check_transient(doing: &str, answer: HttpResponse) -> Result<HttpResponse, RequestFailure> {
    if !is_transient(answer.status) {
        return Ok(answer);
    }
    let asked = answer.header("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
    let retry = asked.map_or(RetryAfter::Backoff, RetryAfter::Delay);
    Err(RequestFailure { error: from_response(doing, answer), retry })
}

fn kind_of(status: u16, words: &str) -> Exit {
    let says = |word: &str| words.to_ascii_lowercase().contains(word);
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

fn hint(head: &ResponseHead, kind: Exit, words: &str) -> Option<String> {
    match (head.status, kind) {
        (400, _) if words.contains("HTTPS") => {
            Some("the registry uses TLS: pass its CA certificate with --ca-file".to_string())
        }
        // The same from a request that is answered without a body.
        (400, _) if words.is_empty() && !head.url.is_tls() => {
            Some("if the registry uses TLS, pass its CA certificate with --ca-file".to_string())
        }
        (401, _) => {
            let log_in = || format!("if the repository exists, run: docker login {}", login_host(&head.url));
            Some(head.auth_hint.clone().unwrap_or_else(log_in))
        }
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

/// The codes and messages of an error body in the spec's form, or the first line of any other text.
fn words(body: &[u8]) -> String {
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
            // A page for browsers says nothing in its first line.
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
    fn a_refusal_has_the_exit_code_that_a_pipeline_needs() {
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
    fn the_servers_words_are_shown_short_and_escaped() {
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
