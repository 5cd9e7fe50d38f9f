//! HTTP/1.1 as far as a registry needs it: heads, both framings of a body, responses from memory or from a file.
//!
//! Requests that two parsers could read differently (smuggling) are refused.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::PathBuf;

/// The maximum length of a head, similar to that of real servers (Go: 1 MiB, nginx: 32 KiB).
const HEAD_LIMIT: u64 = 256 * 1024;

/// One of the three servers of a fake registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// `/v2/...`
    Registry,
    /// `/token`, the realm of the Bearer challenge.
    Token,
    /// The target of blob redirects: blobs without authentication, as from a CDN.
    Blobs,
}

/// A request as it was sent, without its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// 1 for the first request of this registry; one count over all three listeners.
    pub number: usize,
    pub listener: Listener,
    pub method: String,
    /// Path and query, not decoded.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// HTTP/1.0 closes after the response.
    pub(super) keep_alive: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The path without the query.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The first value of a query key, decoded.
    pub fn query(&self, key: &str) -> Option<String> {
        self.queries(key).into_iter().next()
    }

    /// Every value of a query key, decoded: `scope` may occur several times.
    pub fn queries(&self, key: &str) -> Vec<String> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        form(query).into_iter().filter(|(name, _)| name == key).map(|(_, value)| value).collect()
    }

    /// The repository in the path.
    pub fn repository(&self) -> Option<String> {
        super::routes::Route::of(self.route()).repository().map(str::to_owned)
    }

    pub fn is_manifest(&self) -> bool {
        self.listener == Listener::Registry && self.route().contains("/manifests/")
    }

    pub fn is_blob(&self) -> bool {
        self.route().contains("/blobs/") && !self.is_upload()
    }

    pub fn is_upload(&self) -> bool {
        self.route().contains("/blobs/uploads")
    }
}

/// Framing of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// `None` if the peer has closed the connection between requests, which is not an error.
pub(super) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut limited = reader.take(HEAD_LIMIT);
    // A handshake record of TLS begins with 22, RFC 8446 section 5.1; no method does.
    if limited.fill_buf()?.first() == Some(&22) {
        return Err(malformed("a TLS handshake at a plain port".to_owned()));
    }
    let mut line = String::new();
    if limited.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed(format!("request line {line:?}")));
    };
    let (method, path, version) = (method.to_owned(), path.to_owned(), version.to_owned());
    if !path.starts_with('/') {
        return Err(malformed(format!("target {path:?} is not a path")));
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Err(malformed("the head is cut or longer than 256 KiB".to_owned()));
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(format!("header line {line:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request =
        Request { number: 0, listener: Listener::Registry, method, path, headers, keep_alive: false };
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    request.keep_alive = version == "HTTP/1.1" && !connection.contains("close");
    Ok(Some(request))
}

/// Two lengths, or a length and chunks, allow request smuggling and are refused (RFC 9112 section 6.3).
pub(super) fn framing(request: &Request) -> Result<Framing, String> {
    let all = |name: &str| -> Vec<&str> {
        let named = request.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    };
    let (lengths, encodings) = (all("content-length"), all("transfer-encoding"));
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            length.parse().map(Framing::Length).map_err(|_| format!("Content-Length {length:?} is no number"))
        }
        ([], [encoding]) if encoding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        _ => Err(format!("Content-Length {lengths:?} with Transfer-Encoding {encodings:?}")),
    }
}

/// A request body. Reads exactly to its end, so that the next request can be read.
pub(super) struct Body<'a, R> {
    reader: &'a mut R,
    /// Bytes left in the body, or in the chunk at hand.
    left: u64,
    chunked: bool,
    ended: bool,
    /// Responds to `Expect: 100-continue` when the first byte is read.
    waiting: Option<&'a TcpStream>,
    /// A scripted fault: reading fails after this number of bytes.
    cut: Option<u64>,
    taken: u64,
}

impl<'a, R: BufRead> Body<'a, R> {
    pub(super) fn new(reader: &'a mut R, framing: Framing, waiting: Option<&'a TcpStream>) -> Self {
        let (left, chunked) = match framing {
            Framing::Length(length) => (length, false),
            Framing::Chunked => (0, true),
        };
        Body { reader, left, chunked, ended: !chunked && left == 0, waiting, cut: None, taken: 0 }
    }

    pub(super) fn cut_after(&mut self, bytes: u64) {
        self.cut = Some(bytes);
    }

    /// Body bytes read so far, without the framing of chunks.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut line = String::new();
        self.reader.take(1024).read_line(&mut line)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16).map_err(|_| malformed(format!("chunk size {line:?}")))?;
        if self.left == 0 {
            // Trailers, if there are any, end with an empty line.
            loop {
                let mut trailer = String::new();
                if self.reader.take(8192).read_line(&mut trailer)? == 0 || trailer.trim().is_empty() {
                    break;
                }
            }
            self.ended = true;
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Body<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        if let Some(mut stream) = self.waiting.take() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if self.chunked && self.left == 0 {
            self.next_chunk()?;
            if self.ended {
                return Ok(0);
            }
        }
        let mut most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if let Some(cut) = self.cut {
            let room = cut.saturating_sub(self.taken);
            if room == 0 {
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "scripted cut"));
            }
            most = most.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        let got = self.reader.read(&mut into[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        self.taken += got as u64;
        if self.left == 0 {
            if self.chunked {
                let mut end = [0; 2];
                self.reader.read_exact(&mut end)?;
                if &end != b"\r\n" {
                    return Err(malformed("a chunk does not end where it says".to_owned()));
                }
            } else {
                self.ended = true;
            }
        }
        Ok(got)
    }
}

/// The body of a response.
#[derive(Debug)]
pub(super) enum Payload {
    Bytes(Vec<u8>),
    /// A part of a file: blobs may be larger than memory.
    File {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
}

impl Payload {
    pub(super) fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File { length, .. } => *length,
        }
    }
}

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) payload: Payload,
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        Response { status, headers: Vec::new(), payload: Payload::Bytes(Vec::new()) }
    }

    /// An error in the form of the distribution spec.
    pub(super) fn error(status: u16, code: &str, message: impl Into<String>) -> Self {
        let error = serde_json::json!({ "errors": [{ "code": code, "message": message.into() }] });
        Response::new(status).with("Content-Type", "application/json").bytes(error.to_string().into_bytes())
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.payload = Payload::Bytes(bytes);
        self
    }

    pub(super) fn remove_header(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub(super) fn set_header(&mut self, name: &str, value: &str) {
        self.remove_header(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }
}

/// Changes to a response by faults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sending {
    /// Only the head is sent: the response to HEAD.
    pub(super) head_only: bool,
    /// Payload bytes after which sending stops; Content-Length is still that of the complete payload.
    pub(super) stop_after: Option<u64>,
    /// The offset of the payload byte in which a bit is flipped.
    pub(super) flip: Option<u64>,
    /// A pause after every single byte of the payload.
    pub(super) pause: Option<std::time::Duration>,
}

/// `close` sets the header; the caller closes the connection.
pub(super) fn write_response(
    stream: &mut impl Write,
    response: &Response,
    sending: Sending,
    close: bool,
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    let own_length = response.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !own_length && response.status != 204 && response.status != 304 {
        head.push_str(&format!("Content-Length: {}\r\n", response.payload.len()));
    }
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if sending.head_only {
        return stream.flush();
    }
    let end = sending.stop_after.unwrap_or(u64::MAX).min(response.payload.len());
    let mut source: Box<dyn Read + '_> = match &response.payload {
        Payload::Bytes(bytes) => Box::new(bytes.as_slice()),
        Payload::File { path, offset, .. } => {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*offset))?;
            Box::new(file)
        }
    };
    let mut buffer = vec![0; 64 * 1024];
    let mut sent = 0;
    while sent < end {
        let most = buffer.len().min(usize::try_from(end - sent).unwrap_or(usize::MAX));
        let got = source.read(&mut buffer[..most])?;
        if got == 0 {
            break;
        }
        if let Some(place) = sending.flip.and_then(|place| place.checked_sub(sent))
            && let Some(byte) = usize::try_from(place).ok().and_then(|place| buffer[..got].get_mut(place))
        {
            *byte ^= 0x01;
        }
        match sending.pause {
            None => stream.write_all(&buffer[..got])?,
            Some(pause) => {
                for byte in &buffer[..got] {
                    stream.write_all(&[*byte])?;
                    std::thread::sleep(pause);
                }
            }
        }
        sent += got as u64;
    }
    stream.flush()
}

/// `a=1&b=x%20y` as pairs, decoded.
pub(super) fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Scripted",
    }
}

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(framing: Framing, wire: &str) -> (io::Result<String>, String) {
        let mut reader = wire.as_bytes();
        let mut body = Body::new(&mut reader, framing, None);
        let mut text = String::new();
        let read = body.read_to_string(&mut text).map(|_| text);
        (read, String::from_utf8_lossy(reader).into_owned())
    }

    #[test]
    fn a_body_ends_where_the_next_request_begins() {
        for (framing, wire) in [
            (Framing::Length(5), "helloGET /"),
            (Framing::Chunked, "2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\n\r\nGET /"),
            (Framing::Chunked, "5\r\nhello\r\n0\r\nTrailer: x\r\n\r\nGET /"),
        ] {
            let (read, rest) = body_of(framing, wire);
            assert_eq!((read.unwrap().as_str(), rest.as_str()), ("hello", "GET /"), "{wire:?}");
        }
    }

    #[test]
    fn a_cut_body_is_an_error_and_not_a_short_body() {
        for (framing, wire) in
            [(Framing::Length(6), "hello"), (Framing::Chunked, "5\r\nhel"), (Framing::Chunked, "zz\r\n")]
        {
            assert!(body_of(framing, wire).0.is_err(), "{wire:?}");
        }
    }

    #[test]
    fn requests_that_two_parsers_read_differently_are_refused() {
        for headers in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: -1\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
        ] {
            let wire = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            let request = read_head(&mut wire.as_bytes()).unwrap().unwrap();
            assert!(framing(&request).is_err(), "{headers:?}");
        }
    }

    #[test]
    fn queries_are_decoded_and_keep_their_repetitions() {
        let wire = "GET /token?scope=repository%3Aa%2Fb%3Apull&scope=x+y&n=%zz HTTP/1.1\r\n\r\n";
        let request = read_head(&mut wire.as_bytes()).unwrap().unwrap();
        assert_eq!(request.queries("scope"), ["repository:a/b:pull", "x y"]);
        assert_eq!(request.query("n").as_deref(), Some("%zz"));
        assert_eq!(request.route(), "/token");
    }
}
