//! Authentication at registries: challenges, the `Authorization` header, and a token cache per registry.

pub mod challenge;
pub mod scope;
pub mod token;

use crate::auth::scope::Scopes;
use crate::auth::token::{TokenRequest, TokenServer};
use crate::credentials::CredentialSources;
use crate::credentials::credential::{Credential, FoundCredential};
use crate::http::address::AddressPolicy;
use crate::http::transport::{HttpResponse, Transport};
use crate::http::url::Url;
use crate::options::Reporting;
use crate::retry::RetryPolicy;
use crate::secret::Secret;
use challenge::Challenge;
use error::Error;
use error::Exit;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A token is renewed this long before it expires, so that no request arrives with an expired one.
const RENEW_BEFORE: Duration = Duration::from_secs(5);
/// The most repositories that one token is requested for: the query must fit in a request line.
const TOGETHER: usize = 20;

/// The scopes that a request needs.
#[derive(Clone, Debug)]
pub struct RequiredScopes {
    /// The repository whose credentials are used.
    pub repository: String,
    /// Access to this repository.
    pub scopes: Scopes,
    /// Further access: to the repository that a blob is mounted from.
    pub extra: Scopes,
}

impl RequiredScopes {
    fn all(&self) -> Scopes {
        self.scopes.clone().union(&self.extra)
    }
}

/// The authentication state of one registry. The lock is held while a token is requested, so that concurrent requests
/// that need the same token request it once.
pub struct RegistryAuth {
    /// As in an image reference.
    host: String,
    registry: Url,
    address_policy: OnceLock<AddressPolicy>,
    /// Whether credentials are configured for the registry.
    has_credentials: OnceLock<bool>,
    /// Whether the registry has responded to a request.
    answered: Mutex<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scheme: Option<AuthScheme>,
    tokens: Vec<Token>,
    made: usize,
    /// The scopes of all stores at this registry. One token for all of them saves round trips.
    foreseen: Scopes,
    credentials: HashMap<String, FoundCredential>,
    warned: bool,
}

/// The authentication scheme that the registry asked for.
#[derive(Clone, PartialEq, Eq)]
enum AuthScheme {
    Basic,
    Bearer(TokenServer),
}

struct Token {
    number: usize,
    scopes: Scopes,
    credential: Credential,
    server: TokenServer,
    secret: Secret,
    until: Instant,
}

/// The authentication attempts of one request.
#[derive(Default)]
pub struct AuthAttempts {
    sent: Option<SentAuth>,
    refused: Option<usize>,
    /// Scopes that challenges asked for.
    asked: Scopes,
    /// Number of tokens that were requested for this request.
    made: u32,
}

/// One token for the scopes of all stores, and one for this request alone.
const TOKENS_MAX: u32 = 2;

#[derive(Clone, Copy)]
enum SentAuth {
    /// There is nothing else to try.
    Final,
    Token {
        number: usize,
        /// Whether the token was requested for this request, with its scopes only.
        exact: bool,
    },
}

/// Inputs for authorization.
pub struct AuthContext<'a> {
    pub action: &'a str,
    pub transport: &'a Transport,
    pub sources: &'a CredentialSources,
    pub reporting: &'a Reporting,
    pub policy: RetryPolicy,
    /// Hosts of token servers that receive credentials although they are in another domain.
    pub auth_hosts: &'a [String],
}

impl RegistryAuth {
    pub(crate) fn new(host: &str, registry: Url) -> Arc<Self> {
        Arc::new(Self {
            host: host.into(),
            registry,
            address_policy: OnceLock::new(),
            has_credentials: OnceLock::new(),
            answered: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// The URL of the registry's API.
    pub fn registry(&self) -> &Url {
        &self.registry
    }

    /// The addresses that the registry may redirect to.
    pub(crate) fn address_policy(&self) -> AddressPolicy {
        *self.address_policy.get_or_init(|| AddressPolicy::for_registry(&self.registry))
    }

    /// Adds scopes that later requests will need.
    pub(crate) fn expect_scopes(&self, scopes: &Scopes) {
        self.state().foreseen.add(scopes);
    }

    /// Locks the first request to a registry with configured credentials. Other requests wait for its response, so that
    /// only one request is answered with 401. `None` if there was a response already, or if there are no credentials:
    /// then most likely none are needed.
    pub(crate) fn lock_first_request(&self, sources: &CredentialSources) -> Option<MutexGuard<'_, bool>> {
        if !*self.has_credentials.get_or_init(|| sources.has_entry(&self.host)) {
            return None;
        }
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if *answered { None } else { Some(answered) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of another thread cannot leave the state inconsistent: each change is a single step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the `Authorization` header of a request; `None` if the registry has not asked for one so far.
    pub(crate) fn authorization(
        &self,
        context: &AuthContext<'_>,
        required: &RequiredScopes,
        attempts: &mut AuthAttempts,
    ) -> Result<Option<Secret>, Error> {
        let mut state = self.state();
        let Some(scheme) = state.scheme.clone() else { return Ok(None) };
        let credential = self.credential(&mut state, context, &required.repository)?;
        match (scheme, &credential) {
            (_, Credential::Registry(token)) => {
                attempts.sent = Some(SentAuth::Final);
                Ok(Some(bearer(token)))
            }
            (AuthScheme::Basic, _) => {
                attempts.sent = Some(SentAuth::Final);
                let reason =
                    format!("{} requires a user name and password, and none are configured", self.host);
                let hint = format!("run: docker login {}", self.host);
                credential
                    .basic()
                    .map(Some)
                    .ok_or_else(|| Error::not_permitted(context.action, reason).hint(hint))
            }
            (AuthScheme::Bearer(server), _) => {
                self.token(&mut state, context, required, attempts, &server, &credential).map(Some)
            }
        }
    }

    /// Returns a cached token, or requests one: first for the scopes of all stores, then for this request alone.
    fn token(
        &self,
        state: &mut State,
        context: &AuthContext<'_>,
        required: &RequiredScopes,
        attempts: &mut AuthAttempts,
        server: &TokenServer,
        credential: &Credential,
    ) -> Result<Secret, Error> {
        let needed = required.all().union(&attempts.asked);
        let credential = if server.accepts_credentials_of(&self.registry, context.auth_hosts) {
            credential.clone()
        } else {
            self.withhold(state, context, server, credential)
        };
        let now = Instant::now();
        state.tokens.retain(|token| token.until > now);
        let is_usable = |token: &&Token| {
            token.server == *server && token.credential == credential && token.scopes.covers(&needed)
                // A token that was refused, and older ones, are not used again.
                && attempts.refused.is_none_or(|refused| token.number > refused)
        };
        if let Some(token) = state.tokens.iter().find(is_usable) {
            attempts.sent = Some(SentAuth::Token { number: token.number, exact: false });
            return Ok(bearer(&token.secret));
        }
        let mut scopes = needed.clone();
        if attempts.refused.is_none() {
            scopes.add(&self.foreseen_for(state, context, &credential)?);
        }
        let is_same_host = server.realm.host() == self.registry.host();
        let address_policy = if is_same_host { AddressPolicy::Any } else { self.address_policy() };
        let found =
            state.credentials.get(&required.repository).filter(|found| found.credential == credential);
        let auth_hint = found.map(|found| found.auth_hint(&self.host));
        let request = |scopes: &Scopes| {
            let action =
                format!("{}: cannot get a token from {}", context.action, server.realm.host_and_port());
            TokenRequest {
                action: &action,
                server,
                address_policy,
                credential: &credential,
                auth_hint: auth_hint.as_deref(),
                first: &needed,
                scopes,
            }
            .send(context.transport, context.policy)
        };
        let issued = match request(&scopes) {
            // Some servers refuse the whole request if one of the repositories is not accessible.
            Err(error) if scopes != needed && matches!(error.kind, Exit::NotPermitted | Exit::BadInput) => {
                scopes = needed.clone();
                request(&scopes)?
            }
            issued => issued?,
        };
        state.made += 1;
        attempts.made += 1;
        attempts.sent = Some(SentAuth::Token { number: state.made, exact: scopes == needed });
        let until = Instant::now() + issued.lifetime.saturating_sub(RENEW_BEFORE);
        let authorization = bearer(&issued.token);
        state.tokens.push(Token {
            number: state.made,
            scopes,
            credential,
            server: server.clone(),
            secret: issued.token,
            until,
        });
        Ok(authorization)
    }

    /// Warns once that credentials are not sent to a token server, and returns what is sent instead.
    fn withhold(
        &self,
        state: &mut State,
        context: &AuthContext<'_>,
        server: &TokenServer,
        own: &Credential,
    ) -> Credential {
        if *own != Credential::Anonymous && !state.warned {
            state.warned = true;
            (context.reporting.warn)(&format!(
                "credentials for {} were not sent to its token server {}, which is in another domain; if you trust it, use \
                 --allow-auth-host={}",
                self.host,
                server.realm.host_and_port(),
                server.realm.host()
            ));
        }
        Credential::Anonymous
    }

    /// Returns the foreseen scopes of the repositories that have the same credential.
    fn foreseen_for(
        &self,
        state: &mut State,
        context: &AuthContext<'_>,
        credential: &Credential,
    ) -> Result<Scopes, Error> {
        let foreseen = state.foreseen.clone();
        let mut others = Vec::new();
        for repository in foreseen.repositories() {
            if *credential != Credential::Anonymous
                && self.credential(state, context, repository)? != *credential
            {
                others.push(repository);
            }
        }
        let mut scopes = foreseen.clone();
        for repository in &others {
            scopes.remove(&Scopes::repository(repository, &[]));
        }
        if scopes.repositories().count() > TOGETHER { Ok(Scopes::default()) } else { Ok(scopes) }
    }

    fn credential(
        &self,
        state: &mut State,
        context: &AuthContext<'_>,
        repository: &str,
    ) -> Result<Credential, Error> {
        if let Some(known) = state.credentials.get(repository) {
            return Ok(known.credential.clone());
        }
        let found = context.sources.find(&self.host, repository)?;
        let credential = found.credential.clone();
        state.credentials.insert(repository.into(), found);
        Ok(credential)
    }

    /// Returns the hint for a final 401; `None` if no credentials were looked up.
    pub(crate) fn auth_hint(&self, required: &RequiredScopes) -> Option<String> {
        let state = self.state();
        let found = state.credentials.get(&required.repository)?;
        Some(found.auth_hint(&self.host))
    }

    /// Handles a 401. Returns whether to send the request again.
    pub(crate) fn handle_challenge(
        &self,
        action: &str,
        response: &HttpResponse,
        required: &RequiredScopes,
        attempts: &mut AuthAttempts,
    ) -> Result<bool, Error> {
        let values = response.headers.get_all("www-authenticate").iter();
        let challenges: Vec<Challenge> =
            values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let sent = attempts.sent.take();
        if challenges.is_empty() || matches!(sent, Some(SentAuth::Final)) || attempts.made >= TOKENS_MAX {
            return Ok(false);
        }
        let (scheme, asked) =
            choose(&challenges, &self.registry).map_err(|reason| Error::not_permitted(action, reason))?;
        let known = required.all().union(&attempts.asked).covers(&asked);
        if known && matches!(sent, Some(SentAuth::Token { exact: true, .. })) {
            return Ok(false);
        }
        let mut state = self.state();
        state.scheme = Some(scheme);
        if let Some(SentAuth::Token { number, .. }) = sent {
            // The token does not allow this request. Its other scopes may still be good.
            let refused = if required.extra.is_empty() { &required.scopes } else { &required.extra };
            if let Some(token) = state.tokens.iter_mut().find(|token| token.number == number) {
                token.scopes.remove(refused);
            }
            attempts.refused = Some(number);
        }
        attempts.asked.add(&asked);
        Ok(true)
    }
}

/// Chooses Bearer before Basic, and returns the scopes of the Bearer challenge.
fn choose(challenges: &[Challenge], registry: &Url) -> Result<(AuthScheme, Scopes), String> {
    let mut invalid = None;
    for challenge in challenges.iter().filter(|challenge| challenge.scheme == "bearer") {
        match TokenServer::of(challenge, registry) {
            Ok(server) => {
                let asked = Scopes::parse(challenge.param("scope").unwrap_or_default());
                return Ok((AuthScheme::Bearer(server), asked));
            }
            Err(reason) => invalid = invalid.or(Some(reason)),
        }
    }
    if challenges.iter().any(|challenge| challenge.scheme == "basic") {
        return Ok((AuthScheme::Basic, Scopes::default()));
    }
    let schemes =
        || challenges.iter().map(|challenge| challenge.scheme.as_str()).collect::<Vec<_>>().join(", ");
    Err(invalid
        .unwrap_or_else(|| format!("it requires authentication by {}, which is not supported", schemes())))
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supported_challenge_is_chosen() {
        let check = |header: &str, meant: &str| {
            let registry = Url::parse("https://r.example").unwrap();
            let shown = match choose(&challenge::parse(header), &registry) {
                Ok((AuthScheme::Basic, _)) => "basic".into(),
                Ok((AuthScheme::Bearer(server), asked)) => {
                    format!("{} {:?}", server.realm, asked.to_strings(&asked))
                }
                Err(reason) => reason,
            };
            assert!(shown.contains(meant), "{header}: {shown}");
        };
        check(
            r#"Basic realm="x", Bearer realm="https://a.example/t",scope="aws""#,
            "https://a.example/t [\"aws\"]",
        );
        check(r#"Negotiate, Basic realm="x""#, "basic");
        check(r#"Bearer realm="http://a/t", Basic realm="x""#, "basic");
        check(r#"Bearer realm="http://a/t""#, "without TLS");
        check("Negotiate, NTLM", "negotiate, ntlm");
    }
}
