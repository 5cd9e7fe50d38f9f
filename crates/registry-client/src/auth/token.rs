//! Requests for tokens to the server of a Bearer challenge (distribution's token specification, OAuth 2).

use crate::api_error;
use crate::auth::challenge::Challenge;
use crate::auth::scope::Scopes;
use crate::credentials::credential::Credential;
use crate::http::address::{AddressPolicy, shares_domain};
use crate::http::transport::{HttpRequest, RequestBody, Transport};
use crate::http::url::{Url, encode};
use crate::retry::{RequestFailure, RetryPolicy, retry};
use crate::secret::Secret;
use error::Error;
use error::Exit;
use std::time::{Duration, Instant};

/// Maximum size of a token response, in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// Lifetime of a token without `expires_in`, and the minimum, in seconds: distribution's token specification.
const LIFETIME_MIN: u64 = 60;
const LIFETIME_MAX: u64 = 24 * 60 * 60;

/// A token server, as a challenge names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenServer {
    pub realm: Url,
    pub service: Option<String>,
}

impl TokenServer {
    /// Reads realm and service of a challenge. The error is a reason for [`Error`].
    pub fn of(challenge: &Challenge, registry: &Url) -> Result<Self, String> {
        let realm = challenge.param("realm").ok_or("its WWW-Authenticate header has no realm")?;
        let realm = Url::parse(realm)
            .map_err(|reason| format!("the realm in its WWW-Authenticate header is invalid: {reason}"))?;
        if registry.is_tls() && !realm.is_tls() {
            return Err(format!("its token server {realm} would receive credentials without TLS"));
        }
        Ok(Self { realm, service: challenge.param("service").map(str::to_string) })
    }

    /// Returns whether the server receives the credentials of `registry`: it is in the same domain, or one of the hosts
    /// that the user trusts.
    pub fn accepts_credentials_of(&self, registry: &Url, trusted: &[String]) -> bool {
        let realm = self.realm.host();
        shares_domain(registry.host(), realm) || trusted.iter().any(|host| host.eq_ignore_ascii_case(realm))
    }
}

/// A request for a token.
pub struct TokenRequest<'a> {
    pub action: &'a str,
    pub server: &'a TokenServer,
    pub address_policy: AddressPolicy,
    pub credential: &'a Credential,
    /// The hint of the error if the server refuses the credential.
    pub auth_hint: Option<&'a str>,
    /// The scopes to send first.
    pub first: &'a Scopes,
    /// All scopes.
    pub scopes: &'a Scopes,
}

/// A token with its remaining lifetime.
#[derive(Debug, PartialEq, Eq)]
pub struct IssuedToken {
    pub token: Secret,
    pub lifetime: Duration,
}

impl TokenRequest<'_> {
    /// Requests a token. An identity token is exchanged with POST (OAuth 2); servers without it get it as a password.
    ///
    /// # Errors
    /// `NotPermitted` if the server refuses, `Network` if it cannot be reached.
    pub fn send(&self, transport: &Transport, policy: RetryPolicy) -> Result<IssuedToken, Error> {
        let scopes = self.scopes.to_strings(self.first);
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
            let request =
                self.request("POST", &self.server.realm, &headers, None, RequestBody::Bytes(form.as_bytes()));
            if let Some(issued) = retry(policy, || self.response(transport, &request, &[401, 404, 405], end))?
            {
                return Ok(issued);
            }
        }
        let mut url = self.server.realm.clone();
        if let Some(service) = &self.server.service {
            url = url.with_query("service", service);
        }
        for scope in &scopes {
            url = url.with_query("scope", scope);
        }
        let authorization = self.credential.basic();
        let request =
            self.request("GET", &url, &[], authorization.as_ref().map(Secret::reveal), RequestBody::Empty);
        let issued = retry(policy, || self.response(transport, &request, &[], end))?;
        issued.ok_or_else(|| Error::not_permitted(self.action, "the token server issued no token"))
    }

    fn request<'w>(
        &'w self,
        method: &'static str,
        url: &'w Url,
        headers: &'w [(&'static str, String)],
        authorization: Option<&'w str>,
        body: RequestBody<'w, 'static>,
    ) -> HttpRequest<'w, 'static> {
        HttpRequest {
            action: self.action,
            method,
            url,
            headers,
            authorization,
            body,
            response_size: 0,
            address_policy: self.address_policy,
        }
    }

    /// Sends the request; `None` if the status is in `declined`. Redirects are not followed: they could lead the
    /// credentials to any host.
    fn response(
        &self,
        transport: &Transport,
        request: &HttpRequest<'_, '_>,
        declined: &[u16],
        end: Instant,
    ) -> Result<Option<IssuedToken>, RequestFailure> {
        let response = api_error::check_transient(self.action, transport.send(request)?)?;
        match response.status {
            status if declined.contains(&status) => Ok(None),
            200 => {
                let (_, body) = response.read(self.action, ANSWER_MAX, end)?;
                let wrong = |reason: &str| {
                    let reason = format!("{}: {reason}", request.url.host_and_port());
                    RequestFailure::permanent(Error::not_permitted(self.action, reason))
                };
                read(&body).map(Some).map_err(wrong)
            }
            _ => {
                let mut response = response;
                response.auth_hint = self.auth_hint.map(str::to_string);
                let mut error = api_error::from_response(self.action, response);
                if error.kind == Exit::NotFound || error.kind == Exit::Network {
                    error.kind = Exit::NotPermitted;
                }
                Err(RequestFailure::permanent(error))
            }
        }
    }
}

/// Parses `{"token": .., "access_token": .., "expires_in": seconds}`. `issued_at` is ignored because clocks may be wrong:
/// the lifetime starts when the response arrives.
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
    let seconds = value.get("expires_in").and_then(|seconds| seconds.as_f64()).unwrap_or(0.0);
    // A cast from a float saturates; NaN becomes 0.
    let seconds = (seconds as u64).clamp(LIFETIME_MIN, LIFETIME_MAX);
    Ok(IssuedToken { token: Secret::new(token), lifetime: Duration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifetime_of_a_token_is_limited() {
        let check = |body: &str, token: &str, life: u64| {
            let issued = read(body.as_bytes()).unwrap();
            assert_eq!((issued.token.reveal(), issued.lifetime.as_secs()), (token, life), "{body}");
        };
        check(r#"{"token":"t","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}"#, "t", 300);
        check(r#"{"access_token":"a"}"#, "a", 60);
        check(r#"{"token":"","access_token":"a","expires_in":0}"#, "a", 60);
        check(r#"{"token":"t","access_token":"a","expires_in":-5}"#, "t", 60);
        check(r#"{"token":"t","expires_in":1e18}"#, "t", LIFETIME_MAX);
        check(r#"{"token":"t","expires_in":"soon"}"#, "t", 60);
    }

    #[test]
    fn invalid_token_responses_are_refused() {
        for (body, reason) in [
            ("<html>", "not valid JSON"),
            ("{}", "no token"),
            (r#"{"token":7}"#, "no token"),
            (r#"{"token":"a\r\nX: y"}"#, "characters"),
            ("[]", "no token"),
        ] {
            assert!(read(body.as_bytes()).unwrap_err().contains(reason), "{body}");
        }
    }

    #[test]
    fn a_realm_must_be_safe_for_credentials() {
        let check = |registry: &str, realm: &str, meant: &str| {
            let challenge = &crate::auth::challenge::parse(&format!("Bearer {realm}"))[0];
            let registry = Url::parse(registry).unwrap();
            let shown = match TokenServer::of(challenge, &registry) {
                Ok(server) => format!(
                    "{} {}",
                    server.realm,
                    server.accepts_credentials_of(&registry, &["named.test".into()])
                ),
                Err(reason) => reason,
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
