//! One HTTP exchange: connections, time limits, and what an exchange that failed means.

use crate::http::address::{AddressPolicy, FilteringResolver, ForbiddenAddress, literal};
use crate::http::flow::{MinRateReader, VerifiedUpload, WINDOW};
use crate::http::proxy;
use crate::http::tls::{self, TlsSettings};
use crate::http::url::Url;
use crate::options::{RegistryOptions, Reporting};
use crate::retry::RequestFailure;
use error::Error;
use image_model::digest::Digest;
use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::http::{HeaderMap, HeaderValue, Request};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};

/// Where a blob's bytes come from. They can be read again from the start when a request must be repeated.
pub type OpenContent<'a> = &'a (dyn Fn() -> Result<Box<dyn Read + Send + 'a>, Error> + Sync);

const USER_AGENT: &str = concat!("multiarch/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A body longer than this is announced first, so that a server can refuse it before it travels; curl has the same
/// limit.
const EXPECT_ABOVE: u64 = 1 << 20;
/// A registry may hash and move what it got before it answers a PUT; this many bytes in a second at least.
const SERVER_PACE: u64 = 20 << 20;

/// A request as it goes over the wire.
pub struct HttpRequest<'a, 'c> {
    /// What a failure was about: `read "127.0.0.1:5000/app:1"`.
    pub doing: &'a str,
    pub method: &'static str,
    pub url: &'a Url,
    pub headers: &'a [(&'static str, String)],
    pub authorization: Option<&'a str>,
    pub body: RequestBody<'a, 'c>,
    pub address_policy: AddressPolicy,
}

/// What goes up with a request. It can be sent again from its start. The content has a lifetime of its own because
/// an [`OpenContent`] cannot be shortened to another.
#[derive(Clone, Copy)]
pub enum RequestBody<'a, 'c> {
    Empty,
    Bytes(&'a [u8]),
    /// From this byte on.
    Blob {
        digest: &'a Digest,
        size: u64,
        from: u64,
        open: OpenContent<'c>,
    },
}

/// A server's answer, its body not yet read.
pub struct HttpResponse {
    pub status: u16,
    pub headers: HeaderMap,
    /// Where it came from, after redirects.
    pub url: Url,
    /// What to do about it if it is a 401 and the last word.
    pub auth_hint: Option<String>,
    body: Body,
    /// In each window of this length some of the body must come.
    window: Duration,
}

/// The connections of the process: one pool for each host.
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

    /// Sends a request and takes the head of its answer, whatever the status.
    pub fn send(&self, wire: &HttpRequest<'_, '_>) -> Result<HttpResponse, RequestFailure> {
        let began = Instant::now();
        self.reporting.meter.asked();
        let result = self.exchange(wire);
        if let Some(trace) = &self.reporting.trace {
            let outcome = match &result {
                Ok(answer) => answer.status.to_string(),
                Err(failure) => failure.error.reason.clone(),
            };
            trace(&format!("{} {} {outcome} {} ms", wire.method, wire.url, began.elapsed().as_millis()));
        }
        result
    }

    fn exchange(&self, wire: &HttpRequest<'_, '_>) -> Result<HttpResponse, RequestFailure> {
        let agent = self.agent(wire)?;
        let mut request = Request::builder().method(wire.method).uri(wire.url.unredacted());
        for (name, value) in wire.headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = wire.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| {
                let why = format!(
                    "the credentials for {} contain characters that are not allowed in a header",
                    wire.url.host()
                );
                RequestFailure::permanent(Error::not_permitted(wire.doing, why))
            })?;
            value.set_sensitive(true);
            request = request.header("Authorization", value);
        }
        let malformed =
            |e: ureq::http::Error| RequestFailure::permanent(Error::bad_input(wire.doing, e.to_string()));
        let sent = match wire.body {
            RequestBody::Empty if matches!(wire.method, "POST" | "PUT") => {
                agent.run(request.body(&[] as &[u8]).map_err(malformed)?)
            }
            RequestBody::Empty => agent.run(request.body(()).map_err(malformed)?),
            RequestBody::Bytes(bytes) => agent.run(request.body(bytes).map_err(malformed)?),
            RequestBody::Blob { digest, size, from, open } => {
                let left = size - from;
                if left > EXPECT_ABOVE {
                    request = request.header("Expect", "100-continue");
                }
                let mut feed = VerifiedUpload::new(open().map_err(RequestFailure::permanent)?, digest, size);
                feed.pass_over(from);
                if let Some(error) = feed.failed {
                    return Err(RequestFailure::permanent(error));
                }
                let body = SendBody::from_reader(&mut feed);
                let request = request.header("Content-Length", left).body(body).map_err(malformed)?;
                let policy = self.idle + Duration::from_secs(size / SERVER_PACE);
                let patient = agent.configure_request(request);
                let patient = patient.timeout_per_read(Some(policy)).timeout_recv_response(Some(policy));
                let sent = agent.run(patient.build());
                // What went wrong at the source says more than the broken request that it left behind.
                if let Some(error) = feed.failed {
                    return Err(RequestFailure::permanent(error));
                }
                sent
            }
        };
        let response = sent.map_err(|error| {
            let mut failure = failure_of(wire.doing, wire.url, error);
            if let Some(proxy) = agent.config().proxy() {
                failure.error.reason.push_str(&format!(" (through proxy {}:{})", proxy.host(), proxy.port()));
            }
            failure
        })?;
        let (head, body) = response.into_parts();
        Ok(HttpResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            url: wire.url.clone(),
            auth_hint: None,
            body,
            window: self.timeout.min(WINDOW),
        })
    }

    fn agent(&self, wire: &HttpRequest<'_, '_>) -> Result<Agent, RequestFailure> {
        let refuse = |error: Error| RequestFailure::permanent(error);
        let key = (wire.url.origin(), wire.address_policy);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = proxy::for_url(wire.url, |name| std::env::var(name).ok())
            .map_err(|why| refuse(Error::network(wire.doing, why)))?;
        // A proxy looks names up itself, and may well stand on a private network; what can be checked here is an
        // address written out.
        let mut address_policy = wire.address_policy;
        if proxy.is_some() {
            address_policy = AddressPolicy::Any;
            if let Some(address) =
                literal(wire.url.host()).filter(|address| !wire.address_policy.allows(*address))
            {
                let why = ForbiddenAddress(address).to_string();
                return Err(refuse(Error::not_permitted(wire.doing, why)));
            }
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed by our own rules.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            // Bytes are hashed as they are stored.
            .accept_encoding("identity")
            .proxy(proxy)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(self.idle))
            .timeout_per_write(Some(self.idle))
            // A head that comes in drops never trips the limit of one read.
            .timeout_recv_response(Some((self.idle * 2).min(self.timeout)))
            .max_idle_connections(32)
            .max_idle_connections_per_host(32);
        if wire.url.is_tls() {
            config = config.tls_config(self.tls.config(&wire.url.host_and_port()).map_err(refuse)?);
        }
        let agent =
            Agent::with_parts(config.build(), DefaultConnector::default(), FilteringResolver(address_policy));
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

impl HttpResponse {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length").and_then(|value| value.parse().ok())
    }

    /// The body at some pace, however long it is.
    pub fn into_reader(self) -> impl Read + Send + use<> {
        MinRateReader::new(self.body.into_reader(), self.window)
    }

    /// The beginning of a body that only says why. What is lost of it is of no matter.
    pub fn read_words(self) -> (ResponseHead, Vec<u8>) {
        let (head, reader) = self.apart();
        let mut bytes = Vec::new();
        drop(reader.ends_by(Instant::now() + WORDS_TIME).take(WORDS_MAX).read_to_end(&mut bytes));
        (head, bytes)
    }

    /// Reads a body that nobody wants: a connection with an unread body cannot be used again.
    pub fn finish(self) {
        self.read_words();
    }

    fn apart(self) -> (ResponseHead, MinRateReader<impl Read>) {
        let Self { status, headers, url, auth_hint, body, window } = self;
        (ResponseHead { status, headers, url, auth_hint }, MinRateReader::new(body.into_reader(), window))
    }

    /// The whole body, by then; one longer than `limit` is refused, not cut.
    pub fn read(
        self,
        doing: &str,
        limit: u64,
        end: Instant,
    ) -> Result<(ResponseHead, Vec<u8>), RequestFailure> {
        let too_long = || {
            let why = format!("the response is longer than {} bytes", limit);
            RequestFailure::permanent(Error::bad_input(doing, why))
        };
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let (head, reader) = self.apart();
        let mut bytes = Vec::new();
        let mut reader = reader.ends_by(end).take(limit + 1);
        reader.read_to_end(&mut bytes).map_err(|error| failure_of(doing, &head.url, error.into()))?;
        if bytes.len() as u64 > limit {
            return Err(too_long());
        }
        Ok((head, bytes))
    }
}

/// Most of a body that is read for the sake of its words, or of its connection.
const WORDS_MAX: u64 = 64 << 10;

/// Nor is longer waited for it.
const WORDS_TIME: Duration = Duration::from_secs(10);

/// An answer whose body has been read.
pub struct ResponseHead {
    pub status: u16,
    pub headers: HeaderMap,
    pub url: Url,
    pub auth_hint: Option<String>,
}

impl ResponseHead {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What a broken exchange means, and whether it may work the next time.
pub fn failure_of(doing: &str, url: &Url, error: ureq::Error) -> RequestFailure {
    let host = url.host_and_port();
    let network = |why: String| Error::network(doing, format!("{host}: {why}"));
    match error {
        ureq::Error::Io(error) => io_failure(doing, url, error),
        ureq::Error::Rustls(error) => RequestFailure::permanent(tls::failed(doing, url, &error.to_string())),
        ureq::Error::Tls(why) => RequestFailure::permanent(tls::failed(doing, url, why)),
        ureq::Error::Timeout(what) => RequestFailure::transient(network(format!("timed out ({what})"))),
        ureq::Error::HostNotFound => RequestFailure::permanent(network("unknown host".into())),
        ureq::Error::Other(inner) if inner.is::<ForbiddenAddress>() => RequestFailure::permanent(
            Error::not_permitted(doing, format!("the registry redirects to {host}: {inner}")),
        ),
        ureq::Error::ConnectProxyFailed(why) if why.contains("407") => {
            let error = Error::not_permitted(doing, format!("the proxy requires authentication ({why})"));
            RequestFailure::permanent(error.hint("set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT"))
        }
        ureq::Error::ConnectProxyFailed(why) => RequestFailure::transient(network(why)),
        ureq::Error::ConnectionFailed | ureq::Error::BodyStalled => {
            RequestFailure::transient(network("the connection failed".into()))
        }
        // What breaks the protocol breaks it the next time as well.
        error => RequestFailure::permanent(network(error.to_string())),
    }
}

fn io_failure(doing: &str, url: &Url, error: io::Error) -> RequestFailure {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<Error>()) {
        return RequestFailure::permanent(Error::from_io(doing, error));
    }
    if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
        return RequestFailure::permanent(tls::failed(doing, url, &error.to_string()));
    }
    let text = error.to_string();
    let store_error = Error::network(doing, format!("{}: {text}", url.host_and_port()));
    // getaddrinfo(3): EAI_NONAME is an answer, EAI_AGAIN is none.
    if text.contains("Name or service not known") {
        return RequestFailure::permanent(store_error.hint("check the host name of the registry"));
    }
    RequestFailure::transient(store_error)
}
