//! Requests to registries, from the first try to the answer that counts: credentials, redirects, repetitions.

use crate::auth::scope::Scopes;
use crate::auth::{Context, Guard, Need, Tries};
use crate::credentials::Sources;
use crate::credentials::secret::Secret;
use crate::http::address::Reach;
use crate::http::redirect;
use crate::http::transport::{Answer, Head, Transport, Upload, Wire};
use crate::http::url::Url;
use crate::options::RegistryOptions;
use crate::refusal;
use crate::retry::{Failure, Patience, retrying};
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
    sources: Sources,
    guards: Mutex<HashMap<String, Arc<Guard>>>,
}

/// One request of a store.
pub struct Ask<'a, 'c> {
    /// What a failure was about: `read "127.0.0.1:5000/app:1"`.
    pub doing: &'a str,
    pub method: &'static str,
    pub url: Url,
    pub headers: Vec<(&'static str, String)>,
    pub body: Upload<'a, 'c>,
    pub need: &'a Need,
    pub guard: &'a Guard,
}

impl Client {
    pub fn new(options: RegistryOptions) -> Result<Self, Error> {
        let transport = Transport::new(&options)?;
        let sources = Sources::new(&options, |name| std::env::var_os(name));
        sources.check()?;
        Ok(Self(Arc::new(Inner { options, transport, sources, guards: Mutex::default() })))
    }

    /// What is known of the registry at `host`, as an image reference names it.
    pub fn guard(&self, host: &str, foreseen: &Scopes) -> Result<Arc<Guard>, Error> {
        let mut guards = self.0.guards.lock().unwrap_or_else(PoisonError::into_inner);
        if !guards.contains_key(host) {
            let scheme = if self.0.options.uses_tls(host) { "https" } else { "http" };
            // Docker Hub's name in references is not the host that serves its API.
            let served_by = if host == "docker.io" { "registry-1.docker.io" } else { host };
            let registry = Url::parse(&format!("{scheme}://{served_by}"))
                .map_err(|why| Error::bad_input(format!("speak to registry \"{host}\""), why))?;
            guards.insert(host.into(), Guard::new(host, registry));
        }
        let guard = Arc::clone(&guards[host]);
        guard.foresee(foreseen);
        Ok(guard)
    }

    pub fn patience(&self) -> Patience {
        let RegistryOptions { backoff, retry_after_max, timeout, .. } = self.0.options;
        Patience { backoff, retry_after_max, timeout }
    }

    /// Asks until there is an answer that will not change by itself, whatever its status.
    pub fn send(&self, ask: &Ask<'_, '_>) -> Result<Answer, Error> {
        retrying(self.patience(), || self.attempt(ask))
    }

    /// The same with the whole body, which may break off and be asked for again too.
    pub fn fetch(&self, ask: &Ask<'_, '_>, limit: u64) -> Result<(Head, Vec<u8>), Error> {
        let end = Instant::now() + self.patience().timeout;
        retrying(self.patience(), || {
            let answer = self.attempt(ask)?;
            if answer.status == 200 { answer.read(ask.doing, limit, end) } else { Ok(answer.read_words()) }
        })
    }

    /// Asks once, and again only where credentials were missing.
    pub fn attempt(&self, ask: &Ask<'_, '_>) -> Result<Answer, Failure> {
        let context = Context {
            doing: ask.doing,
            transport: &self.0.transport,
            sources: &self.0.sources,
            messages: &self.0.options.messages,
            patience: self.patience(),
            auth_hosts: &self.0.options.auth_hosts,
        };
        let at_home = ask.url.same_origin(ask.guard.registry());
        let mut tries = Tries::default();
        // Held until the first answer: who has credentials to show learns from it how, before all others ask.
        let mut first = if at_home { ask.guard.first(&self.0.sources) } else { None };
        loop {
            let authorization = match at_home {
                true => ask.guard.authorization(&context, ask.need, &mut tries).map_err(Failure::last)?,
                false => None,
            };
            let mut answer = self.follow(ask, authorization.as_ref())?;
            let asked_by_registry = answer.status == 401 && answer.url.same_origin(ask.guard.registry());
            let again = asked_by_registry
                && ask.guard.challenged(ask.doing, &answer, ask.need, &mut tries).map_err(Failure::last)?;
            if let Some(mut answered) = first.take() {
                *answered = true;
            }
            if !again {
                if asked_by_registry {
                    answer.when_refused = ask.guard.when_refused(ask.need);
                }
                return refusal::passing(ask.doing, answer);
            }
            answer.finish();
        }
    }

    /// Sends a request, and follows redirects where that can do no harm: GET and HEAD. Credentials do not leave the
    /// origin that they were meant for, and do not come back once they were dropped.
    fn follow(&self, ask: &Ask<'_, '_>, authorization: Option<&Secret>) -> Result<Answer, Failure> {
        let registry = ask.guard.registry();
        let mut authorization = authorization.map(Secret::reveal);
        let mut url = ask.url.clone();
        for _ in 0..=redirect::HOPS {
            let reach = if url.same_origin(registry) { Reach::Anywhere } else { ask.guard.reach() };
            let wire = Wire {
                doing: ask.doing,
                method: ask.method,
                url: &url,
                headers: &ask.headers,
                authorization,
                body: ask.body,
                reach,
            };
            let answer = self.0.transport.send(&wire)?;
            if !redirect::is_redirect(answer.status) || !matches!(ask.method, "GET" | "HEAD") {
                return Ok(answer);
            }
            let next = redirect::next(&url, answer.header("location")).map_err(|why| {
                let why = format!("{}: {why}", url.host_and_port());
                Failure::last(Error::not_permitted(ask.doing, why))
            })?;
            if !next.same_origin(&url) {
                authorization = None;
            }
            answer.finish();
            url = next;
        }
        let why = format!("more than {} redirects, the last to {url}", redirect::HOPS);
        Err(Failure::last(Error::network(ask.doing, why)))
    }
}
