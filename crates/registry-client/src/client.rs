//! The registry client: requests with authentication, redirects and retries.

use crate::api_error;
use crate::auth::scope::Scopes;
use crate::auth::{AuthAttempts, AuthContext, RegistryAuth, RequiredScopes};
use crate::credentials::CredentialSources;
use crate::http::address::AddressPolicy;
use crate::http::transport::{HttpRequest, HttpResponse, RequestBody, ResponseHead, Transport};
use crate::http::url::Url;
use crate::http::{redirect, tls};
use crate::options::RegistryOptions;
use crate::retry::{RequestFailure, RetryPolicy, retry};
use crate::secret::Secret;
use error::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A client of registries, with one connection pool and one token cache. Clones share them.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: RegistryOptions,
    transport: Transport,
    sources: CredentialSources,
    auths: Mutex<HashMap<String, Arc<RegistryAuth>>>,
}

/// One request to a registry's API.
pub struct ApiRequest<'a, 'c> {
    /// The action of error messages: `read "127.0.0.1:5000/app:1"`.
    pub action: &'a str,
    /// The HTTP method.
    pub method: &'static str,
    /// The URL; it may be on another host than the registry.
    pub url: Url,
    /// Headers, without `Authorization` and `Content-Length`.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: RequestBody<'a, 'c>,
    /// Expected size of the response's body if it is a blob, else 0. Its time limit is longer.
    pub response_size: u64,
    /// Scopes that the token of the request must have.
    pub required: &'a RequiredScopes,
    /// The registry that the request belongs to.
    pub auth: &'a RegistryAuth,
}

impl Client {
    /// Creates a client. It opens no connection yet.
    ///
    /// # Errors
    /// `NotPermitted` if the CA file or the credentials file of the options cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self, Error> {
        let transport = Transport::new(&options)?;
        let sources = CredentialSources::new(&options, |name| std::env::var_os(name));
        sources.check()?;
        Ok(Self(Arc::new(Inner { options, transport, sources, auths: Mutex::default() })))
    }

    /// Returns the authentication state of a registry, and adds `foreseen` to the scopes that tokens are requested for.
    /// `host` is as in an image reference: `docker.io`, `127.0.0.1:5000`.
    ///
    /// # Errors
    /// `BadInput` if `host` is not a host.
    pub fn auth(&self, host: &str, foreseen: &Scopes) -> Result<Arc<RegistryAuth>, Error> {
        let mut auths = self.0.auths.lock().unwrap_or_else(PoisonError::into_inner);
        if !auths.contains_key(host) {
            let scheme = if tls::is_used(&self.0.options, host) { "https" } else { "http" };
            // The API of docker.io is served by another host.
            let served_by = if host == "docker.io" { "registry-1.docker.io" } else { host };
            let registry = Url::parse(&format!("{scheme}://{served_by}"))
                .map_err(|reason| Error::bad_input(format!("connect to registry \"{host}\""), reason))?;
            auths.insert(host.into(), RegistryAuth::new(host, registry));
        }
        let auth = Arc::clone(&auths[host]);
        auth.expect_scopes(foreseen);
        Ok(auth)
    }

    /// The retry limits of the options.
    pub fn retry_policy(&self) -> RetryPolicy {
        let RegistryOptions { backoff, retry_after_max, timeout, .. } = self.0.options;
        RetryPolicy { backoff, retry_after_max, timeout }
    }

    /// Returns how many requests may run at once: `wanted`, or fewer if the user set a lower limit.
    pub fn concurrency(&self, wanted: usize) -> usize {
        self.0.options.concurrency(wanted)
    }

    /// Sends a request, with retries, and returns the response whatever its status; transient statuses are errors.
    ///
    /// # Errors
    /// `Network` if the retries are exhausted, `NotPermitted` for TLS and credentials.
    pub fn send(&self, request: &ApiRequest<'_, '_>) -> Result<HttpResponse, Error> {
        retry(self.retry_policy(), || self.attempt(request))
    }

    /// Like [`Client::send`], and reads the body too, which is retried as well. `limit` is in bytes. Unless the status is
    /// 200, the body is cut to the first 64 KiB.
    ///
    /// # Errors
    /// Also `BadInput` if the body is longer than `limit`.
    pub fn fetch(&self, request: &ApiRequest<'_, '_>, limit: u64) -> Result<(ResponseHead, Vec<u8>), Error> {
        let end = Instant::now() + self.retry_policy().timeout;
        retry(self.retry_policy(), || {
            let response = self.attempt(request)?;
            if response.status == 200 {
                response.read(request.action, limit, end)
            } else {
                Ok(response.read_error_body())
            }
        })
    }

    /// Sends a request without retries, except to answer authentication challenges.
    ///
    /// # Errors
    /// As [`Client::send`]; a transient status is a failure too.
    pub fn attempt(&self, request: &ApiRequest<'_, '_>) -> Result<HttpResponse, RequestFailure> {
        let context = AuthContext {
            action: request.action,
            transport: &self.0.transport,
            sources: &self.0.sources,
            reporting: &self.0.options.reporting,
            policy: self.retry_policy(),
            auth_hosts: &self.0.options.auth_hosts,
        };
        let is_registry = request.url.same_origin(request.auth.registry());
        let mut attempts = AuthAttempts::default();
        // Held until the first response: it tells which authentication the registry wants, and the other requests wait
        // for it so that they are not all answered with 401.
        let mut first = if is_registry { request.auth.lock_first_request(&self.0.sources) } else { None };
        loop {
            let authorization = if is_registry {
                let header = request.auth.authorization(&context, request.required, &mut attempts);
                header.map_err(RequestFailure::permanent)?
            } else {
                None
            };
            let mut response = self.follow(request, authorization.as_ref())?;
            let is_challenge = response.status == 401 && response.url.same_origin(request.auth.registry());
            let again = is_challenge
                && request
                    .auth
                    .handle_challenge(request.action, &response, request.required, &mut attempts)
                    .map_err(RequestFailure::permanent)?;
            if let Some(mut answered) = first.take() {
                *answered = true;
            }
            if !again {
                if is_challenge {
                    response.auth_hint = request.auth.auth_hint(request.required);
                }
                return api_error::check_transient(request.action, response);
            }
            response.discard();
        }
    }

    /// Sends a request and follows redirects of GET and HEAD. Credentials are not sent to another origin, and not added
    /// again if a later redirect leads back.
    fn follow(
        &self,
        request: &ApiRequest<'_, '_>,
        authorization: Option<&Secret>,
    ) -> Result<HttpResponse, RequestFailure> {
        let registry = request.auth.registry();
        let mut authorization = authorization.map(Secret::reveal);
        let mut url = request.url.clone();
        for _ in 0..=redirect::REDIRECTS_MAX {
            let address_policy =
                if url.same_origin(registry) { AddressPolicy::Any } else { request.auth.address_policy() };
            let http_request = HttpRequest {
                action: request.action,
                method: request.method,
                url: &url,
                headers: &request.headers,
                authorization,
                body: request.body,
                response_size: request.response_size,
                address_policy,
            };
            let response = self.0.transport.send(&http_request)?;
            if !redirect::is_redirect(response.status) || !matches!(request.method, "GET" | "HEAD") {
                return Ok(response);
            }
            let next = redirect::redirect_target(&url, response.header("location")).map_err(|reason| {
                let reason = format!("{}: {reason}", url.host_and_port());
                RequestFailure::permanent(Error::not_permitted(request.action, reason))
            })?;
            if !next.same_origin(&url) {
                authorization = None;
            }
            response.discard();
            url = next;
        }
        let reason = format!("more than {} redirects, the last to {url}", redirect::REDIRECTS_MAX);
        Err(RequestFailure::permanent(Error::network(request.action, reason)))
    }
}
