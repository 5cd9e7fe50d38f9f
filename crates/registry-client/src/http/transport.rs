//! A single HTTP exchange: connections, time limits, and the errors of a failed exchange.

use crate::http::address::{AddressPolicy, FilteringResolver, ForbiddenAddress, literal};
use crate::http::flow::{MinRateReader, RATE_MIN, VerifiedUpload, WINDOW};
use crate::http::proxy;
use crate::http::tls::{self, TlsSettings};
use crate::http::url::Url;
use crate::options::{RegistryOptions, Reporting};
use crate::retry::RequestFailure;
use error::{Error, io_reason};
use image_model::digest::Digest;
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, HeaderValue, Request};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};

/// Opens a reader of a blob's content. It is called again when the upload is retried.
pub type OpenContent<'a> = &'a (dyn Fn() -> Result<Box<dyn Read + Send + 'a>, Error> + Sync);

const USER_AGENT: &str = concat!("multiarch/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A body longer than this many bytes is announced with `Expect: 100-continue`, so that a server can refuse it before it is
/// sent; curl has the same limit.
const EXPECT_ABOVE: u64 = 1 << 20;
/// A registry may hash and copy a blob before it responds to the PUT: at least this many bytes per second.
const SERVER_RATE: u64 = 20 << 20;

/// A single HTTP request, redirects not followed.
pub struct HttpRequest<'a, 'c> {
    /// The action of error messages: `read "127.0.0.1:5000/app:1"`.
    pub action: &'a str,
    pub method: &'static str,
    pub url: &'a Url,
    pub headers: &'a [(&'static str, String)],
    pub authorization: Option<&'a str>,
    pub body: RequestBody<'a, 'c>,
    /// Expected size of the response's body if it is a blob, else 0.
    pub response_size: u64,
    pub address_policy: AddressPolicy,
}

/// The body of a request. It can be sent again from the start. The content has its own lifetime because the lifetime
/// of an [`OpenContent`] is invariant.
#[derive(Clone, Copy)]
pub enum RequestBody<'a, 'c> {
    /// No body.
    Empty,
    /// A document.
    Bytes(&'a [u8]),
    /// A blob, which is verified while it is sent.
    Blob {
        /// The digest of the whole blob.
        digest: &'a Digest,
        /// The size of the whole blob, in bytes.
        size: u64,
        /// Offset of the first byte to send.
        from: u64,
        /// Opens the content, from byte 0.
        open: OpenContent<'c>,
    },
}

/// A response whose body was not read so far.
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The URL that it came from, after redirects.
    pub url: Url,
    /// The hint of the error if the status is a final 401.
    pub auth_hint: Option<String>,
    body: Body,
    /// The window of the minimum rate of the body.
    window: Duration,
}

/// The connections of a client: one pool per origin and address policy.
pub struct Transport {
    tls: TlsSettings,
    idle: Duration,
    timeout: Duration,
    agents: Mutex<HashMap<(String, AddressPolicy), Agent>>,
    reporting: Reporting,
}

impl Transport {
    pub fn new(options: &RegistryOptions) -> Result<Self, Error> {
        Ok(Self {
            tls: TlsSettings::new(options)?,
            idle: options.idle_timeout,
            timeout: options.timeout.max(Duration::from_secs(1)),
            agents: Mutex::default(),
            reporting: options.reporting.clone(),
        })
    }

    /// Sends a request and reads the head of its response, whatever the status.
    pub fn send(&self, request: &HttpRequest<'_, '_>) -> Result<HttpResponse, RequestFailure> {
        let began = Instant::now();
        self.reporting.meter.count_request();
        let result = self.exchange(request);
        if let Some(trace) = &self.reporting.trace {
            let outcome = match &result {
                Ok(response) => response.status.to_string(),
                Err(failure) => failure.error.reason.clone(),
            };
            trace(&format!(
                "{} {} {outcome} {} ms",
                request.method,
                request.url,
                began.elapsed().as_millis()
            ));
        }
        result
    }

    fn exchange(&self, request: &HttpRequest<'_, '_>) -> Result<HttpResponse, RequestFailure> {
        let agent = self.agent(request)?;
        let mut builder = Request::builder().method(request.method).uri(request.url.unredacted());
        for (name, value) in request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(authorization) = request.authorization {
            builder = builder.header("Authorization", sensitive(request, authorization)?);
        }
        let malformed =
            |e: ureq::http::Error| RequestFailure::permanent(Error::bad_input(request.action, e.to_string()));
        // Trailers of a chunked body are read and dropped within one read, which no other limit ends.
        let body_time = Some(self.timeout + Duration::from_secs(request.response_size / RATE_MIN));
        let sent = match request.body {
            RequestBody::Empty if matches!(request.method, "POST" | "PUT") => {
                agent.run(builder.body(&[] as &[u8]).map_err(malformed)?)
            }
            RequestBody::Empty => {
                let http_request = builder.body(()).map_err(malformed)?;
                agent.run(agent.configure_request(http_request).timeout_recv_body(body_time).build())
            }
            RequestBody::Bytes(bytes) => agent.run(builder.body(bytes).map_err(malformed)?),
            RequestBody::Blob { digest, size, from, open } => {
                let left = size - from;
                if left > EXPECT_ABOVE {
                    builder = builder.header("Expect", "100-continue");
                }
                let content = open().map_err(RequestFailure::permanent)?;
                let mut upload = VerifiedUpload::new(content, digest, size);
                upload.skip(from);
                if let Some(error) = upload.failed {
                    return Err(RequestFailure::permanent(error));
                }
                let body = SendBody::from_reader(&mut upload);
                let http_request = builder.header("Content-Length", left).body(body).map_err(malformed)?;
                let limit = Some(self.idle + Duration::from_secs(size / SERVER_RATE));
                let configured = agent.configure_request(http_request);
                let configured = configured.timeout_per_read(limit).timeout_recv_response(limit);
                let sent = agent.run(configured.build());
                // An error of the content is the cause of the broken request, and says more.
                if let Some(error) = upload.failed {
                    return Err(RequestFailure::permanent(error));
                }
                sent
            }
        };
        let response = sent.map_err(|error| {
            let mut failure = failure_of(request.action, request.url, error);
            if let Some(proxy) = agent.config().proxy() {
                failure.error.reason.push_str(&format!(" (through proxy {}:{})", proxy.host(), proxy.port()));
            }
            failure
        })?;
        let (head, body) = response.into_parts();
        Ok(HttpResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            url: request.url.clone(),
            auth_hint: None,
            body,
            window: self.timeout.min(WINDOW),
        })
    }

    fn agent(&self, request: &HttpRequest<'_, '_>) -> Result<Agent, RequestFailure> {
        let refuse = |error: Error| RequestFailure::permanent(error);
        let key = (request.url.origin(), request.address_policy);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = proxy::for_url(request.url, |name| std::env::var(name).ok())
            .map_err(|reason| refuse(Error::network(request.action, reason)))?;
        // A proxy resolves names itself, and may be on a private network; only a literal address can be checked here.
        let mut address_policy = request.address_policy;
        if proxy.is_some() {
            address_policy = AddressPolicy::Any;
            if let Some(address) =
                literal(request.url.host()).filter(|address| !request.address_policy.allows(*address))
            {
                let reason = format!("the registry refers to {address}, which is not a public address");
                return Err(refuse(Error::not_permitted(request.action, reason)));
            }
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // The client follows redirects, because credentials must not follow to another origin.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            // Digests are of the stored bytes, so that no encoding may be added.
            .accept_encoding("identity")
            .proxy(proxy)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(self.idle))
            .timeout_per_write(Some(self.idle))
            // A head that arrives byte by byte never reaches the limit of a single read.
            .timeout_recv_response(Some((self.idle * 2).min(self.timeout)))
            .timeout_recv_body(Some(self.timeout))
            .max_idle_connections(32)
            .max_idle_connections_per_host(32);
        if request.url.is_tls() {
            config = config.tls_config(self.tls.config(&request.url.host_and_port()).map_err(refuse)?);
        }
        let agent =
            Agent::with_parts(config.build(), DefaultConnector::default(), FilteringResolver(address_policy));
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

impl HttpResponse {
    /// Returns a header if it is there and ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the Content-Length, in bytes.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }

    /// Returns a reader of the body that fails below a minimum rate.
    pub fn into_reader(self) -> impl Read + Send + use<> {
        MinRateReader::new(self.body.into_reader(), self.window)
    }

    /// Reads the start of a body that has an error message. Read errors are ignored.
    pub fn read_error_body(self) -> (ResponseHead, Vec<u8>) {
        let (head, reader) = self.split();
        let mut bytes = Vec::new();
        drop(
            reader
                .with_deadline(Instant::now() + ERROR_BODY_TIME)
                .take(ERROR_BODY_MAX)
                .read_to_end(&mut bytes),
        );
        (head, bytes)
    }

    /// Reads and drops the body: a connection with an unread body cannot be reused.
    pub fn discard(self) {
        self.read_error_body();
    }

    fn split(self) -> (ResponseHead, MinRateReader<impl Read>) {
        let Self { status, headers, url, auth_hint, body, window } = self;
        (ResponseHead { status, headers, url, auth_hint }, MinRateReader::new(body.into_reader(), window))
    }

    /// Reads the whole body, of at most `limit` bytes, until `end`.
    ///
    /// # Errors
    /// `BadInput` if the body is longer than `limit`; `Network` if it breaks off or is late.
    pub fn read(
        self,
        action: &str,
        limit: u64,
        end: Instant,
    ) -> Result<(ResponseHead, Vec<u8>), RequestFailure> {
        let too_long = || {
            let reason = format!("the response is longer than {} bytes", limit);
            RequestFailure::permanent(Error::bad_input(action, reason))
        };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let (head, reader) = self.split();
        let mut bytes = Vec::new();
        let mut reader = reader.with_deadline(end).take(limit + 1);
        reader.read_to_end(&mut bytes).map_err(|error| failure_of(action, &head.url, error.into()))?;
        if bytes.len() as u64 > limit {
            return Err(too_long());
        }
        Ok((head, bytes))
    }
}

/// Maximum number of bytes that are read of an error body.
const ERROR_BODY_MAX: u64 = 64 << 10;

/// Time limit for reading an error body.
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);

/// The head of a response whose body was read.
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The URL that it came from, after redirects.
    pub url: Url,
    /// The hint of the error if the status is a final 401.
    pub auth_hint: Option<String>,
}

impl ResponseHead {
    /// Returns a header if it is there and ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

fn sensitive(request: &HttpRequest<'_, '_>, authorization: &str) -> Result<HeaderValue, RequestFailure> {
    let mut value = HeaderValue::from_str(authorization).map_err(|_| {
        let host = request.url.host();
        let reason =
            format!("the credentials for {host} contain characters that are not allowed in a header");
        RequestFailure::permanent(Error::not_permitted(request.action, reason))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Converts an error of the HTTP library, and decides whether to retry.
pub fn failure_of(action: &str, url: &Url, error: ureq::Error) -> RequestFailure {
    let host = url.host_and_port();
    let network = |reason: String| Error::network(action, format!("{host}: {reason}"));
    match error {
        ureq::Error::Io(error) => io_failure(action, url, error),
        ureq::Error::Rustls(error) => RequestFailure::permanent(tls::failed(action, url, &error.to_string())),
        ureq::Error::Tls(reason) => RequestFailure::permanent(tls::failed(action, url, reason)),
        ureq::Error::Timeout(what) => RequestFailure::transient(network(format!("timed out ({what})"))),
        ureq::Error::HostNotFound => RequestFailure::permanent(network("unknown host".into())),
        ureq::Error::Other(inner) if inner.is::<ForbiddenAddress>() => RequestFailure::permanent(
            Error::not_permitted(action, format!("the registry refers to {host}: {inner}")),
        ),
        ureq::Error::ConnectProxyFailed(reason) if reason.contains("407") => {
            let error = Error::not_permitted(action, format!("the proxy requires authentication ({reason})"));
            RequestFailure::permanent(error.hint("set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT"))
        }
        ureq::Error::ConnectProxyFailed(reason) => RequestFailure::transient(network(reason)),
        ureq::Error::ConnectionFailed | ureq::Error::BodyStalled => {
            RequestFailure::transient(network("the connection failed".into()))
        }
        // A violation of the protocol would be repeated.
        error => RequestFailure::permanent(network(error.to_string())),
    }
}

fn io_failure(action: &str, url: &Url, error: io::Error) -> RequestFailure {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<Error>()) {
        return RequestFailure::permanent(Error::from_io(action, error));
    }
    if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
        return RequestFailure::permanent(tls::failed(action, url, &error.to_string()));
    }
    let text = io_reason(&error);
    let failed = Error::network(action, format!("{}: {text}", url.host_and_port()));
    // getaddrinfo(3): EAI_NONAME is permanent, EAI_AGAIN is not.
    if text.contains("Name or service not known") {
        return RequestFailure::permanent(failed.hint("check the host name of the registry"));
    }
    RequestFailure::transient(failed)
}
