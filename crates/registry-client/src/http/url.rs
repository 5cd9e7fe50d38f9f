//! URLs of requests: parsed once, resolved as in RFC 3986, displayed without their query.
//!
//! `fluent-uri` was tried in place of this parser. It refuses `|`, `"`, `{`, `[` and `^` in paths and queries, which signed
//! Locations of storage services contain and which must be sent back byte for byte. It would also add five packages to the
//! build, and the checks below would remain.

use std::fmt;

/// An `http` or `https` URL without user information and fragment. Path and query keep their bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
    tls: bool,
    /// In lowercase; an IPv6 address has brackets.
    host: String,
    port: u16,
    /// Starts with `/`.
    path: String,
    query: Option<String>,
}

impl Url {
    /// Parses an absolute URL.
    ///
    /// # Errors
    /// The reason, without the text: it may contain secrets.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it is not an http or https URL")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("it is not an http or https URL"),
        };
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("it contains characters that are not allowed in a URL");
        }
        if rest.contains('#') {
            return Err("it has a fragment");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.contains('@') {
            return Err("it contains a user name");
        }
        let (host, port) = split_port(authority);
        let port = match port {
            Some(port) => port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("its port is invalid")?,
            None if tls => 443,
            None => 80,
        };
        if !is_host(host) {
            return Err("its host is invalid");
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_string())),
            None => (rest, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { tls, host: host.to_ascii_lowercase(), port, path: path.into(), query })
    }

    /// Resolves the reference in a `Location` or `Link` header against this URL. A fragment is dropped.
    ///
    /// # Errors
    /// As [`Url::parse`].
    pub fn join(&self, reference: &str) -> Result<Self, &'static str> {
        let reference = reference.split('#').next().unwrap_or_default();
        if reference.is_empty() {
            return Err("it is empty");
        }
        let scheme = if self.tls { "https" } else { "http" };
        let origin = format!("{scheme}://{}:{}", self.host, self.port);
        if reference.starts_with("//") {
            return Self::parse(&format!("{scheme}:{reference}"));
        }
        if reference.starts_with('/') {
            return Self::parse(&format!("{origin}{reference}"));
        }
        if reference.starts_with('?') {
            return Self::parse(&format!("{origin}{}{reference}", self.path));
        }
        let path_part = reference.split(['/', '?']).next().unwrap_or_default();
        if path_part.contains(':') {
            return Self::parse(reference);
        }
        let parent = self.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Self::parse(&format!("{origin}{parent}/{reference}"))
    }

    /// Returns the URL of another path on the same origin, without a query.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        Self { path: path.into(), query: None, ..self.clone() }
    }

    /// Appends `key=value` to the query, percent-encoded.
    #[must_use]
    pub fn with_query(mut self, key: &str, value: &str) -> Self {
        let pair = format!("{key}={}", encode(value));
        self.query = Some(match self.query {
            Some(query) if !query.is_empty() => format!("{query}&{pair}"),
            _ => pair,
        });
        self
    }

    /// Returns the same URL with `https`; port 80 becomes 443.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        if !self.tls && self.port == 80 {
            self.port = 443;
        }
        self.tls = true;
        self
    }

    /// Returns whether the scheme is `https`.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host without port; an IPv6 address has brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, which may be the default of the scheme.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, and the port unless it is the default of the scheme.
    pub fn host_and_port(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Scheme, host and port, which credentials and connections belong to.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.host_and_port())
    }

    /// Returns whether scheme, host and port are the same.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.tls == other.tls && self.host == other.host && self.port == other.port
    }

    /// The whole URL, to be sent and never to be displayed: its query may contain secrets.
    pub fn unredacted(&self) -> String {
        match &self.query {
            Some(query) => format!("{}{}?{query}", self.origin(), self.path),
            None => format!("{}{}", self.origin(), self.path),
        }
    }
}

/// Displays the URL without its query, which may contain signatures.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.origin(), self.path, if self.query.is_some() { "?..." } else { "" })
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Splits `host:port` and `[v6]:port`.
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    let after_address = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_address..].split_once(':') {
        Some((between, port)) => (&authority[..after_address + between.len()], Some(port)),
        None => (authority, None),
    }
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    }
}

/// Percent encoding of all but RFC 3986's unreserved characters.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_in_rfc_3986() {
        let base = Url::parse("https://r.example:5000/v2/a/b/uploads/1?s=x").unwrap();
        let check = |reference: &str, joined: &str| {
            assert_eq!(base.join(reference).unwrap().unredacted(), joined, "{reference}");
        };
        check("/v2/u/2?_state=a%3D", "https://r.example:5000/v2/u/2?_state=a%3D");
        check("https://CDN.example/x#y", "https://cdn.example/x");
        check("http://cdn.example:80/x", "http://cdn.example/x");
        check("//cdn.example/x", "https://cdn.example/x");
        check("?n=2", "https://r.example:5000/v2/a/b/uploads/1?n=2");
        check("2?n=1:2", "https://r.example:5000/v2/a/b/uploads/2?n=1:2");
        check("https://[::1]:8443", "https://[::1]:8443/");
    }

    #[test]
    fn unsupported_urls_are_refused() {
        let check = |text: &str, reason: &str| {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        };
        check("https://user:secret@host/", "user name");
        check("https://host/#x", "fragment");
        check("ftp://host/", "not an http");
        check("file:///etc/passwd", "not an http");
        check("host/path", "not an http");
        check("https:///path", "host");
        check("https://ho st/", "characters");
        check("https://host:0/", "port");
        check("https://host:99999/", "port");
        check("https://[::1/", "port");
        check("https://a\u{e4}.example/", "characters");
    }

    #[test]
    fn a_query_is_kept_and_never_displayed() {
        let url = Url::parse("https://h/u?_state=secret").unwrap().with_query("digest", "sha256:ab");
        assert_eq!(url.unredacted(), "https://h/u?_state=secret&digest=sha256%3Aab");
        assert_eq!(
            (url.to_string(), format!("{url:?}")),
            ("https://h/u?...".into(), "https://h/u?...".into())
        );
    }

    #[test]
    fn ports_are_split_off() {
        assert_eq!(split_port("a:1"), ("a", Some("1")));
        assert_eq!(split_port("[::1]:1"), ("[::1]", Some("1")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("a"), ("a", None));
    }
}
