//! What to send along so that a registry lets us in: learnt from its challenges, kept for as long as it lasts.

pub mod challenge;
pub mod scope;
pub mod token;

use crate::auth::scope::Scopes;
use crate::auth::token::{TokenRequest, TokenServer};
use crate::credentials::CredentialSources;
use crate::credentials::credential::{Credential, FoundCredential};
use crate::credentials::secret::Secret;
use crate::http::address::AddressPolicy;
use crate::http::transport::{HttpResponse, Transport};
use crate::http::url::Url;
use crate::options::Reporting;
use crate::retry::RetryPolicy;
use challenge::Challenge;
use error::Error;
use error::Exit;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A token is renewed so long before its end that no request arrives after it.
const RENEW_BEFORE: Duration = Duration::from_secs(5);
/// Most repositories that one token is asked for; the query has to fit into a header line.
const TOGETHER: usize = 20;

/// What a request has to be allowed to do.
#[derive(Clone, Debug)]
pub struct RequiredScopes {
    pub repository: String,
    pub scopes: Scopes,
    /// What it would need besides: to read where a blob is mounted from.
    pub extra: Scopes,
}

impl RequiredScopes {
    fn all(&self) -> Scopes {
        self.scopes.clone().and(&self.extra)
    }
}

/// One registry's side of the matter. The lock is held while a token is fetched, so that many requests that need one
/// ask for one.
pub struct RegistryAuth {
    /// As in an image reference.
    host: String,
    registry: Url,
    address_policy: OnceLock<AddressPolicy>,
    /// Has somebody logged in there?
    foretold: OnceLock<bool>,
    /// Has the registry answered yet?
    answered: Mutex<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    way: Option<AuthScheme>,
    tokens: Vec<Token>,
    made: usize,
    /// All that the stores at this registry will need. One token for all saves round trips.
    foreseen: Scopes,
    credentials: HashMap<String, FoundCredential>,
    warned: bool,
}

/// How the registry wants to be shown credentials.
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

/// What one request has tried so far.
#[derive(Default)]
pub struct AuthAttempts {
    sent: Option<SentAuth>,
    refused: Option<usize>,
    /// What challenges asked for beyond what we thought.
    asked: Scopes,
    /// Tokens that were made for this request.
    made: u32,
}

/// One token for all that is foreseen, and one for this request alone.
const TOKENS_MAX: u32 = 2;

#[derive(Clone, Copy)]
enum SentAuth {
    /// Nothing better can be had.
    Final,
    Token {
        number: usize,
        /// Made for this request, for its needs alone.
        exact: bool,
    },
}

/// What it takes to get in.
pub struct AuthContext<'a> {
    pub doing: &'a str,
    pub transport: &'a Transport,
    pub sources: &'a CredentialSources,
    pub reporting: &'a Reporting,
    pub policy: RetryPolicy,
    /// Token servers in other domains that may have credentials all the same.
    pub auth_hosts: &'a [String],
}

impl RegistryAuth {
    pub fn new(host: &str, registry: Url) -> Arc<Self> {
        Arc::new(Self {
            host: host.into(),
            registry,
            address_policy: OnceLock::new(),
            foretold: OnceLock::new(),
            answered: Mutex::default(),
            state: Mutex::default(),
        })
    }

    pub fn registry(&self) -> &Url {
        &self.registry
    }

    /// How far it may send us.
    pub fn address_policy(&self) -> AddressPolicy {
        *self.address_policy.get_or_init(|| AddressPolicy::of_registry(&self.registry))
    }

    pub fn foresee(&self, scopes: &Scopes) {
        self.state().foreseen.add(scopes);
    }

    /// The turn to ask first. Everybody else waits for it, so that one request is turned away and not all of a level.
    /// `None` if there was an answer already, or if nobody has logged in there: then most likely nobody needs to.
    pub fn first(&self, sources: &CredentialSources) -> Option<MutexGuard<'_, bool>> {
        if !*self.foretold.get_or_init(|| sources.mention(&self.host)) {
            return None;
        }
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if *answered { None } else { Some(answered) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `Authorization` for a request; `None` as long as the registry has not asked for one.
    pub fn authorization(
        &self,
        context: &AuthContext<'_>,
        required: &RequiredScopes,
        tries: &mut AuthAttempts,
    ) -> Result<Option<Secret>, Error> {
        let mut state = self.state();
        let Some(way) = state.way.clone() else { return Ok(None) };
        let credential = self.credential(&mut state, context, &required.repository)?;
        match (way, &credential) {
            (_, Credential::Registry(token)) => {
                tries.sent = Some(SentAuth::Final);
                Ok(Some(bearer(token)))
            }
            (AuthScheme::Basic, _) => {
                tries.sent = Some(SentAuth::Final);
                let why = format!("{} requires a user name and password, and none are configured", self.host);
                let hint = format!("run: docker login {}", self.host);
                credential
                    .basic()
                    .map(Some)
                    .ok_or_else(|| Error::not_permitted(context.doing, why).hint(hint))
            }
            (AuthScheme::Bearer(server), _) => {
                self.token(&mut state, context, required, tries, &server, &credential).map(Some)
            }
        }
    }

    fn token(
        &self,
        state: &mut State,
        context: &AuthContext<'_>,
        required: &RequiredScopes,
        tries: &mut AuthAttempts,
        server: &TokenServer,
        credential: &Credential,
    ) -> Result<Secret, Error> {
        let needed = required.all().and(&tries.asked);
        let credential = match server.may_have_credentials_of(&self.registry, context.auth_hosts) {
            true => credential.clone(),
            false => self.withheld(state, context, server, credential),
        };
        let now = Instant::now();
        state.tokens.retain(|token| token.until > now);
        let fits = |token: &&Token| {
            token.server == *server && token.credential == credential && token.scopes.covers(&needed)
                // One that was refused, and those from before it, are not tried again.
                && tries.refused.is_none_or(|refused| token.number > refused)
        };
        if let Some(token) = state.tokens.iter().find(fits) {
            tries.sent = Some(SentAuth::Token { number: token.number, exact: false });
            return Ok(bearer(&token.secret));
        }
        let mut scopes = needed.clone();
        if tries.refused.is_none() {
            scopes.add(&self.foreseen_for(state, context, &credential)?);
        }
        let address_policy = match server.realm.host() == self.registry.host() {
            true => AddressPolicy::Any,
            false => self.address_policy(),
        };
        let given =
            state.credentials.get(&required.repository).filter(|given| given.credential == credential);
        let refused = given.map(|given| given.auth_hint(&self.host));
        let request = |scopes: &Scopes| {
            let doing = format!("{}: get a token from {}", context.doing, server.realm.host_and_port());
            TokenRequest {
                doing: &doing,
                server,
                address_policy,
                credential: &credential,
                auth_hint: refused.as_deref(),
                first: &needed,
                scopes,
            }
            .send(context.transport, context.policy)
        };
        let issued = match request(&scopes) {
            // Some servers say no to all if one of the repositories is not ours.
            Err(error) if scopes != needed && matches!(error.kind, Exit::NotPermitted | Exit::BadInput) => {
                scopes = needed.clone();
                request(&scopes)?
            }
            issued => issued?,
        };
        state.made += 1;
        tries.made += 1;
        tries.sent = Some(SentAuth::Token { number: state.made, exact: scopes == needed });
        let until = Instant::now() + issued.life.saturating_sub(RENEW_BEFORE);
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

    fn withheld(
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

    /// What is foreseen for repositories with the same credential.
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
            scopes.forget(&Scopes::repository(repository, &[]));
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

    /// What to do about a 401 that is the last word. `None`: it has not asked for credentials in a way known here.
    pub fn auth_hint(&self, required: &RequiredScopes) -> Option<String> {
        let state = self.state();
        let found = state.credentials.get(&required.repository)?;
        Some(found.auth_hint(&self.host))
    }

    /// Takes in a 401. `true`: it is worth asking again.
    pub fn challenged(
        &self,
        doing: &str,
        answer: &HttpResponse,
        required: &RequiredScopes,
        tries: &mut AuthAttempts,
    ) -> Result<bool, Error> {
        let values = answer.headers.get_all("www-authenticate").iter();
        let challenges: Vec<Challenge> =
            values.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        let sent = tries.sent.take();
        if challenges.is_empty() || matches!(sent, Some(SentAuth::Final)) || tries.made >= TOKENS_MAX {
            return Ok(false);
        }
        let (way, asked) =
            choose(&challenges, &self.registry).map_err(|why| Error::not_permitted(doing, why))?;
        let known = required.all().and(&tries.asked).covers(&asked);
        if known && matches!(sent, Some(SentAuth::Token { exact: true, .. })) {
            return Ok(false);
        }
        let mut state = self.state();
        state.way = Some(way);
        if let Some(SentAuth::Token { number, .. }) = sent {
            // It is not good for this request. What else it claims may still be true.
            let doubtful = if required.extra.is_empty() { &required.scopes } else { &required.extra };
            if let Some(token) = state.tokens.iter_mut().find(|token| token.number == number) {
                token.scopes.forget(doubtful);
            }
            tries.refused = Some(number);
        }
        tries.asked.add(&asked);
        Ok(true)
    }
}

/// Bearer before Basic, and what the Bearer challenge asks for.
fn choose(challenges: &[Challenge], registry: &Url) -> Result<(AuthScheme, Scopes), String> {
    let mut why = None;
    for challenge in challenges.iter().filter(|challenge| challenge.scheme == "bearer") {
        match TokenServer::of(challenge, registry) {
            Ok(server) => {
                let asked = Scopes::parse(challenge.param("scope").unwrap_or_default());
                return Ok((AuthScheme::Bearer(server), asked));
            }
            Err(reason) => why = why.or(Some(reason)),
        }
    }
    if challenges.iter().any(|challenge| challenge.scheme == "basic") {
        return Ok((AuthScheme::Basic, Scopes::default()));
    }
    let schemes =
        || challenges.iter().map(|challenge| challenge.scheme.as_str()).collect::<Vec<_>>().join(", ");
    Err(why.unwrap_or_else(|| format!("it requires authentication by {}, which is not supported", schemes())))
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_that_can_be_met_is_chosen() {
        let check = |header: &str, meant: &str| {
            let registry = Url::parse("https://r.example").unwrap();
            let shown = match choose(&challenge::parse(header), &registry) {
                Ok((AuthScheme::Basic, _)) => "basic".into(),
                Ok((AuthScheme::Bearer(server), asked)) => {
                    format!("{} {:?}", server.realm, asked.texts(&asked))
                }
                Err(why) => why,
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
