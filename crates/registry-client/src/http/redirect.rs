//! The `Location` header of redirects and uploads.

use crate::http::url::Url;

/// Maximum number of redirects of one request.
pub const REDIRECTS_MAX: usize = 5;

/// Returns whether a status is a redirect.
pub fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect of GET or HEAD. A redirect from https to http is refused.
pub fn redirect_target(from: &Url, location: Option<&str>) -> Result<Url, String> {
    let location = location.ok_or("its redirect has no Location header")?;
    let to = from
        .join(location)
        .map_err(|reason| format!("its redirect has an invalid Location header: {reason}"))?;
    if from.is_tls() && !to.is_tls() {
        return Err(format!("it redirects from https to {to}"));
    }
    Ok(to)
}

/// Returns the URL at which an upload continues. If it is on the registry's own host, the scheme stays as it was chosen: a
/// registry behind a proxy that terminates TLS names itself with http. Another host must use TLS.
///
/// # Errors
/// The reason, if there is no valid Location or it has no TLS.
pub fn upload_location(registry: &Url, from: &Url, location: Option<&str>) -> Result<Url, String> {
    let location = location.ok_or("its response to the upload request has no Location header")?;
    let to = from.join(location).map_err(|reason| {
        format!("its response to the upload request has an invalid Location header: {reason}")
    })?;
    if to.same_origin(registry) || to.is_tls() {
        return Ok(to);
    }
    let with_tls = to.clone().with_tls();
    if with_tls.same_origin(registry) {
        return Ok(with_tls);
    }
    Err(format!("it redirects the upload to {to}, without TLS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_tls() {
        let check = |from: &str, location: Option<&str>, meant: &str| {
            let shown = match redirect_target(&Url::parse(from).unwrap(), location) {
                Ok(url) => url.unredacted(),
                Err(reason) => reason,
            };
            assert!(shown.contains(meant), "{shown}");
        };
        check("https://r/v2/x", Some("https://cdn/y?sig=1"), "https://cdn/y?sig=1");
        check("https://r/v2/x", Some("/y"), "https://r/y");
        check("http://r/v2/x", Some("https://cdn/y"), "https://cdn/y");
        check("http://r/v2/x", Some("http://cdn/y"), "http://cdn/y");
        check("https://r/v2/x", Some("http://cdn/y?sig=s3cret"), "from https to http://cdn/y?...");
        check("https://r/v2/x", None, "no Location header");
        check("https://r/v2/x", Some("https://u:p@cdn/"), "user name");
        check("https://r/v2/x", Some("ftp://cdn/"), "not an http");
    }

    #[test]
    fn uploads_continue_at_the_registry_or_with_tls() {
        let check = |registry: &str, location: Option<&str>, meant: &str| {
            let registry = Url::parse(registry).unwrap();
            let from = registry.join("/v2/a/blobs/uploads/").unwrap();
            let shown = match upload_location(&registry, &from, location) {
                Ok(url) => url.unredacted(),
                Err(reason) => reason,
            };
            assert!(shown.contains(meant), "{shown}");
        };
        check("http://127.0.0.1:5000", Some("/v2/u?_state=1"), "http://127.0.0.1:5000/v2/u?_state=1");
        check("https://r", Some("https://r:443/u"), "https://r/u");
        check("https://r", Some("http://r/u"), "https://r/u");
        check("https://r:5000", Some("http://r:5000/u"), "https://r:5000/u");
        check("https://r", Some("https://store.example/u"), "https://store.example/u");
        check("https://r", Some("http://store.example/u"), "without TLS");
        check("http://r", Some("http://r:81/u"), "without TLS");
        check("https://r", None, "no Location header");
    }
}
