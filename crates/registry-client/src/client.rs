//! Requests to registries, from the first try to the answer that counts: credentials, redirects, repetitions.

use crate::api_error;
use crate::auth::scope::Scopes;
use crate::auth::{AuthAttempts, AuthContext, RegistryAuth, RequiredScopes};
use crate::credentials::CredentialSources;
use crate::credentials::secret::Secret;
use crate::http::address::AddressPolicy;
use crate::http::redirect;
use crate::http::transport::{HttpRequest, HttpResponse, RequestBody, ResponseHead, Transport};
use crate::http::url::Url;
use crate::options::RegistryOptions;
use crate::retry::{RequestFailure, RetryPolicy, retry};
use error::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Speaks to registries: one pool of connections, one keeper of tokens. A clone is the same client.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: RegistryOptions,
    transport: Transport,
    sources: CredentialSources,
    auths: Mutex<HashMap<String, Arc<RegistryAuth>>>,
}

/// One request of a store.
pub struct ApiRequest<'a, 'c> {
    /// What a failure was about: `read "127.0.0.1:5000/app:1"`.
    pub doing: &'a str,
    pub method: &'static str,
    pub url: Url,
    pub headers: Vec<(&'static str, String)>,
    pub body: RequestBody<'a, 'c>,
    pub required: &'a RequiredScopes,
    pub auth: &'a RegistryAuth,
}

impl Client {
    pub fn new(options: RegistryOptions) -> Result<Self, Error> {
        let transport = Transport::new(&options)?;
        let sources = CredentialSources::new(&options, |name| std::env::var_os(name));
        sources.check()?;
        Ok(Self(Arc::new(Inner { options, transport, sources, auths: Mutex::default() })))
    }

    /// What is known of the registry at `host`, as an image reference names it.
    pub fn auth(&self, host: &str, foreseen: &Scopes) -> Result<Arc<RegistryAuth>, Error> {
        let mut auths = self.0.auths.lock().unwrap_or_else(PoisonError::into_inner);
        if !auths.contains_key(host) {
            let scheme = if self.0.options.uses_tls(host) { "https" } else { "http" };
            // Docker Hub's name in references is not the host that serves its API.
            let served_by = if host == "docker.io" { "registry-1.docker.io" } else { host };
            let registry = Url::parse(&format!("{scheme}://{served_by}"))
                .map_err(|why| Error::bad_input(format!("connect to registry \"{host}\""), why))?;
            auths.insert(host.into(), RegistryAuth::new(host, registry));
        }
        let auth = Arc::clone(&auths[host]);
        auth.foresee(foreseen);
        Ok(auth)
    }

    pub fn retry_policy(&self) -> RetryPolicy {
        let RegistryOptions { backoff, retry_after_max, timeout, .. } = self.0.options;
        RetryPolicy { backoff, retry_after_max, timeout }
    }

    /// Returns how many requests may run at once: `wanted`, or fewer if the user set a lower limit.
    pub fn concurrency(&self, wanted: usize) -> usize {
        self.0.options.concurrency(wanted)
    }

    /// Asks until there is an answer that will not change by itself, whatever its status.
    pub fn send(&self, ask: &ApiRequest<'_, '_>) -> Result<HttpResponse, Error> {
        retry(self.retry_policy(), || self.attempt(ask))
    }

    /// The same with the whole body, which may break off and be asked for again too.
    pub fn fetch(&self, ask: &ApiRequest<'_, '_>, limit: u64) -> Result<(ResponseHead, Vec<u8>), Error> {
        let end = Instant::now() + self.retry_policy().timeout;
        retry(self.retry_policy(), || {
            let answer = self.attempt(ask)?;
            if answer.status == 200 { answer.read(ask.doing, limit, end) } else { Ok(answer.read_words()) }
        })
    }

    /// Asks once, and again only where credentials were missing.
    pub fn attempt(&self, ask: &ApiRequest<'_, '_>) -> Result<HttpResponse, RequestFailure> {
        let context = AuthContext {
            doing: ask.doing,
            transport: &self.0.transport,
            sources: &self.0.sources,
            reporting: &self.0.options.reporting,
            policy: self.retry_policy(),
            auth_hosts: &self.0.options.auth_hosts,
        };
        let at_home = ask.url.same_origin(ask.auth.registry());
        let mut tries = AuthAttempts::default();
        // Held until the first answer: who has credentials to show learns from it how, before all others ask.
        let mut first = if at_home { ask.auth.first(&self.0.sources) } else { None };
        loop {
            let authorization = match at_home {
                true => ask
                    .auth
                    .authorization(&context, ask.required, &mut tries)
                    .map_err(RequestFailure::permanent)?,
                false => None,
            };
            let mut answer = self.follow(ask, authorization.as_ref())?;
            let asked_by_registry = answer.status == 401 && answer.url.same_origin(ask.auth.registry());
            let again = asked_by_registry
                && ask
                    .auth
                    .challenged(ask.doing, &answer, ask.required, &mut tries)
                    .map_err(RequestFailure::permanent)?;
            if let Some(mut answered) = first.take() {
                *answered = true;
            }
            if !again {
                if asked_by_registry {
                    answer.auth_hint = ask.auth.auth_hint(ask.required);
                }
                return api_error::check_transient(ask.doing, answer);
            }
            answer.finish();
        }
    }

    /// Sends a request, and follows redirects where that can do no harm: GET and HEAD. Credentials do not leave the
    /// origin that they were meant for, and do not come back once they were dropped.
    fn follow(
        &self,
        ask: &ApiRequest<'_, '_>,
        authorization: Option<&Secret>,
    ) -> Result<HttpResponse, RequestFailure> {
        let registry = ask.auth.registry();
        let mut authorization = authorization.map(Secret::reveal);
        let mut url = ask.url.clone();
        for _ in 0..=redirect::REDIRECTS_MAX {
            let address_policy =
                if url.same_origin(registry) { AddressPolicy::Any } else { ask.auth.address_policy() };
            let wire = HttpRequest {
                doing: ask.doing,
                method: ask.method,
                url: &url,
                headers: &ask.headers,
                authorization,
                body: ask.body,
                address_policy,
            };
            let answer = self.0.transport.send(&wire)?;
            if !redirect::is_redirect(answer.status) || !matches!(ask.method, "GET" | "HEAD") {
                return Ok(answer);
            }
            let next = redirect::redirect_target(&url, answer.header("location")).map_err(|why| {
                let why = format!("{}: {why}", url.host_and_port());
                RequestFailure::permanent(Error::not_permitted(ask.doing, why))
            })?;
            if !next.same_origin(&url) {
                authorization = None;
            }
            answer.finish();
            url = next;
        }
        let why = format!("more than {} redirects, the last to {url}", redirect::REDIRECTS_MAX);
        Err(RequestFailure::permanent(Error::network(ask.doing, why)))
    }
}
