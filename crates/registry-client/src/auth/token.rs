//! Tokens: asked of the server that a Bearer challenge names.

use crate::api_error;
use crate::auth::challenge::Challenge;
use crate::auth::scope::Scopes;
use crate::credentials::credential::Credential;
use crate::credentials::secret::Secret;
use crate::http::address::{AddressPolicy, shares_domain};
use crate::http::transport::{HttpRequest, RequestBody, Transport};
use crate::http::url::{Url, encode};
use crate::retry::{RequestFailure, RetryPolicy, retry};
use error::Error;
use error::Exit;
use std::time::{Duration, Instant};

const ANSWER_MAX: u64 = 1 << 20;
/// A token without a life lives this long, and none lives shorter: distribution's token specification.
const LIFE_MIN: u64 = 60;
const LIFE_MAX: u64 = 24 * 60 * 60;

/// A token server, as a challenge names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenServer {
    pub realm: Url,
    pub service: Option<String>,
}

impl TokenServer {
    /// Takes the realm of a challenge if it may be asked at all.
    pub fn of(challenge: &Challenge, registry: &Url) -> Result<Self, String> {
        let realm = challenge.param("realm").ok_or("its WWW-Authenticate header has no realm")?;
        let realm = Url::parse(realm)
            .map_err(|why| format!("the realm in its WWW-Authenticate header is invalid: {why}"))?;
        if registry.is_tls() && !realm.is_tls() {
            return Err(format!("its token server {realm} would receive credentials without TLS"));
        }
        Ok(Self { realm, service: challenge.param("service").map(str::to_string) })
    }

    /// Credentials are for the registry. Another party's token server does not get them, unless a person named it.
    pub fn may_have_credentials_of(&self, registry: &Url, trusted: &[String]) -> bool {
        let realm = self.realm.host();
        shares_domain(registry.host(), realm) || trusted.iter().any(|host| host.eq_ignore_ascii_case(realm))
    }
}

/// A request for a token.
pub struct TokenRequest<'a> {
    pub doing: &'a str,
    pub server: &'a TokenServer,
    pub address_policy: AddressPolicy,
    pub credential: &'a Credential,
    /// What to do if the server says no to it.
    pub auth_hint: Option<&'a str>,
    /// Those to be named first, and all.
    pub first: &'a Scopes,
    pub scopes: &'a Scopes,
}

#[derive(Debug, PartialEq, Eq)]
pub struct IssuedToken {
    pub token: Secret,
    pub life: Duration,
}

impl TokenRequest<'_> {
    /// An identity token is exchanged by POST; servers from before OAuth take it as a password.
    pub fn send(&self, transport: &Transport, policy: RetryPolicy) -> Result<IssuedToken, Error> {
        let scopes = self.scopes.texts(self.first);
        let end = Instant::now() + policy.timeout;
        if let Credential::Identity { token, .. } = self.credential {
            let mut form = format!(
                "grant_type=refresh_token&client_id=multiarch&refresh_token={}",
                encode(token.reveal())
            );
            if let Some(service) = &self.server.service {
                form.push_str(&format!("&service={}", encode(service)));
            }
            form.push_str(&format!("&scope={}", encode(&scopes.join(" "))));
            let headers = [("Content-Type", "application/x-www-form-urlencoded".to_string())];
            let wire =
                self.wire("POST", &self.server.realm, &headers, None, RequestBody::Bytes(form.as_bytes()));
            if let Some(issued) = retry(policy, || self.answer(transport, &wire, &[401, 404, 405], end))? {
                return Ok(issued);
            }
        }
        let mut url = self.server.realm.clone();
        if let Some(service) = &self.server.service {
            url = url.with("service", service);
        }
        for scope in &scopes {
            url = url.with("scope", scope);
        }
        let authorization = self.credential.basic();
        let wire =
            self.wire("GET", &url, &[], authorization.as_ref().map(Secret::reveal), RequestBody::Empty);
        let issued = retry(policy, || self.answer(transport, &wire, &[], end))?;
        issued.ok_or_else(|| Error::not_permitted(self.doing, "the token server issued no token"))
    }

    fn wire<'w>(
        &'w self,
        method: &'static str,
        url: &'w Url,
        headers: &'w [(&'static str, String)],
        authorization: Option<&'w str>,
        body: RequestBody<'w, 'static>,
    ) -> HttpRequest<'w, 'static> {
        HttpRequest {
            doing: self.doing,
            method,
            url,
            headers,
            authorization,
            body,
            address_policy: self.address_policy,
        }
    }

    /// `None`: a status of `declined`. A redirect is no answer: it could lead the credentials anywhere.
    fn answer(
        &self,
        transport: &Transport,
        wire: &HttpRequest<'_, '_>,
        declined: &[u16],
        end: Instant,
    ) -> Result<Option<IssuedToken>, RequestFailure> {
        let answer = api_error::check_transient(self.doing, transport.send(wire)?)?;
        match answer.status {
            status if declined.contains(&status) => Ok(None),
            200 => {
                let (_, body) = answer.read(self.doing, ANSWER_MAX, end)?;
                let wrong = |why: &str| {
                    let why = format!("{}: {why}", wire.url.host_and_port());
                    RequestFailure::permanent(Error::not_permitted(self.doing, why))
                };
                read(&body).map(Some).map_err(wrong)
            }
            _ => {
                let mut answer = answer;
                answer.auth_hint = self.auth_hint.map(str::to_string);
                let mut error = api_error::from_response(self.doing, answer);
                if error.kind == Exit::NotFound || error.kind == Exit::Network {
                    error.kind = Exit::NotPermitted;
                }
                Err(RequestFailure::permanent(error))
            }
        }
    }
}

/// `{"token": .., "access_token": .., "expires_in": seconds}`. `issued_at` is by the server's clock, which may be
/// wrong, as may ours: a life begins when the answer arrives.
fn read(body: &[u8]) -> Result<IssuedToken, &'static str> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|_| "the response of the token server is not valid JSON")?;
    let text = |key: &str| value.get(key).and_then(|token| token.as_str()).filter(|token| !token.is_empty());
    let token = text("token")
        .or_else(|| text("access_token"))
        .ok_or("the response of the token server has no token")?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token contains characters that are not allowed in a header");
    }
    let life = value.get("expires_in").and_then(|life| life.as_f64()).unwrap_or(0.0);
    // A cast of a float stops at the ends; what is no number is 0.
    let life = (life as u64).clamp(LIFE_MIN, LIFE_MAX);
    Ok(IssuedToken { token: Secret::new(token), life: Duration::from_secs(life) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_as_long_as_it_says_within_reason() {
        let check = |body: &str, token: &str, life: u64| {
            let issued = read(body.as_bytes()).unwrap();
            assert_eq!((issued.token.reveal(), issued.life.as_secs()), (token, life), "{body}");
        };
        check(r#"{"token":"t","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}"#, "t", 300);
        check(r#"{"access_token":"a"}"#, "a", 60);
        check(r#"{"token":"","access_token":"a","expires_in":0}"#, "a", 60);
        check(r#"{"token":"t","access_token":"a","expires_in":-5}"#, "t", 60);
        check(r#"{"token":"t","expires_in":1e18}"#, "t", LIFE_MAX);
        check(r#"{"token":"t","expires_in":"soon"}"#, "t", 60);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (body, why) in [
            ("<html>", "not valid JSON"),
            ("{}", "no token"),
            (r#"{"token":7}"#, "no token"),
            (r#"{"token":"a\r\nX: y"}"#, "characters"),
            ("[]", "no token"),
        ] {
            assert!(read(body.as_bytes()).unwrap_err().contains(why), "{body}");
        }
    }

    #[test]
    fn a_realm_must_be_fit_for_credentials() {
        let check = |registry: &str, realm: &str, meant: &str| {
            let challenge = &crate::auth::challenge::parse(&format!("Bearer {realm}"))[0];
            let registry = Url::parse(registry).unwrap();
            let shown = match TokenServer::of(challenge, &registry) {
                Ok(server) => format!(
                    "{} {}",
                    server.realm,
                    server.may_have_credentials_of(&registry, &["named.test".into()])
                ),
                Err(why) => why,
            };
            assert!(shown.contains(meant), "{realm}: {shown}");
        };
        check(
            "https://registry-1.docker.io",
            r#"realm="https://auth.docker.io/token""#,
            "auth.docker.io/token true",
        );
        check("https://r.example", r#"realm="https://evil.test/token""#, "evil.test/token false");
        check("https://r.example", r#"realm="https://named.test/token""#, "named.test/token true");
        check("https://r.example", r#"realm="https://a.named.test/token""#, "a.named.test/token false");
        check("https://r.example", r#"realm="http://r.example/token""#, "without TLS");
        check("http://127.0.0.1:5000", r#"realm="http://127.0.0.1:5001/t""#, "true");
        check("http://127.0.0.1:5000", r#"realm="http://127.0.0.2:5001/t""#, "false");
        check("https://r.example", r#"realm="file:///etc/passwd""#, "not an http");
        check("https://r.example", r#"realm="https://u:p@r.example/""#, "user name");
        check("https://r.example", r#"realm="https://r.example/#x""#, "fragment");
        check("https://r.example", r#"service="x""#, "has no realm");
    }
}
